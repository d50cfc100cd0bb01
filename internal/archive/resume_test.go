package archive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

var errPulled = errors.New("the plug is pulled")

// several grows a tree of four data packs of the smallest class.
func several(g *sim.Grower) {
	for i := range 4 {
		g.File(fmt.Sprintf("d%d/f", i), sim.Bytes(uint64(i), 50000))
	}
}

// inFlight is the most that a run may have sent without knowing: the packs under way, and all their shares.
const inFlight = archive.Sealers * 3 << 15

func TestABackupInterruptedAtEveryCallIsResumed(t *testing.T) {
	t.Parallel()
	ways := map[string]func(b *bench, at int) (faults sim.Faults, ctx context.Context){
		"before it took effect": func(b *bench, at int) (sim.Faults, context.Context) {
			return sim.NewCounter(at, func() error { return errPulled }).Faults(false), b.Context()
		},
		"after it took effect": func(b *bench, at int) (sim.Faults, context.Context) {
			return sim.NewCounter(at, func() error { return errPulled }).Faults(true), b.Context()
		},
		"given up": func(b *bench, at int) (sim.Faults, context.Context) {
			ctx, cancel := context.WithCancel(b.Context())
			return sim.NewCounter(at, func() error { cancel(); return ctx.Err() }).Faults(true), ctx
		},
	}
	for way, f := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			whole := newBench(t, 2, 3)
			whole.grow(several)
			n := sim.NewCounter(-1, nil)
			whole.state.Fail(n.Faults(false))
			whole.backup()
			all := whole.state.Received()
			for at := range n.Count() {
				b := newBench(t, 2, 3)
				b.tree = whole.tree
				faults, ctx := f(b, at)
				b.state.Fail(faults)
				if rep, err := b.tryBackup(ctx); err == nil && len(rep.Down) == 0 {
					t.Fatalf("call %d: a backup without embassies succeeded", at)
				}
				b.state.Fail(sim.Faults{})
				rep := b.backup()
				if held := b.held(); held > all+inFlight {
					t.Errorf("call %d: %d bytes are held where %d would do", at, held, all)
				}
				if rep.ProblemSum > 0 || len(rep.Down) > 0 {
					t.Errorf("call %d: %v %v", at, rep.Problems, rep.Down)
				}
				b.comesBack("latest", b.tree)
				if v := b.verify(archive.VerifyOptions{Read: true}); v.Lost > 0 {
					t.Errorf("call %d: packs are lost: %v", at, v.Faults)
				}
			}
		})
	}
}

// held is how many bytes the embassies hold.
func (b *bench) held() int64 {
	n := int64(0)
	for _, e := range b.state.Embassies {
		for _, name := range e.Objects() {
			n += int64(len(e.Object(name)))
		}
	}
	return n
}

func (b *bench) verify(opts archive.VerifyOptions) *archive.VerifyReport {
	b.Helper()
	rep, err := archive.Verify(b.Context(), b.reg(), b.state.Agent, opts, nil)
	check(b, err)
	return rep
}

// Without the journal a rerun could only send everything again. This is the control of the bytes counted above.
func TestARerunSendsOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, journal := range []bool{true, false} {
		b := newBench(t, 1, 1)
		b.grow(several)
		b.state.Embassies[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
			if c.Op == sim.Receipts {
				return errPulled
			}
			return nil
		}})
		if _, err := b.tryBackup(t.Context()); !errors.Is(err, register.ErrTooFew) {
			t.Fatalf("a backup without receipts: %v", err)
		}
		b.state.Fail(sim.Faults{})
		if !journal {
			check(t, os.Remove(filepath.Join(b.dir, "journal")))
		}
		sent := b.state.Received()
		rep := b.backup()
		more := b.state.Received() - sent
		if journal && more > 64<<10 { // the index pack, and nothing else
			t.Errorf("the rerun sent %d bytes", more)
		}
		if !journal && more < sent/2 {
			t.Errorf("control: without a journal the rerun sent %d bytes", more)
		}
		if journal && (rep.Objects < 3 || rep.StoredBytes < uint64(sent)/2) {
			t.Errorf("the snapshot counts %d objects of %d bytes, and not those of the run before", rep.Objects, rep.StoredBytes)
		}
		b.comesBack("1", b.tree)
	}
}

// A journal that was cut short names fewer packs; it must never make a snapshot that lacks them.
func TestAJournalCutShortCostsOnlyBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(several)
	b.state.Embassies[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.PutRecord || c.Op == sim.Receipts {
			return errPulled
		}
		return nil
	}})
	_, err := b.tryBackup(t.Context())
	if err == nil {
		t.Fatal("no receipt, and a snapshot")
	}
	path := filepath.Join(b.dir, "journal")
	whole, err := os.ReadFile(path)
	check(t, err)
	for _, n := range []int{0, 5, 12, 100, len(whole) / 2, len(whole) - 1} {
		c := newBench(t, 1, 1)
		c.tree, c.state, c.dir = b.tree, b.state, filepath.Join(t.TempDir(), "agent")
		check(t, os.MkdirAll(c.dir, 0o700))
		check(t, os.WriteFile(filepath.Join(c.dir, "journal"), whole[:n], 0o600))
		b.state.Fail(sim.Faults{})
		c.backup()
		c.comesBack("latest", b.tree)
	}
}

