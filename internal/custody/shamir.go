package custody

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxHolders is the most custodians that a seed is split among.
const MaxHolders = 32

const commitLabel = "chancery share commitment v1\x00"

var (
	// ErrForged is returned for a share that the charter does not commit to.
	// The error names the share and its custodian.
	ErrForged = errors.New("not the one the charter commits to")
	// ErrForeign is returned for a share of another state or another
	// generation of the opening key. The error says which.
	ErrForeign = errors.New("share of another opening key")
	// ErrTooFew is returned where fewer good shares than the threshold are
	// there. The error says how many are missing.
	ErrTooFew = errors.New("too few shares")
	// ErrInconsistent is returned where all shares are those the charter
	// commits to and still do not belong to one secret: whoever split it cheated.
	ErrInconsistent = errors.New("the shares do not belong to one secret")
	// ErrParameters is returned for an impossible threshold, list of holders or
	// list of commitments.
	ErrParameters = errors.New("impossible parameters")
)

// Share is one custodian's part of the seed of an opening key. It is secret:
// printed in any way it shows only whose it is.
type Share struct {
	State      [16]byte
	Generation uint32 // of the opening key, from 1
	X          uint8  // 1 … Total
	Threshold  uint8  // how many shares open
	Total      uint8  // how many there are
	Holder     string // the custodian's name in the charter
	Value      [32]byte
	Salt       [32]byte
}

// Commitment is what the charter says of one share. It is public.
type Commitment struct {
	State      [16]byte
	Generation uint32
	X          uint8
	Threshold  uint8
	Total      uint8
	Holder     string
	Hash       [32]byte // see [Share.Commit]
}

// String returns the hash as 64 lowercase hexadecimal digits, as the charter has it.
func (c Commitment) String() string { return hex.EncodeToString(c.Hash[:]) }

// Commit returns the commitment to s. Its hash is SHA-256 of
// "chancery share commitment v1" 00 state(16) generation(4, big endian) x(1)
// threshold(1) total(1) salt(32) value(32).
func (s *Share) Commit() Commitment {
	h := sha256.New()
	h.Write([]byte(commitLabel))
	h.Write(s.State[:])
	var fixed [7]byte
	binary.BigEndian.PutUint32(fixed[:], s.Generation)
	fixed[4], fixed[5], fixed[6] = s.X, s.Threshold, s.Total
	h.Write(fixed[:])
	h.Write(s.Salt[:])
	h.Write(s.Value[:])
	c := Commitment{
		State: s.State, Generation: s.Generation, X: s.X,
		Threshold: s.Threshold, Total: s.Total, Holder: s.Holder,
	}
	h.Sum(c.Hash[:0])
	return c
}

// Split makes one share of seed for each of holders, of which any threshold
// give the seed again and fewer tell nothing of it. rand gives, for each of the
// 32 bytes of the seed, threshold-1 coefficients (all of byte 0 first, lowest
// power first), and then a 32-byte salt for each share in order. The commitments
// are in the order of the shares and belong into the charter.
func Split(rand io.Reader, seed *[32]byte, state [16]byte, generation uint32, threshold int, holders []string) ([]Share, []Commitment, error) {
	if err := checkPlan(generation, threshold, holders); err != nil {
		return nil, nil, err
	}
	shares := make([]Share, len(holders))
	for i := range shares {
		shares[i] = Share{
			State: state, Generation: generation, X: uint8(i + 1),
			Threshold: uint8(threshold), Total: uint8(len(holders)), Holder: holders[i],
		}
	}
	coefficients := make([]byte, threshold)
	defer clear(coefficients)
	for b := range seed {
		coefficients[0] = seed[b]
		if _, err := io.ReadFull(rand, coefficients[1:]); err != nil {
			return nil, nil, fmt.Errorf("custody: split: randomness: %w", err)
		}
		for i := range shares {
			shares[i].Value[b] = evaluate(coefficients, shares[i].X)
		}
	}
	commitments := make([]Commitment, len(shares))
	for i := range shares {
		if _, err := io.ReadFull(rand, shares[i].Salt[:]); err != nil {
			return nil, nil, fmt.Errorf("custody: split: randomness: %w", err)
		}
		commitments[i] = shares[i].Commit()
	}
	return shares, commitments, nil
}

func checkPlan(generation uint32, threshold int, holders []string) error {
	switch {
	case generation < 1:
		return fmt.Errorf("custody: %w: generation counts from 1", ErrParameters)
	case len(holders) < 1 || len(holders) > MaxHolders:
		return fmt.Errorf("custody: %w: %d custodians, want 1 to %d", ErrParameters, len(holders), MaxHolders)
	case threshold < 1 || threshold > len(holders):
		return fmt.Errorf("custody: %w: threshold %d of %d custodians", ErrParameters, threshold, len(holders))
	}
	seen := map[string]bool{}
	for _, h := range holders {
		if !validName(h) {
			return fmt.Errorf("custody: %w: custodian's name %q", ErrParameters, h)
		}
		if seen[h] {
			return fmt.Errorf("custody: %w: custodian %s twice", ErrParameters, h)
		}
		seen[h] = true
	}
	return nil
}

