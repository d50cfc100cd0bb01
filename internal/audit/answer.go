package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Caps of an answer.
const (
	maxPath       = 64
	maxTree       = 1 << 60
	maxObjectPath = 8 // an object has at most 256 leaves
	// maxFrame is the largest frame: a ledger leaf, its path, an object's leaf, its path.
	maxFrame = ledger.MaxLeaf + maxPath*32 + shard.LeafSize + maxObjectPath*32 + 128
)

// What an embassy says of an entry.
const (
	notObject  uint8 = 0
	present    uint8 = 1
	missing    uint8 = 2 // it has no such object
	unreadable uint8 = 3 // its disk does not give it back
	removed    uint8 = 4 // an order had it removed; data is a removal
)

// frame answers one draw:
//
//	CBOR array(7) [ draw, entry's index, ledger leaf bytes, proof bytes(32 n),
//	                status, data bytes, path bytes(32 n) ]
//
// The hashes of a path stand in one string, the lowest first: there are many
// frames, and as a list they would take twice the time to read.
type frame struct {
	_      struct{} `cbor:",toarray"`
	Draw   uint64
	Index  uint64
	Leaf   []byte // the ledger's
	Proof  []byte // RFC 6962, of Leaf in the checkpoint
	Status uint8
	Data   []byte // present: one leaf of the object; removed: a removal
	Path   []byte // present: RFC 6962, of Data in the object's name
}

// Source is what an embassy answers from.
type Source interface {
	// Entry returns the ledger leaf at index.
	Entry(index uint64) ([]byte, error)
	// Inclusion returns the RFC 6962 path of the leaf at index in the tree of the
	// ledger's first size leaves.
	Inclusion(index, size uint64) ([][32]byte, error)
	// Leaf reads one leaf of an object of size bytes as it now is on the disk, and
	// its path to the object's name (see Path). An error that is fs.ErrNotExist
	// says that the object is missing; any other but the context package's, that it
	// cannot be read. Data is valid until the next call.
	Leaf(name shard.Name, size uint64, leaf int) (data []byte, path [][32]byte, err error)
	// Removed returns where the ledger says that the object was removed, for a
	// challenge from a checkpoint of size leaves; nil where it says no such thing, or
	// where the object was stored again since.
	Removed(name shard.Name, size uint64) (*Removal, error)
}

// Respond answers a challenge to the embassy that has key, and signs the answer.
// It sends of objects what the source says and checks none of it. It fails with
// ErrChallenge or ledger.ErrSignature, with nothing written, when the challenge
// is not to this embassy, and later with what the source or w fails with; then
// the answer has no end, and the auditor sees that. ErrChallenge too when an entry
// is not in the tree of the checkpoint: an embassy whose ledger is another now,
// begun anew or put back, must not sign that it is the one asked about.
func Respond(w io.Writer, ch *Challenge, src Source, key ed25519.PrivateKey) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("audit: respond: not an Ed25519 key: %w", ErrChallenge)
	}
	cp, err := ch.Opened(ed25519.PublicKey(key[32:]))
	if err != nil {
		return err
	}
	todo, err := newDraws(ch, cp.Size)
	if err != nil {
		return err
	}
	var sent ledger.Tree
	for x, more := todo.next(); more; x, more = todo.next() {
		f, object, err := answer(src, x, cp.Size)
		if err != nil {
			return fmt.Errorf("audit: respond: entry %d: %w", x.index, err)
		}
		if !leads(f.Proof, cp.Size, cp.Root, x.index, ledger.LeafHash(f.Leaf)) {
			return fmt.Errorf("audit: respond: entry %d is not in the ledger that was asked about: %w", x.index, ErrChallenge)
		}
		todo.was(x, object && f.Status != removed)
		body, err := encode(f)
		if err != nil {
			return err
		}
		if err := writeFrame(w, body); err != nil {
			return err
		}
		sent.Append(ledger.LeafHash(body))
	}
	message, err := signed(ch, sent.Size(), sent.Root())
	if err != nil {
		return err
	}
	end := append(make([]byte, 4), ed25519.Sign(key, message)...)
	if _, err := w.Write(end); err != nil {
		return fmt.Errorf("audit: respond: %w", err)
	}
	return nil
}

func answer(src Source, x drawn, size uint64) (f *frame, object bool, err error) {
	f = &frame{Draw: x.n, Index: x.index}
	if f.Leaf, err = src.Entry(x.index); err != nil {
		return nil, false, err
	}
	proof, err := src.Inclusion(x.index, size)
	if err != nil {
		return nil, false, err
	}
	f.Proof = flat(proof)
	leaf, object := objectLeaf(f.Leaf)
	if !object {
		return f, false, nil
	}
	data, path, err := src.Leaf(leaf.Name, leaf.Size, leafOf(&leaf, x))
	switch {
	case err == nil:
		f.Status, f.Data, f.Path = present, data, flat(path)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, false, err
	case errors.Is(err, fs.ErrNotExist):
		return f, true, f.notThere(src, &leaf, size)
	default:
		f.Status = unreadable
	}
	return f, true, nil
}

// notThere says of an object that is not on the disk whether it was removed or lost.
func (f *frame) notThere(src Source, leaf *ledger.Leaf, size uint64) error {
	f.Status = missing
	r, err := src.Removed(leaf.Name, size)
	if err != nil || r == nil || r.Index <= f.Index {
		return err
	}
	f.Status = removed
	f.Data, err = r.bytes()
	return err
}

// objectLeaf reads a ledger leaf and tells whether it says that an object is
// stored. What does not parse is none: it is for those who verify the ledger.
func objectLeaf(data []byte) (ledger.Leaf, bool) {
	leaf, err := ledger.ParseLeaf(data)
	return leaf, err == nil && leaf.Kind == ledger.ObjectStored
}

// leafCount is how many leaves the object of a ledger leaf has.
func leafCount(leaf *ledger.Leaf) uint64 { return (leaf.Size + shard.LeafSize - 1) / shard.LeafSize }

// leafOf is which leaf of an object a draw asks for.
func leafOf(leaf *ledger.Leaf, x drawn) int { return int(x.number % leafCount(leaf)) }

// writeFrame sends the length in 4 bytes, big-endian, and the frame.
func writeFrame(w io.Writer, body []byte) error {
	if len(body) == 0 || len(body) > maxFrame {
		return fmt.Errorf("audit: respond: a frame of %d bytes: %w", len(body), ErrFormat)
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body)))); err != nil {
		return fmt.Errorf("audit: respond: %w", err)
	}
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("audit: respond: %w", err)
	}
	return nil
}

// signed is what the embassy signs at the end: the label, the challenge's hash,
// the number of frames in 8 bytes, and the RFC 6962 root over the frames. A tree
// rather than one running hash, so that a single bad frame can be shown later
// without the others.
func signed(ch *Challenge, frames uint64, root [32]byte) ([]byte, error) {
	hash, err := ch.Hash()
	if err != nil {
		return nil, err
	}
	return signedHash(hash, frames, root), nil
}

func signedHash(challenge [sha256.Size]byte, frames uint64, root [32]byte) []byte {
	m := append([]byte(answerLabel), challenge[:]...)
	m = binary.BigEndian.AppendUint64(m, frames)
	return append(m, root[:]...)
}
