package charter

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// ErrNoAct is returned for an act that the charter gives to nobody.
var ErrNoAct = errors.New("no one may do this under the charter")

// Voter is a person with the SSH public keys (as [Signer.Key]) that stand for them.
type Voter struct {
	Name string
	Keys []string
}

// VoterOf is the person of a name, with the keys of all charters given.
func VoterOf(name string, in ...*Charter) Voter {
	v := Voter{Name: name}
	for _, c := range in {
		if p, ok := c.PersonByName(name); ok {
			v.Keys = append(v.Keys, p.Keys...)
		}
	}
	slices.Sort(v.Keys)
	v.Keys = slices.Compact(v.Keys)
	return v
}

// Vote is a person's signature that counts.
type Vote struct {
	Name string
	// Key is the SSH public key that signed, as [Signer.Key].
	Key string
	// Touched: by a hardware key, which was touched for it.
	Touched bool
}

// Tally returns who of voters signed the exact bytes of doc in a namespace, in
// the order of their first signatures. Distinct people with distinct keys are
// counted: a second signature of one person, a key under a second name, and a
// second key of one person add nothing. Signatures by keys that no voter has are
// passed over. With touch only those of hardware keys count, which sign nothing
// here without being touched. A malformed block, or one by a voter that does not
// verify, is [ErrSignature].
func Tally(doc, sigs []byte, namespace string, voters []Voter, touch bool) ([]Vote, error) {
	owners := map[string][]string{} // key -> names
	for _, v := range voters {
		for _, text := range v.Keys {
			k, err := parseSigner(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.Name, err)
			}
			owners[string(k.Marshal())] = append(owners[string(k.Marshal())], v.Name)
		}
	}
	blocks, err := splitSignatures(sigs)
	if err != nil {
		return nil, err
	}
	var votes []Vote
	seen := map[string]bool{} // keys that have counted
	for n, b := range blocks {
		sig, err := sshsig.ParseSignature(b)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w: %w", n+1, ErrSignature, err)
		}
		key := string(sig.PublicKey.Marshal())
		names := owners[key]
		if len(names) == 0 {
			continue
		}
		if err := sshsig.Verify(bytes.NewReader(doc), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
			return nil, fmt.Errorf("signature %d of %s: %w: %w", n+1, names[0], ErrSignature, err)
		}
		hardware := sig.PublicKey.Type() == ssh.KeyAlgoSKED25519
		if seen[key] || touch && !hardware {
			continue
		}
		for _, name := range names {
			if !slices.ContainsFunc(votes, func(v Vote) bool { return v.Name == name }) {
				votes = append(votes, Vote{Name: name, Key: sshText(sig.PublicKey), Touched: hardware})
				seen[key] = true
				break
			}
		}
	}
	return votes, nil
}

// SignIn is [Sign] in any namespace, such as that of orders.
func SignIn(namespace string, doc []byte, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign: %w", ErrKey)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	// Ed25519 signatures need no randomness.
	sig, err := sshsig.SignWithRand(bytes.NewReader(doc), nil, signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sshsig.Armor(sig), nil
}
