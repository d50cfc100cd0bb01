package home

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
)

// witnessNames are what home may be called in the charter's list of witnesses. The second is for a state one of whose
// embassies is called home already.
var witnessNames = []string{"home", "home-witness"}

// ErrReadOnly means that the home was opened without its lock and would have to be changed.
var ErrReadOnly = errors.New("opened for reading only")

func (h *Home) witnessKeyFile() string { return filepath.Join(h.Dir, "keys", "witness.key") }

// WitnessKey reads the key that cosigns checkpoints. A home made before there were witnesses has none: it is made
// here, and made tells so, because no charter names it yet (see Enlist). That needs the lock, [ErrReadOnly] otherwise:
// two processes must not each make one. A crash leaves no key, or a whole one that no charter names.
func (h *Home) WitnessKey() (key ed25519.PrivateKey, made bool, err error) {
	key, err = readKey(h.witnessKeyFile())
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if h.unlock == nil {
		return nil, false, fmt.Errorf("%s: no witness key: %w", h.Dir, ErrReadOnly)
	}
	key, err = makeWitnessKey(h.Dir)
	return key, err == nil, err
}

func makeWitnessKey(dir string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	file, err := peer.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, durable.WriteFile(filepath.Join(dir, "keys", "witness.key"), file, peer.KeyPerm)
}

func (h *Home) witnessSeedFile() string { return filepath.Join(h.Dir, "keys", "mldsa.seed") }

// ErrNoSeed means that the charter says that home cosigns with ML-DSA-44 too, and home lacks the seed of that key.
var ErrNoSeed = errors.New("home lacks the ML-DSA-44 key that the charter names")

// makeWitnessSeed makes the seed of home's ML-DSA-44 key where there is none yet. A crash leaves none, or a whole one that
// no charter names.
func makeWitnessSeed(dir string) (*[32]byte, error) {
	path := filepath.Join(dir, "keys", "mldsa.seed")
	seed, err := readSeed(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return seed, err
	}
	seed = new([32]byte)
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	return seed, durable.WriteFile(path, peer.EncodeSeed(seed), peer.KeyPerm)
}

func readSeed(path string) (*[32]byte, error) {
	if err := peer.CheckSecret(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	seed, err := peer.ParseSeed(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return seed, nil
}

// Cosigners are home's as a witness: Ed25519, and ML-DSA-44 beside it where the charter in force names that key too.
func (h *Home) Cosigners() ([]*ledger.Cosigner, error) {
	key, _, err := h.WitnessKey()
	if err != nil {
		return nil, err
	}
	public := key.Public().(ed25519.PublicKey)
	first, err := ledger.NewCosigner(ledger.WitnessName(public), key)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(h.Charter.Witnesses, func(w charter.Witness) bool { return w.PublicKey().Equal(public) })
	if i < 0 || h.Charter.Witnesses[i].MLDSAKey == "" {
		return []*ledger.Cosigner{first}, nil
	}
	seed, err := readSeed(h.witnessSeedFile())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSeed, err)
	}
	second, err := ledger.NewMLDSACosigner(ledger.WitnessName(public), seed)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(second.Key().PublicKey(), h.Charter.Witnesses[i].MLDSAPublicKey()) {
		return nil, fmt.Errorf("%w: %s is of another", ErrNoSeed, h.witnessSeedFile())
	}
	return []*ledger.Cosigner{first, second}, nil
}

// homeWitness is home as the charter lists it, with both its keys: it comes to the ledgers by itself, so it has no address.
func homeWitness(c *charter.Charter, key ed25519.PublicKey, seed *[32]byte) (charter.Witness, error) {
	w := charter.Witness{
		Name: witnessNames[0], Country: c.State.Code, Cosigner: charter.CosignerName(key), Key: charter.EncodeKey(key),
	}
	second, err := ledger.NewMLDSACosigner(w.Cosigner, seed)
	if err != nil {
		return w, err
	}
	w.MLDSAKey = base64.StdEncoding.EncodeToString(second.Key().PublicKey())
	_, embassy := c.EmbassyByName(w.Name)
	if _, witness := c.WitnessByName(w.Name); embassy || witness {
		w.Name = witnessNames[1]
	}
	return w, nil
}

// Enlist adds home to the witnesses of the charter to come, and tells whether it was missing there. It makes home's
// key where there is none yet. Adopt is the caller's.
func (h *Home) Enlist(next *charter.Charter) (bool, error) {
	key, _, err := h.WitnessKey()
	if err != nil {
		return false, err
	}
	public := key.Public().(ed25519.PublicKey)
	if next.Roster().IsWitness(public) {
		return false, nil
	}
	seed, err := makeWitnessSeed(h.Dir)
	if err != nil {
		return false, err
	}
	w, err := homeWitness(next, public, seed)
	if err != nil {
		return false, err
	}
	next.Witnesses = append(next.Witnesses, w)
	next.Witnessing = next.GrownWitnessing()
	return true, nil
}

// WitnessDir is the folder of home's own witness: how far it saw each ledger. Package witness fills it.
func (h *Home) WitnessDir() string { return filepath.Join(h.Dir, "witness") }
