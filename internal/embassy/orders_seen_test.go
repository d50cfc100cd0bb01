package embassy

import (
	"errors"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// What an embassy keeps of an order proves to anyone that it waited: a cosigned tree from before it, one that holds it, one
// that was cosigned as much later as it was to wait and holds no removal, and one that holds its result. Also after a
// start, and whatever became of it since.
func TestHowLongAnOrderWaitedCanBeShownLater(t *testing.T) {
	t.Parallel()
	const wait = 3 * time.Second
	w := state3(t, 3, cooling(charter.ActRelease, "3s"))
	old := w.delivers(7, 1, 4)
	content, list := removalOf(t, 7, old)
	w.cosigned(0, 1)
	w.ordered(charter.ActRelease, content, list)
	w.sites[0].stop()
	w.start(0)
	if s := w.over(1); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	logged, first, ended := w.leavesOfOrder(1)
	agent := w.client(0, "agent")
	ended1 := func() error { _, err := agent.OrderCosigned(t.Context(), "1", seenEnded); return err }
	until(t, "its result is cosigned", func() bool {
		err := ended1()
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	})
	policy, err := w.state(0).inForce().charter.Policy()
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]ledger.Verdict{}
	for _, moment := range OrderMoments() {
		raw, err := agent.OrderCosigned(t.Context(), "1", moment)
		if err != nil {
			t.Fatalf("%s: %v", moment, err)
		}
		v, err := policy.Judge(raw, w.ch.Embassies[0].Log())
		if err != nil || !v.Enough {
			t.Fatalf("%s: %+v, %v", moment, v, err)
		}
		kept[moment] = v
	}
	if kept[seenBefore].Checkpoint.Size > logged || kept[seenLogged].Checkpoint.Size <= logged ||
		kept[seenActing].Checkpoint.Size > first || kept[seenEnded].Checkpoint.Size <= ended {
		t.Errorf("leaves %d, %d and %d, trees of %d, %d, %d and %d", logged, first, ended, kept[seenBefore].Checkpoint.Size,
			kept[seenLogged].Checkpoint.Size, kept[seenActing].Checkpoint.Size, kept[seenEnded].Checkpoint.Size)
	}
	last := w.state(0).orders.lastCosigned(kept[seenLogged].Checkpoint)
	if waited := kept[seenActing].Time.Sub(last); last.IsZero() || waited < wait {
		t.Errorf("what is kept proves that it waited %v, want %v", waited, wait)
	}
	for _, what := range [][2]string{{"1", "another"}, {"2", seenLogged}} {
		if _, err := agent.OrderCosigned(t.Context(), what[0], what[1]); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v: %v", what, err)
		}
	}
	if _, err := w.client(0, "nobody").OrderCosigned(t.Context(), "1", seenLogged); !errors.Is(err, ErrRefused) {
		t.Errorf("a stranger: %v", err)
	}
}

// leavesOfOrder are those of an order's record, of its first removal and of its result.
func (w *world) leavesOfOrder(n uint64) (logged, first, ended uint64) {
	w.t.Helper()
	size, err := w.state(0).journal.size(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.state(0).journal.each(w.t.Context(), 0, func(i uint64, l *ledger.Leaf) error {
		switch {
		case l.Slot.Sequence != n:
		case l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.OrderRecord:
			logged = i
		case l.Kind == ledger.RecordStored && l.Slot.Kind == ledger.ResultRecord:
			ended = i
		case l.Kind == ledger.ObjectRemoved && first == 0:
			first = i
		}
		return nil
	}, int(size)); err != nil {
		w.t.Fatal(err)
	}
	return logged, first, ended
}
