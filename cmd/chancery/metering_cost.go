package main

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/order"
)

// chargedJSON is a part of the month that one agreement governed.
type chargedJSON struct {
	Agreement uint64    `json:"agreement"` // its number
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	ByteHours uint64    `json:"byte_hours"`
	Currency  string    `json:"currency"`
	Cost      uint64    `json:"cost"`
}

// loggedAgreement is an agreement as a ledger names it.
type loggedAgreement struct {
	record [32]byte
	taken  time.Time // as the ledger's entries have it
}

// begins is from when on an agreement governs: its first day, and not before the embassy took it, for until then it could
// only go by the one before, and what was charged for a month that is over must not change.
func (x loggedAgreement) begins(a *signedAgreement) time.Time {
	if day := a.InForce.From.Start(); day.After(x.taken) {
		return day
	}
	return x.taken
}

// signedAgreement is an agreement and the signatures of both, as embassies keep them.
type signedAgreement struct {
	*agreement.Agreement
	path   string
	record [32]byte // SHA-256 of the record that a ledger names
}

// readAllSigned reads agreements, by their numbers.
func readAllSigned(papers []string) (map[uint64]*signedAgreement, error) {
	all := map[uint64]*signedAgreement{}
	for _, path := range papers {
		a, err := readSigned(path)
		if err != nil {
			return nil, err
		}
		if was := all[a.Number]; was != nil {
			return nil, &failure{
				err:  fmt.Errorf("%s and %s are both agreement %d", was.path, path, a.Number),
				code: exitUsage, hint: "name each agreement once",
			}
		}
		all[a.Number] = a
	}
	return all, nil
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
	x, ok := m.logged[a.Number]
	switch {
	case !ok:
		return &failure{
			err: fmt.Errorf("%s: the ledger of %s holds no agreement %d", a.path, m.Embassy, a.Number), code: exitRefused,
			hint: "take the agreement of that embassy, with its signatures beside it",
		}
	case x.record != a.record:
		return &failure{
			err: fmt.Errorf("%s: the ledger of %s holds another agreement %d, or other signatures of it", a.path, m.Embassy, a.Number), code: exitRefused,
			hint: "take the file that was admitted at that embassy, and its signatures as they were then",
		}
	}
	return nil
}

// span is a part of the month that one agreement governs.
type span struct {
	number   uint64
	from, to time.Time
}

// governed says which agreement governs which part of the month, in their order: at any moment that of the highest number
// which has begun. The first one also governs what was before it. It is refused where one that may govern was not named.
func (m *meteringJSON) governed(signed map[uint64]*signedAgreement) (spans []span, err error) {
	numbers := slices.Sorted(maps.Keys(m.logged))
	end := m.From.AddDate(0, 1, 0)
	for i, n := range slices.Backward(numbers) {
		x := m.logged[n]
		if i > 0 && !x.taken.Before(end) {
			continue // whatever its first day is
		}
		a := signed[n]
		if a == nil {
			return nil, &failure{
				err: fmt.Errorf("the ledger of %s holds agreement %d since %s, which may govern a part of %s",
					m.Embassy, n, x.taken.Format(time.RFC3339), m.Period), code: exitRefused,
				hint: "name it as well: --agreement FILE, its signatures beside it in FILE.sig",
			}
		}
		begins := x.begins(a)
		if i == 0 || begins.Before(m.From) {
			begins = m.From
		}
		if begins.Before(end) {
			spans, end = append(spans, span{n, begins, end}), begins
		}
		if !end.After(m.From) {
			break
		}
	}
	slices.Reverse(spans)
	return spans, nil
}

// charge adds what the agreements make of it, each part rounded down. Nothing is added where none was named.
func (m *meteringJSON) charge(signed map[uint64]*signedAgreement) error {
	if len(signed) == 0 {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(signed)) {
		if err := signed[n].inLedger(m); err != nil {
			return err
		}
	}
	spans, err := m.governed(signed)
	if err != nil {
		return err
	}
	sum, one := new(big.Int), true
	for _, s := range spans {
		a := signed[s.number].Agreement
		used := new(big.Int)
		for _, p := range m.parts() {
			if !p.From.Before(s.from) && p.From.Before(s.to) {
				used.Add(used, p.ByteHours)
			}
		}
		cost := capped(costOf(a, used, s.to.Sub(s.from), m.From.AddDate(0, 1, 0).Sub(m.From)))
		m.Agreements = append(m.Agreements, chargedJSON{s.number, s.from, s.to, capped(used), a.Cost.Currency, cost})
		m.Agreement, m.Currency = s.number, a.Cost.Currency
		one = one && a.Cost.Currency == m.Agreements[0].Currency
		sum.Add(sum, new(big.Int).SetUint64(cost))
	}
	total := capped(sum)
	if m.Cost = &total; !one { // of two currencies there is no sum
		m.Currency, m.Cost = "", nil
	}
	return nil
}

// costOf is what an agreement makes of a part of a month: by use that of the part, by a fixed price the share of the part.
func costOf(a *agreement.Agreement, byteHours *big.Int, part, month time.Duration) *big.Int {
	const terabyteMonth = 1_000_000_000_000 * 24 * 30
	cost, months := new(big.Int), map[string]int64{"month": 1, "quarter": 3, "year": 12}[a.Cost.Period]
	if a.Cost.Basis == "use" {
		cost.SetUint64(a.Cost.PricePerTBMonth).Mul(cost, byteHours).Quo(cost, big.NewInt(terabyteMonth))
	} else {
		cost.SetUint64(a.Cost.FixedPerPeriod).Mul(cost, big.NewInt(int64(part/time.Second)))
		cost.Quo(cost, new(big.Int).Mul(big.NewInt(max(1, months)), big.NewInt(int64(month/time.Second))))
	}
	return cost
}
