package home

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/seal"
)

// governed is a home whose charter needs two of three people: home itself, ana and jo.
func governed(t *testing.T) *Home {
	t.Helper()
	h := create(t)
	c := h.Charter.Upgraded()
	for i, name := range []string{"ana", "jo"} {
		line, err := charter.SSHPublicKey(key(byte(50 + i)).Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		c.People = append(c.People, charter.Person{Name: name, Office: "Minister", From: "2026-01-01", Keys: []string{line}})
		c.Roles[0].People = append(c.Roles[0].People, name)
	}
	for i := range c.Acts {
		c.Acts[i].Need = 2
	}
	first, err := charter.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var sig []byte
	for _, by := range []ed25519.PrivateKey{signerOf(t, h), key(50)} {
		sig = append(sig, signed(t, first.Bytes(), by)...)
	}
	if err := writeCharter(h.Dir, first, sig); err != nil {
		t.Fatal(err)
	}
	h.Charter = first
	if err := h.renewKits(sig); err != nil {
		t.Fatal(err)
	}
	return h
}

func signerOf(t *testing.T, h *Home) ed25519.PrivateKey {
	t.Helper()
	k, err := h.signer()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t *testing.T, doc []byte, by ed25519.PrivateKey) []byte {
	t.Helper()
	sig, err := charter.Sign(doc, by)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// another saves a second register, without readers.
func another(t *testing.T, h *Home, name string) *Register {
	t.Helper()
	def := land
	def.Name = name
	r, err := h.NewRegister(def, []charter.EmbassyID{embassyOf("lu", "LU", 1).ID}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Save(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func surveyed(t *testing.T, h *Home) (all []Survey) {
	t.Helper()
	names, err := h.Registers()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		r, err := h.Register(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Survey{Record: r.Record})
	}
	return all
}

// prepared makes generation 2 for two of the same three custodians, without the registers named.
func prepared(t *testing.T, h *Home, erase ...string) *Refresh {
	t.Helper()
	_, f := people()
	r, err := h.Prepare(opening(t, h, "mari", "jaan"), surveyed(t, h), 2, f.Custodians, erase)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// adopt has ana sign and adopts.
func adopt(t *testing.T, h *Home, r *Refresh) {
	t.Helper()
	if err := h.Sign(r, signed(t, r.Charter.Bytes(), key(50))); err != nil {
		t.Fatal(err)
	}
	before := h.KitsMade(r)
	if err := h.MakeKits(r); err != nil || before || !h.KitsMade(r) {
		t.Fatalf("kits: made before the charter was signed %v, %v", before, err)
	}
	if err := h.AdoptRefresh(r); err != nil {
		t.Fatal(err)
	}
}

func TestARefreshCarriesSurvivorsOverAndLeavesTheErasedBehind(t *testing.T) {
	h := governed(t)
	before := register(t, h)
	gone := another(t, h, "tax")
	kept := filepath.Join(t.TempDir(), "kits-1")
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(h.Dir, "kits"))); err != nil {
		t.Fatal(err)
	}
	old := opening(t, h, "anna", "jaan")
	was, err := OpenSecrets(before.Record, old, 1)
	if err != nil {
		t.Fatal(err)
	}
	oldCharter := h.Charter
	adopt(t, h, prepared(t, h, "tax"))

	after, err := h.Register("land")
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][]string{{"mari", "jaan"}, {"mari", "anna"}, {"jaan", "anna"}} {
		now, err := OpenSecrets(after.Record, opening(t, h, pair...), 2)
		if err != nil || *now != *was {
			t.Fatalf("%v: the survivor: %v", pair, err)
		}
		for generation := uint32(1); generation <= 2; generation++ {
			if _, err := OpenSecrets(gone.Record, opening(t, h, pair...), generation); !errors.Is(err, seal.ErrUnwrap) {
				t.Errorf("%v open what was erased: %v", pair, err)
			}
			if _, err := OpenSecrets(after.Record, old, generation); !errors.Is(err, seal.ErrUnwrap) {
				t.Errorf("the old key opens a record that was sealed anew: %v", err)
			}
		}
	}
	// The control: the old key still opens what a host kept. That is what the old shares are destroyed for.
	if _, err := OpenSecrets(gone.Record, old, 1); err != nil {
		t.Errorf("control: %v", err)
	}
	if after.Record.Sequence != 2 || !SameRegister(after.Record, before.Record) || after.Record.Verify() != nil {
		t.Errorf("record: %+v", after.Record)
	}
	if all, err := after.Records(); err != nil || len(all) != 2 || all[0].Signature != before.Record.Signature || all[1] != after.Record {
		t.Errorf("the record before is not kept: %v, %v", all, err)
	}
	ids, _ := people()
	if s, err := OpenGrant(after.Record, []byte(ids["mari"])); err != nil || s.Name != "land" {
		t.Errorf("its reader: %v", err)
	}
	names, err := h.Registers()
	if err != nil || !slices.Equal(names, []string{"land"}) {
		t.Errorf("registers %v %v", names, err)
	}
	if r, err := h.Register("tax"); err != nil || !r.IsErased() {
		t.Errorf("tax: %v", err)
	}
	if list, err := h.ErasedBy(2); err != nil || len(list) != 1 || list[0].Name != "tax" || list[0].ID != gone.Record.ID || list[0].Readers != 0 {
		t.Errorf("erased: %+v %v", list, err)
	}
	if c := h.Charter; c.Number != 2 || c.Custody.Generation != 2 || c.Custody.Threshold != 2 || c.Custody.OpeningKey == oldCharter.Custody.OpeningKey ||
		c.Custody.RecoveryKey == oldCharter.Custody.RecoveryKey {
		t.Errorf("charter: %+v", c.Custody)
	}
	bothWays(t, kept, oldCharter, h)
}

// bothWays holds old kits against the new charter and new kits against the old one: each share is refused by its
// custodian's name and its generation.
func bothWays(t *testing.T, kept string, oldCharter *charter.Charter, h *Home) {
	t.Helper()
	ids, _ := people()
	for _, way := range []struct {
		kits    string
		charter *charter.Charter
		says    string
	}{
		{kept, h.Charter, "custodian anna: share of another opening key: generation 1, not 2"},
		{filepath.Join(h.Dir, "kits"), oldCharter, "custodian anna: share of another opening key: generation 2, not 1"},
		{kept, oldCharter, ""},
		{filepath.Join(h.Dir, "kits"), h.Charter, ""},
	} {
		k, err := ReadKit(filepath.Join(way.kits, "anna"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := custody.OpenShare(k.Share, ids["anna"])
		if err != nil {
			t.Fatal(err)
		}
		commitments, err := Commitments(way.charter)
		if err != nil {
			t.Fatal(err)
		}
		err = custody.Check(s, commitments)
		if way.says == "" && err != nil || way.says != "" && (!errors.Is(err, custody.ErrForeign) || !strings.Contains(err.Error(), way.says)) {
			t.Errorf("%s, charter of generation %d: %v", way.kits, way.charter.Custody.Generation, err)
		}
	}
}

// Until enough people signed, and after a crash at any moment before that, home is what it was.
func TestARefreshThatIsNeverSignedChangesNothing(t *testing.T) {
	h := governed(t)
	register(t, h)
	before := tree(t, h.Dir)
	r := prepared(t, h)
	for name, do := range map[string]func() error{
		"kits":   func() error { return h.MakeKits(r) },
		"adopt":  func() error { return h.AdoptRefresh(r) },
		"around": h.AdoptProposal,
	} {
		if err := do(); !errors.Is(err, charter.ErrQuorum) && !errors.Is(err, ErrByRefresh) {
			t.Errorf("%s with one signature of two: %v", name, err)
		}
	}
	if err := h.Sign(r, signed(t, append(r.Charter.Bytes(), '#'), key(50))); !errors.Is(err, charter.ErrSignature) {
		t.Errorf("a signature of other bytes: %v", err)
	}
	h.Close()
	again := open(t, h.Dir)
	kept, err := again.Refresh()
	if err != nil || again.Adopted(kept) || !bytes.Equal(kept.Charter.Bytes(), r.Charter.Bytes()) || !bytes.Equal(kept.Sig, r.Sig) {
		t.Fatalf("it goes on: %v", err)
	}
	if reg, err := again.Register("land"); err != nil || reg.Record.Sequence != 1 {
		t.Errorf("land: %v", err)
	}
	if _, err := OpenSecrets(surveyed(t, again)[0].Record, opening(t, again, "mari", "anna"), 1); err != nil {
		t.Errorf("generation 1: %v", err)
	}
	if err := again.Sign(kept, signed(t, kept.Charter.Bytes(), key(50))); err != nil {
		t.Fatal(err)
	}
	if err := again.AdoptProposal(); !errors.Is(err, ErrByRefresh) {
		t.Errorf("signed, and adopted without records and kits: %v", err)
	}
	for _, x := range []string{"custody", "proposals"} {
		if err := os.RemoveAll(filepath.Join(h.Dir, x)); err != nil {
			t.Fatal(err)
		}
	}
	if after := tree(t, h.Dir); after != before {
		t.Errorf("without what was prepared home differs:\n%s\n%s", before, after)
	}
	if _, err := again.Refresh(); !errors.Is(err, ErrNoRefresh) {
		t.Errorf("after it was removed: %v", err)
	}
}

// The seed is nowhere: not in what is prepared, nor in what is adopted. Every file of home is searched for each share,
// the seed that they combine to and both keys made of it.
func TestARefreshLeavesNoSecretOnDisk(t *testing.T) {
	h := governed(t)
	register(t, h)
	r := prepared(t, h)
	ids, _ := people()
	var shares []custody.Share
	var secrets [][]byte
	for name, file := range r.shares {
		s, err := custody.OpenShare(file, ids[name])
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
		secrets = append(secrets, s.Value[:], fmt.Appendf(nil, "%x", s.Value))
	}
	commitments, err := Commitments(r.Charter)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := custody.Combine(shares, commitments)
	if err != nil {
		t.Fatal(err)
	}
	derived := custody.DeriveOpeningSeed(seed)
	secrets = append(secrets, seed[:], derived[:], custody.DeriveAccessKey(seed).Seed())
	search := func(when string) {
		all := rawTree(t, h.Dir)
		for i, s := range secrets {
			if bytes.Contains(all, s) {
				t.Errorf("%s: secret %d is in a file", when, i)
			}
		}
		if !bytes.Contains(all, r.Charter.Bytes()[:64]) {
			t.Fatal("control: the search sees no files")
		}
	}
	search("prepared")
	adopt(t, h, r)
	search("adopted")
	left, err := filepath.Glob(filepath.Join(h.Dir, "custody", "*", "*s", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if !strings.Contains(path, "/records/") {
			t.Errorf("%s is left", path)
		}
	}
}

// rawTree is the bytes of all files below a folder.
func rawTree(t *testing.T, dir string) (all []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			all = append(all, data...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What came between the custodians' meeting and the last signature is not lost: a register that was added or changed
// stops the refresh, and another charter only has it drafted anew.
func TestARefreshNoticesWhatChangedMeanwhile(t *testing.T) {
	h := governed(t)
	register(t, h)
	r := prepared(t, h)
	another(t, h, "births")
	if err := h.Signed(r); !errors.Is(err, ErrMoved) || !strings.Contains(err.Error(), "births") {
		t.Fatalf("a register was added: %v", err)
	}
	r = prepared(t, h)
	reg, err := h.Register("births")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := h.AgentKey()
	if err != nil {
		t.Fatal(err)
	}
	reg.Record.Sequence++
	reg.Record.Grants = []charter.Grant{{Recipient: [32]byte{1}, Sealed: []byte("x")}}
	if err := reg.Record.Sign(agent); err != nil {
		t.Fatal(err)
	}
	if err := h.Save(reg); err != nil {
		t.Fatal(err)
	}
	if err := h.Signed(r); !errors.Is(err, ErrMoved) {
		t.Fatalf("a reader was added: %v", err)
	}
	_, f := people()
	surveys := surveyed(t, h)
	surveys[0].Seen = 7 // somebody wrote records at an embassy that home does not know
	if r, err = h.Prepare(opening(t, h, "mari", "anna"), surveys, 2, f.Custodians, nil); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Records, func(x *charter.Register) bool { return x.ID == surveys[0].Record.ID })
	if r.Records[i].Sequence != 8 {
		t.Errorf("the next record is %d", r.Records[i].Sequence)
	}
	if err := h.Sign(r, signed(t, r.Charter.Bytes(), key(50))); err != nil {
		t.Fatal(err)
	}
	drafted := r.Charter.Custody
	between, err := charter.New(with(h, "is", "IS", 2))
	if err != nil {
		t.Fatal(err)
	}
	sig := append(signed(t, between.Bytes(), signerOf(t, h)), signed(t, between.Bytes(), key(50))...)
	if err := writeCharter(h.Dir, between, sig); err != nil {
		t.Fatal(err)
	}
	h.Charter = between
	if r, err = h.Refresh(); err != nil {
		t.Fatal(err)
	}
	anew, err := h.ProposeRefresh(r)
	if err != nil || !anew || r.Charter.Number != 3 || r.Charter.Custody.OpeningKey != drafted.OpeningKey || len(r.Charter.Embassies) != 1 {
		t.Fatalf("drafted anew: %v %v", anew, err)
	}
	adopt(t, h, r)
	if s, err := OpenSecrets(surveyed(t, h)[0].Record, opening(t, h, "jaan", "anna"), 2); err != nil || s.Name != "births" {
		t.Errorf("births: %v", err)
	}
}

// A crash after the charter came into force leaves a refresh that is finished by doing it again: at each step.
func TestAnAdoptedRefreshIsFinishedAfterACrash(t *testing.T) {
	for name, crash := range map[string]func(h *Home, r *Refresh) error{
		"charter only": func(h *Home, r *Refresh) error { return writeCharter(h.Dir, r.Charter, r.Sig) },
		"charter and records": func(h *Home, r *Refresh) error {
			return errors.Join(writeCharter(h.Dir, r.Charter, r.Sig), h.keepRecords(r))
		},
		"half of the kits": func(h *Home, r *Refresh) error {
			return errors.Join(writeCharter(h.Dir, r.Charter, r.Sig), h.keepRecords(r),
				writeKit(h.Dir, r.Charter, r.Sig, &r.Charter.Custody.Custodians[0], r.shares["mari"]), os.RemoveAll(filepath.Join(h.Dir, "kits", "jaan")))
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			h := governed(t)
			register(t, h)
			another(t, h, "tax")
			r := prepared(t, h, "tax")
			if err := h.Sign(r, signed(t, r.Charter.Bytes(), key(50))); err != nil {
				t.Fatal(err)
			}
			if err := h.MakeKits(r); err != nil {
				t.Fatal(err)
			}
			if err := crash(h, r); err != nil {
				t.Fatal(err)
			}
			h.Close()
			h = open(t, h.Dir)
			r, err := h.Refresh()
			if err != nil || !h.Adopted(r) {
				t.Fatalf("it is not seen: %v", err)
			}
			for range 2 { // done twice it is the same
				if err := h.AdoptRefresh(r); err != nil {
					t.Fatal(err)
				}
				if r, err = h.Refresh(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := OpenSecrets(surveyed(t, h)[0].Record, opening(t, h, "jaan", "anna"), 2); err != nil {
				t.Error(err)
			}
			if err := r.MarkPublished(); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Refresh(); !errors.Is(err, ErrNoRefresh) {
				t.Errorf("published: %v", err)
			}
		})
	}
}

func TestPrepareRefusesWhatWouldLoseARegister(t *testing.T) {
	h := governed(t)
	register(t, h)
	tax := another(t, h, "tax")
	_, f := people()
	key := opening(t, h, "mari", "jaan")
	if _, err := h.Prepare(key, surveyed(t, h), 2, f.Custodians, []string{"taxes"}); !errors.Is(err, ErrNoRegister) {
		t.Errorf("a name that is none: %v", err)
	}
	if _, err := h.Prepare(key, surveyed(t, h), 4, f.Custodians, nil); !errors.Is(err, custody.ErrParameters) {
		t.Errorf("four of three: %v", err)
	}
	other, err := seal.NewPrivateKey([32]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Prepare(other, surveyed(t, h), 2, f.Custodians, nil); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("another opening key: %v", err)
	}
	// A record whose secrets open and are of another register: sealed by somebody who is not home.
	all := surveyed(t, h)
	swapped := *all[0].Record
	secrets, err := OpenSecrets(tax.Record, key, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.sealSecrets(&swapped, secrets, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Prepare(key, []Survey{{Record: &swapped}}, 2, f.Custodians, nil); !errors.Is(err, charter.ErrRegister) {
		t.Errorf("another register's secrets: %v", err)
	}
	if _, err := h.Refresh(); !errors.Is(err, ErrNoRefresh) {
		t.Errorf("something was prepared: %v", err)
	}
}
