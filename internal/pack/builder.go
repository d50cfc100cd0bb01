package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/chunk"
)

// MaxRaw is the longest chunk that a footer may name, in bytes.
const MaxRaw = 16 << 20

// Sizes in bytes of the footer's parts.
const (
	entrySize = 32 + 4 + 4 // id, stored, raw
	tailSize  = 4 + 4      // count, version
)

// compressedBit marks, in the stored length, a chunk that is one zstd frame.
const compressedBit = 1 << 31

// Entry says where a chunk is in a pack's payload.
type Entry struct {
	ID         chunk.ID
	Offset     uint32 // of the stored bytes, in the payload
	Stored     uint32 // length in the payload, at least 1
	Raw        uint32 // length of the chunk itself, at least 1
	Compressed bool   // the stored bytes are one zstd frame, shorter than Raw; otherwise Stored == Raw
}

// valid is what holds for every entry of a payload.
func (e *Entry) valid() bool {
	if e.Stored == 0 || e.Raw > MaxRaw {
		return false
	}
	if e.Compressed {
		return e.Stored < e.Raw
	}
	return e.Stored == e.Raw
}

// Builder lays chunks out as the payload of one Data or Tree pack:
//
//	chunk bytes, one after the other from offset 0
//	zeros
//	per chunk, in the same order: id 32 ‖ stored u32 (bit 31: compressed) ‖ raw u32
//	count u32 ‖ version u32
//
// It must not be used concurrently.
type Builder struct {
	buf     []byte // chunk bytes so far
	room    int    // of a finished payload
	entries []Entry
}

// NewBuilder returns an empty Builder that builds in buf's memory, from its start. The buffer belongs to
// the Builder until what Finish returned is no longer needed. It holds no more than cap(buf) bytes, so
// the capacity should be the payload of the largest class wanted.
func NewBuilder(buf []byte) *Builder {
	return &Builder{buf: buf[:0], room: min(cap(buf), Payload(classes-1, Data))}
}

// Fits reports whether a chunk of this many stored bytes still fits.
func (b *Builder) Fits(stored int) bool {
	return stored <= b.room-b.Len()-entrySize
}

// Add appends a chunk; stored is copied. The chunk must fit, and the sizes be possible: stored at least
// one byte, raw at most MaxRaw, and stored shorter than raw if compressed, as long if not. Otherwise
// nothing is added and the zero Entry is returned.
func (b *Builder) Add(id chunk.ID, stored []byte, raw int, compressed bool) Entry {
	if raw < 0 || raw > MaxRaw || !b.Fits(len(stored)) {
		return Entry{}
	}
	e := Entry{
		ID: id, Offset: uint32(len(b.buf)), Stored: uint32(len(stored)), Raw: uint32(raw), Compressed: compressed,
	}
	if !e.valid() {
		return Entry{}
	}
	b.buf = append(b.buf, stored...)
	b.entries = append(b.entries, e)
	return e
}

// Len returns the length in bytes of chunks and footer, without padding.
func (b *Builder) Len() int { return len(b.buf) + len(b.entries)*entrySize + tailSize }

// Count returns the number of chunks.
func (b *Builder) Count() int { return len(b.entries) }

// Entries returns what was added, in order. The slice is the Builder's own and stays valid until Reset.
func (b *Builder) Entries() []Entry { return b.entries }

// Smallest returns the smallest class that holds what was added.
func (b *Builder) Smallest() Class {
	c, _ := Smallest(b.Len(), Data) // room makes sure that there is one
	return c
}

// Finish returns the payload for a pack of the class, exactly Payload(class, Data) bytes in the
// buffer's memory; nil when the class is too small or unknown. Adding may go on after it, and makes
// what it returned useless.
func (b *Builder) Finish(class Class) []byte {
	size := Payload(class, Data)
	if size < b.Len() {
		return nil
	}
	b.buf = slices.Grow(b.buf, size-len(b.buf))
	payload := b.buf[:size]
	footer := payload[size-tailSize-len(b.entries)*entrySize:]
	clear(payload[len(b.buf) : size-len(footer)])
	for i := range b.entries {
		e, p := &b.entries[i], footer[i*entrySize:]
		stored := e.Stored
		if e.Compressed {
			stored |= compressedBit
		}
		copy(p, e.ID[:])
		binary.BigEndian.PutUint32(p[32:], stored)
		binary.BigEndian.PutUint32(p[36:], e.Raw)
	}
	tail := footer[len(b.entries)*entrySize:]
	binary.BigEndian.PutUint32(tail, uint32(len(b.entries)))
	binary.BigEndian.PutUint32(tail[4:], Version)
	return payload
}

// Reset empties the Builder; it keeps its memory.
func (b *Builder) Reset() {
	b.buf, b.entries = b.buf[:0], b.entries[:0]
}

// ParseFooter returns the entries of a payload that a Builder finished. It accepts the canonical form
// only: ErrVersion for another version, ErrFormat for entries that no chunk can have, chunks that reach
// into the footer, and padding that is not zero.
func ParseFooter(payload []byte) ([]Entry, error) {
	if len(payload) < tailSize {
		return nil, fmt.Errorf("%w: payload of %d bytes", ErrFormat, len(payload))
	}
	if len(payload) > Payload(classes-1, Data) {
		return nil, fmt.Errorf("%w: payload of %d bytes", ErrSize, len(payload))
	}
	tail := payload[len(payload)-tailSize:]
	if v := binary.BigEndian.Uint32(tail[4:]); v != Version {
		return nil, fmt.Errorf("footer: %w: %d", ErrVersion, v)
	}
	count := uint64(binary.BigEndian.Uint32(tail))
	if count > uint64(len(payload)-tailSize)/(entrySize+1) { // a chunk has at least one byte
		return nil, fmt.Errorf("%w: %d chunks in %d bytes", ErrFormat, count, len(payload))
	}
	end := len(payload) - tailSize - int(count)*entrySize
	entries := make([]Entry, count)
	at := 0
	for i := range entries {
		p := payload[end+i*entrySize:]
		stored := binary.BigEndian.Uint32(p[32:])
		e := Entry{
			ID:         chunk.ID(p[:32]),
			Offset:     uint32(at),
			Stored:     stored &^ compressedBit,
			Raw:        binary.BigEndian.Uint32(p[36:]),
			Compressed: stored&compressedBit != 0,
		}
		if !e.valid() || int(e.Stored) > end-at {
			return nil, fmt.Errorf("%w: chunk %d has impossible lengths", ErrFormat, i)
		}
		entries[i] = e
		at += int(e.Stored)
	}
	if !zero(payload[at:end]) {
		return nil, fmt.Errorf("%w: padding is not zero", ErrFormat)
	}
	return entries, nil
}

// zero reports whether all bytes are zero.
func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
