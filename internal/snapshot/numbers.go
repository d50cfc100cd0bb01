package snapshot

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// MaxPacks is how many packs of chunks a register may have in its life: the largest number of one, plus one.
const MaxPacks = 1 << 28

// Numbers is a set of the numbers of packs. The packs of chunks that heads add are counted through a register, from 0,
// in the order of heads, of their index packs, and within these; index packs and references have no numbers. The zero
// value is the empty set. A set takes an eighth of a byte for each number up to its largest.
type Numbers struct{ words []uint64 }

// Add puts in the numbers from first up to, but not including, end.
func (n *Numbers) Add(first, end uint64) {
	if end > first && int(end-1)/64 >= len(n.words) {
		n.words = append(n.words, make([]uint64, int(end-1)/64+1-len(n.words))...)
	}
	for ; first < end && first%64 != 0; first++ {
		n.words[first/64] |= 1 << (first % 64)
	}
	for ; first+64 <= end; first += 64 {
		n.words[first/64] = ^uint64(0)
	}
	for ; first < end; first++ {
		n.words[first/64] |= 1 << (first % 64)
	}
}

// Remove takes a number out.
func (n *Numbers) Remove(v uint64) {
	if v/64 < uint64(len(n.words)) {
		n.words[v/64] &^= 1 << (v % 64)
	}
}

// Has tells whether a number is in the set.
func (n *Numbers) Has(v uint64) bool {
	return v/64 < uint64(len(n.words)) && n.words[v/64]>>(v%64)&1 == 1
}

// Any tells whether one of the numbers from first up to, but not including, end is in the set.
func (n *Numbers) Any(first, end uint64) bool {
	for ; first < end; first++ {
		if first%64 == 0 && first+64 <= end {
			if first/64 >= uint64(len(n.words)) {
				return false
			}
			if n.words[first/64] == 0 {
				first += 63
				continue
			}
		}
		if n.Has(first) {
			return true
		}
	}
	return false
}

// Join puts in every number of another set.
func (n *Numbers) Join(other *Numbers) {
	if d := len(other.words) - len(n.words); d > 0 {
		n.words = append(n.words, make([]uint64, d)...)
	}
	for i, w := range other.words {
		n.words[i] |= w
	}
}

// Clone returns a copy.
func (n *Numbers) Clone() Numbers { return Numbers{append([]uint64(nil), n.words...)} }

// Count returns how many numbers are in the set.
func (n *Numbers) Count() (c uint64) {
	for _, w := range n.words {
		c += uint64(bits.OnesCount64(w))
	}
	return c
}

// Equal tells whether two sets hold the same numbers.
func (n *Numbers) Equal(other *Numbers) bool {
	for i := range max(len(n.words), len(other.words)) {
		var a, b uint64
		if i < len(n.words) {
			a = n.words[i]
		}
		if i < len(other.words) {
			b = other.words[i]
		}
		if a != b {
			return false
		}
	}
	return true
}

// All yields the numbers in rising order.
func (n *Numbers) All() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i, w := range n.words {
			for ; w != 0; w &= w - 1 {
				if !yield(uint64(i)*64 + uint64(bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// runs yields the longest runs of numbers: first and the one behind the last.
func (n *Numbers) runs(yield func(first, end uint64)) {
	first, end := uint64(0), uint64(0)
	for v := range n.All() {
		if v != end || end == 0 && v == 0 {
			if end > first {
				yield(first, end)
			}
			first = v
		}
		end = v + 1
	}
	if end > first {
		yield(first, end)
	}
}

// appendNumbers appends the one encoding of a set: the count of its runs, and for each run the distance from the end of
// the one before, less one but for the first, and its length less one, as uvarints.
func appendNumbers(dst []byte, n *Numbers) []byte {
	count := uint64(0)
	n.runs(func(uint64, uint64) { count++ })
	dst = binary.AppendUvarint(dst, count)
	before := uint64(0)
	n.runs(func(first, end uint64) {
		gap := first - before
		if before > 0 {
			gap--
		}
		dst = binary.AppendUvarint(dst, gap)
		dst = binary.AppendUvarint(dst, end-first-1)
		before = end
	})
	return dst
}

// numbers reads a set of numbers below limit.
func (r *reader) numbers(limit uint64) (n Numbers) {
	count := r.number(uint64(len(r.b)) / 2)
	end := uint64(0)
	for i := range count {
		first := end + r.number(limit)
		if i > 0 {
			first++
		}
		end = first + r.number(limit) + 1
		if r.bad || end > limit {
			r.fail()
			return Numbers{}
		}
		n.Add(first, end)
	}
	return n
}
