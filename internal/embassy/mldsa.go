package embassy

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
)

// seedFile holds the seed of the ML-DSA-44 key by which the embassy cosigns beside its own key, for every state whose
// charter names it: 64 hex digits and a newline.
const seedFile = "mldsa.seed"

// makeSeed makes the folder's second key. The owner has locked the folder. A crash leaves no seed, or a whole one that no
// charter names, because nobody was told of it yet.
func makeSeed(dir string) (*[32]byte, error) {
	seed := new([32]byte)
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("embassy: key: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, seedFile), peer.EncodeSeed(seed), peer.KeyPerm); err != nil {
		return nil, fmt.Errorf("embassy: key: %w", err)
	}
	return seed, nil
}

// loadSeed fails with fs.ErrNotExist where there is none.
func loadSeed(dir string) (*[32]byte, error) {
	path := filepath.Join(dir, seedFile)
	if err := peer.CheckSecret(path); err != nil {
		return nil, fmt.Errorf("embassy: key: %w", err)
	}
	text, err := readFile(path, 4096)
	if err != nil {
		return nil, err
	}
	seed, err := peer.ParseSeed(text)
	if err != nil {
		return nil, fmt.Errorf("embassy: key: %s: %w", path, err)
	}
	return seed, nil
}

// pair is what an embassy cosigns with: its own key, and its ML-DSA-44 key where a charter names that.
type pair struct {
	key           ed25519.PrivateKey
	first, second *ledger.Cosigner
}

// newPair makes the cosigners of an embassy's keys, both of the name that its own key gives.
func newPair(key ed25519.PrivateKey, seed *[32]byte) (*pair, error) {
	name := ledger.WitnessName(publicOf(key))
	first, err := ledger.NewCosigner(name, key)
	if err != nil {
		return nil, err
	}
	second, err := ledger.NewMLDSACosigner(name, seed)
	if err != nil {
		return nil, err
	}
	return &pair{key, first, second}, nil
}

// openPair loads an embassy's keys. A folder of an earlier release gets its second one here; the caller has locked it.
func openPair(dir string) (*pair, error) {
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	seed, err := loadSeed(dir)
	if errors.Is(err, fs.ErrNotExist) {
		seed, err = makeSeed(dir)
	}
	if err != nil {
		return nil, err
	}
	return newPair(key, seed)
}

// keys are the public keys, the embassy's own first.
func (p *pair) keys() []ledger.WitnessKey {
	return []ledger.WitnessKey{p.first.Key(), p.second.Key()}
}

// under are the cosigners that count by a charter: the second key beside the first where the charter names it. lacks
// tells that it names another second key, which is not here: what the embassy cosigns then counts nothing.
func (p *pair) under(ch *charter.Charter) (cosigners []*ledger.Cosigner, lacks bool) {
	e, _ := ch.EmbassyByID(charter.EmbassyIDOf(publicOf(p.key)))
	if e.MLDSAKey == "" {
		return []*ledger.Cosigner{p.first}, false
	}
	if e.MLDSAKey != charter.EncodeKey(p.second.Key().PublicKey()) {
		return []*ledger.Cosigner{p.first}, true
	}
	return []*ledger.Cosigner{p.first, p.second}, false
}

// Keys are the public keys by which the embassy with this folder cosigns: Ed25519, and ML-DSA-44. The folder is one that
// Establish made.
func Keys(dir string) ([]ledger.WitnessKey, error) {
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	seed, err := loadSeed(dir)
	if err != nil {
		return nil, err
	}
	p, err := newPair(key, seed)
	if err != nil {
		return nil, err
	}
	return p.keys(), nil
}

// Keys are the public keys by which the embassy cosigns, as of the function of that name.
func (s *Server) Keys() []ledger.WitnessKey { return s.pair.keys() }

// parseMLDSAKey reads a second key; nil for the empty text.
func parseMLDSAKey(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != charter.MLDSAKeySize {
		return nil, errors.New("not an ML-DSA-44 key in base64")
	}
	return b, nil
}