// checkCommitments refuses a list that does not describe one split.
func checkCommitments(commitments []Commitment) error {
	holders := make([]string, len(commitments))
	for i, c := range commitments {
		holders[i] = c.Holder
		a := &commitments[0]
		if c.State != a.State || c.Generation != a.Generation || c.Threshold != a.Threshold ||
			int(c.Total) != len(commitments) || int(c.X) != i+1 {
			return fmt.Errorf("custody: %w: commitment %d does not belong to the list", ErrParameters, i+1)
		}
	}
	if len(commitments) == 0 {
		return fmt.Errorf("custody: %w: no commitments", ErrParameters)
	}
	return checkPlan(commitments[0].Generation, int(commitments[0].Threshold), holders)
}

// Check holds one share against all commitments of the charter, in order of X.
// A share of another state or generation is [ErrForeign]. Any other share that
// the charter does not commit to is [ErrForged], and the error names it.
func Check(share Share, commitments []Commitment) error {
	if err := checkCommitments(commitments); err != nil {
		return err
	}
	first := &commitments[0]
	if share.State != first.State {
		return fmt.Errorf("custody: share %d of custodian %s: %w: state %x, not %x",
			share.X, printName(share.Holder), ErrForeign, share.State, first.State)
	}
	if share.Generation != first.Generation {
		return fmt.Errorf("custody: share %d of custodian %s: %w: generation %d, not %d",
			share.X, printName(share.Holder), ErrForeign, share.Generation, first.Generation)
	}
	got := share.Commit()
	if share.X >= 1 && int(share.X) <= len(commitments) {
		want := commitments[share.X-1]
		if share.Holder == want.Holder && subtle.ConstantTimeCompare(got.Hash[:], want.Hash[:]) == 1 {
			return nil
		}
	}
	return fmt.Errorf("custody: share %d of custodian %s is %w", share.X, printName(share.Holder), ErrForged)
}

// Sift parts shares into those that pass [Check], each once and in order of X,
// and one error for each that does not. Use it to go on without a bad share
// after showing the errors to people.
func Sift(shares []Share, commitments []Commitment) (good []Share, bad []error) {
	seen := map[uint8]bool{}
	for _, s := range shares {
		if err := Check(s, commitments); err != nil {
			bad = append(bad, err)
			continue
		}
		if !seen[s.X] {
			seen[s.X] = true
			good = append(good, s)
		}
	}
	slices.SortFunc(good, func(a, b Share) int { return int(a.X) - int(b.X) })
	return good, bad
}

// Combine gives the seed again. Every share is checked before it is used, and
// one that fails makes Combine fail with an error that names all such shares;
// [Sift] removes them. The same share twice counts once. Fewer good shares than
// the threshold are [ErrTooFew]. More than the threshold must all agree, or it
// is [ErrInconsistent]. The caller clears the seed after use.
func Combine(shares []Share, commitments []Commitment) (*[32]byte, error) {
	if err := checkCommitments(commitments); err != nil {
		return nil, err
	}
	good, bad := Sift(shares, commitments)
	threshold := int(commitments[0].Threshold)
	if missing := threshold - len(good); missing > 0 {
		bad = append(bad, fmt.Errorf("custody: %w: %d of the %d needed, %d missing", ErrTooFew, len(good), threshold, missing))
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	xs := make([]byte, threshold)
	values := make([]*[32]byte, threshold)
	for i := range threshold {
		xs[i], values[i] = good[i].X, &good[i].Value
	}
	for _, s := range good[threshold:] {
		at := interpolate(xs, values, s.X)
		if subtle.ConstantTimeCompare(at[:], s.Value[:]) != 1 {
			return nil, fmt.Errorf("custody: combine: %w", ErrInconsistent)
		}
	}
	return interpolate(xs, values, 0), nil
}

// DeriveOpeningSeed returns the seed of the opening key's X-Wing private key:
// HKDF-SHA-256 of the combined seed, without salt, with the label
// "chancery opening key v1".
func DeriveOpeningSeed(seed *[32]byte) [32]byte { return derive(seed, "chancery opening key v1") }

// DeriveAccessKey returns the Ed25519 private key whose public half the charter
// names as recovery key: from HKDF-SHA-256 of the combined seed, without salt,
// with the label "chancery recovery access v1".
func DeriveAccessKey(seed *[32]byte) ed25519.PrivateKey {
	s := derive(seed, "chancery recovery access v1")
	defer clear(s[:])
	return ed25519.NewKeyFromSeed(s[:])
}

// derive is HKDF-SHA-256 (RFC 5869) for exactly one block of output, which is
// two HMACs and cannot fail.
func derive(seed *[32]byte, label string) (out [32]byte) {
	extract := hmac.New(sha256.New, make([]byte, sha256.Size))
	extract.Write(seed[:])
	expand := hmac.New(sha256.New, extract.Sum(nil))
	expand.Write([]byte(label))
	expand.Write([]byte{1})
	expand.Sum(out[:0])
	return out
}
