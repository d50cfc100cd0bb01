package archive_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
)

// ages is a bench whose tree changes from snapshot to snapshot, with a copy of each.
type ages struct {
	*bench
	copies []string
}

func newAges(t testing.TB, k, n int) *ages {
	a := &ages{bench: newBench(t, k, n)}
	a.grow(func(g *sim.Grower) {
		for i := range 6 {
			g.File(fmt.Sprintf("d/small%d", i), sim.Bytes(uint64(i), 5000))
		}
		large(g, 70)
		g.File("e/kept", sim.Bytes(78, 400<<10))
	})
	return a
}

// age changes the tree, makes a snapshot, and keeps a copy.
func (a *ages) age(f func(g *sim.Grower)) uint64 {
	a.Helper()
	if f != nil {
		a.grow(f)
	}
	rep := a.backup()
	to := filepath.Join(sim.FastDir(a), "copy")
	check(a, os.CopyFS(to, os.DirFS(a.tree)))
	a.copies = append(a.copies, to)
	return rep.Sequence
}

// back restores a snapshot on an empty machine and compares what files hold.
func (a *ages) back(seq uint64) error {
	a.Helper()
	to, _, err := a.restore(archive.SnapshotName(seq), archive.RestoreOptions{})
	if err != nil {
		return err
	}
	diff, err := filetree.Compare(a.Context(), a.copies[seq-1], to, filetree.CompareOptions{Max: 5})
	check(a, err)
	for _, d := range diff {
		if d.What == "content differs" || d.What == "missing" || d.What == "only in the second" || d.What == "size differs" {
			return fmt.Errorf("%s: %s", d.Path, d.What)
		}
	}
	return nil
}

func (a *ages) allBack(seqs ...uint64) {
	a.Helper()
	for _, seq := range seqs {
		if err := a.back(seq); err != nil {
			a.Errorf("snapshot %d: %v", seq, err)
		}
	}
}

func (a *ages) plan(seqs ...uint64) (*archive.Release, error) {
	return archive.PlanRelease(a.Context(), a.reg(), a.state.Agent, seqs)
}

func (a *ages) propose(seqs ...uint64) *archive.Release {
	a.Helper()
	rel, err := archive.ProposeRelease(a.Context(), a.reg(), a.state.Agent, seqs)
	check(a, err)
	return rel
}

func lists(rel *archive.Release) (out []ledger.ObjectList) {
	for _, l := range rel.Lists {
		out = append(out, l.List)
	}
	return out
}

// submit gives every embassy its list, as an order that waits.
func (a *ages) submit(rel *archive.Release, id byte) [32]byte {
	hash := [32]byte{id}
	for i, e := range a.state.Embassies {
		e.Order(hash, fmt.Sprintf("order %d", id), [16]byte(a.reg().ID), rel.Snapshots, rel.Lists[i].List)
	}
	return hash
}

func (a *ages) carry(rel *archive.Release, id byte) {
	hash := a.submit(rel, id)
	for _, e := range a.state.Embassies {
		e.Carry(hash, -1)
	}
}

// checked holds a release against the embassies alone, and against what kept snapshots hold.
func (a *ages) checked(rel *archive.Release, lists []ledger.ObjectList) error {
	a.Helper()
	reg := a.state.Register(sim.FastDir(a))
	err := archive.CheckRelease(a.Context(), reg, a.state.Agent, rel.Snapshots, lists)
	deep := archive.CheckContents(a.Context(), a.state.Register(sim.FastDir(a)), a.state.Agent, a.state.Key, rel.Snapshots, lists)
	if errors.Is(deep, archive.ErrBreaks) && err == nil {
		a.Errorf("the contents say %v, the references nothing", deep)
	}
	return errors.Join(err, deep)
}

func (a *ages) verified() *archive.VerifyReport {
	a.Helper()
	rep, err := archive.Verify(a.Context(), a.reg(), a.state.Agent, archive.VerifyOptions{Read: true, Key: a.state.Key}, nil)
	if err != nil || rep.Lost != 0 || len(rep.Faults) != 0 {
		a.Errorf("verify: %v, %d lost, %v", err, rep.Lost, rep.Faults)
	}
	return rep
}

// large writes files of which each fills a pack.
func large(g *sim.Grower, seed uint64) {
	for i := range uint64(3) {
		g.File(fmt.Sprintf("large/%d", i), sim.Bytes(seed+i, 800<<10))
	}
}

func replaced(g *sim.Grower) { large(g, 90) }

func again(g *sim.Grower) { large(g, 70) }

