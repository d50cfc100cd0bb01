package stream_test

import (
	"errors"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// hidden is a stream of which one embassy is down, one lags and one hides what those two do not show: stretches 5 and 6.
func hidden(t *testing.T) *bench {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 4)
	f.until(func() bool { return records(b.state.Embassies[2], ledger.StretchRecord) == 4 })
	b.state.Embassies[2].Fail(sim.Down())
	f.write(5, 6)
	f.crash()
	b.state.Embassies[0].Fail(sim.Down())
	b.state.Embassies[1].Fail(sim.Stale(4))
	b.state.Embassies[2].Fail(sim.Faults{})
	return b
}

// An embassy that hides the newest records while another is down does not make an end: its ledger says that there is more.
func TestAHiddenEndIsFoundInTheLedger(t *testing.T) {
	b := hidden(t)
	_, x, _ := b.looks(1, false) // the control: by what is listed alone the stream ends, with two stretches missing
	if err := x.Complete(); x.Len() != 4 || err != nil {
		t.Fatal(x.Len(), err)
	}
	r, x, withheld := b.looks(1, true)
	err := x.Complete()
	liar := b.state.Embassies[1].Name
	if x.Len() != 4 || !errors.Is(err, register.ErrTooFew) || !strings.Contains(err.Error(), liar+": it withholds stretch 5") {
		t.Fatal(x.Len(), err)
	}
	if e := withheld[liar]; len(withheld) != 1 || e.Slot.Sequence != 5 || e.Slot.Kind != ledger.StretchRecord {
		t.Fatal(withheld)
	}
	told := false
	for _, f := range r.All() {
		told = told || f.Embassy == liar && strings.Contains(f.What, "withheld")
	}
	if !told {
		t.Fatal(r.All())
	}
	// With the third embassy back the stretches are there, and whoever hides them hides nothing.
	b.state.Embassies[0].Fail(sim.Faults{})
	_, x = b.stretches(1)
	if err := x.Complete(); x.Len() != 6 || err != nil {
		t.Fatal(x.Len(), err)
	}
}

// One that shows nothing at all of the stream is read from its first leaf on.
func TestAnEmbassyThatShowsNothingIsReadFromTheBeginning(t *testing.T) {
	b := hidden(t)
	b.state.Embassies[1].Fail(sim.Stale(0))
	_, x, withheld := b.looks(1, true)
	if err := x.Complete(); !errors.Is(err, register.ErrTooFew) || len(withheld) != 1 {
		t.Fatal(err, withheld)
	}
}

// What one embassy withholds is in no way of an end that enough others prove: else each could keep every restore from
// ending. A ledger that nobody can be asked about counts for nothing.
func TestOnlyLedgersThatSayNoMoreCount(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 4)
	f.end()
	_, x := b.stretches(1)
	check(t, x.Complete())
	e := b.state.Embassies
	slot := ledger.Slot{Kind: ledger.StretchRecord, Register: [16]byte(b.reg().ID), Sequence: 9}
	check(t, e[0].PutRecord(t.Context(), slot, []byte("no stretch")))
	e[0].Fail(sim.Stale(8))
	_, x, withheld := b.looks(1, true)
	if err := x.Complete(); err != nil || len(withheld) != 1 {
		t.Fatal(err, withheld)
	}
	only := sim.Down()
	e[1].Fail(sim.Faults{Before: only.Before})
	_, x, _ = b.looks(1, true)
	if err := x.Complete(); !errors.Is(err, register.ErrTooFew) {
		t.Fatal(err)
	}
}

// Records that an embassy was given late come late in its ledger: the look into it begins before them.
func TestTheLookIntoALedgerBeginsEarlyEnough(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 3)
	e := b.state.Embassies
	e[2].Fail(sim.Down())
	f.write(4, 5)
	e[2].Fail(sim.Faults{})
	f.crash()
	f = b.flow()
	f.write(6, 7)
	f.until(func() bool { return records(e[2], ledger.StretchRecord) == 7 })
	f.crash()
	_, x := b.stretches(1)
	if err := x.Complete(); x.Len() != 7 || err != nil {
		t.Fatal(x.Len(), err)
	}
	e[0].Fail(sim.Down())
	e[1].Fail(sim.Stale(5))
	e[2].Fail(sim.Stale(5))
	_, x, withheld := b.looks(1, true)
	if err := x.Complete(); !errors.Is(err, register.ErrTooFew) || len(withheld) != 2 {
		t.Fatal(err, withheld)
	}
}
