package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
)

// NoteKind is what a note says. It decides what the signature is over, so that a note of one kind is none of another.
type NoteKind uint8

// The kinds of notes.
const (
	ProofNote NoteKind = iota + 1 // that somebody tried whether the register comes back: ProofResult
	CutNote                       // a moment of several registers together: Cut
)

const (
	// NoteVersion is the version of the notes that this program writes.
	NoteVersion = 1
	// MaxProofResult is the most bytes of an encoded result: what a sealed note of one step holds, so that a result says
	// nothing by its length.
	MaxProofResult = 4<<10 - 4

	maxNote = 8 << 10
	// What the signature is over starts with one of these.
	proofContext = "chancery proof v1\x00"
	cutContext   = "chancery cut v1\x00"
)

// Errors of notes.
var (
	// ErrNote is wrapped by every refusal to read a note.
	ErrNote = errors.New("not a canonical note")
	// ErrProof is wrapped by every refusal to read a proof's result.
	ErrProof = errors.New("not a canonical proof")
)

// String is the kind's word in messages and paths.
func (k NoteKind) String() string {
	if k == ProofNote {
		return "proof"
	}
	return "cut"
}

func (k NoteKind) context() []byte {
	if k == ProofNote {
		return []byte(proofContext)
	}
	return []byte(cutContext)
}

// Note is a signed, public record of a register that says something to its agents alone: all of it is sealed, so that
// without the register's index key one that says that nothing came back looks like any other.
type Note struct {
	Kind     NoteKind // by the slot in which it stands
	Version  uint64   // 1
	State    [16]byte
	Register [16]byte
	Sequence uint64 // 1, 2, 3, ... in a register; numbers may be left out

	Content []byte // sealed under the index key (pack.SealNote)

	Agent          [32]byte // Ed25519 public key of the machine that signed
	CharterVersion uint64
	CharterHash    [32]byte
	Time           int64 // claimed by the agent, nanoseconds since 1970; proves nothing

	Signature [64]byte
}

// Check tells whether the note's fields fit together, but for the signature.
func (n *Note) Check() error {
	what := ""
	switch {
	case n.Version != NoteVersion:
		what = fmt.Sprintf("version %d is unknown", n.Version)
	case n.Sequence == 0:
		what = "sequence numbers start at 1"
	case len(n.Content) == 0:
		what = "no content"
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s %d: %s: %w", n.Kind, n.Sequence, what, ErrNote)
}

// wireNote is what is signed, in CBOR. The numbers of the keys are part of the format.
type wireNote struct {
	Version        uint64 `cbor:"1,keyasint"`
	State          []byte `cbor:"2,keyasint"`
	Register       []byte `cbor:"3,keyasint"`
	Sequence       uint64 `cbor:"4,keyasint"`
	Content        []byte `cbor:"5,keyasint"`
	Agent          []byte `cbor:"6,keyasint"`
	CharterVersion uint64 `cbor:"7,keyasint"`
	CharterHash    []byte `cbor:"8,keyasint"`
	Time           int64  `cbor:"9,keyasint"`
}

// unsigned returns the bytes that the signature covers, without the context.
func (n *Note) unsigned() []byte {
	b, err := form.Encode(&wireNote{
		Version: n.Version, State: n.State[:], Register: n.Register[:], Sequence: n.Sequence, Content: n.Content,
		Agent: n.Agent[:], CharterVersion: n.CharterVersion, CharterHash: n.CharterHash[:], Time: n.Time,
	})
	if err != nil {
		return nil // cannot happen: every field has an encoding
	}
	return b
}

// Bytes returns the note's one encoding: deterministic CBOR, and the signature's 64 bytes behind it. The note must
// satisfy Check; ParseNote refuses what does not. Specification: docs/spec/proofs.md.
func (n *Note) Bytes() []byte { return append(n.unsigned(), n.Signature[:]...) }

// Hash returns SHA-256 of Bytes. It is also the name under which ledgers know the record.
func (n *Note) Hash() [32]byte { return sha256.Sum256(n.Bytes()) }

// Sign sets Agent to the key's public half and signs the note, whose other fields are final.
func (n *Note) Sign(priv ed25519.PrivateKey) {
	copy(n.Agent[:], priv[ed25519.SeedSize:])
	copy(n.Signature[:], ed25519.Sign(priv, append(n.Kind.context(), n.unsigned()...)))
}

// Verify checks the signature by the agent that the note names. Whether the charter names that agent is for the caller
// to ask. Errors: ErrSignature.
func (n *Note) Verify() error {
	if !ed25519.Verify(n.Agent[:], append(n.Kind.context(), n.unsigned()...), n.Signature[:]) {
		return fmt.Errorf("%s %d: %w", n.Kind, n.Sequence, ErrSignature)
	}
	return nil
}

// ParseNote reads what Bytes wrote of a note of this kind. It keeps no reference to b and does not check the signature: call
// Verify. Errors wrap ErrNote.
func ParseNote(kind NoteKind, b []byte) (*Note, error) {
	var w wireNote
	sig, err := decodeSigned(b, maxNote, &w)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", kind, err, ErrNote)
	}
	n := &Note{
		Kind: kind, Version: w.Version, Sequence: w.Sequence, Content: w.Content, CharterVersion: w.CharterVersion, Time: w.Time, Signature: sig,
	}
	fits := fill(n.State[:], w.State) && fill(n.Register[:], w.Register) && fill(n.Agent[:], w.Agent) && fill(n.CharterHash[:], w.CharterHash)
	if !fits {
		return nil, fmt.Errorf("%s: a field of wrong length: %w", kind, ErrNote)
	}
	return n, n.Check()
}
