package seal

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
)

const (
	// PublicKeySize is the length in bytes of an encoded public key: ML-KEM-768 (1184), X25519 (32).
	PublicKeySize = 1184 + 32
	// WrapOverhead is by how many bytes a wrapped secret is longer than the secret: the
	// encapsulation (1120) and the tag (16).
	WrapOverhead = 1120 + 16
)

// ErrUnwrap means that a wrapped secret does not open: it is for another key, was wrapped with
// another info, or was altered. HPKE cannot tell which.
var ErrUnwrap = errors.New("not for this key and context, or damaged")

// PublicKey is an X-Wing public key (ML-KEM-768 with X25519). The zero value is no key: [Wrap]
// refuses it, and its Bytes are nil. It may be copied and used by several goroutines.
type PublicKey struct{ key hpke.PublicKey }

// PrivateKey is an X-Wing private key. It prints as "seal.PrivateKey(secret)" under every verb and
// refuses to marshal itself. It may be used by several goroutines.
type PrivateKey struct{ key hpke.PrivateKey }

// GenerateSeed reads the 32-byte seed of a private key from rand, which must be a cryptographic
// source.
func GenerateSeed(rand io.Reader) ([32]byte, error) {
	var seed [32]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return [32]byte{}, fmt.Errorf("private key: read randomness: %w", err)
	}
	return seed, nil
}

// NewPrivateKey returns the private key that a seed of 32 uniformly random bytes stands for. One
// seed gives one key, always the same: the seed is the key's stored form.
func NewPrivateKey(seed [32]byte) (*PrivateKey, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, fmt.Errorf("private key: expand the seed: %w", err)
	}
	return &PrivateKey{key}, nil
}

// Public returns the public half.
func (k *PrivateKey) Public() PublicKey { return PublicKey{k.key.PublicKey()} }

// String returns a fixed text without any key bytes.
func (PrivateKey) String() string { return "seal.PrivateKey(secret)" }

// GoString returns a fixed text without any key bytes.
func (k PrivateKey) GoString() string { return k.String() }

// Format writes a fixed text without any key bytes, whatever the verb.
func (k PrivateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// MarshalText always fails: a private key is stored as its seed.
func (PrivateKey) MarshalText() ([]byte, error) { return nil, errors.New("private key: is a secret") }

// ParsePublicKey decodes a public key of exactly [PublicKeySize] bytes:
//
//	ML-KEM-768 encapsulation key 1184 | X25519 point 32
//
// It keeps no reference to b.
func ParsePublicKey(b []byte) (PublicKey, error) {
	if len(b) != PublicKeySize {
		return PublicKey{}, fmt.Errorf("public key: %d bytes, want %d", len(b), PublicKeySize)
	}
	key, err := hpke.MLKEM768X25519().NewPublicKey(b)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: not an X-Wing key: %w", err)
	}
	return PublicKey{key}, nil
}

// Bytes returns the encoding that [ParsePublicKey] reads, in memory of the caller's own.
func (k PublicKey) Bytes() []byte {
	if k.key == nil {
		return nil
	}
	return k.key.Bytes()
}

// Wrap seals a secret to a public key and returns encapsulation ‖ ciphertext ‖ tag, which is
// [WrapOverhead] bytes longer. info is everything that the secret is for; it is not stored, and
// who unwraps must know it. Specification: RFC 9180, SealBase, with empty associated data.
func Wrap(pub PublicKey, info, secret []byte) ([]byte, error) {
	if pub.key == nil {
		return nil, errors.New("wrap: no public key")
	}
	out, err := hpke.Seal(pub.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, secret)
	if err != nil {
		return nil, fmt.Errorf("wrap: %w", err)
	}
	return out, nil
}

// Unwrap returns the secret that [Wrap] sealed. It returns [ErrTruncated] for what is too short to
// be wrapped, and [ErrUnwrap] for what does not open.
func Unwrap(priv *PrivateKey, info, wrapped []byte) ([]byte, error) {
	if len(wrapped) < WrapOverhead {
		return nil, fmt.Errorf("wrapped secret: %d bytes, want at least %d: %w", len(wrapped), WrapOverhead, ErrTruncated)
	}
	if priv == nil || priv.key == nil {
		return nil, errors.New("wrapped secret: no private key")
	}
	secret, err := hpke.Open(priv.key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, wrapped)
	if err != nil {
		return nil, fmt.Errorf("wrapped secret: %w", ErrUnwrap)
	}
	return secret, nil
}
