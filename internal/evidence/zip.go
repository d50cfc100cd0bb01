package evidence

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"slices"
)

// A container is a zip file in one canonical form: every file stored, not compressed; names in rising order; no
// comments, extra fields, times, gaps or data descriptors. So there is one way to write the same content, nothing to
// hide between files, and nothing that grows when it is read. Any zip program opens it.

// Caps of a container: bytes of its files, bytes of all of it, files, bytes of a name, and bytes of one file.
const (
	maxData      = 2 << 30
	maxContainer = 3 << 30
	maxFiles     = 1 << 20
	maxName      = 200
	maxFile      = 1 << 30
)

const (
	localSize   = 30
	centralSize = 46
	endSize     = 22
	end64Size   = 56 + 20
	zipVersion  = 20
	many        = 0xffff     // files from which on the count stands in a zip64 record
	zipDate     = 0x0021     // 1980-01-01, the first that zip knows
	zipMode     = 0o100644   // an ordinary file
	unixMade    = 3<<8 | 20  // made by Unix
	sigLocal    = 0x04034b50 // "PK\3\4"
	sigCentral  = 0x02014b50
	sigEnd      = 0x06054b50
	sigEnd64    = 0x06064b50
	sigLocator  = 0x07064b50
)

// namePattern keeps names to what is a path below a folder on every system.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){0,4}$`)

// A file is one file of a container.
type file struct {
	name string
	data []byte
}

// entry is a file's place in a container.
type entry struct {
	name   string
	crc    uint32
	size   uint32
	offset uint32 // of its local header
}

// sorted sorts files as a container has them.
func sorted(files []file) {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
}

// A packer writes a container file by file.
type packer struct {
	w       io.Writer
	at      int64
	entries []entry
}

// add writes one file. Names must rise. data is not kept.
func (p *packer) add(name string, data []byte) error {
	e := entry{name: name, crc: crc32.ChecksumIEEE(data), size: uint32(len(data)), offset: uint32(p.at)}
	switch {
	case !goodName(name):
		return fmt.Errorf("evidence: file name %q: %w", name, ErrFormat)
	case len(p.entries) > 0 && name <= p.entries[len(p.entries)-1].name:
		return fmt.Errorf("evidence: file %s: out of order: %w", name, ErrFormat)
	case len(p.entries) == maxFiles || len(data) > maxFile || p.at+int64(len(data)) > maxData:
		return fmt.Errorf("evidence: file %s: %w", name, ErrTooLarge)
	}
	p.entries = append(p.entries, e)
	if err := p.write(e.local()); err != nil {
		return err
	}
	return p.write(data)
}

func (p *packer) write(b []byte) error {
	n, err := p.w.Write(b)
	p.at += int64(n)
	return err
}

// close writes the directory.
func (p *packer) close() error { return p.write(directory(p.entries, p.at)) }

func goodName(name string) bool { return len(name) <= maxName && namePattern.MatchString(name) }

func (e *entry) local() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, localSize+len(e.name)), sigLocal)
	return append(e.common(b), e.name...)
}

// common is what both headers of a file have alike: from the version needed to the lengths of name and extra field.
func (e *entry) common(b []byte) []byte {
	le := binary.LittleEndian
	for _, v := range []uint16{zipVersion, 0, 0, 0, zipDate} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint32{e.crc, e.size, e.size} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint16(b, uint16(len(e.name)))
	return le.AppendUint16(b, 0)
}

