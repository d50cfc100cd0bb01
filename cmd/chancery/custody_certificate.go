package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

// certificateJSON is the answer of custody certificate.
type certificateJSON struct {
	State       string              `json:"state"`
	Register    string              `json:"register"`
	ID          string              `json:"id"`
	Certified   bool                `json:"certified"`      // all of it is proven; else finding says what is not known
	File        string              `json:"file,omitempty"` // the certificate, where it was written
	SHA256      string              `json:"sha256,omitempty"`
	Bytes       int64               `json:"bytes,omitempty"`
	Charter     string              `json:"charter_hash"` // of home's newest, on which it rests
	Attested    []evidence.Attested `json:"attestations"`
	Orders      []evidence.Ordering `json:"orders"` // that erase the register
	Finding     evidence.Finding    `json:"finding"`
	Down        []downJSON          `json:"embassies_down,omitempty"`
	stateNumber uint64
}

func custodyCertificate(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "certificate REGISTER", Short: "Certify that a register is erased for good", Args: cobra.ExactArgs(1),
		Long: "Collects into one file what proves the erasure of a register: the charters, the register's records, the order to\n" +
			"erase it and what each embassy did of it, the custodians' attestations, and the whole ledgers that hold them, without\n" +
			"the documents of other registers. It is an evidence file, and anyone checks it offline, with no key: chancery evidence\n" +
			"verify FILE --charter charter.yaml. Where anything is missing nothing is written, what is missing is listed, and the\n" +
			"exit code is 3. A register whose readers hold its key is not certified.",
		Example: "  chancery custody certificate tax --out tax.evidence --home HOME",
	}
	dir := homeFlag(c)
	out := outFlag(c, "the file to write")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		r, err := conn.home.Register(args[0])
		if err != nil {
			return err
		}
		p, down, err := conn.erasureOf(c.Context(), args[0], r)
		if err != nil {
			return err
		}
		a, err := certificateOf(p, conn.home.Charter, args[0], r.Record.ID)
		if err != nil {
			return err
		}
		if a.Down = down; a.Certified {
			a.File = *out
			if a.SHA256, a.Bytes, err = writeFile(*out, func(w io.Writer) error { return evidence.Write(w, p) }); err != nil {
				return err
			}
		}
		if err := u.answer(a, a.print); err != nil {
			return err
		}
		if !a.Certified {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// erasureOf collects what shows the erasure of a register, and nothing of others but their leaves.
func (c *connection) erasureOf(ctx context.Context, name string, r *home.Register) (*evidence.Pack, []downJSON, error) {
	x := &collector{connection: c, certified: true}
	p, down, err := x.collect(ctx, []string{name}, nil)
	if err != nil {
		return nil, nil, err
	}
	p.Records = slices.DeleteFunc(p.Records, func(r evidence.Record) bool {
		switch r.Kind {
		case ledger.Register, ledger.OrderRecord, ledger.VetoRecord, ledger.ResultRecord, ledger.AttestationRecord:
			return false
		}
		return true
	})
	records, err := r.Records() // embassies removed theirs with the register
	if err != nil {
		return nil, nil, err
	}
	for _, rec := range records {
		raw, err := rec.Marshal()
		if err != nil {
			return nil, nil, err
		}
		p.Records = append(p.Records, evidence.Record{Kind: ledger.Register, Data: raw})
	}
	return p, down, nil
}

// certificateOf judges what was collected, as whoever is handed the file will.
func certificateOf(p *evidence.Pack, ch *charter.Charter, name string, id charter.RegisterID) (*certificateJSON, error) {
	v, err := evidence.Judge(p, []evidence.Claim{{Kind: evidence.Erased, Register: [16]byte(id)}}, ch)
	if err != nil {
		return nil, err
	}
	a := &certificateJSON{
		State: v.StateName, Register: name, ID: id.String(), Finding: v.Findings[0], Charter: charter.EncodeDigest(ch.Hash()),
		Attested: v.Attested, Orders: []evidence.Ordering{}, stateNumber: ch.Number,
	}
	a.Certified = a.Finding.Outcome == evidence.Held
	for _, o := range v.Orders {
		if o.Kind == string(charter.ActErase) && strings.Contains(o.Says, a.ID) {
			a.Orders = append(a.Orders, o)
		}
	}
	if a.Attested == nil {
		a.Attested = []evidence.Attested{}
	}
	return a, nil
}

func (a *certificateJSON) print(w io.Writer) {
	title := "Certificate of erasure"
	if !a.Certified {
		title = "No certificate of erasure"
	}
	fmt.Fprintf(w, "%s\n\n%s: register %s (%s). It rests on charter %d, SHA-256 %s.\n\n", title, printable(a.State), printable(a.Register), a.ID, a.stateNumber, a.Charter)
	for _, o := range a.Orders {
		var names []string
		for _, s := range o.Signed {
			names = append(names, s.Name)
		}
		fmt.Fprintf(w, "Order %s, signed by %s: %s\n", o.Order, strings.Join(names, ", "), printable(o.Reason))
		for _, at := range o.At {
			fmt.Fprintf(w, "  embassy %s, leaf %d: %s\n", at.Embassy, at.Leaf, printable(at.Result))
		}
	}
	for _, x := range a.Attested {
		fmt.Fprintf(w, "Share %d of generation %d of the opening key: destroyed by %s on %s, %s\n", x.Share, x.Generation, x.Custodian, x.Destroyed, printable(x.How))
		for _, p := range x.Leaves {
			fmt.Fprintf(w, "  embassy %s, leaf %d\n", p.Embassy, p.Leaf)
		}
	}
	for _, line := range a.Finding.Because {
		fmt.Fprintf(w, "%s\n", printable(line))
	}
	for _, line := range a.Finding.Open {
		fmt.Fprintf(w, "not known: %s\n", printable(line))
	}
	if a.Certified {
		fmt.Fprintf(w, "\n%s, %s\nSHA-256 %s\nAnyone checks it offline: chancery evidence verify %s --charter charter.yaml --claim %s\n", a.File, size(a.Bytes), a.SHA256, a.File, a.Finding.Claim)
	}
}
