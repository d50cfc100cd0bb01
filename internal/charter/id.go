package charter

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// ErrID is returned for text that is not exactly 32 lowercase hexadecimal digits.
var ErrID = errors.New("not 32 lowercase hexadecimal digits")

// ErrKey is returned for text that is not the canonical form of a key.
var ErrKey = errors.New("not a key in its canonical form")

// OpeningKeySize is the length of an opening or register public key in bytes
// (X-Wing: 1184 of ML-KEM-768 and 32 of X25519).
const OpeningKeySize = 1216

// StateID names a state: 16 random bytes, written as 32 lowercase hexadecimal digits.
type StateID [16]byte

// RegisterID names a register: 16 random bytes, written as 32 lowercase hexadecimal digits.
type RegisterID [16]byte

// EmbassyID names an embassy: the first 16 bytes of the SHA-256 of its Ed25519
// public key, written as 32 lowercase hexadecimal digits. See [EmbassyIDOf].
type EmbassyID [16]byte

// NewStateID reads a random id from rand.
func NewStateID(rand io.Reader) (StateID, error) {
	var id StateID
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return StateID{}, fmt.Errorf("state id: randomness: %w", err)
	}
	return id, nil
}

// NewRegisterID reads a random id from rand.
func NewRegisterID(rand io.Reader) (RegisterID, error) {
	var id RegisterID
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return RegisterID{}, fmt.Errorf("register id: randomness: %w", err)
	}
	return id, nil
}

// EmbassyIDOf returns the id of the embassy with this public key.
func EmbassyIDOf(key ed25519.PublicKey) EmbassyID {
	sum := sha256.Sum256(key)
	return EmbassyID(sum[:16])
}

// String returns the id as 32 lowercase hexadecimal digits.
func (id StateID) String() string { return hex.EncodeToString(id[:]) }

// String returns the id as 32 lowercase hexadecimal digits.
func (id RegisterID) String() string { return hex.EncodeToString(id[:]) }

// String returns the id as 32 lowercase hexadecimal digits.
func (id EmbassyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the id as [StateID.String] does.
func (id StateID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText returns the id as [RegisterID.String] does.
func (id RegisterID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText returns the id as [EmbassyID.String] does.
func (id EmbassyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts what [StateID.String] returns and nothing else; [ErrID] otherwise.
func (id *StateID) UnmarshalText(text []byte) error { return unmarshalID((*[16]byte)(id), text) }

// UnmarshalText accepts what [RegisterID.String] returns and nothing else; [ErrID] otherwise.
func (id *RegisterID) UnmarshalText(text []byte) error { return unmarshalID((*[16]byte)(id), text) }

// UnmarshalText accepts what [EmbassyID.String] returns and nothing else; [ErrID] otherwise.
func (id *EmbassyID) UnmarshalText(text []byte) error { return unmarshalID((*[16]byte)(id), text) }

// ParseStateID is [StateID.UnmarshalText] for a string.
func ParseStateID(text string) (id StateID, err error) {
	err = id.UnmarshalText([]byte(text))
	return id, err
}

// ParseRegisterID is [RegisterID.UnmarshalText] for a string.
func ParseRegisterID(text string) (id RegisterID, err error) {
	err = id.UnmarshalText([]byte(text))
	return id, err
}

// ParseEmbassyID is [EmbassyID.UnmarshalText] for a string.
func ParseEmbassyID(text string) (id EmbassyID, err error) {
	err = id.UnmarshalText([]byte(text))
	return id, err
}

func unmarshalID(id *[16]byte, text []byte) error {
	var b [16]byte
	if err := decodeHex(b[:], text); err != nil {
		return fmt.Errorf("id: %w", ErrID)
	}
	*id = b
	return nil
}

// decodeHex fills dst from exactly 2*len(dst) lowercase digits.
func decodeHex(dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return errors.New("wrong length")
	}
	for _, c := range text {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return errors.New("not lowercase hexadecimal")
		}
	}
	_, err := hex.Decode(dst, text)
	return err
}

// EncodeDigest writes a SHA-256 value as 64 lowercase hexadecimal digits.
func EncodeDigest(d [32]byte) string { return hex.EncodeToString(d[:]) }

// ParseDigest accepts what [EncodeDigest] returns and nothing else.
func ParseDigest(text string) (d [32]byte, err error) {
	if err := decodeHex(d[:], []byte(text)); err != nil {
		return [32]byte{}, errors.New("digest: not 64 lowercase hexadecimal digits")
	}
	return d, nil
}

// EncodeKey writes a public key of any kind as standard base64 with padding.
func EncodeKey(key []byte) string { return base64.StdEncoding.EncodeToString(key) }

// ParseKey reads an Ed25519 public key written by [EncodeKey]; [ErrKey] otherwise.
func ParseKey(text string) (ed25519.PublicKey, error) {
	b, err := parseKeyBytes(text, ed25519.PublicKeySize)
	return ed25519.PublicKey(b), err
}

// ParseOpeningKey reads an X-Wing public key of [OpeningKeySize] bytes written
// by [EncodeKey]; [ErrKey] otherwise. Only the length is checked here.
func ParseOpeningKey(text string) ([]byte, error) { return parseKeyBytes(text, OpeningKeySize) }

func parseKeyBytes(text string, size int) ([]byte, error) {
	if len(text) != base64.StdEncoding.EncodedLen(size) {
		return nil, fmt.Errorf("key: want %d bytes in base64: %w", size, ErrKey)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size || EncodeKey(b) != text {
		return nil, fmt.Errorf("key: want %d bytes in base64: %w", size, ErrKey)
	}
	return b, nil
}

// Fingerprint returns "SHA256:" and the unpadded base64 of the SHA-256 of the
// 32 bytes of the key, to be compared by people.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
