package audit

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// TestWhatWasRemovedIsNotLost: of an object whose newest leaf says that it was
// removed nothing is asked and nothing missed, whether the removal is in the
// challenge's tree or came after it; stored again, it counts again. The controls:
// the same object without the leaf, and lost after it came back, is missing.
func TestWhatWasRemovedIsNotLost(t *testing.T) {
	const removals = 12
	h := filled(t, "lu", 20, 3*shard.LeafSize)
	early := h.sample(t, 1, 60)
	whole := NewRange(testState, h.id(), h.checkpoint(t, 21), nonceOf(2), 0, 21)
	for i := range removals {
		h.remove(t, h.names[i], uint64(i+1))
	}
	for name, ch := range map[string]*Challenge{"before": early, "after": h.sample(t, 3, 60), "a range from before": whole} {
		res, err := h.audited(t, ch)
		if got := Judge(res, err, 0, testDeadline); got != OK {
			t.Fatalf("%s: %v, %+v, %v", name, got, res, err)
		}
		if res.Removed == 0 || ch.Mode == Sample && res.Objects != 60 || ch.Mode == Range && (res.Removed != removals || res.Objects != 20-removals) {
			t.Errorf("%s: %d objects, %d removed", name, res.Objects, res.Removed)
		}
		c := &Coverage{}
		if ch.Mode == Range { // as home takes it in
			c.Lose(5, 6, anyTime)
			c.Add(ch.From, ch.To, anyTime.Add(time.Second))
			if c.Lost() != 0 || c.Share(21, anyTime.Add(day), period) != 1 {
				t.Errorf("%s: %d lost, share %v", name, c.Lost(), c.Share(21, anyTime.Add(day), period))
			}
		}
	}
	back := h.names[3]
	h.store(t, content(rand.New(rand.NewPCG(9, 9)), 1, 40)) // something else
	for i := range removals {
		if i != 3 { // the control: nothing says that they were removed
			delete(h.removed, h.names[i])
		}
	}
	if got := outcomeOf(t, h, whole); got != Missing {
		t.Errorf("removed without a leaf: %v", got)
	}
	for i := range removals {
		h.removed[h.names[i]] = uint64(21 + i)
	}
	delete(h.removed, back) // stored again, and lost
	leaf := ledger.NewLeaf(ledger.ObjectStored, testState)
	leaf.Name, leaf.Size = back, 1
	h.append(t, &leaf)
	at := uint64(len(h.entries))
	again := NewRange(testState, h.id(), h.checkpoint(t, int(at)), nonceOf(4), at-1, at)
	if got := outcomeOf(t, h, again); got != Missing {
		t.Errorf("lost after it was stored again: %v", got)
	}
}

func outcomeOf(t *testing.T, h *host, ch *Challenge) Outcome {
	t.Helper()
	res, err := h.audited(t, ch)
	return Judge(res, err, 0, testDeadline)
}

// TestARemovalThatDoesNotHoldConvicts: who says "removed" and cannot show the leaf
// has lost the object, and the report convicts it.
func TestARemovalThatDoesNotHoldConvicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		twist func(*testing.T, *host, *Removal)
		want  Outcome
	}{
		{"the true one", func(*testing.T, *host, *Removal) {}, OK}, // the control
		{"before the object", func(_ *testing.T, _ *host, r *Removal) { r.Index = 0 }, Missing},
		{"another index", func(_ *testing.T, _ *host, r *Removal) { r.Index++ }, Missing},
		{"a leaf that stored it", func(_ *testing.T, h *host, r *Removal) { r.Leaf = h.entries[1] }, Missing},
		{"another's removal", func(t *testing.T, h *host, r *Removal) {
			o, err := h.Removed(h.names[1], uint64(len(h.entries)))
			if err != nil {
				t.Fatal(err)
			}
			*r = *o
		}, Missing},
		{"no path", func(_ *testing.T, _ *host, r *Removal) { r.Proof = r.Proof[1:] }, Missing},
		{"a leaf that it made up", func(t *testing.T, h *host, r *Removal) {
			leaf, err := ledger.ParseLeaf(r.Leaf)
			if err != nil {
				t.Fatal(err)
			}
			leaf.Slot.Sequence++
			if r.Leaf, err = leaf.Bytes(); err != nil {
				t.Fatal(err)
			}
		}, Missing},
		{"in another history", func(t *testing.T, h *host, r *Removal) {
			other := filled(t, "lu", 5, 10)
			for len(other.entries) < len(h.entries) {
				other.charter(t, 3)
			}
			leaf, err := ledger.ParseLeaf(r.Leaf)
			if err != nil {
				t.Fatal(err)
			}
			other.objects[h.names[0]] = make([]byte, leaf.Size)
			other.remove(t, h.names[0], 1)
			o, err := other.Removed(h.names[0], uint64(len(h.entries)))
			if err != nil {
				t.Fatal(err)
			}
			*r = *o
		}, Missing},
	} {
		h := filled(t, "lu", 5, 100)
		h.remove(t, h.names[1], 1)
		h.remove(t, h.names[0], 2)
		h.charter(t, 2)
		src := &lying{host: h, twist: func(r *Removal) { c.twist(t, h, r) }}
		ch := NewRange(testState, h.id(), h.checkpoint(t, len(h.entries)), nonceOf(1), 1, 2)
		var b bytes.Buffer
		if err := Respond(&b, ch, src, h.key); err != nil {
			t.Fatal(err)
		}
		res, err := Verify(&b, ch, h.log())
		got := Judge(res, err, 0, testDeadline)
		if c.name == "before the object" { // an honest program sends no such thing, and says missing
			if len(res.Missing) != 1 {
				t.Errorf("%s: %+v", c.name, res)
			}
		}
		if got != c.want {
			t.Errorf("%s: %v, %v", c.name, got, err)
			continue
		}
		r, err := NewReport(&Run{State: testState, Embassy: h.id(), Challenge: ch, Started: anyTime, Outcome: got, Result: res}, nonceOf(5))
		if err != nil {
			t.Fatal(err)
		}
		found, err := r.Convicts(publicOf(h.key))
		if convicted := err == nil; convicted != (c.want == Missing) || convicted && (found.What != Gone || found.Name != h.names[0]) {
			t.Errorf("%s: %+v, %v", c.name, found, err)
		}
	}
}

// lying is an embassy that twists where it says an object was removed.
type lying struct {
	*host
	twist func(*Removal)
}

func (l *lying) Removed(name shard.Name, size uint64) (*Removal, error) {
	r, err := l.host.Removed(name, size)
	if r != nil {
		l.twist(r)
	}
	return r, err
}
