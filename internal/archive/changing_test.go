package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// blocked grows a tree whose first file is more than one pack, so that what happens when the first object is stored
// happens while that file is read, before the last folder is read, and after it was listed.
func blocked(g *sim.Grower) {
	g.File("a/growing", sim.Bytes(999, 40<<20))
	g.File("a/other", sim.Bytes(39, 1<<20))
	g.File("z/appended", []byte("before"))
	g.File("z/gone", []byte("gone"))
	g.File("z/large", sim.Bytes(500, 400000))
	g.File("z/replaced", []byte("a file"))
	g.File("z/same", []byte("same"))
	g.File("z/folder/gone", []byte("gone"))
}

func TestWhatChangesWhileItIsReadIsNotedAndHurtsNothingElse(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(blocked)
	var once sync.Once
	b.state.Embassies[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Put {
			once.Do(func() {
				b.grow(func(g *sim.Grower) {
					g.Do(func() error { return os.Remove(g.Path("z/gone")) })
					g.Do(func() error { return os.Remove(g.Path("z/replaced")) })
					g.Do(func() error { return os.Symlink("elsewhere", g.Path("z/replaced")) })
					g.File("z/appended", []byte("before and after"))
					g.Do(func() error { return os.Truncate(g.Path("a/growing"), 50<<20) })
				})
			})
		}
		return nil
	}})
	rep := b.backup()
	got := map[string]bool{}
	for _, p := range rep.Problems {
		got[p.Path] = true
	}
	if want := map[string]bool{"z/gone": true, "z/replaced": true, "a/growing": true}; !maps.Equal(got, want) {
		t.Errorf("problems: %v, want %v", rep.Problems, want)
	}
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	payload, err := r.Payload(head)
	check(t, err)
	problems, err := r.Problems(t.Context(), payload)
	check(t, err)
	if len(problems) != len(rep.Problems) || uint64(len(problems)) != payload.ProblemCount {
		t.Errorf("the snapshot tells of %v, the report of %v", problems, rep.Problems)
	}
	to, back, err := b.restore("", archive.RestoreOptions{Include: []string{"z", "a"}})
	check(t, err)
	if len(back.Marked) != 2 { // z/replaced has no content any more
		t.Errorf("marked: %v", back.Marked)
	}
	for path, want := range map[string][]byte{
		"z/same": []byte("same"), "z/large": sim.Bytes(500, 400000), "z/appended": []byte("before and after"), "a/other": sim.Bytes(39, 1<<20),
	} {
		if data, err := os.ReadFile(filepath.Join(to, path)); err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "z/gone")); err == nil {
		t.Error("z/gone came back")
	}
	before := b.state.Embassies[0].Received()
	b.state.Fail(sim.Faults{})
	b.backup()
	if more := b.state.Embassies[0].Received() - before; more > 52<<20 {
		t.Errorf("the next backup sent %d bytes", more)
	}
	b.comesBack("2", b.tree)
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
