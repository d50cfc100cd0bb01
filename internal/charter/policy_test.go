package charter

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/ledger"
)

// The algorithms of C2SP signed-note keys.
const (
	algEd25519 = 4
	algMLDSA44 = 6
)

// vkey is a C2SP verifier key, written here from its definition.
func vkey(name string, alg byte, key []byte) string {
	typed := append([]byte{alg}, key...)
	id := sha256.Sum256(append([]byte(name+"\n"), typed...))
	return fmt.Sprintf("%s+%08x+%s", name, binary.BigEndian.Uint32(id[:]), base64.StdEncoding.EncodeToString(typed))
}

func ours(name string, n uint64) string {
	return name + " " + vkey(CosignerName(pub(n)), algEd25519, pub(n))
}

// lines lists a policy's members, each as its name and its keys, by group and need.
func lines(p *ledger.Policy) map[string][]string {
	out := map[string][]string{}
	for _, g := range p.Groups {
		group := fmt.Sprintf("%s %d", g.Name, g.Need)
		for _, m := range g.Members {
			member := m.Name
			for _, k := range m.Keys {
				member += " " + k.String()
			}
			out[group] = append(out[group], member)
		}
	}
	return out
}

func TestPolicyOfACharter(t *testing.T) {
	foreign := "witness.example/tallinn"
	tallinn := "tallinn " + vkey(foreign, algEd25519, pub(81)) + " " + vkey(foreign, algMLDSA44, take(82, MLDSAKeySize))
	tests := map[string]struct {
		charter      Charter
		need, faulty int
		want         map[string][]string
	}{
		"five groups of one": {sample(), 4, 1, map[string][]string{
			"EE 1": {tallinn}, "IS 1": {ours("reykjavik", 51)}, "LU 1": {ours("lux", 50)},
			"PT 1": {ours("lisbon", 52)}, "UM 1": {ours("home", 80)},
		}},
		"one group of three": {func() Charter { c := sample(); threeInLU(&c); return c }(), 3, 1, map[string][]string{
			"EE 1": {tallinn}, "IS 1": {ours("reykjavik", 51)}, "PT 1": {ours("lisbon", 52)},
			"LU 2": {ours("lux", 50), ours("wiltz", 58), ours("home", 80)},
		}},
		"more than the default": {func() Charter {
			c := sample()
			threeInLU(&c)
			c.Witnessing.Groups[2].Need, c.Witnessing.Need, c.Witnessing.Faulty = 3, 4, 0
			return c
		}(), 4, 0, map[string][]string{
			"EE 1": {tallinn}, "IS 1": {ours("reykjavik", 51)}, "PT 1": {ours("lisbon", 52)},
			"LU 3": {ours("lux", 50), ours("wiltz", 58), ours("home", 80)},
		}},
		"version 1": {sampleOfVersion1(), 2, 0, map[string][]string{
			"IS 1": {ours("reykjavik", 51)}, "LU 1": {ours("lux", 50)}, "PT 1": {ours("lisbon", 52)},
		}},
		"version 1, two in IS": {func() Charter {
			c := sampleOfVersion1()
			c.Embassies = append(c.Embassies, embassyOf("hofn", "IS", 55))
			return c
		}(), 2, 0, map[string][]string{
			"IS 2": {ours("reykjavik", 51), ours("hofn", 55)}, "LU 1": {ours("lux", 50)}, "PT 1": {ours("lisbon", 52)},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := mustNew(t, test.charter).Policy()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Check(); err != nil {
				t.Error(err)
			}
			if p.Need != test.need || p.Faulty != test.faulty {
				t.Errorf("need %d and faulty %d, want %d and %d", p.Need, p.Faulty, test.need, test.faulty)
			}
			if got := lines(p); !reflect.DeepEqual(got, test.want) {
				t.Errorf("groups\n%v, want\n%v", got, test.want)
			}
			if !slices.IsSortedFunc(p.Groups, func(a, b ledger.Group) int { return strings.Compare(a.Name, b.Name) }) {
				t.Error("the groups are not in order of code")
			}
		})
	}
}

