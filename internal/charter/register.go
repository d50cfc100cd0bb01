package charter

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"chancery.dev/chancery/internal/canon"
)

const (
	// RegisterVersion is the version of the register record that this program writes.
	RegisterVersion = 1
	// MaxRegisterSize is the most bytes a register record may have.
	MaxRegisterSize = 256 << 10
	// SecretsStep is the step in bytes to which register secrets are padded.
	SecretsStep = 1 << 10
	// KindFiles is the kind of a register that is a file tree.
	KindFiles = "files"
	// KindPostgres is the kind of a register that is a PostgreSQL cluster; Path is how it is reached.
	KindPostgres = "postgres"

	maxSecretsSize = 16 << 10
	maxSealed      = 64 << 10
	maxGrants      = 64
	registerLabel  = "chancery register record v1\x00"
)

var (
	// ErrRegister is returned for a register record or register secrets that
	// are malformed, not canonical or against a rule.
	ErrRegister = errors.New("invalid register record")
	// ErrRegisterSignature is returned where a register record's signature does not verify.
	ErrRegisterSignature = errors.New("register record's signature does not verify")
)

// Register is the record of one register that embassies hold and from which a
// recovery learns that the register exists, where its shares are and, once the
// opening key is there, everything else. It says nothing in the clear about
// what the register is.
//
//	record = CBOR array [ body: bytes, signature: bytes(64) ]
//	body   = CBOR map with the integer keys 1 … 12, core deterministic encoding
//	signature over "chancery register record v1" 00 body, Ed25519, by Agent
type Register struct {
	Version  int // 1
	ID       RegisterID
	State    StateID
	Sequence uint64 // from 1, one higher with every change
	// PublicKey is the register's X-Wing public key, OpeningKeySize bytes.
	PublicKey []byte
	// Epoch is the number of that key, only ever rising.
	Epoch uint32
	// Members are the embassies in share order, and K is how many of them are
	// needed to read.
	Members []EmbassyID
	K       uint8
	// Sealed holds the [RegisterSecrets], sealed to the opening key.
	Sealed []byte
	// Grants holds them for readers.
	Grants []Grant
	// Agent is the Ed25519 public key that signed.
	Agent [32]byte
	// Time is when the agent says it signed, in nanoseconds since 1970 UTC.
	Time int64
	// Signature is set by [Register.Sign].
	Signature [64]byte
}

// Grant is one reader's copy of a register's secrets.
type Grant struct {
	Recipient [32]byte `cbor:"1,keyasint"` // see [RecipientHash]
	Sealed    []byte   `cbor:"2,keyasint"` // age file
}

// RecipientHash names an age recipient (age1pq1…) in a [Grant]: the SHA-256 of its text.
func RecipientHash(recipient string) [32]byte { return sha256.Sum256([]byte(recipient)) }

type registerBody struct {
	Version   int         `cbor:"1,keyasint"`
	ID        RegisterID  `cbor:"2,keyasint"`
	State     StateID     `cbor:"3,keyasint"`
	Sequence  uint64      `cbor:"4,keyasint"`
	PublicKey []byte      `cbor:"5,keyasint"`
	Epoch     uint32      `cbor:"6,keyasint"`
	Members   []EmbassyID `cbor:"7,keyasint"`
	K         uint8       `cbor:"8,keyasint"`
	Sealed    []byte      `cbor:"9,keyasint"`
	Grants    []Grant     `cbor:"10,keyasint"`
	Agent     [32]byte    `cbor:"11,keyasint"`
	Time      int64       `cbor:"12,keyasint"`
}

type registerRecord struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte
	Signature [64]byte
}

func badRegister(format string, args ...any) error {
	return fmt.Errorf("register: %w: %s", ErrRegister, fmt.Sprintf(format, args...))
}

// Validate checks every rule of the record but the signature.
func (r *Register) Validate() error {
	switch {
	case r.Version != RegisterVersion:
		return badRegister("version %d: this program knows version %d", r.Version, RegisterVersion)
	case r.ID == RegisterID{}:
		return badRegister("id is zero")
	case r.State == StateID{}:
		return badRegister("state is zero")
	case r.Sequence < 1:
		return badRegister("sequence counts from 1")
	case r.Epoch < 1:
		return badRegister("epoch counts from 1")
	case len(r.PublicKey) != OpeningKeySize:
		return badRegister("public key of %d bytes, want %d", len(r.PublicKey), OpeningKeySize)
	case len(r.Members) < 1 || len(r.Members) > MaxEmbassies:
		return badRegister("%d members, want 1 to %d", len(r.Members), MaxEmbassies)
	case r.K < 1 || int(r.K) > len(r.Members):
		return badRegister("%d of %d members is not possible", r.K, len(r.Members))
	case len(r.Sealed) < 1 || len(r.Sealed) > maxSealed:
		return badRegister("sealed secrets of %d bytes, want 1 to %d", len(r.Sealed), maxSealed)
	case len(r.Grants) > maxGrants:
		return badRegister("%d grants, at most %d", len(r.Grants), maxGrants)
	case r.Time < 0:
		return badRegister("time before 1970")
	}
	members := map[EmbassyID]bool{}
	for _, m := range r.Members {
		if members[m] {
			return badRegister("member %s twice", m)
		}
		members[m] = true
	}
	readers := map[[32]byte]bool{}
	for i, g := range r.Grants {
		if readers[g.Recipient] {
			return badRegister("grant %d: its reader has one already", i+1)
		}
		if len(g.Sealed) < 1 || len(g.Sealed) > maxSealed {
			return badRegister("grant %d: %d bytes, want 1 to %d", i+1, len(g.Sealed), maxSealed)
		}
		readers[g.Recipient] = true
	}
	return nil
}

