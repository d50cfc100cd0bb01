package home

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
)

// people are the three custodians of every test: their identity files and what a state is made from.
var people = sync.OnceValues(func() (map[string]string, Founding) {
	ids := map[string]string{}
	f := Founding{Name: "Republic of Ümlaut", Code: "UM", Quorum: 2}
	for _, name := range []string{"mari", "jaan", "anna"} {
		secret, recipient, err := custody.GenerateIdentity(name)
		if err != nil {
			panic(err)
		}
		ids[name] = secret
		f.Custodians = append(f.Custodians, Holder{Name: name, Recipient: recipient})
	}
	return ids, f
})

// create makes a home and returns it open with its lock.
func create(t *testing.T) *Home {
	t.Helper()
	_, f := people()
	dir := filepath.Join(t.TempDir(), "home")
	if _, err := Create(dir, f); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func open(t *testing.T, dir string) *Home {
	t.Helper()
	h, err := Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func embassyOf(name, country string, n byte) charter.Embassy {
	k := key(n).Public().(ed25519.PublicKey)
	return charter.Embassy{
		Name: name, Country: country, ID: charter.EmbassyIDOf(k), Key: charter.EncodeKey(k),
		URLs: []string{"https://" + name + ".example:7401"}, Origin: "chancery.dev/ledger/" + name,
	}
}

// with is the charter after h's, with one more embassy.
func with(h *Home, name, country string, n byte) charter.Charter {
	next := h.Charter.Next()
	next.Embassies = append(next.Embassies, embassyOf(name, country, n))
	next.Witnessing = next.GrownWitnessing()
	return next
}

func TestCreateMakesAWholeHome(t *testing.T) {
	h := create(t)
	c := h.Charter
	if c.Version != 3 || c.Number != 1 || c.Freshness != 24 || len(c.Witnesses) != 1 {
		t.Fatalf("charter: version %d, number %d, freshness %d, %d witnesses", c.Version, c.Number, c.Freshness, len(c.Witnesses))
	}
	key, made, err := h.WitnessKey()
	if err != nil || made {
		t.Fatalf("witness key: made %v, %v", made, err)
	}
	public := key.Public().(ed25519.PublicKey)
	want := charter.Witness{Name: "home", Country: "UM", Cosigner: charter.CosignerName(public), Key: charter.EncodeKey(public)}
	if want.MLDSAKey = c.Witnesses[0].MLDSAKey; len(want.MLDSAPublicKey()) != charter.MLDSAKeySize || c.Witnesses[0] != want {
		t.Errorf("%+v, want %+v", c.Witnesses[0], want)
	}
	if w := c.Witnessing; w.Need != 1 || w.Faulty != 0 || len(w.Groups) != 1 || w.Groups[0] != (charter.WitnessGroup{Country: "UM", Need: 1}) {
		t.Errorf("witnessing: %+v", w)
	}
	agent, err := h.AgentKey()
	if err != nil || !c.Roster().IsAgent(agent.Public().(ed25519.PublicKey)) || agent.Equal(key) {
		t.Errorf("agent key: %v", err)
	}
	for file, mode := range map[string]fs.FileMode{
		"": 0o755, "keys": 0o700, "keys/agent.key": 0o600, "keys/signer": 0o600, "keys/witness.key": 0o600, "keys/mldsa.seed": 0o600, "registers": 0o700,
	} {
		if info, err := os.Stat(filepath.Join(h.Dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, want mode %v", file, info.Mode(), mode)
		}
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(h.Dir), ".home-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestCreateTakesOnlyAFreePlace(t *testing.T) {
	_, f := people()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	h, err := Create(empty, f)
	if err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	before := tree(t, h.Dir)
	if _, err := Create(h.Dir, f); !errors.Is(err, ErrExists) {
		t.Errorf("over a home: %v, want ErrExists", err)
	}
	if tree(t, h.Dir) != before {
		t.Error("the home that was there changed")
	}
}

// What stops Create half way, and what it finds of one that was stopped by a crash.
func TestAStoppedCreateLeavesNoHome(t *testing.T) {
	_, f := people()
	parent := t.TempDir()
	dir := filepath.Join(parent, "home")
	bad := f
	bad.Code = "um"
	if _, err := Create(dir, bad); err == nil {
		t.Fatal("a bad code is accepted")
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	crashed := filepath.Join(parent, ".home-1")
	if err := os.Mkdir(crashed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := found(crashed, f); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(crashed, false); !errors.Is(err, ErrNone) {
		t.Errorf("what a crash left opens: %v, want ErrNone", err)
	}
	if _, err := Create(dir, f); err != nil {
		t.Errorf("again, beside what a crash left: %v", err)
	}
}

// tree lists a folder's files with their bytes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			fmt.Fprintf(&b, "%s %q\n", path, data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestOpenRefusesWhatIsNoHome(t *testing.T) {
	h := create(t)
	version := filepath.Join(h.Dir, "version")
	for text, want := range map[string]error{"2\n": ErrNewer, "x\n": ErrNone, "0\n": ErrNone, "": ErrNone, "1\n": nil} {
		if err := os.WriteFile(version, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		before := tree(t, h.Dir)
		if _, err := Open(h.Dir, false); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("version %q: %v, want %v", text, err, want)
		}
		if tree(t, h.Dir) != before {
			t.Errorf("version %q: the folder changed", text)
		}
	}
	if _, err := Open(t.TempDir(), false); !errors.Is(err, ErrNone) {
		t.Errorf("an empty folder: %v, want ErrNone", err)
	}
}

func TestOpenRefusesACharterThatNobodySigned(t *testing.T) {
	h := create(t)
	for name, file := range map[string]string{"document": "charter.yaml", "signature": "charter.yaml.sig"} {
		path := filepath.Join(h.Dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte("# more\n"), good...)
		// The pair kept by number must not make up for it: it is damaged alike.
		for _, p := range []string{path, filepath.Join(h.Dir, "charters", "0001.yaml"+strings.TrimPrefix(file, "charter.yaml"))} {
			if err := os.WriteFile(p, bad, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(h.Dir, false); !errors.Is(err, charter.ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
		for _, p := range []string{path, filepath.Join(h.Dir, "charters", "0001.yaml"+strings.TrimPrefix(file, "charter.yaml"))} {
			if err := os.WriteFile(p, good, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(h.Dir, false); err != nil {
			t.Errorf("control: %v", err)
		}
	}
}

func TestOneWriterAtATime(t *testing.T) {
	h := create(t)
	if _, err := Open(h.Dir, true); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second writer: %v, want ErrLocked", err)
	}
	if r, err := Open(h.Dir, false); err != nil {
		t.Errorf("a reader beside the writer: %v", err)
	} else {
		r.Close()
	}
	if _, err := Open(h.Dir, true); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("after a reader closed: %v, want ErrLocked", err)
	}
	h.Close()
	h.Close()
	again, err := Open(h.Dir, true)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	again.Close()
}

func TestALockIsFreeAfterAFailedOpen(t *testing.T) {
	h := create(t)
	h.Close()
	path := filepath.Join(h.Dir, "charter.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("damaged\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(h.Dir, true); !errors.Is(err, charter.ErrInvalid) {
		t.Fatalf("a damaged charter: %v", err)
	}
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, h.Dir)
}

func TestAdoptChainsCharters(t *testing.T) {
	h := create(t)
	for i, e := range []string{"LU", "IS", "PT"} {
		if err := h.Adopt(with(h, strings.ToLower(e), e, byte(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	h = open(t, h.Dir)
	if h.Charter.Number != 4 || len(h.Charter.Embassies) != 3 || h.Charter.Witnessing.Need != 3 || h.Charter.Witnessing.Faulty != 1 {
		t.Errorf("charter %d, %+v", h.Charter.Number, h.Charter.Witnessing)
	}
	chain(t, h, 4)
	taken := h.Charter.Next()
	taken.Embassies = taken.Embassies[1:]
	taken.Witnessing = taken.DefaultWitnessing()
	if err := h.Adopt(taken); !errors.Is(err, charter.ErrSuccession) {
		t.Errorf("an embassy taken away: %v, want ErrSuccession", err)
	}
	if _, _, err := h.CharterAt(5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused charter is kept: %v", err)
	}
	chain(t, h, 4)
}

// chain checks that Charters returns a chain of n charters that ends in the one in force.
func chain(t *testing.T, h *Home, n int) {
	t.Helper()
	all, err := h.Charters()
	if err != nil || len(all) != n {
		t.Fatalf("%d charters, want %d: %v", len(all), n, err)
	}
	var old *charter.Charter
	for _, s := range all {
		c, err := charter.Parse(s.Doc)
		if err != nil {
			t.Fatal(err)
		}
		if old == nil {
			err = c.Verify(s.Sig)
		} else {
			err = charter.CheckSuccession(old, c, s.Sig)
		}
		if err != nil {
			t.Errorf("charter %d: %v", c.Number, err)
		}
		old = c
	}
	if old.Hash() != h.Charter.Hash() {
		t.Error("the last is not the one in force")
	}
}

func TestChartersNamesTheOneThatIsGone(t *testing.T) {
	h := create(t)
	if err := h.Adopt(with(h, "lu", "LU", 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.Dir, "charters", "0001.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Charters(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "charter 1") {
		t.Errorf("%v, want that charter 1 is missing", err)
	}
}

// next signs the charter that adds an embassy, as Adopt does.
func signedNext(t *testing.T, h *Home, name string, n byte) (*charter.Charter, []byte) {
	t.Helper()
	c, err := charter.New(with(h, name, "LU", n))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := h.signer()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := charter.Sign(c.Bytes(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return c, sig
}

// A crash after any of the writes of a charter leaves a home that opens, with the old charter or the new one and never
// a mixture, and that goes on.
func TestACrashWithinAdoptLeavesAHome(t *testing.T) {
	for done := 0; done <= 4; done++ {
		t.Run(fmt.Sprintf("after %d writes", done), func(t *testing.T) {
			h := create(t)
			if err := h.Adopt(with(h, "is", "IS", 9)); err != nil {
				t.Fatal(err)
			}
			c, sig := signedNext(t, h, "lu", 1)
			writes := charterWrites(h.Dir, c, sig)
			if len(writes) != 4 {
				t.Fatalf("%d writes", len(writes))
			}
			for _, w := range writes[:done] {
				if err := durable.WriteFile(w.path, w.data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			h.Close()
			h = open(t, h.Dir)
			want := 2
			if done == 4 {
				want = 3
			}
			if h.Charter.Number != uint64(want) {
				t.Errorf("charter %d is in force, want %d", h.Charter.Number, want)
			}
			chain(t, h, want)
			// Another charter takes the number of the one that a crash cut short.
			if err := h.Adopt(with(h, "pt", "PT", 2)); err != nil {
				t.Fatal(err)
			}
			h.Close()
			h = open(t, h.Dir)
			if _, ok := h.Charter.EmbassyByName("pt"); !ok || h.Charter.Number != uint64(want+1) {
				t.Errorf("charter %d after it", h.Charter.Number)
			}
			chain(t, h, want+1)
		})
	}
}

// The control of the test above: what saves a home after three writes is the pair kept by number, and in another order
// a crash would leave a home that does not open.
func TestTheOrderOfACharterWrites(t *testing.T) {
	for name, order := range map[string][]int{"signature first, nothing by number": {2}, "document first": {3}} {
		t.Run(name, func(t *testing.T) {
			h := create(t)
			c, sig := signedNext(t, h, "lu", 1)
			writes := charterWrites(h.Dir, c, sig)
			if name != "document first" {
				if err := os.Remove(filepath.Join(h.Dir, "charters", "0001.yaml.sig")); err != nil {
					t.Fatal(err)
				}
			}
			for _, i := range order {
				if err := durable.WriteFile(writes[i].path, writes[i].data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Open(h.Dir, false); !errors.Is(err, charter.ErrSignature) {
				t.Errorf("%v, want ErrSignature", err)
			}
		})
	}
}