func TestPolicyThatCannotBe(t *testing.T) {
	nobody := func(c Charter) *Charter {
		c.Embassies, c.Witnesses, c.Witnessing = nil, nil, Witnessing{}
		return mustNew(t, c) // valid: a state that has only just begun
	}
	half := sample()
	half.Witnesses[0].Country = "LU"
	regroup(&half)
	if _, err := half.Policy(); err != nil {
		t.Fatalf("control: %v", err)
	}
	half.Witnessing.Groups[2].Need = 1
	split := sample()
	split.Witnessing.Need = 3
	for name, c := range map[string]*Charter{
		"nobody": nobody(sample()), "nobody in version 1": nobody(sampleOfVersion1()),
		"half of a group": &half, "need that liars split": &split,
	} {
		if _, err := c.Policy(); !errors.Is(err, ledger.ErrPolicy) {
			t.Errorf("%s: error %v, want ErrPolicy", name, err)
		}
	}
	for name, change := range map[string]func(*Charter){
		"embassy lux":     func(c *Charter) { c.Embassies[0].Key = "" },
		"witness home":    func(c *Charter) { c.Witnesses[0].Key = "" },
		"witness tallinn": func(c *Charter) { c.Witnesses[1].MLDSAKey = "AAAA" },
	} {
		c := sample()
		change(&c)
		if p, err := c.Policy(); err == nil || !strings.Contains(err.Error(), name) || p != nil {
			t.Errorf("%s without its key: %v", name, err)
		}
	}
}

