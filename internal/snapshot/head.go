package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/pack"
)

// MaxHead is the most bytes of an encoded head: what an embassy takes as a record.
const MaxHead = 1 << 20

// HeadVersion is the version of the heads that this program writes.
const HeadVersion = 2

const (
	maxArray    = 4096                   // elements of any array of a head or a payload
	headVersion = 1                      // the first, which says nothing of references
	headContext = "chancery head v1\x00" // what the signature is over starts with this
)

// form is that of heads and payloads.
var form = canon.Form{Depth: 4, Elements: maxArray, Pairs: 32}

var (
	// ErrHead is wrapped by every refusal to read a head.
	ErrHead = errors.New("not a canonical head")
	// ErrSignature means that a head is not signed by the agent that it names.
	ErrSignature = errors.New("head: the signature does not verify")
	// ErrForked means that one agent's register has two histories: two different heads have one
	// sequence number. Both heads together are the proof.
	ErrForked = errors.New("head: two different heads have one sequence number")
	// ErrBroken means that a head does not follow another: something between them is missing, or
	// they are of different registers.
	ErrBroken = errors.New("head: does not follow the one before")
)

// Head is the signed, public record of one snapshot. Embassies keep it as a record; it tells them
// counts, sizes and names of objects that they see anyway, and everything else is sealed in Manifest.
type Head struct {
	Version  uint64 // 1 or 2
	State    [16]byte
	Register [16]byte
	Sequence uint64   // 1, 2, 3, ... in a register
	Previous [32]byte // Hash of the head before; zero for the first

	Manifest []byte    // the sealed Payload
	Index    []PackRef // the index packs that this snapshot added
	// References is the pack that says which packs of earlier heads the snapshot needs besides its own: none or one.
	// None in version 2: those that the head before needs. None in version 1: nobody knows.
	References []PackRef
	Packs      uint64 // packs that this snapshot added
	Objects    uint64 // objects (shares) that it added
	Stored     uint64 // bytes of those objects
	Source     []byte // position of the source, for sources that have one; otherwise empty

	Members [][16]byte // the embassies, in share order
	K       uint8      // any K of them bring the snapshot back
	Missing [][16]byte // members that did not have all their shares at commit, in the order of Members

	Agent          [32]byte // Ed25519 public key of the machine that signed
	CharterVersion uint64
	CharterHash    [32]byte
	Time           int64 // claimed by the agent, nanoseconds since 1970; proves nothing

	Signature [64]byte
}

// Check tells whether the head's fields fit together, but for the signature.
func (h *Head) Check() error {
	what := ""
	switch {
	case h.Version != headVersion && h.Version != HeadVersion:
		what = fmt.Sprintf("version %d is unknown", h.Version)
	case h.Sequence == 0:
		what = "sequence numbers start at 1"
	case (h.Sequence == 1) != (h.Previous == [32]byte{}):
		what = "the first head and only that has none before it"
	case len(h.Members) == 0 || len(h.Members) > MaxMembers:
		what = fmt.Sprintf("%d embassies", len(h.Members))
	case h.K == 0 || int(h.K) > len(h.Members):
		what = "impossible k of n"
	case !distinct(h.Members):
		what = "one embassy is named twice"
	case !subsequence(h.Missing, h.Members):
		what = "missing embassies must be members, once, in their order"
	case len(h.Members)-len(h.Missing) < int(h.K):
		what = "too few embassies had their shares"
	case len(h.Index) > maxArray:
		what = "too many index packs"
	case len(h.References) > 1 || h.Version == headVersion && len(h.References) > 0:
		what = "references that this version does not have"
	case h.Version > headVersion && h.Packs < uint64(len(h.Index)+len(h.References)):
		what = "fewer packs than it names"
	default:
		return h.checkIndex()
	}
	return fmt.Errorf("head %d: %s: %w", h.Sequence, what, ErrHead)
}

func (h *Head) checkIndex() error {
	for _, r := range slices.Concat(h.Index, h.References) {
		if err := r.Check(); err != nil {
			return fmt.Errorf("head %d: %w: %w", h.Sequence, err, ErrHead)
		}
		if r.Kind != pack.Index && h.Version > headVersion {
			return fmt.Errorf("head %d: pack %s: is of another kind: %w", h.Sequence, r.ID, ErrHead)
		}
		if int(r.N) != len(h.Members) {
			return fmt.Errorf("head %d: pack %s: has not one share for each embassy: %w", h.Sequence, r.ID, ErrHead)
		}
	}
	return nil
}

