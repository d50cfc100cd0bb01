package order

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/charter"
)

const (
	// Version is the version of an order's text.
	Version = 1
	// Namespace is the SSH signature namespace of orders.
	Namespace = "order@chancery"
	// MaxSize is the most bytes an order may have.
	MaxSize = 256 << 10
	// MaxReason is the most bytes a reason may have.
	MaxReason = 1024
)

var (
	// ErrInvalid is returned for a text that is no order or veto.
	ErrInvalid = errors.New("not in the form of an order")
	// ErrKind is returned for an order of a kind that this program does not know.
	ErrKind = errors.New("unknown kind of order")
)

// Order is an instruction that a quorum signs: one kind, its exact content, for named embassies, under one charter.
// docs/spec/orders.md says what each field means. What [Parse] and [New] return carries the exact bytes that are
// signed; changing its fields does not change these.
type Order struct {
	Kind        charter.ActName // the act of the charter that rules it
	State       charter.StateID
	Charter     uint64   // number of the charter under which it is given
	CharterHash [32]byte // and that charter's hash
	Embassies   []string // names in the charter, rising, at least one
	Proposer    string   // one of those who sign
	Created     time.Time
	Expires     time.Time // until when an embassy may log it
	Nonce       [16]byte  // no two orders of a state have the same
	Reason      string
	Content     Content

	doc []byte
}

// document is how YAML holds an order.
type document struct {
	Version     int            `yaml:"version"`
	Order       string         `yaml:"order"`
	State       string         `yaml:"state"`
	Charter     uint64         `yaml:"charter"`
	CharterHash string         `yaml:"charter_hash"`
	Embassies   []string       `yaml:"embassies"`
	Proposer    string         `yaml:"proposer"`
	Created     string         `yaml:"created"`
	Expires     string         `yaml:"expires"`
	Nonce       string         `yaml:"nonce"`
	Reason      string         `yaml:"reason"`
	Content     map[string]any `yaml:"content"`
}

const timeLayout = "2006-01-02T15:04:05Z"

// New writes the document of o and reads it again, so that what it returns is exactly what others will read.
func New(o Order) (*Order, error) {
	doc, err := o.Marshal()
	if err != nil {
		return nil, err
	}
	return Parse(doc)
}

// Bytes returns a copy of the exact document, or nil for an Order that came from neither [Parse] nor [New].
func (o *Order) Bytes() []byte { return bytes.Clone(o.doc) }

// Hash returns the SHA-256 of the exact document: the order's identity.
func (o *Order) Hash() [32]byte { return sha256.Sum256(o.doc) }

// For reports whether the order is for the embassy of that name.
func (o *Order) For(embassy string) bool { return slices.Contains(o.Embassies, embassy) }

// Marshal checks o and writes its document: the one text that [Parse] reads for it.
func (o *Order) Marshal() ([]byte, error) {
	k, err := o.validate()
	if err != nil {
		return nil, err
	}
	var w canon.Text
	w.Comment("An order of a state to its embassies: %s.", o.Kind)
	for _, line := range k.Does {
		w.Comment("%s", line)
	}
	w.Comment("It counts when as many people as the charter asks for have signed these exact bytes. Then the embassies log it,")
	w.Comment("wait as long as the charter says, and do it, unless someone whom the charter names stops it.")
	w.Comment("To sign:  ssh-keygen -Y sign -n %s -f YOUR_KEY THIS_FILE", Namespace)
	w.Blank()
	fmt.Fprintf(&w, "version: %d\norder: \"%s\"\nstate: \"%s\"\ncharter: %d\ncharter_hash: \"%s\"\n",
		Version, o.Kind, o.State, o.Charter, charter.EncodeDigest(o.CharterHash))
	w.Texts(0, "embassies", o.Embassies)
	fmt.Fprintf(&w, "proposer: \"%s\"\ncreated: \"%s\"\nexpires: \"%s\"\nnonce: \"%x\"\nreason: \"%s\"\ncontent:\n",
		o.Proposer, o.Created.Format(timeLayout), o.Expires.Format(timeLayout), o.Nonce[:], o.Reason)
	for _, name := range k.Fields {
		f := fields[name]
		if texts := f.get(&o.Content); f.list {
			w.Texts(2, name, texts)
		} else {
			fmt.Fprintf(&w, "  %s: \"%s\"\n", name, texts[0])
		}
	}
	if w.Len() > MaxSize {
		return nil, invalid("%d bytes are more than %d", w.Len(), MaxSize)
	}
	return w.Bytes(), nil
}

