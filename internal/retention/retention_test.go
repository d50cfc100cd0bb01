package retention

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

func kept(rules Rules, list []Snapshot) (out []uint64) {
	for _, d := range Decide(rules, list) {
		if d.Keep {
			out = append(out, d.Sequence)
		}
	}
	return out
}

func TestWhatRulesKeep(t *testing.T) {
	history := []Snapshot{
		{1, at("2023-12-31 23:00")},
		{2, at("2024-01-01 01:00")},
		{3, at("2024-02-28 01:00")},
		{4, at("2024-03-01 01:00")}, // a Friday
		{5, at("2024-03-03 22:00")}, // a Sunday
		{6, at("2024-03-04 01:00")}, // a Monday
		{7, at("2024-03-04 01:30")},
		{8, at("2024-03-04 23:59")},
		{9, at("2024-03-05 00:00")},
		{10, at("2024-03-05 00:10")},
	}
	for _, c := range []struct {
		name  string
		rules Rules
		list  []Snapshot
		want  []uint64
	}{
		{"nothing to keep", Rules{Daily: 3}, nil, nil},
		{"no rules keep everything", Rules{}, history, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"the newest is always kept", Rules{Yearly: 1}, history, []uint64{2, 10}},
		{"keep_last counts an hour once", Rules{KeepLast: 1}, history, []uint64{9, 10}},
		{"keep_last reaches back over hours", Rules{KeepLast: 3}, history, []uint64{6, 7, 8, 9, 10}},
		{"the first of an hour", Rules{Hourly: 2}, history, []uint64{8, 9, 10}},
		{"days without snapshots count as days", Rules{Daily: 3}, history, []uint64{5, 6, 9, 10}},
		{"weeks begin on Monday", Rules{Weekly: 2}, history, []uint64{3, 6, 10}},
		{"months", Rules{Monthly: 3}, history, []uint64{2, 3, 4, 10}},
		{"years", Rules{Yearly: 10}, history, []uint64{1, 2, 10}},
		{"all together", Rules{KeepLast: 1, Daily: 1, Yearly: 2}, history, []uint64{1, 2, 9, 10}},
		{
			"what no witness saw is kept",
			Rules{Yearly: 1},
			[]Snapshot{{1, at("2024-01-01 01:00")}, {2, at("2024-01-02 01:00")}, {3, time.Time{}}, {4, at("2024-01-03 01:00")}},
			[]uint64{1, 3, 4},
		},
		{
			"a time before that of the snapshot before gains nothing",
			Rules{Yearly: 50},
			[]Snapshot{{1, at("2024-01-01 01:00")}, {2, at("1999-01-02 01:00")}, {3, at("2024-01-03 01:00")}},
			[]uint64{1, 3},
		},
		{
			"what was seen first at one time is kept or let go together",
			Rules{Daily: 2, Yearly: 1},
			[]Snapshot{{1, at("2020-02-01 01:00")}, {2, at("2020-02-01 01:00")}, {3, at("2020-01-02 01:00")}, {4, at("2020-02-01 01:00")}, {5, at("2020-02-01 02:00")}, {6, at("2020-02-02 01:00")}},
			[]uint64{1, 2, 4, 6},
		},
		{
			"one that is dated like an older one that is kept gains nothing",
			Rules{Yearly: 5},
			[]Snapshot{{1, at("2024-01-01 01:00")}, {2, at("2024-01-05 01:00")}, {3, at("2024-01-01 01:00")}, {4, at("2024-01-06 01:00")}},
			[]uint64{1, 4},
		},
		{
			"a pause uses nothing up",
			Rules{Daily: 2},
			[]Snapshot{{1, at("2020-01-01 01:00")}, {2, at("2020-01-02 01:00")}, {3, at("2020-01-02 02:00")}},
			[]uint64{1, 2, 3},
		},
	} {
		if got := kept(c.rules, c.list); !slices.Equal(got, c.want) {
			t.Errorf("%s: keeps %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRulesThatNobodyMeans(t *testing.T) {
	for _, r := range []Rules{{Daily: -1}, {KeepLast: MaxCount + 1}} {
		if err := r.Check(); !errors.Is(err, ErrRules) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := (&Rules{KeepLast: 3, Yearly: 10}).Check(); err != nil {
		t.Fatal("control:", err)
	}
}

func genRules(r *rapid.T) Rules {
	n := func(name string) int { return rapid.IntRange(0, 6).Draw(r, name) }
	return Rules{KeepLast: n("last"), Hourly: n("hourly"), Daily: n("daily"), Weekly: n("weekly"), Monthly: n("monthly"), Yearly: n("yearly")}
}

// genHistory draws snapshots at rising times, some hours to months apart.
func genHistory(r *rapid.T) []Snapshot {
	t := at("2024-01-01 00:00")
	var out []Snapshot
	for i := range rapid.IntRange(1, 30).Draw(r, "snapshots") {
		step := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 24 * time.Hour, 40 * 24 * time.Hour}).Draw(r, "step")
		t = t.Add(time.Duration(rapid.IntRange(0, 5).Draw(r, "times")) * step)
		out = append(out, Snapshot{uint64(i + 1), t})
	}
	return out
}

func among(keep []uint64, last uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(keep), func(n uint64) bool { return n > last })
}

// A thousand snapshots of one hour put no older one aside that one snapshot would not.
func TestFloodingPutsNothingAside(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rules, history := genRules(r), genHistory(r)
		rules.Yearly++ // some rule
		end := history[len(history)-1].Witnessed.Truncate(time.Hour)
		end = end.Add(time.Duration(rapid.IntRange(0, 50).Draw(r, "hours later")) * time.Hour)
		last := uint64(len(history))
		with := func(n int) []uint64 {
			list := slices.Clone(history)
			for i := range n {
				list = append(list, Snapshot{last + uint64(i) + 1, end.Add(time.Duration(i) * time.Second)})
			}
			return among(kept(rules, list), last)
		}
		one, many := with(1), with(rapid.IntRange(2, 200).Draw(r, "flood"))
		if !slices.Equal(one, many) {
			r.Fatalf("one more snapshot keeps %v, a flood %v", one, many)
		}
	})
}

