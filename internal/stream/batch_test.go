package stream_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/sim"
)

// gathering returns faults that hold the record of the first stretch back at every embassy until so many stretches are
// on disk at home, so that the records of the others wait and go together. Then more decides.
func (f *flow) gathering(first uint64, many int, more sim.Faults) sim.Faults {
	var open atomic.Bool // for all embassies, once the moment has come
	out := more
	out.Before = func(ctx context.Context, c *sim.Call) error {
		if c.Op == sim.PutRecord && c.Slot.Kind == ledger.StretchRecord && c.Slot.Sequence == first {
			for wait := range f.pauses() {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if open.Load() || f.Logged() >= many {
					open.Store(true)
					break
				}
				wait()
			}
		}
		if more.Before == nil {
			return nil
		}
		return more.Before(ctx, c)
	}
	return out
}

// together counts the calls that brought several records at once.
func (b *bench) together() (n int) {
	for _, e := range b.state.Embassies {
		n += e.Count(sim.PutRecords)
	}
	return n
}

func TestRecordsThatWaitGoTogether(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	b.state.Fail(f.gathering(1, 12, sim.Faults{}))
	f.write(1, 12)
	if b.together() == 0 {
		t.Fatal("no records went together: the test shows nothing")
	}
	for _, e := range b.state.Embassies {
		f.until(func() bool { return records(e, ledger.StretchRecord) == 12 })
	}
	f.end()
	b.reads(1, 12)
}

// A record that is refused in the midst of others takes none of them with it, and nothing is told to be durable of which k embassies
// do not hold the record, and that of each before it.
func TestARecordRefusedAmongOthersLosesNone(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	var refused atomic.Int32
	b.state.Fail(f.gathering(1, 12, sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.PutRecord && c.Slot.Sequence == 6 && refused.Add(1) <= 5 {
			return sim.ErrDown
		}
		return nil
	}}))
	var mu sync.Mutex
	var told []int
	for n := 1; n <= 12; n++ {
		position, data := piece(n)
		check(t, f.Append(t.Context(), position, data, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n)
			for before := 1; before <= n; before++ { // which of them need not be the same for each
				if held := b.holders(before); err != nil || held < 2 {
					t.Errorf("stretch %d: %v, %d embassies hold the record of %d", n, err, held, before)
				}
			}
		}))
	}
	f.flush()
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 12 || !slices.IsSorted(told) || refused.Load() < 5 || b.together() == 0 {
		t.Fatalf("told %v, refused %d, together %d", told, refused.Load(), b.together())
	}
	f.end()
	b.reads(1, 12)
}

// holders counts the embassies that hold the record of a stretch.
func (b *bench) holders(n int) (holders int) {
	for _, e := range b.state.Embassies {
		if slices.ContainsFunc(e.Slots(), func(s ledger.Slot) bool { return s.Kind == ledger.StretchRecord && s.Sequence == uint64(n) }) {
			holders++
		}
	}
	return holders
}

// The chain of records has no hole at any embassy alone but for what n - k + 1 others hold, whenever the writer dies while
// records go together.
func TestAStreamSurvivesTheDeathOfItsWriterWhileRecordsGoTogether(t *testing.T) {
	die := func(t *testing.T, at int, after bool) (b *bench, told, calls int) {
		b = newBench(t, 2, 3)
		c := sim.NewCounter(at, func() error { return sim.ErrDown })
		f := b.flow()
		told, calls = f.dying(c, f.gathering(1, 6, c.Faults(after)), at, 1, 6)
		return b, told, calls
	}
	b, _, calls := die(t, -1, false)
	if b.together() == 0 {
		t.Fatal("no records went together: the test shows nothing")
	}
	for at := range calls {
		for _, after := range []bool{false, true} {
			if os.Getenv("CHANCERY_EXHAUSTIVE") == "" && after != (at%2 == 1) {
				continue
			}
			t.Run(fmt.Sprintf("call %d, after %v", at, after), func(t *testing.T) {
				b, told, _ := die(t, at, after)
				if at%4 < 2 { // a new machine
					b.dir = sim.FastDir(t)
				}
				f := b.resume(told, 9)
				b.reads(1, 9)
				f.end()
				rep, err := archive.Verify(t.Context(), b.state.Register(sim.FastDir(t)), b.state.Agent, archive.VerifyOptions{Data: true, Key: b.state.Key}, nil)
				check(t, err)
				if rep.Stretches != 9 || rep.Gone != 0 || rep.Unfinished != 0 {
					t.Fatalf("%+v", rep)
				}
			})
		}
	}
}
