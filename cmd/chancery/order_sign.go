package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/order"
)

func orderSign(u *ui) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "sign FILE", Short: "Sign an order", Args: cobra.ExactArgs(1),
		Long: "Adds your signature to FILE.sig. It is over the exact bytes of the order, so read it first: an order has one text, and\n" +
			"nothing stands in it but what counts. A key that this program cannot use itself is handed to ssh-keygen: a hardware\n" +
			"key, one in ssh-agent (name its public half), one with a passphrase. Without this program:\n\n  " + orderLine("order.yaml"),
		Example: "  chancery order sign HOME/orders/hold-3f2a90b1.yaml --key mari --charter charter.yaml",
	}
	state := chosenCharter(c)
	c.Flags().StringVar(&key, "key", "", "your SSH key file")
	required(c, "key")
	c.RunE = func(c *cobra.Command, args []string) error {
		path := args[0]
		o, old, err := readOrder(path)
		if err != nil {
			return err
		}
		ch, err := state(false)
		if err != nil {
			return err
		}
		sig, err := signWith(c.Context(), key, order.Namespace, o.Bytes())
		if err != nil {
			return err
		}
		sigs, err := addToOrder(o, old, sig, ch)
		if err != nil {
			return orderRefused(err, path)
		}
		if !bytes.Equal(sigs, old) {
			if err := durable.WriteFile(path+".sig", sigs, 0o644); err != nil {
				return err
			}
		}
		x, _ := orderAnswer(path, o, sigs, ch, time.Now())
		return u.answer(x, func(w io.Writer) {
			if bytes.Equal(sigs, old) {
				fmt.Fprintf(w, "This signature is in %s.sig already.\n", path)
			} else {
				fmt.Fprintf(w, "Your signature is in %s.sig.\n", path)
			}
			if x.Judged {
				x.printRule(w)
			}
		})
	}
	return c
}

// addToOrder puts a signature behind others. With a charter, one that is nobody's of it is refused, and one of a person
// who has signed already adds nothing.
func addToOrder(o *order.Order, old, sig []byte, ch *charter.Charter) ([]byte, error) {
	if bytes.Contains(old, bytes.TrimSpace(sig)) {
		return old, nil
	}
	sigs := slices.Clone(old)
	if len(sigs) > 0 && !bytes.HasSuffix(sigs, []byte("\n")) {
		sigs = append(sigs, '\n')
	}
	sigs = append(sigs, sig...)
	if ch == nil {
		return sigs, nil
	}
	everyone := votersOf(ch)
	own, err := charter.Tally(o.Bytes(), sig, order.Namespace, everyone, false)
	if err != nil {
		return nil, err
	}
	if len(own) == 0 {
		return nil, &failure{
			err:  fmt.Errorf("this key is nobody's in charter %d", ch.Number),
			code: exitRefused, hint: "name the key that the charter has of you: chancery charter show",
		}
	}
	before, err := charter.Tally(o.Bytes(), old, order.Namespace, everyone, false)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(before, func(v charter.Vote) bool { return v.Key == own[0].Key }) {
		return old, nil
	}
	return sigs, nil
}

// votersOf are all people of a charter.
func votersOf(c *charter.Charter) (all []charter.Voter) {
	for _, p := range c.Everyone() {
		all = append(all, charter.Voter{Name: p.Name, Keys: p.Keys})
	}
	return all
}
