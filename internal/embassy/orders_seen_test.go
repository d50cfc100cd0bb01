package embassy

import (
	"errors"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
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
	until(t, "its result is cosigned", func() bool {
		s, err := agent.Order(t.Context(), "1")
		if err != nil {
			t.Fatal(err)
		}
		return slices.Equal(s.Cosigned, OrderMoments())
	})
	policy, err := w.state(0).inForce().charter.Policy()
	if err != nil {
		t.Fatal(err)
	}
	notes := map[string]ledger.Verdict{}
	for _, moment := range OrderMoments() {
		raw, err := agent.OrderCosigned(t.Context(), "1", moment)
		if err != nil {
			t.Fatalf("%s: %v", moment, err)
		}
		v, err := policy.Judge(raw, w.ch.Embassies[0].Log())
		if err != nil || !v.Enough {
			t.Fatalf("%s: %+v, %v", moment, v, err)
		}
		notes[moment] = v
	}
	if notes[seenBefore].Checkpoint.Size > logged || notes[seenLogged].Checkpoint.Size <= logged ||
		notes[seenActing].Checkpoint.Size > first || notes[seenEnded].Checkpoint.Size <= ended {
		t.Errorf("leaves %d, %d and %d, trees of %d, %d, %d and %d", logged, first, ended, notes[seenBefore].Checkpoint.Size,
			notes[seenLogged].Checkpoint.Size, notes[seenActing].Checkpoint.Size, notes[seenEnded].Checkpoint.Size)
	}
	last := w.state(0).orders.lastCosigned(kept{raw: notes[seenLogged].Checkpoint.Raw, time: notes[seenLogged].Time})
	if waited := notes[seenActing].Time.Sub(last); last.IsZero() || waited < wait {
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

// What removes waits for a cosigned checkpoint that proves that it waited, and not for a time that it knows of otherwise;
// what does not remove acts by that time, and the checkpoints of its record and result are kept like the others'.
func TestNothingIsRemovedBeforeACheckpointProvesThatItWaited(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, func(c *charter.Charter) {
		cooling(charter.ActRelease, "30m")(c)
		cooling(charter.ActHold, "30m")(c)
	})
	old := w.delivers(7, 1, 4)
	w.cosigned(0, 1)
	content, list := removalOf(t, 7, old)
	w.ordered(charter.ActRelease, content, list)
	clock := w.state(0).clock
	until(t, "the release is witnessed", func() bool {
		_, ok := clock.covered(w.state(0).orders.bySequence(1).leaf)
		return ok
	})
	for n := range uint64(2) {
		w.ordered(charter.ActHold, order.Content{Register: charter.RegisterID{8}, Label: "sea", Hold: string(rune('a' + n))})
		hold := w.state(0).orders.bySequence(2 + n)
		for _, later := range []time.Duration{time.Second, time.Hour} {
			now, _ := clock.now()
			clock.note(hold.leaf+1, now.Add(later))
		}
		until(t, "the hold is over", func() bool {
			return w.state(0).orders.standing(hold).Status.Over()
		})
	}
	// Each look goes through the orders in their sequence: the second hold acted in one that began after the first had, and
	// with it after the time at which the release was due.
	if x := w.state(0).orders.bySequence(1); w.state(0).orders.standing(x).Status != order.Effective {
		t.Fatalf("the release is %v: its time has come, and no checkpoint proves it", w.state(0).orders.standing(x).Status)
	}
	if n := w.held(old); n != len(old) {
		t.Errorf("%d of %d objects are left, and no checkpoint proves that half an hour went by", n, len(old))
	}
	until(t, "what is kept of a hold", func() bool {
		s, err := w.client(0, "agent").Order(t.Context(), "2")
		if err != nil {
			t.Fatal(err)
		}
		return slices.Equal(s.Cosigned, []string{seenBefore, seenLogged, seenEnded})
	})
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
