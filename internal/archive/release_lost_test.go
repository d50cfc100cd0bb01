package archive_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// While a snapshot stands of which nobody knows any more what it needs, nothing goes that was there when it was made; and
// nothing else is held up: what a later one says, which a backup after a verify sees to, is enough to let all of them go.
func TestLostReferencesHoldUpNothingForGood(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(nil)
	if rel, err := a.plan(1); err != nil || rel.Packs == 0 {
		t.Fatalf("control: %v, %+v", err, rel)
	}
	refs := a.references(2)
	if len(refs) == 0 {
		t.Fatal("snapshot 2 says nothing of what it needs")
	}
	for i, e := range a.state.Embassies[:2] {
		e.Damage(refs[i], nil)
	}
	rel, err := a.plan(1)
	if err != nil || rel.Packs != 0 {
		t.Fatalf("references lost: %v, %+v", err, rel)
	}
	check(t, a.checked(rel, lists(rel)))
	if _, err := archive.Verify(t.Context(), a.reg(), a.state.Agent, archive.VerifyOptions{}, nil); !errors.Is(err, register.ErrDamaged) {
		t.Fatal(err)
	}
	a.age(nil) // of the same tree: it says what it needs again
	if len(a.references(4)) == 0 {
		t.Fatal("snapshot 4 relies on what is lost")
	}
	if rel, err = a.plan(1); err != nil || rel.Packs != 0 {
		t.Fatalf("with 2 and 3 standing: %v, %+v", err, rel)
	}
	rel = a.propose(1, 2, 3)
	if rel.Packs == 0 {
		t.Fatal("nothing goes")
	}
	check(t, a.checked(rel, lists(rel)))
	a.carry(rel, 7)
	a.allBack(4)
	a.verified()
}

// The packs of a snapshot whose index is lost are named by nobody: they stay, as all does that a standing one may find in
// them; other snapshots are let go as before.
func TestALostIndexHoldsUpItsOwnPacksAlone(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(func(g *sim.Grower) { large(g, 120) })
	head, err := archive.FindHead(t.Context(), a.reg(), a.state.Agent, archive.SnapshotName(1))
	check(t, err)
	for i, e := range a.state.Embassies[:2] {
		for j := range head.Index {
			e.Damage(head.Index[j].Shares[i], nil)
		}
	}
	check(t, os.RemoveAll(filepath.Join(a.reg().Dir, "index"))) // as on a new machine
	rel, err := a.plan(1, 2)
	check(t, err)
	if rel.Packs == 0 {
		t.Fatal("nothing of snapshot 2 goes")
	}
	for i := range rel.Lists {
		for j := range head.Index {
			if rel.Lists[i].List.Has(head.Index[j].Shares[i]) {
				t.Error("the lost index of snapshot 1 goes, and nobody would ever know what it told of")
			}
		}
	}
	check(t, archive.CheckRelease(t.Context(), a.state.Register(sim.FastDir(a)), a.state.Agent, rel.Snapshots, lists(rel)))
	before := a.back(3) // without what the lost index alone told of
	if !errors.Is(before, register.ErrDamaged) {
		t.Fatal(before)
	}
	a.carry(rel, 7)
	if after := a.back(3); after == nil || after.Error() != before.Error() {
		t.Errorf("snapshot 3: before: %v, after: %v", before, after)
	}
}
