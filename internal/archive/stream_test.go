package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// writing is a stream that the agent writes.
type writing struct {
	*bench
	*stream.Stream
}

func (b *bench) writing() writing {
	b.Helper()
	s, err := stream.Open(b.Context(), b.reg(), b.state.Agent, stream.Options{})
	check(b, err)
	return writing{b, s}
}

// stretch is what a stretch holds, by its number.
func stretch(n int) []byte { return fmt.Appendf(nil, "what was written as number %d", n) }

// write appends stretches from one number to another, and waits until they are durable.
func (w writing) write(from, to int) {
	w.Helper()
	for n := from; n <= to; n++ {
		check(w, w.Append(w.Context(), fmt.Appendf(nil, "position %d", n), stretch(n), func(err error) {
			if err != nil {
				w.Error(err)
			}
		}))
	}
	check(w, w.Flush(w.Context()))
}

func (w writing) end() {
	w.Helper()
	check(w, w.Close(w.Context()))
}

// reads holds what the stream gives from a stretch on, up to another, against what was written.
func (b *bench) reads(from, to int) {
	b.Helper()
	r, err := b.reader()
	check(b, err)
	defer r.Close()
	x, err := r.Stream().Stretches(b.Context(), uint64(from))
	check(b, err)
	check(b, x.Complete())
	if x.Len() != to-from+1 {
		b.Fatalf("%d stretches, want %d to %d", x.Len(), from, to)
	}
	for i := range x.Len() {
		got, err := r.Stream().ReadStretch(b.Context(), x, i)
		check(b, err)
		if string(got) != string(stretch(from+i)) {
			b.Errorf("stretch %d differs", from+i)
		}
	}
}

func TestABackupRunsBesideAStream(t *testing.T) {
	b := newBench(t, 2, 3)
	b.grow(func(g *sim.Grower) { g.File("a", bytes.Repeat([]byte("a"), 100)) })
	f := b.writing()
	f.write(1, 3)
	b.backup()
	f.write(4, 6)
	f.end()
	b.reads(1, 6)
	b.comesBack("latest", b.tree)
}

// streamed is a register whose snapshots say in their position from which stretch on they need the stream.
func (b *bench) streamed(dir string) *register.Register {
	reg := b.state.Register(dir)
	reg.StreamFrom = func(h *snapshot.Head) (uint64, error) {
		p, err := archive.Position(reg, h)
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(string(p), 10, 64)
	}
	return reg
}

// base makes a snapshot that needs the stream from a stretch on.
func (b *bench) base(from string) {
	b.Helper()
	feed := database().feed()
	read := feed.Read
	feed.Read = func(ctx context.Context, to *archive.Feeder) ([]byte, error) {
		_, err := read(ctx, to)
		return []byte(from), err
	}
	b.feed(feed)
}

func (b *bench) release(seqs ...uint64) *archive.Release {
	b.Helper()
	rel, err := archive.ProposeRelease(b.Context(), b.streamed(b.dir), b.state.Agent, seqs)
	check(b, err)
	return rel
}

// With a snapshot the stream goes that only it needs, and the small packs of what is gathered; all that a kept snapshot
// needs, from its first stretch to the newest, comes back on a machine that has nothing.
func TestAReleaseTakesTheStreamBeforeWhatIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	f := b.writing()
	f.write(1, 10)
	b.base("5")
	check(t, f.Gather(t.Context()))
	f.write(11, 20)
	b.base("15")
	f.write(21, 30)
	check(t, f.Gather(t.Context()))
	f.write(31, 33)
	b.base("32")
	f.end()
	if rel := b.release(); rel.Packs != 30 { // nothing is let go: the small packs of what is gathered
		t.Fatalf("%d packs that nothing needs", rel.Packs)
	}
	rel := b.release(1, 2)
	checkRelease := func(lists []ledger.ObjectList) error {
		return archive.CheckRelease(t.Context(), b.streamed(sim.FastDir(t)), b.state.Agent, rel.Snapshots, lists)
	}
	check(t, checkRelease(lists(rel)))
	if rel.Packs < 33 { // 31 alone, before 32, 30 of both gatherings, these, and pages of the snapshots
		t.Errorf("%d packs go", rel.Packs)
	}
	a := &ages{bench: b}
	a.carry(rel, 1)
	b.reads(32, 33)
	rep, err := archive.Verify(t.Context(), b.streamed(sim.FastDir(t)), b.state.Agent, archive.VerifyOptions{Read: true, Key: b.state.Key}, nil)
	if err != nil || rep.Lost != 0 || rep.Gone != 0 || len(rep.Faults) != 0 {
		t.Errorf("verify: %v, %+v", err, rep)
	}
	if rep, err := archive.Repair(t.Context(), b.streamed(b.dir), b.state.Agent, nil); err != nil || rep.Repaired != 0 {
		t.Errorf("repair brings back what goes: %v, %+v", err, rep)
	}
	if again := b.release(); again.Packs != 0 {
		t.Errorf("%d more packs go", again.Packs)
	}
	f = b.writing() // the stream goes on
	f.write(34, 36)
	f.end()
	b.reads(32, 36)
}

