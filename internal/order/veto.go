package order

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/charter"
)

// VetoNamespace is the SSH signature namespace of vetoes.
const VetoNamespace = "veto@chancery"

// MaxVetoSize is the most bytes a veto may have.
const MaxVetoSize = 4 << 10

// ErrVeto is returned for a veto of someone who may not stop the order.
var ErrVeto = errors.New("not a veto of one who may stop this order")

// Veto is one person's word that a waiting order is not to take effect.
type Veto struct {
	Order  [32]byte // hash of the order
	Name   string   // whoever signs it
	Reason string
	Time   time.Time // when it was written, in whole seconds of UTC; for people

	doc []byte
}

type vetoDocument struct {
	Version int    `yaml:"version"`
	Veto    string `yaml:"veto"`
	Name    string `yaml:"name"`
	Reason  string `yaml:"reason"`
	Time    string `yaml:"time"`
}

// Bytes returns a copy of the exact document, or nil for a Veto that did not come from [ParseVeto].
func (v *Veto) Bytes() []byte { return bytes.Clone(v.doc) }

// Digest returns the SHA-256 of the exact document.
func (v *Veto) Digest() [32]byte { return sha256.Sum256(v.doc) }

// Marshal checks v and writes its document: the one text that [ParseVeto] reads for it.
func (v *Veto) Marshal() ([]byte, error) {
	switch {
	case notName(v.Name):
		return nil, invalid("veto: name: no name")
	case !canon.ValidText(v.Reason, MaxReason):
		return nil, invalid("veto: reason: want 1 to %d bytes of visible text without quotes or backslashes", MaxReason)
	case !wholeSecond(v.Time):
		return nil, invalid("veto: time: want whole seconds of UTC, in the years 1970 to 2261")
	}
	var w canon.Text
	w.Comment("A veto: the order of which this is the hash is not to take effect.")
	w.Comment("To sign:  ssh-keygen -Y sign -n %s -f YOUR_KEY THIS_FILE", VetoNamespace)
	w.Blank()
	fmt.Fprintf(&w, "version: %d\nveto: \"%s\"\nname: \"%s\"\nreason: \"%s\"\ntime: \"%s\"\n",
		Version, charter.EncodeDigest(v.Order), v.Name, v.Reason, v.Time.Format(timeLayout))
	return w.Bytes(), nil
}

// ParseVeto reads what [Veto.Marshal] writes and nothing else; [ErrInvalid] otherwise. doc is copied.
func ParseVeto(doc []byte) (*Veto, error) {
	if err := canon.CheckLines(doc, MaxVetoSize); err != nil {
		return nil, invalid("veto: %v", err)
	}
	var d vetoDocument
	if err := yaml.UnmarshalWithOptions(doc, &d, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("veto: %w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if d.Version != Version {
		return nil, invalid("veto: version %d: this program knows version %d", d.Version, Version)
	}
	v := Veto{Name: d.Name, Reason: d.Reason}
	var err error
	if v.Order, err = charter.ParseDigest(d.Veto); err != nil {
		return nil, invalid("veto: %v", err)
	}
	if v.Time, err = parseTime(d.Time); err != nil {
		return nil, invalid("veto: time: %v", err)
	}
	want, err := v.Marshal()
	if err != nil {
		return nil, err
	}
	if err := sameText(doc, want); err != nil {
		return nil, err
	}
	v.doc = want
	return &v, nil
}

// CheckVeto holds a veto against the order's rule, as [Check] or [Recheck] returned it: whoever it names is of the role
// that may stop such an order under c, is not barred, and signed it. One signature is enough, and needs no touch: to stop
// is the safe side.
func CheckVeto(c *charter.Charter, rule charter.Act, o *Order, v *Veto, sigs []byte, at time.Time, barred []string) (charter.Vote, error) {
	if v.Order != o.Hash() {
		return charter.Vote{}, fmt.Errorf("veto: %w: it is of order %s", ErrVeto, charter.EncodeDigest(v.Order))
	}
	if rule.Veto == "" {
		return charter.Vote{}, fmt.Errorf("veto: %w: nobody may, under charter %d", ErrVeto, c.Number)
	}
	votes, err := charter.Tally(v.doc, sigs, VetoNamespace, c.Voters(rule.Veto, at, barred...), false)
	if err != nil {
		return charter.Vote{}, fmt.Errorf("veto: %w", err)
	}
	i := slices.IndexFunc(votes, func(w charter.Vote) bool { return w.Name == v.Name })
	if i < 0 {
		return charter.Vote{}, fmt.Errorf("veto: %w: %s is not of role %s, or did not sign", ErrVeto, v.Name, rule.Veto)
	}
	return votes[i], nil
}
