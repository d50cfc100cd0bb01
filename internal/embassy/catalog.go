package embassy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// catalog answers what the ledger says of a name or slot without reading the
// ledger. On disk it is a bbolt file that is a pure function of the ledger's
// first `next` leaves; it lags behind and may be thrown away at any time. What
// was appended since is kept in `fresh`, which the follower empties.
type catalog struct {
	db   *bbolt.DB
	read func(ctx context.Context, from uint64, each func(index uint64, leaf *ledger.Leaf) error, most int) (uint64, error)

	flushing sync.Mutex // one catchUp at a time

	mu      sync.RWMutex
	objects map[shard.Name]place
	records map[ledger.Slot]place
	next    uint64 // leaves that the file covers
	counts  counts // of the file
	added   counts // of fresh
}

// place is where something stands in the ledger.
type place struct {
	index uint64
	size  uint64
	hash  [32]byte // records only
}

type counts struct{ objects, bytes uint64 }

var (
	objectsBucket = []byte("objects") // name -> index 8, size 8
	recordsBucket = []byte("records") // kind 1, register 16, sequence 8 -> index 8, size 8, hash 32
	metaBucket    = []byte("meta")    // "state" -> version 1, next 8, objects 8, bytes 8
	metaKey       = []byte("state")
)

const (
	catalogVersion = 1
	catalogStep    = 4096    // leaves a transaction
	freshLimit     = 1 << 16 // beyond this the embassy is busy until the file has caught up
)

var (
	errCatalogFull    = errors.New("embassy: catalogue: too far behind the ledger")
	errCatalogVersion = errors.New("of another version")
)

// openCatalog opens the file, or begins a new one where it is absent, of an old
// version or broken.
func openCatalog(path string) (*catalog, error) {
	c := &catalog{objects: make(map[shard.Name]place), records: make(map[ledger.Slot]place)}
	err := c.open(path)
	if err != nil {
		if !unreadable(err) {
			return nil, err
		}
		// Everything in it can be read from the ledger again.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("embassy: catalogue: %w", err)
		}
		if err := c.open(path); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// unreadable tells a file that has to be made again from, say, a full disk.
func unreadable(err error) bool {
	return errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) ||
		errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, errCatalogVersion)
}

func (c *catalog) open(path string) error {
	db, err := bbolt.Open(path, filePerm, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return fmt.Errorf("embassy: catalogue: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{objectsBucket, recordsBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		v := tx.Bucket(metaBucket).Get(metaKey)
		if v == nil {
			return nil
		}
		if len(v) != 25 || v[0] != catalogVersion {
			return errCatalogVersion
		}
		c.next = binary.BigEndian.Uint64(v[1:])
		c.counts = counts{binary.BigEndian.Uint64(v[9:]), binary.BigEndian.Uint64(v[17:])}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("embassy: catalogue: %w", err), db.Close())
	}
	c.db = db
	return nil
}

func (c *catalog) close() error {
	if err := c.db.Close(); err != nil {
		return fmt.Errorf("embassy: catalogue: %w", err)
	}
	return nil
}

func slotKey(s ledger.Slot) []byte {
	k := make([]byte, 0, 25)
	k = append(k, byte(s.Kind))
	k = append(k, s.Register[:]...)
	return binary.BigEndian.AppendUint64(k, s.Sequence)
}

func (p place) bytes(record bool) []byte {
	v := make([]byte, 0, 48)
	v = binary.BigEndian.AppendUint64(v, p.index)
	v = binary.BigEndian.AppendUint64(v, p.size)
	if record {
		v = append(v, p.hash[:]...)
	}
	return v
}

func parsePlace(v []byte) (p place, ok bool) {
	if len(v) != 16 && len(v) != 48 {
		return place{}, false
	}
	p.index, p.size = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	copy(p.hash[:], v[16:])
	return p, true
}

// object tells where a name stands. The fresh map is asked first: the follower
// takes from it only what the file has.
func (c *catalog) object(name shard.Name) (place, bool, error) {
	c.mu.RLock()
	p, ok := c.objects[name]
	c.mu.RUnlock()
	if ok {
		return p, true, nil
	}
	return c.lookup(objectsBucket, name[:])
}

func (c *catalog) record(slot ledger.Slot) (place, bool, error) {
	c.mu.RLock()
	p, ok := c.records[slot]
	c.mu.RUnlock()
	if ok {
		return p, true, nil
	}
	return c.lookup(recordsBucket, slotKey(slot))
}

func (c *catalog) lookup(bucket, key []byte) (p place, ok bool, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucket).Get(key)
		if v == nil {
			return nil
		}
		if p, ok = parsePlace(v); !ok {
			return errMalformed
		}
		return nil
	})
	if err != nil {
		return place{}, false, fmt.Errorf("embassy: catalogue: %w", err)
	}
	return p, ok, nil
}

// note remembers a leaf that was just appended, and tells whether it is time to
// catch up.
func (c *catalog) note(l *ledger.Leaf, index uint64) (behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if index < c.next {
		return false // the follower was quicker
	}
	p := place{index: index, size: l.Size, hash: l.Name}
	switch l.Kind {
	case ledger.ObjectStored:
		c.objects[l.Name] = p
		c.added.objects++
	case ledger.RecordStored:
		c.records[l.Slot] = p
	default:
		return false
	}
	c.added.bytes += l.Size
	return len(c.objects)+len(c.records) >= catalogStep
}

// room fails while too much is remembered in memory only.
func (c *catalog) room() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.objects)+len(c.records) >= freshLimit {
		return errCatalogFull
	}
	return nil
}

func (c *catalog) totals() counts {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return counts{c.counts.objects + c.added.objects, c.counts.bytes + c.added.bytes}
}

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
		objects, records := tx.Bucket(objectsBucket), tx.Bucket(recordsBucket)
		var err error
		next, err = c.read(ctx, c.next, func(index uint64, l *ledger.Leaf) error {
			bucket, key := objects, l.Name[:]
			switch l.Kind {
			case ledger.ObjectStored:
			case ledger.RecordStored:
				bucket, key = records, slotKey(l.Slot)
			default:
				return nil
			}
			if bucket.Get(key) != nil {
				return nil // the first leaf counts
			}
			if l.Kind == ledger.ObjectStored {
				total.objects++
			}
			total.bytes += l.Size
			p := place{index: index, size: l.Size, hash: l.Name}
			return bucket.Put(key, p.bytes(l.Kind == ledger.RecordStored))
		}, most)
		if err != nil {
			return err
		}
		v := append(make([]byte, 0, 25), catalogVersion)
		v = binary.BigEndian.AppendUint64(v, next)
		v = binary.BigEndian.AppendUint64(v, total.objects)
		v = binary.BigEndian.AppendUint64(v, total.bytes)
		return tx.Bucket(metaBucket).Put(metaKey, v)
	})
	if err != nil {
		return fmt.Errorf("embassy: catalogue: %w", err)
	}
	c.forget(next, total)
	return nil
}

// forget drops from memory what the file now has.
func (c *catalog) forget(next uint64, total counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.counts, c.added = next, total, counts{}
	for name, p := range c.objects {
		if p.index < next {
			delete(c.objects, name)
			continue
		}
		c.added.objects++
		c.added.bytes += p.size
	}
	for slot, p := range c.records {
		if p.index < next {
			delete(c.records, slot)
			continue
		}
		c.added.bytes += p.size
	}
}
