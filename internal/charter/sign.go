package charter

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is the SSH signature namespace of charters.
const Namespace = "charter@chancery"

const (
	// MaxSignatures is the most signatures that one signature file may hold.
	MaxSignatures    = 128
	maxSignatureFile = 256 << 10
)

var (
	// ErrSignature is returned where a signature is malformed, or is by a named
	// signer and does not verify.
	ErrSignature = errors.New("bad signature")
	// ErrQuorum is returned where fewer distinct people signed than the
	// threshold asks for.
	ErrQuorum = errors.New("too few signatures")
	// ErrThreshold is returned for a threshold below 1 or above the number of signers.
	ErrThreshold = errors.New("impossible threshold")
)

// GenerateSSHKey makes an Ed25519 key from 32 bytes of rand.
func GenerateSSHKey(rand io.Reader) (ed25519.PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("ssh key: randomness: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed[:]), nil
}

// MarshalSSHKey writes a private key as an OpenSSH key file without a
// passphrase. Keep it to its owner (mode 0600).
func MarshalSSHKey(key ed25519.PrivateKey, comment string) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("ssh key: %w", ErrKey)
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}

// ParseSSHKey reads an OpenSSH key file that holds an Ed25519 key without a passphrase.
func ParseSSHKey(file []byte) (ed25519.PrivateKey, error) {
	raw, err := ssh.ParseRawPrivateKey(file)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	switch k := raw.(type) {
	case *ed25519.PrivateKey:
		return *k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("ssh key: %w: want ssh-ed25519, the file holds another kind", ErrKey)
}

// SSHPublicKey writes an Ed25519 public key as a signer's Key: "ssh-ed25519 AAAA…".
func SSHPublicKey(key ed25519.PublicKey) (string, error) {
	if len(key) != ed25519.PublicKeySize {
		return "", fmt.Errorf("ssh key: %w", ErrKey)
	}
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("ssh key: %w", err)
	}
	return sshText(k), nil
}

// ParseSSHPublicKey reads a line of an OpenSSH public key file (type, base64,
// perhaps a comment) and returns it as a signer's Key, without the comment.
func ParseSSHPublicKey(line []byte) (string, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return "", fmt.Errorf("ssh key: %w: %w", ErrKey, err)
	}
	if len(options) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return "", fmt.Errorf("ssh key: %w: more than one key or options before it", ErrKey)
	}
	text := sshText(k)
	_, err = parseSigner(text)
	return text, err
}

func sshText(k ssh.PublicKey) string {
	return k.Type() + " " + base64.StdEncoding.EncodeToString(k.Marshal())
}

// parseSigner reads a signer's Key, in its one canonical form.
func parseSigner(text string) (ssh.PublicKey, error) {
	if len(text) > 4096 {
		return nil, fmt.Errorf("ssh key: %w", ErrKey)
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", ErrKey)
	}
	if t := k.Type(); t != ssh.KeyAlgoED25519 && t != ssh.KeyAlgoSKED25519 {
		return nil, fmt.Errorf("ssh key: %w: %s is neither %s nor %s", ErrKey, t, ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519)
	}
	if sshText(k) != text {
		return nil, fmt.Errorf("ssh key: %w: want type and base64, one space between, no comment", ErrKey)
	}
	return k, nil
}

// signerKeyBytes returns the raw Ed25519 key of a plain SSH key, so that the
// same key in another role is recognised, and the whole blob of any other.
func signerKeyBytes(k ssh.PublicKey) []byte {
	if c, ok := k.(ssh.CryptoPublicKey); ok {
		if e, ok := c.CryptoPublicKey().(ed25519.PublicKey); ok {
			return e
		}
	}
	return k.Marshal()
}

// Sign returns an armored SSH signature over the exact bytes of doc, as
// `ssh-keygen -Y sign -n charter@chancery` makes it. Signatures of several
// people are put one after the other in one file.
func Sign(doc []byte, key ed25519.PrivateKey) ([]byte, error) {
	sig, err := SignIn(Namespace, doc, key)
	if err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	return sig, nil
}

// Verify checks the signatures of c under its own rules for charters, whenever
// they were made.
func (c *Charter) Verify(sigs []byte) error {
	_, err := c.Quorum(ActCharter, Namespace, c.doc, sigs, time.Time{})
	return err
}

// VerifySignatures checks that at least threshold of signers signed the exact
// bytes of doc. Distinct people with distinct keys are counted: a second
// signature of one person, a key under a second name, and a second key of one
// person add nothing. Signatures by keys that signers does not hold are passed
// over, so that one file can satisfy two lists. A malformed block, or one by a
// signer that does not verify, is [ErrSignature]; too few is [ErrQuorum]; a
// threshold below 1 or above the number of signers is [ErrThreshold]. A
// hardware key's signature counts only when it was touched.
func VerifySignatures(doc, sigs []byte, signers []Signer, threshold int) error {
	if threshold < 1 || threshold > len(signers) {
		return fmt.Errorf("charter: signatures: %w: %d of %d", ErrThreshold, threshold, len(signers))
	}
	voters := make([]Voter, len(signers))
	for i, s := range signers {
		voters[i] = Voter{Name: s.Name, Keys: []string{s.Key}}
	}
	votes, err := Tally(doc, sigs, Namespace, voters, false)
	if err != nil {
		return fmt.Errorf("charter: %w", err)
	}
	if len(votes) < threshold {
		return fmt.Errorf("charter: signatures: %w: %d of the %d needed", ErrQuorum, len(votes), threshold)
	}
	return nil
}

const (
	armorBegin = "-----BEGIN " + sshsig.PEMType + "-----"
	armorEnd   = "-----END " + sshsig.PEMType + "-----"
)

// splitSignatures takes a file of armored signatures apart. Between them only
// empty lines may stand; lines may end in LF or CRLF.
func splitSignatures(file []byte) ([][]byte, error) {
	if len(file) > maxSignatureFile {
		return nil, fmt.Errorf("charter: signatures: %w: file of %d bytes is longer than %d", ErrSignature, len(file), maxSignatureFile)
	}
	var blocks [][]byte
	var text []byte
	inside, n := false, 0
	for line := range bytes.Lines(file) {
		n++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		switch {
		case !inside && len(line) == 0:
		case !inside && string(line) == armorBegin:
			inside, text = true, nil
		case inside && string(line) == armorEnd:
			b, err := base64.StdEncoding.Strict().DecodeString(string(text))
			if err != nil {
				return nil, fmt.Errorf("charter: signatures: line %d: %w: base64 before this line is damaged", n, ErrSignature)
			}
			inside, blocks = false, append(blocks, b)
			if len(blocks) > MaxSignatures {
				return nil, fmt.Errorf("charter: signatures: %w: more than %d", ErrSignature, MaxSignatures)
			}
		case inside && len(line) > 0:
			text = append(text, line...)
		default:
			return nil, fmt.Errorf("charter: signatures: line %d: %w: not part of a signature", n, ErrSignature)
		}
	}
	if inside {
		return nil, fmt.Errorf("charter: signatures: %w: the last one has no end", ErrSignature)
	}
	return blocks, nil
}