// Whatever times later snapshots claim that no witness could have given them, older ones stay, and the claim makes no more
// of the later ones be kept than the truth.
func TestBackDatingGainsNothing(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rules, history := genRules(r), genHistory(r)
		newest := history[len(history)-1].Witnessed
		honest, dated := slices.Clone(history), slices.Clone(history)
		for i := range rapid.IntRange(1, 40).Draw(r, "later") {
			seq := uint64(len(history) + i + 1)
			back := time.Duration(rapid.IntRange(0, 2000).Draw(r, "days back")) * 24 * time.Hour
			honest = append(honest, Snapshot{seq, newest})
			dated = append(dated, Snapshot{seq, newest.Add(-back)})
		}
		a, b := kept(rules, honest), kept(rules, dated)
		last := uint64(len(history))
		if !slices.Equal(among(a, last), among(b, last)) {
			r.Fatalf("of the older: honest: %v, back-dated: %v", a, b)
		}
		for _, n := range b {
			if !slices.Contains(a, n) {
				r.Fatalf("honest: %v, back-dated: %v", a, b)
			}
		}
	})
}

// One snapshot more in the hour of the newest puts nothing aside: only time that passed does. Without keep_last the
// newest itself may go, which nothing but its being the newest kept.
func TestOnlyTimePutsAside(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rules, history := genRules(r), genHistory(r)
		rules.Yearly++ // some rule
		newest := history[len(history)-1]
		longer := append(slices.Clone(history), Snapshot{newest.Sequence + 1, newest.Witnessed})
		before, after := kept(rules, history), kept(rules, longer)
		for _, n := range before {
			if !slices.Contains(after, n) && (n != newest.Sequence || rules.KeepLast > 0) {
				r.Fatalf("%d was kept (%v), and is put aside (%v)", n, before, after)
			}
		}
	})
}
