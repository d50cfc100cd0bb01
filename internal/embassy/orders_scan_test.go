package embassy

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// counted counts the deliveries that the orders of a state read.
func counted(b *orders) *atomic.Int64 {
	var n atomic.Int64
	read := b.readDelivery
	b.readDelivery = func(path string) ([]byte, error) {
		n.Add(1)
		return read(path)
	}
	return &n
}

// fit asks what an order about objects of register 7 is asked when its time comes.
func (w *world) fit(names []shard.Name) error {
	slices.SortFunc(names, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	content, _ := removalOf(w.t, 7, names)
	made, err := order.New(w.drafted(charter.ActErase, content))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.state(0).orders.fits(w.t.Context(), &ordered{order: made}, names)
}

// Of the register's own deliveries each is read once, and of others' those that came before the last of what goes.
func TestAnOrderReadsEachDeliveryOnceAtMost(t *testing.T) {
	t.Parallel()
	w := state3(t, 1, nil)
	nothing := func(register byte, heads int) {
		for head := range heads {
			w.claims(register, uint64(head)+2, []shard.Name{{register, byte(head)}})
		}
	}
	nothing(8, 5)
	mine := w.delivers(7, 1, 3)
	nothing(7, 4)
	nothing(9, 20)
	reads := counted(w.state(0).orders)
	if err := w.fit(mine); err != nil || reads.Load() != 5+5 {
		t.Errorf("%d deliveries were read, want 10: %v", reads.Load(), err)
	}
}

// A ledger that began anew does not know which of two deliveries came first, and nothing goes that was delivered for two.
func TestARenewedLedgerDoesNotSayWhatWasDeliveredFirst(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	mine := w.delivers(7, 1, 2)
	var both [][]shard.Name
	for head := range uint64(12) { // of which chance enters some in the old order
		both = append(both, w.delivers(7, head+2, 1))
	}
	for i, names := range both {
		w.claims(9, uint64(i)+1, names)
		if err := w.fit(names); err != nil {
			t.Fatal("control:", err)
		}
	}
	next := w.state(0).inForce().charter.Next()
	next.Embassies = slices.Clone(next.Embassies)
	next.Embassies[0].Origin += "/2"
	doc := made(t, next)
	if err := w.client(0, "agent").PutCharter(t.Context(), doc.Bytes(), signs(t, charter.Namespace, doc.Bytes(), "mari", "jaan")); err != nil {
		t.Fatal(err)
	}
	w.sites[0].stop()
	w.start(0)
	if err := w.fit(mine); err != nil {
		t.Errorf("delivered once: %v", err)
	}
	for _, names := range both {
		if err := w.fit(names); !errors.Is(err, errOrder) {
			t.Errorf("delivered twice: %v", err)
		}
	}
}

// However long an order is held against what was delivered, others are stopped meanwhile.
func TestAVetoDoesNotWaitForWhatAnOrderReads(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, cooling(charter.ActErase, "1h"))
	one, two := w.delivers(7, 1, 2), w.delivers(7, 2, 2)
	content, list := removalOf(t, 7, one)
	s := w.ordered(charter.ActErase, content, list)
	b := w.state(0).orders
	reading, on := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.readDelivery = func(path string) ([]byte, error) {
		once.Do(func() { close(reading); <-on })
		return readFile(path, maxRecord)
	}
	taken := make(chan error, 1)
	content, list = removalOf(t, 7, two)
	_, rec := w.given(w.drafted(charter.ActErase, content), [][]byte{list}, "mari", "jaan")
	go func() {
		_, err := w.client(0, "agent").PutOrder(t.Context(), rec, list)
		taken <- err
	}()
	<-reading
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := w.veto(ctx, s.Hash, "olev", "olev"); err != nil {
		t.Errorf("a veto meanwhile: %v", err)
	}
	close(on)
	if err := <-taken; err != nil {
		t.Errorf("the order that was read: %v", err)
	}
	if s := w.over(1); s.Status != "vetoed" || w.held(one) != 2 {
		t.Errorf("%+v", s)
	}
}

// What 100,000 deliveries cost an order, half of them of its own register.
func BenchmarkAnOrderAgainst100000Deliveries(b *testing.B) {
	const all = 100_000
	w := state3(b, 1, nil)
	mine := w.delivers(7, all, 3)
	st, srv := w.state(0), w.sites[0].server
	heads := make(chan uint64)
	var lanes sync.WaitGroup
	for range 256 {
		lanes.Go(func() {
			for head := range heads {
				slot, data := w.delivery(7+byte(head%2), head, []shard.Name{{byte(head), byte(head >> 8), byte(head >> 16)}})
				if _, _, err := srv.takeRecord(context.Background(), st, slot, data, publicOf(keyOf("agent")), false); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for head := range uint64(all - 1) {
		heads <- head + 1
	}
	close(heads)
	lanes.Wait()
	mine = append(mine, w.delivers(7, all+1, 1)...) // the last of all: nothing is passed over
	reads := counted(st.orders)
	for b.Loop() {
		if err := w.fit(mine); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(reads.Load())/float64(b.N), "reads/op")
}
