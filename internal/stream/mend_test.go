package stream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// mends are options with which embassies that were away are given what they missed.
func (b *bench) mends() stream.Options {
	return stream.Options{Mend: func(ctx context.Context, what stream.Lack) error {
		_, err := archive.MendStream(ctx, b.reg(), b.state.Agent, what)
		return err
	}}
}

// redundant holds that each embassy has a share of everything: nothing is thin, and any of them may go.
func (b *bench) redundant(last int) {
	b.Helper()
	rep, err := b.verifies(archive.VerifyOptions{Data: true})
	check(b, err)
	if rep.Thin != 0 || len(rep.Faults) != 0 || rep.Stretches != last {
		b.Errorf("%d stretches: %+v", last, rep)
	}
	for _, gone := range b.state.Embassies {
		gone.Fail(sim.Down())
		b.readsAny(last)
		gone.Fail(sim.Faults{})
	}
}

// readsAny has a reader give every stretch, whatever is in it.
func (b *bench) readsAny(last int) {
	b.Helper()
	r, x := b.stretches(1)
	check(b, x.Complete())
	if x.Len() != last {
		b.Fatalf("%d stretches, want %d", x.Len(), last)
	}
	for i := range last {
		if _, err := r.ReadStretch(b.Context(), x, i); err != nil {
			b.Fatalf("stretch %d: %v", i+1, err)
		}
	}
}

// holds waits until an embassy holds so many objects.
func (f *flow) holds(e *sim.Embassy, objects int) {
	f.Helper()
	f.until(func() bool { return len(e.Objects()) >= objects })
}

// knowsAllWhole has home remember that every embassy has all that is durable, as when all had answered before it wrote that down.
func (b *bench) knowsAllWhole() {
	b.Helper()
	path := filepath.Join(b.dir, "stretches", "state")
	raw, err := os.ReadFile(path)
	check(b, err)
	const head, row = 8 + 4, 16 + 3*8
	body := raw[:len(raw)-8]
	for at := head; at < len(body); at += row {
		copy(body[at+row-8:], body[:8])
	}
	sum := sha256.Sum256(body)
	check(b, os.WriteFile(path, append(body, sum[:8]...), 0o600))
}

// What an embassy missed comes to it when it is back, also where it was gathered without it, where it is large and has a
// pack of its own, and where the writer has died since. Control: without a mender it does not, and the others do not do without.
func TestWhatAnEmbassyMissedIsMadeForIt(t *testing.T) {
	stream.Eager(t)
	large := make([]byte, 600<<10) // more than half of a pack of its class
	_, _ = rand.NewChaCha8([32]byte{1}).Read(large)
	for name, x := range map[string]struct {
		missing func(f *flow) *flow // writes stretches up to 9 while the embassy is away, and brings it back
		objects int                 // that it holds of them then
		thin    int                 // packs of which it lacks its share, without a mender
	}{
		"gathered without it": {func(f *flow) *flow {
			f.write(4, 9)
			check(f, f.Gather(f.Context()))
			f.state.Embassies[2].Fail(sim.Faults{})
			return f
		}, 1, 1},
		"alone in its pack": {func(f *flow) *flow {
			check(f, f.Gather(f.Context())) // a gathering does not begin with such a stretch
			for n := 4; n <= 9; n++ {
				check(f, f.tryAppend(f.Context(), n, large))
			}
			f.flush()
			f.state.Embassies[2].Fail(sim.Faults{})
			return f
		}, 1 + 6, 1 + 6},
		"before the writer died": {func(f *flow) *flow {
			f.write(4, 9)
			f.crash()
			f.state.Embassies[2].Fail(sim.Faults{})
			return f.flowOf(f.options)
		}, 6, 6},
		"a gathering while the writer died": {func(f *flow) *flow {
			f.state.Embassies[2].Fail(sim.Faults{})
			f.write(4, 9)
			f.everywhere(9)
			ctx, die := context.WithCancel(f.Context())
			e := f.state.Embassies
			e[2].Fail(sim.Faults{Before: func(context.Context, *sim.Call) error {
				f.until(func() bool { return records(e[0], ledger.GatheringRecord)+records(e[1], ledger.GatheringRecord) == 2 })
				die()
				return sim.ErrDown
			}})
			_ = f.Gather(ctx)
			f.crash()
			f.knowsAllWhole()
			f.state.Embassies[2].Fail(sim.Faults{})
			return f.flowOf(f.options)
		}, 6 + 1, 1},
		"before the writer was closed": {func(f *flow) *flow {
			f.write(4, 9)
			f.end()
			f.state.Embassies[2].Fail(sim.Faults{})
			return f.flowOf(f.options)
		}, 6, 6},
	} {
		for _, mends := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mends %v", name, mends), func(t *testing.T) {
				b := newBench(t, 2, 3)
				o := stream.Options{}
				if mends {
					o = b.mends()
				}
				f := b.flowOf(o)
				e := b.state.Embassies[2]
				f.write(1, 3)
				f.everywhere(3)
				e.Fail(sim.Down())
				f = x.missing(f)
				if f.until(func() bool { return records(e, ledger.StretchRecord) == 9 }); !mends {
					f.crash()
					rep, err := b.verifies(archive.VerifyOptions{})
					check(t, err)
					if rep.Thin < x.thin {
						t.Errorf("the control: %+v", rep)
					}
					return
				}
				f.holds(e, 3+x.objects)
				f.crash()
				b.redundant(9)
			})
		}
	}
}

