package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxCheckpoint caps a checkpoint with all its signatures, in bytes.
const maxCheckpoint = 64 << 10

// maxTree is the largest tree spoken of; far more than will ever be, and small
// enough that no arithmetic on it overflows.
const maxTree = 1 << 60

// Origin names the log that the embassy with this key keeps for this state:
// "chancery.dev/ledger/STATE/EMBASSY", both 32 lowercase hex digits, EMBASSY
// being the first 16 bytes of SHA-256 of the embassy's public key.
func Origin(state [16]byte, embassy ed25519.PublicKey) string {
	id := sha256.Sum256(embassy)
	return "chancery.dev/ledger/" + hex.EncodeToString(state[:]) + "/" + hex.EncodeToString(id[:16])
}

// OriginBelongs tells whether origin names a log, the first or a later one, that
// the embassy with this key keeps for this state.
func OriginBelongs(origin string, state [16]byte, embassy ed25519.PublicKey) bool {
	first := Origin(state, embassy)
	generation, later := strings.CutPrefix(origin, first+"/")
	if !later {
		return origin == first
	}
	n, err := strconv.ParseUint(generation, 10, 32)
	return err == nil && n >= 2 && strconv.FormatUint(n, 10) == generation
}

// NextOrigin names the log that follows the log named origin at the same embassy:
// the state ordered a new one in its charter because the old could not go on, as
// when its disk was lost. The second is called ORIGIN/2, its successor ORIGIN/3.
func NextOrigin(origin string) string {
	base, last := origin, uint64(1)
	if i := strings.LastIndexByte(origin, '/'); strings.Count(origin, "/") == 4 && i > 0 {
		if n, err := strconv.ParseUint(origin[i+1:], 10, 32); err == nil && n >= 2 && strconv.FormatUint(n, 10) == origin[i+1:] {
			base, last = origin[:i], n
		}
	}
	return base + "/" + strconv.FormatUint(last+1, 10)
}

// signer signs notes as C2SP signed-note Ed25519 (algorithm 0x01).
type signer struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s *signer) Name() string                    { return s.name }
func (s *signer) KeyHash() uint32                 { return s.hash }
func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// NewSigner returns what signs the checkpoints of the log named origin.
func NewSigner(origin string, key ed25519.PrivateKey) (note.Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("ledger: signer: not an Ed25519 key")
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("ledger: signer: not an Ed25519 key")
	}
	// The verifier checks the name and gives the key's hash.
	v, err := NewVerifier(origin, pub)
	if err != nil {
		return nil, err
	}
	return &signer{name: origin, hash: v.KeyHash(), key: key}, nil
}

// NewVerifier returns what verifies the checkpoints of the log named origin.
func NewVerifier(origin string, key ed25519.PublicKey) (note.Verifier, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, errors.New("ledger: verifier: not an Ed25519 key")
	}
	text, err := note.NewEd25519VerifierKey(origin, key)
	if err != nil {
		return nil, fmt.Errorf("ledger: verifier: %w", err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("ledger: verifier: %w", err)
	}
	return v, nil
}

// VerifierOf returns what verifies a checkpoint of whichever of the ledgers that
// the embassy with this key keeps for this state; ErrSignature for one that says
// it is of another log. Which of them is the one in force, the charter says.
func VerifierOf(raw []byte, state [16]byte, embassy ed25519.PublicKey) (note.Verifier, error) {
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	if !OriginBelongs(string(line), state, embassy) {
		return nil, fmt.Errorf("ledger: checkpoint of another log: %w", ErrSignature)
	}
	return NewVerifier(string(line), embassy)
}

// Checkpoint is a signed statement of a log: so many leaves, under this root.
type Checkpoint struct {
	Origin string
	Size   uint64 // leaves
	Root   [32]byte
	Raw    []byte // the whole signed note, as it came; not a copy
}

// ParseCheckpoint reads a C2SP tlog-checkpoint that v's log signed. Signatures
// of others beside it are left alone. Extension lines are refused. It fails with
// ErrSignature or ErrFormat; the result refers to raw.
func ParseCheckpoint(raw []byte, v note.Verifier) (Checkpoint, error) {
	if len(raw) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint of %d bytes: %w", len(raw), ErrFormat)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		var forged *note.InvalidSignatureError
		var unsigned *note.UnverifiedNoteError
		kind := ErrFormat
		if errors.As(err, &forged) || errors.As(err, &unsigned) {
			kind = ErrSignature
		}
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: %w: %w", kind, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint of %d lines: %w", len(lines)-1, ErrFormat)
	}
	if lines[0] != v.Name() {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint of another log: %w", ErrSignature)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] || size > maxTree {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: line 2, size: %w", ErrFormat)
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: line 3, root: %w", ErrFormat)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: [32]byte(root), Raw: raw}, nil
}

// VerifyConsistency proves that newer continues older: every leaf of older is in
// newer, at the same place. ErrShorter when newer is of a smaller tree, ErrForked
// when equal sizes have different roots or the proof does not hold.
func VerifyConsistency(older, newer Checkpoint, proof [][32]byte) error {
	if older.Origin != newer.Origin {
		return fmt.Errorf("ledger: consistency: two different logs: %w", ErrProof)
	}
	switch {
	case newer.Size < older.Size:
		return fmt.Errorf("ledger: consistency: %d leaves after %d: %w", newer.Size, older.Size, ErrShorter)
	case newer.Size == older.Size:
		if newer.Root != older.Root {
			return fmt.Errorf("ledger: consistency: two roots of %d leaves: %w", newer.Size, ErrForked)
		}
		if len(proof) != 0 {
			return fmt.Errorf("ledger: consistency: a proof where none is due: %w", ErrProof)
		}
		return nil
	case older.Size == 0:
		if len(proof) != 0 || older.Root != sha256.Sum256(nil) {
			return fmt.Errorf("ledger: consistency: not the empty tree: %w", ErrProof)
		}
		return nil
	case newer.Size > maxTree || len(proof) > 2*64:
		return fmt.Errorf("ledger: consistency: too large: %w", ErrProof)
	}
	p := make(tlog.TreeProof, len(proof))
	for i := range proof {
		p[i] = proof[i]
	}
	err := tlog.CheckTree(p, int64(newer.Size), newer.Root, int64(older.Size), older.Root)
	if err != nil {
		return fmt.Errorf("ledger: consistency of %d with %d leaves: %w", newer.Size, older.Size, ErrForked)
	}
	return nil
}

// SplitBundle cuts a C2SP tlog-tiles entry bundle into its entries, which refer
// to data. An entry is a 16-bit big-endian length and that many bytes.
func SplitBundle(data []byte) ([][]byte, error) {
	var entries [][]byte
	for rest := data; len(rest) > 0; {
		if len(rest) < 2 || len(entries) == tileWidth {
			return nil, fmt.Errorf("ledger: bundle: %w", ErrFormat)
		}
		n := int(binary.BigEndian.Uint16(rest))
		rest = rest[2:]
		if n > len(rest) {
			return nil, fmt.Errorf("ledger: bundle: entry %d: %w", len(entries), ErrFormat)
		}
		entries = append(entries, bytes.Clone(rest[:n]))
		rest = rest[n:]
	}
	return entries, nil
}
