package sim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/shard"
)

// liarSeeds is how many seeds TestLiar plays.
func liarSeeds() int {
	if testing.Short() {
		return 100
	}
	return 3000
}

// TestLiar plays seeds with liars up to what the policy allows, and holds every step against the truth. One seed again:
// go test ./internal/sim -run 'TestLiar/seed=N$'
func TestLiar(t *testing.T) {
	var mu sync.Mutex
	var all Tally
	t.Cleanup(func() { // after the parallel seeds
		t.Logf("%+v", all)
		if testing.Short() || all.Seeds < liarSeeds() {
			return
		}
		v := reflect.ValueOf(all)
		for i := range v.NumField() {
			if v.Field(i).Int() == 0 {
				t.Errorf("no seed has any %s: the simulation does not reach it", v.Type().Field(i).Name)
			}
		}
	})
	for seed := range uint64(liarSeeds()) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			var tally Tally
			if err := RunLiar(seed, FastDir(t), &tally); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(&tally)
		})
	}
}

func (t *Tally) add(o *Tally) {
	a, b := reflect.ValueOf(t).Elem(), reflect.ValueOf(o).Elem()
	for i := range a.NumField() {
		a.Field(i).SetInt(a.Field(i).Int() + b.Field(i).Int())
	}
}

// TestLiarControls has each defence switched off: seeds that were found by trying must then go red, for the reason that
// the defence is there for, and be green with it.
func TestLiarControls(t *testing.T) {
	for name, c := range map[string]struct {
		off   off
		rule  string
		seeds []uint64
	}{
		"shares are not masked":         {off{noMasks: true}, caught, []uint64{323, 339, 370}},
		"a witness starts thawed":       {off{noFreeze: true}, oneHistory, []uint64{226, 536}},
		"a witness answers first":       {off{persistAfterAnswer: true}, ownWord, []uint64{7, 22}},
		"a witness checks no proof":     {off{noConsistencyCheck: true}, ownWord, []uint64{0, 1, 3}},
		"no proof, and enough for two":  {off{noConsistencyCheck: true}, oneHistory, []uint64{753}},
		"a policy without an overlap":   {off{policyTooWeak: true}, oneHistory, []uint64{32, 40, 64}},
		"a challenge known before":      {off{noAuditNonce: true}, caught, []uint64{404, 563}},
		"no result is a good result":    {off{trustUnknown: true}, notUnknown, []uint64{0, 3, 4}},
		"an auditor's word is a proof":  {off{blameWithoutProof: true}, innocent, []uint64{2, 3, 10}},
		"a reader asks no witness":      {off{noSightings: true}, freshness, []uint64{15, 35}},
		"an auditor knows nothing else": {off{noMemory: true}, caught, []uint64{3, 8, 15}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, seed := range c.seeds {
				var r *red
				err := runLiar(seed, FastDir(t), c.off, &Tally{})
				if !errors.As(err, &r) || r.rule != c.rule {
					t.Errorf("seed %d without the defence: %v; want: %s", seed, err, c.rule)
				}
				if err := RunLiar(seed, FastDir(t), &Tally{}); err != nil {
					t.Errorf("seed %d with it: %v", seed, err)
				}
			}
		})
	}
}

// A run follows from its seed alone.
func TestLiarIsTheSameAgain(t *testing.T) {
	for seed := range uint64(20) {
		var a, b Tally
		one, two := RunLiar(seed, FastDir(t), &a), RunLiar(seed, FastDir(t), &b)
		if a != b || fmt.Sprint(one) != fmt.Sprint(two) {
			t.Errorf("seed %d: %+v %v, and then %+v %v", seed, a, one, b, two)
		}
	}
}

// lossy is an embassy that stored 64 objects and lost six of them.
func lossy(t *testing.T) (*world, *host, []byte) {
	t.Helper()
	w, err := newWorld(1, FastDir(t), off{}, &Tally{})
	if err != nil {
		t.Fatal(err)
	}
	h := w.hosts[0]
	for i := range 64 {
		data := Bytes(uint64(i), 100)
		if _, err := h.put(h.branches[0], shard.Root(data), data); err != nil {
			t.Fatal(err)
		}
		if i%10 == 3 && i < 60 {
			delete(h.objects, shard.Root(data))
		}
	}
	raw, err := h.checkpoint(h.branches[0], h.branches[0].book.size())
	if err != nil {
		t.Fatal(err)
	}
	return w, h, raw
}

// A sample finds a loss as often as it must: of n draws none hits with (1-loss)^n. A challenge that is always the same
// does not, which is the control.
func TestLiarSampleFindsLoss(t *testing.T) {
	w, h, raw := lossy(t)
	const trials, draws = 400, 16
	share := func(nonce func(i int) [32]byte) float64 {
		found := 0
		for i := range trials {
			ch := audit.NewSample(w.charter.State.ID, h.id, raw, nonce(i), draws)
			res, took, err := h.respond(h.branches[0], ch)
			switch o := audit.Judge(res, err, took, deadline); o {
			case audit.Missing:
				found++
			case audit.OK:
			default:
				t.Fatalf("%s: %v", o, err)
			}
		}
		return float64(found) / trials
	}
	want := 1 - math.Pow(58./64, draws)
	may := 4 * math.Sqrt(want*(1-want)/trials)
	if got := share(func(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }); math.Abs(got-want) > may {
		t.Errorf("found in %.3f of %d audits, want %.3f±%.3f", got, trials, want, may)
	}
	if got := share(func(int) [32]byte { return [32]byte{} }); math.Abs(got-want) <= may {
		t.Errorf("one challenge again and again finds the loss as often: %.3f", got)
	}
}

// TestLiarMasks shows it without chance: everyone else together computes the very share of a register without masks,
// and none of one with them.
func TestLiarMasks(t *testing.T) {
	for _, masked := range []bool{true, false} {
		w, err := newWorld(3, FastDir(t), off{noMasks: !masked}, &Tally{})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := w.store(); err != nil {
				t.Fatal(err)
			}
		}
		tried := 0
		for _, p := range w.packs {
			h := w.hosts[0]
			if p.sent[0] == nil || p.count(0) < p.k {
				continue
			}
			tried++
			data, ok := h.regenerate(p.names[0])
			if right := ok && shard.Root(data) == p.names[0]; right == masked {
				t.Errorf("masked %v: the share was regenerated: %v", masked, right)
			}
		}
		if tried == 0 {
			t.Error("no pack could be tried")
		}
	}
}
