package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PageSize is that of a page of the log in every packaged server.
const PageSize = 8192

// What a file is not, though its name says so.
var (
	ErrSystem = errors.New("of another database system")
	ErrPlace  = errors.New("of another place in the log")
)

// The bits of a page's info.
const (
	pageContinues = 1 << 0 // begins with the rest of a record
	pageLong      = 1 << 1
	pageKnown     = 1<<4 - 1
)

const (
	shortHeader = 24
	longHeader  = 40
)

// versions are the servers by the magic of their pages.
var versions = map[uint16]int{0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}

// A Page is what the header of a page of the log says.
//
//	0   magic      uint16, one of each major version
//	2   info       uint16: 1 begins with the rest of a record, 2 long header
//	4   timeline   uint32
//	8   address    uint64
//	16  rest       uint32, bytes of a record that began on an earlier page
//	20  padding    4 bytes
//	24  system     uint64  (long header: first page of a segment)
//	32  segment    uint32, the segment's size
//	36  page       uint32, the page's size
//
// Little-endian (PostgreSQL's src/include/access/xlog_internal.h).
type Page struct {
	Version  int // major version of the server
	Timeline Timeline
	Address  LSN
	Rest     uint32
	Long     bool
	System   uint64      // long headers only
	Size     SegmentSize // long headers only
}

// ParsePage reads the header at the beginning of a page; b holds the whole header at least: 24 bytes, and 40 of the
// first page of a segment.
func ParsePage(b []byte) (Page, error) {
	bad := func(why string) (Page, error) { return Page{}, fmt.Errorf("page of the log: %s: %w", why, ErrFormat) }
	if len(b) < shortHeader {
		return bad("cut off")
	}
	le := binary.LittleEndian
	magic, info := le.Uint16(b), le.Uint16(b[2:])
	version, ok := versions[magic]
	if !ok {
		return bad(fmt.Sprintf("magic %04X is of no version from 15 to 18", magic))
	}
	p := Page{
		Version: version, Timeline: Timeline(le.Uint32(b[4:])), Address: LSN(le.Uint64(b[8:])), Rest: le.Uint32(b[16:]),
		Long: info&pageLong != 0,
	}
	switch {
	case info&^pageKnown != 0:
		return bad(fmt.Sprintf("info %04X", info))
	case p.Timeline == 0 || p.Address%PageSize != 0:
		return bad("no timeline or an address amid a page")
	case info&pageContinues == 0 && p.Rest != 0:
		return bad("the rest of a record that is not announced")
	case !p.Long:
		return p, nil
	case len(b) < longHeader:
		return bad("cut off")
	}
	p.System, p.Size = le.Uint64(b[24:]), SegmentSize(le.Uint32(b[32:]))
	if err := p.Size.Check(); err != nil {
		return Page{}, err
	}
	if size := le.Uint32(b[36:]); size != PageSize {
		return bad(fmt.Sprintf("pages of %d bytes", size))
	}
	if p.Size.Offset(p.Address) != 0 {
		return bad("a long header amid a segment")
	}
	return p, nil
}

// A Claim is what a file of the log is said to be.
type Claim struct {
	Version int    // major version of the server; 0 is any
	System  uint64 // the system's identifier
	Segment Segment
	Size    SegmentSize
	// History is that of the segment's timeline. Without it pages may be of any timeline up to the segment's.
	History *History
}

// Check holds the pages of a segment, from its beginning and as many as there are, against what it is said to be: each
// page must bear the version, the address and the timeline that were written at its place, and the first the system's
// identifier and the segment size. After a switch of segments the server leaves the rest empty; behind an empty page
// there must be no other. A last page that is not whole is checked as far as it goes.
//
// It fails with [ErrSystem], [ErrPlace] or [ErrFormat]. The records within the pages are not read: their checksums are
// the server's to check at recovery.
func (c *Claim) Check(b []byte) error {
	if err := c.check(b); err != nil {
		return fmt.Errorf("%s: %w", c.Segment.Name(c.Size), err)
	}
	return nil
}

func (c *Claim) check(b []byte) error {
	if err := c.Size.Check(); err != nil {
		return err
	}
	if len(b) < longHeader || len(b) > int(c.Size) {
		return fmt.Errorf("%d bytes of %d: %w", len(b), c.Size, ErrFormat)
	}
	empty := false
	for at := 0; at < len(b); at += PageSize {
		page := b[at:min(at+PageSize, len(b))]
		if at > 0 && (empty || isEmpty(page)) {
			if empty = true; !isEmpty(page) {
				return fmt.Errorf("offset %d: a page behind an empty one: %w", at, ErrFormat)
			}
			continue
		}
		if at > 0 && len(page) < shortHeader {
			return nil // the end of what was written so far
		}
		if err := c.checkPage(page, at); err != nil {
			return fmt.Errorf("offset %d: %w", at, err)
		}
	}
	return nil
}

func (c *Claim) checkPage(b []byte, at int) error {
	p, err := ParsePage(b)
	if err != nil {
		return err
	}
	want := c.Segment.Start(c.Size) + LSN(at)
	switch {
	case p.Long != (at == 0):
		return fmt.Errorf("a header of the wrong length: %w", ErrFormat)
	case p.Long && p.System != c.System:
		return fmt.Errorf("%w: %d, not %d", ErrSystem, p.System, c.System)
	case p.Long && p.Size != c.Size:
		return fmt.Errorf("%w: segments of %d bytes, not %d", ErrSystem, p.Size, c.Size)
	case c.Version != 0 && p.Version != c.Version:
		return fmt.Errorf("%w: version %d, not %d", ErrSystem, p.Version, c.Version)
	case p.Address != want:
		return fmt.Errorf("%w: %s, not %s", ErrPlace, p.Address, want)
	case c.History != nil && p.Timeline != c.History.At(want):
		return fmt.Errorf("%w: timeline %d, not %d", ErrPlace, p.Timeline, c.History.At(want))
	case p.Timeline > c.Segment.Timeline:
		return fmt.Errorf("%w: timeline %d", ErrPlace, p.Timeline)
	}
	return nil
}

func isEmpty(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
