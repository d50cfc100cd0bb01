package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/mldsa"
)

// Algorithm bytes of C2SP signed-note keys.
const (
	algEd25519  = 0x01 // of a log; as a witness's it is taken as algCosigner
	algCosigner = 0x04 // Ed25519, "cosignature/v1"
	algMLDSA    = 0x06 // ML-DSA-44, "subtree/v1"
)

// Sizes in bytes of what follows the key's id in a cosignature's line.
const (
	ed25519Blob = 8 + ed25519.SignatureSize
	mldsaBlob   = 8 + mldsa.MLDSA44SignatureSize
)

// maxTime is the last second of the year 9999; later times are refused.
const maxTime = 253402300799

// WitnessName is the cosigner name of an embassy, of home and of our own
// witnesses: "chancery.dev/witness/HEX", HEX being the first 16 bytes of SHA-256
// of the Ed25519 public key as 32 lowercase hex digits.
func WitnessName(key ed25519.PublicKey) string {
	id := sha256.Sum256(key)
	return "chancery.dev/witness/" + hex.EncodeToString(id[:16])
}

// WitnessKey is a public key that verifies cosignatures, with the name it goes
// by. Keys compare with ==. The zero value verifies nothing.
type WitnessKey struct {
	name string
	key  string // 32 bytes Ed25519, 1,312 bytes ML-DSA-44
	id   uint32
	alg  byte
}

// NewWitnessKey returns the key of an Ed25519 cosigner.
func NewWitnessKey(name string, key ed25519.PublicKey) (WitnessKey, error) {
	return newWitnessKey(name, algCosigner, key)
}

// NewMLDSAWitnessKey returns the key of an ML-DSA-44 cosigner; pub has 1,312 bytes.
func NewMLDSAWitnessKey(name string, pub []byte) (WitnessKey, error) {
	return newWitnessKey(name, algMLDSA, pub)
}

func newWitnessKey(name string, alg byte, key []byte) (WitnessKey, error) {
	if !validName(name) {
		return WitnessKey{}, fmt.Errorf("ledger: witness key: name %q: %w", name, ErrFormat)
	}
	switch alg {
	case algCosigner:
		if len(key) != ed25519.PublicKeySize {
			return WitnessKey{}, fmt.Errorf("ledger: witness key: %d bytes of Ed25519: %w", len(key), ErrFormat)
		}
	case algMLDSA:
		if _, err := mldsa.NewPublicKey(mldsa.MLDSA44(), key); err != nil {
			return WitnessKey{}, fmt.Errorf("ledger: witness key: ML-DSA-44: %w: %w", ErrFormat, err)
		}
	default:
		return WitnessKey{}, fmt.Errorf("ledger: witness key: algorithm %d: %w", alg, ErrUnknown)
	}
	return WitnessKey{name: name, alg: alg, key: string(key), id: keyID(name, alg, key)}, nil
}

// keyID is the first 4 bytes of SHA-256(name ‖ 0x0a ‖ algorithm ‖ key).
func keyID(name string, alg byte, key []byte) uint32 {
	sum := sha256.Sum256(append(append([]byte(name), '\n', alg), key...))
	return binary.BigEndian.Uint32(sum[:])
}

// ParseWitnessKey reads a C2SP vkey, "NAME+HASH+BASE64", of algorithm 4
// (Ed25519), 6 (ML-DSA-44) or 1 (Ed25519 of a plain note, taken as 4).
func ParseWitnessKey(vkey string) (WitnessKey, error) {
	if len(vkey) > 4096 {
		return WitnessKey{}, fmt.Errorf("ledger: witness key of %d bytes: %w", len(vkey), ErrFormat)
	}
	name, rest, _ := strings.Cut(vkey, "+")
	hash, text, _ := strings.Cut(rest, "+")
	data, ok := unbase64(text)
	if !ok || len(data) < 2 {
		return WitnessKey{}, fmt.Errorf("ledger: witness key: not base64: %w", ErrFormat)
	}
	if hash != fmt.Sprintf("%08x", keyID(name, data[0], data[1:])) {
		return WitnessKey{}, fmt.Errorf("ledger: witness key: hash %q is not the key's: %w", hash, ErrFormat)
	}
	alg := data[0]
	if alg == algEd25519 {
		alg = algCosigner
	}
	return newWitnessKey(name, alg, data[1:])
}

// Name is the cosigner's name.
func (k WitnessKey) Name() string { return k.name }

// PublicKey is the bare key: 32 bytes of Ed25519, or 1,312 of ML-DSA-44.
func (k WitnessKey) PublicKey() []byte { return []byte(k.key) }

// String is the C2SP vkey; ParseWitnessKey reads it.
func (k WitnessKey) String() string {
	data := append([]byte{k.alg}, k.key...)
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(data))
}

// blobSize is what follows the id in a line of this key, in bytes.
func (k WitnessKey) blobSize() int {
	if k.alg == algMLDSA {
		return mldsaBlob
	}
	return ed25519Blob
}

// lineSize is the length of a line of this key, in bytes.
func (k WitnessKey) lineSize() int { return lineSize(k.name, k.blobSize()) }

