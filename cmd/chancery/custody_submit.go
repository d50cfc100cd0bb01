package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// attestSubmitJSON is the answer of custody attest submit.
type attestSubmitJSON struct {
	Generation uint32     `json:"generation"`
	Custodians []string   `json:"custodians"` // whose attestations were brought
	Embassies  []string   `json:"embassies"`  // that have them in their ledgers
	Down       []downJSON `json:"embassies_down,omitempty"`
	Final      bool       `json:"final"` // these alone are enough: fewer shares than the quorum can remain
}

func attestSubmit(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "submit FILE...", Short: "Have embassies log attestations", Args: cobra.MinimumNArgs(1),
		Long: "Checks attestations with the signatures beside them (FILE.sig) as custody attest check does, and brings them to all\n" +
			"embassies, which check whose word they are and enter them into their ledgers: from there a certificate of erasure is\n" +
			"made (chancery custody certificate). What is logged already does no harm. Exit 3 when an embassy could not be told.",
		Example: "  chancery custody attest submit --home HOME mari.attest jaan.attest anna.attest",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		var g generations
		if err := g.ofHome(conn.home, args[0]); err != nil {
			return err
		}
		checked, words, err := g.attested(args)
		if err != nil {
			return err
		}
		a := attestSubmitJSON{Generation: checked.Generation, Custodians: []string{}, Embassies: []string{}, Final: checked.Final}
		for _, x := range words {
			a.Custodians = append(a.Custodians, x.Custodian)
		}
		for _, e := range conn.home.Charter.Embassies {
			if _, was := g.old.EmbassyByID(e.ID); !was {
				continue // it never knew that generation, nor held anything of it
			}
			if err := conn.log(c.Context(), e, words); err != nil {
				if c.Context().Err() != nil {
					return context.Cause(c.Context())
				}
				a.Down = append(a.Down, downJSON{e.Name, err.Error()})
				continue
			}
			a.Embassies = append(a.Embassies, e.Name)
		}
		if err := u.answer(a, a.print); err != nil {
			return err
		}
		if len(a.Down) > 0 {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// log stores attestations at an embassy and takes its receipts for them.
func (c *connection) log(ctx context.Context, e charter.Embassy, words []*word) error {
	var slots []ledger.Slot
	for _, x := range words {
		raw, err := order.NewRecord(x.text, x.sig).Bytes()
		if err != nil {
			return err
		}
		slot := ledger.Slot{Kind: ledger.AttestationRecord, Sequence: uint64(x.Generation)*256 + uint64(x.X)}
		had, err := c.client(e).ListRecords(ctx, slot.Kind, slot.Register, slot.Sequence-1)
		if err != nil {
			return err
		}
		// Another text of the same custodian may stand there: one word for a share is enough.
		if !slices.ContainsFunc(had, func(r ledger.RecordInfo) bool { return r.Slot == slot }) {
			if err := c.client(e).PutRecord(ctx, slot, raw); err != nil {
				return err
			}
		}
		slots = append(slots, slot)
	}
	_, err := c.client(e).Receipts(ctx, nil, slots)
	return err
}

func (a *attestSubmitJSON) print(w io.Writer) {
	fmt.Fprintf(w, "Generation %d: the attestations of %s are logged at %s.\n", a.Generation, strings.Join(a.Custodians, ", "), strings.Join(a.Embassies, ", "))
	for _, d := range a.Down {
		fmt.Fprintf(w, "%s is still to be told: %s.\n", d.Embassy, printable(d.Why))
	}
}
