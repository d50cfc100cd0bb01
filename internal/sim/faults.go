package sim

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Fail sets what goes wrong from now on; the zero Faults is none.
func (e *Embassy) Fail(f Faults) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = f
}

// Down lets the embassy answer nothing.
func Down() Faults {
	return Faults{Before: func(context.Context, *Call) error { return ErrDown }}
}

// Full lets it refuse to store, as a full disk does.
func Full() Faults {
	return Faults{Before: func(_ context.Context, c *Call) error {
		if c.Op == Put || c.Op == Repair || c.Op == PutRecord || c.Op == PutRecords {
			return syscall.ENOSPC
		}
		return nil
	}}
}

// Slow lets every call take so long, or until it is given up.
func Slow(d time.Duration) Faults {
	return Faults{Before: func(ctx context.Context, _ *Call) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

// Stale lets it know only the heads up to last, as a disk image of yesterday does.
func Stale(last uint64) Faults {
	return Faults{List: func(list []ledger.RecordInfo) []ledger.RecordInfo {
		return slices.DeleteFunc(list, func(r ledger.RecordInfo) bool { return r.Slot.Sequence > last })
	}}
}

// Counter counts calls over several embassies and lets one of them fail.
type Counter struct {
	n  atomic.Int64
	at int64
	do func() error
}

// NewCounter makes a counter whose call number at (from 0) and all later ones return what do returns. A negative at
// only counts.
func NewCounter(at int, do func() error) *Counter { return &Counter{at: int64(at), do: do} }

// Count returns how many calls there were.
func (c *Counter) Count() int { return int(c.n.Load()) }

// Faults lets the call fail; after tells whether it took effect.
func (c *Counter) Faults(after bool) Faults {
	hit := func(context.Context, *Call) error {
		if n := c.n.Add(1) - 1; c.at >= 0 && n >= c.at {
			return c.do()
		}
		return nil
	}
	if after {
		return Faults{After: hit}
	}
	return Faults{Before: hit}
}

// Objects returns the names of all objects, in order.
func (e *Embassy) Objects() []shard.Name {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.SortedFunc(maps.Keys(e.objects), func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
}

// Object returns the bytes of an object as they stand on the embassy's disk; nil when it is gone. They are the
// embassy's own: do not change them.
func (e *Embassy) Object(name shard.Name) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.objects[name]
}

// Damage puts other bytes in the place of an object, behind the ledger's back; nil removes it. It returns what was
// there.
func (e *Embassy) Damage(name shard.Name, data []byte) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.objects[name]
	if data == nil {
		delete(e.objects, name)
	} else {
		e.objects[name] = data
	}
	return old
}

// Flip inverts bits of one byte of an object.
func (e *Embassy) Flip(name shard.Name, at int, bits byte) {
	data := bytes.Clone(e.Object(name))
	data[at] ^= bits
	e.Damage(name, data)
}

// DamageRecord puts other bytes into a slot; nil empties it. It returns what was there.
func (e *Embassy) DamageRecord(slot ledger.Slot, data []byte) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.records[slot]
	if data == nil {
		delete(e.records, slot)
	} else {
		e.records[slot] = data
	}
	return old
}

// Slots returns the slots that hold a record, by sequence.
func (e *Embassy) Slots() []ledger.Slot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.SortedFunc(maps.Keys(e.records), func(a, b ledger.Slot) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
}

// Count returns how many calls of a kind there were.
func (e *Embassy) Count(op Op) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counts[op]
}

// Received returns how many bytes of objects were sent to the embassy, stored or not.
func (e *Embassy) Received() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sent
}

// Each calls yield for the bytes of everything that a host sees of the embassy: objects, records, leaves.
func (e *Embassy) Each(yield func(what string, data []byte)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n, data := range e.objects {
		yield("object "+n.String(), data)
	}
	for s, data := range e.records {
		yield("record "+s.Kind.String(), data)
	}
	for _, l := range e.book.leaves {
		yield("leaf", l)
	}
}
