package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
)

// segmentWriter writes one segment front to back: packs, entries, finish. It holds the fan-out and the
// table of sums in memory, about two bytes a chunk, and no entries.
type segmentWriter struct {
	file *durable.File
	name segmentName
	path string

	after, through uint64
	stride         uint64
	bits           uint

	buf           []byte // a whole number of blocks, not yet written
	written       uint64 // bytes of the body before buf
	chunks, packs uint64
	fan           []uint32 // chunks of each bucket, at its number + 1
	sums          []byte
}

const writeBuffer = 256 * blockSize

// newSegmentWriter starts a segment of at most chunks chunks, and packs of at most n shares.
func newSegmentWriter(dir string, number, after, through uint64, chunks uint64, stride uint64) (*segmentWriter, error) {
	w := &segmentWriter{
		name: segmentName{Number: number}, after: after, through: through,
		stride: stride, bits: fanBits(chunks), buf: make([]byte, 0, writeBuffer+blockSize),
	}
	w.fan = make([]uint32, 1<<w.bits+1)
	w.path = filepath.Join(dir, w.name.file())
	var err error
	if w.file, err = durable.Create(w.path, 0o600); err != nil {
		return nil, err
	}
	// The header comes last, over these zeros: a file without it is not a segment.
	if _, err := w.file.Write(make([]byte, headerSize)); err != nil {
		return nil, errors.Join(err, w.file.Abort())
	}
	return w, nil
}

func (w *segmentWriter) abort() error { return w.file.Abort() }

// addPack appends a record, whose stride may be shorter than the segment's.
func (w *segmentWriter) addPack(record []byte) error {
	w.packs++
	w.buf = append(w.buf, record...)
	w.buf = append(w.buf, make([]byte, int(w.stride)-len(record))...)
	return w.flush(writeBuffer)
}

// addEntry appends a chunk that is in the pack with this ordinal.
func (w *segmentWriter) addEntry(record []byte, ordinal uint32) error {
	w.chunks++
	w.fan[binary.BigEndian.Uint64(record)>>(64-w.bits)+1]++
	start := len(w.buf)
	w.buf = append(w.buf, record...)
	binary.LittleEndian.PutUint32(w.buf[start+32:], ordinal)
	return w.flush(writeBuffer)
}

// flush writes whole blocks, once limit bytes wait.
func (w *segmentWriter) flush(limit int) error {
	if len(w.buf) < limit {
		return nil
	}
	whole := len(w.buf) &^ (blockSize - 1)
	if limit == 0 {
		whole = len(w.buf)
	}
	for at := 0; at < whole; at += blockSize {
		sum := crc32.Checksum(w.buf[at:min(at+blockSize, whole)], castagnoli())
		w.sums = binary.LittleEndian.AppendUint32(w.sums, sum)
	}
	if _, err := w.file.Write(w.buf[:whole]); err != nil {
		return err
	}
	w.written += uint64(whole)
	w.buf = append(w.buf[:0], w.buf[whole:]...)
	return nil
}

// finish makes the segment durable. On error the file is gone.
func (w *segmentWriter) finish() (segmentName, error) {
	if w.chunks > maxRecords || w.packs > maxRecords {
		return segmentName{}, errors.Join(errors.New("too many chunks for one segment"), w.file.Abort())
	}
	if err := w.complete(); err != nil {
		return segmentName{}, errors.Join(err, w.file.Abort())
	}
	// A crash before the manifest names the segment leaves a file that Open removes.
	return w.name, w.file.Commit()
}

func (w *segmentWriter) complete() error {
	first := uint32(0)
	for _, n := range w.fan {
		first += n
		w.buf = binary.LittleEndian.AppendUint32(w.buf, first)
		if err := w.flush(writeBuffer); err != nil {
			return err
		}
	}
	if err := w.flush(0); err != nil {
		return err
	}
	if _, err := w.file.Write(w.sums); err != nil {
		return err
	}
	h := make([]byte, 0, headerSize)
	h = append(h, magic...)
	le := binary.LittleEndian
	h = le.AppendUint64(le.AppendUint64(h, w.after), w.through)
	h = le.AppendUint64(le.AppendUint64(h, w.chunks), w.packs)
	h = le.AppendUint32(le.AppendUint32(h, uint32(w.stride)), uint32(w.bits))
	h = le.AppendUint64(h, 0)
	sums := sha256.Sum256(w.sums)
	h = append(h, sums[:]...)
	sum := sha256.Sum256(h)
	h = append(h, sum[:]...)
	w.name.Hash = sha256.Sum256(h)
	w.name.Size = int64(headerSize + w.written + uint64(len(w.sums)))
	_, err := w.file.WriteAt(h, 0)
	return err
}

