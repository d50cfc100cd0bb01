package archive

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
)

// The file of what was seen lets a backup leave alone what has not changed since the last one. It holds, for each
// folder, a fingerprint of everything that a listing says and where its listing went, and for each file a
// fingerprint and its extents. Names and paths are in it only under the register's key, so the file tells a thief
// nothing that the home folder does not tell already; lost or damaged, it costs reading the tree again.
//
//	"chancery seen 2\n" | hash of the head it belongs to (32)
//	records:  folder key (16) | length u32 | body
//	table:    folder key (16) | offset u64, ascending by key
//	trailer:  offset of the table u64 | folders u64 | first 16 bytes of the SHA-256 of the table and of these two
//
//	body:     fingerprint (16) | sum (8, of the rest) | size, files, listing | count, then per file: fingerprint (16), flags, extents
//	          and, of a file whose extents are elsewhere, a uvarint count and the ids (32) of the chunks of its content
//
// A folder's key is HMAC-SHA-256(seen key, path from the root), cut to 16 bytes. A listing or a file's extents are
// a uvarint length and snapshot.AppendExtents. Version 1 lacks the ids; its other files are still taken over.
const (
	seenMagic  = "chancery seen 2\n"
	seenMagic1 = "chancery seen 1\n"
)

// seenKey is what names and states are fingerprinted under.
type seenKey [32]byte

func newSeenKey(r *register.Register) seenKey {
	return seenKey(seal.Derive(r.IDKey[:], "chancery seen v1", r.ID[:], 32))
}

type print [16]byte

func (k *seenKey) folder(path string) print {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte(path))
	return print(mac.Sum(nil)[:16])
}

// appendState appends what a listing says of an item, and what tells that its content is as it was.
func appendState(dst []byte, it *filetree.Item) []byte {
	s := &it.Stat
	dst = binary.AppendUvarint(dst, uint64(len(it.Name)))
	dst = append(dst, it.Name...)
	for _, v := range [...]uint64{
		uint64(s.Kind), uint64(s.Mode), uint64(s.UID), uint64(s.GID), uint64(s.ModSec), uint64(s.ModNsec),
		uint64(s.ChangeSec), uint64(s.ChangeNsec), uint64(s.Size), s.Inode, min(s.Links, 2), s.Device,
	} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return dst
}

func (k *seenKey) print(state []byte) print {
	sum := sha256.Sum256(append(k[:len(k):len(k)], state...))
	return print(sum[:16])
}

// seenFolder is what is known of a folder.
type seenFolder struct {
	print   print
	size    uint64
	files   uint64
	listing []snapshot.Extent
	rest    []byte // files, not yet decoded
	old     bool   // of version 1
}

// seenFile is what is known of a file.
type seenFile struct {
	flags   uint8
	extents []snapshot.Extent
	deep    []chunk.ID // of a file with the flag Indirect: the chunks of its content
}

// seen reads the file that the last backup left. The zero value knows nothing.
type seen struct {
	file  *os.File
	size  int64
	table []seenSlot
	old   bool // version 1
}

type seenSlot struct {
	key    print
	offset uint64
}

// openSeen opens the file if it belongs to one of the register's heads; anything odd about it makes it empty.
func openSeen(path string, belongs func(head [32]byte) bool) *seen {
	f, err := os.Open(path)
	if err != nil {
		return &seen{}
	}
	s, err := readSeen(f, belongs)
	if err != nil {
		f.Close()
		return &seen{}
	}
	return s
}

var errSeen = errors.New("not a file of what was seen")

func readSeen(f *os.File, belongs func([32]byte) bool) (*seen, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const headSize, tailSize, slotSize = len(seenMagic) + 32, 32, 24
	var head [headSize]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	magic := string(head[:len(seenMagic)])
	if magic != seenMagic && magic != seenMagic1 || !belongs([32]byte(head[len(seenMagic):])) {
		return nil, errSeen
	}
	var tail [tailSize]byte
	if _, err := f.ReadAt(tail[:], st.Size()-int64(tailSize)); err != nil {
		return nil, err
	}
	at, n := binary.BigEndian.Uint64(tail[:]), binary.BigEndian.Uint64(tail[8:])
	if n > uint64(st.Size())/slotSize || at+n*slotSize+tailSize != uint64(st.Size()) {
		return nil, errSeen
	}
	raw := make([]byte, n*slotSize)
	if _, err := f.ReadAt(raw, int64(at)); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(raw, tail[:16]...))
	if string(sum[:16]) != string(tail[16:]) {
		return nil, errSeen
	}
	s := &seen{file: f, size: st.Size(), table: make([]seenSlot, n), old: magic == seenMagic1}
	for i := range s.table {
		s.table[i] = seenSlot{print(raw[i*slotSize:]), binary.BigEndian.Uint64(raw[i*slotSize+16:])}
	}
	return s, nil
}

func (s *seen) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// folder returns what is known of a folder and its record as it stands in the file.
func (s *seen) folder(key print) (*seenFolder, []byte) {
	i, ok := slices.BinarySearchFunc(s.table, key, func(a seenSlot, k print) int { return slices.Compare(a.key[:], k[:]) })
	if !ok {
		return nil, nil
	}
	var head [20]byte
	if _, err := s.file.ReadAt(head[:], int64(s.table[i].offset)); err != nil || print(head[:16]) != key {
		return nil, nil
	}
	n := binary.BigEndian.Uint32(head[16:])
	if n < 24 || int64(n) > s.size {
		return nil, nil
	}
	body := make([]byte, n)
	if _, err := s.file.ReadAt(body, int64(s.table[i].offset)+20); err != nil {
		return nil, nil
	}
	if sum := sha256.Sum256(body[24:]); string(sum[:8]) != string(body[16:24]) {
		return nil, nil
	}
	f := &seenFolder{print: print(body), old: s.old}
	var n1, n2 int
	b := body[24:]
	f.size, n1 = binary.Uvarint(b)
	if n1 <= 0 {
		return nil, nil
	}
	f.files, n2 = binary.Uvarint(b[n1:])
	if n2 <= 0 {
		return nil, nil
	}
	var err error
	if f.listing, f.rest, err = cutExtents(b[n1+n2:]); err != nil {
		return nil, nil
	}
	return f, body
}

