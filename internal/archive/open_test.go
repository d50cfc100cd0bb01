package archive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// However many files have pieces in several packs, and however many folders there are, few are open at a time.
func TestFewFilesAreOpenAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for i := range 1500 { // one and the same chunk, and one of its own
			g.Folder(fmt.Sprintf("d%03d", i/10))
			g.Sparse(fmt.Sprintf("d%03d/f%d", i/10, i%10), 1<<20, map[int64][]byte{0: sim.Bytes(1, 4096), 1 << 19: sim.Bytes(uint64(i), 4096)})
		}
	})
	most := atomic.Int64{}
	b.backup()
	to := filepath.Join(fastDir(t), "to")
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	var p archive.Progress
	done := make(chan bool)
	go func() {
		defer close(done)
		for p.Files.Load() < 1500 && t.Context().Err() == nil {
			most.Store(max(most.Load(), int64(len(descriptors(t, to)))))
		}
	}()
	_, err = r.Restore(t.Context(), head, to, archive.RestoreOptions{Target: everything}, &p)
	check(t, err)
	<-done
	if n := most.Load(); n == 0 || n > 800 {
		t.Errorf("a restore held %d open", n)
	}
	if stored := p.Stored.Load(); stored > 3*16<<20 {
		t.Errorf("packs of %d bytes were fetched, some many times", stored)
	}
	b.same(b.tree, to)
}

// While the listing of one folder is read, those below it are fetched into the same memory. What is stored as it is,
// because it does not compress, must not change under the reader's eyes.
func TestAListingSurvivesThoseThatFollow(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(func(g *sim.Grower) {
		for d := range 6 {
			g.Folder(fmt.Sprint(d))
			for i := range 2500 {
				name := sim.Bytes(uint64(d*10000+i), 240)
				for j, c := range name {
					if c == 0 || c == '/' {
						name[j] = 'x'
					}
				}
				g.Do(func() error { return os.WriteFile(g.Path(fmt.Sprint(d)+"/"+string(name)), nil, 0o600) })
			}
		}
	})
	b.backup()
	b.comesBack("1", b.tree)
}
