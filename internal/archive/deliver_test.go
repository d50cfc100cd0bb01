package archive_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/sim"
)

// delivered reads every delivery that an embassy holds, and fails for one that does not hold.
func delivered(b *bench, e *sim.Embassy, head uint64) map[[32]byte]bool {
	b.Helper()
	out := map[[32]byte]bool{}
	list, err := e.ListRecords(b.Context(), ledger.DeliveryRecord, [16]byte(b.reg().ID), 0)
	check(b, err)
	for _, info := range list {
		raw, err := e.GetRecord(b.Context(), info.Slot)
		check(b, err)
		d, err := ledger.ParseDelivery(raw)
		check(b, err)
		check(b, d.Verify())
		if d.Slot() != info.Slot || d.Embassy != [16]byte(e.ID) || d.State != b.reg().State || d.Part >= d.Parts {
			b.Errorf("a delivery of something else: %v", info.Slot)
		}
		if d.Head != head {
			continue
		}
		for _, o := range d.Objects {
			out[o] = true
		}
	}
	return out
}

func stored(e *sim.Embassy) (out [][32]byte) {
	for _, n := range e.Objects() {
		out = append(out, n)
	}
	return out
}

// Both sides hold, over the agent's signature, exactly what an embassy was given: with the first backup, with a second,
// and when an embassy that was away is given its part later.
func TestADeliveryNamesExactlyWhatWasGiven(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(several)
	b.backup()
	first := stored(b.state.Embassies[0])
	got := delivered(b, b.state.Embassies[0], 1)
	if len(got) != len(first) || slices.ContainsFunc(first, func(o [32]byte) bool { return !got[o] }) {
		t.Errorf("%d objects were given, the delivery names %d", len(first), len(got))
	}
	b.grow(func(g *sim.Grower) { g.File("later", bytes.Repeat([]byte("later "), 1<<16)) })
	away := b.state.Embassies[2]
	away.Fail(sim.Faults{Before: func(context.Context, *sim.Call) error { return sim.ErrDown }})
	b.backup()
	away.Fail(sim.Faults{})
	if n := len(delivered(b, away, 2)); n != 0 {
		t.Errorf("%d objects were delivered to an embassy that was away", n)
	}
	before := stored(away)
	_, err := archive.Repair(b.Context(), b.reg(), b.state.Agent, nil)
	check(b, err)
	got = delivered(b, away, 2)
	for _, o := range stored(away) {
		if !slices.Contains(before, o) && !got[o] {
			t.Errorf("object %x was given in a repair and is in no delivery", o)
		}
	}
	if len(stored(away)) != len(before)+len(got) {
		t.Errorf("%d objects more, and %d delivered", len(stored(away))-len(before), len(got))
	}
}
