package register_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery.dev/chancery/internal/register"
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
	if _, found, err := b.open(&register.Buffers{}); !errors.Is(err, register.ErrDamaged) || len(found) != 2 {
		t.Errorf("two lost it: %v, %v", err, found)
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
