package stream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// crash ends a stream as the death of its program does: nothing more goes out, nobody is told.
func (f *flow) crash() {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = f.Close(ctx)
}

// resume opens the stream again, holds what it says against what was told, and writes on to the end.
func (b *bench) resume(told, to int) *flow {
	b.Helper()
	f := b.flow()
	position, _, err := f.Last()
	check(b, err)
	last := 0
	if position != nil {
		last, err = strconv.Atoi(strings.TrimPrefix(string(position), "position "))
		check(b, err)
	}
	if last < told {
		b.Fatalf("stretch %d was told to be durable, and the stream goes on behind %d", told, last)
	}
	f.write(last+1, to)
	return f
}

// crashing writes until the embassies' call number at fails and every later one, and dies. It returns the newest piece that
// was told to be durable, and how many calls there were.
func (b *bench) crashing(at int, after bool, from, to int) (told, calls int) {
	b.Helper()
	c := sim.NewCounter(at, func() error { return sim.ErrDown })
	f := b.flow()
	return f.dying(c, c.Faults(after), at, from, to)
}

// dying is crashing with the embassies' faults.
func (f *flow) dying(c *sim.Counter, faults sim.Faults, at, from, to int) (told, calls int) {
	f.Helper()
	b := f.bench
	b.state.Fail(faults)
	ctx, stop := context.WithCancel(b.Context())
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		for n := from; n <= to; n++ {
			if f.tryAppend(ctx, n, nil) != nil {
				return
			}
		}
		if f.Flush(ctx) == nil {
			_ = f.Gather(ctx)
		}
	}()
	if at < 0 {
		<-dead
	} else {
		f.until(func() bool {
			select {
			case <-dead:
				return true
			default:
				return c.Count() > at
			}
		})
	}
	stop()
	<-dead
	f.crash()
	b.state.Fail(sim.Faults{})
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.told); n > 0 {
		told = f.told[n-1]
	}
	return told, c.Count()
}

func TestAStreamSurvivesTheDeathOfItsWriterAtEveryCall(t *testing.T) {
	_, calls := newBench(t, 2, 3).crashing(-1, false, 1, 6)
	for at := range calls {
		for _, after := range []bool{false, true} {
			for _, empty := range []bool{false, true} {
				if testing.Short() && (after != (at%2 == 1) || empty != (at%4 < 2)) {
					continue
				}
				t.Run(fmt.Sprintf("call %d, after %v, new machine %v", at, after, empty), func(t *testing.T) {
					b := newBench(t, 2, 3)
					told, _ := b.crashing(at, after, 1, 6)
					b.neverShort(told)
					if empty {
						b.dir = sim.FastDir(t)
					}
					f := b.resume(told, 9)
					b.reads(1, 9)
					f.end()
					b.reads(1, 9)
					rep, err := archive.Verify(t.Context(), b.state.Register(sim.FastDir(t)), b.state.Agent, archive.VerifyOptions{Data: true, Key: b.state.Key}, nil)
					check(t, err)
					if rep.Stretches != 9 || rep.Gone != 0 || rep.Unfinished != 0 {
						t.Fatalf("%+v", rep)
					}
				})
			}
		}
	}
}

// A stretch whose record is on disk at home and nowhere else, or cut short there, is replaced or forgotten: what the
// embassies hold is read back whole either way.
func TestAStreamSurvivesALocalLogCutAtEveryByte(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 3)
	f.state.Fail(sim.Down())
	check(t, f.tryAppend(t.Context(), 4, nil))
	f.until(func() bool { return f.Logged() == 1 })
	f.crash()
	b.state.Fail(sim.Faults{})
	name := filepath.Join(b.dir, "stretches", fmt.Sprintf("log-%020d", 1))
	whole, err := os.ReadFile(name)
	check(t, err)
	for cut := len(whole); cut >= 0; cut -= 97 {
		check(t, os.WriteFile(name, whole[:cut], 0o600))
		f := b.flow()
		position, n, err := f.Last()
		check(t, err)
		if n != 3 || string(position) != "position 3" {
			t.Fatalf("cut at %d: goes on behind %d %q", cut, n, position)
		}
		f.crash()
	}
	f = b.resume(3, 5)
	f.end()
	b.reads(1, 5)
}

func TestWhatAnInterruptedStreamLeftIsReplaced(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 2)
	// The third is with one embassy only.
	b.state.Embassies[1].Fail(sim.Down())
	b.state.Embassies[2].Fail(sim.Down())
	check(t, f.tryAppend(t.Context(), 3, nil))
	f.until(func() bool {
		return b.state.Embassies[0].Count(sim.Put) == 3 && b.state.Embassies[0].Count(sim.PutRecord) == 3
	})
	f.crash()
	b.state.Fail(sim.Faults{})

	r, x := b.stretches(1)
	check(t, x.Complete())
	if x.Len() != 3 || x.At(1).Settled == false || x.At(2).Settled {
		t.Fatalf("%d stretches", x.Len())
	}
	if _, err := r.ReadStretch(t.Context(), x, 2); !errors.Is(err, stream.ErrUnfinished) {
		t.Fatal(err)
	}
	rep, err := archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{}, nil)
	check(t, err)
	if rep.Unfinished != 1 || rep.Stretches != 2 || rep.Gone != 0 {
		t.Fatalf("%+v", rep)
	}

	f = b.resume(2, 4)
	f.end()
	b.reads(1, 4)
	rep, err = archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{}, nil)
	check(t, err)
	if rep.Void != 1 || rep.Stretches != 4 || rep.Unfinished != 0 {
		t.Fatalf("%+v", rep)
	}
}

func TestTwoStreamsOnOneFolderAreRefused(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	if _, err := stream.Open(t.Context(), b.reg(), b.state.Agent, stream.Options{}); !errors.Is(err, durable.ErrLocked) {
		t.Fatal(err)
	}
	f.end()
	b.flow().end()
}

// Every embassy has every record, and one stretch in the middle of the last ones has too few shares: what comes behind it
// does not count, however whole.
func TestAStreamGoesOnBeforeTheFirstStretchThatIsNotWhole(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 3)
	e := b.state.Embassies
	f.until(func() bool { return len(e[1].Objects()) == 3 && len(e[2].Objects()) == 3 })
	for _, x := range e[1:] {
		var first atomic.Pointer[shard.Name]
		x.Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
			if c.Op == sim.Put && (first.CompareAndSwap(nil, &c.Name) || *first.Load() == c.Name) {
				return sim.ErrDown
			}
			return nil
		}})
	}
	check(t, f.tryAppend(t.Context(), 4, nil))
	f.until(func() bool {
		return records(e[1], ledger.StretchRecord) == 4 && records(e[2], ledger.StretchRecord) == 4
	})
	for n := 5; n <= 7; n++ {
		check(t, f.tryAppend(t.Context(), n, nil))
	}
	f.until(func() bool {
		return len(e[1].Objects()) == 6 && len(e[2].Objects()) == 6 && records(e[2], ledger.StretchRecord) == 7
	})
	check(t, f.Gather(t.Context())) // notes at home that each embassy has all records
	f.crash()
	b.state.Fail(sim.Faults{})
	f = b.resume(3, 9)
	f.end()
	b.reads(1, 9)
}
