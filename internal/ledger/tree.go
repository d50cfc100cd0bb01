package ledger

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
)

// Tree computes the RFC 6962 root of leaves that come one by one. It keeps one
// hash for each set bit of the size (a compact range), 2 KiB in all, and
// allocates nothing. The zero value is the empty tree. Not for concurrent use.
type Tree struct {
	size  uint64
	nodes [61][32]byte // nodes[l] counts where bit l of size is set: a whole tree of 2^l leaves
	pair  [65]byte     // 0x01 ‖ left ‖ right, here so that it is not allocated
}

// NewTree takes up a tree of size leaves from what Stack returned. ErrFormat
// when there are not as many hashes as set bits of size. Whether they are the
// tree's is told by Root.
func NewTree(size uint64, stack [][32]byte) (*Tree, error) {
	if size > maxTree || len(stack) != bits.OnesCount64(size) {
		return nil, fmt.Errorf("ledger: tree of %d leaves from %d hashes: %w", size, len(stack), ErrFormat)
	}
	t := &Tree{size: size}
	for l := range t.nodes {
		if size>>l&1 == 1 {
			t.nodes[l] = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
		}
	}
	return t, nil
}

// Stack returns the hashes of the whole trees side by side that make up this
// one, the largest first: one for each set bit of Size, from the highest. They
// are all that is needed to go on from here.
func (t *Tree) Stack() [][32]byte {
	stack := make([][32]byte, 0, bits.OnesCount64(t.size))
	for l := len(t.nodes) - 1; l >= 0; l-- {
		if t.size>>l&1 == 1 {
			stack = append(stack, t.nodes[l])
		}
	}
	return stack
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Append adds a leaf by its hash (LeafHash). A log does not reach 2^60 leaves.
func (t *Tree) Append(leafHash [32]byte) { t.add(0, &leafHash) }

// AppendTree adds a whole tree of 2^level leaves by its root, as a tile of a
// higher level holds it. ErrFormat when Size is not a multiple of 2^level.
func (t *Tree) AppendTree(level int, hash [32]byte) error {
	if level < 0 || level >= len(t.nodes) || t.size&(1<<level-1) != 0 || t.size+1<<level > maxTree {
		return fmt.Errorf("ledger: tree of %d leaves: 2^%d more: %w", t.size, level, ErrFormat)
	}
	t.add(level, &hash)
	return nil
}

// add carries: equal neighbours are joined as a binary counter joins ones.
func (t *Tree) add(level int, hash *[32]byte) {
	l := level
	for ; t.size>>l&1 == 1; l++ {
		*hash = t.join(&t.nodes[l], hash)
	}
	t.nodes[l] = *hash
	t.size += 1 << level
}

// Root is the RFC 6962 root of the leaves so far: SHA-256("") of none.
func (t *Tree) Root() [32]byte {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	l := bits.TrailingZeros64(t.size)
	root := t.nodes[l]
	for l++; l < len(t.nodes); l++ {
		if t.size>>l&1 == 1 {
			root = t.join(&t.nodes[l], &root)
		}
	}
	return root
}

func (t *Tree) join(left, right *[32]byte) [32]byte {
	t.pair[0] = 1
	copy(t.pair[1:33], left[:])
	copy(t.pair[33:], right[:])
	return sha256.Sum256(t.pair[:])
}
