package home

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// older makes the folder what the first release made: no witness key, and a charter of version 1 without a witness.
func older(t *testing.T, h *Home, embassies ...charter.Embassy) *Home {
	t.Helper()
	c := *h.Charter
	c.Version, c.Freshness, c.Witnesses, c.Witnessing = 1, 0, nil, charter.Witnessing{}
	c.Threshold, c.Signers = 1, []charter.Signer{{Name: "home", Key: c.People[0].Keys[0]}}
	c.People, c.Roles, c.Acts, c.Succession = nil, nil, nil, charter.Succession{}
	c.Embassies = embassies
	one, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := h.signer()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := charter.Sign(one.Bytes(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeCharter(h.Dir, one, sig); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(h.witnessKeyFile()); err != nil {
		t.Fatal(err)
	}
	h.Close()
	return open(t, h.Dir)
}

func TestAnOlderHomeBecomesAWitness(t *testing.T) {
	h := older(t, create(t), embassyOf("lu", "LU", 1))
	if h.Charter.Version != 1 {
		t.Fatalf("version %d", h.Charter.Version)
	}
	reader, err := Open(h.Dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := reader.WitnessKey(); !errors.Is(err, ErrReadOnly) {
		t.Errorf("without the lock: %v, want ErrReadOnly", err)
	}
	key, made, err := h.WitnessKey()
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	if info, err := os.Stat(h.witnessKeyFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, want mode 0600: %v", info.Mode(), err)
	}
	for _, x := range []*Home{h, reader} {
		if again, made, err := x.WitnessKey(); err != nil || made || !again.Equal(key) {
			t.Errorf("again: made %v, another key %v, %v", made, !again.Equal(key), err)
		}
	}
	next := h.Charter.Next()
	if missing, err := h.Enlist(&next); err != nil || !missing {
		t.Fatalf("missing %v, %v", missing, err)
	}
	if err := h.Adopt(next); err != nil {
		t.Fatal(err)
	}
	w, ok := h.Charter.WitnessByName("home")
	if !ok || h.Charter.Version != 2 || !w.PublicKey().Equal(key.Public()) || w.URL != "" || w.Country != "UM" || len(h.Charter.Witnessing.Groups) != 2 {
		t.Errorf("%+v in %+v", w, h.Charter.Witnessing)
	}
	next = h.Charter.Next()
	if missing, err := h.Enlist(&next); err != nil || missing || len(next.Witnesses) != 1 {
		t.Errorf("enlisted twice: missing %v, %d witnesses, %v", missing, len(next.Witnesses), err)
	}
	chain(t, h, 2)
}

func TestHomeFindsAFreeName(t *testing.T) {
	h := older(t, create(t), embassyOf("home", "LU", 1))
	next := h.Charter.Next()
	if _, err := h.Enlist(&next); err != nil {
		t.Fatal(err)
	}
	if err := h.Adopt(next); err != nil {
		t.Fatal(err)
	}
	if w, ok := h.Charter.WitnessByName("home-witness"); !ok {
		t.Errorf("%+v", w)
	}
}

func TestADamagedWitnessKeyIsNotReplaced(t *testing.T) {
	h := create(t)
	if err := os.WriteFile(h.witnessKeyFile(), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, made, err := h.WitnessKey(); err == nil || made {
		t.Errorf("made %v, %v", made, err)
	}
	if b, err := os.ReadFile(h.witnessKeyFile()); err != nil || string(b) != "damaged" {
		t.Errorf("the file changed: %q %v", b, err)
	}
}

func TestLedgersAndAuditsAreKept(t *testing.T) {
	h := create(t)
	kinds := map[string]struct {
		get  func(string) ([]byte, error)
		keep func(string, []byte) error
	}{
		"ledger":  {h.Ledger, h.KeepLedger},
		"audit":   {h.Audit, h.KeepAudit},
		"pending": {h.PendingAudit, h.KeepPendingAudit},
	}
	for name, k := range kinds {
		if b, err := k.get("lu"); b != nil || err != nil {
			t.Errorf("%s before: %q %v", name, b, err)
		}
		for _, v := range []string{name + " 1", name + " 2"} {
			if err := k.keep("lu", []byte(v)); err != nil {
				t.Fatal(err)
			}
			if err := k.keep("is", []byte("other")); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Close()
	h = open(t, h.Dir)
	for name, k := range kinds { // each keeps to itself
		if b, err := k.get("lu"); err != nil || string(b) != name+" 2" {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	for range 2 {
		if err := h.DropPendingAudit("lu"); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := h.PendingAudit("lu"); b != nil || err != nil {
		t.Errorf("dropped: %q %v", b, err)
	}
	if b, err := h.Audit("lu"); err != nil || string(b) != "audit 2" {
		t.Errorf("dropping the challenge dropped more: %q %v", b, err)
	}
	if err := h.DropPendingAudit("pt"); err != nil {
		t.Errorf("nothing to drop: %v", err)
	}
}

// What a crash leaves beside a kept file is the temporary one of durable, which nobody reads.
func TestACrashWithinKeepLeavesTheOlder(t *testing.T) {
	h := create(t)
	if err := h.KeepAudit("lu", []byte("older")); err != nil {
		t.Fatal(err)
	}
	f, err := durable.Create(filepath.Join(h.Dir, "audits", "lu"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("newer")); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Audit("lu"); err != nil || string(b) != "older" {
		t.Errorf("%q %v", b, err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Audit("lu"); err != nil || string(b) != "newer" {
		t.Errorf("control: %q %v", b, err)
	}
}

func TestAuditsOfNoEmbassy(t *testing.T) {
	h := create(t)
	for _, name := range []string{"", "../keys/agent.key", "lu.pending", "LU", "a/b"} {
		if _, err := h.Audit(name); err == nil {
			t.Errorf("%q is read", name)
		}
		if h.KeepAudit(name, nil) == nil || h.KeepPendingAudit(name, nil) == nil || h.DropPendingAudit(name) == nil {
			t.Errorf("%q is written", name)
		}
	}
	if err := h.KeepAudit("lu", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(h.Dir, "audits", "lu"), maxAudit+1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Audit("lu"); err == nil {
		t.Error("a file beyond all measure is read")
	}
}

func TestAForgottenLedgerIsSetAside(t *testing.T) {
	h := create(t)
	if at, err := h.ForgetLedger("lu"); at != "" || err != nil {
		t.Errorf("nothing to forget: %q %v", at, err)
	}
	if err := h.KeepLedger("lu", []byte("seen")); err != nil {
		t.Fatal(err)
	}
	at, err := h.ForgetLedger("lu")
	if err != nil || !strings.HasPrefix(at, h.LedgerFile("lu")+".until-") {
		t.Fatalf("%q %v", at, err)
	}
	if b, err := os.ReadFile(at); err != nil || !bytes.Equal(b, []byte("seen")) {
		t.Errorf("set aside: %q %v", b, err)
	}
	if b, err := h.Ledger("lu"); b != nil || err != nil {
		t.Errorf("still there: %q %v", b, err)
	}
	if _, err := os.Stat(h.LedgerFile("lu")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// Home cosigns with both its keys where the charter names both, and never with one of them alone, which would count for
// nothing: without the seed, or with another, it says so.
func TestHomeCosignsWithBothKeysThatTheCharterNames(t *testing.T) {
	h := create(t)
	w, ok := h.Charter.WitnessByName("home")
	if !ok {
		t.Fatal("home is no witness")
	}
	named, err := w.Keys()
	if err != nil || len(named) != 2 {
		t.Fatalf("the charter names %d keys, %v", len(named), err)
	}
	cosigners, err := h.Cosigners()
	if err != nil || len(cosigners) != 2 || cosigners[0].Key() != named[0] || cosigners[1].Key() != named[1] {
		t.Fatalf("%d cosigners, not of the charter's keys: %v", len(cosigners), err)
	}
	seed, err := os.ReadFile(h.witnessSeedFile())
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"another seed": strings.Repeat("ab", 32) + "\n", "no seed": "hello\n", "none": ""} {
		if err := os.WriteFile(h.witnessSeedFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			if err := os.Remove(h.witnessSeedFile()); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := h.Cosigners(); !errors.Is(err, ErrNoSeed) || c != nil {
			t.Errorf("%s: %d cosigners, %v", what, len(c), err)
		}
	}
	if err := os.WriteFile(h.witnessSeedFile(), seed, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.witnessSeedFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Cosigners(); err == nil {
		t.Error("a seed that others may read is used")
	}
	// A charter that names one key asks for one.
	old := older(t, create(t))
	next := old.Charter.Next()
	if _, err := old.Enlist(&next); err != nil {
		t.Fatal(err)
	}
	next.Witnesses[len(next.Witnesses)-1].MLDSAKey = ""
	if err := old.Adopt(next); err != nil {
		t.Fatal(err)
	}
	if c, err := old.Cosigners(); err != nil || len(c) != 1 {
		t.Errorf("of a charter with one key: %d cosigners, %v", len(c), err)
	}
}