// Parse reads an order. It accepts exactly what [Order.Marshal] writes, comments and empty lines too, so that nothing
// beside the order can be said in its text. It fails with [ErrInvalid], which names the line, or with [ErrKind].
// doc is copied.
func Parse(doc []byte) (*Order, error) {
	if err := canon.CheckLines(doc, MaxSize); err != nil {
		return nil, invalid("%v", err)
	}
	var d document
	if err := yaml.UnmarshalWithOptions(doc, &d, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("order: %w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if d.Version != Version {
		return nil, invalid("version %d: this program knows version %d", d.Version, Version)
	}
	o, err := d.order()
	if err != nil {
		return nil, err
	}
	want, err := o.Marshal()
	if err != nil {
		return nil, err
	}
	if err := sameText(doc, want); err != nil {
		return nil, err
	}
	o.doc = want
	return o, nil
}

// order takes over what the YAML holds; what is not in its one form is found when the text is compared.
func (d *document) order() (*Order, error) {
	o := Order{
		Kind: charter.ActName(d.Order), Charter: d.Charter, Embassies: d.Embassies, Proposer: d.Proposer, Reason: d.Reason,
	}
	k, ok := KindOf(o.Kind)
	if !ok {
		return nil, fmt.Errorf("order: %w: %q", ErrKind, d.Order)
	}
	var err error
	if o.State, err = charter.ParseStateID(d.State); err != nil {
		return nil, invalid("state: %v", err)
	}
	if o.CharterHash, err = charter.ParseDigest(d.CharterHash); err != nil {
		return nil, invalid("charter_hash: %v", err)
	}
	if o.Created, err = parseTime(d.Created); err != nil {
		return nil, invalid("created: %v", err)
	}
	if o.Expires, err = parseTime(d.Expires); err != nil {
		return nil, invalid("expires: %v", err)
	}
	nonce, err := hex.DecodeString(d.Nonce)
	if err != nil || len(nonce) != len(o.Nonce) {
		return nil, invalid("nonce: want 32 lowercase hexadecimal digits")
	}
	o.Nonce = [16]byte(nonce)
	if len(d.Content) != len(k.Fields) {
		return nil, invalid("content: %d fields: an order of kind %s has %d", len(d.Content), k.Name, len(k.Fields))
	}
	for _, name := range k.Fields {
		texts, err := fieldTexts(d.Content[name], fields[name].list)
		if err == nil {
			err = fields[name].set(&o.Content, texts)
		}
		if err != nil {
			return nil, invalid("content: %s: %v", name, err)
		}
	}
	return &o, nil
}

// fieldTexts returns what stands in a field: one text, or the items of a list.
func fieldTexts(v any, list bool) ([]string, error) {
	if text, ok := v.(string); ok && !list {
		return []string{text}, nil
	}
	items, ok := v.([]any)
	if !ok || !list {
		return nil, errors.New("is missing, or no text, or not the list that it should be")
	}
	texts := make([]string, len(items))
	for i := range items {
		if texts[i], ok = items[i].(string); !ok {
			return nil, fmt.Errorf("item %d is no text", i+1)
		}
	}
	return texts, nil
}

func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(timeLayout, text)
	if err != nil || t.Format(timeLayout) != text {
		return time.Time{}, errors.New("want a time such as 2026-01-31T12:00:00Z")
	}
	return t, nil
}

// validate checks all that an order keeps to by itself.
func (o *Order) validate() (Kind, error) {
	k, ok := KindOf(o.Kind)
	switch {
	case !ok:
		return k, fmt.Errorf("order: %w: %q", ErrKind, o.Kind)
	case o.State == charter.StateID{}:
		return k, invalid("state: is zero")
	case o.Charter < 1:
		return k, invalid("charter: counts from 1")
	case len(o.Embassies) < 1 || len(o.Embassies) > charter.MaxEmbassies:
		return k, invalid("embassies: %d of them: want 1 to %d", len(o.Embassies), charter.MaxEmbassies)
	case !rising(o.Embassies):
		return k, invalid("embassies: want each once, in the order of their names")
	case slices.ContainsFunc(o.Embassies, notName):
		return k, invalid("embassies: one is no name")
	case notName(o.Proposer):
		return k, invalid("proposer: no name")
	case !wholeSecond(o.Created) || !wholeSecond(o.Expires):
		return k, invalid("created and expires: want whole seconds of UTC, in the years 1970 to 2261")
	case !o.Expires.After(o.Created):
		return k, invalid("expires: not after created")
	case o.Nonce == [16]byte{}:
		return k, invalid("nonce: is zero")
	case !canon.ValidText(o.Reason, MaxReason):
		return k, invalid("reason: want 1 to %d bytes of visible text without quotes or backslashes", MaxReason)
	}
	return k, o.validateContent(k)
}

func notName(s string) bool { return !charter.ValidName(s) }

func rising(s []string) bool {
	for i := 1; i < len(s); i++ {
		if s[i-1] >= s[i] {
			return false
		}
	}
	return true
}

func wholeSecond(t time.Time) bool {
	return t.Location() == time.UTC && t.Nanosecond() == 0 && t.Year() >= 1970 && t.Year() < 2262
}

// sameText names the first line in which a document is not the one text of what it says.
func sameText(doc, want []byte) error {
	if bytes.Equal(doc, want) {
		return nil
	}
	a, b := bytes.SplitAfter(doc, []byte("\n")), bytes.SplitAfter(want, []byte("\n"))
	for i := range a {
		if i >= len(b) || len(b[i]) == 0 && len(a[i]) > 0 {
			return invalid("line %d: more than the document holds", i+1)
		}
		if !bytes.Equal(a[i], b[i]) {
			return invalid("line %d: want exactly `%s`", i+1, bytes.TrimSuffix(b[i], []byte("\n")))
		}
	}
	return invalid("the end is missing")
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("order: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
