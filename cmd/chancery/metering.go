package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/big"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// meteringJSON is what one embassy did in a period, by its ledger.
type meteringJSON struct {
	Embassy   string    `json:"embassy"`
	Period    string    `json:"period"`
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	ByteHours uint64    `json:"byte_hours"`
	Objects   uint64    `json:"objects"`
	Held      uint64    `json:"bytes_held"`
	Stored    uint64    `json:"stored"`
	Taken     uint64    `json:"bytes_taken"`
	Removed   uint64    `json:"removed"`
	Freed     uint64    `json:"bytes_freed"`
	Size      uint64    `json:"ledger_size"`
	Root      string    `json:"ledger_root"`
	Agreement uint64    `json:"agreement,omitempty"` // its number, where it was named and the ledger holds it
	Currency  string    `json:"currency,omitempty"`
	Cost      *uint64   `json:"cost,omitempty"`
	Whole     bool      `json:"whole"`
	verdict   *ledgerJSON
	logged    map[uint64][32]byte // agreements, by number
}

func meteringCommand(u *ui) *cobra.Command {
	var f ledgerFlags
	var period, paper string
	c := &cobra.Command{
		Use: "metering", Short: "Compute what embassies stored in a month, out of their ledgers", Args: cobra.NoArgs,
		Long: "Reads and verifies every entry of the ledgers and computes from these alone what each embassy kept, took in and\n" +
			"removed in a month (UTC). Home, host and an auditor come to the same numbers from the same ledger, also from a copy\n" +
			"of it (chancery ledger copy). With the agreement of one embassy, and its signatures beside it (FILE.sig), it adds what\n" +
			"that costs, in hundredths of its currency: if the ledger holds that agreement, as both signed it, and else it is\n" +
			"refused (exit 5). A month that is not over is counted up to the ledger's newest entry.",
		Example: "  chancery metering --period 2026-11 --home HOME\n" +
			"  chancery metering --period 2026-11 --embassy lu --from COPY --charter charter.yaml --agreement lu.yaml",
	}
	f.declare(c, "the embassy that is metered; default: all")
	c.Flags().StringVar(&f.from, "from", "", "a folder of ledger files, or of one such folder for each embassy")
	c.Flags().StringVar(&period, "period", "", "the month, such as 2026-11")
	c.Flags().StringVar(&paper, "agreement", "", "with --embassy: its agreement, for the cost")
	required(c, "period")
	c.RunE = func(c *cobra.Command, _ []string) error {
		from, err := time.Parse("2006-01", period)
		if err != nil || from.Format("2006-01") != period {
			return usageError(c, fmt.Errorf("--period: %q is no month such as 2026-11", period))
		}
		var a *signedAgreement
		if paper != "" {
			if f.embassy == "" {
				return usageError(c, fmt.Errorf("--agreement: say with --embassy whose it is"))
			}
			if a, err = readSigned(paper); err != nil {
				return err
			}
		}
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		var list []meteringJSON
		var found []*ledgerJSON
		for _, e := range l.list {
			m, err := l.meter(c.Context(), e, period, from)
			if err != nil {
				return err
			}
			if a != nil {
				if err := a.inLedger(&m); err != nil {
					return err
				}
				m.charge(a.Agreement)
			}
			list, found = append(list, m), append(found, m.verdict)
		}
		return u.meteringAnswer(list, found)
	}
	return c
}

