package archive_test

import (
	"context"
	"fmt"
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
		for i := range 900 {
			g.Folder(fmt.Sprintf("d%03d", i))
			g.Sparse(fmt.Sprintf("d%03d/f", i), 1<<20, map[int64][]byte{0: sim.Bytes(uint64(i), 4096), 1 << 19: sim.Bytes(uint64(i+5000), 4096)})
		}
	})
	most := atomic.Int64{}
	count := func(below string) func(context.Context, *sim.Call) error {
		return func(context.Context, *sim.Call) error {
			most.Store(max(most.Load(), int64(len(descriptors(t, below)))))
			return nil
		}
	}
	b.state.Fail(sim.Faults{Before: count(b.tree)})
	b.backup()
	if n := most.Swap(0); n == 0 || n > 200 {
		t.Errorf("a backup held %d open", n)
	}
	to := filepath.Join(fastDir(t), "to")
	b.state.Fail(sim.Faults{Before: count(to)})
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	head, err := r.Find("")
	check(t, err)
	var p archive.Progress
	_, err = r.Restore(t.Context(), head, to, archive.RestoreOptions{Target: everything}, &p)
	check(t, err)
	if n := most.Load(); n == 0 || n > 1000 {
		t.Errorf("a restore held %d open", n)
	}
	if stored := p.Stored.Load(); stored > 3*16<<20 {
		t.Errorf("packs of %d bytes were fetched, some many times", stored)
	}
	b.same(b.tree, to)
}
