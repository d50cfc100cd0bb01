package home

import (
	"errors"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/charter"
)

// A grant adds one reader and changes nothing else, and home takes nothing else in its place: the secrets, keys, embassies
// and readers that it had stay, and the record before is kept.
func TestAGrantAddsOneReaderAlone(t *testing.T) {
	h := create(t)
	r := register(t, h)
	ids, f := people()
	secrets, err := OpenGrant(r.Record, []byte(ids["mari"]))
	if err != nil {
		t.Fatal(err)
	}
	next, err := h.Grant(r, secrets, f.Custodians[1].Recipient, 4)
	if err != nil {
		t.Fatal(err)
	}
	if next.Sequence != 5 || len(next.Grants) != 2 || len(r.Record.Grants) != 1 || next.Verify() != nil {
		t.Errorf("%+v", next)
	}
	for _, name := range []string{f.Custodians[0].Name, f.Custodians[1].Name} {
		if s, err := OpenGrant(next, []byte(ids[name])); err != nil || *s != *secrets {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenGrant(next, []byte(ids[f.Custodians[2].Name])); !errors.Is(err, ErrNotReader) {
		t.Errorf("to whom it was not granted: %v", err)
	}
	if _, err := h.Grant(r, secrets, f.Custodians[0].Recipient, 0); !errors.Is(err, ErrGranted) {
		t.Errorf("a second time: %v", err)
	}
	other := *secrets
	other.Seed[0] ^= 1
	if _, err := h.Grant(r, &other, f.Custodians[1].Recipient, 0); !errors.Is(err, charter.ErrRegister) {
		t.Errorf("of another key: %v", err)
	}
	for what, change := range map[string]func(*charter.Register){
		"no higher number":  func(n *charter.Register) { n.Sequence = 1 },
		"other secrets":     func(n *charter.Register) { n.Sealed = []byte("x") },
		"another key":       func(n *charter.Register) { n.PublicKey = another(t, h, "sea").Record.PublicKey },
		"another embassy":   func(n *charter.Register) { n.Members = []charter.EmbassyID{{9}} },
		"a reader less":     func(n *charter.Register) { n.Grants = n.Grants[1:] },
		"another register":  func(n *charter.Register) { n.ID = charter.RegisterID{9} },
		"the key's epoch":   func(n *charter.Register) { n.Epoch = 2 },
		"how many are read": func(n *charter.Register) { n.K = 2 },
	} {
		bad := *next
		bad.Grants = slices.Clone(next.Grants)
		change(&bad)
		if err := r.Adopt(&bad); !errors.Is(err, ErrOtherRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
	first := r.Record
	if err := r.Adopt(next); err != nil {
		t.Fatal(err)
	}
	again, err := h.Register(r.Definition.Name)
	if err != nil || again.Record.Signature != next.Signature {
		t.Fatalf("adopted: %v", err)
	}
	if all, err := again.Records(); err != nil || len(all) != 2 || all[0].Signature != first.Signature {
		t.Errorf("the one before: %v, %v", all, err)
	}
}
