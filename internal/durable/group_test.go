package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// groupIn makes a group on a new folder whose syncs are counted, and whose
// syncfs does what the test says.
func groupIn(t *testing.T, syncfs func() error) (g *Group, dir string) {
	t.Helper()
	dir = t.TempDir()
	g, err := NewGroup(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	g.shared, g.syncfs, g.dirty = true, syncfs, func() int64 { return 0 }
	return g, dir
}

// platter is what a disk would hold: what a sync has found in a folder.
type platter struct {
	dir string

	mu    sync.Mutex
	syncs int
	held  map[string]bool   // every content that was on disk at some time
	names map[string]string // what a crash now would leave
	early int               // names that came to disk when their bytes had not
}

// sync takes over what is in the folder now.
func (p *platter) sync() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	p.syncs++
	p.names = map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(p.dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // renamed meanwhile
		}
		if err != nil {
			return err
		}
		p.names[e.Name()] = string(data)
		if !IsTemp(e.Name()) && !p.held[string(data)] {
			p.early++
		}
	}
	for _, data := range p.names {
		p.held[data] = true
	}
	return nil
}

// storeMany stores n files at once, and returns how many were acknowledged that
// a crash right then would have lost. before runs before each Commit.
func storeMany(t *testing.T, g *Group, p *platter, n int, before func(f *File)) (lost int) {
	t.Helper()
	var missing atomic.Int64
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for i := range n {
		ended.Go(func() {
			name := fmt.Sprint(i)
			want := strings.Repeat(name+" ", 1000)
			f, err := g.CreateIn(p.dir, filepath.Join(p.dir, name), 0o600)
			if err == nil {
				_, err = f.Write([]byte(want))
			}
			begun.Done()
			if err != nil {
				t.Error(err)
				return
			}
			begun.Wait() // so that there are others to wait for
			before(f)
			if f.Commit() != nil {
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.names[name] != want {
				missing.Add(1)
			}
		})
	}
	ended.Wait()
	return int(missing.Load())
}

func TestAGroupAcknowledgesOnlyWhatACrashLeaves(t *testing.T) {
	const files = 60
	run := func(before func(*File), skip bool) (lost int, p *platter) {
		p = &platter{held: map[string]bool{}}
		g, dir := groupIn(t, func() error {
			if skip {
				return nil
			}
			return p.sync()
		})
		g.least, p.dir = 1, dir // no file syncs by itself, where the platter would not see it
		return storeMany(t, g, p, files, before), p
	}
	lost, p := run(func(*File) {}, false)
	if lost != 0 || p.early != 0 || len(p.names) != files {
		t.Errorf("%d lost, %d named before their bytes, %d of %d there", lost, p.early, len(p.names), files)
	}
	if p.syncs >= files {
		t.Errorf("%d syncs for %d files", p.syncs, files)
	}
	if lost, _ := run(func(*File) {}, true); lost != files {
		t.Errorf("control: with syncs that do nothing %d of %d are lost", lost, files)
	}
	hasty := func(f *File) {
		if err := os.Rename(f.temp, f.path); err != nil {
			t.Error(err)
		}
	}
	if _, p := run(hasty, false); p.early == 0 {
		t.Error("control: files that were named first are not noticed")
	}
}

func TestAFailedSyncFailsAllThatWasBegunBefore(t *testing.T) {
	var fail atomic.Bool
	g, dir := groupIn(t, func() error {
		if fail.Load() {
			return syscall.EIO
		}
		return nil
	})
	begin := func(name string) *File {
		f, err := g.CreateIn(dir, filepath.Join(dir, name), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	g.least = 1
	slow := begin("slow")
	fail.Store(true)
	if err := begin("struck").Commit(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the file that was synced: %v", err)
	}
	fail.Store(false)
	if err := slow.Commit(); err == nil {
		t.Error("the failure may have been this file's, and it is acknowledged")
	}
	if names := list(t, dir); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	if err := begin("later").Commit(); err != nil {
		t.Errorf("control: a file that was begun afterwards: %v", err)
	}
	if g.open != 0 {
		t.Errorf("%d files count as open", g.open)
	}
}

func TestFilesAreSyncedByThemselvesWhereAGroupIsNoGood(t *testing.T) {
	cases := map[string]struct {
		files, size int
		set         func(*Group)
		together    bool
	}{
		"control: many":      {30, 1000, func(*Group) {}, true},
		"one":                {1, 1000, func(*Group) {}, false},
		"large ones":         {30, groupMost + 1, func(*Group) {}, false},
		"a busy disk":        {30, 1000, func(g *Group) { g.dirty = func() int64 { return groupDirty + 1 } }, false},
		"another filesystem": {30, 1000, func(g *Group) { g.shared = false }, false},
	}
	for what, k := range cases {
		t.Run(what, func(t *testing.T) {
			var syncs atomic.Int64
			g, dir := groupIn(t, func() error { syncs.Add(1); return nil })
			k.set(g)
			var begun, ended sync.WaitGroup
			begun.Add(k.files)
			for i := range k.files {
				ended.Go(func() {
					f, err := g.CreateIn(dir, filepath.Join(dir, fmt.Sprint(i)), 0o600)
					begun.Done()
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := f.Write(make([]byte, k.size)); err != nil {
						t.Error(err)
					}
					begun.Wait()
					if err := f.Commit(); err != nil {
						t.Error(err)
					}
				})
			}
			ended.Wait()
			if names := list(t, dir); len(names) != k.files {
				t.Errorf("%d of %d files are there", len(names), k.files)
			}
			if (syncs.Load() > 0) != k.together {
				t.Errorf("%d syncs together", syncs.Load())
			}
		})
	}
}

// TestTheRealSyncfs goes the whole way to the disk, and to a closed folder.
func TestTheRealSyncfs(t *testing.T) {
	g, err := NewGroup(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.syncAll(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := g.syncAll(); err == nil {
		t.Error("control: a sync of a folder that is closed")
	}
	if _, err := NewGroup(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

func TestWhereSyncfsWillDo(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-fc": true, "5.8.0": true, "10.0": true, "5.7.99": false, "4.19.0-27-amd64": false, "": false, "linux": false,
	} {
		if reportsErrors(release) != want {
			t.Errorf("Linux %q: %v", release, !want)
		}
	}
	const nfs, fuse, ext4 = 0x6969, 0x65735546, 0xEF53
	if reachesDisk(nfs) || reachesDisk(fuse) || !reachesDisk(ext4) {
		t.Error("NFS, FUSE or ext4 is taken for something else")
	}
}

func TestDirtyBytesAreReadOrTakenForTooMany(t *testing.T) {
	for text, want := range map[string]int64{
		"MemFree: 1 kB\nDirty:   12 kB\nWriteback:   3 kB\nWritebackTmp: 9 kB\n": 15 << 10,
		"Dirty: 12 kB\n":                   groupDirty + 1,
		"":                                 groupDirty + 1,
		"Dirty: -12 kB\nWriteback: 3 kB\n": groupDirty + 1,
		"Dirty: 9999999999999 kB\nWriteback: 3 kB": groupDirty + 1,
	} {
		if got := parseDirty([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := dirtyBytes(); got < 0 {
		t.Errorf("%d bytes", got)
	}
}
