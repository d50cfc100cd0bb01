package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/sim"
)

// small grows a tree of a few dozen files in a few folders, with some larger ones.
func small(g *sim.Grower) {
	for i := range 30 {
		g.File(fmt.Sprintf("docs/d%d/f%02d", i%5, i), sim.Text(uint64(i), 200+i*91))
	}
	g.File("docs/d0/more/deep", sim.Text(77, 999))
	g.File("big/one", sim.Bytes(1, 700000))
	g.File("big/two", sim.Bytes(2, 300000))
	g.File("big/text", sim.Text(3, 1500000))
	g.Folder("empty")
	for _, rel := range []string{"docs/d2/f07", "docs/d0/more", "docs/d3/f08", "big/text"} {
		g.Do(func() error { return unix.Setxattr(g.Path(rel), "user.kept", []byte(rel), 0) })
	}
	g.Do(func() error { return os.Symlink("docs", g.Path("link")) })
	g.Do(func() error { return os.Link(g.Path("docs/d1/f01"), g.Path("big/f01")) })
}

func TestAnUnchangedTreeSendsNoDataTwice(t *testing.T) {
	t.Parallel()
	const damaged = "a byte of the file of what was seen"
	lose := map[string]func(b *bench) error{
		"nothing":                   func(*bench) error { return nil },
		"the file of what was seen": func(b *bench) error { return os.Remove(filepath.Join(b.dir, "seen")) },
		"the index":                 func(b *bench) error { return os.RemoveAll(filepath.Join(b.dir, "index")) },
		"the heads":                 func(b *bench) error { return os.RemoveAll(filepath.Join(b.dir, "heads")) },
		"everything: a new agent":   func(b *bench) error { return os.RemoveAll(b.dir) },
		damaged: func(b *bench) error {
			path := filepath.Join(b.dir, "seen")
			data, err := os.ReadFile(path)
			data[len(data)/3] ^= 1
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		},
	}
	for what, f := range lose {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 2, 3)
			b.grow(small)
			first := b.backup()
			if first.Packs == 0 || first.StoredBytes == 0 || first.Stats.Files != 35 {
				t.Fatalf("first backup: %+v", first)
			}
			check(t, f(b))
			sent := b.state.Received()
			second := b.backup()
			most := int64(0)
			if what == damaged { // one folder is read anew, alone: where files share chunks they then share others
				most = 4 * 3 << 15
			}
			if b.state.Received()-sent > most {
				t.Errorf("second backup made %d packs and sent %d bytes", second.Packs, b.state.Received()-sent)
			}
			if what == "nothing" && second.Stats.Unchanged != second.Stats.Files {
				t.Errorf("%d of %d files were left alone", second.Stats.Unchanged, second.Stats.Files)
			}
			b.comesBack("1", b.tree)
			b.comesBack("2", b.tree)
		})
	}
}

func TestANewAgentCannotOpenWhatItRebuilt(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(small)
	b.backup()
	other, err := seal.NewPrivateKey([32]byte{1})
	check(t, err)
	if _, err := archive.OpenReader(t.Context(), b.reg(), b.state.Agent, other); !errors.Is(err, archive.ErrNotRegister) {
		t.Errorf("another key opens the register: %v", err)
	}
	// The index key, which agents hold, opens index packs and nothing else: no data pack is sealed under it.
	b.comesBack("1", b.tree) // the control: the register's own key does open it
}

// changes are what may happen to a tree, and what a comparison of the two snapshots must say, no more and no less.
var changes = []struct {
	what string
	do   func(g *sim.Grower)
	want map[string]string
}{
	{"content", func(g *sim.Grower) { g.File("docs/d2/f02", []byte("other")) }, map[string]string{
		"docs/d2/f02": "changed",
	}},
	{"a new file", func(g *sim.Grower) { g.File("docs/d2/zz", []byte("new")) }, map[string]string{
		"docs/d2/zz": "added", "docs/d2": "attributes",
	}},
	{"a file gone", func(g *sim.Grower) { g.Do(func() error { return os.Remove(g.Path("docs/d2/f02")) }) }, map[string]string{
		"docs/d2/f02": "removed", "docs/d2": "attributes",
	}},
	{"mode only", func(g *sim.Grower) { g.Do(func() error { return os.Chmod(g.Path("big/one"), 0o400) }) }, map[string]string{
		"big/one": "attributes",
	}},
	{"time only", func(g *sim.Grower) {
		g.Do(func() error { return os.Chtimes(g.Path("big/one"), time.Time{}, time.Unix(42, 42)) })
	}, map[string]string{"big/one": "attributes"}},
	{"attribute only", func(g *sim.Grower) {
		g.Do(func() error { return unix.Setxattr(g.Path("big/two"), "user.x", []byte("y"), 0) })
	}, map[string]string{"big/two": "attributes"}},
	{"attribute of a folder", func(g *sim.Grower) {
		g.Do(func() error { return unix.Setxattr(g.Path("docs/d0/more"), "user.x", []byte("y"), 0) })
	}, map[string]string{"docs/d0/more": "attributes"}},
	{"a folder touched", func(g *sim.Grower) {
		g.Do(func() error { return os.Chtimes(g.Path("docs/d0"), time.Time{}, time.Unix(9, 9)) })
	}, map[string]string{"docs/d0": "attributes"}},
	{"a folder renamed", func(g *sim.Grower) {
		g.Do(func() error { return os.Rename(g.Path("docs/d0/more"), g.Path("docs/d0/less")) })
	}, map[string]string{
		"docs/d0": "attributes", "docs/d0/more": "removed", "docs/d0/more/deep": "removed", "docs/d0/less": "added", "docs/d0/less/deep": "added",
	}},
	{"a link to another place", func(g *sim.Grower) {
		g.Do(func() error { return os.Remove(g.Path("link")) })
		g.Do(func() error { return os.Symlink("big", g.Path("link")) })
		g.Do(func() error { return os.Chtimes(g.Root, time.Time{}, time.Unix(3, 3)) })
	}, map[string]string{"link": "changed"}},
	{"a file becomes a folder", func(g *sim.Grower) {
		g.Do(func() error { return os.Remove(g.Path("big/two")) })
		g.File("big/two/inside", []byte("x"))
	}, map[string]string{"big": "attributes", "big/two": "changed", "big/two/inside": "added"}},
	{"a further name of a file", func(g *sim.Grower) {
		g.Do(func() error { return os.Link(g.Path("big/one"), g.Path("big/uno")) })
	}, map[string]string{"big": "attributes", "big/one": "attributes", "big/uno": "added"}},
}

