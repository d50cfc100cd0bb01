package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"chancery.dev/chancery/internal/durable"
)

// publish opens the segments of m behind the first keep, which are open already, writes the manifest and
// shows the result to lookups. Segments that m no longer names are closed and removed.
func (ix *Index) publish(m *manifest, keep int) error {
	segments := append([]*segment(nil), ix.segments[:keep]...)
	for _, name := range m.Segments[keep:] {
		s, err := openSegment(ix.dir, name)
		if err != nil {
			return errors.Join(err, releaseAll(segments[keep:]))
		}
		segments = append(segments, s)
	}
	// A crash before this leaves the index as it was, and files that Open removes.
	if err := durable.WriteFile(filepath.Join(ix.dir, manifestName), m.bytes(), 0o600); err != nil {
		return errors.Join(err, releaseAll(segments[keep:]))
	}
	// A crash after this leaves the new index, and files that Open removes.
	ix.mu.Lock()
	old := ix.segments[keep:]
	ix.segments, ix.through = segments, m.Through
	ix.mu.Unlock()
	err := releaseAll(old)
	for _, s := range old {
		// A crash may bring the name back; Open removes it again.
		err = errors.Join(err, os.Remove(filepath.Join(ix.dir, s.name.file())))
	}
	return err
}

func releaseAll(segments []*segment) error {
	var err error
	for _, s := range segments {
		err = errors.Join(err, s.release())
	}
	return err
}

// Reset drops everything, durably, for a rebuild.
func (ix *Index) Reset() error {
	ix.writing.Lock()
	defer ix.writing.Unlock()
	if ix.closed {
		return fmt.Errorf("index %s: %w", ix.dir, ErrClosed)
	}
	if err := ix.publish(&manifest{}, 0); err != nil {
		return fmt.Errorf("index %s: reset: %w", ix.dir, err)
	}
	ix.damaged.Store(false)
	return nil
}

// mergeFrom returns the first of the newest segments that should become one, or len(chunks) for none.
// A segment joins the newer ones only when it has at most twice their chunks, so that each chunk is
// rewritten about as often as the index doubles.
func mergeFrom(chunks []uint64) int {
	if len(chunks) <= maxSegments {
		return len(chunks)
	}
	from := len(chunks) - 2
	sum := chunks[from] + chunks[from+1]
	for from > 0 && chunks[from-1] <= 2*sum {
		from--
		sum += chunks[from]
	}
	return from
}

// mergeOnce merges the newest segments where there are too many. It is called with writing held.
func (ix *Index) mergeOnce() (again bool, err error) {
	var chunks []uint64
	for _, s := range ix.segments {
		chunks = append(chunks, s.chunks)
	}
	from := mergeFrom(chunks)
	if from == len(chunks) {
		return false, nil
	}
	m := ix.manifest()
	name, err := mergeSegments(ix.dir, m.next(), ix.segments[from:])
	if err != nil {
		return false, err
	}
	m.Segments = append(m.Segments[:from], name)
	return true, ix.publish(m, from)
}

// mergeSegments writes one segment with what the given ones hold, oldest first; the newest wins. In
// memory it holds four bytes for each pack of the inputs and what the writer needs.
func mergeSegments(dir string, number uint64, inputs []*segment) (segmentName, error) {
	after, through := inputs[0].after, inputs[len(inputs)-1].through
	chunks, stride := uint64(0), uint64(0)
	for _, s := range inputs {
		chunks += s.chunks
		stride = max(stride, s.stride)
	}
	w, err := newSegmentWriter(dir, number, after, through, chunks, stride)
	if err != nil {
		return segmentName{}, err
	}
	if err := mergeInto(w, inputs); err != nil {
		return segmentName{}, errors.Join(err, w.abort())
	}
	return w.finish()
}

