package main

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// An agreement governs from its first day, and not before it was logged, until one of a higher number does. Every part is
// charged by its own, and nothing where one that may govern is not named.
func TestEachPartOfAMonthIsChargedByWhatGovernedIt(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	paper := func(n uint64, first charter.Date, fixed uint64, currency string) *signedAgreement {
		a := agreement.Agreement{Number: n, InForce: agreement.Term{From: first}}
		a.Cost = agreement.Cost{Basis: "fixed", Currency: currency, FixedPerPeriod: fixed, Period: "month"}
		return &signedAgreement{Agreement: &a, record: [32]byte{byte(n)}}
	}
	long := day(1).AddDate(-1, 0, 0)
	first := paper(1, "2025-01-01", 3000, "EUR")
	use := paper(2, "2026-11-01", 0, "EUR")
	use.Cost.Basis, use.Cost.PricePerTBMonth = "use", 1_000_000_000_000*24*30/1000
	for _, x := range []struct {
		name   string
		taken  []time.Time // of agreement 1, 2, …
		papers []*signedAgreement
		want   []chargedJSON // until, byte hours and currency aside
		cost   uint64
		refuse bool
	}{
		{
			name: "one, taken within the month", taken: []time.Time{day(20)}, papers: []*signedAgreement{paper(1, "2026-11-19", 3000, "EUR")},
			want: []chargedJSON{{Agreement: 1, From: day(1), Cost: 3000}}, cost: 3000,
		},
		{
			name: "signed early", taken: []time.Time{long, day(2)},
			papers: []*signedAgreement{first, paper(2, "2026-11-11", 30000, "EUR")},
			want:   []chargedJSON{{Agreement: 1, From: day(1), Cost: 1000}, {Agreement: 2, From: day(11), Cost: 20000}}, cost: 21000,
		},
		{
			name: "by use from its entry on", taken: []time.Time{long, day(21)},
			papers: []*signedAgreement{first, use},
			want:   []chargedJSON{{Agreement: 1, From: day(1), Cost: 2000}, {Agreement: 2, From: day(21), Cost: 7 * 240 * 1 / 1000}}, cost: 2001,
		},
		{
			name: "a later one whose day comes first", taken: []time.Time{long, day(2), day(6)}, papers: []*signedAgreement{
				first, paper(2, "2026-11-21", 9000, "EUR"), paper(3, "2025-01-01", 6000, "EUR"),
			},
			want: []chargedJSON{{Agreement: 1, From: day(1), Cost: 500}, {Agreement: 3, From: day(6), Cost: 5000}}, cost: 5500,
		},
		{
			name: "the first was over before, and is not asked for", taken: []time.Time{long, day(1).AddDate(0, -1, 0)},
			papers: []*signedAgreement{paper(2, "2026-10-31", 3000, "EUR")}, want: []chargedJSON{{Agreement: 2, From: day(1), Cost: 3000}}, cost: 3000,
		},
		{
			name: "one that comes after the month is not asked for", taken: []time.Time{long, day(1).AddDate(0, 1, 0)},
			papers: []*signedAgreement{first}, want: []chargedJSON{{Agreement: 1, From: day(1), Cost: 3000}}, cost: 3000,
		},
		{name: "an amendment is not named", taken: []time.Time{long, day(30)}, papers: []*signedAgreement{first}, refuse: true},
		{
			name: "the one before is not named", taken: []time.Time{long, day(30)},
			papers: []*signedAgreement{paper(2, "2025-01-01", 3000, "EUR")}, refuse: true,
		},
	} {
		m := meteringJSON{Embassy: "lu", Period: "2026-11", From: day(1), logged: map[uint64]loggedAgreement{}}
		signed, meter := map[uint64]*signedAgreement{}, ledger.NewMeter(day(1), day(1).AddDate(0, 1, 0))
		for _, a := range x.papers {
			signed[a.Number] = a
		}
		stored := ledger.NewLeaf(ledger.ObjectStored, [16]byte{1})
		stored.Size = 7
		meter.Leaf(&stored)
		for i, at := range x.taken {
			n := uint64(i + 1)
			m.logged[n] = loggedAgreement{record: [32]byte{byte(n)}, taken: at}
			if a := signed[n]; a != nil && n > 1 {
				meter.Cut(m.logged[n].begins(a))
			}
		}
		parts := meter.Usage(day(1).AddDate(0, 1, 0)).Parts
		m.parts = func() []ledger.Part { return parts }
		err := m.charge(signed)
		var f *failure
		if x.refuse {
			if !errors.As(err, &f) || f.code != exitRefused || m.Cost != nil {
				t.Errorf("%s: %v, %+v", x.name, err, m)
			}
			continue
		}
		if err != nil || len(m.Agreements) != len(x.want) || m.Cost == nil || *m.Cost != x.cost {
			t.Errorf("%s: %v, %+v", x.name, err, m)
			continue
		}
		hours := new(big.Int)
		for i, got := range m.Agreements {
			if w := x.want[i]; got.Agreement != w.Agreement || !got.From.Equal(w.From) || got.Cost != w.Cost {
				t.Errorf("%s: part %d is %+v, want %+v", x.name, i, got, w)
			}
			hours.Add(hours, new(big.Int).SetUint64(got.ByteHours))
		}
		if hours.Uint64() != 7*24*30 {
			t.Errorf("%s: %v byte-hours in all", x.name, hours)
		}
	}
}
