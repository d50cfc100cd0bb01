package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
)

// bound is what an order that removes something binds for one embassy.
type bound struct {
	embassy string
	list    ledger.ObjectList
	bytes   uint64 // of the objects together
	more    bool   // than one order can list
}

// atMost leaves so many objects for this order, and the others for the next.
func (l *bound) atMost(n int) {
	if l.more = len(l.list) > n; l.more {
		l.list = l.list[:n]
	}
}

func boundOf(rel *archive.Release) (lists []bound) {
	for _, l := range rel.Lists {
		lists = append(lists, bound{l.Embassy, l.List, l.Bytes, rel.More})
	}
	return lists
}

// everything lists all that each embassy was ever given of a register and still holds: what agents signed for in their
// deliveries. It takes no key that opens.
func (c *connection) everything(ctx context.Context, name string) ([]bound, error) {
	r, err := c.home.Register(name)
	if err != nil {
		return nil, err
	}
	var lists []bound
	for _, id := range r.Record.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		x := c.client(e)
		l := bound{embassy: e.Name}
		if l.list, err = owned(ctx, x, r.Record.ID); err == nil {
			l.atMost(archive.MaxListed)
			err = l.weigh(ctx, x)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		lists = append(lists, l)
	}
	return lists, nil
}

// weigh adds up the objects' bytes from the embassy's own leaves.
func (l *bound) weigh(ctx context.Context, x *embassy.Client) error {
	for part := range slices.Chunk(l.list, 4096) {
		receipts, err := x.Receipts(ctx, shardNames(part), nil)
		if err != nil {
			return err
		}
		for i := range receipts {
			leaf, err := ledger.ParseLeaf(receipts[i].Leaf)
			if err != nil {
				return err
			}
			l.bytes += leaf.Size
		}
	}
	return nil
}

func shardNames(list ledger.ObjectList) []shard.Name {
	names := make([]shard.Name, len(list))
	for i, n := range list {
		names[i] = n
	}
	return names
}

// owned lists what an embassy holds of a register: what was delivered for it, but for what was delivered for another one
// before, as the embassy tells an object's register.
func owned(ctx context.Context, x *embassy.Client, register charter.RegisterID) (ledger.ObjectList, error) {
	list := ledger.ObjectList{}
	if err := eachDelivery(ctx, x, register, func(d *ledger.Delivery) { list = append(list, d.Objects...) }); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	list = slices.Compact(list)
	others, err := firstOfOthers(ctx, x, register, list)
	if err != nil {
		return nil, err
	}
	gone, err := x.Missing(ctx, shardNames(list))
	if err != nil {
		return nil, err
	}
	for _, n := range gone {
		others[n] = true
	}
	return slices.DeleteFunc(list, func(n [32]byte) bool { return others[n] }), nil
}

// firstOfOthers are those of the objects that were delivered for another register before. Mostly there are none: an object
// is of one register, and whoever says otherwise stole an agent's key.
func firstOfOthers(ctx context.Context, x *embassy.Client, register charter.RegisterID, list ledger.ObjectList) (map[[32]byte]bool, error) {
	registers, err := x.ListRegisters(ctx, ledger.DeliveryRecord)
	if err != nil {
		return nil, err
	}
	theirs, ours := map[[32]byte][]ledger.Slot{}, map[[32]byte][]ledger.Slot{}
	for _, other := range registers {
		if other == [16]byte(register) {
			continue
		}
		if err := eachDelivery(ctx, x, other, func(d *ledger.Delivery) {
			for _, n := range d.Objects {
				if list.Has(n) {
					theirs[n] = append(theirs[n], d.Slot())
				}
			}
		}); err != nil {
			return nil, err
		}
	}
	before := map[[32]byte]bool{}
	if len(theirs) == 0 {
		return before, nil
	}
	if err := eachDelivery(ctx, x, register, func(d *ledger.Delivery) {
		for _, n := range d.Objects {
			if theirs[n] != nil {
				ours[n] = append(ours[n], d.Slot())
			}
		}
	}); err != nil {
		return nil, err
	}
	for n := range theirs {
		own, err := firstLeaf(ctx, x, ours[n])
		if err != nil {
			return nil, err
		}
		other, err := firstLeaf(ctx, x, theirs[n])
		if err != nil {
			return nil, err
		}
		before[n] = other < own
	}
	return before, nil
}

// firstLeaf is the index of the first of some records in the embassy's ledger.
func firstLeaf(ctx context.Context, x *embassy.Client, slots []ledger.Slot) (uint64, error) {
	receipts, err := x.Receipts(ctx, nil, slots)
	if err != nil {
		return 0, err
	}
	first := ^uint64(0)
	for i := range receipts {
		first = min(first, receipts[i].Index)
	}
	return first, nil
}

// eachDelivery reads the deliveries of a register to one embassy. What is none is passed over, as the embassy does.
func eachDelivery(ctx context.Context, x *embassy.Client, register [16]byte, do func(*ledger.Delivery)) error {
	for after := uint64(0); ; {
		page, err := x.ListRecords(ctx, ledger.DeliveryRecord, register, after)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, info := range page {
			after = info.Slot.Sequence
			data, err := x.GetRecord(ctx, info.Slot)
			if err != nil {
				return err
			}
			if d, err := ledger.ParseDelivery(data); err == nil && d.Verify() == nil && d.Slot() == info.Slot {
				do(&d)
			}
		}
	}
}

// checkErase holds the lists of an order that erases a whole register against what the embassies were given of it: nothing
// stays that could need anything, so what is to find is an object of another register, and what would be left behind.
func (c *connection) checkErase(ctx context.Context, r *home.Register, reg *register.Register, lists []ledger.ObjectList) error {
	for i, m := range reg.Members {
		e, ok := c.home.Charter.EmbassyByID(m.ID)
		if !ok {
			continue
		}
		all, err := owned(ctx, c.client(e), r.Record.ID)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		for _, name := range lists[i] {
			if !all.Has(name) {
				return &failure{
					err:  fmt.Errorf("%s holds no object %s of register %s, which the list removes", m.Name, shard.Name(name), reg.Name),
					code: exitRefused, hint: "sign no order with this list; find out who made it",
				}
			}
		}
		if left := len(all) - len(lists[i]); left > 0 && len(lists[i]) < archive.MaxListed {
			return &failure{
				err:  fmt.Errorf("%s would still hold %s of register %s, which is then erased", m.Name, plural(left, "object"), reg.Name),
				code: exitRefused, hint: "sign no order that leaves part of it: have it proposed anew while no backup is under way",
			}
		}
	}
	return nil
}
