package snapshot

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/pack"
)

const (
	// MaxStretch is the most bytes of an encoded stretch.
	MaxStretch = 16 << 10
	// MaxPosition is the most bytes of a position.
	MaxPosition = 1 << 10

	// StretchVersion is the version of the stretches that this program writes.
	StretchVersion = 1
	stretchContext = "chancery stretch v1\x00" // what the signature is over starts with this
)

// ErrStretch is wrapped by every refusal to read a stretch or a gathering.
var ErrStretch = errors.New("not a canonical stretch")

// Stretch is the signed, public record of one contiguous piece of a register's stream, which is in one pack.
//
// The stream is written without waiting, so when its writer dies, the newest stretches may not be with enough
// embassies. The next one then says with Replaces where the stream goes on: see docs/spec/stretches.md.
type Stretch struct {
	Version  uint64 // 1
	State    [16]byte
	Register [16]byte
	Sequence uint64   // 1, 2, 3, ... in a register
	Previous [32]byte // Hash of the stretch before; zero for the first

	Position []byte // the position in the stream, sealed under the index key (pack.SealNote)
	Pack     PackRef
	Members  [][16]byte // the embassies, in share order
	K        uint8      // any K of them bring the stretch back

	Replaces uint64 // if not 0: this and all stretches behind it up to this one hold nothing
	Kept     uint64 // the newest stretch that K embassies were known to hold, when this one was signed; 0 for none

	Agent          [32]byte // Ed25519 public key of the machine that signed
	CharterVersion uint64
	CharterHash    [32]byte
	Time           int64 // claimed by the agent, nanoseconds since 1970; proves nothing

	Signature [64]byte
}