func (r *Register) body() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	b := registerBody{
		r.Version, r.ID, r.State, r.Sequence, r.PublicKey, r.Epoch, r.Members, r.K,
		r.Sealed, r.Grants, r.Agent, r.Time,
	}
	if b.Grants == nil {
		b.Grants = []Grant{}
	}
	return encode(b)
}

// Sign sets Agent and Signature.
func (r *Register) Sign(key ed25519.PrivateKey) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("register: sign: %w", ErrKey)
	}
	r.Agent = [32]byte(key.Public().(ed25519.PublicKey))
	body, err := r.body()
	if err != nil {
		return err
	}
	r.Signature = [64]byte(ed25519.Sign(key, append([]byte(registerLabel), body...)))
	return nil
}

// Verify checks the signature against Agent. Whether the charter names that
// agent is for the caller to ask; see [Charter.AgentByKey].
func (r *Register) Verify() error {
	body, err := r.body()
	if err != nil {
		return err
	}
	if !ed25519.Verify(r.Agent[:], append([]byte(registerLabel), body...), r.Signature[:]) {
		return fmt.Errorf("register %s: %w", r.ID, ErrRegisterSignature)
	}
	return nil
}

// Marshal writes the record, at most [MaxRegisterSize] bytes. It does not sign.
func (r *Register) Marshal() ([]byte, error) {
	body, err := r.body()
	if err != nil {
		return nil, err
	}
	b, err := encode(registerRecord{Body: body, Signature: r.Signature})
	if err != nil {
		return nil, err
	}
	if len(b) > MaxRegisterSize {
		return nil, badRegister("%d bytes, at most %d", len(b), MaxRegisterSize)
	}
	return b, nil
}

