package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/embassy"
)

type admittedJSON struct {
	State string `json:"state"`
}

func embassyAdmit(u *ui) *cobra.Command {
	var dir, paper, state string
	c := &cobra.Command{
		Use: "admit", Short: "Let a state in under an agreement that both signed, at the host", Args: cobra.NoArgs,
		Long: "Adds a state, or a house of one that is there, to an embassy's folder while it does not serve. The agreement and its\n" +
			"signatures (AGREEMENT.sig) must be signed by the state and by the host and be about this embassy, and the disk must\n" +
			"have the room that all agreements together grant. Amendments come over the network afterwards. An embassy\n" +
			"that serves its state without an agreement, as earlier ones do, comes under its first one so.",
		Example: "  chancery embassy admit --dir E --agreement lu.yaml --state charter.yaml",
	}
	c.Flags().StringVar(&dir, "dir", "", "the embassy's folder")
	c.Flags().StringVar(&paper, "agreement", "", "the agreement")
	c.Flags().StringVar(&state, "state", "", "the state's charter")
	required(c, "dir", "agreement", "state")
	c.RunE = func(*cobra.Command, []string) error {
		a := embassy.Admission{Now: time.Now()}
		var err error
		if a.Charter, a.CharterSigs, err = signedFile(state); err != nil {
			return err
		}
		if a.Agreement, a.AgreementSigs, err = signedFile(paper); err != nil {
			return err
		}
		id, err := embassy.Admit(dir, a)
		if err != nil {
			return err
		}
		return u.answer(admittedJSON{id.String()}, func(w io.Writer) {
			fmt.Fprintf(w, "State %s is admitted. Serve it: chancery embassy serve --dir %s --listen HOST:PORT\n", id, dir)
		})
	}
	return c
}

// signedFile reads a document and the signatures beside it.
func signedFile(path string) (doc, sigs []byte, err error) {
	if doc, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	if sigs, err = os.ReadFile(path + ".sig"); err != nil {
		return nil, nil, hinted(err, "its signatures belong beside it: "+path+".sig")
	}
	return doc, sigs, nil
}
