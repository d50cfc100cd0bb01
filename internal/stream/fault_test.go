package stream_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// records counts the records of a kind that an embassy holds.
func records(e *sim.Embassy, kind ledger.RecordKind) (n int) {
	for _, s := range e.Slots() {
		if s.Kind == kind {
			n++
		}
	}
	return n
}

func (b *bench) verifies(opts archive.VerifyOptions) (*archive.VerifyReport, error) {
	b.Helper()
	return archive.Verify(b.Context(), b.state.Register(sim.FastDir(b)), b.state.Agent, opts, nil)
}

func TestAStreamGoesOnWhileEmbassiesComeAndGo(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	n := 0
	for _, e := range b.state.Embassies {
		e.Fail(sim.Down())
		f.write(n+1, n+10)
		n += 10
		if down := f.Down(); len(down) != 1 || down[0].Embassy != e.Name || f.Healthy() != nil {
			t.Fatal(down, f.Healthy())
		}
		e.Fail(sim.Faults{})
		f.until(func() bool { return records(e, ledger.StretchRecord) == n && len(f.Down()) == 0 })
	}
	f.crash() // what is closed in order is gathered, and every embassy has that
	b.reads(1, n)
	rep, err := b.verifies(archive.VerifyOptions{})
	check(t, err)
	if rep.Thin == 0 {
		t.Fatal("no share is missing: the test shows nothing")
	}
	_, err = archive.Repair(t.Context(), b.reg(), b.state.Agent, nil)
	check(t, err)
	rep, err = b.verifies(archive.VerifyOptions{Data: true, Key: b.state.Key})
	check(t, err)
	if rep.Thin != 0 || len(rep.Faults) != 0 || rep.Stretches != n {
		t.Fatalf("after the repair: %+v", rep)
	}
}

func TestAStreamWithoutEnoughEmbassiesWaitsAndLosesNothing(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 2)
	b.state.Embassies[0].Fail(sim.Down())
	b.state.Embassies[2].Fail(sim.Down())
	for n := 3; n <= 6; n++ {
		check(t, f.tryAppend(t.Context(), n, nil))
	}
	f.until(func() bool { return errors.Is(f.Healthy(), register.ErrTooFew) })
	f.mu.Lock()
	told := len(f.told)
	f.mu.Unlock()
	if told != 2 {
		t.Fatalf("%d stretches were told to be durable with one embassy", told)
	}
	// The window is bounded: whoever goes on appending waits.
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	err := error(nil)
	n := 7
	for ; err == nil && n < 100; n++ {
		err = f.tryAppend(ctx, n, nil)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	b.state.Embassies[2].Fail(sim.Faults{})
	f.write(n-1, n+5)
	if f.Healthy() != nil {
		t.Fatal(f.Healthy())
	}
	f.end()
	b.reads(1, n+5)
}

func TestAStreamNeedsEnoughEmbassiesToOpen(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 3)
	f.end()
	b.state.Embassies[0].Fail(sim.Down())
	f = b.flow() // this machine remembers
	f.write(4, 4)
	f.end()
	// One that does not must not sign a number that the silent embassy may hold.
	fresh := b.state.Register(sim.FastDir(t))
	if _, err := stream.Open(t.Context(), fresh, b.state.Agent, stream.Options{}); !errors.Is(err, register.ErrTooFew) {
		t.Fatal(err)
	}
	s, err := stream.Open(t.Context(), fresh, b.state.Agent, stream.Options{Without: []charter.EmbassyID{b.state.Embassies[0].ID}})
	check(t, err)
	if _, n, _ := s.Last(); n != 4 {
		t.Fatal(n)
	}
	check(t, s.Close(t.Context()))
	b.state.Embassies[1].Fail(sim.Down())
	if _, err := stream.Open(t.Context(), b.reg(), b.state.Agent, stream.Options{}); !errors.Is(err, register.ErrTooFew) {
		t.Fatal(err)
	}
}

func TestTheEndOfAStreamIsProvenOnlyByEnoughEmbassies(t *testing.T) {
	b := newBench(t, 2, 4)
	f := b.flow()
	f.write(1, 6)
	f.end()
	e := b.state.Embassies
	// Two of four answer, and each could be one of the two that lack a stretch which the others hold.
	e[0].Fail(sim.Down())
	e[1].Fail(sim.Down())
	_, x := b.stretches(1)
	if err := x.Complete(); x.Len() != 6 || !errors.Is(err, register.ErrTooFew) {
		t.Fatal(x.Len(), err)
	}
	// Three do, and one of them hides the newest: another shows them.
	e[1].Fail(sim.Faults{})
	e[2].Fail(sim.Stale(3))
	_, x = b.stretches(1)
	if err := x.Complete(); x.Len() != 6 || err != nil {
		t.Fatal(x.Len(), err)
	}
	if err := x.CompleteDespite(1); !errors.Is(err, register.ErrTooFew) {
		t.Fatal(err)
	}
	e[0].Fail(sim.Faults{})
	_, x = b.stretches(1)
	check(t, x.CompleteDespite(1))
}

