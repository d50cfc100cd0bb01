package wal

import "encoding/binary"

// minRecord is the length of the header of a record, which each has.
const minRecord = 24

// RecordEnd returns where the record ends that begins at a position, or behind the page's header there; segment is the
// file of the log that holds the position. It is false where none begins: there are zeros, or the file ends. What the
// record says of its own length is believed; whether it is whole is for a server to check.
func (s SegmentSize) RecordEnd(segment []byte, at LSN) (LSN, bool) {
	at = s.behindHeader(at)
	i := int(s.Offset(at))
	if i+4 > len(segment) {
		return 0, false
	}
	left := uint64(binary.LittleEndian.Uint32(segment[i:]))
	if left < minRecord {
		return 0, false
	}
	for {
		take := min(left, PageSize-uint64(at)%PageSize)
		at += LSN(take)
		if left -= take; left == 0 {
			return at, true
		}
		at = s.behindHeader(at)
	}
}

// behindHeader moves a position at the start of a page behind that page's header.
func (s SegmentSize) behindHeader(at LSN) LSN {
	switch {
	case s.Offset(at) == 0:
		return at + longHeader
	case at%PageSize == 0:
		return at + shortHeader
	}
	return at
}