// sorted is a chunk of the packs being added: enough of its id to sort by, and where the rest is.
type sorted struct {
	key         uint64
	pack, entry uint32
}

// writeSegment writes the packs as one segment. Of a pack or chunk named twice the last counts.
func writeSegment(dir string, number, after, through uint64, packs []IndexedPack) (segmentName, error) {
	packs = lastOfEach(packs)
	n, members := 0, 0
	for i := range packs {
		n += len(packs[i].Entries)
		members = max(members, len(packs[i].Ref.Shares))
	}
	order := make([]sorted, 0, n)
	for i := range packs {
		for j := range packs[i].Entries {
			key := binary.BigEndian.Uint64(packs[i].Entries[j].ID[:])
			order = append(order, sorted{key: key, pack: uint32(i), entry: uint32(j)})
		}
	}
	entry := func(s sorted) *pack.Entry { return &packs[s.pack].Entries[s.entry] }
	slices.SortFunc(order, func(a, b sorted) int {
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		x, y := entry(a), entry(b)
		return cmp.Or(bytes.Compare(x.ID[:], y.ID[:]), cmp.Compare(a.pack, b.pack), cmp.Compare(a.entry, b.entry))
	})
	w, err := newSegmentWriter(dir, number, after, through, uint64(n), strideFor(members))
	if err != nil {
		return segmentName{}, err
	}
	var record []byte
	for i := range packs {
		record = appendPack(record[:0], &packs[i].Ref, w.stride)
		if err := w.addPack(record); err != nil {
			return segmentName{}, errors.Join(err, w.abort())
		}
	}
	for i, s := range order {
		if i+1 < len(order) && entry(order[i+1]).ID == entry(s).ID {
			continue
		}
		record = appendEntry(record[:0], entry(s), s.pack)
		if err := w.addEntry(record, s.pack); err != nil {
			return segmentName{}, errors.Join(err, w.abort())
		}
	}
	return w.finish()
}

// lastOfEach returns the packs by ascending id, and of each id the last.
func lastOfEach(packs []IndexedPack) []IndexedPack {
	packs = slices.Clone(packs)
	slices.SortStableFunc(packs, func(a, b IndexedPack) int { return bytes.Compare(a.Ref.ID[:], b.Ref.ID[:]) })
	out := packs[:0]
	for i := range packs {
		if i+1 < len(packs) && packs[i+1].Ref.ID == packs[i].Ref.ID {
			continue
		}
		out = append(out, packs[i])
	}
	return out
}

// Add makes the packs part of the index: durable when it returns nil, and found by lookups from then on.
// through is the last head whose index packs are all in the index after this call; give the present
// Through where that head is not yet complete. Packs that are there already may be added again; the
// newer reference and the newer place of a chunk count. It holds 16 bytes for each chunk in memory, of
// at most about a million chunks at once, and merges files when there are many. Errors: ErrOrder,
// ErrClosed, ErrDamaged, an unusable pack (snapshot.ErrIndex), or what the file system says; after an
// error the index is either as before or has everything.
func (ix *Index) Add(packs []IndexedPack, through uint64) error {
	ix.writing.Lock()
	defer ix.writing.Unlock()
	for i := range packs {
		if err := packs[i].Check(); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	ix.mu.RLock()
	m, closed := ix.manifest(), ix.closed
	ix.mu.RUnlock()
	switch {
	case closed:
		return fmt.Errorf("index %s: %w", ix.dir, ErrClosed)
	case through < m.Through:
		return fmt.Errorf("index %s: head %d after head %d: %w", ix.dir, through, m.Through, ErrOrder)
	}
	if err := ix.add(m, packs, through); err != nil {
		return fmt.Errorf("index %s: %w", ix.dir, err)
	}
	for {
		again, err := ix.mergeOnce()
		if err != nil {
			return fmt.Errorf("index %s: merge: %w", ix.dir, err)
		}
		if !again {
			return nil
		}
	}
}

// manifest returns what is open now. It is called with mu or writing held.
func (ix *Index) manifest() *manifest {
	m := &manifest{Through: ix.through}
	for _, s := range ix.segments {
		m.Segments = append(m.Segments, s.name)
	}
	return m
}

func (ix *Index) add(m *manifest, packs []IndexedPack, through uint64) error {
	keep := len(m.Segments)
	after := m.Through
	m.Through = through
	for len(packs) > 0 {
		n, chunks := 0, 0
		for n < len(packs) && (n == 0 || chunks+len(packs[n].Entries) <= maxSorted) {
			chunks += len(packs[n].Entries)
			n++
		}
		name, err := writeSegment(ix.dir, m.next(), after, through, packs[:n])
		if err != nil {
			return err
		}
		m.Segments = append(m.Segments, name)
		packs = packs[n:]
	}
	return ix.publish(m, keep)
}
