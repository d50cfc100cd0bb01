package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// Packs that too many embassies lost are stored again from a source that still has what was in them, and older
// snapshots come back whole then; nothing is stored again before a verify has found the loss.
func TestWhatIsLostIsStoredAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(several)
	b.backup()
	if rep := b.backup(); rep.Stats.NewBytes != 0 {
		t.Fatalf("an unchanged backup stores %d bytes", rep.Stats.NewBytes)
	}
	for _, e := range b.state.Embassies[:2] {
		for _, name := range e.Objects() {
			e.Damage(name, nil)
		}
	}
	verify := func() (*archive.VerifyReport, error) {
		return archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{}, nil)
	}
	rep, err := verify()
	if !errors.Is(err, register.ErrDamaged) || rep.Lost == 0 || rep.Lost != rep.Packs {
		t.Fatalf("verify: %v, %d of %d packs lost", err, rep.Lost, rep.Packs)
	}
	lost := rep.Lost
	if rep := b.backup(); rep.Stats.NewBytes == 0 {
		t.Fatal("a backup after the loss stores nothing")
	}
	if rep, err = verify(); err != nil || rep.Lost != 0 || rep.Replaced != lost || len(rep.Faults) != 0 {
		t.Fatalf("verify after it: %v, %d lost, %d replaced, faults %v", err, rep.Lost, rep.Replaced, rep.Faults)
	}
	for _, name := range []string{"1", "2", "3"} {
		b.comesBack(name, b.tree)
	}
	if rep := b.backup(); rep.Stats.NewBytes != 0 || rep.Stats.Unchanged == 0 {
		t.Fatalf("the backup after that stores %d bytes and knows %d files", rep.Stats.NewBytes, rep.Stats.Unchanged)
	}
}

// What the source no longer has stays lost, and verify goes on saying so.
func TestWhatTheSourceNoLongerHasStaysLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(func(g *sim.Grower) {
		g.File("kept", sim.Bytes(1, 300<<10))
		g.File("gone", sim.Bytes(2, 300<<10))
	})
	b.backup()
	for _, e := range b.state.Embassies[:2] {
		for _, name := range e.Objects() {
			e.Damage(name, nil)
		}
	}
	check(t, os.Remove(filepath.Join(b.tree, "gone")))
	if _, err := archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{}, nil); !errors.Is(err, register.ErrDamaged) {
		t.Fatalf("verify: %v", err)
	}
	b.backup()
	rep, err := archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{}, nil)
	if !errors.Is(err, register.ErrDamaged) || rep.Lost == 0 {
		t.Fatalf("verify after it: %v, %d lost", err, rep.Lost)
	}
	b.comesBack("2", b.tree)
	_, lost, err := b.restore("1", archive.RestoreOptions{})
	if !errors.Is(err, register.ErrDamaged) || len(lost.Lost) == 0 {
		t.Fatalf("restore of what is lost: %v, %v", err, lost.Lost)
	}
}
