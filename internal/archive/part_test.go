package archive_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// ranged is a bench with a pack of the largest class, at embassies that give parts of objects.
func ranged(t *testing.T) (*bench, []*sim.Ranged, *register.Register) {
	t.Helper()
	b := newBench(t, 2, 3)
	b.grow(func(g *sim.Grower) {
		for i := range 14 {
			g.File(fmt.Sprintf("f%02d", i), sim.Bytes(uint64(i), 900<<10))
		}
	})
	b.backup()
	reg := b.state.Register(sim.FastDir(t))
	var all []*sim.Ranged
	for i, e := range b.state.Embassies {
		r, m := e.Ranged()
		reg.Members[i] = m
		all = append(all, r)
	}
	return b, all, reg
}

func given(all []*sim.Ranged) (n int64) {
	for _, r := range all {
		n += r.Given.Load()
	}
	return n
}

// One file out of a large pack costs about what it holds, and is what was stored.
func TestAPartOfAPackIsFetchedAlone(t *testing.T) {
	t.Parallel()
	b, all, reg := ranged(t)
	r, err := archive.OpenReader(t.Context(), reg, b.state.Agent, b.state.Key)
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	restore := func(paths ...string) int64 {
		before := given(all)
		to := filepath.Join(sim.FastDir(t), "to")
		_, err := r.Restore(t.Context(), head, to, archive.RestoreOptions{Include: paths, Target: filetree.TargetOptions{}}, nil)
		check(t, err)
		for _, p := range paths {
			got, err := os.ReadFile(filepath.Join(to, p))
			check(t, err)
			want, err := os.ReadFile(filepath.Join(b.tree, p))
			check(t, err)
			if !bytes.Equal(got, want) {
				t.Errorf("%s has other bytes", p)
			}
		}
		return given(all) - before
	}
	if n := restore("f03"); n > 2<<20 {
		t.Errorf("900 KiB cost %d bytes", n)
	}
	if n := restore("f13", "f00"); n > 4<<20 {
		t.Errorf("1,800 KiB cost %d bytes", n)
	}
	if n := restore("f01", "f02", "f03", "f04", "f05", "f06", "f07"); n < 16<<20 {
		t.Errorf("half a pack cost %d bytes: as much as parts of it", n)
	}
}

// A part that an embassy gives wrong is not believed: the whole pack is fetched, and finds who is at fault.
func TestAWrongPartIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	b, all, reg := ranged(t)
	for _, name := range all[0].Objects() {
		for at := 0; at < len(all[0].Object(name)); at += 50_000 {
			all[0].Flip(name, at, 1)
		}
	}
	r, err := archive.OpenReader(t.Context(), reg, b.state.Agent, b.state.Key)
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	to := filepath.Join(sim.FastDir(t), "to")
	rep, err := r.Restore(t.Context(), head, to, archive.RestoreOptions{Include: []string{"f02"}}, nil)
	check(t, err)
	got, err := os.ReadFile(filepath.Join(to, "f02"))
	check(t, err)
	want, err := os.ReadFile(filepath.Join(b.tree, "f02"))
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the file has other bytes")
	}
	named := false
	for _, f := range rep.Faults {
		named = named || f.Embassy == all[0].Name && f.What == "wrong bytes"
	}
	if !named || all[0].Proofs.Load() == 0 {
		t.Errorf("faults %v after %d questions for leaves", rep.Faults, all[0].Proofs.Load())
	}
}
