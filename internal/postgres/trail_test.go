package postgres_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/wal"
)

const (
	mib    = 1 << 20
	size   = wal.SegmentSize(mib)
	system = 77
)

// logOf is a stretch of a timeline, from and to in quarters of a segment.
func logOf(tl wal.Timeline, from, to int) postgres.Position {
	return postgres.Position{
		Kind: postgres.KindLog, System: system, Timeline: tl, Segment: size,
		Start: wal.LSN(from * mib / 4), End: wal.LSN(to * mib / 4), Clock: int64(to) * int64(time.Second),
	}
}

func historyOf(tl wal.Timeline) postgres.Position {
	return postgres.Position{Kind: postgres.KindHistory, System: system, Timeline: tl, Segment: size}
}

// histories are of a cluster that left timeline 1 at 10 quarters and 2 at 18, and another 3 that left 1 at 14.
func histories(positions []postgres.Position) func(int) ([]byte, error) {
	return func(i int) ([]byte, error) {
		return map[wal.Timeline][]byte{
			2: fmt.Appendf(nil, "1\t%s\tno recovery target specified\n", wal.LSN(10*mib/4)),
			3: fmt.Appendf(nil, "1\t%s\tx\n2\t%s\tx\n", wal.LSN(10*mib/4), wal.LSN(18*mib/4)),
			4: fmt.Appendf(nil, "1\t%s\tx\n", wal.LSN(14*mib/4)),
		}[positions[i].Timeline], nil
	}
}

func trail(t testing.TB, doubt error, positions ...postgres.Position) *postgres.Trail {
	t.Helper()
	tr, err := postgres.NewTrail(system, positions, doubt, histories(positions))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// Only a proven end is an end: a hole, a doubt and an unknown tail each are another answer, by which recovery stops.
func TestOnlyAProvenEndIsAnEnd(t *testing.T) {
	t.Parallel()
	doubt := errors.New("one embassy of three answers")
	log := []postgres.Position{logOf(1, 4, 6), logOf(1, 6, 10), logOf(1, 12, 15), logOf(2, 8, 13), historyOf(2)}
	for _, c := range []struct {
		name  string
		doubt error
		seg   wal.Segment
		want  error
		zeros int
	}{
		{"whole", nil, wal.Segment{Timeline: 1, Number: 1}, nil, 0},
		{"a hole within", nil, wal.Segment{Timeline: 1, Number: 2}, postgres.ErrHole, 0},
		{"its first part", nil, wal.Segment{Timeline: 1, Number: 0}, postgres.ErrHole, 0},
		{"the last, cut short", nil, wal.Segment{Timeline: 1, Number: 3}, nil, mib / 4},
		{"behind the end", nil, wal.Segment{Timeline: 1, Number: 4}, postgres.ErrEnd, 0},
		{"a timeline that is not there", nil, wal.Segment{Timeline: 5, Number: 1}, postgres.ErrEnd, 0},
		{"a timeline before it began", nil, wal.Segment{Timeline: 2, Number: 1}, postgres.ErrEnd, 0},
		{"whole, in doubt", doubt, wal.Segment{Timeline: 1, Number: 1}, nil, 0},
		{"the last, in doubt", doubt, wal.Segment{Timeline: 1, Number: 3}, postgres.ErrUnproven, 0},
		{"behind the end, in doubt", doubt, wal.Segment{Timeline: 1, Number: 4}, postgres.ErrUnproven, 0},
		{"a timeline that may be there", doubt, wal.Segment{Timeline: 5, Number: 1}, postgres.ErrUnproven, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts, zeros, err := trail(t, c.doubt, log...).Find(c.seg)
			if !errors.Is(err, c.want) || zeros != c.zeros || (err == nil) != (len(parts) > 0) {
				t.Errorf("%v, %d zero bytes, %v; want %v and %d", parts, zeros, err, c.want, c.zeros)
			}
		})
	}
	tr := trail(t, nil, logOf(3, 1, 2), historyOf(2))
	for tl, want := range map[wal.Timeline]error{2: nil, 3: postgres.ErrHole, 4: postgres.ErrEnd} {
		if _, err := tr.HistoryOf(tl); !errors.Is(err, want) {
			t.Errorf("history of %d: %v", tl, err)
		}
	}
	if _, err := trail(t, doubt, logOf(1, 1, 2)).HistoryOf(2); !errors.Is(err, postgres.ErrUnproven) {
		t.Error(err)
	}
}

// Whatever stretches there are, parts follow each other without a gap, each within its stretch, on the timeline where the
// byte was written or a later one that repeats it; and what no stretch holds is a hole.
func TestPartsAreWhole(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var positions []postgres.Position
		held := map[int]bool{}
		for at := range 24 {
			if r.IntN(8) > 0 {
				n := 1 + r.IntN(3)
				positions = append(positions, logOf(1, at, at+n))
				for q := at; q < at+n; q++ {
					held[q] = true
				}
			}
		}
		r.Shuffle(len(positions), func(i, j int) { positions[i], positions[j] = positions[j], positions[i] })
		from := r.IntN(20)
		to := from + 1 + r.IntN(4)
		parts, err := trail(t, nil, positions...).Cover(1, wal.LSN(from*mib/4), wal.LSN(to*mib/4))
		at := wal.LSN(from * mib / 4)
		for _, p := range parts {
			s := positions[p.Stretch]
			if p.Start != at || p.End <= p.Start || p.Start < s.Start || p.End > s.End || p.Offset != int(p.Start-s.Start) {
				t.Fatalf("part %+v of %+v, at %s", p, s, at)
			}
			at = p.End
		}
		hole := -1
		for q := from; q < to && hole < 0; q++ {
			if !held[q] {
				hole = q
			}
		}
		if (hole >= 0) != errors.Is(err, postgres.ErrHole) || hole >= 0 && at != wal.LSN(hole*mib/4) || hole < 0 && at != wal.LSN(to*mib/4) {
			t.Fatalf("%v at %s; the first hole is at quarter %d of %d to %d", err, at, hole, from, to)
		}
	}
}

