package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"chancery.dev/chancery/internal/snapshot"
)

// The file of what was fed lets a source say of a file only what changed in it since. It holds where the content of
// each file that the last feed told to remember lies, and a note of the source for each and for all of them.
//
//	"chancery fed 1\n"
//	records: length u32, not 0 | uvarint length, path | uvarint size | uvarint length, extents | note
//	end:     0 u32 | length u32 | note of the source | SHA-256 of all before
//
// A path is what the snapshot has, extents are snapshot.AppendExtents. It is written beside and put in its place when
// there is a head; not fsynced, for it counts only whole. An older one that is put back is as good as it was: what it
// says was so at the moment that its note names, and whether the chunks are still there is asked of the index.
const (
	fedName  = "fed"
	fedMagic = "chancery fed 1\n"
	// maxFedRecord caps a record: a segment of a table of 1 GiB, each page in an extent of its own, takes half.
	maxFedRecord = 16 << 20
	maxFedNote   = 4 << 10
)

var errFed = errors.New("not a file of what was fed")

// fedBefore is what the last feed left. The zero value knows nothing.
type fedBefore struct {
	file  *os.File
	note  []byte
	files map[string]fedSlot
}

type fedSlot struct {
	at   int64 // of the record's body
	n    uint32
	size uint64
}

// fedRecord is what is remembered of one file.
type fedRecord struct {
	path    string
	size    uint64
	extents []snapshot.Extent
	note    []byte
}

// openFed reads the file that the last feed left; one that is missing or damaged knows nothing.
func openFed(dir string) *fedBefore {
	f, err := os.Open(filepath.Join(dir, fedName))
	if err != nil {
		return &fedBefore{}
	}
	b, err := readFed(f)
	if err != nil {
		f.Close()
		return &fedBefore{}
	}
	b.file = f
	return b
}

func (b *fedBefore) close() {
	if b.file != nil {
		b.file.Close()
	}
}

// readFed reads everything once: nothing of it is used before its sum is right.
func readFed(r io.Reader) (*fedBefore, error) {
	b, in := &fedBefore{files: map[string]fedSlot{}}, &fedReader{r: bufio.NewReaderSize(r, 256<<10), sum: sha256.New()}
	if string(in.take(len(fedMagic))) != fedMagic {
		return nil, errFed
	}
	for {
		n := in.number()
		if in.err != nil || n > maxFedRecord {
			return nil, errFed
		}
		if n == 0 {
			break
		}
		at := in.at
		rec, err := parseFed(in.take(int(n)))
		if err != nil {
			return nil, err
		}
		if _, twice := b.files[rec.path]; twice {
			return nil, errFed
		}
		b.files[rec.path] = fedSlot{at, n, rec.size}
	}
	n := in.number()
	if in.err != nil || n > maxFedNote {
		return nil, errFed
	}
	b.note = append([]byte{}, in.take(int(n))...)
	sum := in.sum.Sum(nil)
	if string(in.take(len(sum))) != string(sum) {
		return nil, errFed
	}
	if _, err := in.r.ReadByte(); in.err != nil || err != io.EOF {
		return nil, errFed
	}
	return b, nil
}

// fedReader reads and sums. What it took is valid until it takes more.
type fedReader struct {
	r   *bufio.Reader
	sum hash.Hash
	buf []byte
	at  int64
	err error
}

func (r *fedReader) take(n int) []byte {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if r.err == nil {
		_, r.err = io.ReadFull(r.r, b)
	}
	if r.err != nil {
		return nil
	}
	r.sum.Write(b)
	r.at += int64(n)
	return b
}

func (r *fedReader) number() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// parseFed reads one record. The note is the record's own memory.
func parseFed(b []byte) (rec fedRecord, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n == 0 || n > uint64(len(b)-used) {
		return rec, errFed
	}
	rec.path, b = string(b[used:used+int(n)]), b[used+int(n):]
	if rec.size, used = binary.Uvarint(b); used <= 0 {
		return rec, errFed
	}
	if rec.extents, rec.note, err = cutExtents(b[used:]); err != nil {
		return rec, errFed
	}
	if snapshot.CheckExtents(rec.size, rec.extents) != nil {
		return rec, errFed
	}
	return rec, nil
}

func appendFed(dst []byte, rec *fedRecord) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(rec.path))), rec.path...)
	dst = binary.AppendUvarint(dst, rec.size)
	dst = appendCut(dst, rec.extents)
	return append(dst, rec.note...)
}

// record reads what is remembered of a file again.
func (b *fedBefore) record(path string) (rec fedRecord, ok bool) {
	slot, ok := b.files[path]
	if !ok {
		return rec, false
	}
	body := make([]byte, slot.n)
	if _, err := b.file.ReadAt(body, slot.at); err != nil {
		return rec, false
	}
	rec, err := parseFed(body)
	return rec, err == nil && rec.path == path && rec.size == slot.size
}

// fedWriter writes the file for the next feed; records come in any order from any goroutine.
type fedWriter struct {
	mu   sync.Mutex
	file *os.File
	w    *bufio.Writer
	sum  hash.Hash
	path string
	err  error
}

// newFedWriter writes beside; only commit puts the file in its place. A crash before that leaves the old one.
func newFedWriter(dir string) (*fedWriter, error) {
	path := filepath.Join(dir, fedName)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w := &fedWriter{file: f, w: bufio.NewWriterSize(f, 256<<10), sum: sha256.New(), path: path}
	w.write([]byte(fedMagic))
	return w, nil
}

func (w *fedWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	w.sum.Write(b)
	_, w.err = w.w.Write(b)
}

func (w *fedWriter) add(rec *fedRecord) {
	body := appendFed(make([]byte, 4), rec)
	if len(body)-4 > maxFedRecord {
		return // the source gives it whole again
	}
	binary.BigEndian.PutUint32(body, uint32(len(body)-4))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(body)
}

func (w *fedWriter) commit(note []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(append(binary.BigEndian.AppendUint32(make([]byte, 4), uint32(len(note))), note...))
	w.write(w.sum.Sum(nil))
	if w.err == nil {
		w.err = w.w.Flush()
	}
	w.file.Close()
	if w.err != nil {
		os.Remove(w.path + ".new")
		return w.err
	}
	return os.Rename(w.path+".new", w.path)
}

func (w *fedWriter) abort() {
	w.file.Close()
	os.Remove(w.path + ".new")
}
