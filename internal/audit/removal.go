package audit

import (
	"crypto/ed25519"
	"crypto/sha256"

	"chancery.dev/chancery/internal/ledger"
)

// Removal is where a ledger says that an object was removed: a leaf after that
// which stored it. The order that the leaf names is for those who verify the
// ledger; an auditor sees that the embassy admits to it where everybody can read.
type Removal struct {
	Index uint64
	Leaf  []byte
	Proof [][32]byte // RFC 6962, of Leaf in the tree of Checkpoint or, where there is none, of the challenge's
	// Checkpoint is a later one than the challenge's, signed by the embassy; nil
	// where that one holds the leaf. Consistency leads from the one to the other.
	Checkpoint  []byte
	Consistency [][32]byte
}

// removal is a Removal in a frame's data:
//
//	CBOR array(5) [ index, leaf bytes, proof bytes(32 n), checkpoint bytes, consistency bytes(32 n) ]
type removal struct {
	_           struct{} `cbor:",toarray"`
	Index       uint64
	Leaf        []byte
	Proof       []byte
	Checkpoint  []byte
	Consistency []byte
}

// maxRemoval keeps such a frame below maxFrame.
const maxRemoval = 64 << 10

func (r *Removal) bytes() ([]byte, error) {
	return encode(&removal{Index: r.Index, Leaf: r.Leaf, Proof: flat(r.Proof), Checkpoint: r.Checkpoint, Consistency: flat(r.Consistency)})
}

// removes tells whether data shows that the object of the entry at index, in the
// tree of cp, was removed after it.
func removes(data []byte, stored *ledger.Leaf, index uint64, cp *ledger.Checkpoint, key ed25519.PublicKey) bool {
	var r removal
	if decode(data, maxRemoval, &r) != nil || r.Index <= index {
		return false
	}
	leaf, err := ledger.ParseLeaf(r.Leaf)
	if err != nil || leaf.Kind != ledger.ObjectRemoved || leaf.State != stored.State || leaf.Name != stored.Name || leaf.Size != stored.Size {
		return false
	}
	in := *cp
	if len(r.Checkpoint) > 0 {
		v, err := ledger.NewVerifier(cp.Origin, key)
		if err != nil {
			return false
		}
		if in, err = ledger.ParseCheckpoint(r.Checkpoint, v); err != nil {
			return false
		}
		path, ok := unflat(r.Consistency)
		if !ok || ledger.VerifyConsistency(*cp, in, path) != nil {
			return false
		}
	}
	return leads(r.Proof, in.Size, in.Root, r.Index, ledger.LeafHash(r.Leaf))
}

// unflat is the inverse of flat.
func unflat(data []byte) (path [][32]byte, ok bool) {
	if len(data)%sha256.Size != 0 || len(data) > sha256.Size*2*maxPath {
		return nil, false
	}
	for ; len(data) > 0; data = data[sha256.Size:] {
		path = append(path, [32]byte(data))
	}
	return path, true
}