// count returns how many files the record holds.
func (f *seenFolder) count() uint64 {
	n, _ := binary.Uvarint(f.rest)
	return n
}

// byPrint returns the files of a folder.
func (f *seenFolder) byPrint() map[print]seenFile {
	out := make(map[print]seenFile, f.count())
	f.each(func(key print, file *seenFile) bool {
		out[key] = *file
		return true
	})
	return out
}

// each decodes the files of a folder until yield says no, and reports whether it yielded every one.
func (f *seenFolder) each(yield func(print, *seenFile) bool) bool {
	n, used := binary.Uvarint(f.rest)
	if used <= 0 || n > uint64(len(f.rest))/17 {
		return false
	}
	b := f.rest[used:]
	for range n {
		if len(b) < 17 {
			return false
		}
		key, file := print(b), seenFile{flags: b[16]}
		var err error
		if file.extents, b, err = cutExtents(b[17:]); err != nil {
			return false
		}
		if file.flags&snapshot.Indirect != 0 {
			if f.old {
				return false // nobody knows what its content needs
			}
			if file.deep, b, err = cutIDs(b); err != nil {
				return false
			}
		}
		if !yield(key, &file) {
			return false
		}
	}
	return true
}

func cutIDs(b []byte) ([]chunk.ID, []byte, error) {
	n, used := binary.Uvarint(b)
	const size = uint64(len(chunk.ID{}))
	if used <= 0 || n > uint64(len(b)-used)/size {
		return nil, nil, errSeen
	}
	out := make([]chunk.ID, n)
	for i := range out {
		out[i] = chunk.ID(b[uint64(used)+uint64(i)*size:])
	}
	return out, b[uint64(used)+n*size:], nil
}

func cutExtents(b []byte) ([]snapshot.Extent, []byte, error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil, errSeen
	}
	extents, err := snapshot.ParseExtents(b[used : used+int(n)])
	return extents, b[used+int(n):], err
}

func appendCut(dst []byte, extents []snapshot.Extent) []byte {
	raw := snapshot.AppendExtents(nil, extents)
	return append(binary.AppendUvarint(dst, uint64(len(raw))), raw...)
}

// seenRecord builds a folder's record. The listing may come later than the files.
type seenRecord struct {
	print print
	count int
	files []byte
}

func (r *seenRecord) add(key print, f *seenFile) {
	r.count++
	r.files = append(append(r.files, key[:]...), f.flags)
	r.files = appendCut(r.files, f.extents)
	if f.flags&snapshot.Indirect == 0 {
		return
	}
	r.files = binary.AppendUvarint(r.files, uint64(len(f.deep)))
	for i := range f.deep {
		r.files = append(r.files, f.deep[i][:]...)
	}
}

func (r *seenRecord) body(size, files uint64, listing []snapshot.Extent) []byte {
	rest := binary.AppendUvarint(nil, size)
	rest = binary.AppendUvarint(rest, files)
	rest = appendCut(rest, listing)
	rest = append(binary.AppendUvarint(rest, uint64(r.count)), r.files...)
	sum := sha256.Sum256(rest)
	body := append(r.print[:len(r.print):len(r.print)], sum[:8]...)
	return append(body, rest...)
}

// seenWriter writes the file for the next backup; records come in any order from any goroutine.
type seenWriter struct {
	mu    sync.Mutex
	file  *os.File
	w     *bufio.Writer
	at    uint64
	table []seenSlot
	err   error
	path  string
}

// newSeenWriter writes beside path; only commit puts the file in its place. A crash before that leaves the old file.
func newSeenWriter(path string) (*seenWriter, error) {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	w := &seenWriter{file: f, w: bufio.NewWriterSize(f, 256<<10), path: path}
	w.write([]byte(seenMagic))
	w.write(make([]byte, 32))
	return w, nil
}

func (w *seenWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.at, w.err = w.at+uint64(n), err
}

func (w *seenWriter) add(key print, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.table = append(w.table, seenSlot{key, w.at})
	w.write(key[:])
	w.write(binary.BigEndian.AppendUint32(nil, uint32(len(body))))
	w.write(body)
}

// commit finishes the file as belonging to head. It is not fsynced: every part of it is checked when it is read.
func (w *seenWriter) commit(head [32]byte) error {
	slices.SortFunc(w.table, func(a, b seenSlot) int { return slices.Compare(a.key[:], b.key[:]) })
	var raw []byte
	at := w.at
	for _, s := range w.table {
		raw = binary.BigEndian.AppendUint64(append(raw, s.key[:]...), s.offset)
	}
	w.write(raw)
	tail := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, at), uint64(len(w.table)))
	sum := sha256.Sum256(append(raw, tail...))
	w.write(append(tail, sum[:16]...))
	if w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err == nil {
		_, w.err = w.file.WriteAt(head[:], int64(len(seenMagic)))
	}
	w.file.Close()
	if w.err != nil {
		os.Remove(w.path + ".new")
		return w.err
	}
	return os.Rename(w.path+".new", w.path)
}

func (w *seenWriter) abort() {
	w.file.Close()
	os.Remove(w.path + ".new")
}