func TestAHoleInAStreamIsTold(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 6)
	f.crash()
	for _, e := range b.state.Embassies {
		e.DamageRecord(ledger.Slot{Kind: ledger.StretchRecord, Register: [16]byte(b.reg().ID), Sequence: 4}, nil)
	}
	_, x := b.stretches(1)
	if err := x.Complete(); x.Len() != 3 || !errors.Is(err, register.ErrDamaged) {
		t.Fatal(x.Len(), err)
	}
	if _, err := b.verifies(archive.VerifyOptions{}); !errors.Is(err, register.ErrDamaged) {
		t.Fatal(err)
	}
}

func TestAForkedStreamEndsAndIsKeptAsEvidence(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 3)
	f.end()
	other := *b
	other.dir = filepath.Join(sim.FastDir(t), "copy")
	check(t, os.CopyFS(other.dir, os.DirFS(b.dir)))
	f, g := b.flow(), other.flow() // two machines that both remember stretch 3
	e := b.state.Embassies
	e[2].Fail(sim.Down())
	f.write(4, 4)
	f.crash()
	e[2].Fail(sim.Faults{})
	e[0].Fail(sim.Down())
	e[1].Fail(sim.Down())
	check(t, g.tryAppend(t.Context(), 5, nil))
	g.until(func() bool { return records(e[2], ledger.StretchRecord) == 4 })
	b.state.Fail(sim.Faults{})
	g.until(func() bool { return errors.Is(g.Healthy(), register.ErrForked) })
	g.crash()
	if len(g.told) != 0 || len(g.lost) != 1 || !errors.Is(g.lost[0], register.ErrForked) || len(g.Faults()) == 0 {
		t.Fatal(g.told, g.lost, g.Faults())
	}
	kept, err := filepath.Glob(filepath.Join(other.dir, "stretches", "forked-stretch-4-*"))
	check(t, err)
	if len(kept) != 1 {
		t.Fatal(kept)
	}
	_, x := b.stretches(1)
	if err := x.Complete(); x.Len() != 3 || !errors.Is(err, register.ErrForked) {
		t.Fatal(x.Len(), err)
	}
	if _, err := stream.Open(t.Context(), b.reg(), b.state.Agent, stream.Options{}); !errors.Is(err, register.ErrForked) {
		t.Fatal(err)
	}
	if _, err := b.verifies(archive.VerifyOptions{}); !errors.Is(err, register.ErrForked) {
		t.Fatal(err)
	}
}

// difference is what a has and b lacks.
func difference(a, b []shard.Name) (out []shard.Name) {
	for _, n := range a {
		if !slices.Contains(b, n) {
			out = append(out, n)
		}
	}
	return out
}

func TestAStretchIsLostOnlyWithBothItsPacks(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 20)
	e := b.state.Embassies
	f.everywhere(20)
	var own, gathering [3][]shard.Name
	for i := range e {
		own[i] = e[i].Objects()
	}
	check(t, f.Gather(t.Context()))
	for i := range e {
		gathering[i] = difference(e[i].Objects(), own[i])
	}
	if len(gathering[0]) != 1 || len(gathering[2]) != 1 {
		t.Fatal("not one gathering")
	}
	f.end()
	// One embassy's shares are altered and gone: survived, told, repaired.
	e[0].Flip(own[0][3], 5, 1)
	e[0].Damage(own[0][4], nil)
	e[0].Damage(gathering[0][0], nil)
	b.reads(1, 20)
	rep, err := archive.Repair(t.Context(), b.reg(), b.state.Agent, nil)
	check(t, err)
	if rep.Repaired != 3 {
		t.Fatalf("%+v", rep)
	}
	rep, err = b.verifies(archive.VerifyOptions{Data: true})
	check(t, err)
	if rep.Thin != 0 || len(rep.Faults) != 0 || rep.Gatherings != 1 {
		t.Fatalf("%+v", rep)
	}
	// Every own pack is lost, and the gathering has them all.
	for i := range 2 {
		for _, n := range own[i] {
			e[i].Damage(n, nil)
		}
	}
	b.reads(1, 20)
	rep, err = b.verifies(archive.VerifyOptions{})
	check(t, err)
	if rep.Replaced != 20 || rep.Gone != 0 {
		t.Fatalf("%+v", rep)
	}
	// With the gathering lost too they are gone, and that is certain.
	e[0].Damage(gathering[0][0], nil)
	e[2].Damage(gathering[2][0], nil)
	r, x := b.stretches(1)
	if _, err := r.ReadStretch(t.Context(), x, 7); !errors.Is(err, register.ErrDamaged) {
		t.Fatal(err)
	}
	rep, err = b.verifies(archive.VerifyOptions{})
	if !errors.Is(err, register.ErrDamaged) || rep.Gone != 20 {
		t.Fatal(rep, err)
	}
	// While an embassy is silent nobody can tell.
	e[2].Fail(sim.Down())
	r, x = b.stretches(1)
	if _, err := r.ReadStretch(t.Context(), x, 7); errors.Is(err, stream.ErrUnfinished) || err == nil {
		t.Fatal(err)
	}
}

