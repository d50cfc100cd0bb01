package sim

import (
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
)

// book is the leaves of a ledger with the hashes of its tree.
type book struct {
	leaves [][]byte
	hashes []tlog.Hash
}

// add appends a leaf and returns its index.
func (b *book) add(leaf []byte) (int64, error) {
	at := b.size()
	more, err := tlog.StoredHashesForRecordHash(at, ledger.LeafHash(leaf), b)
	if err != nil {
		return 0, err
	}
	b.leaves, b.hashes = append(b.leaves, leaf), append(b.hashes, more...)
	return at, nil
}

func (b *book) size() int64 { return int64(len(b.leaves)) }

// ReadHashes is tlog.HashReader.
func (b *book) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = b.hashes[at]
	}
	return out, nil
}

// root is that of the first size leaves.
func (b *book) root(size int64) (tlog.Hash, error) { return tlog.TreeHash(size, b) }

// path proves the leaf at index in the tree of the first size leaves.
func (b *book) path(index, size int64) ([][32]byte, error) {
	proof, err := tlog.ProveRecord(size, index, b)
	return hashesOf(proof), err
}

// join proves that the tree of size leaves continues that of old.
func (b *book) join(old, size int64) ([][32]byte, error) {
	if old == 0 || old == size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(size, old, b)
	return hashesOf(proof), err
}

func hashesOf[T ~[]tlog.Hash](proof T) [][32]byte {
	out := make([][32]byte, len(proof))
	for i, h := range proof {
		out[i] = h
	}
	return out
}

// until is a book of the first size leaves, which shares none of its memory that is written to.
func (b *book) until(size int64) book {
	n := tlog.StoredHashCount(size)
	return book{leaves: b.leaves[:size:size], hashes: b.hashes[:n:n]}
}
