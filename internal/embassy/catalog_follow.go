package embassy

import (
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"chancery.dev/chancery/internal/ledger"
)

// catchUp reads the ledger from where the file ends to the leaf before size.
func (c *catalog) catchUp(ctx context.Context, size uint64) error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	if size < c.next {
		return fmt.Errorf("embassy: the ledger has %d leaves, the catalogue knew %d: %w", size, c.next, ledger.ErrShorter)
	}
	for c.next < size {
		if err := c.step(ctx, int(min(size-c.next, catalogStep))); err != nil {
			return err
		}
	}
	return nil
}

// step takes up to most leaves into the file. A crash anywhere here leaves the
// file as it was or with the whole step; bbolt sees to that.
func (c *catalog) step(ctx context.Context, most int) error {
	next, total := c.next, c.counts
	err := c.db.Update(func(tx *bbolt.Tx) error {
		var err error
		next, err = c.read(ctx, c.next, func(index uint64, l *ledger.Leaf) error {
			by, err := enter(tx, index, l)
			total.objects += by.objects
			total.bytes += by.bytes
			return err
		}, most)
		if err != nil {
			return err
		}
		v := append(make([]byte, 0, 25), catalogVersion)
		v = binary.BigEndian.AppendUint64(v, next)
		v = binary.BigEndian.AppendUint64(v, uint64(total.objects))
		v = binary.BigEndian.AppendUint64(v, uint64(total.bytes))
		return tx.Bucket(metaBucket).Put(metaKey, v)
	})
	if err != nil {
		return fmt.Errorf("embassy: catalogue: %w", err)
	}
	c.forget(next, total)
	return nil
}

// enter takes one leaf into the file. Of several leaves that store the same, the
// first counts, and of several that remove it too.
func enter(tx *bbolt.Tx, index uint64, l *ledger.Leaf) (by counts, err error) {
	held, key, objects := tx.Bucket(objectsBucket), l.Name[:], int64(1)
	record := l.Kind == ledger.RecordStored || l.Kind == ledger.RecordRemoved
	if record {
		held, key, objects = tx.Bucket(recordsBucket), slotKey(l.Slot), 0
	}
	removed := tx.Bucket(removedBucket)
	switch l.Kind {
	case ledger.ObjectStored, ledger.RecordStored:
		if held.Get(key) != nil || (record && removed.Get(key) != nil) {
			return counts{}, nil
		}
		if err := removed.Delete(key); err != nil {
			return counts{}, err
		}
		p := place{index: index, size: l.Size, hash: l.Name}
		return counts{objects, int64(l.Size)}, held.Put(key, p.bytes(record))
	case ledger.ObjectRemoved, ledger.RecordRemoved:
		old, ok := parsePlace(held.Get(key))
		if !ok {
			return counts{}, nil
		}
		if err := held.Delete(key); err != nil {
			return counts{}, err
		}
		if record && l.Slot.Kind == ledger.Register {
			p := place{index: index}
			if err := tx.Bucket(erasedBucket).Put(l.Slot.Register[:], p.bytes(false)); err != nil {
				return counts{}, err
			}
		}
		p := place{index: index, size: old.size, hash: old.hash, removed: true, by: l.Slot.Sequence}
		return counts{-objects, -int64(old.size)}, removed.Put(key, p.bytes(record))
	}
	return counts{}, nil
}

// forget drops from memory what the file now has.
func (c *catalog) forget(next uint64, total counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.counts, c.added = next, total, counts{}
	for name, p := range c.objects {
		if p.index < next {
			delete(c.objects, name)
		}
	}
	for slot, p := range c.records {
		if p.index < next {
			delete(c.records, slot)
		}
	}
	for register, index := range c.erased {
		if index < next {
			delete(c.erased, register)
		}
	}
	kept := c.changes[:0]
	for _, x := range c.changes {
		if x.index < next {
			continue
		}
		kept = append(kept, x)
		c.added.objects += x.by.objects
		c.added.bytes += x.by.bytes
	}
	c.changes = kept
}
