package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/snapshot"
)

// recordLog keeps the records of a stream that not every embassy has yet, and a few before, at home: files named by the
// first number in them, each a row of
//
//	length u32 | first 8 bytes of SHA-256 of the record | record
//
// A record is in it, fsynced, before any embassy is sent it: none must ever hold one that its agent does not know.
// A crash leaves the last file with an end that is no record. It was sent to nobody, and is cut off.
type recordLog struct {
	dir   string
	files []uint64 // first numbers, rising
	last  uint64   // 0: empty
	f     *os.File // the last file
	size  int64    // of it
}

const (
	logPrefix   = "log-"
	logHead     = 4 + 8
	logFileSize = 4 << 20
)

func openLog(dir string) (*recordLog, error) {
	l := &recordLog{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // by name, which is by number
		if n, err := strconv.ParseUint(strings.TrimPrefix(e.Name(), logPrefix), 10, 64); err == nil && e.Name() == logName(n) {
			l.files = append(l.files, n)
		}
	}
	for i, first := range l.files {
		if i > 0 && first != l.last+1 { // what is behind a damaged record comes from the embassies again
			return l, l.cut(i)
		}
		n, size, err := l.scan(first, nil)
		if err != nil {
			return nil, err
		}
		if l.last, l.size = first+uint64(n)-1, size; n == 0 {
			return l, l.cut(i)
		}
	}
	return l, l.open()
}

func logName(first uint64) string { return fmt.Sprintf("%s%020d", logPrefix, first) }

func (l *recordLog) path(first uint64) string { return filepath.Join(l.dir, logName(first)) }

// first is the lowest number in the log, or 0.
func (l *recordLog) first() uint64 {
	if l.last == 0 {
		return 0
	}
	return l.files[0]
}

// cut removes the files from number i on.
func (l *recordLog) cut(i int) error {
	for _, first := range slices.Backward(l.files[i:]) {
		if err := durable.Remove(l.path(first)); err != nil {
			return err
		}
	}
	if l.files = l.files[:i]; i == 0 {
		l.last, l.size = 0, 0
		return nil
	}
	return l.open()
}

// open opens the last file for more, without what is no record at its end.
func (l *recordLog) open() (err error) {
	if len(l.files) == 0 {
		return nil
	}
	first := l.files[len(l.files)-1]
	n, size, err := l.scan(first, nil)
	if err != nil {
		return err
	}
	l.last, l.size = first+uint64(n)-1, size
	if l.f, err = os.OpenFile(l.path(first), os.O_RDWR, 0o600); err != nil {
		return err
	}
	return l.f.Truncate(size)
}

// scan calls each for the records of a file and returns how many there are and where they end.
func (l *recordLog) scan(first uint64, each func(seq uint64, b []byte) (bool, error)) (n int, size int64, err error) {
	data, err := os.ReadFile(l.path(first))
	if err != nil {
		return 0, 0, err
	}
	for rest := data; len(rest) >= logHead; n++ {
		length := int(binary.BigEndian.Uint32(rest))
		if length > snapshot.MaxStretch || length > len(rest)-logHead {
			break
		}
		b := rest[logHead : logHead+length]
		if sum := sha256.Sum256(b); !bytes.Equal(sum[:8], rest[4:logHead]) {
			break
		}
		if each != nil {
			if more, err := each(first+uint64(n), b); err != nil || !more {
				return n, size, err
			}
		}
		size, rest = size+int64(logHead+length), rest[logHead+length:]
	}
	return n, size, nil
}

// each calls do for the records from number from on, until do says that it is enough. They are parts of memory that
// is used for nothing else.
func (l *recordLog) each(from uint64, do func(seq uint64, b []byte) (bool, error)) error {
	for i, first := range l.files {
		if i+1 < len(l.files) && l.files[i+1] <= from {
			continue
		}
		stop := false
		_, _, err := l.scan(first, func(seq uint64, b []byte) (bool, error) {
			if seq < from {
				return true, nil
			}
			more, err := do(seq, b)
			stop = stop || !more
			return more, err
		})
		if err != nil || stop {
			return err
		}
	}
	return nil
}

// between returns the records behind a number, up to another, or as far as they follow each other.
func (l *recordLog) between(after, through uint64) (out [][]byte, err error) {
	err = l.each(after+1, func(seq uint64, b []byte) (bool, error) {
		if seq > through || seq != after+uint64(len(out))+1 {
			return false, nil
		}
		out = append(out, b)
		return true, nil
	})
	return out, err
}

