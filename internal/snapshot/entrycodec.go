package snapshot

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"chancery.dev/chancery/internal/chunk"
)

// maxHole is the longest hole of one extent: its length shares a 64-bit number with a flag.
const maxHole = 1<<62 - 1

// minExtent is the fewest bytes an encoded extent can have (a hole); the caps on counts use it.
const minExtent = 1

// AppendEntry appends the entry's one encoding to dst. The entry must satisfy Check.
//
//	entry   = name kind flags mode uid gid modsec modnsec linkgroup xattrs rest
//	name    = length bytes              xattrs = count { length bytes length bytes }
//	rest    = size extents              for a file
//	        | size files extents        for a folder
//	        | length bytes              for a symbolic link
//	        | device                    for a device
//	        |                           for a FIFO and a socket
//	extents = count { 2*length+1 | 2*length offset id[32] }
//
// kind and flags are one byte each, modsec is a zigzag varint, every other number a uvarint.
// Specification: docs/spec/manifest.md.
func AppendEntry(dst []byte, e *Entry) []byte { return appendEntry(dst, e, e.Name) }

func appendEntry(dst []byte, e *Entry, name string) []byte {
	dst = appendText(dst, name)
	dst = append(dst, byte(e.Kind), e.Flags)
	dst = binary.AppendUvarint(dst, uint64(e.Mode))
	dst = binary.AppendUvarint(dst, uint64(e.UID))
	dst = binary.AppendUvarint(dst, uint64(e.GID))
	dst = binary.AppendVarint(dst, e.ModSec)
	dst = binary.AppendUvarint(dst, uint64(e.ModNsec))
	dst = binary.AppendUvarint(dst, e.LinkGroup)
	dst = binary.AppendUvarint(dst, uint64(len(e.Xattrs)))
	for i := range e.Xattrs {
		dst = appendText(dst, e.Xattrs[i].Name)
		dst = binary.AppendUvarint(dst, uint64(len(e.Xattrs[i].Value)))
		dst = append(dst, e.Xattrs[i].Value...)
	}
	switch e.Kind {
	case File:
		dst = binary.AppendUvarint(dst, e.Size)
		dst = appendExtents(dst, e.Extents)
	case Dir:
		dst = binary.AppendUvarint(dst, e.Size)
		dst = binary.AppendUvarint(dst, e.Files)
		dst = appendExtents(dst, e.Extents)
	case Symlink:
		dst = appendText(dst, e.Target)
	case CharDevice, BlockDevice:
		dst = binary.AppendUvarint(dst, e.Device)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendExtents(dst []byte, extents []Extent) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(extents)))
	for i := range extents {
		x := &extents[i]
		if x.Hole {
			dst = binary.AppendUvarint(dst, x.HoleLength<<1|1)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(x.Length)<<1)
		dst = binary.AppendUvarint(dst, uint64(x.Offset))
		dst = append(dst, x.Chunk[:]...)
	}
	return dst
}

// ParseEntry reads one entry from the start of b and returns what follows it. The entry satisfies
// Check and shares no memory with b. Errors wrap ErrEntry.
func ParseEntry(b []byte) (e Entry, rest []byte, err error) {
	r := reader{b: b}
	if err := r.entry(&e); err != nil {
		return Entry{}, nil, err
	}
	return e, r.b, nil
}

// AppendExtents appends one piece of an extent list: a version byte, the count, the extents. A file
// with more extents than MaxExtents has its list in such pieces and is marked Indirect.
func AppendExtents(dst []byte, extents []Extent) []byte {
	return appendExtents(append(dst, version1), extents)
}

// ParseExtents reads what AppendExtents wrote: at most MaxExtents extents, none empty, nothing behind.
func ParseExtents(b []byte) ([]Extent, error) {
	r := reader{b: b}
	if v := r.byte(); v != version1 {
		return nil, fmt.Errorf("extent list: version %d: %w", v, ErrEntry)
	}
	extents := r.extents()
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("extent list: %w", ErrEntry)
	}
	for i := range extents {
		if !extents[i].valid() {
			return nil, fmt.Errorf("extent list: extent %d: %w", i, ErrEntry)
		}
	}
	return extents, nil
}

