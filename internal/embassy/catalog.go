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
	erased  map[[16]byte]uint64 // registers -> the leaf that erased them
	changes []change            // what fresh adds to counts and takes from them
	next    uint64              // leaves that the file covers
	counts  counts              // of the file
	added   counts              // of fresh; it may be below zero
}

// place is where something stands in the ledger.
type place struct {
	index uint64   // of the leaf that stored it, or, where it is removed, of that one
	size  uint64   // in bytes
	hash  [32]byte // records only
	// removed: it is not held any more. by is the order that removed an object.
	removed bool
	by      uint64
}

type counts struct{ objects, bytes int64 }

// change is what one leaf does to the counts.
type change struct {
	index uint64
	by    counts
}

// What is removed stands in the last two buckets, and no more in the first two:
// so lists and sweeps go through what is held.
var (
	objectsBucket = []byte("objects") // name -> index 8, size 8
	recordsBucket = []byte("records") // kind 1, register 16, sequence 8 -> index 8, size 8, hash 32
	metaBucket    = []byte("meta")    // "state" -> version 1, next 8, objects 8, bytes 8
	removedBucket = []byte("removed") // name -> index 8, size 8, order 8; a record's key -> index 8, size 8, hash 32
	erasedBucket  = []byte("erased")  // register 16 -> index 8
	metaKey       = []byte("state")
)

const (
	catalogVersion = 2       // 1 knew no removals
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
	c := &catalog{
		objects: make(map[shard.Name]place), records: make(map[ledger.Slot]place), erased: make(map[[16]byte]uint64),
	}
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
		for _, b := range [][]byte{objectsBucket, recordsBucket, metaBucket, removedBucket, erasedBucket} {
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
		c.counts = counts{int64(binary.BigEndian.Uint64(v[9:])), int64(binary.BigEndian.Uint64(v[17:]))}
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
	switch {
	case record:
		v = append(v, p.hash[:]...)
	case p.removed:
		v = binary.BigEndian.AppendUint64(v, p.by)
	}
	return v
}

func parsePlace(v []byte) (p place, ok bool) {
	if len(v) != 16 && len(v) != 24 && len(v) != 48 {
		return place{}, false
	}
	p.index, p.size = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	if len(v) == 24 {
		p.by = binary.BigEndian.Uint64(v[16:])
	} else {
		copy(p.hash[:], v[16:])
	}
	return p, true
}

// object tells where a name stands, if it is held. The fresh map is asked first:
// the follower takes from it only what the file has.
func (c *catalog) object(name shard.Name) (place, bool, error) {
	p, ok, err := c.objectEver(name)
	return p, ok && !p.removed, err
}

// objectEver tells also of what was removed.
func (c *catalog) objectEver(name shard.Name) (place, bool, error) {
	c.mu.RLock()
	p, ok := c.objects[name]
	c.mu.RUnlock()
	if ok {
		return p, true, nil
	}
	return c.lookup(objectsBucket, name[:])
}

// record tells where a slot stands, if its record is held.
func (c *catalog) record(slot ledger.Slot) (place, bool, error) {
	p, ok, err := c.recordEver(slot)
	return p, ok && !p.removed, err
}

// recordEver tells also of what was removed: its slot stays taken.
func (c *catalog) recordEver(slot ledger.Slot) (place, bool, error) {
	c.mu.RLock()
	p, ok := c.records[slot]
	c.mu.RUnlock()
	if ok {
		return p, true, nil
	}
	return c.lookup(recordsBucket, slotKey(slot))
}

// isErased tells whether a register's own record was removed: it takes none any more.
func (c *catalog) isErased(register [16]byte) (bool, error) {
	c.mu.RLock()
	_, ok := c.erased[register]
	c.mu.RUnlock()
	if ok {
		return true, nil
	}
	_, ok, err := c.lookup(erasedBucket, register[:])
	return ok, err
}

// lookup looks a key up in a bucket, and then among what was removed.
func (c *catalog) lookup(bucket, key []byte) (p place, ok bool, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucket).Get(key)
		if v == nil {
			v = tx.Bucket(removedBucket).Get(key)
			p.removed = v != nil
		}
		if v == nil {
			return nil
		}
		removed := p.removed
		if p, ok = parsePlace(v); !ok {
			return errMalformed
		}
		p.removed = removed
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
	by := counts{bytes: int64(l.Size)}
	switch l.Kind {
	case ledger.ObjectStored:
		c.objects[l.Name] = p
		by.objects = 1
	case ledger.RecordStored:
		c.records[l.Slot] = p
	case ledger.ObjectRemoved:
		p.removed, p.by = true, l.Slot.Sequence
		c.objects[l.Name] = p
		by = counts{-1, -int64(l.Size)}
	case ledger.RecordRemoved:
		p.removed = true
		c.records[l.Slot] = p
		by = counts{0, -int64(l.Size)}
		if l.Slot.Kind == ledger.Register {
			c.erased[l.Slot.Register] = index
		}
	default:
		return false
	}
	c.changes = append(c.changes, change{index, by})
	c.added.objects += by.objects
	c.added.bytes += by.bytes
	return len(c.changes) >= catalogStep
}

// room fails while too much is remembered in memory only.
func (c *catalog) room() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(c.changes) >= freshLimit {
		return errCatalogFull
	}
	return nil
}

func (c *catalog) totals() counts {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return counts{max(0, c.counts.objects+c.added.objects), max(0, c.counts.bytes+c.added.bytes)}
}