// directory is all that follows the last file of a container whose files end at byte at.
func directory(entries []entry, at int64) []byte {
	le := binary.LittleEndian
	var b []byte
	for i := range entries {
		e := &entries[i]
		b = le.AppendUint32(b, sigCentral)
		b = e.common(le.AppendUint16(b, unixMade))
		b = append(b, 0, 0, 0, 0, 0, 0) // no comment, disk 0, no internal attributes
		b = le.AppendUint32(b, zipMode<<16)
		b = append(le.AppendUint32(b, e.offset), e.name...)
	}
	size, n := uint32(len(b)), len(entries)
	if n >= many {
		b = le.AppendUint32(b, sigEnd64)
		b = le.AppendUint64(b, 44)
		b = le.AppendUint16(le.AppendUint16(b, unixMade), 45)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // disks 0
		for _, v := range []uint64{uint64(n), uint64(n), uint64(size), uint64(at)} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(le.AppendUint32(b, sigLocator), 0)
		b = le.AppendUint64(b, uint64(at)+uint64(size))
		b = le.AppendUint32(b, 1)
		n = many
	}
	b = append(le.AppendUint32(b, sigEnd), 0, 0, 0, 0)
	b = le.AppendUint16(le.AppendUint16(b, uint16(n)), uint16(n))
	b = le.AppendUint32(le.AppendUint32(b, size), uint32(at))
	return append(b, 0, 0)
}

// container is an open container; what it reads from does not change meanwhile.
type container struct {
	r       io.ReaderAt
	entries []entry
}

var errNoContainer = errors.New("not a container of this program")

// open reads the directory and accepts only what a packer writes.
func open(r io.ReaderAt, size int64) (*container, error) {
	bad := func(what string) (*container, error) {
		return nil, fmt.Errorf("evidence: %s: %w: %w", what, errNoContainer, ErrFormat)
	}
	if size > maxContainer {
		return nil, fmt.Errorf("evidence: file of %d bytes: %w", size, ErrTooLarge)
	}
	if size < endSize {
		return bad("file cut short")
	}
	le := binary.LittleEndian
	end := make([]byte, min(size, endSize+end64Size))
	if _, err := r.ReadAt(end, size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	last := end[len(end)-endSize:]
	n, length, at := uint64(le.Uint16(last[10:])), int64(le.Uint32(last[12:])), int64(le.Uint32(last[16:]))
	tail := int64(endSize)
	if n == many {
		if len(end) < endSize+end64Size {
			return bad("file cut short")
		}
		n, tail = le.Uint64(end[24:]), endSize+end64Size
	}
	if n > maxFiles || length < int64(n)*(centralSize+1) || length > int64(n)*(centralSize+maxName) || at+length+tail != size {
		return bad("directory")
	}
	dir := make([]byte, length+tail)
	if _, err := r.ReadAt(dir, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	c := &container{r: r}
	next := int64(0)
	for rest := dir[:length]; len(rest) > 0; {
		if len(rest) < centralSize {
			return bad("directory")
		}
		e := entry{crc: le.Uint32(rest[16:]), size: le.Uint32(rest[20:]), offset: le.Uint32(rest[42:])}
		nameLen := int(le.Uint16(rest[28:]))
		if len(rest) < centralSize+nameLen || int64(e.offset) != next || e.size > maxFile {
			return bad("directory")
		}
		e.name = string(rest[centralSize : centralSize+nameLen])
		if !goodName(e.name) || len(c.entries) > 0 && e.name <= c.entries[len(c.entries)-1].name {
			return bad("names of files")
		}
		next += localSize + int64(nameLen) + int64(e.size)
		c.entries = append(c.entries, e)
		rest = rest[centralSize+nameLen:]
	}
	if next != at || !bytes.Equal(directory(c.entries, at), dir) {
		return bad("directory")
	}
	return c, nil
}

// read returns a file's bytes, checked against its sum and its own header.
func (c *container) read(e *entry) ([]byte, error) {
	head := e.local()
	b := make([]byte, len(head)+int(e.size))
	if n, err := c.r.ReadAt(b, int64(e.offset)); n < len(b) {
		return nil, fmt.Errorf("evidence: file %s: %w", e.name, err)
	}
	if !bytes.Equal(b[:len(head)], head) || crc32.ChecksumIEEE(b[len(head):]) != e.crc {
		return nil, fmt.Errorf("evidence: file %s: damaged: %w", e.name, ErrFormat)
	}
	return b[len(head):], nil
}

// find returns the place of a file.
func (c *container) find(name string) (*entry, bool) {
	i, ok := slices.BinarySearchFunc(c.entries, name, func(e entry, n string) int { return cmp.Compare(e.name, n) })
	if !ok {
		return nil, false
	}
	return &c.entries[i], true
}
