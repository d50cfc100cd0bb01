package agreement

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/vectest"
)

const vectors = "../../testdata/vectors/agreement/agreements.json"

// vectorFile is what another implementation reads: one charter, and agreements with what is to be expected of each.
type vectorFile struct {
	Charter    string   `json:"charter"`
	Agreements []vector `json:"agreements"`
}

type vector struct {
	Name       string `json:"name"`
	Before     string `json:"before"` // the document that it amends, or empty
	Document   string `json:"document"`
	Hash       string `json:"hash"`
	Signatures string `json:"signatures"`
	At         string `json:"at"`     // the time of judging
	Expect     string `json:"expect"` // ok, invalid, amendment, party, signature or unsigned
	Phase      string `json:"phase"`  // of one that is ok
}

func TestVectors(t *testing.T) {
	if vectest.Update() {
		b, err := json.MarshalIndent(freshVectors(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectors, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectors)
	if err != nil {
		t.Fatal(err)
	}
	var file vectorFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	c, err := charter.Parse([]byte(file.Charter))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range file.Agreements {
		got, phase := judge(t, &v, c)
		if got != v.Expect || phase != v.Phase {
			t.Errorf("%s: %s %s, want %s %s", v.Name, got, phase, v.Expect, v.Phase)
		}
		seen[v.Expect] = true
	}
	if len(seen) != 6 {
		t.Errorf("outcomes in the vectors: %v", seen)
	}
}

func judge(t *testing.T, v *vector, c *charter.Charter) (outcome, phase string) {
	at, err := time.Parse(time.RFC3339, v.At)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Parse([]byte(v.Document))
	if err != nil {
		return "invalid", ""
	}
	if charter.EncodeDigest(a.Hash()) != v.Hash {
		t.Errorf("%s: hash", v.Name)
	}
	if v.Before == "" {
		err = a.Verify([]byte(v.Signatures), c, at)
	} else {
		before, bad := Parse([]byte(v.Before))
		if bad != nil {
			t.Fatal(bad)
		}
		err = CheckAmendment(before, a, []byte(v.Signatures), c, at)
	}
	for name, kind := range map[string]error{
		"amendment": ErrAmendment, "party": ErrParty, "signature": charter.ErrSignature, "unsigned": ErrUnsigned,
	} {
		if errors.Is(err, kind) {
			return name, ""
		}
	}
	if err != nil {
		t.Errorf("%s: %v", v.Name, err)
	}
	return "ok", string(a.PhaseAt(at))
}

func freshVectors(t *testing.T) vectorFile {
	c := sampleCharter(t, nil)
	a := mustNew(t, sample(t))
	doc := string(a.Bytes())
	file := vectorFile{Charter: string(c.Bytes())}
	add := func(name, before, doc string, at time.Time, expect string, phase Phase, keys ...uint64) {
		hash := charter.EncodeDigest((&Agreement{doc: []byte(doc)}).Hash())
		sigs := string(signed(t, []byte(doc), keys...))
		file.Agreements = append(file.Agreements, vector{name, before, doc, hash, sigs, at.Format(time.RFC3339), expect, string(phase)})
	}
	day := func(d charter.Date) time.Time { return d.Start() }
	add("two of each side", "", doc, noon, "ok", InForce, 10, 11, 20, 21)
	add("before its first day", "", doc, day("2026-11-30"), "ok", NotYet, 10, 11, 20, 21)
	add("after its last day", "", doc, day("2031-12-01"), "ok", Returning, 10, 12, 20, 21)
	add("after its return period", "", doc, day("2033-01-01"), "ok", Ended, 10, 12, 20, 21)
	add("without comments", "", string(withoutComments([]byte(doc))), noon, "ok", InForce, 10, 11, 20, 21)
	add("one of the host", "", doc, noon, "unsigned", "", 10, 11, 20)
	add("one person of the state with two keys", "", doc, noon, "unsigned", "", 11, 13, 20, 21)
	add("a person whose term is over", "", doc, day("2027-02-01"), "unsigned", "", 10, 11, 20, 21)
	add("one person of the host twice", "", doc, noon, "unsigned", "", 10, 11, 20, 20)
	spoiled := strings.Replace(doc, "# Agreement", "# The agreement", 1)
	add("a comment changed after signing", "", doc, noon, "signature", "", 10, 11, 20, 21)
	last := &file.Agreements[len(file.Agreements)-1]
	last.Document, last.Hash = spoiled, charter.EncodeDigest((&Agreement{doc: []byte(spoiled)}).Hash())
	both := changed(t, func(a *Agreement) { a.Host.Signatories[2].Key = sshOf(t, 13) })
	add("one key on both sides", "", string(both.Bytes()), noon, "party", "", 10, 11, 20, 21)
	add("text without quotes", "", strings.Replace(doc, `"room"`, "room", 1), noon, "invalid", "", 10, 11, 20, 21)
	add("a field twice", "", strings.Replace(doc, "number: 1\n", "number: 1\nnumber: 1\n", 1), noon, "invalid", "", 10, 11, 20, 21)
	add("not agreed yet", "", strings.Replace(doc, "IV, of the building", Open, 1), noon, "invalid", "", 10, 11, 20, 21)
	add("a newer version", "", strings.Replace(doc, "version: 1", "version: 2", 1), noon, "invalid", "", 10, 11, 20, 21)

	next := a.Next()
	next.Host.Signatories[2] = Signatory{"marc", "Minister of Justice", sshOf(t, 23)}
	second := string(mustNew(t, next).Bytes())
	add("an amendment", doc, second, noon, "ok", InForce, 10, 11, 20, 21)
	add("an amendment, by the new list alone", doc, second, noon, "unsigned", "", 10, 11, 20, 23)
	next.Retention.Minimum = "30d"
	add("an amendment that lowers in silence", doc, string(mustNew(t, next).Bytes()), noon, "amendment", "", 10, 11, 20, 21)
	next.Retention.Lowers = "yes"
	add("an amendment that lowers and says so", doc, string(mustNew(t, next).Bytes()), noon, "ok", InForce, 10, 11, 20, 21)
	next.Embassy.Key = charter.Fingerprint(public(51))
	add("an amendment about another embassy", doc, string(mustNew(t, next).Bytes()), noon, "amendment", "", 10, 11, 20, 21)
	add("an amendment of another one", second, second, noon, "amendment", "", 10, 11, 20, 21)
	return file
}
