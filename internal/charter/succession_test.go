package charter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// grow adds a witness and keeps to what the charter says otherwise.
func grow(c *Charter) {
	c.Witnesses = append(c.Witnesses, witnessOf("oslo", "NO", 90))
	c.Witnessing = c.GrownWitnessing()
}

type handTest struct {
	change func(*Charter)
	takes  string // what a single hand takes by it; empty where it only adds
}

// What one stolen key may do to those who watch the embassies: add, and nothing else. Two of the signers may do all of
// it, which is each case's control.
func TestASingleHandTakesNoWitnessAway(t *testing.T) {
	tests := map[string]handTest{
		"a witness more": {grow, ""},
		"an embassy more": {func(c *Charter) {
			c.Embassies = append(c.Embassies, embassyOf("oslo", "NO", 90))
			c.Witnessing = c.GrownWitnessing()
		}, ""},
		"one more of a country": {func(c *Charter) {
			c.Witnesses = append(c.Witnesses, witnessOf("tartu", "EE", 90))
			c.Witnessing = c.GrownWitnessing()
		}, ""},
		"an auditor more":          {func(c *Charter) { c.Auditors = append(c.Auditors, Auditor{"press", EncodeKey(pub(86))}) }, ""},
		"an embassy's next ledger": {func(c *Charter) { c.Embassies[0].Origin = ledger.NextOrigin(c.Embassies[0].Origin) }, ""},
		"an embassy's ledger after next": {func(c *Charter) {
			c.Embassies[0].Origin = ledger.NextOrigin(ledger.NextOrigin(c.Embassies[0].Origin))
		}, "embassy "},
		"an embassy's other ledger": {func(c *Charter) { c.Embassies[0].Origin += "x" }, "embassy "},
		"a witness moved":           {func(c *Charter) { c.Witnesses[1].URL = "http://moved.example" }, ""},
		"fresher":                   {func(c *Charter) { c.Freshness = 1 }, ""},
		"more needed of a group":    {func(c *Charter) { c.Witnessing.Groups[2].Need = 3 }, ""},
		"more may lie":              {func(c *Charter) { c.Witnessing.Need, c.Witnessing.Faulty = 4, 1 }, ""},
		"less fresh":                {func(c *Charter) { c.Freshness++ }, "how old a checkpoint"},
		"fewer needed":              {func(c *Charter) { c.Witnessing.Need = 3 }, "how many groups must cosign"},
		"fewer needed, with more": {func(c *Charter) {
			grow(c)
			c.Witnessing.Need, c.Witnessing.Faulty = 4, 0
			c.Witnessing.Groups[1].Need = 2
		}, "group IS"},
		"fewer needed of a group": {func(c *Charter) { c.Witnessing.Groups[1].Need = 2 }, "group IS"},
		"a witness gone": {func(c *Charter) {
			c.Witnesses = c.Witnesses[:1]
			c.Witnessing.Groups = c.Witnessing.Groups[1:]
			c.Witnessing.Need = 4
		}, "witness tallinn"},
		"a witness of another country": {func(c *Charter) {
			c.Witnesses[0].Country = "LU"
			regroup(c)
			c.Witnessing.Need, c.Witnessing.Faulty = 4, 0
		}, "witness home"},
		"a witness's other key":      {func(c *Charter) { c.Witnesses[0] = witnessOf("home", "UM", 91) }, "witness home"},
		"a witness's other name":     {func(c *Charter) { c.Witnesses[0].Name = "house" }, "witness home"},
		"a witness's other cosigner": {func(c *Charter) { c.Witnesses[1].Cosigner = "other.example" }, "witness tallinn"},
		"without its ML-DSA key":     {func(c *Charter) { c.Witnesses[1].MLDSAKey = "" }, "witness tallinn"},
		"with an ML-DSA key":         {func(c *Charter) { c.Witnesses[0].MLDSAKey = EncodeKey(take(92, MLDSAKeySize)) }, "witness home"},
		"an auditor gone":            {func(c *Charter) { c.Auditors = nil }, "auditor court"},
		"an auditor's other key":     {func(c *Charter) { c.Auditors[0].Key = EncodeKey(pub(93)) }, "auditor court"},
		"one of three embassies closed": {func(c *Charter) {
			c.Embassies = slices.Delete(c.Embassies, 3, 4)
			c.Witnessing.Groups[1].Need = 2
		}, "embassy hofn"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { underOneAndTwoHands(t, watched(), test) })
	}
}

