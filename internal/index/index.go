// Package index tells where each chunk of a register is: chunk id to pack, offset and length, in sorted
// immutable files that are mapped into memory. It takes about 51 bytes of disk a chunk and almost no heap.
//
// An index is a copy of what the register's index packs say and can be made again from the embassies.
// Promise to old data: files start with their version; one that this program does not know, or that is
// damaged, is refused with ErrDamaged and never trusted, and the caller rebuilds.
//
// The files are described in docs/spec/index.md.
package index

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

var (
	// ErrDamaged means that the folder's files are not what was written: Discard the folder, Open it
	// again and Add everything from the embassies.
	ErrDamaged = errors.New("the index is damaged")
	// ErrOrder means that Add was asked to go back to an earlier head.
	ErrOrder = errors.New("the index already covers a later head")
	// ErrClosed means that the index was closed.
	ErrClosed = errors.New("the index is closed")
)

const (
	manifestName = "manifest"
	lockName     = "lock"
	maxSegments  = 8       // more are merged
	maxSorted    = 1 << 20 // chunks that are sorted in memory at once
)

// IndexedPack is a pack with its chunks, as index payloads carry it.
type IndexedPack = snapshot.IndexedPack

// Location says where a chunk is.
type Location struct {
	Ref   snapshot.PackRef
	Entry pack.Entry
}

// Index is an open index. Its methods may be called from many goroutines; lookups go on while Add runs.
type Index struct {
	dir    string
	unlock func()

	writing sync.Mutex // held by Add, Reset and Close from start to end

	mu       sync.RWMutex // guards what follows
	segments []*segment   // oldest first
	through  uint64
	closed   bool

	damaged atomic.Bool
}

// Open opens the index in a folder, which is made when it is absent, and holds the folder's lock until
// Close (durable.ErrLocked when another holds it). What a crash left unfinished is removed. Headers,
// sizes and the table of checksums are verified here, each block of the rest when it is first used.
// Errors: ErrDamaged, or what the file system says.
func Open(dir string) (*Index, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	unlock, err := durable.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	ix := &Index{dir: dir, unlock: unlock}
	if err := ix.load(); err != nil {
		for _, s := range ix.segments {
			err = errors.Join(err, s.release())
		}
		unlock()
		return nil, fmt.Errorf("index %s: %w", dir, err)
	}
	return ix, nil
}

func (ix *Index) load() error {
	b, err := os.ReadFile(filepath.Join(ix.dir, manifestName))
	m := &manifest{}
	switch {
	case errors.Is(err, fs.ErrNotExist): // new, or a crash before the first manifest
	case err != nil:
		return err
	default:
		if m, err = parseManifest(b); err != nil {
			return err
		}
	}
	ix.through = m.Through
	for i := range m.Segments {
		s, err := openSegment(ix.dir, m.Segments[i])
		if err != nil {
			return err
		}
		ix.segments = append(ix.segments, s)
	}
	return removeUnnamed(ix.dir, m)
}