// reader walks over encoded bytes. After the first flaw bad is set and every answer is zero.
type reader struct {
	b    []byte
	text string   // if not empty, the text whose tail b is: strings are cut from it, not copied
	slab []Extent // spare memory for extents
	bad  bool
}

func (r *reader) fail() { r.bad, r.b = true, nil }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// uvarint takes the shortest encoding only.
func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := uint64(r.b[0])
		r.b = r.b[1:]
		return v
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.b[n-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// number takes a uvarint of at most limit.
func (r *reader) number(limit uint64) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail()
		return 0
	}
	return v
}

func (r *reader) varint() int64 {
	v := r.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string(limit uint64) string {
	n := int(r.number(limit))
	if n > len(r.b) {
		r.fail()
		return ""
	}
	at := len(r.text) - len(r.b)
	v := r.bytes(n)
	if r.text != "" {
		return r.text[at : at+n]
	}
	return string(v)
}

func (r *reader) entry(e *Entry) error {
	e.Name = r.string(MaxName)
	if !r.bad {
		if err := checkName(e.Name); err != nil {
			return err
		}
	}
	return r.afterName(e)
}

func (r *reader) afterName(e *Entry) error {
	const most32 = 1<<32 - 1
	e.Kind = Kind(r.byte())
	e.Flags = r.byte()
	e.Mode = uint32(r.number(0o7777))
	e.UID = uint32(r.number(most32))
	e.GID = uint32(r.number(most32))
	e.ModSec = r.varint()
	e.ModNsec = uint32(r.number(1e9 - 1))
	e.LinkGroup = r.uvarint()
	r.xattrs(e)
	switch e.Kind {
	case File:
		e.Size = r.uvarint()
		e.Extents = r.extents()
	case Dir:
		e.Size = r.uvarint()
		e.Files = r.uvarint()
		e.Extents = r.extents()
	case Symlink:
		e.Target = r.string(MaxTarget)
	case CharDevice, BlockDevice:
		e.Device = r.uvarint()
	}
	if r.bad {
		return fmt.Errorf("entry %q: cut short or not canonical: %w", e.Name, ErrEntry)
	}
	return e.checkNamed()
}

func (r *reader) xattrs(e *Entry) {
	n := int(r.number(MaxXattrs))
	if n == 0 {
		return
	}
	if n > len(r.b)/3 { // an attribute is at least a length, one byte of name and a length
		r.fail()
		return
	}
	e.Xattrs = make([]Xattr, n)
	for i := range e.Xattrs {
		e.Xattrs[i].Name = r.string(MaxXattrName)
		value := r.bytes(int(r.number(MaxXattr)))
		if len(value) > 0 {
			e.Xattrs[i].Value = append([]byte(nil), value...)
		}
		if r.bad {
			return
		}
	}
}

func (r *reader) extents() []Extent {
	n := int(r.number(MaxExtents))
	if n == 0 {
		return nil
	}
	if n > len(r.b)/minExtent {
		r.fail()
		return nil
	}
	extents := r.room(n)
	for i := range extents {
		x := &extents[i]
		v := r.number(maxHole<<1 | 1)
		if v&1 == 1 {
			*x = Extent{Hole: true, HoleLength: v >> 1}
			continue
		}
		x.Length = uint32(v >> 1)
		x.Offset = uint32(r.number(1<<32 - 1))
		id := r.bytes(len(chunk.ID{}))
		if r.bad || bits.Len64(v) > 33 {
			r.fail()
			return nil
		}
		copy(x.Chunk[:], id)
	}
	return extents
}

// room returns n zero extents, from the slab where one is in use.
func (r *reader) room(n int) []Extent {
	const block = 256
	if r.text == "" || n > block/4 {
		return make([]Extent, n)
	}
	if len(r.slab) < n {
		r.slab = make([]Extent, block)
	}
	v := r.slab[:n:n]
	r.slab = r.slab[n:]
	return v
}