// Where a release took the small packs of what is gathered, the gathering alone holds it: its loss is one.
func TestAGatheringThatStandsAloneIsMissed(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	f := b.writing()
	f.write(1, 10)
	for slices.ContainsFunc(b.state.Embassies, func(e *sim.Embassy) bool { return len(e.Objects()) < 10 }) {
		time.Sleep(time.Millisecond) // what k embassies hold is durable; the third is on its way
	}
	var own [3][]shard.Name
	for i, e := range b.state.Embassies {
		own[i] = e.Objects()
	}
	check(t, f.Gather(t.Context()))
	f.end()
	var gathering [3]shard.Name
	for i, e := range b.state.Embassies {
		gathering[i] = slices.DeleteFunc(e.Objects(), func(n shard.Name) bool { return slices.Contains(own[i], n) })[0]
	}
	b.base("1")
	a := &ages{bench: b}
	a.carry(b.release(), 1)
	verify := func() (*archive.VerifyReport, error) {
		return archive.Verify(t.Context(), b.streamed(sim.FastDir(t)), b.state.Agent, archive.VerifyOptions{}, nil)
	}
	rep, err := verify()
	check(t, err)
	if rep.Leaving != 10 || rep.Gone != 0 {
		t.Fatalf("%+v", rep)
	}
	for i := range 2 {
		b.state.Embassies[i].Damage(gathering[i], nil)
	}
	if rep, err = verify(); !errors.Is(err, register.ErrDamaged) || rep.Gone != 10 {
		t.Fatal(err, rep)
	}
}

// Lists that hold one object more, of a stretch or a gathering that a kept snapshot needs, are refused; so are the lists
// of a release that lets more go than is said.
func TestAReleaseThatBreaksTheStreamIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	f := b.writing()
	f.write(1, 10)
	b.base("5")
	check(t, f.Gather(t.Context()))
	f.write(11, 12)
	f.end()
	b.base("12")
	honest := b.release(1)
	try := func(snapshots []uint64, lists []ledger.ObjectList) error {
		return archive.CheckRelease(t.Context(), b.streamed(sim.FastDir(t)), b.state.Agent, snapshots, lists)
	}
	check(t, try([]uint64{1}, lists(honest)))
	if err := try(nil, lists(honest)); !errors.Is(err, archive.ErrBreaks) { // snapshot 1 stays, and needs the gathering
		t.Errorf("the lists of a release of snapshot 1, while it stays: %v", err)
	}
	all := b.state.Embassies[0].Objects()
	refused := 0
	for _, name := range all {
		if slices.Contains(honest.Lists[0].List, [32]byte(name)) {
			continue
		}
		more := slices.Clone(lists(honest))
		more[0] = append(slices.Clone(more[0]), [32]byte(name))
		slices.SortFunc(more[0], func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
		if err := try([]uint64{1}, more); !errors.Is(err, archive.ErrBreaks) {
			t.Errorf("with %s more: %v", name, err)
		}
		refused++
	}
	if refused < 3 {
		t.Errorf("only %d objects stay", refused)
	}
}

// A snapshot whose needs cannot be told keeps everything: no release is made.
func TestANeedThatCannotBeToldStopsTheRelease(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	f := b.writing()
	f.write(1, 3)
	b.base("2")
	b.base("nonsense")
	f.end()
	if _, err := archive.PlanRelease(t.Context(), b.streamed(b.dir), b.state.Agent, []uint64{1}); !errors.Is(err, archive.ErrReferences) {
		t.Error(err)
	}
}
