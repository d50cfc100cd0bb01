// Package retention decides which snapshots of a register rules keep. It looks at the order of snapshots in the ledgers
// and at witnessed time alone, never at what an agent claims: whoever holds an agent's key can neither back-date a
// snapshot nor crowd older ones out. It decides nothing else: what rules do not keep is proposed for release, and only an
// order that a quorum signs removes it.
//
// Old data: rules are text in the register's definition, and the version there says which rules there can be.
package retention

import (
	"errors"
	"fmt"
	"time"
)

// Rules say what to keep. All of them together: a snapshot that one rule keeps is kept. The newest is always kept, and so
// is one that no witness has seen yet.
type Rules struct {
	KeepLast int `yaml:"keep_last,omitempty"` // the newest ones; those of one hour count as one, and all stay
	Hourly   int `yaml:"hourly,omitempty"`    // the first of each of the last so many hours
	Daily    int `yaml:"daily,omitempty"`
	Weekly   int `yaml:"weekly,omitempty"` // weeks begin on Monday
	Monthly  int `yaml:"monthly,omitempty"`
	Yearly   int `yaml:"yearly,omitempty"`
}

// MaxCount caps each rule.
const MaxCount = 100_000

// ErrRules means that rules are none that anybody can have meant.
var ErrRules = errors.New("not rules of retention")

// Set tells whether there is a rule. Without one everything is kept.
func (r *Rules) Set() bool { return *r != Rules{} }

// Check tells whether the rules can be.
func (r *Rules) Check() error {
	for _, x := range []struct {
		name string
		n    int
	}{
		{"keep_last", r.KeepLast}, {"hourly", r.Hourly}, {"daily", r.Daily}, {"weekly", r.Weekly}, {"monthly", r.Monthly}, {"yearly", r.Yearly},
	} {
		if x.n < 0 || x.n > MaxCount {
			return fmt.Errorf("%w: %s: %d", ErrRules, x.name, x.n)
		}
	}
	return nil
}

// Snapshot is one in its ledger's order.
type Snapshot struct {
	Sequence  uint64
	Witnessed time.Time // of the first cosigned checkpoint that covers its head; zero: none does yet
}

// Decision is what becomes of one snapshot.
type Decision struct {
	Snapshot
	Keep bool
	Why  []string // the rules that keep it
}

// Decide says which of the snapshots the rules keep. They are given by rising sequence.
//
// The first of each hour, day, week, month or year counts for it, so that nothing made later in one puts it aside, and
// hours and days are counted back from the newest snapshot's witnessed time, so that neither many snapshots nor a pause
// uses them up. A snapshot cannot be older than the one before it: a time that says so is taken for that one's. Snapshots
// that were seen first at one and the same time cannot be told apart, and a rule that keeps the first keeps all of them: or
// whoever noted late what was made on many days would keep one of them.
func Decide(rules Rules, snapshots []Snapshot) []Decision {
	out := make([]Decision, len(snapshots))
	times := make([]time.Time, len(snapshots))
	var newest time.Time
	for i, s := range snapshots {
		out[i].Snapshot = s
		if !s.Witnessed.IsZero() && s.Witnessed.After(newest) {
			newest = s.Witnessed
		}
		if times[i] = newest; s.Witnessed.IsZero() {
			times[i] = time.Time{}
		}
	}
	keep := func(i int, why string) {
		out[i].Keep, out[i].Why = true, append(out[i].Why, why)
	}
	for i := range out {
		switch {
		case i == len(out)-1:
			keep(i, "newest")
		case !rules.Set():
			keep(i, "no rules")
		}
		if times[i].IsZero() {
			keep(i, "not witnessed")
		}
	}
	for i := range keepLast(rules.KeepLast, times) {
		keep(i, "keep_last")
	}
	for _, p := range []struct {
		name  string
		count int
		of    func(time.Time) int
	}{
		{"hourly", rules.Hourly, hour},
		{"daily", rules.Daily, day},
		{"weekly", rules.Weekly, week},
		{"monthly", rules.Monthly, month},
		{"yearly", rules.Yearly, func(t time.Time) int { return t.UTC().Year() }},
	} {
		before, kept := 0, time.Time{}
		for i, t := range times {
			if t.IsZero() {
				continue
			}
			n := p.of(t)
			if n > p.of(newest)-p.count && (n > before || t.Equal(kept) && t.Equal(snapshots[i].Witnessed)) {
				keep(i, p.name)
				kept = t
			}
			before = n
		}
	}
	return out
}

// keepLast yields the newest witnessed snapshots of count hours that have one.
func keepLast(count int, times []time.Time) func(func(int) bool) {
	return func(yield func(int) bool) {
		last := -1
		for i := len(times) - 1; i >= 0; i-- {
			if times[i].IsZero() {
				continue
			}
			if h := hour(times[i]); h != last {
				if count--; count < 0 {
					return
				}
				last = h
			}
			if !yield(i) {
				return
			}
		}
	}
}

// Hours, days, weeks and months are numbered in UTC; numbers rise with time and are never 0 after 1970.
func hour(t time.Time) int { return int(t.Unix()/3600) + 1 }

func day(t time.Time) int { return int(t.Unix()/86400) + 1 }

func week(t time.Time) int { return (day(t)+2)/7 + 1 } // 1 January 1970 was a Thursday

func month(t time.Time) int {
	u := t.UTC()
	return u.Year()*12 + int(u.Month())
}
