package archive_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// witnessed opens the register on a machine that has nothing, with the embassies' ledgers at hand.
func (b *bench) witnessed() *archive.Reader {
	b.Helper()
	reg := b.state.Register(sim.FastDir(b))
	reg.Members = slices.Clone(reg.Members)
	for i, e := range b.state.Embassies {
		reg.Members[i].Ledger = e.Witnessed(nil)
	}
	r, err := archive.OpenReader(b.Context(), reg, b.state.Agent, b.state.Key)
	check(b, err)
	b.Cleanup(r.Close)
	return r
}

// A machine without memory is shown an older snapshot as the newest, by an embassy that hides a newer one while another is
// away, and one that never had it. The ledger of the one that hides it says so.
func TestAHiddenSnapshotIsFoundInTheLedger(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(several)
	b.backup()
	e := b.state.Embassies
	e[2].Fail(sim.Down())
	b.backup()
	e[2].Fail(sim.Faults{})
	check(t, b.witnessed().CheckNewest(t.Context()))

	e[0].Fail(sim.Down())
	e[1].Fail(sim.Stale(1))
	r := b.witnessed()
	head, err := r.Find("latest") // the control: nothing else tells that there is a newer one
	if err != nil || head.Sequence != 1 {
		t.Fatal(head, err)
	}
	err = r.CheckNewest(t.Context())
	if !errors.Is(err, register.ErrTooFew) || !errors.Is(err, register.ErrWithheld) || !strings.Contains(err.Error(), e[1].Name+": it withholds head 2") {
		t.Fatal(err)
	}
	if !slices.Contains(r.Faults(), register.Fault{Embassy: e[1].Name, Object: "head 2", What: "in its ledger, and withheld"}) {
		t.Fatal(r.Faults())
	}

	e[0].Fail(sim.Faults{})
	r = b.witnessed()
	if head, err := r.Find("latest"); err != nil || head.Sequence != 2 {
		t.Fatal(head, err)
	}
	check(t, r.CheckNewest(t.Context()))
}

// What one embassy enters alone stops nobody: enough others, by their ledgers, never had it. Nor does a snapshot that was made since.
func TestOneLedgerAloneMakesNoSnapshotMissing(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(several)
	b.backup()
	before := b.witnessed()
	b.backup()
	check(t, before.CheckNewest(t.Context()))
	e := b.state.Embassies
	check(t, e[0].PutRecord(t.Context(), ledger.Slot{Kind: ledger.Head, Register: [16]byte(b.reg().ID), Sequence: 9}, []byte("no head")))
	e[0].Fail(sim.Stale(8))
	r := b.witnessed()
	check(t, r.CheckNewest(t.Context()))
	if !slices.ContainsFunc(r.Faults(), func(f register.Fault) bool { return f.Embassy == e[0].Name && f.Object == "head 9" }) {
		t.Fatal(r.Faults())
	}
	e[1].Fail(sim.Down()) // then the others are too few to tell
	if err := b.witnessed().CheckNewest(t.Context()); !errors.Is(err, register.ErrWithheld) {
		t.Fatal(err)
	}
}
