package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// drawn is one draw: the entry, and a number from which, if the entry is an
// object, its leaf follows.
type drawn struct {
	n      uint64 // how many draws came before
	index  uint64
	number uint64
}

// draws walks through what a challenge asks for. Both sides walk the same way:
// the auditor compares each answer with its own draw.
type draws struct {
	ch      *Challenge
	seed    [32]byte
	size    uint64
	n       uint64
	limit   uint64 // of draws
	objects uint32
	other   map[uint64]struct{} // entries known to be no objects: they are not answered twice
}

func newDraws(ch *Challenge, size uint64) (*draws, error) {
	seed, err := ch.Seed()
	if err != nil {
		return nil, err
	}
	d := &draws{ch: ch, seed: seed, size: size, limit: ch.To - ch.From}
	if ch.Mode == Sample {
		d.limit, d.other = 64*uint64(ch.Count)+1024, map[uint64]struct{}{}
	}
	return d, nil
}

// next returns the next draw that is to be answered, and false after the last.
func (d *draws) next() (drawn, bool) {
	for d.n < d.limit {
		if d.ch.Mode == Sample && (d.objects == d.ch.Count || uint64(len(d.other)) == d.size) {
			break
		}
		x := d.at(d.n)
		d.n++
		if _, known := d.other[x.index]; !known {
			return x, true
		}
	}
	return drawn{}, false
}

// was takes note of what the entry of the last draw turned out to be.
func (d *draws) was(x drawn, object bool) {
	switch {
	case object:
		d.objects++
	case d.other != nil:
		d.other[x.index] = struct{}{}
	}
}

// at computes draw n from nothing but the seed, so that one draw can be checked
// without the others.
//
//	block(a) = HMAC-SHA-256(seed, "draw" ‖ n ‖ a)      n, a: 8 bytes, big-endian
//	index    = first 8 bytes of the first block(0), block(1), … below the greatest
//	           multiple of size, modulo size; in range mode From + n
//	number   = the next 8 bytes of that block; in range mode of block(0)
func (d *draws) at(n uint64) drawn {
	above := (^d.size + 1) % d.size // 2^64 mod size
	for a := uint64(0); ; a++ {
		mac := hmac.New(sha256.New, d.seed[:])
		mac.Write([]byte("draw"))
		mac.Write(binary.BigEndian.AppendUint64(nil, n))
		mac.Write(binary.BigEndian.AppendUint64(nil, a))
		block := mac.Sum(nil)
		x := drawn{n: n, index: binary.BigEndian.Uint64(block), number: binary.BigEndian.Uint64(block[8:])}
		if d.ch.Mode == Range {
			x.index = d.ch.From + n
			return x
		}
		if x.index < -above || above == 0 {
			x.index %= d.size
			return x
		}
	}
}
