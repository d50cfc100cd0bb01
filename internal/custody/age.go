package custody

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

const (
	// MaxPlaintext is the most bytes that [SealTo] seals and [OpenWith] opens.
	MaxPlaintext = 1 << 20

	maxAgeFile      = 2 << 20
	maxIdentityFile = 64 << 10
	maxIdentities   = 16
)

var (
	// ErrRecipient is returned for text that is not a post-quantum age public key.
	ErrRecipient = errors.New("not a post-quantum age public key (age1pq1…)")
	// ErrIdentity is returned for a file that holds no usable post-quantum age private key.
	ErrIdentity = errors.New("not a post-quantum age private key (AGE-SECRET-KEY-PQ-1…)")
	// ErrNotForMe is returned where an age file was sealed to somebody else.
	ErrNotForMe = errors.New("sealed to another key")
	// ErrAgeFile is returned for an age file that is damaged or too long.
	ErrAgeFile = errors.New("damaged age file")
)

// Identity is a post-quantum age private key. Printed in any way it shows only
// its name.
type Identity struct {
	Name      string // from the "# name:" line; empty where there is none
	Recipient string // the public key, age1pq1…
	key       *age.HybridIdentity
}

// Format writes the name and nothing secret, whatever the verb.
func (i Identity) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Identity(%s, redacted)", printName(i.Name))
}

// GenerateIdentity makes a key pair for the person or node of that name. secret
// is the content of a private key file that the age tool reads too; recipient
// is the public key. age draws the randomness itself.
func GenerateIdentity(name string) (secret, recipient string, err error) {
	if !validName(name) {
		return "", "", fmt.Errorf("identity: %w: name %q: want a lowercase letter, then up to 31 lowercase letters, digits and hyphens", ErrParameters, name)
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return "", "", fmt.Errorf("identity: %w", err)
	}
	recipient = id.Recipient().String()
	secret = fmt.Sprintf("# name: %s\n# public key: %s\n%s\n", name, recipient, id)
	return secret, recipient, nil
}

// ParseIdentity reads a private key file with exactly one post-quantum key, as
// [GenerateIdentity] or `age-keygen -pq` writes it.
func ParseIdentity(file []byte) (*Identity, error) {
	ids, err := parseIdentities(file)
	if err != nil {
		return nil, err
	}
	if len(ids) != 1 {
		return nil, fmt.Errorf("identity: %w: the file holds %d keys, want one", ErrIdentity, len(ids))
	}
	return ids[0], nil
}

func parseIdentities(file []byte) ([]*Identity, error) {
	if len(file) > maxIdentityFile {
		return nil, fmt.Errorf("identity: %w: file of %d bytes is longer than %d", ErrIdentity, len(file), maxIdentityFile)
	}
	var ids []*Identity
	var name string
	n := 0
	for line := range strings.Lines(string(file)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if v, found := strings.CutPrefix(line, "# name: "); found && validName(v) {
			name = v
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "AGE-SECRET-KEY-1") {
			return nil, fmt.Errorf("identity: line %d: %w: a classic age key, which a quantum computer will break", n, ErrIdentity)
		}
		// The error of age is left out: nothing of a secret reaches a message.
		key, err := age.ParseHybridIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("identity: line %d: %w", n, ErrIdentity)
		}
		if len(ids) == maxIdentities {
			return nil, fmt.Errorf("identity: %w: more than %d keys", ErrIdentity, maxIdentities)
		}
		ids = append(ids, &Identity{Name: name, Recipient: key.Recipient().String(), key: key})
		name = ""
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("identity: %w: the file holds no key", ErrIdentity)
	}
	return ids, nil
}

// CheckRecipient accepts a post-quantum age public key in its one canonical
// form, and refuses classic keys with a reason.
func CheckRecipient(recipient string) error {
	_, err := parseRecipient(recipient)
	return err
}

func parseRecipient(recipient string) (*age.HybridRecipient, error) {
	switch {
	case strings.HasPrefix(recipient, "age1pq1"):
	case strings.HasPrefix(recipient, "age1"):
		return nil, fmt.Errorf("recipient: %w: a classic age key, which a quantum computer will break", ErrRecipient)
	default:
		// Perhaps a private key in the wrong place: not shown.
		return nil, fmt.Errorf("recipient: %w", ErrRecipient)
	}
	r, err := age.ParseHybridRecipient(recipient)
	if err != nil || r.String() != recipient {
		return nil, fmt.Errorf("recipient: %w: damaged", ErrRecipient)
	}
	return r, nil
}

// SealTo seals plaintext of at most [MaxPlaintext] bytes to a post-quantum age
// public key and returns an armored age file.
func SealTo(recipient string, plaintext []byte) ([]byte, error) {
	r, err := parseRecipient(recipient)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("age: %d bytes to seal, at most %d", len(plaintext), MaxPlaintext)
	}
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, r)
	if err != nil {
		return nil, fmt.Errorf("age: seal: %w", err)
	}
	if _, err := w.Write(plaintext); err != nil {
		return nil, fmt.Errorf("age: seal: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("age: seal: %w", err)
	}
	if err := a.Close(); err != nil {
		return nil, fmt.Errorf("age: seal: %w", err)
	}
	return out.Bytes(), nil
}

// OpenWith opens an age file, armored or not, with a private key file that may
// hold several post-quantum keys. It is [ErrNotForMe] where none of them fits,
// and [ErrAgeFile] where the file is damaged. The caller clears the plaintext
// after use.
func OpenWith(identity, file []byte) ([]byte, error) {
	ids, err := parseIdentities(identity)
	if err != nil {
		return nil, err
	}
	if len(file) > maxAgeFile {
		return nil, fmt.Errorf("age: %w: %d bytes, at most %d", ErrAgeFile, len(file), maxAgeFile)
	}
	keys := make([]age.Identity, len(ids))
	for i, id := range ids {
		keys[i] = id.key
	}
	var in io.Reader = bytes.NewReader(file)
	if bytes.HasPrefix(bytes.TrimLeft(file, " \t\r\n"), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, keys...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fmt.Errorf("age: %w", ErrNotForMe)
	}
	if err != nil {
		return nil, fmt.Errorf("age: %w: %w", ErrAgeFile, err)
	}
	plaintext, err := io.ReadAll(io.LimitReader(r, MaxPlaintext+1))
	if err != nil {
		return nil, fmt.Errorf("age: %w: %w", ErrAgeFile, err)
	}
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("age: %w: more than %d bytes inside", ErrAgeFile, MaxPlaintext)
	}
	return plaintext, nil
}

// SealShare seals a share to its custodian's public key and returns an armored age file.
func SealShare(share Share, recipient string) ([]byte, error) {
	text := share.Marshal()
	defer clear(text)
	if _, err := ParseShare(text); err != nil {
		return nil, err
	}
	return SealTo(recipient, text)
}

// OpenShare opens a share with the content of the custodian's private key file.
// Whether it is a good share is for [Check] to say.
func OpenShare(ageFile []byte, identities string) (Share, error) {
	text, err := OpenWith([]byte(identities), ageFile)
	if err != nil {
		return Share{}, fmt.Errorf("share: %w", err)
	}
	defer clear(text)
	return ParseShare(text)
}