// meter computes one embassy's usage while its ledger is verified.
func (l *ledgers) meter(ctx context.Context, e charter.Embassy, period string, from time.Time) (meteringJSON, error) {
	to := from.AddDate(0, 1, 0)
	meter, newest, logged := ledger.NewMeter(from, to), time.Time{}, map[uint64][32]byte{}
	r, err := l.verifyOne(ctx, e, nil, func(_ uint64, leaf *ledger.Leaf) {
		meter.Leaf(leaf)
		if leaf.Kind == ledger.RecordStored && leaf.Slot.Kind == ledger.AgreementRecord {
			logged[leaf.Slot.Sequence] = leaf.Name
		}
		if at := time.Unix(0, leaf.Time); at.After(newest) {
			newest = at
		}
	})
	if err != nil {
		return meteringJSON{}, err
	}
	// Whatever the reader's clock says: the month is over when the ledger says so, or its witnesses.
	until := newest
	if r.Cosigned != nil && r.Cosigned.Time != nil && r.Cosigned.Time.After(until) {
		until = *r.Cosigned.Time
	}
	if until.After(to) {
		until = to
	}
	usage := meter.Usage(until)
	return meteringJSON{
		Embassy: e.Name, Period: period, From: from, Until: until.UTC().Truncate(time.Second), ByteHours: capped(usage.ByteHours),
		Objects: usage.Objects, Held: usage.Held, Stored: usage.Stored, Taken: usage.Taken, Removed: usage.Removed, Freed: usage.Freed,
		Size: r.Size, Root: r.Root, Whole: r.Whole, verdict: r, logged: logged,
	}, nil
}

// capped is a number of 64 bits; nobody keeps so much that it is not the number itself.
func capped(n *big.Int) uint64 {
	if !n.IsUint64() {
		return math.MaxUint64
	}
	return n.Uint64()
}

// signedAgreement is an agreement and the signatures of both, as embassies keep them.
type signedAgreement struct {
	*agreement.Agreement
	path   string
	record [32]byte // SHA-256 of the record that a ledger names
}

func readSigned(path string) (*signedAgreement, error) {
	doc, err := readCapped(path, order.MaxSize)
	if err != nil {
		return nil, err
	}
	sigs, err := readCapped(path+".sig", order.MaxSignatures)
	if err != nil {
		return nil, err
	}
	a, err := agreement.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	raw, err := order.NewRecord(doc, sigs).Bytes()
	return &signedAgreement{a, path, sha256.Sum256(raw)}, err
}

// inLedger refuses to charge by an agreement that is not the one which the embassy logged: what either side has on paper
// counts for nothing.
func (a *signedAgreement) inLedger(m *meteringJSON) error {
	name, ok := m.logged[a.Number]
	switch {
	case !ok:
		return &failure{
			err: fmt.Errorf("%s: the ledger of %s holds no agreement %d", a.path, m.Embassy, a.Number), code: exitRefused,
			hint: "take the agreement of that embassy, with its signatures beside it",
		}
	case name != a.record:
		return &failure{
			err: fmt.Errorf("%s: the ledger of %s holds another agreement %d, or other signatures of it", a.path, m.Embassy, a.Number), code: exitRefused,
			hint: "take the file that was admitted at that embassy, and its signatures as they were then",
		}
	}
	m.Agreement = a.Number
	return nil
}

// charge adds what the agreement makes of it, rounded down.
func (m *meteringJSON) charge(a *agreement.Agreement) {
	const terabyteMonth = 1_000_000_000_000 * 24 * 30
	cost, months := new(big.Int), map[string]int64{"month": 1, "quarter": 3, "year": 12}[a.Cost.Period]
	if a.Cost.Basis == "use" {
		cost.SetUint64(a.Cost.PricePerTBMonth).Mul(cost, new(big.Int).SetUint64(m.ByteHours)).Quo(cost, big.NewInt(terabyteMonth))
	} else {
		cost.SetUint64(a.Cost.FixedPerPeriod).Quo(cost, big.NewInt(max(1, months)))
	}
	sum := capped(cost)
	m.Currency, m.Cost = a.Cost.Currency, &sum
}

func (u *ui) meteringAnswer(list []meteringJSON, found []*ledgerJSON) error {
	err := u.answer(list, func(w io.Writer) {
		var rows [][]string
		for _, m := range list {
			cost := ""
			if m.Cost != nil {
				cost = fmt.Sprintf("%d.%02d %s", *m.Cost/100, *m.Cost%100, m.Currency)
			}
			rows = append(rows, []string{
				m.Embassy, m.Period, fmt.Sprint(m.ByteHours), fmt.Sprint(m.Held), fmt.Sprint(m.Taken), fmt.Sprint(m.Freed), fmt.Sprint(m.Size), cost,
			})
		}
		table(w, "EMBASSY PERIOD BYTE-HOURS HELD TAKEN FREED LEDGER COST", rows)
	})
	if err != nil {
		return err
	}
	return worst(found)
}
