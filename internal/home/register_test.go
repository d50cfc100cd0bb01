package home

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/retention"
	"chancery.dev/chancery/internal/seal"
)

var land = Definition{Name: "land", Files: "/srv/land", Exclude: []string{"*.tmp"}, Owner: "Land Board", RPO: "24h"}

// register saves a register that mari may read.
func register(t *testing.T, h *Home) *Register {
	t.Helper()
	_, f := people()
	e := embassyOf("lu", "LU", 1)
	r, err := h.NewRegister(land, []charter.EmbassyID{e.ID}, 1, []string{f.Custodians[0].Recipient})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Save(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// opening combines the shares in the kits of these custodians.
func opening(t *testing.T, h *Home, names ...string) *seal.PrivateKey {
	t.Helper()
	ids, _ := people()
	var shares []custody.Share
	for _, n := range names {
		kit, err := ReadKit(filepath.Join(h.Dir, "kits", n))
		if err != nil {
			t.Fatal(err)
		}
		s, err := custody.OpenShare(kit.Share, ids[n])
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	commitments, err := Commitments(h.Charter)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := custody.Combine(shares, commitments)
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestHomeKeepsNoSecretOfARegisterThatOpens(t *testing.T) {
	ids, _ := people()
	h := create(t)
	r := register(t, h)
	if r.Secrets.HasSeed() {
		t.Error("the register in memory has its seed")
	}
	got, err := h.Register("land")
	if err != nil {
		t.Fatal(err)
	}
	want := land
	want.Version = definitionVersion
	if got.Secrets.HasSeed() || !reflect.DeepEqual(got.Definition, want) || !reflect.DeepEqual(got.Record, r.Record) || !reflect.DeepEqual(got.Secrets, r.Secrets) {
		t.Errorf("read again:\n%+v\n%+v", got, r)
	}
	// Those who may open do, each in their way, to the same secrets, which home has all of but the seed.
	byQuorum, err := OpenSecrets(got.Record, opening(t, h, "anna", "jaan"), h.Charter.Custody.Generation)
	if err != nil {
		t.Fatal(err)
	}
	byReader, err := OpenGrant(got.Record, []byte(ids["mari"]))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(byQuorum, byReader) || !byReader.HasSeed() || !reflect.DeepEqual(byReader.WithoutSeed(), got.Secrets) {
		t.Error("quorum, reader and home know different secrets")
	}
	private, err := seal.NewPrivateKey(byReader.Seed)
	if err != nil || !bytes.Equal(private.Public().Bytes(), got.Record.PublicKey) {
		t.Errorf("the seed is not that of the record's key: %v", err)
	}
	// And no file of home has the seed, in either form; the index key, which home needs, is the control.
	if n := holding(t, h.Dir, byReader.Seed[:]); n != 0 {
		t.Errorf("%d files hold the seed", n)
	}
	if n := holding(t, h.Dir, byReader.IndexKey[:]); n != 1 {
		t.Errorf("control: %d files hold the index key", n)
	}
}

// holding counts the files below dir that hold secret, as bytes or in hexadecimal.
func holding(t *testing.T, dir string, secret []byte) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, secret) || bytes.Contains(b, []byte(hex.EncodeToString(secret))) {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSecretsOpenForNobodyElse(t *testing.T) {
	ids, _ := people()
	h := create(t)
	r := register(t, h)
	if _, err := OpenGrant(r.Record, []byte(ids["jaan"])); !errors.Is(err, ErrNotReader) {
		t.Errorf("a custodian alone: %v, want ErrNotReader", err)
	}
	key := opening(t, h, "mari", "jaan")
	if _, err := OpenSecrets(r.Record, key, h.Charter.Custody.Generation+1); err == nil {
		t.Error("opened as of another generation")
	}
	other := *r.Record
	other.ID[0] ^= 1
	if _, err := OpenSecrets(&other, key, h.Charter.Custody.Generation); err == nil {
		t.Error("opened as another register's")
	}
	if _, err := OpenSecrets(r.Record, opening(t, create(t), "mari", "jaan"), h.Charter.Custody.Generation); err == nil {
		t.Error("opened by another state's key")
	}
	if _, err := OpenSecrets(r.Record, key, h.Charter.Custody.Generation); err != nil {
		t.Errorf("control: %v", err)
	}
}

func TestRegistersByName(t *testing.T) {
	h := create(t)
	register(t, h)
	if _, err := h.NewRegister(land, []charter.EmbassyID{{1}}, 1, nil); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v, want ErrExists", err)
	}
	for _, name := range []string{"court", "", "../land", "Land"} {
		if _, err := h.Register(name); !errors.Is(err, ErrNoRegister) {
			t.Errorf("%q: %v, want ErrNoRegister", name, err)
		}
	}
	if _, err := h.NewRegister(Definition{Name: "../x"}, []charter.EmbassyID{{1}}, 1, nil); err == nil {
		t.Error("a name that leaves the folder")
	}
	// A crash of Save before the last write leaves a folder without a record: no register.
	if err := os.Mkdir(h.registerDir("court"), 0o700); err != nil {
		t.Fatal(err)
	}
	if names, err := h.Registers(); err != nil || !slices.Equal(names, []string{"land"}) {
		t.Errorf("%q %v", names, err)
	}
}

func TestADamagedRegisterIsRefused(t *testing.T) {
	h := create(t)
	r := register(t, h)
	for _, file := range []string{"record", "keys", "register.yaml"} {
		path := filepath.Join(r.Dir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[len(bad)-1] ^= 1
		if file == "register.yaml" {
			bad = append(good, "motto: x\n"...)
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Register("land"); err == nil {
			t.Errorf("%s: damaged and accepted", file)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Register("land"); err != nil {
			t.Errorf("%s: control: %v", file, err)
		}
	}
	path := filepath.Join(r.Dir, "register.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(good, []byte("version: 3"), []byte("version: 99"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Register("land"); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer definition: %v, want ErrNewer", err)
	}
}

func TestKitsFollowTheCharterWhileTheyAreHere(t *testing.T) {
	h := create(t)
	handed := filepath.Join(h.Dir, "kits", "jaan")
	if err := os.RemoveAll(handed); err != nil {
		t.Fatal(err)
	}
	before, err := ReadKit(filepath.Join(h.Dir, "kits", "mari"))
	if err != nil || len(before.Embassies) != 0 || before.CharterHash() != h.Charter.Hash() {
		t.Fatalf("the first kit: %v", err)
	}
	if err := h.Adopt(with(h, "lu", "LU", 1)); err != nil {
		t.Fatal(err)
	}
	after, err := ReadKit(filepath.Join(h.Dir, "kits", "mari"))
	if err != nil {
		t.Fatal(err)
	}
	if after.CharterHash() != h.Charter.Hash() || len(after.Embassies) != 1 || after.Embassies[0].Name != "lu" || !bytes.Equal(after.Share, before.Share) {
		t.Errorf("the kit was not renewed: %+v", after.Embassies)
	}
	if c, err := charter.Parse(after.Charter); err != nil || c.Verify(after.Signature) != nil {
		t.Errorf("the kit's charter: %v", err)
	}
	if _, err := os.Stat(handed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a kit that was handed over is here again: %v", err)
	}
	opening(t, h, "mari", "anna") // fails the test unless the shares still open
}

func TestReadKitTakesNothingElse(t *testing.T) {
	h := create(t)
	folder := filepath.Join(h.Dir, "kits", "mari")
	if err := os.Mkdir(filepath.Join(folder, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKit(folder); !errors.Is(err, custody.ErrKit) {
		t.Errorf("with a folder: %v, want ErrKit", err)
	}
	if err := os.Remove(filepath.Join(folder, "sub")); err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(folder, custody.KitShare)
	if err := os.Truncate(share, 1<<20+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKit(folder); !errors.Is(err, custody.ErrKit) {
		t.Errorf("with a huge file: %v, want ErrKit", err)
	}
	if err := os.Remove(share); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKit(folder); !errors.Is(err, custody.ErrKit) {
		t.Errorf("without its share: %v, want ErrKit", err)
	}
	if _, err := ReadKit(filepath.Join(h.Dir, "kits", "anna")); err != nil {
		t.Errorf("control: %v", err)
	}
}

// The definition is read strictly: what it does not know is refused, and what version 1 does not have needs version 2.
func TestRetentionInADefinition(t *testing.T) {
	const rest = "name: land\nfiles: /srv/land\n"
	for text, good := range map[string]bool{
		"version: 1\n" + rest: true,
		"version: 2\n" + rest: true,
		"version: 2\n" + rest + "retention:\n  keep_last: 3\n  daily: 30\n  monthly: 24\n  yearly: 10\n": true,
		"version: 4\n" + rest:                                  false,
		"version: 3\n" + rest:                                  true,
		"version: 1\n" + rest + "retention:\n  daily: 30\n":    false,
		"version: 2\n" + rest + "retention:\n  daily: -1\n":    false,
		"version: 2\n" + rest + "retention:\n  daily: many\n":  false,
		"version: 2\n" + rest + "retention:\n  fortnight: 3\n": false,
	} {
		d, err := parseDefinition([]byte(text))
		if (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && strings.Contains(text, "monthly") && (d.Retention != retention.Rules{KeepLast: 3, Daily: 30, Monthly: 24, Yearly: 10}) {
			t.Errorf("%q: %+v", text, d.Retention)
		}
	}
}
