package home

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
)

// peopled makes a home whose charters two of three people sign; its first is not in force yet.
func peopled(t *testing.T) string {
	t.Helper()
	_, f := people()
	for i, name := range []string{"mari", "jaan", "anna"} {
		line, err := charter.SSHPublicKey(publicOf(byte(90 + i)))
		if err != nil {
			t.Fatal(err)
		}
		f.Representatives = append(f.Representatives, charter.Signer{Name: name, Key: line})
	}
	f.Need = 2
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, f); err != nil {
		t.Fatal(err)
	}
	return dir
}

func publicOf(n byte) []byte { return key(n)[32:] }

func sign(t *testing.T, p *Proposal, keys ...byte) {
	t.Helper()
	for _, n := range keys {
		sig, err := charter.Sign(p.Charter.Bytes(), key(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Add(sig); err != nil {
			t.Fatal(err)
		}
	}
}

// A state of several people has no key at home that signs for them, from the first charter on.
func TestPeopleSignTheFirstCharter(t *testing.T) {
	dir := peopled(t)
	if _, err := os.Stat(filepath.Join(dir, "keys", "signer")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("home has a signer: %v", err)
	}
	if _, err := Open(dir, false); !errors.Is(err, ErrUnsigned) {
		t.Fatalf("open: %v, want ErrUnsigned", err)
	}
	p, err := ReadProposal(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	sign(t, p, 90)
	if _, err := AdoptFirst(dir); !errors.Is(err, charter.ErrQuorum) {
		t.Fatalf("one of two: %v, want ErrQuorum", err)
	}
	sign(t, p, 92)
	s, _, err := p.Signed(nil, time.Now())
	if err != nil || !slices.Equal(s.Have, []string{"mari", "anna"}) || !slices.Equal(s.Missing, []string{"jaan"}) || !s.Enough() {
		t.Errorf("signed %+v, %v", s, err)
	}
	h, err := AdoptFirst(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, k := range h.Charter.Custody.Custodians {
		kit, err := ReadKit(filepath.Join(dir, "kits", k.Name))
		if err != nil || !slices.Equal(kit.Charter, h.Charter.Bytes()) || len(kit.Share) == 0 {
			t.Errorf("kit of %s: %v", k.Name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kits", "mari", custody.KitShare)); err != nil {
		t.Error(err)
	}
	if _, err := h.Proposal(); !errors.Is(err, ErrNoProposal) {
		t.Errorf("a proposal is left: %v", err)
	}
}

func TestChangesOfSeveralPeopleAreProposed(t *testing.T) {
	dir := peopled(t)
	p, err := ReadProposal(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	sign(t, p, 90, 91)
	h, err := AdoptFirst(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i, name := range []string{"lu", "is"} {
		next, err := h.Next()
		if err != nil {
			t.Fatal(err)
		}
		next.Embassies = append(next.Embassies, embassyOf(name, "LU", byte(i+1)))
		next.Witnessing = next.GrownWitnessing()
		if err := h.Adopt(next); !errors.Is(err, ErrProposed) {
			t.Fatalf("%s: %v, want ErrProposed", name, err)
		}
	}
	if h.Charter.Number != 1 || len(h.Charter.Embassies) != 0 {
		t.Fatal("a proposal is in force")
	}
	if p, err = h.Proposal(); err != nil || len(p.Charter.Embassies) != 2 || p.Charter.Number != 2 {
		t.Fatalf("two changes make one proposal: %+v, %v", p, err)
	}
	sign(t, p, 91)
	if err := h.AdoptProposal(); !errors.Is(err, charter.ErrQuorum) {
		t.Fatalf("one of two: %v", err)
	}
	sign(t, p, 91) // twice is one
	if err := h.AdoptProposal(); !errors.Is(err, charter.ErrQuorum) {
		t.Fatalf("one of two, twice: %v", err)
	}
	// Another change takes the signatures with it: nobody signed that.
	next, err := h.Next()
	if err != nil {
		t.Fatal(err)
	}
	next.Freshness++
	if err := h.Adopt(next); !errors.Is(err, ErrProposed) {
		t.Fatal(err)
	}
	if p, err = h.Proposal(); err != nil || len(p.Sig) != 0 {
		t.Fatalf("signatures of other bytes are kept: %v", err)
	}
	sign(t, p, 90, 92)
	if err := h.AdoptProposal(); err != nil {
		t.Fatal(err)
	}
	if h.Charter.Number != 2 || len(h.Charter.Embassies) != 2 {
		t.Errorf("charter %d with %d embassies", h.Charter.Number, len(h.Charter.Embassies))
	}
	chain(t, h, 2)
	if err := h.Withdraw(); !errors.Is(err, ErrNoProposal) {
		t.Errorf("withdraw: %v", err)
	}
}
