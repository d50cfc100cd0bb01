package embassy

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// child serves embassy 0 of the world in a process of its own.
func (w *world) child() (*exec.Cmd, *site) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "CHANCERY_TEST_EMBASSY="+w.dirs[0])
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		w.t.Fatal(err)
	}
	return cmd, &site{server: &Server{key: w.keys[0]}, addr: strings.TrimSpace(addr)}
}

// An embassy that is killed again and again while it carries out a release does it once, whole, and nothing else.
func TestAKilledReleaseGoesOn(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	names, kept := w.delivers(7, 1, 600), w.delivers(7, 2, 20)
	content, list := removalOf(t, 7, names)
	_, rec := w.given(w.drafted(charter.ActRelease, content), [][]byte{list}, "mari", "jaan")
	paths := make([]string, len(names))
	for i, n := range names {
		paths[i] = w.state(0).store.path(n)
	}
	left := func() (n int) {
		for _, p := range paths {
			if _, err := os.Lstat(p); err == nil {
				n++
			}
		}
		return n
	}
	w.sites[0].stop()
	kills := 0
	for _, when := range []int{600, 599, 500, 350, 200, 60, 1} { // files that are left when it is killed
		cmd, s := w.child()
		if _, err := s.client(t, "nobody").PutOrder(t.Context(), rec, list); err != nil {
			t.Errorf("brought again: %v", err)
		}
		end := time.Now().Add(60 * time.Second)
		for left() > when && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		if now := left(); now > 0 {
			kills++
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // killed
	}
	if kills < 3 {
		t.Errorf("it was killed %d times before it was through", kills)
	}
	w.start(0)
	if s := w.over(1); s.Status != "done" || s.Objects != 600 || s.Freed != 360_000 {
		t.Errorf("%+v", s)
	}
	if left() != 0 || w.held(names) != 0 || w.held(kept) != 20 {
		t.Errorf("%d files, %d and %d objects are left", left(), w.held(names), w.held(kept))
	}
	removals, orders, results := map[shard.Name]int{}, 0, 0
	size, err := w.state(0).journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.state(0).journal.each(t.Context(), 0, func(_ uint64, l *ledger.Leaf) error {
		switch {
		case l.Kind == ledger.ObjectRemoved:
			removals[l.Name]++
			if orders == 0 || results > 0 {
				t.Error("a removal outside of its order")
			}
		case l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.OrderRecord:
			orders++
		case l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.ResultRecord:
			results++
		}
		return nil
	}, int(size))
	if err != nil || len(removals) != 600 || orders != 1 || results != 1 {
		t.Errorf("%d removed, %d orders, %d results, %v", len(removals), orders, results, err)
	}
	for name, n := range removals {
		if n != 1 {
			t.Errorf("%s was removed %d times", name, n)
		}
	}
	if _, err := os.Lstat(filepath.Join(w.state(0).dir, "orders", "1", "acting")); errors.Is(err, fs.ErrNotExist) {
		t.Error("control: it never said that it acts")
	}
}
