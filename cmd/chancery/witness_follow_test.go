package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

// A witness follows no charter but one that the quorum of the one before signed, of the next number; one given by
// succession is a person's to look at.
func TestAWitnessFollowsASignedSuccessorOnly(t *testing.T) {
	t.Parallel()
	keys, err := holders()
	if err != nil {
		t.Fatal(err)
	}
	h, err := home.Create(filepath.Join(t.TempDir(), "home"), home.Founding{
		Name: "Republic of X", Code: "XX", Quorum: 1, Custodians: []home.Holder{{Name: "mari", Recipient: keys["mari"][1]}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	seed := func(name string) ed25519.PrivateKey {
		sum := sha256.Sum256([]byte(name))
		return ed25519.NewKeyFromSeed(sum[:])
	}
	c := *h.Charter
	c.Signers, c.Threshold = nil, 0
	for _, name := range []string{"ana", "jo", "ema", "leo"} {
		key, err := charter.SSHPublicKey(seed(name).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		c.People = append(c.People, charter.Person{Name: name, Office: "x", From: "2020-01-01", Keys: []string{key}})
	}
	c.Roles = []charter.Role{{Name: "council", People: []string{"ana", "jo"}}, {Name: "elder", People: []string{"ema", "leo"}}}
	c.Acts = []charter.Act{{Act: charter.ActCharter, Role: "council", Need: 2, Cooling: "0", Valid: charter.DefaultValid, Touch: "no", Veto: "elder"}}
	c.Succession = charter.Succession{Role: "elder", Need: 2, After: "14d", StoppedBy: "council"}
	old, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	record := func(change func(*charter.Charter), people ...string) []byte {
		n := old.Next()
		n.Freshness = 12
		if change != nil {
			change(&n)
		}
		next, err := charter.New(n)
		if err != nil {
			t.Fatal(err)
		}
		var sigs []byte
		for _, p := range people {
			sig, err := charter.Sign(next.Bytes(), seed(p))
			if err != nil {
				t.Fatal(err)
			}
			sigs = append(sigs, sig...)
		}
		return charterRecord(next.Bytes(), sigs)
	}
	heirs := func(n *charter.Charter) {
		n.Roles = []charter.Role{{Name: "council", People: []string{"ema", "leo"}}, {Name: "elder", People: []string{"ana", "jo"}}}
	}
	good := record(nil, "ana", "jo")
	if next, err := successor(old, good); err != nil || next.Number != old.Number+1 || next.Freshness != 12 {
		t.Fatalf("signed by its quorum: %v", err)
	}
	if next, _, err := parseCharterRecord(record(heirs, "ema", "leo")); err != nil || charter.CheckSuccession(old, next, record(heirs, "ema", "leo")[4+len(next.Bytes()):]) != nil {
		t.Fatalf("control: by succession it is a good charter: %v", err)
	}
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	for what, rec := range map[string][]byte{
		"signed by one":         record(nil, "ana"),
		"signed by one, twice":  record(nil, "ana", "ana"),
		"signed by others":      record(nil, "ema", "leo"),
		"given by succession":   record(heirs, "ema", "leo"),
		"a number left out":     record(func(n *charter.Charter) { n.Number++ }, "ana", "jo"),
		"after another charter": record(func(n *charter.Charter) { n.Previous = charter.EncodeDigest([32]byte{1}) }, "ana", "jo"),
		"of another state":      record(func(n *charter.Charter) { n.State.ID[0] ^= 1 }, "ana", "jo"),
		"a changed byte":        flipped,
		"cut short":             good[:3],
	} {
		if next, err := successor(old, rec); err == nil || next != nil {
			t.Errorf("%s: followed", what)
		}
	}
}
