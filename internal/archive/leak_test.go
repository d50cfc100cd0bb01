package archive_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// descriptors counts what this process holds open below the folders of tests.
func descriptors(t *testing.T, below ...string) (found []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, e := range list {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue
		}
		for _, dir := range below {
			if strings.HasPrefix(to, dir) {
				found = append(found, to)
			}
		}
	}
	return found
}

// wide grows a tree with folders in folders and hard links across them, of more packs than are under way at once.
func wide(g *sim.Grower) {
	for i := range 20 {
		g.File(fmt.Sprintf("w/%02d/a/f", i), sim.Bytes(uint64(i), 70000))
		g.File(fmt.Sprintf("w/%02d/b", i), sim.Bytes(uint64(1000+i), 1<<20))
		g.File(fmt.Sprintf("w/%02d/c", i), sim.Bytes(uint64(2000+i), 1<<20))
	}
	for i := range 19 {
		g.Do(func() error { return os.Link(g.Path("w/00/b"), g.Path(fmt.Sprintf("w/%02d/link", i+1))) })
		g.Do(func() error { return os.Link(g.Path("w/19/a/f"), g.Path(fmt.Sprintf("w/%02d/a/up", i))) })
	}
}

func TestNothingStaysOpenAfterAnError(t *testing.T) {
	before := goleak.IgnoreCurrent()
	ways := map[string]func(b *bench, at int) (sim.Faults, context.Context){
		"error": func(b *bench, at int) (sim.Faults, context.Context) {
			return sim.NewCounter(at, func() error { return errPulled }).Faults(false), b.Context()
		},
		"given up": func(b *bench, at int) (sim.Faults, context.Context) {
			ctx, cancel := context.WithCancel(b.Context())
			return sim.NewCounter(at, func() error { cancel(); return ctx.Err() }).Faults(false), ctx
		},
	}
	for way, f := range ways {
		whole := newBench(t, 1, 2)
		whole.grow(wide)
		whole.backup()
		calls := []int{0, 2, 3, 5, 9}
		if testing.Short() {
			calls = []int{0, 3}
		}
		for _, at := range calls {
			b := newBench(t, 1, 2)
			b.tree = whole.tree
			faults, ctx := f(b, at)
			b.state.Fail(faults)
			if _, err := b.tryBackup(ctx); err == nil && at < 9 {
				t.Errorf("%s %d: backed up", way, at)
			}
			whole.state.Fail(sim.Faults{})
			r, err := whole.reader()
			check(t, err)
			head, err := r.Find("")
			check(t, err)
			faults, ctx = f(whole, at)
			whole.state.Fail(faults)
			to := sim.FastDir(t)
			_, err = r.Restore(ctx, head, to, archive.RestoreOptions{Target: everything}, nil)
			if err == nil && at < 3 {
				t.Errorf("%s %d: restored", way, at)
			}
			if err != nil {
				isEmpty(t, to)
			}
			r.Close()
			if open := descriptors(t, b.dir, b.tree, to, whole.dir); len(open) > 0 {
				t.Fatalf("%s %d: still open: %q", way, at, open)
			}
		}
	}
	if err := goleak.Find(before, goleak.IgnoreAnyFunction("testing.tRunner")); err != nil {
		t.Error(err)
	}
}

// A source that cannot be listed must not become a snapshot of nothing.
func TestASourceThatIsGoneIsNoSnapshot(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	if _, err := b.tryBackup(t.Context()); err == nil {
		t.Error("a folder that is not there was backed up")
	}
	if n := b.held(); n > 0 {
		t.Errorf("%d bytes are stored", n)
	}
}

// Two runs on one folder would make two heads of one number.
func TestASecondRunOnOneFolderIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(several)
	reached, on := make(chan bool, 100), make(chan bool)
	b.state.Embassies[0].Fail(sim.Faults{Before: func(ctx context.Context, c *sim.Call) error {
		if c.Op == sim.Receipts {
			reached <- true
			<-on
		}
		return nil
	}})
	done := make(chan error, 1)
	go func() { _, err := b.tryBackup(t.Context()); done <- err }()
	<-reached
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := b.tryBackup(ctx); err == nil {
		t.Error("a second backup ran beside the first")
	}
	close(on)
	check(t, <-done)
	b.comesBack("1", b.tree)
}
