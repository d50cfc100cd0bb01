package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// What changes while it is read is marked, or read as one state; nothing else is hurt; and the next backup has it
// right. The first pack is full, and its storing changes the tree, while the first files are still being read.
func TestWhatChangesWhileItIsReadIsNotedAndHurtsNothingElse(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for i := range 4 {
			g.File(fmt.Sprintf("a/changing%d", i), sim.Bytes(uint64(900+i), 20<<20))
		}
		g.File("a/other", sim.Bytes(39, 1<<20))
		g.File("z/appended", []byte("before"))
		g.File("z/gone", []byte("gone"))
		g.File("z/replaced", []byte("a file"))
		g.File("z/same", []byte("same"))
		g.File("z/folder/same", []byte("same"))
	})
	before := filepath.Join(filepath.Dir(b.tree), "before")
	check(t, os.CopyFS(before, os.DirFS(b.tree)))
	var once sync.Once
	var p archive.Progress
	b.state.Embassies[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op != sim.Put {
			return nil
		}
		once.Do(func() {
			for p.Folders.Load() < 4 { // until the walk has seen everything
				runtime.Gosched()
			}
			b.grow(func(g *sim.Grower) {
				g.Do(func() error { return os.Remove(g.Path("z/gone")) })
				g.Do(func() error { return os.Remove(g.Path("z/replaced")) })
				g.Do(func() error { return os.Symlink("elsewhere", g.Path("z/replaced")) })
				g.File("z/appended", []byte("before and after"))
				for i := range 4 { // of the same size, at a place that was read
					g.Do(func() error { return overwrite(g.Path(fmt.Sprintf("a/changing%d", i))) })
				}
			})
		})
		return nil
	}})
	rep, err := archive.Backup(t.Context(), b.reg(), b.state.Agent, b.source(), &p)
	check(t, err)
	noted := map[string]bool{}
	for _, x := range rep.Problems {
		noted[x.Path] = true
	}
	if len(noted) == 0 {
		t.Error("nothing was noted")
	}
	b.tellsOf(rep)
	to := b.restoreTo("")
	check(t, filepath.WalkDir(before, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(before, path)
		check(t, err)
		old, _ := os.ReadFile(path)
		now, _ := os.ReadFile(filepath.Join(b.tree, rel)) // what is gone is empty
		got, _ := os.ReadFile(filepath.Join(to, rel))
		if !noted[rel] && !bytes.Equal(got, old) && !bytes.Equal(got, now) {
			t.Errorf("%s came back as it never was, and nothing was noted", rel)
		}
		return nil
	}))
	b.state.Fail(sim.Faults{})
	b.backup()
	b.comesBack("2", b.tree)
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("changed"), 0)
	return errors.Join(err, f.Close())
}

// tellsOf checks that a snapshot lists the problems that its report lists.
func (b *bench) tellsOf(rep *archive.BackupReport) {
	b.Helper()
	r, err := b.reader()
	check(b, err)
	defer r.Close()
	head, err := r.Find(rep.Snapshot)
	check(b, err)
	payload, err := r.Payload(head)
	check(b, err)
	problems, err := r.Problems(b.Context(), payload)
	check(b, err)
	if !slices.Equal(problems, rep.Problems) || uint64(len(problems)) != payload.ProblemCount {
		b.Errorf("the snapshot tells of %v, the report of %v", problems, rep.Problems)
	}
}

// Seven reads of one inode would also restore right; that it is read once is what the counters tell.
func TestAnInodeIsReadOnceUnderAllItsNames(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		g.File("a/one", sim.Bytes(1, 600000))
		g.File("b/small", []byte("small"))
		for i := range 6 {
			g.Folder(fmt.Sprintf("c%d", i))
			g.Do(func() error { return os.Link(g.Path("a/one"), g.Path(fmt.Sprintf("c%d/one", i))) })
			g.Do(func() error { return os.Link(g.Path("b/small"), g.Path(fmt.Sprintf("c%d/small", i))) })
		}
	})
	rep := b.backup()
	if rep.Stats.NewBytes > 700000 || rep.Stats.Files != 14 {
		t.Errorf("%+v", rep.Stats)
	}
	b.comesBack("1", b.tree)
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	if n := len(maps.Collect(maps.All(b.listed(r, "1")))); n != 22 {
		t.Errorf("%d entries", n)
	}
}
