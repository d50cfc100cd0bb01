// Package shard turns a sealed pack into what each embassy stores, and back.
//
// A pack is split into n shares, any k of which rejoin it ([Coder]); each share is masked with a
// keystream of its own embassy ([MaskAndHash]); and the masked share's Merkle root is the object's
// name ([Name]). So an embassy can check its disk and prove any range of an object without a key,
// and cannot compute what another embassy should be storing.
//
// Old data: the name of a given object, the shares of a given pack and the mask of a given key never
// change. What this package has split, masked and named stays readable by every later version of
// it; a changed rule would be new functions, named by a new format version in the pack's context.
// The bytes are specified in docs/spec/shares.md.
//
// A mask is not what keeps a pack secret: that is its seal. The package reads no clock, file,
// network or randomness.
package shard

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/bits"
)

// LeafSize is the length in bytes of a Merkle leaf. The last leaf of an object may be shorter, and
// is never empty.
const LeafSize = 64 << 10

var (
	// ErrName means that the leaf hashes do not make the object's name.
	ErrName = errors.New("leaf hashes do not make the name")
	// ErrDamaged means that bytes are not the ones that were named.
	ErrDamaged = errors.New("damaged")
	// ErrRange means that data does not consist of whole leaves inside the object.
	ErrRange = errors.New("not whole leaves of the object")
)

// Name identifies an object: the RFC 6962 Merkle root, with SHA-256, over leaves of [LeafSize] bytes
// of the masked share. An empty object has no leaf, and the name SHA-256("").
//
//	leaf = SHA-256(0x00 ‖ data)      node = SHA-256(0x01 ‖ left ‖ right)
type Name [32]byte

// String returns the name as 64 lowercase hexadecimal digits.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// ParseName reads what [Name.String] writes, and nothing else: uppercase digits are refused.
func ParseName(s string) (Name, error) {
	var n Name
	if len(s) != 2*len(n) {
		return Name{}, fmt.Errorf("object name: %d characters, want %d", len(s), 2*len(n))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return Name{}, fmt.Errorf("object name: character %d is not a lowercase hexadecimal digit", i+1)
		}
	}
	if _, err := hex.Decode(n[:], []byte(s)); err != nil {
		return Name{}, fmt.Errorf("object name: %w", err)
	}
	return n, nil
}

// LeafHashes appends the hashes of data's leaves to dst and returns the extended slice: none for
// empty data.
func LeafHashes(dst [][32]byte, data []byte) [][32]byte {
	h := newLeafHash()
	for len(data) > 0 {
		n := min(len(data), LeafSize)
		h.start()
		h.write(data[:n])
		dst = append(dst, *h.sum())
		data = data[n:]
	}
	return dst
}

// RootOf returns the name of the object that has these leaf hashes.
func RootOf(leaves [][32]byte) Name {
	var t tree
	for i := range leaves {
		t.push(&leaves[i])
	}
	return t.root()
}

// Root returns the name of an object of these bytes.
func Root(data []byte) Name {
	h := newLeafHash()
	var t tree
	for len(data) > 0 {
		n := min(len(data), LeafSize)
		h.start()
		h.write(data[:n])
		t.push(h.sum())
		data = data[n:]
	}
	return t.root()
}

// VerifyRange checks that data is what stands in the named object from leaf number first on. total
// is the object's length in bytes, which the caller knows and does not take from who sent the data;
// leaves are all leaf hashes of the object. data must be whole leaves, or whole leaves and the
// object's shorter last one; it may be empty, and then only the leaf hashes are checked.
//
// It returns [ErrRange], [ErrName] if the leaf hashes are not the object's, and [ErrDamaged] if data
// is not what they say.
func VerifyRange(name Name, total int64, first int, data []byte, leaves [][32]byte) error {
	if total < 0 || int64(len(leaves)) != leafCount(total) {
		return fmt.Errorf("object %s: %d leaf hashes for %d bytes: %w", name, len(leaves), total, ErrName)
	}
	if RootOf(leaves) != name {
		return fmt.Errorf("object %s: %w", name, ErrName)
	}
	if first < 0 || first > len(leaves) {
		return fmt.Errorf("object %s: leaf %d of %d: %w", name, first, len(leaves), ErrRange)
	}
	rest := total - min(total, int64(first)*LeafSize)
	if got := int64(len(data)); got > rest || got < rest && got%LeafSize != 0 {
		return fmt.Errorf("object %s: %d bytes from leaf %d: %w", name, got, first, ErrRange)
	}
	h := newLeafHash()
	for i := first; len(data) > 0; i++ {
		n := min(len(data), LeafSize)
		h.start()
		h.write(data[:n])
		if *h.sum() != leaves[i] {
			return fmt.Errorf("object %s: leaf %d: %w", name, i, ErrDamaged)
		}
		data = data[n:]
	}
	return nil
}

func leafCount(total int64) int64 { return total/LeafSize + min(1, total%LeafSize) }

// Hasher computes the name of an object from its bytes as they pass by, in less than 3 KiB of memory.
// The zero value is ready. It must not be copied after first use, nor used by several goroutines.
type Hasher struct {
	leaf   *leafHash
	filled int // bytes in the leaf under way; 0 means that none is
	tree   tree
}

// Write adds bytes to the object. It never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	h.add(p)
	return len(p), nil
}

func (h *Hasher) add(p []byte) {
	if h.leaf == nil {
		h.leaf = newLeafHash()
	}
	for len(p) > 0 {
		if h.filled == 0 {
			h.leaf.start()
		}
		n := min(len(p), LeafSize-h.filled)
		h.leaf.write(p[:n])
		p = p[n:]
		if h.filled += n; h.filled == LeafSize {
			h.tree.push(h.leaf.sum())
			h.filled = 0
		}
	}
}

// Name returns the name of what was written since the last [Hasher.Reset]. More may be written after.
func (h *Hasher) Name() Name {
	t := h.tree
	if h.filled > 0 {
		t.push(h.leaf.sum())
	}
	return t.root()
}

// Reset forgets what was written.
func (h *Hasher) Reset() { h.filled, h.tree = 0, tree{} }

// leafHash hashes one leaf at a time. It exists to keep the memory that the hash's interface makes
// escape in one place, allocated once.
type leafHash struct {
	h      hash.Hash
	prefix [1]byte // 0x00
	out    [sha256.Size]byte
}

func newLeafHash() *leafHash { return &leafHash{h: sha256.New()} }

func (l *leafHash) start() {
	l.h.Reset()
	l.h.Write(l.prefix[:])
}

func (l *leafHash) write(p []byte) { l.h.Write(p) }

// sum returns the hash of what was written since start, valid until the next call.
func (l *leafHash) sum() *[sha256.Size]byte {
	l.h.Sum(l.out[:0])
	return &l.out
}

// tree folds leaf hashes into a root: stack[i] is the root of a whole subtree of 2^i leaves wherever
// bit i of count is set.
type tree struct {
	count uint64
	stack [64][32]byte
}

func (t *tree) push(leaf *[32]byte) {
	h, i := *leaf, 0
	for ; t.count>>i&1 == 1; i++ {
		h = node(&t.stack[i], &h)
	}
	t.stack[i] = h
	t.count++
}

func (t *tree) root() Name {
	if t.count == 0 {
		return sha256.Sum256(nil)
	}
	i := bits.TrailingZeros64(t.count)
	h := t.stack[i]
	for i++; t.count>>i != 0; i++ {
		if t.count>>i&1 == 1 {
			h = node(&t.stack[i], &h)
		}
	}
	return h
}

func node(left, right *[32]byte) [32]byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}