func TestOneEmbassyDownIsNotedAndRepaired(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(small)
	b.state.Embassies[1].Fail(sim.Down())
	rep := b.backup()
	if len(rep.Down) != 1 || rep.Down[0].Embassy != "e1" || len(rep.Head.Missing) != 1 || rep.Head.Missing[0] != b.state.Embassies[1].ID {
		t.Fatalf("down %v, missing %v", rep.Down, rep.Head.Missing)
	}
	b.comesBack("1", b.tree)
	b.state.Fail(sim.Faults{})
	v := b.verify(archive.VerifyOptions{})
	if v.Thin != v.Packs || v.Lost != 0 || len(v.Faults) == 0 {
		t.Errorf("before the repair: %+v", v)
	}
	v, err := archive.Repair(t.Context(), b.reg(), b.state.Agent, nil)
	check(t, err)
	if v.Repaired != v.Packs || v.Thin != 0 || v.Lost != 0 {
		t.Errorf("repair: %+v", v)
	}
	if v := b.verify(archive.VerifyOptions{Read: true, Data: true, Key: b.state.Key}); v.Thin+v.Lost+len(v.Faults) > 0 || v.Chunks == 0 {
		t.Errorf("after the repair: %+v", v)
	}
	for _, e := range b.state.Embassies {
		e.Fail(sim.Down())
		b.comesBack("1", b.tree)
		e.Fail(sim.Faults{})
	}
}

func TestTooFewEmbassiesWriteNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(small)
	b.state.Embassies[0].Fail(sim.Down())
	b.state.Embassies[2].Fail(sim.Down())
	if _, err := b.tryBackup(t.Context()); !errors.Is(err, register.ErrTooFew) {
		t.Errorf("backup with one of two: %v", err)
	}
	if n := b.held(); n != 0 {
		t.Errorf("%d bytes were written", n)
	}
	b.state.Fail(sim.Faults{})
	b.backup()
	b.state.Embassies[0].Fail(sim.Down())
	b.state.Embassies[2].Fail(sim.Down())
	_, _, err := b.restore("1", archive.RestoreOptions{})
	if !errors.Is(err, register.ErrTooFew) || errors.Is(err, register.ErrDamaged) {
		t.Errorf("restore with one of two: %v", err)
	}
}

// Different embassies fail in different runs: their gaps are in different packs. Where fewer than k would be whole, a
// pack is sent again rather than a snapshot made that no k embassies hold.
func TestGapsOfInterruptedRunsNeverAddUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 4)
	b.grow(several)
	for i := range 4 {
		down := b.state.Embassies[i]
		for _, e := range b.state.Embassies {
			e.Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
				if c.Embassy == down || c.Op == sim.Receipts {
					return errPulled
				}
				return nil
			}})
		}
		if _, err := b.tryBackup(t.Context()); err == nil {
			t.Fatal("a snapshot without receipts")
		}
		b.grow(func(g *sim.Grower) { g.File(fmt.Sprintf("more%d", i), sim.Bytes(uint64(100+i), 400000)) })
	}
	b.state.Fail(sim.Faults{})
	rep := b.backup()
	if len(rep.Head.Missing) > 2 {
		t.Errorf("missing: %v", rep.Head.Missing)
	}
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	for i, e := range b.state.Embassies {
		lacks := slices.ContainsFunc(r.Packs(), func(ref snapshot.PackRef) bool { return e.Object(ref.Shares[i]) == nil })
		if lacks != slices.Contains(rep.Head.Missing, [16]byte(e.ID)) {
			t.Errorf("%s lacks shares: %v; the head says %x", e.Name, lacks, rep.Head.Missing)
		}
	}
	for _, e := range b.state.Embassies { // whoever is said to be whole is enough
		for _, m := range rep.Head.Missing {
			if e.ID == m {
				e.Fail(sim.Down())
			}
		}
	}
	b.comesBack("latest", b.tree)
}

func TestAFullDiskAtAnEmbassyIsOneEmbassyLess(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(small)
	b.state.Embassies[2].Fail(sim.Full())
	rep := b.backup()
	if len(rep.Down) != 1 || rep.Down[0].Embassy != "e2" {
		t.Errorf("down: %v", rep.Down)
	}
	b.comesBack("1", b.tree)
	b.state.Embassies[1].Fail(sim.Full())
	b.grow(func(g *sim.Grower) { g.File("new", []byte("x")) })
	if _, err := b.tryBackup(t.Context()); !errors.Is(err, register.ErrTooFew) {
		t.Errorf("two disks full: %v", err)
	}
	b.comesBack("1", b.restoreTo("1"))
}

// restoreTo restores a snapshot and returns where.
func (b *bench) restoreTo(name string) string {
	b.Helper()
	to, _, err := b.restore(name, archive.RestoreOptions{})
	check(b, err)
	return to
}
