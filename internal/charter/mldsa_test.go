package charter

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// secondKey is an ML-DSA-44 key in base64, and its cosigner in the name of embassy key n.
func secondKey(t testing.TB, n uint64) (string, *ledger.Cosigner) {
	t.Helper()
	seed := [32]byte(take(500+n, 32))
	c, err := ledger.NewMLDSACosigner(CosignerName(pub(n)), &seed)
	if err != nil {
		t.Fatal(err)
	}
	return EncodeKey(c.Key().PublicKey()), c
}

// secondSample is a charter in which lux has both keys and the other embassies one.
func secondSample(t testing.TB) Charter {
	t.Helper()
	c := sampleOfPeople(t)
	c.Embassies[0].MLDSAKey, _ = secondKey(t, 50)
	return c
}

// The version rises where an embassy has a second key, and nowhere else, so that programs which know less read all else.
func TestVersion4IsWrittenOnlyWhereAnEmbassyHasAnMLDSAKey(t *testing.T) {
	plain := mustNew(t, sampleOfPeople(t))
	if plain.Version != 3 || strings.Count(string(plain.Bytes()), "mldsa_key") != 2 {
		t.Errorf("without one: version %d", plain.Version)
	}
	c := mustNew(t, secondSample(t))
	if c.Version != VersionMLDSA || strings.Count(string(c.Bytes()), "mldsa_key") != 5 {
		t.Errorf("with one: version %d", c.Version)
	}
	if got := c.Embassies[0].MLDSAPublicKey(); len(got) != MLDSAKeySize || EncodeKey(got) != c.Embassies[0].MLDSAKey {
		t.Errorf("its key: %d bytes", len(got))
	}
	if c.Embassies[1].MLDSAPublicKey() != nil {
		t.Error("an embassy without one has a key")
	}
	bare := c.Next()
	bare.Embassies[0].MLDSAKey = ""
	if next := mustNew(t, bare); next.Version != VersionMLDSA {
		t.Errorf("version %d after 4", next.Version)
	}
	if up := c.Upgraded(); up.Version != VersionMLDSA {
		t.Errorf("upgraded from version 4 to %d", up.Version)
	}
}

func TestEveryRuleOfAnEmbassysMLDSAKey(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Charter)
		want   string
	}{
		"short":             {func(c *Charter) { c.Embassies[0].MLDSAKey = "AAAA" }, "embassy lux: mldsa_key"},
		"an Ed25519 key":    {func(c *Charter) { c.Embassies[0].MLDSAKey = c.Embassies[0].Key }, "embassy lux: mldsa_key"},
		"another embassy's": {func(c *Charter) { c.Embassies[1].MLDSAKey = c.Embassies[0].MLDSAKey }, "same key as embassy lux"},
		"a witness's":       {func(c *Charter) { c.Embassies[1].MLDSAKey = c.Witnesses[1].MLDSAKey }, "same key as embassy reykjavik"},
		"in version 3":      {func(c *Charter) { c.Version = 3 }, "version 3: knows no mldsa_key"},
		"version 5":         {func(c *Charter) { c.Version = 5 }, "version 5"},
		"more than fit a note": {func(c *Charter) {
			for i := range uint64(18) {
				e := embassyOf("e-"+string(rune('a'+i)), "LU", 600+i)
				e.MLDSAKey = EncodeKey(take(700+i, MLDSAKeySize))
				c.Embassies = append(c.Embassies, e)
			}
			regroup(c)
		}, "do not fit a note"},
	} {
		c := secondSample(t)
		c.Version = VersionMLDSA
		if err := c.Validate(); err != nil {
			t.Fatalf("control: %v", err)
		}
		test.change(&c)
		if err := c.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	two := sample() // of version 2, which New leaves as it is
	two.Embassies[0].MLDSAKey, _ = secondKey(t, 50)
	if _, err := New(two); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "version 2: knows no mldsa_key") {
		t.Errorf("version 2: %v", err)
	}
}