// What only released snapshots need goes, whole packs of it, and every other snapshot comes back as it was; the released
// one is refused by its order's name, and nothing counts as lost.
func TestAReleaseTakesWhatNothingNeedsAnyMore(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(func(g *sim.Grower) { g.File("d/more", sim.Bytes(5, 9000)) })
	before := a.state.Embassies[0].Objects()
	rel := a.propose(1)
	if rel.Packs == 0 || rel.Head != 3 {
		t.Fatalf("%+v", rel)
	}
	check(t, a.checked(rel, lists(rel)))
	a.allBack(1, 2, 3)
	a.carry(rel, 7)
	if left := a.state.Embassies[0].Objects(); len(left) != len(before)-rel.Packs {
		t.Fatalf("%d objects of %d are left, %d packs went", len(left), len(before), rel.Packs)
	}
	a.allBack(2, 3)
	if err := a.back(1); !errors.Is(err, archive.ErrReleased) || !slices.Contains([]string{"snapshot 1: the snapshot was released by order 7"}, err.Error()) {
		t.Fatalf("released: %v", err)
	}
	a.verified()
	a.age(again) // the content that went comes again
	a.allBack(2, 3, 4)
	a.verified()
	if rel, err := a.plan(); err != nil || rel.Packs != 0 {
		t.Fatalf("after it: %v, %+v", err, rel)
	}
	released, err := archive.Released(t.Context(), a.reg())
	if err != nil || len(released) != 1 || released[1] != "order 7" {
		t.Fatalf("released: %v, %v", err, released)
	}
}

// What is more than one order can list goes by several, each after the one before; nothing is left over, and what is kept
// comes back after each.
func TestALargeReleaseGoesInParts(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(func(g *sim.Grower) { large(g, 120) })
	all, err := a.plan(1, 2)
	check(t, err)
	before := len(a.state.Embassies[0].Objects())
	part := func() *archive.Release {
		reg := a.reg()
		reg.Listed = 2
		var seqs []uint64
		if released, err := archive.Released(t.Context(), reg); err != nil || len(released) == 0 {
			check(t, err)
			seqs = []uint64{1, 2}
		}
		rel, err := archive.ProposeRelease(t.Context(), reg, a.state.Agent, seqs)
		check(t, err)
		return rel
	}
	orders := 0
	for rel := part(); rel.Packs > 0; rel = part() {
		orders++
		if rel.Packs > 2 || rel.More != (orders*2 < all.Packs) {
			t.Fatalf("order %d of %d packs: %d, more: %v", orders, all.Packs, rel.Packs, rel.More)
		}
		check(t, a.checked(rel, lists(rel)))
		a.carry(rel, byte(orders))
		a.allBack(3)
		a.verified()
	}
	if orders < 3 || before-len(a.state.Embassies[0].Objects()) != all.Packs {
		t.Errorf("%d orders removed %d of %d packs", orders, before-len(a.state.Embassies[0].Objects()), all.Packs)
	}
}

// A release that would break a kept snapshot is found from the embassies alone, by the references and by the contents,
// whichever object it takes; control: the honest lists pass.
func TestAForgedReleaseIsFoundBeforeAnybodySigns(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	rel, err := a.plan(1)
	check(t, err)
	check(t, a.checked(rel, lists(rel)))
	for i, e := range a.state.Embassies {
		for _, name := range e.Objects() {
			forged := lists(rel)
			if forged[i].Has(name) {
				continue
			}
			forged[i] = append(slices.Clone(forged[i]), name)
			slices.SortFunc(forged[i], func(x, y [32]byte) int { return slices.Compare(x[:], y[:]) })
			err := archive.CheckRelease(t.Context(), a.state.Register(sim.FastDir(t)), a.state.Agent, rel.Snapshots, forged)
			if !errors.Is(err, archive.ErrBreaks) {
				t.Fatalf("%s at %s: %v", shard.Name(name), e.Name, err)
			}
		}
	}
	all := lists(rel)
	for i, e := range a.state.Embassies {
		all[i] = nil
		for _, name := range e.Objects() {
			all[i] = append(all[i], name)
		}
	}
	if err := archive.CheckContents(t.Context(), a.state.Register(sim.FastDir(t)), a.state.Agent, a.state.Key, rel.Snapshots, all); !errors.Is(err, archive.ErrBreaks) {
		t.Fatalf("everything listed: %v", err)
	}
	strange := lists(rel)
	strange[0] = append(slices.Clone(strange[0]), [32]byte{255, 255, 255})
	slices.SortFunc(strange[0], func(x, y [32]byte) int { return slices.Compare(x[:], y[:]) })
	if err := a.checked(rel, strange); !errors.Is(err, archive.ErrBreaks) {
		t.Fatalf("an object of nobody's: %v", err)
	}
}