// Check tells whether the stretch's fields fit together, but for the signature.
func (s *Stretch) Check() error {
	what := ""
	switch {
	case s.Version != StretchVersion:
		what = fmt.Sprintf("version %d is unknown", s.Version)
	case s.Sequence == 0:
		what = "sequence numbers start at 1"
	case (s.Sequence == 1) != (s.Previous == [32]byte{}):
		what = "the first stretch and only that has none before it"
	case s.Replaces >= s.Sequence:
		what = "replaces what is not before it"
	case s.Kept >= s.Sequence || s.Replaces > 0 && s.Kept >= s.Replaces:
		what = "says that more is kept than can be"
	default:
		what = packOf(&s.Pack, s.Members, s.K)
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("stretch %d: %s: %w", s.Sequence, what, ErrStretch)
}

// packOf tells what is wrong with a record's one data pack and the embassies that hold it.
func packOf(r *PackRef, members [][16]byte, k uint8) string {
	switch {
	case len(members) == 0 || len(members) > MaxMembers:
		return fmt.Sprintf("%d embassies", len(members))
	case !distinct(members):
		return "one embassy is named twice"
	case r.Check() != nil:
		return r.Check().Error()
	case r.Kind != pack.Data:
		return "its pack is of another kind"
	case int(r.N) != len(members) || r.K != k:
		return "its pack is not spread over its embassies"
	}
	return ""
}

// wireStretch is what is signed, in CBOR. The numbers of the keys are part of the format.
type wireStretch struct {
	Version        uint64   `cbor:"1,keyasint"`
	State          []byte   `cbor:"2,keyasint"`
	Register       []byte   `cbor:"3,keyasint"`
	Sequence       uint64   `cbor:"4,keyasint"`
	Previous       []byte   `cbor:"5,keyasint"`
	Position       []byte   `cbor:"6,keyasint"`
	Pack           wireRef  `cbor:"7,keyasint"`
	Members        [][]byte `cbor:"8,keyasint"`
	K              uint8    `cbor:"9,keyasint"`
	Replaces       uint64   `cbor:"10,keyasint"`
	Kept           uint64   `cbor:"11,keyasint"`
	Agent          []byte   `cbor:"12,keyasint"`
	CharterVersion uint64   `cbor:"13,keyasint"`
	CharterHash    []byte   `cbor:"14,keyasint"`
	Time           int64    `cbor:"15,keyasint"`
}

// unsigned returns the bytes that the signature covers, without the context.
func (s *Stretch) unsigned() []byte {
	b, err := form.Encode(&wireStretch{
		Version: s.Version, State: s.State[:], Register: s.Register[:], Sequence: s.Sequence, Previous: s.Previous[:],
		Position: s.Position, Pack: toWireRef(&s.Pack), Members: toWireIDs(s.Members), K: s.K, Replaces: s.Replaces,
		Kept: s.Kept, Agent: s.Agent[:], CharterVersion: s.CharterVersion, CharterHash: s.CharterHash[:], Time: s.Time,
	})
	if err != nil {
		return nil // cannot happen: every field has an encoding
	}
	return b
}

// Bytes returns the stretch's one encoding: deterministic CBOR, and the signature's 64 bytes behind it. The stretch
// must satisfy Check; ParseStretch refuses what does not. Specification: docs/spec/stretches.md.
func (s *Stretch) Bytes() []byte { return append(s.unsigned(), s.Signature[:]...) }

// Hash returns SHA-256 of Bytes. It is also the name under which ledgers know the record.
func (s *Stretch) Hash() [32]byte { return sha256.Sum256(s.Bytes()) }

// Sign sets Agent to the key's public half and signs the stretch, whose other fields are final.
func (s *Stretch) Sign(priv ed25519.PrivateKey) {
	copy(s.Agent[:], priv[ed25519.SeedSize:])
	copy(s.Signature[:], ed25519.Sign(priv, append([]byte(stretchContext), s.unsigned()...)))
}

// Verify checks the signature by the agent that the stretch names. Whether the charter names that agent is for the
// caller to ask. Errors: ErrSignature.
func (s *Stretch) Verify() error {
	if !ed25519.Verify(s.Agent[:], append([]byte(stretchContext), s.unsigned()...), s.Signature[:]) {
		return fmt.Errorf("stretch %d: %w", s.Sequence, ErrSignature)
	}
	return nil
}

// ParseStretch reads what Bytes wrote. It keeps no reference to b and does not check the signature: call Verify.
// Errors wrap ErrStretch.
func ParseStretch(b []byte) (*Stretch, error) {
	var w wireStretch
	sig, err := decodeSigned(b, MaxStretch, &w)
	if err != nil {
		return nil, fmt.Errorf("stretch: %w: %w", err, ErrStretch)
	}
	s := &Stretch{
		Version: w.Version, Sequence: w.Sequence, Position: w.Position, K: w.K, Replaces: w.Replaces, Kept: w.Kept,
		CharterVersion: w.CharterVersion, Time: w.Time, Signature: sig,
	}
	fits := fill(s.State[:], w.State) && fill(s.Register[:], w.Register) && fill(s.Previous[:], w.Previous) &&
		fill(s.Agent[:], w.Agent) && fill(s.CharterHash[:], w.CharterHash) && fillIDs(&s.Members, w.Members)
	if !fits {
		return nil, fmt.Errorf("stretch: a field of wrong length: %w", ErrStretch)
	}
	if s.Pack, err = w.Pack.ref(); err != nil {
		return nil, fmt.Errorf("stretch: %w: %w", err, ErrStretch)
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return s, nil
}

// decodeSigned reads a map with a signature behind it.
func decodeSigned(b []byte, limit int, w any) (sig [64]byte, err error) {
	if len(b) > limit || len(b) < len(sig) {
		return sig, fmt.Errorf("%d bytes", len(b))
	}
	at := len(b) - len(sig)
	return [64]byte(b[at:]), form.Decode(b[:at], limit, w)
}

func fillIDs(dst *[][16]byte, src [][]byte) bool {
	fits := true
	for _, id := range src {
		*dst = append(*dst, [16]byte{})
		fits = fill((*dst)[len(*dst)-1][:], id) && fits
	}
	return fits
}

// CheckStretchChain tells whether next is the stretch right after prev, which is nil where next should be the first
// of its register. Signatures are not looked at. Errors: ErrForked when the two are different stretches of one
// sequence number, otherwise ErrBroken.
func CheckStretchChain(prev, next *Stretch) error {
	if prev == nil {
		if next.Sequence != 1 {
			return fmt.Errorf("stretch %d: is not the first of its register: %w", next.Sequence, ErrBroken)
		}
		return nil
	}
	switch {
	case next.State != prev.State || next.Register != prev.Register:
		return fmt.Errorf("stretch %d: of another register: %w", next.Sequence, ErrBroken)
	case next.Sequence == prev.Sequence && next.Hash() != prev.Hash():
		return fmt.Errorf("stretch %d: %w", next.Sequence, ErrForked)
	case next.Sequence != prev.Sequence+1:
		return fmt.Errorf("stretch %d: comes after stretch %d: %w", next.Sequence, prev.Sequence, ErrBroken)
	case next.Previous != prev.Hash():
		return fmt.Errorf("stretch %d: names another stretch %d before it: %w", next.Sequence, prev.Sequence, ErrBroken)
	}
	return nil
}

// Live returns which of the stretches that end at the last one hold something: replaces[i] is the field Replaces of
// stretch first+i. Going back from the last, a stretch that replaces others leads to the one before those.
func Live(first uint64, replaces []uint64) []bool {
	live := make([]bool, len(replaces))
	for i := len(replaces) - 1; i >= 0; {
		live[i] = true
		if replaces[i] == 0 {
			i--
			continue
		}
		if replaces[i] <= first {
			break
		}
		i = int(replaces[i]-first) - 1
	}
	return live
}