// Where the charter names both keys of an embassy only both together count: as a witness of others, and as the vote of its
// own state for its own ledger. The control is the same charter without the second key, by which one is enough.
func TestAnEmbassyCountsWithBothKeysOnly(t *testing.T) {
	with := mustNew(t, secondSample(t))
	without := mustNew(t, sampleOfPeople(t))
	first := func(n uint64) *ledger.Cosigner {
		s, err := ledger.NewCosigner(CosignerName(pub(n)), testKey(n))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, second := secondKey(t, 50)
	_, foreign := secondKey(t, 51) // of another, whom no charter gives an ML-DSA-44 key
	seed := [32]byte(take(999, 32))
	fake, err := ledger.NewMLDSACosigner(CosignerName(pub(50)), &seed) // in the name of lux, by a key of somebody's own
	if err != nil {
		t.Fatal(err)
	}
	lux, reykjavik, lisbon, home := first(50), first(51), first(52), first(80)
	is, own := with.Embassies[1].Log(), with.Embassies[0].Log()
	for name, test := range map[string]struct {
		charter *Charter
		log     ledger.Log
		by      []*ledger.Cosigner
		groups  []string
		enough  bool
	}{
		"both":                        {with, is, []*ledger.Cosigner{lisbon, home, lux, second}, []string{"IS", "LU", "PT", "UM"}, true},
		"Ed25519 alone":               {with, is, []*ledger.Cosigner{lisbon, home, lux}, []string{"IS", "PT", "UM"}, false},
		"ML-DSA-44 alone":             {with, is, []*ledger.Cosigner{lisbon, home, second}, []string{"IS", "PT", "UM"}, false},
		"another's ML-DSA-44":         {with, is, []*ledger.Cosigner{lisbon, home, lux, foreign}, []string{"IS", "PT", "UM"}, false},
		"a key not in the charter":    {with, is, []*ledger.Cosigner{lisbon, home, lux, fake}, []string{"IS", "PT", "UM"}, false},
		"control: Ed25519 alone":      {without, is, []*ledger.Cosigner{lisbon, home, lux}, []string{"IS", "LU", "PT", "UM"}, true},
		"its own ledger":              {with, own, []*ledger.Cosigner{lisbon, home, reykjavik, second}, []string{"IS", "LU", "PT", "UM"}, true},
		"its own, Ed25519 alone":      {with, own, []*ledger.Cosigner{lisbon, home, reykjavik}, []string{"IS", "PT", "UM"}, false},
		"its own, Ed25519 twice":      {with, own, []*ledger.Cosigner{lisbon, home, reykjavik, lux}, []string{"IS", "PT", "UM"}, false},
		"its own, by another key":     {with, own, []*ledger.Cosigner{lisbon, home, reykjavik, fake}, []string{"IS", "PT", "UM"}, false},
		"its own twice counts once":   {with, own, []*ledger.Cosigner{lisbon, home, lux, second}, []string{"LU", "PT", "UM"}, false},
		"control: its own, as before": {without, own, []*ledger.Cosigner{lisbon, home, reykjavik}, []string{"IS", "LU", "PT", "UM"}, true},
	} {
		policy, err := test.charter.Policy()
		if err != nil {
			t.Fatal(err)
		}
		raw := cosigned(t, test.log.Origin, testKey(map[string]uint64{is.Origin: 51, own.Origin: 50}[test.log.Origin]), test.by)
		v, err := policy.Judge(raw, test.log)
		if err != nil || v.Enough != test.enough || !slices.Equal(v.Groups, test.groups) {
			t.Errorf("%s: %v by %v, %v", name, v.Enough, v.Groups, err)
		}
	}

	// A line in the name of the key that does not verify is refused, whatever else stands there.
	policy, err := with.Policy()
	if err != nil {
		t.Fatal(err)
	}
	all := []*ledger.Cosigner{lisbon, home, reykjavik, lux, second}
	for _, log := range []ledger.Log{is, own} {
		raw := cosigned(t, log.Origin, testKey(map[string]uint64{is.Origin: 51, own.Origin: 50}[log.Origin]), all)
		if _, err := policy.Judge(raw, log); err != nil {
			t.Fatalf("control: %v", err)
		}
		if _, err := policy.Judge(forgeLast(t, raw), log); !errors.Is(err, ledger.ErrSignature) {
			t.Errorf("a forged ML-DSA-44 cosignature: %v", err)
		}
	}
}

// forgeLast changes one bit of the last signature of a note.
func forgeLast(t *testing.T, raw []byte) []byte {
	t.Helper()
	text := strings.TrimSuffix(string(raw), "\n")
	at := strings.LastIndexByte(text, ' ') + 1
	blob, err := base64.StdEncoding.DecodeString(text[at:])
	if err != nil || len(blob) < 2000 {
		t.Fatalf("the last signature has %d bytes: %v", len(blob), err)
	}
	blob[len(blob)-1000] ^= 1
	return []byte(text[:at] + base64.StdEncoding.EncodeToString(blob) + "\n")
}

// One hand may ask for one more signature of an embassy, and never for another or for none; two may do all of it.
func TestSuccessionOfAnEmbassysMLDSAKey(t *testing.T) {
	other := EncodeKey(take(800, MLDSAKeySize))
	given := func(c *Charter) { c.Embassies[0].MLDSAKey, _ = secondKey(t, 50) }
	for name, test := range map[string]struct {
		before, after func(*Charter)
		want          error // of one hand
	}{
		"a first one":  {func(*Charter) {}, given, nil},
		"another one":  {given, func(c *Charter) { c.Embassies[0].MLDSAKey = other }, ErrSuccession},
		"none":         {given, func(c *Charter) { c.Embassies[0].MLDSAKey = "" }, ErrSuccession},
		"the same one": {given, func(c *Charter) { c.Freshness = 12 }, nil},
	} {
		for hands, want := range map[int]error{1: test.want, 2: nil} {
			c := small()
			c.Signers, c.Threshold = sample().Signers, hands
			c = (&c).Upgraded()
			test.before(&c)
			old := mustNew(t, c)
			n := old.Next()
			test.after(&n)
			next := mustNew(t, n)
			if err := CheckSuccession(old, next, signed(t, next.Bytes(), 10, 11)); !errors.Is(err, want) {
				t.Errorf("%s by %d: %v, want %v", name, hands, err, want)
			}
		}
	}
	// An earlier charter goes on as it is: nothing asks it for a key.
	old := mustNew(t, small())
	n := old.Next()
	if next := mustNew(t, n); next.Version != 2 || CheckSuccession(old, next, signed(t, next.Bytes(), 10)) != nil {
		t.Errorf("version %d after 2", next.Version)
	}
	// And no charter of version 3 follows one of version 4.
	c := secondSample(t)
	four := mustNew(t, c)
	down := four.Next()
	down.Version, down.Embassies[0].MLDSAKey = 3, ""
	three := mustNew(t, down)
	if err := CheckSuccession(four, three, signed(t, three.Bytes(), 10, 11, 12)); !errors.Is(err, ErrSuccession) {
		t.Errorf("version 3 after 4: %v", err)
	}
}

func TestVectorsOfVersion4(t *testing.T) {
	all := vector(t, "charters4.json", func() []charterVector {
		c := small()
		c = (&c).Upgraded()
		c.Embassies[0].MLDSAKey, _ = secondKey(t, 50)
		doc := string(mustNew(t, c).Bytes())
		swap := func(old, new string) string {
			if strings.Count(doc, old) == 0 {
				t.Fatalf("the sample has no %q", old)
			}
			return strings.Replace(doc, old, new, 1)
		}
		v := func(name, doc, expect string) charterVector {
			return charterVector{name, doc, EncodeDigest((&Charter{doc: []byte(doc)}).Hash()), string(signed(t, []byte(doc), 10)), expect}
		}
		key := `    mldsa_key: "` + c.Embassies[0].MLDSAKey + "\"\n"
		bare := c
		bare.Version, bare.Embassies = VersionMLDSA, slices.Clone(c.Embassies)
		bare.Embassies[0].MLDSAKey = ""
		return []charterVector{
			v("an embassy with both keys", doc, "ok"),
			v("no embassy with both keys", string(mustNew(t, bare).Bytes()), "ok"),
			v("version 3 with the field", swap("version: 4", "version: 3"), "invalid"),
			v("without the field", swap(key, ""), "invalid"),
			v("an Ed25519 key in the field", swap(c.Embassies[0].MLDSAKey, EncodeKey(pub(99))), "invalid"),
			v("a witness's key in the field", swap(c.Embassies[0].MLDSAKey, c.Witnesses[1].MLDSAKey), "invalid"),
			v("version 5", swap("version: 4", "version: 5"), "invalid"),
		}
	})
	for _, v := range all {
		if got := outcomeOf(t, v); got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
		c, err := Parse([]byte(v.Document))
		if err != nil {
			continue
		}
		if _, err := c.Policy(); err != nil || c.FreshFor() < time.Hour {
			t.Errorf("%s: policy: %v", v.Name, err)
		}
	}
}
