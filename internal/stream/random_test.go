package stream_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// walk is a stream's life by a seed: embassies go and come back, the writer dies and goes on, here or on a new machine.
type walk struct {
	*flow
	rand *rand.Rand
	next int // piece to append
	told int // newest that was told to be durable, over all lives
	down []int
	same bool // it goes on where it was, each time
}

func (w *walk) toggle() {
	n := len(w.state.Embassies)
	i := w.rand.IntN(n)
	for at, d := range w.down {
		if d == i {
			w.state.Embassies[i].Fail(sim.Faults{})
			w.down = append(w.down[:at], w.down[at+1:]...)
			return
		}
	}
	if len(w.down) >= n-w.reg().K {
		return
	}
	f := sim.Down()
	if w.rand.IntN(2) == 0 { // what it was told takes effect, and nobody hears of it
		f = sim.Faults{After: f.Before}
	}
	w.state.Embassies[i].Fail(f)
	w.down = append(w.down, i)
}

func (w *walk) heal() {
	w.state.Fail(sim.Faults{})
	w.down = nil
}

// die ends the writer, and begins the next one.
func (w *walk) die() {
	w.Helper()
	w.crash()
	w.mu.Lock()
	if n := len(w.flow.told); n > 0 {
		w.told = max(w.told, w.flow.told[n-1])
	}
	w.mu.Unlock()
	w.neverShort(w.told)
	for _, i := range w.down {
		w.state.Embassies[i].Fail(sim.Down())
	}
	if !w.same && w.rand.IntN(3) == 0 { // a machine that remembers nothing
		w.heal()
		w.dir = sim.FastDir(w)
	}
	if len(w.down) > 0 && w.rand.IntN(2) == 0 {
		w.heal()
	}
	w.flow = w.flowOf(w.options)
	position, _, err := w.Last()
	check(w, err)
	last, _ := strconv.Atoi(strings.TrimPrefix(string(position), "position "))
	if last < w.told {
		w.Fatalf("stretch %d was told to be durable, and the stream goes on behind %d", w.told, last)
	}
	w.next = last + 1
}

func (w *walk) step() {
	w.Helper()
	switch w.rand.IntN(10) {
	case 0, 1:
		w.toggle()
	case 2:
		w.die()
	case 3:
		_ = w.Gather(w.Context())
	case 4:
		time.Sleep(time.Duration(w.rand.IntN(3000)) * time.Microsecond)
	default:
		for range 1 + w.rand.IntN(4) {
			check(w, w.tryAppend(w.Context(), w.next, nil))
			w.next++
		}
	}
}

func TestAStreamIsWholeWhateverHappens(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 4
	}
	if os.Getenv("CHANCERY_EXHAUSTIVE") != "" {
		seeds = 300
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			b := newBench(t, 2, 3+seed%2)
			w := &walk{flow: b.flow(), rand: rand.New(rand.NewPCG(uint64(seed), 7)), next: 1}
			for range 60 {
				w.step()
			}
			w.die()
			w.heal()
			w.write(w.next, w.next+3)
			w.end()
			last := w.next + 3
			w.reads(1, last)
			rep, err := w.verifies(archive.VerifyOptions{Data: true, Key: w.state.Key})
			check(t, err)
			if rep.Stretches != last || rep.Unfinished != 0 {
				t.Fatalf("%d pieces: %+v", last, rep)
			}
			_, err = archive.Repair(t.Context(), w.reg(), w.state.Agent, nil)
			check(t, err)
			rep, err = w.verifies(archive.VerifyOptions{})
			check(t, err)
			if rep.Thin != 0 || len(rep.Faults) != 0 {
				t.Fatalf("after the repair: %+v", rep)
			}
		})
	}
}
