package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"
)

// A Record is where a record of the log stands, and what of it a recovery may aim at.
type Record struct {
	Start LSN
	End   LSN       // behind its last byte
	Ended time.Time // of a record that ends a transaction: when, by the server's clock; zero for others
	XID   uint32    // of a record that ends a transaction: which; 0 for others
	Point string    // of a restore point: its name; empty for others
	Next  LSN       // where the next record begins at the earliest: End, but for one that leaves the rest of its segment empty
}

const (
	recordHeader = 24
	maxRecord    = 1 << 30

	pageOverwrites = 1 << 3 // the record before was never finished, and this page begins with another

	xlogManager = 0
	xlogSwitch  = 0x40 // the rest of the segment is empty
	xlogPoint   = 0x70 // 8 bytes of time, and the name with a zero behind it in 64
	xactManager = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Records yields the whole records that begin in a run of the log, which begins with a page, whichever. It ends where the
// records do, or the bytes: behind the end of a log, or amid a record, is none. What bears no right checksum is no record.
//
// Whatever begins before reached was yielded. Where the run goes on behind it, cut says that no more than its bytes are
// missing: a record begins at reached, and the run ends amid it. Else what is there is no record.
//
//	0   length     uint32, of all
//	4   xid        uint32
//	8   previous   uint64
//	16  info       uint8, the manager's
//	17  manager    uint8
//	20  checksum   uint32, CRC-32C of what follows and of the 20 bytes before
//
// Little-endian; records begin at multiples of 8 and go on behind the headers of pages (PostgreSQL's
// src/include/access/xlogrecord.h).
func Records(start LSN, size SegmentSize, data []byte, yield func(Record) bool) (reached LSN, cut bool) {
	w := &walker{start: start, data: data}
	if !w.first(size) {
		return start + LSN(w.at), w.cut
	}
	for {
		r, ok := w.record(size)
		switch {
		case w.again:
			w.again = false
		case !ok:
			return r.Start, w.cut
		case !yield(r):
			return r.Next, false
		}
	}
}

// walker reads records over the headers of pages.
type walker struct {
	start   LSN
	data    []byte
	at      int
	again   bool // a record was never finished, and others follow
	cut     bool // bytes are missing
	buf     []byte
	version int // of the server that wrote the page
}

// page passes a page's header and returns its info and the rest of a record that it announces.
func (w *walker) page() (info uint16, rest int, ok bool) {
	b := w.data[w.at:]
	if w.cut = len(b) < longHeader; w.cut {
		return 0, 0, false
	}
	p, err := ParsePage(b)
	if err != nil || p.Address != w.start+LSN(w.at) {
		return 0, 0, false
	}
	w.version = p.Version
	w.at += shortHeader
	if p.Long {
		w.at += longHeader - shortHeader
	}
	return binary.LittleEndian.Uint16(b[2:]), int(p.Rest), true
}

// first goes to the first record that begins in the run, or to its end where none does. It fails where the run is none of
// a log, and stays there.
func (w *walker) first(size SegmentSize) bool {
	if w.skipEmpty(size); w.at >= len(w.data) {
		return false
	}
	at := w.at
	_, rest, ok := w.page()
	if !ok || rest == 0 {
		return ok
	}
	if _, ok = w.take(rest); ok || w.overwritten() {
		return true
	}
	if w.at = len(w.data); !w.cut {
		w.at = at
	}
	w.cut = false // no record begins in the run
	return false
}

// skipEmpty passes the pages that a switch to the next segment left empty, up to that or to the end of the run. Their headers
// are empty, too (PostgreSQL's CopyXLogRecordToWAL in src/backend/access/transam/xlog.c).
func (w *walker) skipEmpty(size SegmentSize) {
	for at := 0; at < len(w.data); {
		end := min(at+PageSize, len(w.data))
		if !zero(w.data[at:end]) {
			return
		}
		if at = end; at == len(w.data) || (w.start+LSN(at))%LSN(size) == 0 {
			w.at = at
			return
		}
	}
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// overwritten says, once, that the record that was read was never finished.
func (w *walker) overwritten() bool {
	again := w.again
	w.again = false
	return again
}

// take reads bytes of a record. It fails at the end of the run, and where the record was never finished.
func (w *walker) take(n int) ([]byte, bool) {
	w.buf = w.buf[:0]
	for len(w.buf) < n {
		if w.cut = w.at >= len(w.data); w.cut {
			return nil, false
		}
		if w.at%PageSize == 0 {
			info, _, ok := w.page()
			if !ok {
				return nil, false
			}
			if info&pageOverwrites != 0 {
				w.again = true
				return nil, false
			}
		}
		end := min(len(w.data), w.at+n-len(w.buf), w.at-w.at%PageSize+PageSize)
		if end <= w.at {
			return nil, false
		}
		w.buf = append(w.buf, w.data[w.at:end]...)
		w.at = end
	}
	return w.buf, true
}

// record reads the next record. Where it fails, r.Start is where that would begin.
func (w *walker) record(size SegmentSize) (r Record, ok bool) {
	w.at = (w.at + 7) &^ 7
	r.Start = w.start + LSN(w.at)
	if w.at >= len(w.data) {
		return r, false
	}
	if w.at%PageSize == 0 {
		if _, rest, ok := w.page(); !ok || rest != 0 {
			return r, false
		}
	}
	r.Start = w.start + LSN(w.at)
	if w.cut = w.at+4 > len(w.data); w.cut { // the length never goes over a page
		return r, false
	}
	n := binary.LittleEndian.Uint32(w.data[w.at:])
	if n < recordHeader || n > maxRecord {
		return r, false
	}
	b, ok := w.take(int(n))
	if !ok {
		return r, false
	}
	sum := crc32.Update(crc32.Checksum(b[recordHeader:], castagnoli), castagnoli, b[:20])
	if sum != binary.LittleEndian.Uint32(b[20:]) {
		return r, false
	}
	r.End = w.start + LSN(w.at)
	r.Next = r.End
	info, manager := b[16], b[17]
	switch {
	case manager == xlogManager && info&0xF0 == xlogSwitch:
		r.Next = size.Floor(r.End-1) + LSN(size)
		w.at = int(r.Next - w.start)
	case manager == xlogManager && info&0xF0 == xlogPoint:
		if d := ownData(b[recordHeader:]); len(d) > 8 {
			name, _, _ := bytes.Cut(d[8:], []byte{0})
			r.Point = string(name)
		}
	case manager == xactManager:
		r.Ended, r.XID = ended(info, binary.LittleEndian.Uint32(b[4:]), ownData(b[recordHeader:]), w.version)
	}
	return r, true
}

// ownData is a record's own data, of which length and origin stand before; nil of a record that touches blocks.
func ownData(b []byte) []byte {
	for len(b) > 0 {
		id := b[0]
		skip := map[byte]int{252: 5, 253: 3, 254: 5, 255: 2}[id] // top transaction, origin, long data, short data
		if skip == 0 || len(b) < skip {
			return nil
		}
		if b = b[skip:]; id >= 254 {
			return b
		}
	}
	return nil
}

// What the end of a transaction is.
const (
	xactCommit         = 0x00
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40

	xactMore = 0x80 // bits follow that say what else does
)

// ended is when a transaction ended, and which: zero for other records. Of one that was prepared the number stands behind
// lists of which there may be none (PostgreSQL's src/include/access/xact.h, src/backend/access/rmgrdesc/xactdesc.c).
func ended(info byte, xid uint32, d []byte, version int) (time.Time, uint32) {
	prepared := false
	switch info & 0x70 {
	case xactCommit, xactAbort:
	case xactCommitPrepared, xactAbortPrepared:
		prepared = true
	default:
		return time.Time{}, 0
	}
	if len(d) < 8 {
		return time.Time{}, 0
	}
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(int64(binary.LittleEndian.Uint64(d))) * time.Microsecond)
	if prepared {
		xid = 0
		if info&xactMore != 0 {
			xid = preparedXID(d[8:], version)
		}
	}
	return at, xid
}

// preparedXID finds the number of a transaction that was prepared behind what stands before it; 0 where none does.
//
//	bit 0  database and tablespace    8 bytes
//	bit 1  subtransactions            a count, and 4 bytes each
//	bit 2  files that go              a count, and 12 bytes each
//	bit 8  statistics that go         a count, and 12 bytes each; 16 from version 18 on
//	bit 3  invalidations              a count, and 16 bytes each
//	bit 4  the number
func preparedXID(d []byte, version int) uint32 {
	if len(d) < 4 {
		return 0
	}
	bits := binary.LittleEndian.Uint32(d)
	d = d[4:]
	if bits&1 != 0 {
		d = d[min(8, len(d)):]
	}
	stats := 12
	if version >= 18 {
		stats = 16
	}
	for _, list := range []struct {
		bit  uint32
		size int
	}{{1 << 1, 4}, {1 << 2, 12}, {1 << 8, stats}, {1 << 3, 16}} {
		if bits&list.bit == 0 {
			continue
		}
		if len(d) < 4 {
			return 0
		}
		n := uint64(binary.LittleEndian.Uint32(d)) * uint64(list.size)
		if d = d[4:]; n > uint64(len(d)) {
			return 0
		}
		d = d[n:]
	}
	if bits&(1<<4) == 0 || len(d) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(d)
}
