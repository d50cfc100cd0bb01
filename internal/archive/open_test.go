package archive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// However many files have pieces in several packs, and however many folders there are, few are open at a time.
func TestFewFilesAreOpenAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for i := range 3000 { // one and the same chunk, at the pack's beginning, and one of its own
			g.Folder(fmt.Sprintf("d%03d", i/10))
			g.Sparse(fmt.Sprintf("d%03d/f%d", i/10, i%10), 1<<20, map[int64][]byte{0: sim.Bytes(1, 4096), 1 << 19: sim.Bytes(uint64(i), 4096)})
		}
	})
	most := atomic.Int64{}
	b.backup()
	to := filepath.Join(sim.FastDir(t), "to")
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	b.state.Fail(sim.Slow(20 * time.Millisecond)) // so that what is open stays open long enough to be counted
	var p archive.Progress
	done := make(chan bool)
	go func() {
		defer close(done)
		for p.Files.Load() < 3000 && t.Context().Err() == nil {
			most.Store(max(most.Load(), int64(len(descriptors(t, to)))))
		}
	}()
	_, err = r.Restore(t.Context(), head, to, archive.RestoreOptions{Target: everything}, &p)
	check(t, err)
	<-done
	if n := most.Load(); n == 0 || n > 550 {
		t.Errorf("a restore held %d open", n)
	}
	b.same(b.tree, to)
}

// named is a name that does not compress.
func named(seed uint64) string {
	name := sim.Bytes(seed, 240)
	for j, c := range name {
		if c == 0 || c == '/' || c == '.' {
			name[j] = 'x'
		}
	}
	return string(name)
}

// Many folders of tiny files are many windows, and all their content is one pack: it is fetched once.
func TestAPackIsFetchedOnceForManyFolders(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for i := range 1500 {
			g.File(fmt.Sprintf("d%04d/f", i), []byte{byte(i), byte(i >> 8)})
		}
	})
	b.backup()
	before := b.state.Embassies[0].Count(sim.Get)
	b.comesBack("1", b.tree)
	if n := b.state.Embassies[0].Count(sim.Get) - before; n > 6 {
		t.Errorf("%d objects were fetched", n)
	}
}

// While the listing of one folder is read, those below it are fetched into the same memory. What is stored as it is,
// because it does not compress, must not change under the reader's eyes.
func TestAListingSurvivesThoseThatFollow(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for d := range 6 {
			folder := named(uint64(d))
			g.Folder(folder)
			for i := range 2500 {
				name := named(uint64(d*10000 + i + 100))
				g.Do(func() error { return os.WriteFile(g.Path(folder+"/"+name), nil, 0o600) })
			}
		}
	})
	b.backup()
	b.comesBack("1", b.tree)
}
