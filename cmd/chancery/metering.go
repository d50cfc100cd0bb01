package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/big"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
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
	// Where agreements were named: the number of the one that governs at the end, and what all of them make of it.
	Agreement  uint64        `json:"agreement,omitempty"`
	Agreements []chargedJSON `json:"agreements,omitempty"`
	Currency   string        `json:"currency,omitempty"`
	Cost       *uint64       `json:"cost,omitempty"`
	Whole      bool          `json:"whole"`
	verdict    *ledgerJSON
	logged     map[uint64]loggedAgreement // by number
	parts      func() []ledger.Part       // of the month, where agreements cut it
}

func meteringCommand(u *ui) *cobra.Command {
	var f ledgerFlags
	var period string
	var papers []string
	c := &cobra.Command{
		Use: "metering", Short: "Compute what embassies stored in a month, out of their ledgers", Args: cobra.NoArgs,
		Long: "Reads and verifies every entry of the ledgers and computes from these alone what each embassy kept, took in and\n" +
			"removed in a month (UTC). Home, host and an auditor come to the same numbers from the same ledger, also from a copy\n" +
			"of it (chancery ledger copy). With the agreement of one embassy, and its signatures beside it (FILE.sig), it adds what\n" +
			"that costs, in hundredths of its currency: if the ledger holds that agreement, as both signed it, and else it is\n" +
			"refused (exit 5). Where an amendment came into force within the month, name both: each part of the month is charged by\n" +
			"the agreement that governed it. A month that is not over is counted up to the ledger's newest entry.",
		Example: "  chancery metering --period 2026-11 --home HOME\n" +
			"  chancery metering --period 2026-11 --embassy lu --from COPY --charter charter.yaml --agreement lu.yaml\n" +
			"  chancery metering --period 2026-11 --embassy lu --home HOME --agreement lu.yaml --agreement lu-amended.yaml",
	}
	f.declare(c, "the embassy that is metered; default: all")
	c.Flags().StringVar(&f.from, "from", "", "a folder of ledger files, or of one such folder for each embassy")
	c.Flags().StringVar(&period, "period", "", "the month, such as 2026-11")
	c.Flags().StringArrayVar(&papers, "agreement", nil, "with --embassy: its agreement, for the cost; again for each that governed")
	required(c, "period")
	c.RunE = func(c *cobra.Command, _ []string) error {
		from, err := time.Parse("2006-01", period)
		if err != nil || from.Format("2006-01") != period {
			return usageError(c, fmt.Errorf("--period: %q is no month such as 2026-11", period))
		}
		if len(papers) > 0 && f.embassy == "" {
			return usageError(c, fmt.Errorf("--agreement: say with --embassy whose it is"))
		}
		signed, err := readAllSigned(papers)
		if err != nil {
			return err
		}
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		var list []meteringJSON
		var found []*ledgerJSON
		for _, e := range l.list {
			m, err := l.meter(c.Context(), e, period, from, signed)
			if err != nil {
				return err
			}
			if err := m.charge(signed); err != nil {
				return err
			}
			list, found = append(list, m), append(found, m.verdict)
		}
		return u.meteringAnswer(list, found)
	}
	return c
}

// meter computes one embassy's usage while its ledger is verified, the parts apart that its agreements govern.
func (l *ledgers) meter(
	ctx context.Context, e charter.Embassy, period string, from time.Time, signed map[uint64]*signedAgreement,
) (meteringJSON, error) {
	to := from.AddDate(0, 1, 0)
	meter, newest, logged := ledger.NewMeter(from, to), time.Time{}, map[uint64]loggedAgreement{}
	r, err := l.verifyOne(ctx, e, nil, func(_ uint64, leaf *ledger.Leaf) {
		meter.Leaf(leaf)
		if leaf.Kind == ledger.RecordStored && leaf.Slot.Kind == ledger.AgreementRecord {
			if _, again := logged[leaf.Slot.Sequence]; !again { // of several leaves the first counts
				x := loggedAgreement{record: leaf.Name, taken: meter.At()}
				logged[leaf.Slot.Sequence] = x
				if a := signed[leaf.Slot.Sequence]; a != nil && a.Number > 1 { // the first governs from the beginning
					meter.Cut(x.begins(a))
				}
			}
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
		Size: r.Size, Root: r.Root, Whole: r.Whole, verdict: r, logged: logged, parts: func() []ledger.Part { return usage.Parts },
	}, nil
}

// capped is a number of 64 bits; nobody keeps so much that it is not the number itself.
func capped(n *big.Int) uint64 {
	if !n.IsUint64() {
		return math.MaxUint64
	}
	return n.Uint64()
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
		for _, m := range list {
			for _, x := range m.Agreements {
				if len(m.Agreements) > 1 {
					fmt.Fprintf(w, "%s: from %s agreement %d, %d byte-hours, %d.%02d %s\n",
						m.Embassy, x.From.Format(time.RFC3339), x.Agreement, x.ByteHours, x.Cost/100, x.Cost%100, x.Currency)
				}
			}
		}
	})
	if err != nil {
		return err
	}
	return worst(found)
}
