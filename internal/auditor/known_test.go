package auditor

import (
	"bytes"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// policyOf is a policy of three groups, of which two are needed; lu is the log's own.
func policyOf(t testing.TB) *ledger.Policy {
	t.Helper()
	p := &ledger.Policy{Need: 2}
	for _, name := range []string{"lu", "is", "pt"} {
		key, err := ledger.NewWitnessKey(ledger.WitnessName(publicOf(keyOf(name))), publicOf(keyOf(name)))
		if err != nil {
			t.Fatal(err)
		}
		p.Groups = append(p.Groups, ledger.Group{
			Name: string(bytes.ToUpper([]byte(name))), Need: 1,
			Members: []ledger.Member{{Name: name, Keys: []ledger.WitnessKey{key}}},
		})
	}
	return p
}

// withCosignature adds a witness's signature.
func withCosignature(t testing.TB, k keeper, raw []byte, who string) []byte {
	t.Helper()
	c, err := ledger.NewCosigner(ledger.WitnessName(publicOf(keyOf(who))), keyOf(who))
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(k.origin, publicOf(k.key))
	if err != nil {
		t.Fatal(err)
	}
	cp, err := ledger.ParseCheckpoint(raw, v)
	if err != nil {
		t.Fatal(err)
	}
	line, err := c.Cosign(cp, noon)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ledger.AddSignatures(raw, line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// blamed are who is blamed for a kind, in order.
func blamed(r *Report, kind Kind) (who []Blame) {
	for _, f := range r.Findings {
		if f.Kind == kind {
			who = append(who, f.Blame)
		}
	}
	return who
}

func TestKnownCheckpoints(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 700)
	forged := append([][]byte{}, list...)
	forged[100] = act(t, 100, "forged")
	m := logOf(t, k, list)
	for name, c := range map[string]struct {
		known   []Known
		verdict error
		kind    Kind
		index   uint64
		blame   []Blame
	}{
		"before the fork":     {[]Known{{"home", checkpointOf(t, k, forged[:100])}}, nil, "", 0, nil},
		"the same":            {[]Known{{"home", m["checkpoint"]}}, nil, "", 0, nil},
		"after the fork":      {[]Known{{"home", checkpointOf(t, k, forged[:101])}}, ledger.ErrForked, Fork, 101, []Blame{Operator}},
		"as long and another": {[]Known{{"home", checkpointOf(t, k, forged)}}, ledger.ErrForked, Fork, 700, []Blame{Operator}},
		"longer":              {[]Known{{"home", checkpointOf(t, k, append(list[:700:700], list[0]))}}, ledger.ErrShorter, Shorter, 700, []Blame{Operator}},
		"not signed":          {[]Known{{"home", checkpointOf(t, keeperOf("is"), list)}}, ErrDamaged, Unsigned, 0, []Blame{Nobody}},
		"garbage":             {[]Known{{"home", []byte("?")}}, ErrDamaged, Unsigned, 0, []Blame{Nobody}},
		"two that differ, of sizes that the log does not reach": {
			[]Known{{"is", checkpointOf(t, k, append(list[:700:700], list[0]))}, {"pt", checkpointOf(t, k, append(list[:700:700], list[1]))}},
			ledger.ErrForked, Shorter, 700,
			[]Blame{Operator, Operator},
		},
		"a witness that cosigned both": {
			[]Known{{"is", withCosignature(t, k, checkpointOf(t, k, forged[:300]), "is")}, {"pt", withCosignature(t, k, checkpointOf(t, k, list[:400]), "is")}},
			ledger.ErrForked, Fork, 300,
			[]Blame{Operator, Witness("is")},
		},
		"a witness that cosigned one and before it the other": {
			[]Known{{"is", withCosignature(t, k, checkpointOf(t, k, forged[:300]), "is")}, {"pt", withCosignature(t, k, checkpointOf(t, k, list[:99]), "is")}},
			ledger.ErrForked, Fork, 300,
			[]Blame{Operator},
		},
		"another witness each": {
			[]Known{{"is", withCosignature(t, k, checkpointOf(t, k, forged[:300]), "is")}, {"pt", withCosignature(t, k, checkpointOf(t, k, list[:400]), "pt")}},
			ledger.ErrForked, Fork, 300,
			[]Blame{Operator},
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := Options{Known: c.known, Direct: true, Policy: policyOf(t), Cosigned: withCosignature(t, k, m["checkpoint"], "pt")}
			r := verify(t, m, k, opts)
			path := map[bool]string{true: "checkpoint"}[c.kind != ""]
			if c.kind == Shorter && len(c.known) == 2 {
				if got := blamed(r, Fork); len(got) != 1 || got[0] != Operator {
					t.Errorf("fork: %v", got)
				}
				if got := blamed(r, Shorter); len(got) != 2 {
					t.Errorf("shorter: %v", got)
				}
				return
			}
			expect(t, r, c.verdict, c.kind, path, c.index)
			got := blamed(r, c.kind)
			if len(got) != len(c.blame) {
				t.Fatalf("blames %v, want %v", got, c.blame)
			}
			for i := range got {
				if got[i] != c.blame[i] {
					t.Errorf("blames %v, want %v", got, c.blame)
				}
			}
		})
	}
}

// TestAnOldCopyIsNobodysFault: files may be older than what home remembers.
func TestAnOldCopyIsNobodysFault(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 300)
	r := verify(t, logOf(t, k, list[:200]), k, Options{Known: []Known{{"home", checkpointOf(t, k, list)}}})
	expect(t, r, ledger.ErrShorter, Shorter, "checkpoint", 200)
	if f := r.Findings[0]; f.Blame != Nobody || f.Proven {
		t.Errorf("%+v", f)
	}
}