func mergeInto(w *segmentWriter, inputs []*segment) error {
	packs := newPackMerge(inputs)
	packs.ordinals = make([][]uint32, len(inputs))
	for i, s := range inputs {
		packs.ordinals[i] = make([]uint32, s.packs)
	}
	for {
		record, ok, err := packs.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if _, err := parsePack(record); err != nil {
			return err
		}
		if err := w.addPack(record); err != nil {
			return err
		}
	}
	entries := newEntryMerge(inputs)
	for {
		record, from, ok, err := entries.next()
		if err != nil || !ok {
			return err
		}
		ordinal := binary.LittleEndian.Uint32(record[32:])
		if uint64(ordinal) >= inputs[from].packs {
			return fmt.Errorf("segment %s: no such pack: %w", inputs[from].name.file(), ErrDamaged)
		}
		if err := w.addEntry(record, packs.ordinals[from][ordinal]); err != nil {
			return err
		}
	}
}

// merge walks over sorted records of several segments, oldest first, by ascending id. Of records with
// one id the newest is taken and the others are passed over.
type merge struct {
	heads  [][]byte // next record of each segment, nil at its end
	at     []uint64 // number of the record in heads
	idSize int
	count  func(from int) uint64
	record func(from int, i uint64) ([]byte, error)
	err    error
}

func (m *merge) start(segments int) {
	m.heads, m.at = make([][]byte, segments), make([]uint64, segments)
	for i := range segments {
		m.load(i)
	}
}

// load reads the record that at says, and refuses one that does not ascend.
func (m *merge) load(from int) {
	before := m.heads[from]
	m.heads[from] = nil
	if m.at[from] >= m.count(from) || m.err != nil {
		return
	}
	b, err := m.record(from, m.at[from])
	if err == nil && before != nil && bytes.Compare(before[:m.idSize], b[:m.idSize]) >= 0 {
		err = fmt.Errorf("record %d: out of order: %w", m.at[from], ErrDamaged)
	}
	if err != nil {
		m.err = err
		return
	}
	m.heads[from] = b
}

// least returns the newest record of the smallest id; from is negative at the end.
func (m *merge) least() (from int) {
	from = -1
	for i := len(m.heads) - 1; i >= 0; i-- {
		if m.heads[i] != nil && (from < 0 || bytes.Compare(m.heads[i][:m.idSize], m.heads[from][:m.idSize]) < 0) {
			from = i
		}
	}
	return from
}

// skip goes past every record with the id of the given one, and tells of each.
func (m *merge) skip(record []byte, each func(from int, i uint64)) error {
	for i := range m.heads {
		if m.heads[i] != nil && bytes.Equal(m.heads[i][:m.idSize], record[:m.idSize]) {
			if each != nil {
				each(i, m.at[i])
			}
			m.at[i]++
			m.load(i)
		}
	}
	return m.err
}

// packMerge merges packs. ordinals, where set, receives each pack's new number.
type packMerge struct {
	merge
	ordinals [][]uint32
	n        uint32
}

func newPackMerge(segments []*segment) *packMerge {
	m := &packMerge{merge: merge{
		idSize: 16,
		count:  func(from int) uint64 { return segments[from].packs },
		record: func(from int, i uint64) ([]byte, error) { return segments[from].pack(i) },
	}}
	m.start(len(segments))
	return m
}

func (m *packMerge) next() ([]byte, bool, error) {
	from := m.least()
	if from < 0 || m.err != nil {
		return nil, false, m.err
	}
	record := m.heads[from]
	err := m.skip(record, func(from int, i uint64) {
		if m.ordinals != nil {
			m.ordinals[from][i] = m.n
		}
	})
	m.n++
	return record, err == nil, err
}

// entryMerge merges chunks.
type entryMerge struct{ merge }

func newEntryMerge(segments []*segment) *entryMerge {
	m := &entryMerge{merge{
		idSize: 32,
		count:  func(from int) uint64 { return segments[from].chunks },
		record: func(from int, i uint64) ([]byte, error) { return segments[from].entry(i) },
	}}
	m.start(len(segments))
	return m
}

func (m *entryMerge) next() (record []byte, from int, ok bool, err error) {
	from = m.least()
	if from < 0 || m.err != nil {
		return nil, 0, false, m.err
	}
	record = m.heads[from]
	err = m.skip(record, nil)
	return record, from, err == nil, err
}
