// Package peer is the two ends of a connection that know each other by Ed25519 keys: the file that a key lies in, the
// certificate that carries it, the TLS configuration that believes nothing else, and how many may connect at once.
//
// Old data: key files are PKCS 8 in PEM and are read for ever. Certificates are made anew at every start and kept nowhere.
package peer

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// KeyPerm is the mode of a key's file.
const KeyPerm fs.FileMode = 0o600

const keyType = "PRIVATE KEY" // of the PEM block

// EncodeKey returns a key as its file holds it. The caller writes it, with [KeyPerm].
func EncodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// ParseKey reads the first PEM block of text, which must be an Ed25519 key. rest is what follows it; whether anything may
// is for the caller to say.
func ParseKey(text []byte) (key ed25519.PrivateKey, rest []byte, err error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != keyType {
		return nil, nil, errors.New("not a PEM private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, nil, errors.New("not an Ed25519 key")
	}
	return key, rest, nil
}

// ParseOnlyKey is ParseKey for a file that holds one key and not a byte behind it.
func ParseOnlyKey(text []byte) (ed25519.PrivateKey, error) {
	key, rest, err := ParseKey(text)
	if err == nil && len(rest) > 0 {
		return nil, errors.New("more than one PEM private key")
	}
	return key, err
}

// EncodeSeed returns the seed of an ML-DSA-44 key as its file holds it: 64 hex digits and a newline. The caller writes it,
// with [KeyPerm].
func EncodeSeed(seed *[32]byte) []byte { return []byte(hex.EncodeToString(seed[:]) + "\n") }

// ParseSeed reads what EncodeSeed returns and nothing else.
func ParseSeed(text []byte) (*[32]byte, error) {
	seed, err := hex.DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil || len(seed) != 32 || hex.EncodeToString(seed)+"\n" != string(text) {
		return nil, errors.New("not a seed of 32 bytes in hex")
	}
	return (*[32]byte)(seed), nil
}

// CheckSecret fails when others than its owner may do anything with the file at path, or with the error of stat(2).
func CheckSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %o); it must be 0600", path, mode)
	}
	return nil
}
