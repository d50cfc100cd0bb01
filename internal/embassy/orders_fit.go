package embassy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// fits holds an order against what this embassy keeps: what it would remove was
// delivered for the register that it names and for no other before, is old
// enough, and is not held. It is asked when the order comes and when its time has
// come, and reads long where much was delivered: nothing may wait for it.
func (b *orders) fits(ctx context.Context, x *ordered, names []shard.Name) error {
	if err := b.held(x); err != nil {
		return err
	}
	if k, _ := order.KindOf(x.order.Kind); !k.Destroys {
		return nil
	}
	least := b.st.terms().minimum
	var bytes uint64
	for _, name := range names {
		at, held, err := b.st.catalog.object(name)
		if err != nil {
			return err
		}
		if !held { // an order before this one had it removed
			continue
		}
		bytes += at.size
		if age := b.st.clock.age(at.index); age < least {
			return against("object %s has been witnessed for %s, and the agreement keeps everything for %s",
				name, age.Round(time.Second), least)
		}
	}
	if list, _ := x.order.Content.ListFor(b.name(b.st.inForce().charter)); bytes > list.Bytes {
		return against("the objects of the list have %d bytes here, the order speaks of %d", bytes, list.Bytes)
	}
	return b.delivered(ctx, x, names)
}

// never is later than every leaf.
const never = ^uint64(0)

// delivered checks by the deliveries that agents signed that every name is the
// register's. Whose an object is the delivery says that came first: one for
// another register that comes later is false, as a thief of an agent's key may
// write it. But while that register is held, nothing goes that was ever delivered
// for it: a hold must not be evaded under another name.
func (b *orders) delivered(ctx context.Context, x *ordered, names []shard.Name) error {
	if len(names) == 0 {
		return nil
	}
	if err := b.st.catchUp(ctx); err != nil {
		return err
	}
	first := make(map[[32]byte]uint64, len(names)) // name -> leaf of the register's first delivery of it
	for _, name := range names {
		first[name] = never
	}
	own := [16]byte(x.order.Content.Register)
	err := b.eachDelivery(ctx, own, never, func(d *ledger.Delivery, leaf uint64) error {
		for _, name := range d.Objects {
			if at, listed := first[name]; listed && leaf < at {
				first[name] = leaf
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	last := uint64(0)
	for name, at := range first {
		if at == never {
			return against("object %s was never delivered for this register", shard.Name(name))
		}
		last = max(last, at)
	}
	registers, err := b.st.deliveredRegisters()
	if err != nil {
		return err
	}
	again, err := b.enteredAgain(ctx, last)
	if err != nil {
		return err
	}
	for _, other := range registers {
		if other == own {
			continue
		}
		if gone, err := b.st.catalog.isErased(other); gone || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if err := b.others(ctx, other, first, last, again); err != nil {
			return err
		}
	}
	return nil
}

// others checks that none of the names, the last of which was delivered by the leaf
// last, is another register's. again says that this leaf was entered again.
func (b *orders) others(ctx context.Context, other [16]byte, first map[[32]byte]uint64, last uint64, again bool) error {
	until := last
	held := len(b.effects.Load().holds[other]) > 0
	if held || again { // then what came later says something too
		until = never
	}
	return b.eachDelivery(ctx, other, until, func(d *ledger.Delivery, leaf uint64) error {
		later := false // and so none of its names is the other register's
		for _, name := range d.Objects {
			mine, listed := first[name]
			switch {
			case !listed || later && leaf > mine:
				continue
			case held:
				return against("object %s was delivered for register %x, too, which is held", shard.Name(name), other)
			case leaf < mine:
				return against("object %s was delivered for register %x before", shard.Name(name), other)
			}
			again, err := b.enteredAgain(ctx, leaf)
			if err != nil {
				return err
			}
			if again {
				return against("object %s was delivered for register %x, too, and only the ledger before this one knew which was first", shard.Name(name), other)
			}
			later = true
		}
		return nil
	})
}

// enteredAgain tells whether a leaf is of what this embassy held when its ledger
// began anew: these stand before all others, and not in the order of the old one.
func (b *orders) enteredAgain(ctx context.Context, index uint64) (again bool, err error) {
	_, err = b.st.journal.each(ctx, index, func(_ uint64, l *ledger.Leaf) error {
		again = l.Actor == [32]byte(publicOf(b.srv.key))
		return nil
	}, 1)
	return again, err
}

// deliveredRegisters are the registers that something was delivered for.
func (st *state) deliveredRegisters() (all [][16]byte, err error) {
	var after *[16]byte
	for {
		page, err := st.catalog.listRegisters(ledger.DeliveryRecord, after, maxList)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < maxList {
			return all, nil
		}
		after = &all[len(all)-1]
	}
}

// eachDelivery reads the deliveries of a register to this embassy that its agents
// signed and that came no later than the leaf until. What is none is passed over:
// a record that anyone could have written must not keep an order from what is the
// register's.
func (b *orders) eachDelivery(ctx context.Context, register [16]byte, until uint64, do func(d *ledger.Delivery, leaf uint64) error) error {
	var after uint64
	for {
		infos, err := b.st.catalog.listRecords(ledger.DeliveryRecord, register, after, maxSlotPage)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				return err
			}
			after = info.Slot.Sequence
			at, _, err := b.st.catalog.record(info.Slot)
			if err != nil {
				return err
			}
			if at.index > until {
				continue
			}
			data, err := b.readDelivery(b.st.recordPath(info.Slot))
			if err != nil {
				return err
			}
			if sha256.Sum256(data) != info.Hash {
				return fmt.Errorf("embassy: a delivery is damaged: %s %d", info.Slot.Kind, info.Slot.Sequence)
			}
			d, err := ledger.ParseDelivery(data)
			if err != nil || d.Verify() != nil || d.State != [16]byte(b.st.id) || d.Slot() != info.Slot {
				continue
			}
			if err := do(&d, at.index); err != nil {
				return err
			}
		}
		if len(infos) < maxSlotPage {
			return nil
		}
	}
}

// terms are what the agreement demands of orders.
type terms struct {
	minimum time.Duration // that everything is kept
	cooling time.Duration // that a removal waits at least
}
