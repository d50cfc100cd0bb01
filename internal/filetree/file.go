package filetree

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// bigFile is the size in bytes from which the system is told that a file is read in one sweep.
const bigFile = 4 << 20

// maxRanges bounds the data ranges of one file; what follows the last is one range to the end.
const maxRanges = 1 << 18

// OpenedFile is a regular file of a Source, open for reading. ReadAt, Stat and Opened may be called
// by several goroutines at once; Read, Extents and Close by one.
type OpenedFile struct {
	src    *Source
	fd     int
	off    int64
	opened Stat
}

// Opened is what the file was when it was opened. It costs nothing.
func (f *OpenedFile) Opened() Stat { return f.opened }

// Stat examines the file now. What was read is one state of the file when SameContent holds
// between Opened and a Stat after the last read.
func (f *OpenedFile) Stat() (Stat, error) {
	st, err := statFD(f.fd)
	if err != nil {
		return Stat{}, fmt.Errorf("file: stat: %w", err)
	}
	return st, nil
}

// Read is io.Reader.
func (f *OpenedFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.pread(p, f.off)
	f.off += int64(n)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// ReadAt is io.ReaderAt: it fills p, or says why not.
func (f *OpenedFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.pread(p[done:], off+int64(done))
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (f *OpenedFile) pread(p []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(f.fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("file: read at %d: %w", off, err)
		}
		return n, nil
	}
}

// Extents appends to dst the ranges that may hold data, in order, never touching, within the size
// at opening; between them the file reads as zeros. Only a file with fewer blocks than bytes is
// asked; any other, and one whose file system does not know, is one range.
func (f *OpenedFile) Extents(dst []Range) ([]Range, error) {
	size := f.opened.Size
	if size == 0 {
		return dst, nil
	}
	if f.opened.Blocks >= (size+511)/512 {
		return append(dst, Range{0, size}), nil
	}
	first := len(dst)
	for off := int64(0); off < size; {
		data, err := f.seek(off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // only a hole is left, or the file became shorter
		}
		if err == unix.EINVAL || err == unix.EOPNOTSUPP {
			return append(dst[:first], Range{0, size}), nil
		}
		if err != nil {
			return dst, fmt.Errorf("file: find data: %w", err)
		}
		if data >= size {
			break
		}
		hole, err := f.seek(data, unix.SEEK_HOLE)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return dst, fmt.Errorf("file: find holes: %w", err)
		}
		if hole > size || len(dst)-first == maxRanges-1 {
			hole = size
		}
		if n := len(dst); n > first && dst[n-1].Off+dst[n-1].Len == data {
			dst[n-1].Len += hole - data
		} else {
			dst = append(dst, Range{data, hole - data})
		}
		off = hole
	}
	return dst, nil
}

func (f *OpenedFile) seek(off int64, whence int) (int64, error) {
	for {
		n, err := unix.Seek(f.fd, off, whence)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Xattrs reads the extended attributes, sorted by name.
func (f *OpenedFile) Xattrs() ([]Xattr, error) {
	s := f.src.scratch.Get().(*scratch)
	defer f.src.scratch.Put(s)
	x, err := readXattrs(s.buf, fdAttrs(f.fd))
	if err != nil {
		return nil, fmt.Errorf("file: extended attributes: %w", err)
	}
	return x, nil
}

// Close ends the use of the file. It may be called twice.
func (f *OpenedFile) Close() error {
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}