// A charter that is valid has a policy that can be used: the vectors', and one whose cosignatures just fit a note. One
// more than that is refused by the charter itself, before anyone signs it.
func TestValidChartersHavePolicies(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("../../testdata/vectors/charter", "charters2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []charterVector
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	valid := 0
	for _, v := range all {
		c, err := Parse([]byte(v.Document))
		if err != nil {
			continue
		}
		valid++
		if _, err := c.Policy(); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	if valid < 4 {
		t.Errorf("%d valid charters in the vectors", valid)
	}

	c := sample()
	for i := 0; ; i++ {
		if i == MaxWitnesses-2 {
			t.Fatal("as many ML-DSA witnesses as there may be fit a note: the test has lost its object")
		}
		w := witnessOf(fmt.Sprintf("w-%d", i), "EE", uint64(100+i))
		w.MLDSAKey = EncodeKey(take(uint64(200+i), MLDSAKeySize))
		c.Witnesses = append(c.Witnesses, w)
		regroup(&c)
		_, err := c.Policy()
		if errors.Is(err, ledger.ErrPolicy) {
			break
		}
		if valid := c.Validate(); err != nil || valid != nil {
			t.Fatalf("%d witnesses: policy %v, charter %v", len(c.Witnesses), err, valid)
		}
	}
	if err := c.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "do not fit a note") {
		t.Errorf("%d witnesses: %v", len(c.Witnesses), err)
	}
}

func TestLogsOfACharter(t *testing.T) {
	c := mustNew(t, sample())
	logs := c.Logs()
	if len(logs) != 3 {
		t.Fatalf("%d logs", len(logs))
	}
	for i, want := range []struct {
		member, group string
		key           uint64
	}{{"lux", "LU", 50}, {"reykjavik", "IS", 51}, {"lisbon", "PT", 52}} {
		id := sha256.Sum256(pub(want.key))
		origin := fmt.Sprintf("chancery.dev/ledger/%x", id[:16])
		if got := logs[i]; !reflect.DeepEqual(got, ledger.Log{Origin: origin, Key: pub(want.key), Group: want.group, Member: want.member}) {
			t.Errorf("%+v, want %s of %s", got, want.member, want.group)
		}
		if !reflect.DeepEqual(c.Embassies[i].Log(), logs[i]) {
			t.Error("Log and Logs differ")
		}
	}
	empty := sample()
	empty.Embassies = nil
	if logs := empty.Logs(); logs == nil || len(logs) != 0 {
		t.Errorf("without embassies: %v", logs)
	}
}

// All of it together: who must cosign lux's checkpoint until the charter's policy is content.
func TestPolicyCountsWhatTheCharterSays(t *testing.T) {
	seed := [32]byte(take(400, 32))
	pq, err := ledger.NewMLDSACosigner("witness.example/tallinn", &seed)
	if err != nil {
		t.Fatal(err)
	}
	typed, err := base64.StdEncoding.DecodeString(strings.SplitN(pq.Key().String(), "+", 3)[2])
	if err != nil {
		t.Fatal(err)
	}
	c := sample()
	c.Witnesses[1].MLDSAKey = EncodeKey(typed[1:])
	c.Embassies = append(c.Embassies, embassyOf("hofn", "IS", 55))
	regroup(&c)
	charter := mustNew(t, c)
	policy, err := charter.Policy()
	if err != nil {
		t.Fatal(err)
	}
	log := charter.Embassies[0].Log()
	cosigner := func(name string, n uint64) *ledger.Cosigner {
		s, err := ledger.NewCosigner(name, testKey(n))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	by := func(n uint64) *ledger.Cosigner { return cosigner(CosignerName(pub(n)), n) }
	tallinn, reykjavik, hofn, lisbon, home := cosigner("witness.example/tallinn", 81), by(51), by(55), by(52), by(80)

	for name, test := range map[string]struct {
		by     []*ledger.Cosigner
		groups []string
		enough bool
	}{
		"nobody":                      {nil, []string{"LU"}, false},
		"two others":                  {[]*ledger.Cosigner{lisbon, home}, []string{"LU", "PT", "UM"}, false},
		"one of the two in IS":        {[]*ledger.Cosigner{lisbon, home, reykjavik}, []string{"LU", "PT", "UM"}, false},
		"both in IS":                  {[]*ledger.Cosigner{lisbon, home, reykjavik, hofn}, []string{"IS", "LU", "PT", "UM"}, true},
		"tallinn with Ed25519 alone":  {[]*ledger.Cosigner{lisbon, home, tallinn}, []string{"LU", "PT", "UM"}, false},
		"tallinn with ML-DSA alone":   {[]*ledger.Cosigner{lisbon, home, pq}, []string{"LU", "PT", "UM"}, false},
		"tallinn with both":           {[]*ledger.Cosigner{lisbon, home, tallinn, pq}, []string{"EE", "LU", "PT", "UM"}, true},
		"lux itself counts once":      {[]*ledger.Cosigner{lisbon, home, by(50)}, []string{"LU", "PT", "UM"}, false},
		"an auditor does not count":   {[]*ledger.Cosigner{lisbon, home, by(85)}, []string{"LU", "PT", "UM"}, false},
		"an agent does not count":     {[]*ledger.Cosigner{lisbon, home, by(40)}, []string{"LU", "PT", "UM"}, false},
		"a stranger does not count":   {[]*ledger.Cosigner{lisbon, home, by(99)}, []string{"LU", "PT", "UM"}, false},
		"home's key, another's name":  {[]*ledger.Cosigner{lisbon, cosigner(CosignerName(pub(99)), 80)}, []string{"LU", "PT"}, false},
		"two lines of one, two of IS": {[]*ledger.Cosigner{lisbon, lisbon, reykjavik, hofn}, []string{"IS", "LU", "PT"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := policy.Judge(cosigned(t, log.Origin, testKey(50), test.by), log)
			if err != nil {
				t.Fatal(err)
			}
			if v.Enough != test.enough || !slices.Equal(v.Groups, test.groups) {
				t.Errorf("%v by %v, want %v by %v", v.Enough, v.Groups, test.enough, test.groups)
			}
		})
	}
}

// cosigned is a checkpoint of the log, signed with its key and by them.
func cosigned(t *testing.T, origin string, key ed25519.PrivateKey, by []*ledger.Cosigner) []byte {
	t.Helper()
	signer, err := ledger.NewSigner(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	root := sha256.Sum256([]byte("a tree"))
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n7\n%s\n", origin, base64.StdEncoding.EncodeToString(root[:]))}, signer)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range by {
		line, err := s.Cosign(ledger.Checkpoint{Origin: origin, Size: 7, Root: root}, time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = ledger.AddSignatures(raw, line); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}
