package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

// opened is a bench with one snapshot of a small tree, and a reader of it.
func opened(t *testing.T, k, n int) (*bench, *archive.Reader) {
	t.Helper()
	b := newBench(t, k, n)
	b.grow(several)
	b.backup()
	r, err := b.reader()
	check(t, err)
	t.Cleanup(r.Close)
	return b, r
}

// packOf returns a pack of a kind.
func packOf(t *testing.T, r *archive.Reader, kind pack.Kind) *snapshot.PackRef {
	t.Helper()
	for _, ref := range r.Packs() {
		if ref.Kind == kind {
			return &ref
		}
	}
	t.Fatalf("no pack of kind %v", kind)
	return nil
}

// wrongs are the ways in which an object can be wrong.
var wrongs = []struct {
	what string // as it is reported
	do   func(e *sim.Embassy, ref *snapshot.PackRef, share int, other []byte)
}{
	{"wrong bytes", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) {
		e.Flip(ref.Shares[share], 1234, 0x40)
	}},
	{"missing", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) { e.Damage(ref.Shares[share], nil) }},
	{"wrong size", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) {
		e.Damage(ref.Shares[share], e.Object(ref.Shares[share])[:1000])
	}},
	{"wrong size", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) {
		e.Damage(ref.Shares[share], []byte{})
	}},
	{"wrong size", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) {
		e.Damage(ref.Shares[share], append(bytes.Clone(e.Object(ref.Shares[share])), 0))
	}},
	{"wrong bytes", func(e *sim.Embassy, ref *snapshot.PackRef, share int, other []byte) { // swapped with another
		e.Damage(ref.Shares[share], other)
	}},
	{"wrong bytes", func(e *sim.Embassy, ref *snapshot.PackRef, share int, _ []byte) {
		e.Damage(ref.Shares[share], make([]byte, len(e.Object(ref.Shares[share]))))
	}},
}

func TestAnyNMinusKEmbassiesMayBeWrong(t *testing.T) {
	t.Parallel()
	for _, kn := range [][2]int{{1, 3}, {2, 3}, {3, 5}} {
		for w, wrong := range wrongs {
			if kn[1] != 3 && w > 2 {
				continue
			}
			t.Run(fmt.Sprintf("%d of %d/%d %s", kn[0], kn[1], w, wrong.what), func(t *testing.T) {
				t.Parallel()
				b, r := opened(t, kn[0], kn[1])
				rng := rand.New(rand.NewPCG(uint64(w), 1))
				want := map[register.Fault]bool{}
				packs := r.Packs()
				head, err := r.Find("1")
				check(t, err)
				packs = append(packs, head.Index...)
				var before [][]byte // the bytes of each pack's first share, to swap in
				for _, ref := range packs {
					before = append(before, bytes.Clone(b.state.Embassies[0].Object(ref.Shares[0])))
				}
				for i := range packs {
					ref := &packs[i]
					for _, share := range rng.Perm(kn[1])[:kn[1]-kn[0]] {
						e := b.state.Embassies[share]
						wrong.do(e, ref, share, before[(i+1)%len(packs)])
						want[register.Fault{Embassy: e.Name, Object: ref.Shares[share].String(), What: wrong.what}] = true
					}
				}
				rep := b.comesBack("1", b.tree)
				for _, f := range rep.Faults {
					if !want[f] {
						t.Errorf("blamed without cause: %v", f)
					}
				}
				v := b.verify(archive.VerifyOptions{Data: true})
				for _, f := range v.Faults {
					delete(want, register.Fault{Embassy: f.Embassy, Object: f.Object, What: wrong.what})
				}
				if v.Lost > 0 && wrong.what != "wrong size" || v.Thin == 0 {
					t.Errorf("verified: %+v", v)
				}
				for f := range want {
					if wrong.what != "wrong size" { // a verification says only that the bytes are wrong
						t.Errorf("verification did not name %v", f)
					}
				}
				rep2, err := archive.Repair(t.Context(), b.reg(), b.state.Agent, nil)
				check(t, err)
				if rep2.Thin+rep2.Lost > 0 {
					t.Errorf("repair: %+v", rep2)
				}
				if v := b.verify(archive.VerifyOptions{Read: true, Data: true, Key: b.state.Key}); len(v.Faults)+v.Thin+v.Lost > 0 {
					t.Errorf("after the repair: %+v", v)
				}
			})
		}
	}
}

