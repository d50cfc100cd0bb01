package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxBatch caps the receipts of one batch.
const MaxBatch = 4096

// maxProof is the depth of the largest tree.
const maxProof = 64

// caps in bytes of the two encodings.
const (
	maxReceipt      = MaxLeaf + maxCheckpoint + maxProof*34 + 64
	MaxReceiptBatch = 16 << 20
)

// Receipt proves that a leaf is in a log: the leaf, its index, the RFC 6962
// inclusion proof, and the signed checkpoint that the proof leads to.
//
//	CBOR array(4) [ leaf bytes, index, array of bytes(32), checkpoint bytes ]
type Receipt struct {
	_          struct{} `cbor:",toarray"`
	Leaf       []byte
	Index      uint64
	Proof      [][32]byte
	Checkpoint []byte
}

// Bytes is the canonical encoding.
func (r *Receipt) Bytes() ([]byte, error) { return encode(r) }

// ParseReceipt reads the canonical encoding; what it returns proves nothing
// before Verify.
func ParseReceipt(data []byte) (Receipt, error) {
	var r Receipt
	if err := decode(data, maxReceipt, &r); err != nil {
		return Receipt{}, fmt.Errorf("ledger: receipt: %w", err)
	}
	return r, nil
}

// Verify checks the receipt against the log that v names and returns what it
// proves. ErrSignature: another log or key. ErrProof: the leaf is not there.
// ErrFormat, ErrUnknown: the leaf or checkpoint is not well formed. Whether the
// leaf is the one hoped for is for the caller to compare.
func (r *Receipt) Verify(v note.Verifier) (Leaf, Checkpoint, error) {
	cp, err := ParseCheckpoint(r.Checkpoint, v)
	if err != nil {
		return Leaf{}, Checkpoint{}, err
	}
	leaf, err := checkInclusion(cp, r.Leaf, r.Index, r.Proof)
	if err != nil {
		return Leaf{}, Checkpoint{}, err
	}
	return leaf, cp, nil
}

// checkInclusion also holds the leaf to the state that the origin names.
func checkInclusion(cp Checkpoint, data []byte, index uint64, proof [][32]byte) (Leaf, error) {
	leaf, err := ParseLeaf(data)
	if err != nil {
		return Leaf{}, err
	}
	if index >= cp.Size || len(proof) > maxProof {
		return Leaf{}, fmt.Errorf("ledger: receipt: leaf %d of %d: %w", index, cp.Size, ErrProof)
	}
	p := make(tlog.RecordProof, len(proof))
	for i := range proof {
		p[i] = proof[i]
	}
	if err := tlog.CheckRecord(p, int64(cp.Size), cp.Root, int64(index), LeafHash(data)); err != nil {
		return Leaf{}, fmt.Errorf("ledger: receipt: leaf %d of %d: %w", index, cp.Size, ErrProof)
	}
	return leaf, nil
}

// BatchItem is one receipt of a batch without its checkpoint.
type BatchItem struct {
	_     struct{} `cbor:",toarray"`
	Index uint64
	Leaf  []byte
	Proof [][32]byte
}

// ReceiptBatch is many receipts under one checkpoint:
//
//	CBOR array(2) [ checkpoint bytes, array of array(3) [ index, leaf bytes, array of bytes(32) ] ]
type ReceiptBatch struct {
	_          struct{} `cbor:",toarray"`
	Checkpoint []byte
	Items      []BatchItem
}

// Bytes is the canonical encoding.
func (b *ReceiptBatch) Bytes() ([]byte, error) {
	if len(b.Items) > MaxBatch {
		return nil, fmt.Errorf("ledger: receipts: %d in one batch: %w", len(b.Items), ErrFormat)
	}
	return encode(b)
}

// ParseReceiptBatch reads the canonical encoding; nothing is proven before Verify.
func ParseReceiptBatch(data []byte) (ReceiptBatch, error) {
	var b ReceiptBatch
	if err := decode(data, MaxReceiptBatch, &b); err != nil {
		return ReceiptBatch{}, fmt.Errorf("ledger: receipts: %w", err)
	}
	if len(b.Items) > MaxBatch {
		return ReceiptBatch{}, fmt.Errorf("ledger: receipts: %d in one batch: %w", len(b.Items), ErrFormat)
	}
	return b, nil
}

// Verify checks every receipt as Receipt.Verify does, the signature once, and
// returns them with their leaves in the batch's order. One that fails fails all.
func (b *ReceiptBatch) Verify(v note.Verifier) ([]Receipt, []Leaf, error) {
	cp, err := ParseCheckpoint(b.Checkpoint, v)
	if err != nil {
		return nil, nil, err
	}
	receipts := make([]Receipt, len(b.Items))
	leaves := make([]Leaf, len(b.Items))
	for i, it := range b.Items {
		if leaves[i], err = checkInclusion(cp, it.Leaf, it.Index, it.Proof); err != nil {
			return nil, nil, err
		}
		receipts[i] = Receipt{Leaf: it.Leaf, Index: it.Index, Proof: it.Proof, Checkpoint: b.Checkpoint}
	}
	return receipts, leaves, nil
}
