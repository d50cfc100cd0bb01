package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
)

func agreementSubmit(u *ui) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "submit FILE", Short: "Give an embassy an amendment that both sides signed", Args: cobra.ExactArgs(1),
		Long: "The first agreement is taken at the host by its operator (embassy admit), who answers for it. From then on an amendment\n" +
			"needs both sides again and nobody's hand at the host. It counts from its day on, and stands in the embassy's ledger.",
		Example: "  chancery agreement submit agreement-2.yaml --embassy lu --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "embassy", "", "the embassy that it is about (default: as it says itself)")
	c.RunE = func(c *cobra.Command, args []string) error {
		doc, sig, err := signedFile(args[0])
		if err != nil {
			return err
		}
		x, err := agreement.Parse(doc)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		if name == "" {
			name = x.Embassy.Name
		}
		e, err := accredited(conn.home.Charter, name)
		if err != nil {
			return err
		}
		if got := charter.Fingerprint(e.PublicKey()); got != x.Embassy.Key {
			return &failure{
				err: fmt.Errorf("%s: is about the embassy with key %s, and %s has %s", args[0], x.Embassy.Key, name, got), code: exitRefused,
				hint: "chancery embassy list --home HOME",
			}
		}
		if err := conn.client(e).PutAgreement(c.Context(), doc, sig); err != nil {
			return err
		}
		now := time.Now()
		return u.answer(agreementAnswer(x, now), func(w io.Writer) {
			fmt.Fprintf(w, "%s has agreement %d: %s.\n", name, x.Number, x.PhaseAt(now))
		})
	}
	return c
}