// get returns one record, or nil where the log does not hold it.
func (l *recordLog) get(seq uint64) (out []byte, err error) {
	if l.last == 0 || seq < l.first() || seq > l.last {
		return nil, nil
	}
	err = l.each(seq, func(at uint64, b []byte) (bool, error) {
		out = b
		return false, nil
	})
	return out, err
}

// add appends the next record. It is not on disk before sync. An empty log begins with any number.
func (l *recordLog) add(seq uint64, b []byte) error {
	if l.last != 0 && seq != l.last+1 {
		return fmt.Errorf("stretch %d does not follow %d in the local log", seq, l.last)
	}
	if l.f == nil || l.size > logFileSize {
		if err := l.next(seq); err != nil {
			return err
		}
	}
	sum := sha256.Sum256(b)
	rec := binary.BigEndian.AppendUint32(make([]byte, 0, logHead+len(b)), uint32(len(b)))
	rec = append(append(rec, sum[:8]...), b...)
	if _, err := l.f.WriteAt(rec, l.size); err != nil {
		return err
	}
	l.size += int64(len(rec))
	l.last = seq
	return nil
}

// next begins a file. A crash leaves it empty, or not there.
func (l *recordLog) next(seq uint64) error {
	if l.f != nil {
		if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
			return err
		}
	}
	var err error
	if l.f, err = os.OpenFile(l.path(seq), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	l.files, l.size = append(l.files, seq), 0
	return durable.SyncDir(l.dir)
}

// sync puts what was added on disk.
func (l *recordLog) sync() error {
	if l.f == nil {
		return nil
	}
	return l.f.Sync()
}

// trim removes the files in which nothing from number keep on is. The last one stays.
func (l *recordLog) trim(keep uint64) error {
	for len(l.files) > 1 && l.files[1] <= keep {
		if err := durable.Remove(l.path(l.files[0])); err != nil {
			return err
		}
		l.files = l.files[1:]
	}
	return nil
}

func (l *recordLog) close() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// streamState is what a stream remembers between runs besides its records: what k embassies are known to hold, and
// per embassy up to which number it has all records, was given deliveries, and has a share of everything. It is written
// without an fsync: a program that dies loses nothing of it, and what a machine loses is asked of the embassies again.
//
//	kept u64 | count u32 | per embassy: id 16, has u64, delivered u64, whole u64 | first 8 bytes of SHA-256 of the rest
//
// Before there was whole the rows were 8 bytes shorter; deliveries then say as much as is known.
type streamState struct {
	kept  uint64
	sites map[[16]byte]siteState
}

type siteState struct{ has, delivered, whole uint64 }

const (
	siteRow    = 16 + 3*8
	oldSiteRow = 16 + 2*8
)

func (st *streamState) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, st.kept)
	b = binary.BigEndian.AppendUint32(b, uint32(len(st.sites)))
	for id, x := range st.sites {
		b = append(b, id[:]...)
		for _, n := range []uint64{x.has, x.delivered, x.whole} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:8]...)
}

func readStreamState(path string) *streamState {
	st := &streamState{sites: map[[16]byte]siteState{}}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 12+8 {
		return st
	}
	body := b[:len(b)-8]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:8], b[len(body):]) {
		return st
	}
	n, row := int(binary.BigEndian.Uint32(body[8:])), siteRow
	if len(body) == 12+oldSiteRow*n {
		row = oldSiteRow
	}
	if len(body) != 12+row*n {
		return st
	}
	st.kept = binary.BigEndian.Uint64(body)
	for rest := body[12:]; len(rest) > 0; rest = rest[row:] {
		x := siteState{has: binary.BigEndian.Uint64(rest[16:]), delivered: binary.BigEndian.Uint64(rest[24:])}
		if x.whole = x.delivered; row == siteRow {
			x.whole = binary.BigEndian.Uint64(rest[32:])
		}
		st.sites[[16]byte(rest)] = x
	}
	return st
}

// stateFile is the open file of a streamState.
type stateFile struct {
	f    *os.File
	size int
}

func openStateFile(path string) (*stateFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	return &stateFile{f: f}, err
}

// write replaces what is in the file, in one call. What a crash leaves of it in part is as good as nothing.
func (s *stateFile) write(st *streamState) error {
	b := st.bytes()
	_, err := s.f.WriteAt(b, 0)
	if err == nil && s.size != len(b) {
		s.size = len(b)
		err = s.f.Truncate(int64(len(b)))
	}
	return err
}
