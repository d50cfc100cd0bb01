package register_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

// inspected looks at the bench's pack as deep as can be.
func (b *bench) inspected(repair bool) (register.Verdict, *register.Inspector) {
	b.Helper()
	var verdict register.Verdict
	in := &register.Inspector{
		Register: b.reg, Agent: b.state.Agent, Sites: b.reg.Sites(), Faults: &register.Faults{},
		Read: true, Data: true, Key: b.state.Key, Head: 7, Moved: &atomic.Int64{},
		Found: func(_ *snapshot.PackRef, v register.Verdict) { verdict = v },
	}
	work := in.Check
	if repair {
		work = in.Repair
	}
	check(b, work(b.Context(), []snapshot.PackRef{*b.ref}))
	in.Deliver(b.Context())
	return verdict, in
}

func TestAnInspectionSaysHowAPackStands(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	e := b.state.Embassies
	is := func(want register.Verdict, objects, chunks int) {
		t.Helper()
		got, in := b.inspected(false)
		if s := in.Tally(); got != want || s.Packs != 1 || s.Objects != objects || s.Chunks != chunks {
			t.Errorf("it stands as %d, want %d: %+v, %v", got, want, s, in.Faults.All())
		}
	}
	is(register.Whole, 3, 1)
	e[0].Flip(b.ref.Shares[0], 9, 1)
	is(register.Thin, 2, 1)
	e[1].Fail(sim.Down())
	is(register.Hidden, 1, 0)
	e[1].Fail(sim.Faults{})
	e[1].Damage(b.ref.Shares[1], nil)
	is(register.Lost, 1, 0)
}

// A share that could not be read just then is not lost: a repair that needs it says that it cannot be told.
func TestARepairCallsNothingLostThatItCouldNotRead(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	e := b.state.Embassies
	e[0].Damage(b.ref.Shares[0], nil)
	e[1].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Get {
			return sim.ErrDown
		}
		return nil
	}})
	if verdict, _ := b.inspected(true); verdict != register.Hidden {
		t.Errorf("while one cannot be read: %d", verdict)
	}
	e[1].Fail(sim.Faults{})
	if verdict, _ := b.inspected(true); verdict != register.Whole {
		t.Errorf("when it can: %d", verdict)
	}
	e[1].Damage(b.ref.Shares[1], nil)
	e[2].Damage(b.ref.Shares[2], nil)
	if verdict, _ := b.inspected(true); verdict != register.Lost {
		t.Errorf("the control: what is missing is lost: %d", verdict)
	}
}

// What was lacking is made again of the others, and the embassy that was given it holds the agent's signature for that.
func TestARepairMakesWhatIsLackingAndSignsForIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	e := b.state.Embassies[0]
	e.Damage(b.ref.Shares[0], nil)
	if verdict, in := b.inspected(true); verdict != register.Whole || in.Tally().Repaired != 1 {
		t.Fatalf("%d, %+v", verdict, in.Tally())
	}
	if verdict, in := b.inspected(false); verdict != register.Whole || len(in.Faults.All()) > 0 {
		t.Errorf("%d, %v", verdict, in.Faults.All())
	}
	raw, err := e.GetRecord(t.Context(), ledger.DeliverySlot(b.reg.ID, 7, 0))
	check(t, err)
	d, err := ledger.ParseDelivery(raw)
	check(t, err)
	check(t, d.Verify())
	if !slices.Equal(d.Objects, [][32]byte{b.ref.Shares[0]}) || d.Embassy != [16]byte(e.ID) {
		t.Errorf("%x was delivered to %x", d.Objects, d.Embassy)
	}
	for _, other := range b.state.Embassies[1:] {
		if n := len(other.Slots()); n > 0 {
			t.Errorf("%s was given nothing, and holds %d records", other.Name, n)
		}
	}
}

// With fewer than k shares nothing is made up.
func TestARepairOfTooLittleMakesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	for i, e := range b.state.Embassies[:2] {
		e.Damage(b.ref.Shares[i], nil)
	}
	verdict, in := b.inspected(true)
	if verdict != register.Lost || in.Tally().Repaired != 0 || b.state.Embassies[0].Count(sim.Repair) > 0 {
		t.Errorf("%d, %+v", verdict, in.Tally())
	}
}
