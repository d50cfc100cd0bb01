package wal

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// A Record is where a record of the log stands.
type Record struct {
	Start LSN
	End   LSN       // behind its last byte
	Ended time.Time // of a record that ends a transaction: when, by the server's clock; zero for others
}

const (
	recordHeader = 24
	maxRecord    = 1 << 30

	pageOverwrites = 1 << 3 // the record before was never finished, and this page begins with another

	xlogManager = 0
	xlogSwitch  = 0x40 // the rest of the segment is empty
	xactManager = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Records yields the whole records of a run of the log that begins with a page, whichever. It ends where the records do,
// or the bytes: behind the end of a log, or amid a record, is none. What bears no right checksum is no record.
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
func Records(start LSN, size SegmentSize, data []byte, yield func(Record) bool) {
	w := &walker{start: start, data: data}
	if !w.first() {
		return
	}
	for {
		r, ok := w.record(size)
		switch {
		case w.again:
			w.again = false
		case !ok || !yield(r):
			return
		}
	}
}

// walker reads records over the headers of pages.
type walker struct {
	start LSN
	data  []byte
	at    int
	again bool // a record was never finished, and others follow
	buf   []byte
}

// page passes a page's header and returns its info and the rest of a record that it announces.
func (w *walker) page() (info uint16, rest int, ok bool) {
	b := w.data[w.at:]
	if len(b) < longHeader {
		return 0, 0, false
	}
	p, err := ParsePage(b)
	if err != nil || p.Address != w.start+LSN(w.at) {
		return 0, 0, false
	}
	w.at += shortHeader
	if p.Long {
		w.at += longHeader - shortHeader
	}
	return binary.LittleEndian.Uint16(b[2:]), int(p.Rest), true
}

// first goes to the first record that begins in the run.
func (w *walker) first() bool {
	_, rest, ok := w.page()
	if !ok || rest == 0 {
		return ok
	}
	_, ok = w.take(rest)
	return ok || w.overwritten()
}

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
		if w.at >= len(w.data) {
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

// record reads the next record.
func (w *walker) record(size SegmentSize) (r Record, ok bool) {
	w.at = (w.at + 7) &^ 7
	if w.at >= len(w.data) {
		return r, false
	}
	if w.at%PageSize == 0 {
		if _, rest, ok := w.page(); !ok || rest != 0 {
			return r, false
		}
	}
	r.Start = w.start + LSN(w.at)
	if w.at+4 > len(w.data) { // the length never goes over a page
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
	info, manager := b[16]&0xF0, b[17]
	switch {
	case manager == xlogManager && info == xlogSwitch:
		next := size.Floor(r.End-1) + LSN(size)
		w.at = int(next - w.start)
	case manager == xactManager:
		r.Ended = ended(info&0x70, b[recordHeader:])
	}
	return r, true
}

// ended is when a transaction ended: the first thing in a record's own data, behind which length and origin stand.
func ended(op byte, b []byte) time.Time {
	switch op {
	case 0x00, 0x20, 0x30, 0x40: // commit, abort, and both of what was prepared
	default:
		return time.Time{}
	}
	for len(b) > 0 {
		id := b[0]
		skip := map[byte]int{252: 5, 253: 3, 254: 5, 255: 2}[id] // top transaction, origin, long data, short data
		if skip == 0 || len(b) < skip {
			return time.Time{}
		}
		if b = b[skip:]; id >= 254 {
			break
		}
	}
	if len(b) < 8 {
		return time.Time{}
	}
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(int64(binary.LittleEndian.Uint64(b))) * time.Microsecond)
}
