package stream_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// settled is the newest piece of an index that is certain.
func settled(x *stream.Index) (n int) {
	for i := range x.Len() {
		if at := x.At(i); at.Settled {
			n, _ = strconv.Atoi(strings.TrimPrefix(string(at.Position), "position "))
		}
	}
	return n
}

// neverShort holds what readers see against what was told to be durable, with every embassy and with as few as may be: they
// see all of it, or the end is in doubt. Nothing is at fault when it returns.
func (b *bench) neverShort(told int) {
	b.Helper()
	e := b.state.Embassies
	k := b.reg().K
	for gone := range 1 << len(e) {
		away := 0
		for i := range e {
			e[i].Fail(sim.Faults{})
			if gone>>i&1 == 1 {
				e[i].Fail(sim.Down())
				away++
			}
		}
		if away > len(e)-k {
			continue
		}
		_, x := b.stretches(1)
		if err := x.Complete(); err == nil && settled(x) < told {
			b.Fatalf("piece %d was told to be durable; embassies %0*b are gone, and the stream ends with %d", told, len(e), gone, settled(x))
		} else if err != nil && away == 0 {
			b.Fatalf("every embassy answers, and the end is in doubt: %v", err)
		}
	}
	b.state.Fail(sim.Faults{})
}

// thin is a stream whose newest piece, number 5, is with the first two of three embassies, and no record says that it is.
func thin(t *testing.T) *bench {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 4)
	f.until(func() bool { return records(b.state.Embassies[2], ledger.StretchRecord) == 4 })
	b.state.Embassies[2].Fail(sim.Down())
	f.write(5, 5)
	f.crash()
	b.state.Fail(sim.Faults{})
	return b
}

// A stretch that was told to be durable is with k embassies. Where one of these does not answer, the others cannot say that
// it never was: the stream does not end before it.
func TestTheEndIsNotBeforeWhatASilentEmbassyMayHold(t *testing.T) {
	b := thin(t)
	b.reads(1, 5)
	b.state.Embassies[0].Fail(sim.Down())
	_, x := b.stretches(1)
	if err := x.Complete(); settled(x) != 4 || !errors.Is(err, register.ErrTooFew) {
		t.Fatalf("ends with %d: %v", settled(x), err)
	}
	b.state.Fail(sim.Faults{})
	b.reads(1, 5)
}

// What is on its way to one embassy while another does not answer is no doubt: it is asked for again.
func TestWhatIsOnItsWayIsNoDoubt(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 4)
	e := b.state.Embassies
	f.everywhere(4)
	before := e[1].Objects()
	f.write(5, 5)
	f.everywhere(5)
	f.crash()
	e[0].Fail(sim.Down())
	var name shard.Name
	for _, n := range e[1].Objects() {
		if !slices.Contains(before, n) {
			name = n
		}
	}
	share, looks := e[1].Damage(name, nil), 0
	e[1].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Check {
			if looks++; looks == 3 {
				e[1].Damage(name, share)
			}
		}
		return nil
	}})
	b.reads(1, 5)
	if looks != 3 {
		t.Errorf("asked %d times", looks)
	}
}

// An embassy that was away for a moment is given what it missed without anybody's doing: when it is back, each of the others may go.
func TestWhatAnEmbassyMissedComesWithAGathering(t *testing.T) {
	stream.Eager(t)
	b := newBench(t, 2, 3)
	f := b.flow()
	e := b.state.Embassies
	f.write(1, 3)
	e[2].Fail(sim.Down())
	f.write(4, 6)
	e[2].Fail(sim.Faults{})
	f.until(func() bool {
		rep, err := b.verifies(archive.VerifyOptions{})
		check(t, err)
		return rep.Thin == 0 && rep.Gatherings > 0
	})
	f.crash()
	for _, gone := range e {
		gone.Fail(sim.Down())
		b.reads(1, 6)
		gone.Fail(sim.Faults{})
	}
}

