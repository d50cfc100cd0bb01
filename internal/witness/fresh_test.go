package witness

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// freshPolicy is of four states: the log's own LU, and three witnesses with the keys 21 to 23.
func freshPolicy(t *testing.T) (*ledger.Policy, []*ledger.Cosigner) {
	t.Helper()
	p := &ledger.Policy{Need: 3, Faulty: 1}
	var all []*ledger.Cosigner
	for i, country := range []string{"EE", "IS", "LU", "PT"} {
		key := seedKey(byte(21 + i))
		c, err := ledger.NewCosigner(ledger.WitnessName(key.Public().(ed25519.PublicKey)), key)
		if err != nil {
			t.Fatal(err)
		}
		p.Groups = append(p.Groups, ledger.Group{Name: country, Need: 1, Members: []ledger.Member{{Name: country, Keys: []ledger.WitnessKey{c.Key()}}}})
		if country != "LU" {
			all = append(all, c)
		}
	}
	return p, all
}

// cosigned is the log's checkpoint with the cosignatures of so many witnesses.
func cosigned(t *testing.T, l *fakeLog, size int, at time.Time, by []*ledger.Cosigner) []byte {
	t.Helper()
	raw := l.checkpoint(size)
	cp := l.parse(raw)
	for _, c := range by {
		line, err := c.Cosign(cp, at)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = ledger.AddSignatures(raw, line); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

func (l *fakeLog) parse(raw []byte) ledger.Checkpoint {
	l.t.Helper()
	v, err := ledger.NewVerifier(l.origin, l.log().Key)
	if err != nil {
		l.t.Fatal(err)
	}
	cp, err := ledger.ParseCheckpoint(raw, v)
	if err != nil {
		l.t.Fatal(err)
	}
	return cp
}

// A machine that remembers nothing takes for the newest only what continues all that others saw, with enough
// cosignatures that are young enough. Each case differs from the first, which is fresh, in one thing.
func TestOnlyTheNewestIsFresh(t *testing.T) {
	now := time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	l := newLog(t, 1, 300, "leaf")
	other := l.fork(100, 290)
	policy, by := freshPolicy(t)
	note := func(x *fakeLog, size int) Sighting { return Sighting{By: "pt", Note: x.checkpoint(size)} }
	type shown struct {
		size     int
		cosigned []byte
		seen     []Sighting
		prove    error
	}
	good := func() shown {
		return shown{size: 250, cosigned: cosigned(t, l, 250, now.Add(-time.Hour), by[:2]), seen: []Sighting{note(l, 200), note(l, 250), note(l, 0)}}
	}
	tests := map[string]struct {
		change func(*shown)
		want   Outcome
	}{
		"control":                             {func(*shown) {}, Fresh},
		"cosigned less than is shown":         {func(s *shown) { s.cosigned = cosigned(t, l, 240, now.Add(-time.Hour), by) }, Fresh},
		"cosigned just now, and shown before": {func(s *shown) { s.cosigned = cosigned(t, l, 300, now.Add(-time.Hour), by) }, Fresh},
		"seen by one, cosigned larger": {func(s *shown) {
			s.cosigned = cosigned(t, l, 300, now.Add(-time.Hour), by)
			s.seen = []Sighting{note(l, 299)}
		}, Fresh},
		"a sighting that the log did not sign":    {func(s *shown) { s.seen = []Sighting{note(newLog(t, 2, 300, "leaf"), 300)} }, Fresh},
		"a size that is smaller":                  {func(s *shown) { s.seen = []Sighting{{By: "x", Size: 249}} }, Fresh},
		"as old as may be":                        {func(s *shown) { s.cosigned = cosigned(t, l, 250, now.Add(-24*time.Hour), by) }, Fresh},
		"one of two needed is older":              {func(s *shown) { s.cosigned = cosigned(t, l, 250, now.Add(-25*time.Hour), by) }, Stale},
		"nothing cosigned":                        {func(s *shown) { s.cosigned = nil }, Uncosigned},
		"one cosignature too few":                 {func(s *shown) { s.cosigned = cosigned(t, l, 250, now, by[:1]) }, Uncosigned},
		"cosigned another log":                    {func(s *shown) { s.cosigned = cosigned(t, newLog(t, 2, 300, "leaf"), 250, now, by) }, Uncosigned},
		"a larger tree, signed":                   {func(s *shown) { s.seen = append(s.seen, note(l, 251)) }, Shorter},
		"a larger tree, unsigned":                 {func(s *shown) { s.seen = append(s.seen, Sighting{By: "x", Size: 251}) }, Doubtful},
		"a proof that cannot be had":              {func(s *shown) { s.prove = errors.New("it does not answer") }, Doubtful},
		"as large, and another tree":              {func(s *shown) { s.seen = append(s.seen, note(other, 250)) }, Forked},
		"smaller, and not in what is shown":       {func(s *shown) { s.seen = append(s.seen, note(other, 200)) }, Forked},
		"shorter by one and forked from another":  {func(s *shown) { s.seen = append(s.seen, note(l, 300), note(other, 200)) }, Forked},
		"smaller, and the same in the other tree": {func(s *shown) { s.seen = append(s.seen, note(other, 90)) }, Fresh},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := good()
			test.change(&s)
			newest := Newest{Checkpoint: l.parse(l.checkpoint(s.size)), Cosigned: s.cosigned}
			newest.Prove = func(ctx context.Context, older, newer ledger.Checkpoint) ([][32]byte, error) {
				if s.prove != nil {
					return nil, s.prove
				}
				return l.fetch(ctx, older, newer)
			}
			f := Compare(t.Context(), l.log(), policy, newest, s.seen, now, 24*time.Hour)
			if f.Outcome != test.want || (f.Why == "") != (f.Outcome == Fresh) {
				t.Errorf("%v: %q, want %v", f.Outcome, f.Why, test.want)
			}
			if f.Outcome == Fresh && !slices.Contains(f.Groups, "LU") {
				t.Errorf("vouched for by %v", f.Groups)
			}
		})
	}
}
