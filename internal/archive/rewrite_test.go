package archive_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// many writes files of which several share a pack.
func many(g *sim.Grower, seed uint64, n int) {
	for i := range n {
		g.File(fmt.Sprintf("many/%02d", i), sim.Bytes(seed+uint64(i), 300<<10))
	}
}

func (a *ages) rewrite() (*archive.RewriteReport, error) {
	return archive.Rewrite(a.Context(), a.reg(), a.state.Agent, a.state.Key, nil)
}

// thinned is a bench whose snapshots need a little of many packs: snapshot 1 had much, 2 and 3 have one file in six of it,
// and 1 is released.
func thinned(t testing.TB) *ages {
	a := newAges(t, 2, 3)
	a.age(func(g *sim.Grower) { many(g, 1000, 48) })
	for i := range 48 {
		if i%6 != 0 {
			check(t, os.Remove(filepath.Join(a.tree, fmt.Sprintf("many/%02d", i))))
		}
	}
	a.age(nil)
	a.age(func(g *sim.Grower) { g.File("d/more", sim.Bytes(5, 9000)) })
	a.carry(a.propose(1), 1)
	return a
}

func (a *ages) bytesAt(e int) (n int) {
	for _, name := range a.state.Embassies[e].Objects() {
		n += len(a.state.Embassies[e].Object(name))
	}
	return n
}

// Half-empty packs are packed anew and then let go: every snapshot comes back as it was before, between and after, from an
// empty machine, and the embassies hold less.
func TestHalfEmptyPacksAreRewritten(t *testing.T) {
	t.Parallel()
	a := thinned(t)
	a.allBack(2, 3)
	before := a.bytesAt(0)
	rep, err := a.rewrite()
	if err != nil || rep.Rewritten == 0 || rep.Snapshot != "4" || rep.After >= rep.Before || rep.Local != "" {
		t.Fatalf("%v: %+v", err, rep)
	}
	a.copies = append(a.copies, a.copies[2]) // it holds what the newest did
	a.allBack(2, 3, 4)
	a.verified()
	rel := a.propose()
	if rel.Packs < rep.Rewritten {
		t.Fatalf("%d packs of %d rewritten can go", rel.Packs, rep.Rewritten)
	}
	check(t, a.checked(rel, lists(rel)))
	a.age(func(g *sim.Grower) { g.File("many/01", sim.Bytes(1001, 300<<10)) }) // of a pack that is about to go
	a.carry(rel, 2)
	a.allBack(2, 3, 4, 5)
	a.verified()
	if after := a.bytesAt(0); after >= before {
		t.Fatalf("%d bytes became %d", before, after)
	}
	check(t, os.RemoveAll(a.dir)) // a new home
	for more := 0; ; more++ {
		rep, err := a.rewrite()
		check(t, err)
		if rep.Rewritten == 0 {
			break
		}
		if a.copies = append(a.copies, a.copies[4]); more == 3 {
			t.Fatalf("it never ends: %+v", rep)
		}
	}
	newest := a.age(nil)
	last := a.propose(3, 4)
	check(t, a.checked(last, lists(last)))
	a.carry(last, 3)
	a.allBack(2, 5, newest)
	a.verified()
}

// A rewriting that is cut off at any call leaves every snapshot whole, and one that runs again goes on from there.
func TestARewritingCutOffAnywhereIsResumed(t *testing.T) {
	t.Parallel()
	whole := thinned(t)
	count := sim.NewCounter(-1, nil)
	whole.state.Fail(count.Faults(false))
	if _, err := whole.rewrite(); err != nil {
		t.Fatal(err)
	}
	total := count.Count()
	for _, after := range []bool{false, true} {
		for at := 0; at < total; at += 1 + total/4 {
			t.Run(fmt.Sprintf("call %d, took effect: %v", at, after), func(t *testing.T) {
				t.Parallel()
				a := thinned(t)
				cut := sim.NewCounter(at, func() error { return errCut })
				a.state.Fail(cut.Faults(after))
				_, err := a.rewrite()
				if err == nil && at < total-1 {
					t.Logf("call %d of %d did not matter", at, total)
				}
				a.state.Fail(sim.Faults{})
				a.allBack(2, 3)
				rep, err := a.rewrite()
				if err != nil {
					t.Fatalf("again: %v, %+v", err, rep)
				}
				a.allBack(2, 3)
				a.copies = append(a.copies, a.copies[2], a.copies[2])
				rel := a.propose()
				if rel.Packs == 0 {
					t.Fatal("nothing can go")
				}
				check(t, a.checked(rel, lists(rel)))
				a.carry(rel, 2)
				a.allBack(2, 3, 4)
				_, err = archive.Repair(t.Context(), a.reg(), a.state.Agent, nil) // what the cut kept from one embassy
				check(t, err)
				a.verified()
			})
		}
	}
}

var errCut = errors.New("the machine stopped")

func TestARewritingNeedsTheRegistersKey(t *testing.T) {
	t.Parallel()
	a := newAges(t, 1, 1)
	a.age(nil)
	other, err := sim.NewState(2, 1, 1)
	check(t, err)
	if _, err := archive.Rewrite(t.Context(), a.reg(), a.state.Agent, other.Key, nil); !errors.Is(err, archive.ErrNotRegister) {
		t.Fatal(err)
	}
}

// Whatever trees change into, whatever is released, rewritten and carried out, in whatever order, by the same home or a new
// one: what is kept comes back, and what embassies and contents say of each release agrees.
func TestWhateverIsReleasedTheRestComesBack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			life := &life{ages: newAges(t, 1, 2), rand: rand.New(rand.NewPCG(seed, 4)), released: map[uint64]bool{}}
			for range 7 {
				life.step()
				for seq := uint64(1); seq <= life.newest; seq++ {
					if err := life.back(seq); (err != nil) != life.released[seq] || err != nil && !errors.Is(err, archive.ErrReleased) {
						t.Fatalf("snapshot %d of %d (released: %v): %v", seq, life.newest, life.released[seq], err)
					}
				}
			}
			life.verified()
		})
	}
}

// life is a register over many steps.
type life struct {
	*ages
	rand     *rand.Rand
	released map[uint64]bool
	newest   uint64
	orders   byte
}

func (l *life) step() {
	switch what := l.rand.IntN(7); {
	case what < 3 || l.newest < 2:
		seed := l.rand.Uint64N(5)
		l.newest = l.age(func(g *sim.Grower) {
			g.File(fmt.Sprintf("large/%d", seed%3), sim.Bytes(50+seed, 800<<10))
			g.File(fmt.Sprintf("d/small%d", seed), sim.Bytes(seed*7+l.newest, 4000))
		})
	case what == 3:
		check(l, os.RemoveAll(l.dir))
	case what == 4:
		rep, err := l.rewrite()
		check(l, err)
		if rep.Snapshot != "" {
			l.copies, l.newest = append(l.copies, l.copies[l.newest-1]), l.newest+1
		}
	default:
		var seqs []uint64
		for seq := uint64(1); seq < l.newest; seq++ {
			if !l.released[seq] && l.rand.IntN(2) == 0 {
				seqs = append(seqs, seq)
				l.released[seq] = true
			}
		}
		rel := l.propose(seqs...)
		check(l, l.checked(rel, lists(rel)))
		l.orders++
		l.carry(rel, l.orders)
	}
}
