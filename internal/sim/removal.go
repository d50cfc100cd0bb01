package sim

import (
	"context"
	"slices"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
)

// standingOrder is an order to remove objects, as the embassy has it.
type standingOrder struct {
	archive.Removal
	register [16]byte
	list     ledger.ObjectList
}

// Order gives the embassy an order that a quorum signed to remove the objects of a list. It waits until Carry.
func (e *Embassy) Order(id [32]byte, name string, register [16]byte, snapshots []uint64, list ledger.ObjectList) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.orders = append(e.orders, standingOrder{archive.Removal{ID: id, Order: name, Snapshots: snapshots}, register, list})
}

// Carry lets an order take effect: its objects are removed. With most not negative it dies after so many of them.
func (e *Embassy) Carry(id [32]byte, most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.orders {
		o := &e.orders[i]
		if o.ID != id {
			continue
		}
		for n, name := range o.list {
			if most >= 0 && n >= most {
				return
			}
			delete(e.objects, name)
			delete(e.places, name) // stored again, it has a new leaf
		}
		o.Done = true
	}
}

// Veto ends an order that waits.
func (e *Embassy) Veto(id [32]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.orders = slices.DeleteFunc(e.orders, func(o standingOrder) bool { return o.ID == id && !o.Done })
}

// Removals is archive.Removals.
func (e *Embassy) Removals(ctx context.Context, register [16]byte) ([]archive.Removal, error) {
	c := &Call{Op: ListRecords}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	e.mu.Lock()
	var out []archive.Removal
	for i := range e.orders {
		if e.orders[i].register == register {
			out = append(out, e.orders[i].Removal)
		}
	}
	e.mu.Unlock()
	return out, e.leave(ctx, c)
}

// Removed is archive.Removals.
func (e *Embassy) Removed(ctx context.Context, id [32]byte) (ledger.ObjectList, error) {
	c := &Call{Op: GetRecord}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	e.mu.Lock()
	var list ledger.ObjectList
	for i := range e.orders {
		if e.orders[i].ID == id {
			list = e.orders[i].list
		}
	}
	e.mu.Unlock()
	return list, e.leave(ctx, c)
}
