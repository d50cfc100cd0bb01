package register_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
)

// Every byte of a share's beginning and end, and some of what is between, is changed, one at a time. Whoever gave
// it is named, and the pack opens all the same.
func TestAnyByteOfAShareMayBeWrong(t *testing.T) {
	t.Parallel()
	for _, kn := range [][2]int{{1, 2}, {2, 3}, {3, 5}} {
		t.Run(fmt.Sprintf("%d of %d", kn[0], kn[1]), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, kn[0], kn[1])
			long, stride := 1500, 61
			if kn[1] > 2 {
				long, stride = 100, 401
			}
			var buffers register.Buffers
			for share := range kn[0] {
				e, name := b.state.Embassies[share], b.ref.Shares[share]
				size := len(e.Object(name))
				for at := range size {
					if at > long && at < size-200 && at%stride != 0 {
						continue
					}
					bits := byte(1 << (at % 8))
					e.Flip(name, at, bits)
					got, found, err := b.open(&buffers)
					if err != nil || !bytes.Equal(got, b.payload) {
						t.Fatalf("share %d byte %d: %v", share, at, err)
					}
					if len(found) != 1 || found[0] != (register.Fault{Embassy: e.Name, Object: name.String(), What: "wrong bytes"}) {
						t.Fatalf("share %d byte %d: blame falls on %v", share, at, found)
					}
					e.Flip(name, at, bits)
				}
			}
		})
	}
}

func TestASlowEmbassyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, 1, 2)
	b.state.Embassies[0].Fail(sim.Slow(time.Hour))
	start := time.Now()
	payload, _, err := b.open(&register.Buffers{})
	if err != nil || !bytes.Equal(payload, b.payload) || time.Since(start) > 2*time.Minute {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// What is lost and what is out of reach now are told apart: only one of them passes.
func TestLostIsAnotherErrorThanOutOfReach(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	e := b.state.Embassies
	e[0].Fail(sim.Down())
	e[1].Fail(sim.Down())
	if _, _, err := b.open(&register.Buffers{}); !errors.Is(err, register.ErrTooFew) {
		t.Errorf("one answers of two that are needed: %v", err)
	}
	e[1].Fail(sim.Faults{})
	e[2].Damage(b.ref.Shares[2], nil)
	if _, found, err := b.open(&register.Buffers{}); !errors.Is(err, register.ErrTooFew) || len(found) != 2 {
		t.Errorf("one has it, one lost it, one is silent: %v, %v", err, found)
	}
	e[0].Fail(sim.Faults{})
	e[0].Damage(b.ref.Shares[0], nil)
	if _, found, err := b.open(&register.Buffers{}); !errors.Is(err, register.ErrDamaged) || errors.Is(err, register.ErrUnasked) || len(found) != 2 {
		t.Errorf("two lost it: %v, %v", err, found)
	}
	b = newBench(t, 2, 3)
	b.state.Embassies[0].Damage(b.ref.Shares[0], nil)
	sites := b.reg.Sites()
	sites[2].Fail(errors.New("down since long"))
	f := &register.Fetcher{Register: b.reg, Sites: sites, Opener: pack.NewOpener(b.state.Key), Faults: &register.Faults{}}
	if _, err := f.Open(t.Context(), &register.Buffers{}, b.ref); !errors.Is(err, register.ErrTooFew) || !errors.Is(err, register.ErrUnasked) {
		t.Errorf("one lost it, and one was not asked: %v", err)
	}
}

// reviving is an embassy that lost everything; while it says so somebody who reads beside has the others asked once more.
type reviving struct {
	register.Objects
	others []*register.Site
}

func (r reviving) Get(context.Context, shard.Name, []byte) ([]byte, error) {
	for _, s := range r.others {
		s.Again()
	}
	return nil, fs.ErrNotExist
}

// Nobody who was not asked is at fault: embassies that get another chance amid a read are asked before a pack is given up.
func TestWhoComesBackAmidAReadIsAsked(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	sites := b.reg.Sites()
	sites[1].Fail(errors.New("gone"))
	sites[2].Fail(errors.New("gone"))
	sites[0].Objects = reviving{sites[0].Objects, sites[1:]}
	f := &register.Fetcher{Register: b.reg, Sites: sites, Opener: pack.NewOpener(b.state.Key), Faults: &register.Faults{}}
	if payload, err := f.Open(t.Context(), &register.Buffers{}, b.ref); err != nil || !bytes.Equal(payload, b.payload) {
		t.Errorf("with two of three: %v", err)
	}
}

// A payload that was kept is not overwritten by the next one.
func TestAPayloadThatIsKeptStays(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	var buffers register.Buffers
	first, _, err := b.open(&buffers)
	check(t, err)
	buffers.Keep()
	second, _, err := b.open(&buffers)
	check(t, err)
	clear(second)
	if !bytes.Equal(first, b.payload) {
		t.Error("it was overwritten")
	}
}
