package embassy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// A whole register is erased, in two orders as one that is too large for one: with the first its own record goes and it
// takes nothing any more, with the second the rest; its neighbour is not touched. So it stays after a start, and where the
// catalogue is read from the ledger again.
func TestAWholeRegisterIsErased(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	agent := func() *Client { return w.client(0, "agent") }
	slot, data := registerRecord(t, w.state(0), 1, nil)
	next, more := registerRecord(t, w.state(0), 2, nil)
	if err := agent().PutRecord(t.Context(), slot, data); err != nil {
		t.Fatal(err)
	}
	mine, other := w.delivers(7, 1, 6), w.delivers(8, 1, 3)
	w.cosigned(0, 1)
	erase := func(n uint64, names []shard.Name) OrderStatus {
		t.Helper()
		content, list := removalOf(t, 7, names)
		w.ordered(charter.ActErase, content, list)
		return w.over(n)
	}
	check := func(when string, left int) {
		t.Helper()
		if _, err := agent().GetRecord(t.Context(), slot); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: its record: %v", when, err)
		}
		for what, err := range map[string]error{
			"its record again": agent().PutRecord(t.Context(), slot, data), "the next": agent().PutRecord(t.Context(), next, more),
		} {
			if !errors.Is(err, ErrRemoved) {
				t.Errorf("%s: %s: %v", when, what, err)
			}
		}
		late, doc := w.delivery(7, 9, mine[:1])
		if err := agent().PutRecord(t.Context(), late, doc); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s: a delivery: %v", when, err)
		}
		if ids, err := agent().ListRegisters(t.Context(), ledger.Register); err != nil || len(ids) != 0 {
			t.Errorf("%s: registers %x, %v", when, ids, err)
		}
		if w.held(mine) != left || w.held(other) != 3 {
			t.Errorf("%s: %d and %d objects are left", when, w.held(mine), w.held(other))
		}
	}
	if _, err := agent().GetRecord(t.Context(), slot); err != nil {
		t.Fatal("control:", err)
	}
	if s := erase(1, mine[:4]); s.Status != "done" || s.Objects != 4 {
		t.Fatalf("%+v", s)
	}
	check("after the first", 2)
	if s := erase(2, mine[4:]); s.Status != "done" || s.Objects != 2 {
		t.Fatalf("%+v", s)
	}
	check("after the second", 0)
	w.sites[0].stop()
	w.start(0)
	check("after a start", 0)
	w.sites[0].stop()
	if err := os.Remove(filepath.Join(w.state(0).dir, "catalog.db")); err != nil {
		t.Fatal(err)
	}
	w.start(0)
	check("read from the ledger again", 0)
}

// An order of very many objects is carried out in memory that does not grow with them beyond their names.
func TestAnOrderOfManyObjectsTakesLittleMemory(t *testing.T) {
	many := 10_000
	if os.Getenv("CHANCERY_EXHAUSTIVE") == "1" {
		many = 100_000
	}
	w := state3(t, 3, nil)
	st := w.state(0)
	names := make([]shard.Name, many)
	each := func(do func(i int) error) {
		t.Helper()
		var lanes sync.WaitGroup
		at := atomic.Int64{}
		for range 512 {
			lanes.Go(func() {
				for i := at.Add(1) - 1; i < int64(many); i = at.Add(1) - 1 {
					if err := do(int(i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		lanes.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	each(func(i int) error {
		names[i] = shard.Name(seeded(32, "many", i))
		if err := st.roomForLeaf(t.Context()); err != nil {
			return err
		}
		l := ledger.NewLeaf(ledger.ObjectStored, st.id)
		l.Name, l.Size, l.Actor = names[i], 600, [32]byte(publicOf(keyOf("agent")))
		_, err := st.act(&l)
		return err
	})
	const part = 4000
	for head := 0; head*part < many; head++ {
		w.claims(7, uint64(head)+1, sorted(names[head*part:min(many, (head+1)*part)]))
	}
	content, list := removalOf(t, 7, sorted(names))
	made, err := order.New(w.drafted(charter.ActErase, content))
	if err != nil {
		t.Fatal(err)
	}
	x := &ordered{order: made}
	most, end := peak(func() {
		listed, err := listedNames(list)
		if err == nil {
			err = st.orders.fits(t.Context(), x, listed)
		}
		if err != nil {
			t.Fatal(err)
		}
		r := &removal{st: st, actor: publicOf(w.keys[0]), register: [16]byte{7}, order: 1}
		did, err := r.objects(context.Background(), listed)
		if err != nil || did.objects != uint64(many) || did.bytes != 600*uint64(many) {
			t.Fatalf("%+v, %v", did, err)
		}
	})
	t.Logf("%d objects: at most %d KiB more than before, %d KiB at the end", many, most>>10, end>>10)
	if limit := uint64(16<<20 + 256*many); most > limit {
		t.Errorf("an order of %d objects takes %d KiB, want %d at most", many, most>>10, limit>>10)
	}
	if totals := st.catalog.totals(); totals.objects != 0 {
		t.Errorf("%d objects are left", totals.objects)
	}
}

// peak is how much the heap grows at most while something is done, and how much is left of that.
func peak(do func()) (most, end uint64) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before := heap()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				runtime.GC() // what is in use, not what is yet to be collected
				now := heap()
				most = max(most, now-min(now, before))
			}
		}
	}()
	do()
	close(stop)
	<-done
	runtime.GC()
	now := heap()
	return most, now - min(now, before)
}

func sorted(names []shard.Name) []shard.Name {
	out := slices.Clone(names)
	slices.SortFunc(out, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	return out
}