// watched asks for more than the least everywhere, so that each part can fall and the charter still be valid: all three
// of the embassies in IS, and four of five groups, of which none may lie. Of the three in LU it asks for the least.
func watched() Charter {
	c := sample()
	c.Embassies = append(c.Embassies, embassyOf("hofn", "IS", 55), embassyOf("vik", "IS", 57),
		embassyOf("vianden", "LU", 56), embassyOf("wiltz", "LU", 58))
	regroup(&c)
	c.Witnessing.Groups[1].Need = 3
	c.Witnessing.Need, c.Witnessing.Faulty = 4, 0
	return c
}

func TestASingleHandDoesNotLetMoreLie(t *testing.T) {
	c := watched()
	c.Witnessing.Faulty = 1
	for name, test := range map[string]handTest{
		"fewer may lie":             {func(c *Charter) { c.Witnessing.Faulty = 0 }, "how many groups may lie"},
		"fewer may lie, more there": {func(c *Charter) { grow(c); c.Witnessing.Need, c.Witnessing.Faulty = 4, 0 }, "how many groups may lie"},
		"as many":                   {func(*Charter) {}, ""},
	} {
		t.Run(name, func(t *testing.T) { underOneAndTwoHands(t, c, test) })
	}
}

// A charter of version 1 is held to what its embassies would have by default.
func TestASingleHandCannotUseTheChangeOfVersion(t *testing.T) {
	tests := map[string]handTest{
		"the defaults": {func(*Charter) {}, ""},
		"with home": {func(c *Charter) {
			c.Witnesses = []Witness{witnessOf("home", "UM", 80)}
			c.Witnessing = c.GrownWitnessing()
		}, ""},
		"fresh for longer": {func(c *Charter) { c.Freshness = 25 }, "how old"},
		"fewer may lie": {func(c *Charter) {
			c.Witnesses = []Witness{witnessOf("home", "UM", 80)}
			regroup(c)
			c.Witnessing.Need, c.Witnessing.Faulty = 3, 0
		}, "how many groups may lie"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := sampleOfVersion1()
			c.Embassies = append(c.Embassies, embassyOf("oslo", "NO", 53))
			underOneAndTwoHands(t, c, test)
		})
	}
}

func underOneAndTwoHands(t *testing.T, c Charter, test handTest) {
	t.Helper()
	for hands := 1; hands <= 2; hands++ {
		c := c
		c.Threshold, c.Signers = hands, slices.Clone(c.Signers[:hands])
		old := mustNew(t, c)
		n := old.Next()
		test.change(&n)
		next := mustNew(t, n)
		err := CheckSuccession(old, next, signed(t, next.Bytes(), 10, 11))
		if hands == 2 || test.takes == "" {
			if err != nil {
				t.Errorf("%d hands: %v", hands, err)
			}
			continue
		}
		if !errors.Is(err, ErrSuccession) || !strings.Contains(err.Error(), test.takes) {
			t.Errorf("error %v, want ErrSuccession that speaks of %q", err, test.takes)
		}
	}
}

type successionVector struct {
	Name       string `json:"name"`
	Old        string `json:"old"`
	Next       string `json:"next"`
	Signatures string `json:"signatures"` // of next
	Expect     string `json:"expect"`     // ok or succession
}

// small is a charter of version 2 with one custodian, so that its vectors are short.
func small() Charter {
	c := sample()
	c.Threshold, c.Signers = 1, c.Signers[:1]
	c.Custody.Threshold, c.Custody.Custodians = 1, c.Custody.Custodians[:1]
	return c
}