func TestASnapshotShowsExactlyWhatChanged(t *testing.T) {
	t.Parallel()
	for _, c := range changes {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 1, 1)
			b.grow(small)
			b.backup()
			before := filepath.Join(t.TempDir(), "before")
			r, err := b.reader()
			check(t, err)
			head, err := r.Find("1")
			check(t, err)
			_, err = r.Restore(t.Context(), head, before, archive.RestoreOptions{Target: everything}, nil)
			check(t, err)
			r.Close()

			sent := b.state.Received()
			b.grow(c.do)
			b.backup()
			if more := b.state.Received() - sent; more > 3*64<<10 {
				t.Errorf("%d bytes were sent for a small change", more)
			}
			b.comesBack("2", b.tree)
			b.comesBack("1", before)
			if got := b.diff("1", "2"); !maps.Equal(got, c.want) {
				t.Errorf("the difference is %v, want %v", got, c.want)
			}
		})
	}
}

func (b *bench) diff(from, to string) map[string]string {
	b.Helper()
	r, err := b.reader()
	check(b, err)
	defer r.Close()
	x, err := r.Find(from)
	check(b, err)
	y, err := r.Find(to)
	check(b, err)
	got := map[string]string{}
	check(b, r.Diff(b.Context(), x, y, func(path, what string) error {
		got[path] = what
		return nil
	}))
	return got
}

// A file that changes within the clock's tick in which it was backed up keeps its change time. So what was changed
// that lately is never left alone by the next backup. The control takes every time for settled.
func TestWhatChangedLatelyIsReadAgain(t *testing.T) {
	t.Parallel()
	for _, defence := range []bool{true, false} {
		b := newBench(t, 1, 1)
		b.grow(func(g *sim.Grower) { g.File("f", []byte("aaaa")) })
		src := b.source()
		if defence {
			src = archive.Source{Path: b.tree}
		}
		for range 2 {
			rep, err := archive.Backup(t.Context(), b.reg(), b.state.Agent, src, nil)
			check(t, err)
			if rep.Sequence == 2 && (rep.Stats.Unchanged == 0) != defence {
				t.Errorf("defence %v: %d files were left alone", defence, rep.Stats.Unchanged)
			}
		}
	}
}

func TestRulesAndOtherThingsLeftOutAreCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(small)
	rules, err := filetree.ParseRules([]string{"/docs/d1/", "*/two"})
	check(t, err)
	src := b.source()
	src.Rules = rules
	rep, err := archive.Backup(t.Context(), b.reg(), b.state.Agent, src, nil)
	check(t, err)
	if rep.Excluded.Count != 8 || rep.Excluded.Bytes == 0 {
		t.Errorf("left out: %+v", rep.Excluded)
	}
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	for path := range b.listed(r, "1") {
		if rules.Excluded(path, true) {
			t.Errorf("%s is in the snapshot", path)
		}
	}
}

func TestOnlyWhatIsAskedForIsRestored(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(small)
	b.backup()
	to, _, err := b.restore("", archive.RestoreOptions{Include: []string{"docs/d1", "/big//f01"}})
	check(t, err)
	var got []string
	check(t, filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(to, path); err == nil && !d.IsDir() {
			got = append(got, rel)
		}
		return err
	}))
	want := []string{"big/f01", "docs/d1/f01", "docs/d1/f06", "docs/d1/f11", "docs/d1/f16", "docs/d1/f21", "docs/d1/f26"}
	if !slices.Equal(got, want) {
		t.Errorf("restored %q, want %q", got, want)
	}
	a, err := os.ReadFile(filepath.Join(to, "docs/d1/f01"))
	check(t, err)
	if !bytes.Equal(a, sim.Text(1, 291)) {
		t.Error("a restored file has other bytes")
	}
	to, _, err = b.restore("", archive.RestoreOptions{Include: []string{"docs", "nowhere"}})
	if !errors.Is(err, archive.ErrNoPath) {
		t.Errorf("a path that is not there: %v", err)
	}
	isEmpty(t, to)
}

func isEmpty(t *testing.T, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(list) > 0 {
		t.Errorf("%s holds %v (%v)", dir, list, err)
	}
}