func distinct(ids [][16]byte) bool {
	for i := range ids {
		if slices.Contains(ids[:i], ids[i]) {
			return false
		}
	}
	return true
}

func subsequence(part, whole [][16]byte) bool {
	for _, id := range part {
		at := slices.Index(whole, id)
		if at < 0 {
			return false
		}
		whole = whole[at+1:]
	}
	return true
}

// wireHead is what is signed of version 1, in CBOR. The numbers of the keys are part of the format.
type wireHead struct {
	Version        uint64    `cbor:"1,keyasint"`
	State          []byte    `cbor:"2,keyasint"`
	Register       []byte    `cbor:"3,keyasint"`
	Sequence       uint64    `cbor:"4,keyasint"`
	Previous       []byte    `cbor:"5,keyasint"`
	Manifest       []byte    `cbor:"6,keyasint"`
	Index          []wireRef `cbor:"7,keyasint"`
	Packs          uint64    `cbor:"8,keyasint"`
	Objects        uint64    `cbor:"9,keyasint"`
	Stored         uint64    `cbor:"10,keyasint"`
	Source         []byte    `cbor:"11,keyasint"`
	Members        [][]byte  `cbor:"12,keyasint"`
	K              uint8     `cbor:"13,keyasint"`
	Missing        [][]byte  `cbor:"14,keyasint"`
	Agent          []byte    `cbor:"15,keyasint"`
	CharterVersion uint64    `cbor:"16,keyasint"`
	CharterHash    []byte    `cbor:"17,keyasint"`
	Time           int64     `cbor:"18,keyasint"`
}

// wireHead2 is what is signed from version 2 on.
type wireHead2 struct {
	wireHead
	References []wireRef `cbor:"19,keyasint"`
}

// unsigned returns the bytes that the signature covers, without the context.
func (h *Head) unsigned() []byte {
	w := wireHead{
		Version: h.Version, State: h.State[:], Register: h.Register[:], Sequence: h.Sequence,
		Previous: h.Previous[:], Manifest: h.Manifest, Packs: h.Packs, Objects: h.Objects,
		Stored: h.Stored, Source: h.Source, Members: toWireIDs(h.Members), K: h.K,
		Missing: toWireIDs(h.Missing), Agent: h.Agent[:], CharterVersion: h.CharterVersion,
		CharterHash: h.CharterHash[:], Time: h.Time,
	}
	w.Index = toWireRefs(h.Index)
	var v any = &w
	if h.Version > headVersion {
		v = &wireHead2{wireHead: w, References: toWireRefs(h.References)}
	}
	b, err := form.Encode(v)
	if err != nil {
		return nil // cannot happen: every field of wireHead has an encoding
	}
	return b
}

func toWireRefs(refs []PackRef) []wireRef {
	out := make([]wireRef, len(refs))
	for i := range refs {
		out[i] = toWireRef(&refs[i])
	}
	return out
}

func fromWireRefs(list []wireRef) ([]PackRef, error) {
	var out []PackRef
	for i := range list {
		r, err := list[i].ref()
		if err != nil {
			return nil, fmt.Errorf("head: %w: %w", err, ErrHead)
		}
		out = append(out, r)
	}
	return out, nil
}

func toWireIDs(ids [][16]byte) [][]byte {
	out := make([][]byte, len(ids))
	for i := range ids {
		out[i] = ids[i][:]
	}
	return out
}

// Bytes returns the head's one encoding: deterministic CBOR, and the signature's 64 bytes behind it.
// The head must satisfy Check, and its encoding must not be larger than MaxHead; ParseHead refuses
// what does not. Specification: docs/spec/heads.md.
func (h *Head) Bytes() []byte { return append(h.unsigned(), h.Signature[:]...) }

// Hash returns SHA-256 of Bytes. It is also the name under which ledgers know the record.
func (h *Head) Hash() [32]byte { return sha256.Sum256(h.Bytes()) }