func TestBeyondNMinusKItRefusesAndNamesTheFiles(t *testing.T) {
	t.Parallel()
	for _, wrong := range wrongs[:3] {
		t.Run(wrong.what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 2, 3)
			b.grow(several)
			b.grow(func(g *sim.Grower) {
				g.Folder("closed")
				g.Do(func() error { return os.Link(g.Path("d2/f"), g.Path("closed/link")) })
				g.Do(func() error { return os.Chmod(g.Path("closed"), 0o500) })
				g.Do(func() error { return os.Chmod(g.Root, 0o555) })
			})
			b.backup()
			r, err := b.reader()
			check(t, err)
			defer r.Close()
			head, err := r.Find("")
			check(t, err)
			ref := packOf(t, r, pack.Data)
			want, err := r.Files(t.Context(), head, ref.ID)
			check(t, err)
			wrong.do(b.state.Embassies[0], ref, 0, nil)
			wrong.do(b.state.Embassies[2], ref, 2, nil)

			to, rep, err := b.restore("1", archive.RestoreOptions{})
			if !errors.Is(err, register.ErrDamaged) {
				t.Fatalf("restored: %v", err)
			}
			isEmpty(t, to)
			check(t, sameLost(rep, want))

			to, rep, err = b.restore("1", archive.RestoreOptions{Partial: true})
			if !errors.Is(err, register.ErrDamaged) {
				t.Fatalf("restored in part: %v", err)
			}
			check(t, sameLost(rep, want))
			check(t, os.Chmod(filepath.Join(b.tree), 0o755))
			check(t, os.Chmod(filepath.Join(b.tree, "closed"), 0o700))
			for _, path := range want { // the rest is as it was, but for the times of the folders now changed
				check(t, os.Remove(filepath.Join(b.tree, path)))
				if _, err := os.Lstat(filepath.Join(to, path)); err == nil {
					t.Errorf("%s is there", path)
				}
			}
			for _, path := range []string{"d0/f", "d1/f", "d2/f", "d3/f"} {
				if slices.Contains(want, path) {
					continue
				}
				a, err := os.ReadFile(filepath.Join(b.tree, path))
				check(t, err)
				if got, err := os.ReadFile(filepath.Join(to, path)); err != nil || !bytes.Equal(a, got) {
					t.Errorf("%s: %v", path, err)
				}
			}
			rep2, err := archive.Verify(t.Context(), b.reg(), b.state.Agent, archive.VerifyOptions{Data: true}, nil)
			if !errors.Is(err, register.ErrDamaged) || rep2.Lost != 1 {
				t.Errorf("verified: %v %+v", err, rep2)
			}
		})
	}
}

func sameLost(rep *archive.RestoreReport, want []string) error {
	var got []string
	for _, l := range rep.Lost {
		got = append(got, l.Path)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) || rep.LostSum != len(want) {
		return fmt.Errorf("lost %q (%d), want %q", got, rep.LostSum, want)
	}
	return nil
}

// A lost index pack must not stop what does not need it.
func TestALostIndexPackHitsItsOwnSnapshotOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2)
	b.grow(several)
	b.backup()
	b.grow(func(g *sim.Grower) { g.File("d9/new", sim.Bytes(99, 40000)) })
	first := b.restoreTo("1")
	rep := b.backup()
	for i, e := range b.state.Embassies {
		e.Damage(rep.Head.Index[0].Shares[i], nil)
	}
	b.comesBack("1", first)
	if _, _, err := b.restore("2", archive.RestoreOptions{}); !errors.Is(err, register.ErrDamaged) {
		t.Errorf("snapshot 2: %v", err)
	}
	v, err := archive.Verify(t.Context(), b.state.Register(sim.FastDir(t)), b.state.Agent, archive.VerifyOptions{}, nil)
	if !errors.Is(err, register.ErrDamaged) || v.Lost != 1 {
		t.Errorf("verified: %v, %+v", err, v)
	}
	b.dir = sim.FastDir(t) // a new agent cannot know what was in it, and stores that again
	b.backup()
	b.comesBack("3", b.tree)
}

