package filetree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file of 1 TiB with three places of data is read, written and compared in an instant.
func TestSparseFileCostsOnlyItsData(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 40
	check(t, os.Mkdir(dir+"/a", 0o755))
	f, err := os.Create(dir + "/a/sparse")
	check(t, err)
	for _, off := range []int64{1 << 20, 1 << 30, 700 << 30} {
		must(f.WriteAt(slices.Repeat([]byte{7}, 8192), off))(t)
	}
	check(t, f.Truncate(size))
	check(t, f.Close())
	write(t, dir+"/a/hole", "")
	check(t, os.Truncate(dir+"/a/hole", 123_456_789))

	start := time.Now()
	s := openSource(t, dir+"/a")
	o := must(s.Root().OpenFile("sparse", find(t, s.Root(), "sparse").Stat))(t)
	want := []Range{{1 << 20, 8192}, {1 << 30, 8192}, {700 << 30, 8192}}
	if got := must(o.Extents(nil))(t); !slices.Equal(got, want) {
		t.Errorf("extents %v", got)
	}
	check(t, o.Close())
	o = must(s.Root().OpenFile("hole", find(t, s.Root(), "hole").Stat))(t)
	if got := must(o.Extents(nil))(t); len(got) != 0 {
		t.Errorf("extents of a hole %v", got)
	}
	check(t, o.Close())
	var w warnings
	copyTree(t, dir+"/a", dir+"/b", everything(&w))
	w.expect(t)
	identical(t, dir+"/a", dir+"/b")
	var st unix.Stat_t
	check(t, unix.Stat(dir+"/b/sparse", &st))
	if st.Size != size || st.Blocks > 200 {
		t.Errorf("restored: %d bytes in %d blocks", st.Size, st.Blocks)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("took %v", d)
	}
	// control: a byte in what is a hole in the one only is found
	keepTime(t, dir+"/b/sparse", func() {
		f, err = os.OpenFile(dir+"/b/sparse", os.O_WRONLY, 0)
		check(t, err)
		must(f.WriteAt([]byte{1}, 500<<30))(t)
		check(t, f.Close())
	})
	expectDiff(t, dir, CompareOptions{}, "sparse", "content: byte 536870912000 is 0x00 and 0x01")
}

func openFiles(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(e)
}

// 2,000 levels, a path of 22,000 bytes, few descriptors.
func TestDeepTree(t *testing.T) {
	dir := fastDir(t)
	const levels = 2000
	tg := createTarget(t, dir+"/a", TargetOptions{})
	places := []*Place{tg.Root()}
	for i := range levels {
		places = append(places, must(places[i].Mkdir(fmt.Sprintf("level %04d", i)))(t))
	}
	for i, p := range slices.Backward(places) {
		o := must(p.CreateFile("file", 4))(t)
		must(o.WriteAt([]byte("text"), 0))(t)
		check(t, o.Finish(Meta{Mode: 0o644, ModSec: int64(i)}))
		check(t, p.Finish(Meta{Mode: 0o755, ModSec: int64(i)}))
	}
	check(t, tg.Close())

	before, most, deepest := openFiles(t), 0, 0
	c := copier{t: t, refs: map[inode]LinkRef{}}
	c.depth = func(d int) {
		deepest = max(deepest, d)
		if d%100 == 0 {
			most = max(most, openFiles(t)-before)
		}
	}
	var w warnings
	c.run(dir+"/a", dir+"/b", everything(&w))
	w.expect(t)
	if deepest != levels || most > 2*maxOpen+20 {
		t.Errorf("%d levels with %d descriptors", deepest, most)
	}
	identical(t, dir+"/a", dir+"/b")
	if now := openFiles(t); now > before {
		t.Errorf("%d descriptors left open", now-before)
	}
}

// A folder far up is usable while its descriptor is parked, from any goroutine; when another
// folder has taken its place, it is not.
func TestParkedFolder(t *testing.T) {
	for name, c := range map[string]struct {
		swap func(dir string)
		want error
	}{
		"as it was": {func(string) {}, nil},
		"replaced by a symlink to itself": {func(dir string) {
			check(t, os.Rename(dir+"/0/1/2", dir+"/moved"))
			check(t, os.Symlink(dir+"/moved", dir+"/0/1/2"))
		}, ErrChanged},
		"replaced by another folder": {func(dir string) {
			check(t, os.Rename(dir+"/0/1/2", dir+"/moved"))
			check(t, os.Mkdir(dir+"/0/1/2", 0o755))
		}, ErrChanged},
		"gone": {func(dir string) { check(t, os.Rename(dir+"/0/1/2", dir+"/moved")) }, ErrVanished},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/t"
			tg := createTarget(t, dir, TargetOptions{})
			places := []*Place{tg.Root()}
			for i := range maxOpen + 20 {
				places = append(places, must(places[i].Mkdir(strconv.Itoa(i)))(t))
			}
			if places[4].h.fd >= 0 {
				t.Fatal("not parked: the test proves nothing")
			}
			c.swap(dir)
			_, err := places[4].CreateFile("x", 0)
			if !errors.Is(err, c.want) {
				t.Errorf("create: %v", err)
			}
			if err == nil {
				_, err = os.Lstat(dir + "/0/1/2/3/x")
				check(t, err)
			}
			for _, p := range slices.Backward(places) { // one step up still leads to the right place
				check(t, p.Close())
				if p == places[5] && places[4].h.fd < 0 {
					t.Error("the parent was not opened again")
				}
			}
		})
	}
}

// Several goroutines use all folders of a path at once while they are parked and opened again.
func TestFoldersOfOnePathFromSeveralGoroutines(t *testing.T) {
	dir := fastDir(t) + "/t"
	tg := createTarget(t, dir, TargetOptions{})
	places := []*Place{tg.Root()}
	var wg sync.WaitGroup
	for i := range maxOpen + 40 {
		places = append(places, must(places[i].Mkdir(strconv.Itoa(i)))(t))
		if i%40 != 0 {
			continue
		}
		now := slices.Clone(places)
		wg.Go(func() {
			for _, p := range now {
				o, err := p.CreateFile(fmt.Sprintf("file %d", i), 0)
				if err == nil {
					err = o.Finish(Meta{Mode: 0o600})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range slices.Backward(places) {
		check(t, p.Finish(Meta{Mode: 0o700}))
	}
	s := openSource(t, dir)
	if items := must(s.Root().List(nil))(t); len(items) != 6 {
		t.Errorf("%d entries at the top", len(items))
	}
}

func TestManyEntriesInOneFolder(t *testing.T) {
	dir := fastDir(t)
	const n = 100_000
	check(t, os.Mkdir(dir+"/a", 0o755))
	for i := range n { // links, as some file systems are slow in making files, and allow 65,000 links
		first := dir + "/a/" + strconv.Itoa(i%4)
		if i < 4 {
			write(t, first, "")
			continue
		}
		check(t, os.Link(first, dir+"/a/"+strconv.Itoa(i)))
	}
	s := openSource(t, dir+"/a")
	items := must(s.Root().List(nil))(t)
	if len(items) != n || !slices.IsSortedFunc(items, func(a, b Item) int {
		if a.Err != nil || a.Name >= b.Name {
			return 1
		}
		return -1
	}) {
		t.Errorf("%d entries", len(items))
	}
	allocs := testing.AllocsPerRun(1, func() { items, _ = s.Root().List(items) }) // into the same buffer
	if allocs > n/100 {                                                           // the counter is the whole process's, so a few are always others'
		t.Errorf("%v allocations for %d entries", allocs, n)
	}
}