func TestAReleaseIsRefused(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(nil)
	for name, c := range map[string]struct {
		seqs []uint64
		want error
	}{
		"the newest":    {[]uint64{3}, archive.ErrBreaks},
		"one not there": {[]uint64{9}, archive.ErrNoSnapshot},
		"number 0":      {[]uint64{0}, archive.ErrNoSnapshot},
	} {
		if _, err := a.plan(c.seqs...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.plan(2, 1); err == nil {
		t.Error("out of order: accepted")
	}
	if _, err := a.plan(1, 2); err != nil {
		t.Fatal("control:", err)
	}
}

// references are the objects of a snapshot's references.
func (a *ages) references(seq uint64) (names []shard.Name) {
	a.Helper()
	head, err := archive.FindHead(a.Context(), a.reg(), a.state.Agent, archive.SnapshotName(seq))
	check(a, err)
	for _, r := range head.References {
		names = append(names, r.Shares...)
	}
	return names
}

// A backup between proposal and effect takes nothing that goes, at the home that proposed, and on a new machine that knows
// of the order from the embassies alone. Control: without either, the new snapshot is broken.
func TestABackupWhileAnOrderWaits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		proposed, submitted, whole bool
	}{
		"home proposed":                 {true, false, true},
		"a new home, the order waits":   {false, true, true},
		"control: nobody told the home": {false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAges(t, 2, 3)
			a.age(nil)
			a.age(replaced)
			var rel *archive.Release
			var err error
			if c.proposed {
				rel = a.propose(1)
			} else {
				rel, err = a.plan(1)
				check(t, err)
				check(t, os.RemoveAll(a.dir))
			}
			if c.submitted {
				a.submit(rel, 1)
			}
			a.age(again) // what the release takes
			if c.whole != (a.checked(rel, lists(rel)) == nil) {
				t.Errorf("a check before signing says %v", a.checked(rel, lists(rel)))
			}
			if !c.submitted {
				a.submit(rel, 1)
			}
			for _, e := range a.state.Embassies {
				e.Carry([32]byte{1}, -1)
			}
			if err := a.back(3); (err == nil) != c.whole {
				t.Errorf("the snapshot made meanwhile: %v", err)
			}
			a.allBack(2)
			if !c.whole {
				return
			}
			a.verified()
			check(t, os.RemoveAll(a.dir)) // a new home
			a.age(nil)
			a.allBack(2, 3, 4)
		})
	}
}

// An order that comes while a backup is at work stops it before its head is made; the next run makes the snapshot.
func TestAnOrderThatComesDuringABackup(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	rel, err := a.plan(1)
	check(t, err)
	check(t, os.RemoveAll(a.dir))
	a.grow(again)
	a.grow(func(g *sim.Grower) { g.File("new", sim.Bytes(1, 100)) })
	came := false
	a.state.Embassies[0].Fail(sim.Faults{After: onPut(func() {
		if !came {
			came = true
			a.submit(rel, 1)
		}
	})})
	if _, err := a.tryBackup(t.Context()); !errors.Is(err, archive.ErrLeaving) {
		t.Fatalf("backup: %v (the order came: %v)", err, came)
	}
	a.state.Embassies[0].Fail(sim.Faults{})
	a.age(nil)
	for _, e := range a.state.Embassies {
		e.Carry([32]byte{1}, -1)
	}
	a.allBack(2, 3)
}

// A veto leaves everything as it was, and what was stored again meanwhile harms nothing.
func TestAVetoLeavesEverything(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	rel := a.propose(1)
	hash := a.submit(rel, 1)
	a.age(again)
	for _, e := range a.state.Embassies {
		e.Veto(hash)
	}
	a.allBack(1, 2, 3)
	a.verified()
	rel = a.propose(1)
	check(t, a.checked(rel, lists(rel)))
	a.carry(rel, 2)
	a.allBack(2, 3)
	a.verified()
}

// An order that took effect at some embassies, and in part at one, leaves every kept snapshot whole, and is carried on.
func TestAReleaseThatStopsHalfway(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	a.age(nil)
	a.age(replaced)
	a.age(nil)
	rel := a.propose(1)
	hash := a.submit(rel, 1)
	if rel.Packs < 2 { // the keys decide how chunks fall into packs: two or three
		t.Fatalf("%d packs go: no embassy could stop in between", rel.Packs)
	}
	for i, most := range []int{1, rel.Packs - 1, -1} { // only the last comes to the end of its list
		a.state.Embassies[i].Carry(hash, most)
		a.allBack(2, 3)
		if a.verified().Leaving == 0 {
			t.Fatal("nothing is said to leave")
		}
		if rep, err := archive.Repair(t.Context(), a.reg(), a.state.Agent, nil); err != nil || rep.Repaired != 0 {
			t.Fatalf("repair brings back what goes: %v, %d", err, rep.Repaired)
		}
		a.age(nil)
	}
	for _, e := range a.state.Embassies {
		e.Carry(hash, -1)
	}
	a.allBack(2, 3, 4, 5, 6)
	a.verified()
}