// Of what a gathering holds, an embassy that was away is given the gathering alone, of what is in none yet the next one at once, and
// the small packs are no loss to anybody. What is wrong with one is told all the same.
func TestAnEmbassyIsGivenTheGatheringAndNotWhatStandsInIt(t *testing.T) {
	stream.Eager(t)
	b := newBench(t, 2, 3)
	f := b.flowOf(b.mends())
	e := b.state.Embassies[2]
	f.write(1, 3)
	f.everywhere(3)
	small := e.Objects()[0]
	check(t, f.Gather(t.Context()))
	early := e.Objects()
	e.Fail(sim.Down())
	f.write(4, 100)
	check(t, f.Gather(t.Context()))
	f.write(101, 103)
	records := func() int {
		return b.state.Embassies[0].Count(sim.GetRecord) + b.state.Embassies[1].Count(sim.GetRecord)
	}
	read := records()
	var made atomic.Int64
	e.Fail(sim.Faults{After: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Repair {
			made.Add(1)
		}
		return nil
	}})
	f.holds(e, len(early)+2)
	f.until(func() bool { return logged(e) == 103+3 })
	f.crash()
	if n := made.Load(); n != 1 {
		t.Errorf("%d objects were made", n)
	}
	if n := records() - read; n > 10 { // this machine has those of the stretches
		t.Errorf("%d records were read", n)
	}
	b.redundant(103)
	e.Flip(small, 1, 1)
	rep, err := b.verifies(archive.VerifyOptions{Data: true})
	check(t, err)
	if len(rep.Faults) != 1 || rep.Faults[0].What == register.Missing {
		t.Errorf("one object is wrong: %+v", rep)
	}
}

// logged is how many records of a stream an embassy has.
func logged(e *sim.Embassy) int {
	return records(e, ledger.StretchRecord) + records(e, ledger.GatheringRecord)
}

// A mending that fails is tried again, and what is missed meanwhile is not forgotten.
func TestAMendingThatFailsIsTriedAgain(t *testing.T) {
	stream.Eager(t)
	b := newBench(t, 2, 3)
	f := b.flowOf(b.mends())
	e := b.state.Embassies
	f.write(1, 3)
	f.everywhere(3)
	e[2].Fail(sim.Down())
	f.write(4, 40)
	check(t, f.Gather(t.Context()))
	var refused atomic.Int64
	e[2].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Repair && refused.Add(1) < 3 {
			return sim.ErrDown
		}
		return nil
	}})
	f.until(func() bool { return refused.Load() >= 3 })
	f.write(41, 50)
	f.until(func() bool { return records(e[2], ledger.StretchRecord) == 50 })
	f.end()
	b.redundant(50)
}

// A stream that is closed soon after an embassy's return does not leave what that missed for the next one.
func TestAStreamThatIsClosedLeavesNobodyBehind(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flowOf(b.mends())
	e := b.state.Embassies[2]
	e.Fail(sim.Down())
	f.write(1, 40)
	check(t, f.Gather(t.Context()))
	e.Fail(sim.Faults{})
	f.until(func() bool { return records(e, ledger.StretchRecord) == 40 && len(f.Down()) == 0 })
	f.end()
	b.redundant(40)
}