// removeUnnamed removes what a crash left: temporary files, and segments that no manifest names (not
// yet, or no more).
func removeUnnamed(dir string, m *manifest) error {
	if _, err := durable.RemoveTemps(dir); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		n, ok := parseSegmentName(d.Name())
		if !ok || m.has(n) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Discard removes the index in a folder, however damaged, and leaves the folder. Errors:
// durable.ErrLocked when the index is open.
func Discard(dir string) error {
	unlock, err := durable.Lock(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("index: discard: %w", err)
	}
	defer unlock()
	// A crash after this leaves segments that nobody names: an empty index.
	if err := durable.Remove(filepath.Join(dir, manifestName)); err != nil {
		return fmt.Errorf("index: discard: %w", err)
	}
	if err := removeUnnamed(dir, &manifest{}); err != nil {
		return fmt.Errorf("index: discard: %w", err)
	}
	return nil
}

// Has reports whether the chunk is in the index. It allocates nothing. A block that turns out damaged
// counts as not there, which at worst stores a chunk twice, and Err tells of it from then on.
func (ix *Index) Has(id chunk.ID) bool {
	ix.mu.RLock()
	s, _ := ix.find(&id)
	ix.mu.RUnlock()
	return s != nil
}

// Lookup returns where the chunk is; the newest answer where several packs hold it. As with Has, damage
// is an absence that Err tells of.
func (ix *Index) Lookup(id chunk.ID) (Location, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	s, at := ix.find(&id)
	if s == nil {
		return Location{}, false
	}
	loc, err := s.location(at)
	if err != nil {
		ix.damaged.Store(true)
		return Location{}, false
	}
	return loc, true
}

// Where returns the newest pack that holds the chunk. It allocates nothing. As with Has, damage is an absence that Err
// tells of.
func (ix *Index) Where(id chunk.ID) (pack.ID, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	s, at := ix.find(&id)
	if s == nil {
		return pack.ID{}, false
	}
	in, err := s.packOf(at)
	if err != nil {
		ix.damaged.Store(true)
		return pack.ID{}, false
	}
	return in, true
}

// find is called with mu held.
func (ix *Index) find(id *chunk.ID) (*segment, uint64) {
	for i := len(ix.segments) - 1; i >= 0; i-- {
		at, found, err := ix.segments[i].find(id)
		if err != nil {
			ix.damaged.Store(true)
			continue
		}
		if found {
			return ix.segments[i], at
		}
	}
	return nil, 0
}

// Err returns ErrDamaged once a lookup has met a damaged block, otherwise nil.
func (ix *Index) Err() error {
	if ix.damaged.Load() {
		return fmt.Errorf("index %s: %w", ix.dir, ErrDamaged)
	}
	return nil
}

// Chunks returns the number of chunks. One that was added twice may count twice until files are merged.
func (ix *Index) Chunks() uint64 {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	n := uint64(0)
	for _, s := range ix.segments {
		n += s.chunks
	}
	return n
}

// Through returns the sequence of the last head whose index packs are all in the index; 0 for none.
func (ix *Index) Through() uint64 {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.through
}

// Pack returns the newest reference to a pack that was added.
func (ix *Index) Pack(id pack.ID) (snapshot.PackRef, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	for i := len(ix.segments) - 1; i >= 0; i-- {
		ref, found, err := ix.segments[i].findPack(id)
		if err != nil {
			ix.damaged.Store(true)
			continue
		}
		if found {
			return ref, true
		}
	}
	return snapshot.PackRef{}, false
}

// Packs yields every pack once, by ascending id, in its newest reference, as the index was when the
// loop began. Add may run meanwhile. Damage ends the loop early, and Err tells of it: ask it afterwards.
func (ix *Index) Packs() iter.Seq[snapshot.PackRef] {
	return func(yield func(snapshot.PackRef) bool) {
		segments := ix.acquire()
		defer func() {
			for _, s := range segments {
				_ = s.release() // unmapping what was mapped does not fail
			}
		}()
		m := newPackMerge(segments)
		for {
			record, ok, err := m.next()
			if err != nil {
				ix.damaged.Store(true)
				return
			}
			if !ok {
				return
			}
			ref, err := parsePack(record)
			if err != nil {
				ix.damaged.Store(true)
				return
			}
			if !yield(ref) {
				return
			}
		}
	}
}

func (ix *Index) acquire() []*segment {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	segments := append([]*segment(nil), ix.segments...)
	for _, s := range segments {
		s.refs.Add(1)
	}
	return segments
}

// IDs yields every chunk's id, as the index was when the loop began; one that was added twice may come twice. Damage
// ends the loop early, and Err tells of it: ask it afterwards.
func (ix *Index) IDs() iter.Seq[chunk.ID] {
	return func(yield func(chunk.ID) bool) {
		segments := ix.acquire()
		defer func() { _ = releaseAll(segments) }() // unmapping what was mapped does not fail
		for _, s := range segments {
			for i := range s.chunks {
				b, err := s.entry(i)
				if err != nil {
					ix.damaged.Store(true)
					return
				}
				if !yield(chunk.ID(b[:len(chunk.ID{})])) {
					return
				}
			}
		}
	}
}

// Verify reads everything and checks every block, the order, and every reference inside. Errors:
// ErrDamaged.
func (ix *Index) Verify() error {
	segments := ix.acquire()
	var err error
	for _, s := range segments {
		if err == nil {
			err = s.verify()
		}
		err = errors.Join(err, s.release())
	}
	if err != nil {
		ix.damaged.Store(true)
		return fmt.Errorf("index %s: %w", ix.dir, err)
	}
	return nil
}

// Close frees the maps and the lock. Lookups answer "not there" afterwards. A second Close does nothing.
func (ix *Index) Close() error {
	ix.writing.Lock()
	defer ix.writing.Unlock()
	ix.mu.Lock()
	segments, closed := ix.segments, ix.closed
	ix.segments, ix.closed = nil, true
	ix.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	for _, s := range segments {
		err = errors.Join(err, s.release())
	}
	ix.unlock()
	return err
}
