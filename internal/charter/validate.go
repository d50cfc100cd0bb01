package charter

import (
	"net/url"
	"regexp"
	"strings"

	"chancery.dev/chancery/internal/canon"
)

// Most entries of each list of a charter.
const (
	MaxSigners    = 64
	MaxCustodians = 32
	MaxAgents     = 1024
	MaxEmbassies  = 32
	MaxWitnesses  = 32
	MaxAuditors   = 64
	maxURLs       = 8
)

var (
	namePattern      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	codePattern      = regexp.MustCompile(`^[A-Z]{2}$`)
	recipientPattern = regexp.MustCompile(`^age1pq1[02-9ac-hj-np-z]+$`)
	originPattern    = regexp.MustCompile(`^[!-*,-~]{1,255}$`) // visible ASCII but the plus sign, as note keys demand
	addressPattern   = regexp.MustCompile(`^https://[!#-\[\]-~]{1,246}[!#-.0-\[\]-~]$`)
)

// recipientSize is the length of a post-quantum age public key as text.
const recipientSize = 1959

// ValidName reports whether name may name a person, machine, embassy, witness or
// register: a lowercase letter, then up to 31 lowercase letters, digits and hyphens.
func ValidName(name string) bool { return namePattern.MatchString(name) }

// Validate checks every rule that a charter keeps by itself; [ErrInvalid] says
// which is broken. What it keeps with the charter before it is [CheckSuccession].
func (c *Charter) Validate() error {
	switch {
	case c.Version < 1 || c.Version > VersionMLDSA:
		return invalid("version %d: this program knows versions 1 to %d", c.Version, VersionMLDSA)
	case c.Suite != Suite:
		return invalid("suite %q: this program knows %q", c.Suite, Suite)
	case c.State.ID == StateID{}:
		return invalid("state id: is zero")
	case !canon.ValidText(c.State.Name, 128):
		return invalid("state name: want 1 to 128 bytes of visible text without quotes or backslashes")
	case !codePattern.MatchString(c.State.Code):
		return invalid("state code %q: want two uppercase letters", c.State.Code)
	case c.Number < 1:
		return invalid("number: counts from 1")
	case c.Number == 1 && c.Previous != "":
		return invalid("previous: charter 1 follows none")
	}
	if c.Number > 1 {
		if _, err := ParseDigest(c.Previous); err != nil {
			return invalid("previous: want the hash of charter %d: 64 lowercase hexadecimal digits", c.Number-1)
		}
	}
	v := &validator{keys: map[string]string{}}
	for _, check := range []func(*Charter, *validator) error{checkRules, checkCustody, checkAgents, checkEmbassies, checkWitnessing} {
		if err := check(c, v); err != nil {
			return err
		}
	}
	return nil
}

// validator remembers which key has which use, over all parts of a charter.
type validator struct {
	keys map[string]string // key bytes -> whose
}

// key claims a key for one use.
func (v *validator) key(key []byte, use string) error {
	if other, taken := v.keys[string(key)]; taken {
		return invalid("%s: has the same key as %s", use, other)
	}
	v.keys[string(key)] = use
	return nil
}

// claim returns a function that refuses what it has seen before.
func claim[T comparable](kind, what string) func(name string, v T) error {
	seen := map[T]string{}
	return func(name string, v T) error {
		if other, taken := seen[v]; taken {
			return invalid("%s %s: has the same %s as %s", kind, name, what, other)
		}
		seen[v] = name
		return nil
	}
}

func checkNames[T any](kind string, limit int, list []T, name func(T) string) error {
	if len(list) > limit {
		return invalid("%d of kind %s: at most %d", len(list), kind, limit)
	}
	seen := map[string]bool{}
	for i, e := range list {
		n := name(e)
		if !ValidName(n) {
			return invalid("%s %d: name %q: want a lowercase letter, then up to 31 lowercase letters, digits and hyphens", kind, i+1, n)
		}
		if seen[n] {
			return invalid("%s %d: the name %s is taken", kind, i+1, n)
		}
		seen[n] = true
	}
	return nil
}

func checkSigners(c *Charter, v *validator) error {
	if err := checkNames("signer", MaxSigners, c.Signers, func(s Signer) string { return s.Name }); err != nil {
		return err
	}
	if c.Threshold < 1 || c.Threshold > len(c.Signers) {
		return invalid("threshold: %d of %d signers is not possible", c.Threshold, len(c.Signers))
	}
	for _, s := range c.Signers {
		k, err := parseSigner(s.Key)
		if err != nil {
			return invalid("signer %s: %v", s.Name, err)
		}
		if err := v.key(signerKeyBytes(k), "signer "+s.Name); err != nil {
			return err
		}
	}
	return nil
}