// TestADamagedCopyIsNoFork: where entries are bad, roots of before tell nothing.
func TestADamagedCopyIsNoFork(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 700)
	m := logOf(t, k, list).with("tile/entries/000", flip(50))
	r := verify(t, m, k, Options{Known: []Known{{"home", checkpointOf(t, k, list[:300])}}})
	expect(t, r, ErrDamaged, BadEntry, "tile/entries/000", 0)
	if len(blamed(r, Fork)) > 0 || len(r.Held) != 1 || r.Held[0].Joined {
		t.Errorf("%+v %+v", r.Findings, r.Held)
	}
}

func TestCosigned(t *testing.T) {
	k := keeperOf("lu")
	list := acts(t, 300)
	m := logOf(t, k, list)
	before := checkpointOf(t, k, list[:200])
	spoiled := withCosignature(t, k, before, "is")
	i := bytes.LastIndex(spoiled, []byte(" "))
	spoiled[i+20]++ // within the signature
	for name, c := range map[string]struct {
		note    []byte
		fresh   time.Duration
		verdict error
		kind    Kind
		path    string
	}{
		"by one":               {withCosignature(t, k, before, "is"), time.Hour, nil, "", ""},
		"by both":              {withCosignature(t, k, withCosignature(t, k, before, "is"), "pt"), time.Hour, nil, "", ""},
		"by none":              {before, 0, ErrIncomplete, NotCosigned, "cosigned"},
		"none at hand":         {nil, 0, ErrIncomplete, NotCosigned, "cosigned"},
		"by itself":            {withCosignature(t, k, before, "lu"), 0, ErrIncomplete, NotCosigned, "cosigned"},
		"by a stranger":        {withCosignature(t, k, before, "mallory"), 0, ErrIncomplete, NotCosigned, "cosigned"},
		"too long ago":         {withCosignature(t, k, before, "is"), time.Minute, ErrIncomplete, NotCosigned, "cosigned"},
		"a forged cosignature": {spoiled, 0, ErrDamaged, Unsigned, "cosigned"},
	} {
		t.Run(name, func(t *testing.T) {
			r := verify(t, m, k, Options{Policy: policyOf(t), Cosigned: c.note, Now: noon.Add(30 * time.Minute), Fresh: c.fresh})
			expect(t, r, c.verdict, c.kind, c.path, 0)
			if c.verdict == nil && (!r.Cosigned.Enough || r.Cosigned.Checkpoint.Size != 200) {
				t.Errorf("%+v", r.Cosigned)
			}
		})
	}
	if _, err := Verify(t.Context(), m, k.log(), Options{Policy: &ledger.Policy{}}); err == nil {
		t.Error("an impossible policy passes")
	}
}

func TestChartersAtHand(t *testing.T) {
	k := keeperOf("lu")
	one := &charter.Charter{Number: 1} // its hash is that of no bytes
	leaf := ledger.NewLeaf(ledger.CharterTaken, testState)
	leaf.Name, leaf.Size, leaf.Slot = one.Hash(), 1, ledger.Slot{Kind: ledger.Charter, Sequence: 1}
	raw, err := leaf.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m := logOf(t, k, [][]byte{raw})
	two := func(previous [32]byte) *charter.Charter {
		return &charter.Charter{Number: 2, Previous: charter.EncodeDigest(previous)}
	}
	expect(t, verify(t, m, k, Options{Charters: []*charter.Charter{one, two(one.Hash())}}), nil, "", "", 0)
	expect(t, verify(t, m, k, Options{Charters: []*charter.Charter{two([32]byte{7})}}), ErrDamaged, CharterBroken, "tile/entries/000.p/1", 0)
	leaf.Name = [32]byte{8}
	if raw, err = leaf.Bytes(); err != nil {
		t.Fatal(err)
	}
	m = logOf(t, k, [][]byte{raw})
	expect(t, verify(t, m, k, Options{Charters: []*charter.Charter{one}}), ErrDamaged, CharterBroken, "tile/entries/000.p/1", 0)
}