// What only an embassy that is silent could complete is not called lost: a restore and a backup without it wait for it.
func TestWhatASilentEmbassyMayHoldIsNotLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.grow(several)
	b.backup()
	b.grow(func(g *sim.Grower) { g.File("d9/new", sim.Bytes(99, 40000)) })
	e := b.state.Embassies
	e[2].Fail(sim.Down())
	if _, err := b.tryBackup(t.Context()); err != nil {
		t.Fatal(err)
	}
	e[2].Fail(sim.Faults{})
	e[0].Fail(sim.Down())
	if _, _, err := b.restore("2", archive.RestoreOptions{}); !errors.Is(err, register.ErrTooFew) || errors.Is(err, register.ErrDamaged) {
		t.Errorf("restored: %v", err)
	}
	if _, rep, err := b.restore("2", archive.RestoreOptions{Partial: true}); !errors.Is(err, register.ErrTooFew) || rep.LostSum != 1 { // its root
		t.Errorf("in part: %v, %+v", err, rep)
	}
	b.dir = sim.FastDir(t) // a new agent has the index from the embassies
	if _, err := b.tryBackup(t.Context()); !errors.Is(err, register.ErrTooFew) || errors.Is(err, register.ErrDamaged) {
		t.Errorf("backed up: %v", err)
	}
	e[0].Fail(sim.Faults{})
	b.comesBack("2", b.tree)
}

// One object on a bad spot costs itself; an embassy that is gone is left alone after a few tries.
func TestAReadErrorCostsOneObjectAndNotTheEmbassy(t *testing.T) {
	t.Parallel()
	b, r := opened(t, 1, 2)
	bad := packOf(t, r, pack.Data).Shares[0]
	b.state.Embassies[0].Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Name == bad {
			return errors.New("input/output error")
		}
		return nil
	}})
	for i, e := range b.state.Embassies[1:] { // whatever else there is, only the first embassy has
		for _, ref := range r.Packs() {
			if ref.Shares[0] != bad {
				e.Damage(ref.Shares[i+1], nil)
			}
		}
	}
	rep := b.comesBack("1", b.tree)
	if len(rep.Down) != 0 || len(rep.Faults) == 0 {
		t.Errorf("down %v, faults %v", rep.Down, rep.Faults)
	}
}

func TestAnEmbassyThatGoesIsNotAskedForLong(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2)
	b.grow(func(g *sim.Grower) {
		for i := range 10 {
			g.File(fmt.Sprint(i), sim.Bytes(uint64(i), 700000))
		}
	})
	b.backup()
	gone := b.state.Embassies[0]
	gone.Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Get {
			return sim.ErrDown
		}
		return nil
	}})
	rep := b.comesBack("1", b.tree)
	if n := gone.Count(sim.Get); n > 6 || len(rep.Down) != 1 {
		t.Errorf("it was asked %d times; down: %v", n, rep.Down)
	}
}