func checkCustody(c *Charter, v *validator) error {
	k := &c.Custody
	if err := checkNames("custodian", MaxCustodians, k.Custodians, func(s Custodian) string { return s.Name }); err != nil {
		return err
	}
	if k.Generation < 1 {
		return invalid("custody: generation counts from 1")
	}
	if k.Threshold < 1 || k.Threshold > len(k.Custodians) {
		return invalid("custody: threshold: %d of %d custodians is not possible", k.Threshold, len(k.Custodians))
	}
	if _, err := ParseOpeningKey(k.OpeningKey); err != nil {
		return invalid("custody: opening_key: %v", err)
	}
	recovery, err := ParseKey(k.RecoveryKey)
	if err != nil {
		return invalid("custody: recovery_key: %v", err)
	}
	if err := v.key(recovery, "the recovery key"); err != nil {
		return err
	}
	recipients := claim[string]("custodian", "recipient")
	commitments := claim[string]("custodian", "commitment")
	for i, h := range k.Custodians {
		if int(h.X) != i+1 {
			return invalid("custodian %s: x is %d, want %d: the shares are numbered in order", h.Name, h.X, i+1)
		}
		if len(h.Recipient) != recipientSize || !recipientPattern.MatchString(h.Recipient) {
			return invalid("custodian %s: recipient is not a post-quantum age public key (age1pq1…)", h.Name)
		}
		if err := recipients(h.Name, h.Recipient); err != nil {
			return err
		}
		if _, err := ParseDigest(h.Commitment); err != nil {
			return invalid("custodian %s: commitment: want 64 lowercase hexadecimal digits", h.Name)
		}
		if err := commitments(h.Name, h.Commitment); err != nil {
			return err
		}
	}
	return nil
}

func checkAgents(c *Charter, v *validator) error {
	if err := checkNames("agent", MaxAgents, c.Agents, func(a Agent) string { return a.Name }); err != nil {
		return err
	}
	for _, a := range c.Agents {
		key, err := ParseKey(a.Key)
		if err != nil {
			return invalid("agent %s: %v", a.Name, err)
		}
		if err := v.key(key, "agent "+a.Name); err != nil {
			return err
		}
		if a.Until != "" && (c.Version < 3 || !a.Until.Valid()) {
			return invalid("agent %s: until %q: want a day such as 2026-01-31, or nothing", a.Name, a.Until)
		}
	}
	return nil
}

func checkEmbassies(c *Charter, v *validator) error {
	if err := checkNames("embassy", MaxEmbassies, c.Embassies, func(e Embassy) string { return e.Name }); err != nil {
		return err
	}
	ids := claim[EmbassyID]("embassy", "id")
	origins := claim[string]("embassy", "origin")
	addresses := claim[string]("embassy", "address")
	for _, e := range c.Embassies {
		key, err := ParseKey(e.Key)
		if err != nil {
			return invalid("embassy %s: %v", e.Name, err)
		}
		if err := v.key(key, "embassy "+e.Name); err != nil {
			return err
		}
		if err := checkMLDSAKey(e.MLDSAKey, "embassy "+e.Name, v); err != nil {
			return err
		}
		if e.MLDSAKey != "" && c.Version < VersionMLDSA {
			return invalid("embassy %s: version %d: knows no mldsa_key of embassies", e.Name, c.Version)
		}
		if e.ID != EmbassyIDOf(key) {
			return invalid("embassy %s: id %s is not that of its key, %s", e.Name, e.ID, EmbassyIDOf(key))
		}
		if err := ids(e.Name, e.ID); err != nil {
			return err
		}
		if !codePattern.MatchString(e.Country) {
			return invalid("embassy %s: country %q: want two uppercase letters", e.Name, e.Country)
		}
		if !originPattern.MatchString(e.Origin) {
			return invalid("embassy %s: origin: want 1 to 255 visible ASCII characters without a plus sign", e.Name)
		}
		if strings.ContainsAny(e.Origin, `"\`) {
			return invalid("embassy %s: origin: holds a quote or a backslash", e.Name)
		}
		if err := origins(e.Name, e.Origin); err != nil {
			return err
		}
		if len(e.URLs) < 1 || len(e.URLs) > maxURLs {
			return invalid("embassy %s: %d urls: want 1 to %d", e.Name, len(e.URLs), maxURLs)
		}
		for _, u := range e.URLs {
			if !validAddress(u) {
				return invalid("embassy %s: url %q: want https://HOST[:PORT][/PATH] with no slash at the end", e.Name, u)
			}
			if err := addresses(e.Name, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// validAddress accepts https://HOST[:PORT][/PATH] without a trailing slash.
func validAddress(text string) bool {
	if !addressPattern.MatchString(text) {
		return false
	}
	u, err := url.Parse(text)
	return err == nil && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && !u.ForceQuery &&
		u.Fragment == "" && !strings.Contains(text, "#") && u.String() == text
}