// Sign sets Agent to the key's public half and signs the head, whose other fields are final.
func (h *Head) Sign(priv ed25519.PrivateKey) {
	copy(h.Agent[:], priv[ed25519.SeedSize:])
	copy(h.Signature[:], ed25519.Sign(priv, append([]byte(headContext), h.unsigned()...)))
}

// Verify checks the signature by the agent that the head names. Whether the charter names that agent is
// for the caller to ask. Errors: ErrSignature.
func (h *Head) Verify() error {
	if !ed25519.Verify(h.Agent[:], append([]byte(headContext), h.unsigned()...), h.Signature[:]) {
		return fmt.Errorf("head %d: %w", h.Sequence, ErrSignature)
	}
	return nil
}

// ParseHead reads what Bytes wrote. It keeps no reference to b and does not check the signature: call
// Verify. Errors wrap ErrHead.
func ParseHead(b []byte) (*Head, error) {
	if len(b) > MaxHead || len(b) < ed25519.SignatureSize {
		return nil, fmt.Errorf("head of %d bytes: %w", len(b), ErrHead)
	}
	at := len(b) - ed25519.SignatureSize
	w, err := decodeHead(b[:at])
	if err != nil {
		return nil, fmt.Errorf("head: %w: %w", err, ErrHead)
	}
	h := &Head{
		Version: w.Version, Sequence: w.Sequence, Manifest: w.Manifest, Packs: w.Packs,
		Objects: w.Objects, Stored: w.Stored, Source: w.Source, K: w.K,
		CharterVersion: w.CharterVersion, Time: w.Time, Signature: [64]byte(b[at:]),
	}
	fits := fill(h.State[:], w.State) && fill(h.Register[:], w.Register) && fill(h.Previous[:], w.Previous) &&
		fill(h.Agent[:], w.Agent) && fill(h.CharterHash[:], w.CharterHash)
	for _, id := range w.Members {
		h.Members = append(h.Members, [16]byte{})
		fits = fill(h.Members[len(h.Members)-1][:], id) && fits
	}
	for _, id := range w.Missing {
		h.Missing = append(h.Missing, [16]byte{})
		fits = fill(h.Missing[len(h.Missing)-1][:], id) && fits
	}
	if !fits {
		return nil, fmt.Errorf("head: a field of wrong length: %w", ErrHead)
	}
	if h.Index, err = fromWireRefs(w.Index); err != nil {
		return nil, err
	}
	if h.References, err = fromWireRefs(w.References); err != nil {
		return nil, err
	}
	if err := h.Check(); err != nil {
		return nil, err
	}
	return h, nil
}

// decodeHead reads the map, whose number of pairs tells the layout.
func decodeHead(b []byte) (w wireHead2, err error) {
	const pairs1 = 0xa0 | 18 // a CBOR map of 18 pairs
	first := len(b) > 0 && b[0] == pairs1
	if first {
		err = form.Decode(b, MaxHead, &w.wireHead)
	} else {
		err = form.Decode(b, MaxHead, &w)
	}
	if err == nil && (w.Version == headVersion) != first {
		err = fmt.Errorf("the fields of another version than %d", w.Version)
	}
	return w, err
}

func fill(dst, src []byte) bool { return copy(dst, src) == len(dst) && len(src) == len(dst) }

// CheckChain tells whether next is the head right after prev, which is nil where next should be the
// first of its register. Signatures are not looked at. Errors: ErrForked when the two are different
// heads of one sequence number, otherwise ErrBroken.
func CheckChain(prev, next *Head) error {
	if prev == nil {
		if next.Sequence != 1 || next.Previous != [32]byte{} {
			return fmt.Errorf("head %d: is not the first of its register: %w", next.Sequence, ErrBroken)
		}
		return nil
	}
	switch {
	case next.State != prev.State || next.Register != prev.Register:
		return fmt.Errorf("head %d: of another register: %w", next.Sequence, ErrBroken)
	case next.Sequence == prev.Sequence && next.Hash() != prev.Hash():
		return fmt.Errorf("head %d: %w", next.Sequence, ErrForked)
	case next.Sequence != prev.Sequence+1:
		return fmt.Errorf("head %d: comes after head %d: %w", next.Sequence, prev.Sequence, ErrBroken)
	case next.Previous != prev.Hash():
		return fmt.Errorf("head %d: names another head %d before it: %w", next.Sequence, prev.Sequence, ErrBroken)
	}
	return nil
}