func TestSuccessionVectors(t *testing.T) {
	all := vector(t, "successions.json", func() []successionVector {
		one := small()
		versionOne(&one)
		three := small() // witnesses in EE, all of which are needed
		three.Witnesses = append(three.Witnesses, witnessOf("tartu", "EE", 90), witnessOf("narva", "EE", 91))
		three.Witnessing.Groups[0].Need = 3
		v := func(name string, c Charter, expect string, change func(*Charter)) successionVector {
			old := mustNew(t, c)
			n := old.Next()
			change(&n)
			next := mustNew(t, n)
			return successionVector{name, string(old.Bytes()), string(next.Bytes()), string(signed(t, next.Bytes(), 10)), expect}
		}
		return []successionVector{
			v("version 2 after 1", one, "ok", func(*Charter) {}),
			v("version 1 after 2", small(), "succession", versionOne),
			v("a witness more", small(), "ok", grow),
			v("a second witness of a country", small(), "ok", func(c *Charter) {
				c.Witnesses = append(c.Witnesses, witnessOf("tartu", "EE", 90))
				c.Witnessing = c.GrownWitnessing()
			}),
			v("fewer needed of a group", three, "succession", func(c *Charter) { c.Witnessing.Groups[0].Need = 2 }),
			v("a witness moved", small(), "ok", func(c *Charter) { c.Witnesses[1].URL = "http://moved.example" }),
			v("a witness gone", small(), "succession", func(c *Charter) { c.Witnesses = c.Witnesses[:1]; regroup(c) }),
			v("less fresh", small(), "succession", func(c *Charter) { c.Freshness = 25 }),
			v("less fresh than version 1", one, "succession", func(c *Charter) { c.Freshness = 25 }),
			v("fewer may lie", small(), "succession", func(c *Charter) { c.Witnessing.Faulty = 0 }),
			v("an auditor gone", small(), "succession", func(c *Charter) { c.Auditors = nil }),
		}
	})
	for _, v := range all {
		got := "ok"
		old, err1 := Parse([]byte(v.Old))
		next, err2 := Parse([]byte(v.Next))
		if err := errors.Join(err1, err2); err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if err := CheckSuccession(old, next, []byte(v.Signatures)); errors.Is(err, ErrSuccession) {
			got = "succession"
		} else if err != nil {
			got = err.Error()
		}
		if got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}

// written is the document of c, valid or not.
func written(c *Charter) string {
	var w writer
	w.body(c)
	return w.String()
}

func TestVectorsOfVersion2(t *testing.T) {
	all := vector(t, "charters2.json", func() []charterVector {
		doc := string(mustNew(t, small()).Bytes())
		swap := func(old, new string) string {
			if strings.Count(doc, old) == 0 {
				t.Fatalf("the sample has no %q", old)
			}
			return strings.Replace(doc, old, new, 1)
		}
		v := func(name, doc, expect string) charterVector {
			return charterVector{name, doc, EncodeDigest((&Charter{doc: []byte(doc)}).Hash()), string(signed(t, []byte(doc), 10)), expect}
		}
		cut := strings.Index(doc, "freshness_hours")
		// ofIS is the document with so many embassies in IS, of which need must cosign.
		ofIS := func(members, need int) string {
			c := small()
			for i := range members - 1 {
				c.Embassies = append(c.Embassies, embassyOf(fmt.Sprintf("is-%d", i), "IS", uint64(90+i)))
			}
			c.Witnessing.Groups[1].Need = need
			return written(&c)
		}
		many := small()
		for i := range 18 {
			w := witnessOf(fmt.Sprintf("w-%d", i), "EE", uint64(100+i))
			w.MLDSAKey = EncodeKey(take(uint64(200+i), MLDSAKeySize))
			many.Witnesses = append(many.Witnesses, w)
		}
		regroup(&many)
		return []charterVector{
			v("two witnesses and an auditor", doc, "ok"),
			v("need that liars split", swap("  need: 4\n", "  need: 3\n"), "invalid"),
			v("need that silence stops", swap("  need: 4\n", "  need: 5\n"), "invalid"),
			v("faulty below 0", swap("faulty: 1", "faulty: -1"), "invalid"),
			v("group of nobody", swap(`    - country: "UM"`, `    - country: "XX"`), "invalid"),
			v("group need of two of two", ofIS(2, 2), "ok"),
			v("group need of half of two", ofIS(2, 1), "invalid"),
			v("group need of two of three", ofIS(3, 2), "ok"),
			v("group need of one of three", ofIS(3, 1), "invalid"),
			v("group need of three of four", ofIS(4, 3), "ok"),
			v("group need of half of four", ofIS(4, 2), "invalid"),
			v("group need over its members", swap("\"EE\"\n      need: 1", "\"EE\"\n      need: 2"), "invalid"),
			v("freshness 0", swap("freshness_hours: 24", "freshness_hours: 0"), "invalid"),
			v("cosigner of another key", swap("chancery.dev/witness/", "chancery.dev/witness/0"), "invalid"),
			v("a witness's key twice", swap(EncodeKey(pub(81)), EncodeKey(pub(80))), "invalid"),
			v("version 1 with a policy", swap("version: 2", "version: 1"), "invalid"),
			v("version 2 without a policy", doc[:cut], "invalid"),
			v("cosignatures that do not fit a note", written(&many), "invalid"),
			v("version 3", swap("version: 2", "version: 3"), "invalid"),
		}
	})
	for _, v := range all {
		c, err := Parse([]byte(v.Document))
		got := "ok"
		if err != nil {
			got = "invalid"
		} else if err := c.Verify([]byte(v.Signatures)); err != nil || EncodeDigest(c.Hash()) != v.Hash {
			got = fmt.Sprint("hash or signature: ", err)
		}
		if got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}
