package audit

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

// Path returns the RFC 6962 audit path of leaf i in the tree over these leaf
// hashes, lowest first: what a Source needs for the leaves of an object. It is
// nil for i beyond the leaves.
func Path(leaves [][32]byte, i int) [][32]byte {
	if i < 0 || i >= len(leaves) {
		return nil
	}
	var path [][32]byte
	for len(leaves) > 1 {
		k := 1
		for 2*k < len(leaves) {
			k *= 2
		}
		// The path runs from the leaf up: the sibling found first stands last.
		if i < k {
			path = append(path, root(leaves[k:]))
			leaves = leaves[:k]
		} else {
			path = append(path, root(leaves[:k]))
			leaves, i = leaves[k:], i-k
		}
	}
	for a, b := 0, len(path)-1; a < b; a, b = a+1, b-1 {
		path[a], path[b] = path[b], path[a]
	}
	return path
}

// root is the RFC 6962 root of leaf hashes.
func root(leaves [][32]byte) [32]byte {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return tlog.NodeHash(root(leaves[:k]), root(leaves[k:]))
}

// leads tells whether a path leads from the leaf at index to the root of a tree
// of size leaves.
func leads(path []byte, size uint64, root [32]byte, index uint64, leaf [32]byte) bool {
	if index >= size || size > maxTree || len(path)%32 != 0 || len(path) > 32*maxPath {
		return false
	}
	p := make(tlog.RecordProof, len(path)/32)
	for i := range p {
		p[i] = tlog.Hash(path[32*i:])
	}
	return tlog.CheckRecord(p, int64(size), root, int64(index), leaf) == nil
}

// flat is a path as one string.
func flat(path [][32]byte) []byte {
	out := make([]byte, 0, 32*len(path))
	for i := range path {
		out = append(out, path[i][:]...)
	}
	return out
}