// ParseRegister reads what [Register.Marshal] writes and nothing else. It does
// not check the signature: call [Register.Verify].
func ParseRegister(b []byte) (*Register, error) {
	if len(b) > MaxRegisterSize {
		return nil, badRegister("%d bytes, at most %d", len(b), MaxRegisterSize)
	}
	var rec registerRecord
	if err := decode(b, &rec); err != nil {
		return nil, err
	}
	var w registerBody
	if err := decode(rec.Body, &w); err != nil {
		return nil, err
	}
	r := &Register{
		w.Version, w.ID, w.State, w.Sequence, w.PublicKey, w.Epoch, w.Members, w.K,
		w.Sealed, w.Grants, w.Agent, w.Time, rec.Signature,
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}

// RegisterSecrets is everything that must not be known abroad about a register.
// At home Seed is absent (zero); sealed to the opening key or to a reader it is there.
// Printed in any way it shows only its name and that it is secret.
type RegisterSecrets struct {
	Name  string // see [ValidName]
	Owner string // for people, at most 128 bytes
	Kind  string // "files"
	Path  string // where home keeps the tree: absolute, any bytes but NUL, at most 4095
	// Seed is the seed of the register's private key; zero where absent.
	Seed     [32]byte
	IDKey    [32]byte
	GearKey  [32]byte
	IndexKey [32]byte
	MaskKey  [32]byte
}

type secretsBody struct {
	Version  int      `cbor:"1,keyasint"`
	Name     string   `cbor:"2,keyasint"`
	Owner    string   `cbor:"3,keyasint"`
	Kind     string   `cbor:"4,keyasint"`
	Path     []byte   `cbor:"5,keyasint"`
	Seed     []byte   `cbor:"6,keyasint,omitempty"`
	IDKey    [32]byte `cbor:"7,keyasint"`
	GearKey  [32]byte `cbor:"8,keyasint"`
	IndexKey [32]byte `cbor:"9,keyasint"`
	MaskKey  [32]byte `cbor:"10,keyasint"`
}

// HasSeed reports whether the seed of the private key is there.
func (s *RegisterSecrets) HasSeed() bool { return s.Seed != [32]byte{} }

// WithoutSeed returns a copy that cannot open anything, for agents to keep.
func (s *RegisterSecrets) WithoutSeed() *RegisterSecrets {
	c := *s
	c.Seed = [32]byte{}
	return &c
}

// Validate checks the rules of every field.
func (s *RegisterSecrets) Validate() error {
	zero := [32]byte{}
	switch {
	case !ValidName(s.Name):
		return badRegister("secrets: name %q", s.Name)
	case !canon.ValidText(s.Owner, 128):
		return badRegister("secrets: owner: want 1 to 128 bytes of visible text without quotes or backslashes")
	case s.Kind != KindFiles && s.Kind != KindPostgres:
		return badRegister("secrets: kind %q: this program knows %q and %q", s.Kind, KindFiles, KindPostgres)
	case s.Kind == KindPostgres && (len(s.Path) < 1 || len(s.Path) > 4095 || strings.ContainsAny(s.Path, "\n\x00")):
		return badRegister("secrets: path: want one line of at most 4095 bytes")
	case s.Kind == KindFiles && (len(s.Path) < 1 || len(s.Path) > 4095 || s.Path[0] != '/' || bytes.IndexByte([]byte(s.Path), 0) >= 0):
		return badRegister("secrets: path: want an absolute path of at most 4095 bytes")
	case s.IDKey == zero || s.GearKey == zero || s.IndexKey == zero || s.MaskKey == zero:
		return badRegister("secrets: a key is missing")
	}
	return nil
}

// Marshal writes the secrets: a 4-byte big-endian length, CBOR of that length,
// and zero bytes up to a multiple of [SecretsStep].
func (s *RegisterSecrets) Marshal() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	w := secretsBody{
		Version: RegisterVersion, Name: s.Name, Owner: s.Owner, Kind: s.Kind, Path: []byte(s.Path),
		IDKey: s.IDKey, GearKey: s.GearKey, IndexKey: s.IndexKey, MaskKey: s.MaskKey,
	}
	if s.HasSeed() {
		w.Seed = s.Seed[:]
	}
	body, err := encode(w)
	if err != nil {
		return nil, err
	}
	b := make([]byte, padded(4+len(body)))
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	copy(b[4:], body)
	clear(body)
	return b, nil
}

// ParseRegisterSecrets reads what [RegisterSecrets.Marshal] writes and nothing else.
func ParseRegisterSecrets(b []byte) (*RegisterSecrets, error) {
	if len(b) < SecretsStep || len(b) > maxSecretsSize || len(b)%SecretsStep != 0 {
		return nil, badRegister("secrets: %d bytes: want a multiple of %d up to %d", len(b), SecretsStep, maxSecretsSize)
	}
	n := int64(binary.BigEndian.Uint32(b))
	if 4+n > int64(len(b)) || padded(int(4+n)) != len(b) {
		return nil, badRegister("secrets: the length does not fit")
	}
	for _, c := range b[4+n:] {
		if c != 0 {
			return nil, badRegister("secrets: the padding is not zero")
		}
	}
	var w secretsBody
	if err := decode(b[4:4+n], &w); err != nil {
		return nil, err
	}
	if w.Version != RegisterVersion {
		return nil, badRegister("secrets: version %d: this program knows version %d", w.Version, RegisterVersion)
	}
	s := &RegisterSecrets{
		Name: w.Name, Owner: w.Owner, Kind: w.Kind, Path: string(w.Path),
		IDKey: w.IDKey, GearKey: w.GearKey, IndexKey: w.IndexKey, MaskKey: w.MaskKey,
	}
	if w.Seed != nil {
		if len(w.Seed) != len(s.Seed) {
			return nil, badRegister("secrets: seed of %d bytes", len(w.Seed))
		}
		copy(s.Seed[:], w.Seed)
		if !s.HasSeed() {
			return nil, badRegister("secrets: seed is zero")
		}
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

func padded(n int) int { return (n + SecretsStep - 1) / SecretsStep * SecretsStep }

// Format writes the name and nothing secret, whatever the verb.
func (s RegisterSecrets) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "RegisterSecrets(%q, redacted)", s.Name)
}

// MarshalJSON writes the name and nothing secret.
func (s RegisterSecrets) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint(s)) }

// registerForm is that of a register's record and secrets.
var registerForm = canon.Form{Depth: 4, Elements: 64, Pairs: 16}

func encode(v any) ([]byte, error) {
	b, err := registerForm.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	return b, nil
}

// decode accepts only what encode would have written for the same value. The
// caller has held b against its cap.
func decode(b []byte, v any) error {
	if err := registerForm.Decode(b, len(b), v); err != nil {
		return badRegister("%v", err)
	}
	return nil
}