// What one shows behind a stretch that is on its way to it, while the others were asked before they had either, is no hole: the
// stretch is asked for again.
func TestAStretchOnItsWayIsNoHole(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 6)
	e := b.state.Embassies
	f.everywhere(6)
	f.crash()
	kept := map[ledger.Slot][]byte{}
	for seq, had := range map[uint64][]*sim.Embassy{5: e, 6: e[:2]} {
		slot := ledger.Slot{Kind: ledger.StretchRecord, Register: [16]byte(b.reg().ID), Sequence: seq}
		for _, x := range had {
			kept[slot] = x.DamageRecord(slot, nil)
		}
	}
	var mu sync.Mutex
	asked := 0
	e[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		mu.Lock()
		defer mu.Unlock()
		if c.Op == sim.ListRecords {
			if asked++; asked == 5 {
				for slot, raw := range kept {
					e[0].DamageRecord(slot, raw)
				}
			}
		}
		return nil
	}})
	b.reads(1, 6)
	if asked < 5 {
		t.Errorf("asked %d times", asked)
	}
}

// Nor where one lost its share, as its ledger shows, whatever it says of it.
func TestTheEndIsNotBeforeWhatAnEmbassyLost(t *testing.T) {
	b := thin(t)
	e := b.state.Embassies[0]
	before := e.Objects()
	_, x := b.stretches(1)
	check(t, x.Complete())
	var last shard.Name
	for _, name := range before {
		if data := e.Damage(name, nil); data != nil {
			_, x, _ := b.looks(1, false)
			if settled(x) == 4 {
				last = name
			}
			e.Damage(name, data)
		}
	}
	e.Damage(last, nil)
	_, x, _ = b.looks(1, false) // the control: by what embassies say it never was durable
	if err := x.Complete(); settled(x) != 4 || err != nil {
		t.Fatalf("ends with %d: %v", settled(x), err)
	}
	for dir, lost := range map[string]int{b.dir: 1, sim.FastDir(t): 0} { // nor is it no loss to whoever told that it was durable
		rep, err := archive.Verify(t.Context(), b.state.Register(dir), b.state.Agent, archive.VerifyOptions{}, nil)
		if rep.Gone != lost || rep.Unfinished != 1-lost || errors.Is(err, register.ErrDamaged) != (lost == 1) {
			t.Errorf("verified: %v, %+v", err, rep)
		}
	}
	r, x := b.stretches(1)
	err := x.Complete()
	if settled(x) != 4 || !errors.Is(err, register.ErrTooFew) || !strings.Contains(err.Error(), e.Name+" stored its share of stretch 5, and holds it no more") {
		t.Fatalf("ends with %d: %v", settled(x), err)
	}
	if !slices.Contains(r.All(), register.Fault{Embassy: e.Name, Object: last.String(), What: "in its ledger, and missing"}) {
		t.Fatal(r.All())
	}
}

// With more holders than are needed to read, nobody is told of a stretch before all these have it, also after the stream
// was opened anew; and then so many more may be gone.
func TestNothingIsDurableBeforeAsManyHoldItAsWasAskedFor(t *testing.T) {
	b := newBench(t, 2, 3)
	all := stream.Options{Holders: 3}
	e := b.state.Embassies
	f := b.flowOf(all)
	f.write(1, 3)
	e[1].Fail(sim.Down())
	check(t, f.tryAppend(t.Context(), 4, nil))
	f.until(func() bool {
		return records(e[0], ledger.StretchRecord) == 4 && records(e[2], ledger.StretchRecord) == 4
	})
	f.until(func() bool { return errors.Is(f.Healthy(), register.ErrTooFew) })
	f.crash()
	f.mu.Lock()
	if n := len(f.told); n != 3 {
		t.Fatalf("%d pieces were told to be durable", n)
	}
	f.mu.Unlock()
	f = b.flowOf(all)
	if position, _, err := f.Last(); string(position) != "position 3" {
		t.Fatalf("goes on behind %q, %v", position, err)
	}
	e[1].Fail(sim.Faults{})
	f.write(4, 6)
	f.crash()
	for _, gone := range e { // no restore waits for anybody, or is short
		gone.Fail(sim.Down())
		b.reads(1, 6)
		gone.Fail(sim.Faults{})
	}
	for _, n := range []int{1, 4} {
		if _, err := stream.Open(t.Context(), b.reg(), b.state.Agent, stream.Options{Holders: n}); !errors.Is(err, stream.ErrHolders) {
			t.Fatal(err)
		}
	}
}