func base(tl wal.Timeline, from, to int) *postgres.Base {
	return &postgres.Base{
		System: system, Version: 150018, Timeline: tl, Segment: size, Stretch: 1,
		Start: wal.LSN(from * mib / 4), End: wal.LSN(to * mib / 4), Clock: int64(to) * int64(time.Second),
	}
}

// A base backup reaches as far as the log goes without a hole over every timeline on its way, and no further.
func TestABaseBackupReachesAsFarAsTheLog(t *testing.T) {
	t.Parallel()
	q := func(n int) wal.LSN { return wal.LSN(n * mib / 4) }
	one := []postgres.Position{logOf(1, 4, 9), logOf(1, 9, 11)}
	two := append(one[:2:2], historyOf(2), logOf(2, 8, 16), logOf(2, 16, 19))
	three := append(two[:5:5], historyOf(3), logOf(3, 16, 25))
	forked := append(three[:7:7], historyOf(4), logOf(4, 12, 20))
	for _, c := range []struct {
		name    string
		log     []postgres.Position
		base    *postgres.Base
		follow  wal.Timeline
		on      wal.Timeline
		through wal.LSN
		gap     error
		want    error
	}{
		{"one timeline", one, base(1, 4, 6), 0, 1, q(11), nil, nil},
		{"over a switch", two, base(1, 4, 6), 0, 2, q(19), nil, nil},
		{"the abandoned end of it", two, base(1, 4, 6), 1, 1, q(11), nil, nil},
		{"over two switches", three, base(1, 4, 6), 0, 3, q(25), nil, nil},
		{"from the second", three, base(2, 11, 12), 0, 3, q(25), nil, nil},
		{"a backup that ended behind the switch", two, base(1, 9, 11), 0, 1, q(11), nil, nil},
		{"and the timeline asked for", two, base(1, 9, 11), 2, 0, 0, nil, postgres.ErrBeyond},
		{"a timeline that it does not lead to", forked, base(2, 11, 12), 4, 0, 0, nil, postgres.ErrBeyond},
		{"the newest of a fork, which lacks its log", forked, base(1, 4, 6), 0, 4, q(11), postgres.ErrHole, nil},
		{"a hole", append(one[:2:2], logOf(1, 13, 15)), base(1, 4, 6), 0, 1, q(11), postgres.ErrHole, nil},
		{"a hole before the backup's end", append(one[:1:1], logOf(1, 13, 15)), base(1, 4, 14), 0, 0, 0, nil, postgres.ErrHole},
		{"no log", nil, base(1, 4, 6), 0, 0, 0, nil, postgres.ErrHole},
		{"only a history of the next", append(one[:2:2], historyOf(2)), base(1, 4, 6), 0, 2, q(10), nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := trail(t, nil, c.log...).Reach(c.base, c.follow)
			if !errors.Is(err, c.want) {
				t.Fatal(err)
			}
			if c.want != nil {
				return
			}
			if r.Timeline != c.on || r.Through != c.through || !errors.Is(r.Gap, c.gap) {
				t.Errorf("timeline %d through %s, %v; want %d through %s, %v", r.Timeline, r.Through, r.Gap, c.on, c.through, c.gap)
			}
		})
	}
}

// A target that lies behind what is reached, or before the backup's end, is refused and the nearest is named; so is an
// open end when there may be more.
func TestATargetOutOfReachIsRefused(t *testing.T) {
	t.Parallel()
	b := base(1, 4, 6)
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	log := []postgres.Position{logOf(1, 4, 9), logOf(1, 9, 11)}
	whole, err := trail(t, nil, log...).Reach(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	doubtful, err := trail(t, errors.New("two are down"), log...).Reach(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		target      postgres.Target
		whole, part bool // refused
	}{
		{"latest", postgres.Target{}, false, true},
		{"a name", postgres.Target{Name: "before-merge"}, false, true},
		{"a transaction", postgres.Target{XID: "800"}, false, true},
		{"a position within", postgres.Target{LSN: wal.LSN(9 * mib / 4)}, false, false},
		{"the last position", postgres.Target{LSN: wal.LSN(11 * mib / 4)}, false, false},
		{"behind it", postgres.Target{LSN: wal.LSN(11*mib/4 + 1)}, true, true},
		{"in the backup", postgres.Target{LSN: wal.LSN(5 * mib / 4)}, true, true},
		{"a time within", postgres.Target{Time: at(10)}, false, false},
		{"a time behind", postgres.Target{Time: at(12)}, true, true},
		{"a time before", postgres.Target{Time: at(5)}, true, true},
	} {
		if err := whole.Check(b, &c.target); (err != nil) != c.whole || err != nil && !errors.Is(err, postgres.ErrBeyond) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := doubtful.Check(b, &c.target); (err != nil) != c.part {
			t.Errorf("%s, in doubt: %v", c.name, err)
		}
	}
}
