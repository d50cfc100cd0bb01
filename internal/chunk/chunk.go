// Package chunk cuts the bytes of a register into content-defined pieces and names each piece with a
// keyed id. The format is described in docs/spec/chunks.md.
//
// Both the cut points and the ids are secrets of the register: the gear table and the id key are
// derived from keys that never leave home, and neither ids nor sizes of chunks are ever sent in the
// clear. A change of the sizes below, of the table's expansion or of the masks does not make old data
// unreadable (a reader never cuts), it only ends deduplication against what was cut before; such a
// change therefore gets a new version in the specification. An id never changes its meaning.
package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
)

// Sizes in bytes.
const (
	Min = 256 << 10 // no cut before this many bytes, unless the data ends
	Avg = 1 << 20   // the size around which cuts are most frequent
	Max = 4 << 20   // no chunk is longer than this

	// Whole is the longest file that is stored as one chunk and never cut by content.
	Whole = 1 << 20
	// Small is the longest file that is coalesced with its neighbours in a directory, into chunks of
	// at most Whole bytes.
	Small = 256 << 10
)

// ErrID is returned by ParseID for anything but 64 lowercase hexadecimal digits.
var ErrID = errors.New("chunk: not an id")

// ID names a chunk: HMAC-SHA-256 of its bytes under the register's id key.
type ID [32]byte

// String returns the id as 64 lowercase hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID is the inverse of ID.String and accepts nothing else.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("%w: %d characters", ErrID, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, fmt.Errorf("%w: not lowercase hexadecimal", ErrID)
	}
	return id, nil
}

// IDKey is a register's id key. Agents hold it; embassies do not.
type IDKey [32]byte

// NewHasher returns a Hasher for the key. The key is copied.
func (k *IDKey) NewHasher() *Hasher {
	return &Hasher{mac: hmac.New(sha256.New, k[:])}
}

// Hasher computes ids one after the other, without allocating. It must not be used concurrently; give
// each worker its own.
type Hasher struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

// Sum returns the id of data. The data is only read.
func (h *Hasher) Sum(data []byte) ID {
	h.mac.Reset()
	h.mac.Write(data)
	return ID(h.mac.Sum(h.sum[:0]))
}
