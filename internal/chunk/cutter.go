package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// gearInfo is the HKDF info string of the gear table's expansion.
const gearInfo = "chancery chunk gear v1"

// The masks of normalised chunking: 22 bits before Avg, so that cuts there are rare, and 18 bits from
// Avg on, so that they come soon. Bit 63 is left out because the scanner keeps the hash doubled
// between the two bytes of a pair. A bit j of the hash depends on the last j+1 bytes, hence these see
// at least the last 42.
const (
	maskSmall uint64 = (1<<22 - 1) << 41
	maskLarge uint64 = (1<<18 - 1) << 45
)

// window is how many bytes before a position can decide whether it is a cut point.
const window = 64

// Cutter finds the cut points of FastCDC (Xia et al., USENIX ATC 2016 and IEEE TPDS 2020): a gear
// hash, a skipped minimum, and normalised chunking. It holds only tables that are never written after
// NewCutter, so any number of goroutines may use one Cutter.
type Cutter struct {
	gear    [256]uint64
	doubled [256]uint64 // gear, each value shifted left by one
}

// NewCutter returns a Cutter whose gear table is HKDF-Expand (RFC 5869, SHA-256) of the register's gear
// key: 256 big-endian 64-bit numbers.
func NewCutter(gearKey [32]byte) *Cutter {
	c := new(Cutter)
	mac := hmac.New(sha256.New, gearKey[:])
	var block []byte
	for i := range c.gear {
		if i%4 == 0 {
			mac.Reset()
			mac.Write(block)
			mac.Write([]byte(gearInfo))
			mac.Write([]byte{byte(i/4 + 1)})
			block = mac.Sum(block[:0])
		}
		c.gear[i] = binary.BigEndian.Uint64(block[i%4*8:])
		c.doubled[i] = c.gear[i] << 1
	}
	return c
}

// Cut returns the length in bytes of the first chunk of buf. The buf holds at least Max bytes or is the
// rest of the file; otherwise the cut would depend on how the file was read. The result is at most Max,
// at least Min unless buf is shorter, and 0 only for an empty buf. It depends on the bytes alone.
func (c *Cutter) Cut(buf []byte) int {
	if len(buf) <= Min {
		return len(buf)
	}
	end := min(len(buf), Max)
	mid := min(end, Avg-1)
	var h uint64
	for _, b := range buf[Min-window : Min-1] {
		h = h<<1 + c.gear[b]
	}
	n, h := c.scan(h, buf[Min-1:mid], maskSmall) // lengths Min to Avg-1
	if n > 0 {
		return Min - 1 + n
	}
	if n, _ = c.scan(h, buf[mid:end], maskLarge); n > 0 { // lengths Avg to Max
		return mid + n
	}
	return end
}

// scan rolls h over b until the hash has no bit of the mask, and returns how many bytes that took; 0
// when it did not happen, and then the hash after all of b.
func (c *Cutter) scan(h uint64, b []byte, mask uint64) (int, uint64) {
	gear, doubled, mask2 := &c.gear, &c.doubled, mask<<1
	i := 0
	// Two bytes a step: one shift by two instead of two dependent shifts by one. After the first byte
	// of a pair the hash is held doubled.
	for ; i+4 <= len(b); i += 4 {
		p := b[i : i+4 : i+4]
		h = h<<2 + doubled[p[0]]
		if h&mask2 == 0 {
			return i + 1, h
		}
		h += gear[p[1]]
		if h&mask == 0 {
			return i + 2, h
		}
		h = h<<2 + doubled[p[2]]
		if h&mask2 == 0 {
			return i + 3, h
		}
		h += gear[p[3]]
		if h&mask == 0 {
			return i + 4, h
		}
	}
	for ; i < len(b); i++ {
		h = h<<1 + gear[b[i]]
		if h&mask == 0 {
			return i + 1, h
		}
	}
	return 0, h
}
