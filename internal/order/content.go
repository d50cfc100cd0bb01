package order

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/charter"
)

// Most entries of what an order contains.
const (
	MaxSnapshots = 4096 // more of them are more orders
	MaxRecords   = 1024
)

// Content is what orders of all kinds contain; [Kind.Fields] says which fields one kind uses, and the others are zero.
type Content struct {
	Register   charter.RegisterID
	Label      string      // the register's name for people, at most 128 bytes
	Snapshots  []uint64    // numbers, rising; none: to erase, the whole register; to release, only what no snapshot needs
	Lists      []List      // one for each embassy of the order, in the same order
	Hold       string      // name of a hold
	Who        Who         // to suspend or restore
	Recipient  [32]byte    // [charter.RecipientHash] of the reader's age recipient
	Record     [32]byte    // SHA-256 of the new register record
	Generation uint32      // of the opening key
	Records    []RecordRef // the new register records, rising by register
	Number     uint64      // of the next charter
	Hash       [32]byte    // of the next charter
}

// List binds the names of the objects that one embassy is to remove. The names travel beside the order, as an
// attachment.
type List struct {
	Embassy string
	Hash    [32]byte // SHA-256 of the attachment
	Count   uint64   // objects in it
	Bytes   uint64   // of these objects together, as that embassy stores them
}

// Check returns [ErrAttachment] unless these are the bytes that the list binds.
func (l *List) Check(attachment []byte) error {
	if sha256.Sum256(attachment) != l.Hash {
		return fmt.Errorf("order: list of %s: %w", l.Embassy, ErrAttachment)
	}
	return nil
}

// ErrAttachment is returned for bytes that are not those that an order binds.
var ErrAttachment = errors.New("not the attachment that the order names")

// ListFor returns the list of the embassy of that name.
func (c *Content) ListFor(embassy string) (List, bool) {
	i := slices.IndexFunc(c.Lists, func(l List) bool { return l.Embassy == embassy })
	if i < 0 {
		return List{}, false
	}
	return c.Lists[i], true
}

// Who is a person or an agent of the charter.
type Who struct {
	Agent bool // an agent, not a person
	Name  string
}

// String is "person NAME" or "agent NAME".
func (w Who) String() string {
	if w.Agent {
		return "agent " + w.Name
	}
	return "person " + w.Name
}

// RecordRef names the new record of a register.
type RecordRef struct {
	Register charter.RegisterID
	Hash     [32]byte // SHA-256 of the record
}

// field is one field of a content: how it stands in the text.
type field struct {
	list bool
	get  func(*Content) []string // one text unless it is a list
	set  func(*Content, []string) error
}

// text makes a field of one text.
func text(get func(*Content) string, set func(*Content, string) error) field {
	return field{
		get: func(c *Content) []string { return []string{get(c)} },
		set: func(c *Content, t []string) error { return set(c, t[0]) },
	}
}

// list makes a field of texts, of which each is an entry, rising by less.
func list[T any](limit int, of func(*Content) *[]T, write func(T) string, read func(string) (T, error), compare func(a, b T) int) field {
	return field{
		list: true,
		get: func(c *Content) []string {
			texts := make([]string, len(*of(c)))
			for i, v := range *of(c) {
				texts[i] = write(v)
			}
			return texts
		},
		set: func(c *Content, texts []string) error {
			if len(texts) > limit {
				return fmt.Errorf("%d entries: at most %d", len(texts), limit)
			}
			for i, t := range texts {
				v, err := read(t)
				if err != nil {
					return fmt.Errorf("entry %d: %w", i+1, err)
				}
				if all := *of(c); i > 0 && compare(all[i-1], v) >= 0 {
					return fmt.Errorf("entry %d: not above the one before", i+1)
				}
				*of(c) = append(*of(c), v)
			}
			return nil
		},
	}
}

func digest(of func(*Content) *[32]byte) field {
	return text(func(c *Content) string { return charter.EncodeDigest(*of(c)) }, func(c *Content, s string) (err error) {
		*of(c), err = charter.ParseDigest(s)
		return err
	})
}