// verify checks what follows the id in a line of this key.
func (k WitnessKey) verify(cp *Checkpoint, blob []byte) (time.Time, bool) {
	if len(blob) != k.blobSize() {
		return time.Time{}, false
	}
	at, sig := binary.BigEndian.Uint64(blob), blob[8:]
	if at == 0 || at > maxTime {
		return time.Time{}, false
	}
	ok := false
	switch k.alg {
	case algCosigner:
		ok = ed25519.Verify(ed25519.PublicKey(k.key), cp.cosignedText(at), sig)
	case algMLDSA:
		pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), []byte(k.key))
		ok = err == nil && mldsa.Verify(pub, cp.cosignedTree(k.name, at), sig, nil) == nil
	}
	return time.Unix(int64(at), 0).UTC(), ok
}

// text is the note's text. ParseCheckpoint refuses extension lines, so it is
// these three lines and nothing else.
func (cp *Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", cp.Origin, cp.Size, base64.StdEncoding.EncodeToString(cp.Root[:]))
}

// cosignedText is what an Ed25519 cosigner signs.
func (cp *Checkpoint) cosignedText(at uint64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, cp.text())
}

// cosignedTree is C2SP's cosigned_message for the whole tree: what an ML-DSA-44
// cosigner signs. name and origin have 1 to 255 bytes.
func (cp *Checkpoint) cosignedTree(name string, at uint64) []byte {
	b := []byte("subtree/v1\n\x00")
	b = append(append(b, byte(len(name))), name...)
	b = binary.BigEndian.AppendUint64(b, at)
	b = append(append(b, byte(len(cp.Origin))), cp.Origin...)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, cp.Size)
	return append(b, cp.Root[:]...)
}

// Cosigner signs checkpoints as a witness (C2SP tlog-cosignature). What it signs
// must not contradict what it signed before; that is for its user to see to.
type Cosigner struct {
	key  WitnessKey
	sign func(cp *Checkpoint, at uint64) ([]byte, error)
}

// NewCosigner returns an Ed25519 cosigner. Name is WitnessName for our own.
func NewCosigner(name string, key ed25519.PrivateKey) (*Cosigner, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("ledger: cosigner: not an Ed25519 key")
	}
	pub, err := NewWitnessKey(name, ed25519.PublicKey(key[32:]))
	if err != nil {
		return nil, err
	}
	return &Cosigner{key: pub, sign: func(cp *Checkpoint, at uint64) ([]byte, error) {
		return ed25519.Sign(key, cp.cosignedText(at)), nil
	}}, nil
}

// NewMLDSACosigner returns an ML-DSA-44 cosigner of the key that FIPS 204 makes
// of the seed. It signs deterministically: randomness is not drawn here.
func NewMLDSACosigner(name string, seed *[32]byte) (*Cosigner, error) {
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed[:])
	if err != nil {
		return nil, fmt.Errorf("ledger: cosigner: ML-DSA-44: %w", err)
	}
	pub, err := NewMLDSAWitnessKey(name, key.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	return &Cosigner{key: pub, sign: func(cp *Checkpoint, at uint64) ([]byte, error) {
		return key.SignDeterministic(cp.cosignedTree(name, at), nil)
	}}, nil
}

// Key verifies what this cosigner signs.
func (c *Cosigner) Key() WitnessKey { return c.key }

// Cosign returns the note signature line "— NAME BASE64\n" that says: at this
// second, cp was the largest tree of its log that this cosigner had seen. Only
// Origin, Size and Root of cp are used.
func (c *Cosigner) Cosign(cp Checkpoint, at time.Time) ([]byte, error) {
	unix := at.Unix()
	if unix <= 0 || unix > maxTime {
		return nil, fmt.Errorf("ledger: cosign: the clock says %s", at.UTC())
	}
	if !validName(cp.Origin) || cp.Size > maxTree {
		return nil, fmt.Errorf("ledger: cosign: %w", ErrFormat)
	}
	sig, err := c.sign(&cp, uint64(unix))
	if err != nil {
		return nil, fmt.Errorf("ledger: cosign: %w", err)
	}
	blob := append(binary.BigEndian.AppendUint64(nil, uint64(unix)), sig...)
	return makeLine(c.key.name, c.key.id, blob), nil
}

// Cosignature is a verified cosignature: at Time, by its own clock, the witness
// had seen no larger tree of the log.
type Cosignature struct {
	Key  WitnessKey
	Time time.Time // whole seconds, UTC
}

// Cosignatures returns the cosignatures in cp.Raw by these keys, one of each key
// (its latest), in the order of the keys. cp comes from ParseCheckpoint. Lines of
// other keys are ignored; a line of one of these that does not verify fails all
// with ErrSignature, as C2SP signed-note asks.
func Cosignatures(cp Checkpoint, keys []WitnessKey) ([]Cosignature, error) {
	text, lines, err := splitNote(cp.Raw)
	if err != nil {
		return nil, err
	}
	if string(text) != cp.text() {
		return nil, fmt.Errorf("ledger: cosignatures: the note says something else: %w", ErrFormat)
	}
	var out []Cosignature
	for _, k := range keys {
		var latest time.Time
		for i := range lines {
			if lines[i].name != k.name || lines[i].id != k.id {
				continue
			}
			at, ok := k.verify(&cp, lines[i].blob)
			if !ok {
				return nil, fmt.Errorf("ledger: cosignature of %q: %w", k.name, ErrSignature)
			}
			if at.After(latest) {
				latest = at
			}
		}
		if !latest.IsZero() {
			out = append(out, Cosignature{Key: k, Time: latest})
		}
	}
	return out, nil
}
