// Package audit is the proof of possession: how an auditor, who has no key and
// downloads next to nothing, learns whether an embassy still has what its ledger
// says it stored; and how the embassy's answer, if it is a bad one, convicts it.
//
// An auditor sends a [Challenge], which nobody could have known before the
// objects were stored. The embassy answers with [Respond], the auditor checks
// with [Verify] while it reads, [Judge] says what came of it, and a [Report]
// keeps it. [Coverage] remembers what was audited when. docs/spec/audit.md
// draws the bytes.
//
// The package reads no clock, file, network or randomness: they are arguments.
//
// Old data: reports and coverage of version 1 are read for ever. A challenge and
// an answer live only as long as the question; another version of them is refused.
package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/ledger"
)

const version = 1

// MaxEntries caps what one challenge asks for: the objects of a sample, the
// entries of a range.
const MaxEntries = 4096

// MaxChallenge caps the bytes of a challenge: a checkpoint with its cosignatures
// and a little more.
const MaxChallenge = 66 << 10

const maxNote = 64 << 10

// The ways to choose what is audited.
const (
	Sample uint8 = 1 // Count objects, drawn from the whole ledger
	Range  uint8 = 2 // each entry of [From,To)
)

// Errors that a caller tells apart. [Judge] maps them to outcomes.
var (
	// ErrFormat: bytes that are not the canonical form of what they should be.
	ErrFormat = errors.New("not in canonical form")
	// ErrUnknown: a version that this program does not know.
	ErrUnknown = errors.New("unknown version")
	// ErrChallenge: a challenge that asks for what cannot be, or of another embassy.
	ErrChallenge = errors.New("not a challenge to this embassy")
	// ErrAnswer: an answer that came and is none: what an honest embassy never sends.
	ErrAnswer = errors.New("the answer is not one to this challenge")
	// ErrUnsigned: an answer whose signature is not the embassy's.
	ErrUnsigned = errors.New("the answer is not signed by the embassy")
	// ErrCut: the answer ended before it was whole.
	ErrCut = errors.New("the answer broke off")
	// ErrOffline: there is no answer, because the embassy cannot be reached. For
	// callers of Judge to wrap; nothing here returns it.
	ErrOffline = errors.New("the embassy does not answer")
	// ErrNotCosigned: no checkpoint that enough witnesses stand behind.
	ErrNotCosigned = errors.New("the checkpoint is not cosigned by enough witnesses")
	// ErrStale: the witnesses' newest word is older than it may be.
	ErrStale = errors.New("the cosigned checkpoint is too old")
	// ErrSignature: a report that its auditor did not sign.
	ErrSignature = errors.New("the report is not signed by its auditor")
)

// Challenge is what an auditor asks:
//
//	CBOR array(9) [ version 1, state bytes(16), embassy bytes(16), checkpoint bytes,
//	                nonce bytes(32), mode, count, from, to ]
//
// in the core deterministic encoding of RFC 8949. Checkpoint is a checkpoint of
// the embassy, with the cosignatures that the auditor relied on; it was made
// after the objects were stored. Nonce is the auditor's own randomness, so that
// neither the embassy nor the witnesses choose what is asked.
type Challenge struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	State      [16]byte
	Embassy    [16]byte // first 16 bytes of SHA-256 of its key
	Checkpoint []byte
	Nonce      [32]byte
	Mode       uint8
	Count      uint32 // Sample: how many objects, 1 to MaxEntries; else 0
	From, To   uint64 // Range: which entries, 1 to MaxEntries of them; else 0
}

// NewSample asks for count objects out of all.
func NewSample(state, embassy [16]byte, checkpoint []byte, nonce [32]byte, count uint32) *Challenge {
	return &Challenge{Version: version, State: state, Embassy: embassy, Checkpoint: checkpoint, Nonce: nonce, Mode: Sample, Count: count}
}

// NewRange asks for every object among the entries [from,to).
func NewRange(state, embassy [16]byte, checkpoint []byte, nonce [32]byte, from, to uint64) *Challenge {
	return &Challenge{Version: version, State: state, Embassy: embassy, Checkpoint: checkpoint, Nonce: nonce, Mode: Range, From: from, To: to}
}

// Bytes is the canonical encoding.
func (c *Challenge) Bytes() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return encode(c)
}

// ParseChallenge reads the canonical encoding: ErrFormat, ErrUnknown or
// ErrChallenge. Who asks, and of whom, is for the caller and Opened to check.
func ParseChallenge(data []byte) (*Challenge, error) {
	var c Challenge
	if err := decode(data, MaxChallenge, &c); err != nil {
		return nil, fmt.Errorf("audit: challenge: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *Challenge) check() error {
	if c.Version != version {
		return fmt.Errorf("audit: challenge: version %d: %w", c.Version, ErrUnknown)
	}
	ok := len(c.Checkpoint) > 0 && len(c.Checkpoint) <= maxNote
	switch c.Mode {
	case Sample:
		ok = ok && c.Count > 0 && c.Count <= MaxEntries && c.From == 0 && c.To == 0
	case Range:
		ok = ok && c.Count == 0 && c.From < c.To && c.To-c.From <= MaxEntries
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("audit: challenge: mode %d with impossible fields: %w", c.Mode, ErrChallenge)
	}
	return nil
}

// Opened returns the checkpoint of the challenge once it is shown to be of a
// ledger of this embassy for this state (whether of the one in force, the caller
// sees by its Origin), and to hold what is asked for. It
// fails with ErrChallenge or with what ledger.ParseCheckpoint fails with. It does
// not look at cosignatures; Trusted does, at the auditor.
func (c *Challenge) Opened(embassy ed25519.PublicKey) (ledger.Checkpoint, error) {
	if err := c.check(); err != nil {
		return ledger.Checkpoint{}, err
	}
	if id := sha256.Sum256(embassy); [16]byte(id[:16]) != c.Embassy {
		return ledger.Checkpoint{}, fmt.Errorf("audit: challenge: for another embassy: %w", ErrChallenge)
	}
	v, err := ledger.VerifierOf(c.Checkpoint, c.State, embassy)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	cp, err := ledger.ParseCheckpoint(c.Checkpoint, v)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	if cp.Size == 0 || c.To > cp.Size {
		return ledger.Checkpoint{}, fmt.Errorf("audit: challenge: the ledger had %d entries: %w", cp.Size, ErrChallenge)
	}
	return cp, nil
}

// Hash is SHA-256 of the canonical encoding.
func (c *Challenge) Hash() ([32]byte, error) {
	b, err := c.Bytes()
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// Seed is what all draws come from: SHA-256(label ‖ Hash).
func (c *Challenge) Seed() ([32]byte, error) {
	hash, err := c.Hash()
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(append([]byte(seedLabel), hash[:]...)), nil
}

// Labels keep what is hashed or signed here from meaning anything elsewhere.
const (
	seedLabel   = "chancery audit seed v1\x00"
	answerLabel = "chancery audit answer v1\x00"
	reportLabel = "chancery audit report v1\x00"
)