// While nothing is appended, too, it is found out that an embassy is back, also one that lacks no record.
func TestAnIdleStreamFindsOutWhoIsBack(t *testing.T) {
	stream.Eager(t)
	b := newBench(t, 2, 3)
	f := b.flow()
	e := b.state.Embassies[2]
	f.write(1, 3)
	f.everywhere(3)
	e.Fail(sim.Down())
	check(t, f.Gather(t.Context()))
	if len(f.Down()) != 1 {
		t.Fatal("nobody is down: the test shows nothing")
	}
	e.Fail(sim.Faults{})
	f.until(func() bool { return len(f.Down()) == 0 })
	f.end()
}

// What an embassy that is silent may hold keeps a mending from being called done, though every stretch can be read.
func TestAMendingIsNotDoneWhileASilentEmbassyIsNeeded(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	e := b.state.Embassies
	f.write(1, 20)
	f.everywhere(20)
	own := e[2].Objects()
	check(t, f.Gather(t.Context()))
	f.crash()
	e[2].Damage(difference(e[2].Objects(), own)[0], nil)
	mend := func() error {
		sites := b.reg().Sites()
		_, err := archive.MendStream(t.Context(), b.reg(), b.state.Agent, stream.Lack{Sites: sites, Through: 20})
		return err
	}
	e[0].Fail(sim.Down())
	if err := mend(); !errors.Is(err, register.ErrTooFew) {
		t.Errorf("without the other that holds the gathering: %v", err)
	}
	e[0].Fail(sim.Faults{})
	check(t, mend())
	b.redundant(20)
}

// Nobody is given again what an order is about to remove.
func TestNobodyIsGivenWhatAnOrderRemoves(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		b := newBench(t, 2, 3)
		f := b.flow()
		e := b.state.Embassies
		f.write(1, 3)
		f.everywhere(3)
		f.crash()
		gone := e[2].Objects()[1]
		e[2].Damage(gone, nil)
		if ordered {
			for _, x := range e {
				var list ledger.ObjectList
				for _, n := range x.Objects() {
					list = append(list, [32]byte(n))
				}
				x.Order([32]byte{1}, "order 1", [16]byte(b.reg().ID), nil, list)
			}
		}
		made, err := archive.MendStream(t.Context(), b.reg(), b.state.Agent, stream.Lack{Sites: b.reg().Sites(), Through: 3})
		check(t, err)
		if (made == 0) != ordered {
			t.Errorf("ordered %v: %d objects were made", ordered, made)
		}
	}
}

// A machine whose program is older knows as much as it did.
func TestTheStateOfAnOlderProgramIsRead(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 5)
	f.everywhere(5)
	f.crash()
	path := filepath.Join(b.dir, "stretches", "state")
	now, err := os.ReadFile(path)
	check(t, err)
	const head, row = 8 + 4, 16 + 3*8
	if len(now) != head+3*row+8 {
		t.Fatalf("%d bytes", len(now))
	}
	old := bytes.Clone(now[:head])
	for i := range 3 {
		old = append(old, now[head+i*row:][:row-8]...)
	}
	sum := sha256.Sum256(old)
	check(t, os.WriteFile(path, append(old, sum[:8]...), 0o600))
	if kept := binary.BigEndian.Uint64(old); kept != 5 {
		t.Fatalf("%d are kept", kept)
	}
	b.state.Embassies[1].Fail(sim.Down())
	f = b.flow() // it remembers: not every embassy need answer
	f.write(6, 8)
	f.end()
	b.reads(1, 8)
}

// However often embassies go, and the writer dies, in the end each holds everything, and nobody has repaired anything.
func TestInTheEndEveryEmbassyHoldsEverything(t *testing.T) {
	stream.Eager(t)
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	if os.Getenv("CHANCERY_EXHAUSTIVE") != "" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			b := newBench(t, 2, 3+seed%2)
			w := &walk{flow: b.flowOf(b.mends()), rand: rand.New(rand.NewPCG(uint64(seed), 11)), next: 1, same: true}
			for range 60 {
				w.step()
			}
			w.heal()
			w.write(w.next, w.next+3)
			last := 0
			for wait := range w.pauses() {
				rep, err := w.verifies(archive.VerifyOptions{})
				check(t, err)
				if last = rep.Stretches; rep.Thin == 0 && len(rep.Faults) == 0 {
					break
				}
				wait()
			}
			w.crash()
			b.redundant(last)
		})
	}
}