func TestHeadsOfOthersAreNotTaken(t *testing.T) {
	t.Parallel()
	const first = "wrong bytes"
	slot := func(b *bench, seq uint64) ledger.Slot {
		return ledger.Slot{Kind: ledger.Head, Register: b.reg().ID, Sequence: seq}
	}
	stranger := sim.NewAgent(ed25519Key(9))
	tests := map[string]struct {
		do     func(b *bench, e *sim.Embassy)
		forked bool
		fault  bool
	}{
		first: {fault: true, do: func(b *bench, e *sim.Embassy) {
			e.Fail(sim.Faults{Answer: func(c *sim.Call, data []byte) []byte {
				if c.Op == sim.GetRecord {
					data[len(data)/2] ^= 1
				}
				return data
			}})
		}},
		"damaged on its disk": {fault: true, do: func(b *bench, e *sim.Embassy) {
			data := bytes.Clone(e.DamageRecord(slot(b, 2), nil))
			data[100] ^= 1
			e.DamageRecord(slot(b, 2), data)
		}},
		"missing": {fault: true, do: func(b *bench, e *sim.Embassy) { e.DamageRecord(slot(b, 2), nil) }},
		"stale":   {fault: true, do: func(_ *bench, e *sim.Embassy) { e.Fail(sim.Stale(1)) }},
		"of a stranger": {fault: true, do: func(b *bench, e *sim.Embassy) {
			e.DamageRecord(slot(b, 2), b.resigned(2, func(h *snapshot.Head) { h.Sign(stranger.Key) }))
		}},
		"of another register": {fault: true, do: func(b *bench, e *sim.Embassy) {
			e.DamageRecord(slot(b, 2), b.resigned(2, func(h *snapshot.Head) { h.Register[0] ^= 1; h.Sign(b.state.Agent.Key) }))
		}},
		"of another number": {fault: true, do: func(b *bench, e *sim.Embassy) {
			e.DamageRecord(slot(b, 1), b.resigned(2, func(*snapshot.Head) {}))
		}},
		"another by the agent": {forked: true, do: func(b *bench, e *sim.Embassy) {
			e.DamageRecord(slot(b, 2), b.resigned(2, func(h *snapshot.Head) { h.Time++; h.Sign(b.state.Agent.Key) }))
		}},
		"another chain by the agent": {forked: true, do: func(b *bench, e *sim.Embassy) {
			e.DamageRecord(slot(b, 3), b.resigned(2, func(h *snapshot.Head) {
				h.Sequence, h.Previous[0] = 3, 1
				h.Sign(b.state.Agent.Key)
			}))
		}},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 1, 3)
			b.grow(several)
			b.backup()
			b.backup()
			test.do(b, b.state.Embassies[0])
			_, rep, err := b.restore("2", archive.RestoreOptions{})
			_, berr := b.tryBackup(t.Context())
			if test.forked {
				if !errors.Is(err, register.ErrForked) || !errors.Is(berr, register.ErrForked) {
					t.Errorf("a fork was taken: %v, %v", err, berr)
				}
				if _, _, err := b.restore("", archive.RestoreOptions{}); !errors.Is(err, register.ErrForked) {
					t.Errorf("the newest of a forked history was taken: %v", err)
				}
				b.comesBack("1", b.tree) // nobody signed two of it
				return
			}
			check(t, err)
			check(t, berr)
			if test.fault && (len(rep.Faults) == 0 || rep.Faults[0].Embassy != "e0") {
				t.Errorf("blame falls on %v", rep.Faults)
			}
			b.comesBack("3", b.tree)
		})
	}
}

// resigned is a head of the register, changed.
func (b *bench) resigned(seq uint64, change func(h *snapshot.Head)) []byte {
	b.Helper()
	data, err := b.state.Embassies[2].GetRecord(b.Context(), ledger.Slot{Kind: ledger.Head, Register: b.reg().ID, Sequence: seq})
	check(b, err)
	h, err := snapshot.ParseHead(data)
	check(b, err)
	change(h)
	return h.Bytes()
}

func TestDamageToTheLocalFolderBlamesNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 1)
	b.grow(several)
	for range 3 {
		b.backup()
	}
	var files []string
	check(t, filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	}))
	for _, path := range files {
		whole, err := os.ReadFile(path)
		check(t, err)
		for _, data := range [][]byte{nil, whole[:len(whole)/2], flipped(whole, len(whole)/2), flipped(whole, len(whole)-1)} {
			check(t, os.WriteFile(path, data, 0o600))
			rep := b.backup()
			if len(rep.Faults) > 0 {
				t.Errorf("%s: %v", path, rep.Faults)
			}
			r, err := archive.OpenReader(t.Context(), b.reg(), b.state.Agent, b.state.Key)
			check(t, err)
			head, err := r.Find("")
			check(t, err)
			to := filepath.Join(sim.FastDir(t), "to")
			_, err = r.Restore(t.Context(), head, to, archive.RestoreOptions{Target: everything}, nil)
			r.Close()
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			b.same(b.tree, to)
		}
	}
	b.comesBack("latest", b.tree)
}

func flipped(data []byte, at int) []byte {
	data = bytes.Clone(data)
	if len(data) > 0 {
		data[at] ^= 8
	}
	return data
}
