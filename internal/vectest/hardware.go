package vectest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Hardware signs as a hardware key does (sk-ssh-ed25519), with its flags: 1 says that it was touched, 4 that a PIN was
// given.
type Hardware struct {
	Key   ed25519.PrivateKey
	Flags byte
}

// PublicKey is the key as ssh knows it.
func (h Hardware) PublicKey() ssh.PublicKey {
	k, _ := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, h.Key.Public().(ed25519.PublicKey), "ssh:"})) // what is written in this form is read
	return k
}

// Text is the public key as a charter has it.
func (h Hardware) Text() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(h.PublicKey())))
}

// Sign implements ssh.Signer.
func (h Hardware) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	tail := []byte{h.Flags, 0, 0, 0, 7} // and a counter
	blob := ed25519.Sign(h.Key, slices.Concat(app[:], tail, message[:]))
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: blob, Rest: tail}, nil
}

// SignIn makes the armored signature of a document in a namespace, as ssh-keygen -Y sign does with such a key.
func (h Hardware) SignIn(t testing.TB, namespace string, doc []byte) []byte {
	t.Helper()
	sig, err := sshsig.SignWithRand(bytes.NewReader(doc), nil, h, sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return sshsig.Armor(sig)
}