func TestAThousandStretchesComeBackFromGatherings(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	for at := 0; at < 1000; at += 250 {
		f.write(at+1, at+250)
		check(t, f.Gather(t.Context()))
	}
	f.write(1001, 1010)
	f.crash()
	before := b.state.Embassies[0].Count(sim.GetRecord) + b.state.Embassies[1].Count(sim.GetRecord) + b.state.Embassies[2].Count(sim.GetRecord)
	r, x := b.stretches(1)
	check(t, x.Complete())
	after := b.state.Embassies[0].Count(sim.GetRecord) + b.state.Embassies[1].Count(sim.GetRecord) + b.state.Embassies[2].Count(sim.GetRecord)
	if after-before > 4+10 {
		t.Fatalf("%d records were read for %d stretches", after-before, x.Len())
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := w; i < x.Len(); i += 4 {
				_, want := piece(i + 1)
				if got, err := r.ReadStretch(t.Context(), x, i); err != nil || string(got) != string(want) {
					t.Errorf("stretch %d: %v", i+1, err)
				}
			}
		})
	}
	all.Wait()
	_, x = b.stretches(600)
	if x.Len() != 411 || x.At(0).Sequence != 600 || string(x.At(0).Position) != "position 600" {
		t.Fatal(x.Len(), x.At(0))
	}
	_, x = b.stretches(1005)
	if x.Len() != 6 || x.At(0).Sequence != 1005 {
		t.Fatal(x.Len(), x.At(0))
	}
}

// Every object that an embassy holds of a stream is in a delivery, so that an order may have it removed; also where
// the agent died between the two.
func TestAgentsSignForWhatAStreamGave(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 30)
	f.crash()
	f = b.flow()
	f.write(31, 50)
	check(t, f.Gather(t.Context()))
	f.write(51, 55)
	f.end()
	for _, e := range b.state.Embassies {
		var signed []shard.Name
		for _, slot := range e.Slots() {
			if slot.Kind != ledger.DeliveryRecord {
				continue
			}
			doc, err := e.GetRecord(t.Context(), slot)
			check(t, err)
			d, err := ledger.ParseDelivery(doc)
			check(t, errors.Join(err, d.Verify()))
			for _, n := range d.Objects {
				signed = append(signed, n)
			}
		}
		if left := difference(e.Objects(), signed); len(left) > 0 {
			t.Fatalf("%s: nobody signed for %d objects", e.Name, len(left))
		}
	}
}

// A stream's memory is bounded though one embassy answers nothing and the stretches are large.
func TestAStreamsMemoryIsBounded(t *testing.T) {
	b := newBench(t, 2, 3)
	for _, e := range b.state.Embassies {
		e.Forget = true
	}
	f := b.flow()
	b.state.Embassies[1].Fail(sim.Slow(time.Hour))
	data := make([]byte, 8<<20)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(data)
	most := uint64(0)
	for n := range 40 {
		data[0] = byte(n)
		check(t, f.tryAppend(t.Context(), n, data))
		runtime.GC() // what counts is what is in use
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
	}
	f.flush()
	f.crash()
	t.Logf("at most %d MiB", most>>20)
	if most > 200<<20 { // the window, two desks, and what the race detector adds
		t.Fatalf("%d MiB for %d MiB of stretches", most>>20, 40*len(data)>>20)
	}
}
