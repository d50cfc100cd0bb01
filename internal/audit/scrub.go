package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Caps of a scrub record. MaxFound is of the damaged names, and of the mended
// ones; an embassy that finds more writes more records.
const (
	MaxFound = 1000
	maxScrub = 1 << 20
)

// scrubVersion is the version of the scrub record's layout.
const scrubVersion = 1

// scrubLabel begins what is signed, so that the signature is of nothing else.
const scrubLabel = "chancery scrub record v1\n"

// DamageKind is what was wrong with an object on the embassy's disk.
type DamageKind uint8

// The kinds of damage. Numbers are never reused.
const (
	Lost    DamageKind = 1 // there is no file
	Length  DamageKind = 2 // the file has another length
	Altered DamageKind = 3 // the bytes do not make the name, or the disk gives them up
)

// String is the word of Damage.What, or "unknown".
func (k DamageKind) String() string {
	switch k {
	case Lost:
		return "lost"
	case Length:
		return "length"
	case Altered:
		return "altered"
	}
	return "unknown"
}

// Found is one object that a scrub found damaged.
type Found struct {
	_    struct{} `cbor:",toarray"`
	Name shard.Name
	What DamageKind
}

// ScrubRecord is an embassy's own word on what it read of its disk: of every
// object with a name from From to To (both included) that had a leaf in its
// ledger when it came by, it read all bytes between Began and Ended. It is a
// record of kind Scrub:
//
//	CBOR array(16) [ version 1, state bytes(16), embassy bytes(16), sequence,
//	                 from bytes(32), to bytes(32), began, ended, checked, read,
//	                 total, array of array(2) [name bytes(32), what], array of
//	                 name bytes(32), salt bytes(32), key bytes(32), signature bytes(64) ]
//
// in the core deterministic encoding. docs/spec/embassy-api.md says the rest.
type ScrubRecord struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	State     [16]byte
	Embassy   [16]byte // first 16 bytes of SHA-256 of Key
	Sequence  uint64   // of the record's slot, from 1
	From, To  shard.Name
	Began     int64  // the embassy's clock, ns since 1970 UTC
	Ended     int64  // not before Began
	Checked   uint64 // objects read
	Read      uint64 // bytes of them
	Total     uint64 // objects that the embassy holds by its ledger, when it ended
	Damaged   []Found
	Mended    []shard.Name // damaged in an earlier record, and whole again
	Salt      [32]byte     // random: the record's hash in the ledger tells nothing
	Key       [32]byte     // the embassy's Ed25519 public key
	Signature [64]byte     // over scrubLabel ‖ the encoding with a zero signature
}

// scrubForm is that of a scrub record.
var scrubForm = canon.Form{Depth: 4, Elements: MaxFound, Pairs: 16}

// Bytes is the canonical encoding. It fails where ParseScrubRecord would refuse
// the result.
func (r *ScrubRecord) Bytes() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := scrubForm.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("audit: scrub record: %w", err)
	}
	return data, nil
}

// ParseScrubRecord reads the canonical form and nothing else, of at most 1 MiB.
// It fails with ledger.ErrFormat or ledger.ErrUnknown. Nothing is proven before
// Verify.
func ParseScrubRecord(data []byte) (*ScrubRecord, error) {
	var r ScrubRecord
	if err := scrubForm.Decode(data, maxScrub, &r); err != nil {
		return nil, fmt.Errorf("audit: scrub record: %w: %w", ledger.ErrFormat, err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return &r, nil
}

func (r *ScrubRecord) check() error {
	if r.Version != scrubVersion {
		return fmt.Errorf("audit: scrub record: version %d: %w", r.Version, ledger.ErrUnknown)
	}
	rising := func(a, b shard.Name) bool { return bytes.Compare(a[:], b[:]) < 0 }
	within := func(n shard.Name) bool { return !rising(n, r.From) && !rising(r.To, n) }
	ok := r.Sequence > 0 && !rising(r.To, r.From) && r.Began >= 0 && r.Ended >= r.Began &&
		r.Embassy == idOf(r.Key) && len(r.Damaged) <= MaxFound && len(r.Mended) <= MaxFound &&
		uint64(len(r.Damaged)) <= r.Checked
	for i, d := range r.Damaged {
		ok = ok && d.What >= Lost && d.What <= Altered && within(d.Name) && (i == 0 || rising(r.Damaged[i-1].Name, d.Name))
	}
	for i, n := range r.Mended {
		ok = ok && within(n) && (i == 0 || rising(r.Mended[i-1], n)) &&
			!slices.ContainsFunc(r.Damaged, func(d Found) bool { return d.Name == n })
	}
	if !ok {
		return fmt.Errorf("audit: scrub record: impossible fields: %w", ledger.ErrFormat)
	}
	return nil
}

// signedBytes is what the embassy signs.
func (r *ScrubRecord) signedBytes() ([]byte, error) {
	c := *r
	c.Signature = [64]byte{}
	data, err := c.Bytes()
	if err != nil {
		return nil, err
	}
	return append([]byte(scrubLabel), data...), nil
}

// Sign fills in Version, Key, Embassy and Signature.
func (r *ScrubRecord) Sign(key ed25519.PrivateKey) error {
	r.Version, r.Key = scrubVersion, [32]byte(key[32:])
	r.Embassy = idOf(r.Key)
	msg, err := r.signedBytes()
	if err != nil {
		return err
	}
	r.Signature = [64]byte(ed25519.Sign(key, msg))
	return nil
}

// Verify fails with ledger.ErrSignature unless this embassy signed the record.
func (r *ScrubRecord) Verify(embassy ed25519.PublicKey) error {
	msg, err := r.signedBytes()
	if err != nil {
		return err
	}
	if !embassy.Equal(ed25519.PublicKey(r.Key[:])) || !ed25519.Verify(embassy, msg, r.Signature[:]) {
		return fmt.Errorf("audit: scrub record: %w", ledger.ErrSignature)
	}
	return nil
}

// idOf is the id of the embassy with this key.
func idOf(key [32]byte) [16]byte {
	sum := sha256.Sum256(key[:])
	return [16]byte(sum[:16])
}