var fields = map[string]field{
	"register": text(func(c *Content) string { return c.Register.String() }, func(c *Content, s string) (err error) {
		c.Register, err = parseRegister(s)
		return err
	}),
	"label": text(func(c *Content) string { return c.Label }, func(c *Content, s string) error {
		c.Label = s
		if !canon.ValidText(s, 128) {
			return errors.New("want 1 to 128 bytes of visible text without quotes or backslashes")
		}
		return nil
	}),
	"snapshots": list(MaxSnapshots, func(c *Content) *[]uint64 { return &c.Snapshots },
		func(n uint64) string { return strconv.FormatUint(n, 10) }, parseNumber, compareNumbers),
	"lists": list(charter.MaxEmbassies, func(c *Content) *[]List { return &c.Lists }, writeList, parseList,
		func(a, b List) int { return strings.Compare(a.Embassy, b.Embassy) }),
	"name": text(func(c *Content) string { return c.Hold }, func(c *Content, s string) error {
		c.Hold = s
		if notName(s) {
			return errors.New("no name")
		}
		return nil
	}),
	"who": text(func(c *Content) string { return c.Who.String() }, func(c *Content, s string) error {
		kind, name, _ := strings.Cut(s, " ")
		c.Who = Who{Agent: kind == "agent", Name: name}
		if notName(name) || kind != "agent" && kind != "person" {
			return errors.New("want person NAME or agent NAME")
		}
		return nil
	}),
	"recipient": digest(func(c *Content) *[32]byte { return &c.Recipient }),
	"record":    digest(func(c *Content) *[32]byte { return &c.Record }),
	"generation": text(func(c *Content) string { return strconv.FormatUint(uint64(c.Generation), 10) }, func(c *Content, s string) error {
		n, err := parseNumber(s)
		c.Generation = uint32(n)
		if err == nil && n > 1<<32-1 {
			err = errors.New("too large")
		}
		return err
	}),
	"records": list(MaxRecords, func(c *Content) *[]RecordRef { return &c.Records },
		func(r RecordRef) string { return r.Register.String() + " " + charter.EncodeDigest(r.Hash) }, parseRecordRef,
		func(a, b RecordRef) int { return strings.Compare(string(a.Register[:]), string(b.Register[:])) }),
	"number": text(func(c *Content) string { return strconv.FormatUint(c.Number, 10) }, func(c *Content, s string) (err error) {
		c.Number, err = parseNumber(s)
		return err
	}),
	"hash": digest(func(c *Content) *[32]byte { return &c.Hash }),
}

func parseRegister(s string) (charter.RegisterID, error) {
	id, err := charter.ParseRegisterID(s)
	if err == nil && id == (charter.RegisterID{}) {
		err = errors.New("is zero")
	}
	return id, err
}

// parseNumber reads a decimal number from 1.
func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("want a number from 1 without leading zeros")
	}
	return n, nil
}

func compareNumbers(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func writeList(l List) string {
	return fmt.Sprintf("%s %s %d %d", l.Embassy, charter.EncodeDigest(l.Hash), l.Count, l.Bytes)
}

func parseList(s string) (List, error) {
	want := errors.New("want EMBASSY SHA256 COUNT BYTES")
	p := strings.Split(s, " ")
	if len(p) != 4 || notName(p[0]) {
		return List{}, want
	}
	hash, err := charter.ParseDigest(p[1])
	if err != nil {
		return List{}, want
	}
	count, err1 := strconv.ParseUint(p[2], 10, 64)
	size, err2 := strconv.ParseUint(p[3], 10, 64)
	l := List{p[0], hash, count, size}
	if err1 != nil || err2 != nil || writeList(l) != s {
		return List{}, want
	}
	return l, nil
}

func parseRecordRef(s string) (RecordRef, error) {
	want := errors.New("want REGISTER SHA256")
	id, hash, _ := strings.Cut(s, " ")
	var r RecordRef
	var err error
	if r.Register, err = parseRegister(id); err != nil {
		return r, want
	}
	if r.Hash, err = charter.ParseDigest(hash); err != nil {
		return r, want
	}
	return r, nil
}

// validateContent checks that the fields of the kind are in their form, and that others are not used.
func (o *Order) validateContent(k Kind) error {
	var again, zero Content
	for name, f := range fields {
		texts := f.get(&o.Content)
		if !slices.Contains(k.Fields, name) {
			if !slices.Equal(texts, f.get(&zero)) {
				return invalid("content: an order of kind %s has no %s", k.Name, name)
			}
			continue
		}
		if err := f.set(&again, texts); err != nil {
			return invalid("content: %s: %v", name, err)
		}
		if !slices.Equal(texts, f.get(&again)) {
			return invalid("content: %s: not in its form", name)
		}
	}
	if !slices.Contains(k.Fields, "lists") {
		return nil
	}
	if !slices.EqualFunc(o.Content.Lists, o.Embassies, func(l List, name string) bool { return l.Embassy == name }) {
		return invalid("content: lists: want one for each embassy of the order")
	}
	return nil
}
