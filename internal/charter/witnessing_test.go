package charter

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// regroup gives c the default policy for who is in it now.
func regroup(c *Charter) { c.Witnessing = c.DefaultWitnessing() }

// threeInLU leaves home and two embassies in LU.
func threeInLU(c *Charter) {
	c.Witnesses[0].Country = "LU"
	c.Embassies = append(c.Embassies, embassyOf("wiltz", "LU", 58))
	regroup(c)
}

func TestEveryRuleOfWitnessing(t *testing.T) {
	home := func(c *Charter) *Witness { return &c.Witnesses[0] }
	tests := map[string]struct {
		change func(*Charter)
		want   string
	}{
		"freshness 0":             {func(c *Charter) { c.Freshness = 0 }, "freshness_hours"},
		"freshness below 0":       {func(c *Charter) { c.Freshness = -1 }, "freshness_hours"},
		"freshness over a year":   {func(c *Charter) { c.Freshness = 8761 }, "freshness_hours"},
		"witness name":            {func(c *Charter) { home(c).Name = "Home" }, "name"},
		"witness name twice":      {func(c *Charter) { c.Witnesses[1].Name = "home" }, "is taken"},
		"witness has embassy's":   {func(c *Charter) { home(c).Name = "lux" }, "taken by an embassy"},
		"witness country":         {func(c *Charter) { home(c).Country = "um" }, "country"},
		"witness without key":     {func(c *Charter) { home(c).Key = "" }, "witness home"},
		"witness key is embassy":  {func(c *Charter) { *home(c) = witnessOf("home", "UM", 50) }, "same key as embassy lux"},
		"witness key is agent":    {func(c *Charter) { *home(c) = witnessOf("home", "UM", 40) }, "same key as agent home-1"},
		"witness key is signer":   {func(c *Charter) { *home(c) = witnessOf("home", "UM", 10) }, "same key as signer mari"},
		"witness key is recovery": {func(c *Charter) { *home(c) = witnessOf("home", "UM", 21) }, "same key as the recovery key"},
		"witness key twice":       {func(c *Charter) { c.Witnesses[1].Key = home(c).Key }, "same key as witness home"},
		"ML-DSA key too short":    {func(c *Charter) { c.Witnesses[1].MLDSAKey = EncodeKey(take(82, MLDSAKeySize-1)) }, "mldsa_key"},
		"ML-DSA key twice":        {func(c *Charter) { home(c).MLDSAKey = c.Witnesses[1].MLDSAKey }, "same key as witness home"},
		"cosigner empty":          {func(c *Charter) { home(c).Cosigner = "" }, "cosigner"},
		"cosigner with plus":      {func(c *Charter) { home(c).Cosigner = "a+b" }, "cosigner"},
		"cosigner with space":     {func(c *Charter) { home(c).Cosigner = "a b" }, "cosigner"},
		"cosigner with quote":     {func(c *Charter) { home(c).Cosigner = `a"b` }, "cosigner"},
		"cosigner of another key": {func(c *Charter) { home(c).Cosigner = CosignerName(pub(83)) }, "not that of its key"},
		"cosigner twice":          {func(c *Charter) { home(c).Cosigner = c.Witnesses[1].Cosigner }, "same cosigner name as home"},
		"cosigner is a ledger":    {func(c *Charter) { home(c).Cosigner = c.Embassies[0].Origin }, "same cosigner name as embassy lux"},
		"url with slash":          {func(c *Charter) { home(c).URL = "https://a.example/" }, "url"},
		"url of a file":           {func(c *Charter) { home(c).URL = "file://a.example" }, "url"},
		"url with user":           {func(c *Charter) { home(c).URL = "http://u@a.example" }, "url"},
		"url with query":          {func(c *Charter) { home(c).URL = "http://a.example?q" }, "url"},
		"url without host":        {func(c *Charter) { home(c).URL = "http://" }, "url"},
		"url with port alone":     {func(c *Charter) { home(c).URL = "http://:80" }, "url"},
		"url twice":               {func(c *Charter) { home(c).URL = c.Witnesses[1].URL }, "same address as home"},
		"too many witnesses":      {func(c *Charter) { c.Witnesses = make([]Witness, MaxWitnesses+1) }, "at most"},
		"group missing":           {func(c *Charter) { c.Witnessing.Groups = c.Witnessing.Groups[1:] }, "want exactly"},
		"group of nobody":         {func(c *Charter) { c.Witnessing.Groups = append(c.Witnessing.Groups, WitnessGroup{"ZZ", 1}) }, "want exactly"},
		"group twice":             {func(c *Charter) { c.Witnessing.Groups[1] = c.Witnessing.Groups[0] }, "want exactly"},
		"groups out of order":     {func(c *Charter) { slices.Reverse(c.Witnessing.Groups) }, "want exactly"},
		"groups of a moved one":   {func(c *Charter) { home(c).Country = "LU" }, "want exactly"},
		"group need 0":            {func(c *Charter) { c.Witnessing.Groups[0].Need = 0 }, "group EE"},
		"group need below 0":      {func(c *Charter) { c.Witnessing.Groups[0].Need = -1 }, "group EE"},
		"group need too high":     {func(c *Charter) { c.Witnessing.Groups[0].Need = 2 }, "group EE"},
		"group need of half": {func(c *Charter) {
			home(c).Country = "LU"
			regroup(c)
			c.Witnessing.Groups[2].Need = 1
		}, "group LU: need 1 of 2 members lets honest ones vouch for two histories: want at least 2"},
		"need 0":                  {func(c *Charter) { c.Witnessing.Need = 0 }, "need: 0"},
		"need over all":           {func(c *Charter) { c.Witnessing.Need = 6 }, "need: 6"},
		"need that liars split":   {func(c *Charter) { c.Witnessing.Need = 3 }, "two histories: want at least 4"},
		"need that silence stops": {func(c *Charter) { c.Witnessing.Need = 5 }, "want at most 4"},
		"faulty below 0":          {func(c *Charter) { c.Witnessing.Faulty = -1 }, "faulty: -1"},
		"faulty that splits":      {func(c *Charter) { c.Witnessing.Faulty = 3 }, "two histories"},
		"faulty over all":         {func(c *Charter) { c.Witnessing.Faulty = 6 }, "faulty: 6"},
		"policy of nobody": {func(c *Charter) {
			c.Embassies, c.Witnesses, c.Witnessing = nil, nil, Witnessing{Need: 1, Groups: []WitnessGroup{}}
		}, "without a group"},
		"auditor name":        {func(c *Charter) { c.Auditors[0].Name = "" }, "name"},
		"auditor name twice":  {func(c *Charter) { c.Auditors = append(c.Auditors, Auditor{"court", EncodeKey(pub(86))}) }, "is taken"},
		"auditor key":         {func(c *Charter) { c.Auditors[0].Key = "AAAA" }, "auditor court"},
		"auditor key twice":   {func(c *Charter) { c.Auditors = append(c.Auditors, Auditor{"press", c.Auditors[0].Key}) }, "same key as auditor court"},
		"auditor is witness":  {func(c *Charter) { c.Auditors[0].Key = home(c).Key }, "same key as witness home"},
		"auditor is embassy":  {func(c *Charter) { c.Auditors[0].Key = c.Embassies[2].Key }, "same key as embassy lisbon"},
		"too many auditors":   {func(c *Charter) { c.Auditors = make([]Auditor, MaxAuditors+1) }, "at most"},
		"version 1 with some": {func(c *Charter) { c.Version = 1 }, "version 1: knows no"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := sample()
			if _, err := c.Marshal(); err != nil {
				t.Fatalf("control: %v", err)
			}
			test.change(&c)
			_, err := c.Marshal()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want ErrInvalid that speaks of %q", err, test.want)
			}
			// The rule holds for a document too, whoever wrote it.
			w := writer{}
			w.body(&c)
			if c.Version < 2 {
				w.witnessing(&c)
			}
			if _, err := Parse(w.Bytes()); !errors.Is(err, ErrInvalid) {
				t.Errorf("document: error %v, want ErrInvalid", err)
			}
		})
	}
}

func TestWhatWitnessesMayBe(t *testing.T) {
	tests := map[string]func(*Charter){
		"no address":              func(c *Charter) { c.Witnesses[1].URL = "" },
		"an address in the clear": func(c *Charter) { c.Witnesses[1].URL = "http://127.0.0.1:7400" },
		"a foreign name":          func(c *Charter) { c.Witnesses[0].Cosigner = "litewitness.example" },
		"without ML-DSA":          func(c *Charter) { c.Witnesses[1].MLDSAKey = "" },
		"in an embassy's country": func(c *Charter) { c.Witnesses[0].Country = "LU"; regroup(c) },
		"two needed of three":     func(c *Charter) { threeInLU(c); c.Witnessing.Groups[2].Need = 2 },
		"three needed of three":   func(c *Charter) { threeInLU(c); c.Witnessing.Groups[2].Need = 3 },
		"nobody lies":             func(c *Charter) { c.Witnessing.Faulty, c.Witnessing.Need = 0, 5 },
		"fresh for a year":        func(c *Charter) { c.Freshness = 8760 },
		"fresh for an hour":       func(c *Charter) { c.Freshness = 1 },
		"no auditors":             func(c *Charter) { c.Auditors = nil },
	}
	for name, change := range tests {
		c := sample()
		change(&c)
		n, err := New(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := New(*n); err != nil || again.Hash() != n.Hash() {
			t.Errorf("%s: written again: %v", name, err)
		}
	}
}

// The policy's two promises, counted out over all sets of groups instead of taken from the formula: any two sets that
// cosigned share a group that does not lie, and the honest groups alone are enough.
func TestNoAllowedPolicyCanBeSplitOrStopped(t *testing.T) {
	for n := 1; n <= 7; n++ {
		c := sample()
		c.Embassies, c.Witnesses = nil, nil
		for i := range n {
			c.Witnesses = append(c.Witnesses, witnessOf(fmt.Sprintf("w%d", i), string([]byte{'A', byte('A' + i)}), uint64(100+i)))
		}
		regroup(&c)
		usual := c.Witnessing
		allowed := 0
		for need := -1; need <= n+1; need++ {
			for faulty := -1; faulty <= n+1; faulty++ {
				c.Witnessing.Need, c.Witnessing.Faulty = need, faulty
				safe := need >= 1 && faulty >= 0 && need <= n-faulty && leastShared(n, need) > faulty
				if err := c.Validate(); (err == nil) != safe {
					t.Errorf("need %d, faulty %d of %d: %v, want valid %v", need, faulty, n, err, safe)
				}
				if safe {
					allowed++
				}
				if safe && faulty > usual.Faulty {
					t.Errorf("%d groups bear %d liars, and the default says %d", n, faulty, usual.Faulty)
				}
				if safe && faulty == usual.Faulty && need < usual.Need {
					t.Errorf("%d groups: need %d is enough, and the default asks for %d", n, need, usual.Need)
				}
			}
		}
		if c.Witnessing = usual; allowed == 0 || c.Validate() != nil {
			t.Errorf("%d groups: the default %+v: %v", n, usual, c.Validate())
		}
	}
}

// Within a group too, counted out: any two sets of members that make it vouch share one, and it cannot vouch for two
// histories unless that one lies.
func TestNoAllowedGroupCanBeSplit(t *testing.T) {
	for m := 1; m <= 7; m++ {
		c := sample()
		c.Embassies, c.Witnesses = nil, nil
		for i := range m {
			c.Witnesses = append(c.Witnesses, witnessOf(fmt.Sprintf("w%d", i), "UM", uint64(100+i)))
		}
		regroup(&c)
		usual := c.Witnessing.Groups[0].Need
		for need := -1; need <= m+1; need++ {
			c.Witnessing.Groups[0].Need = need
			safe := need >= 1 && need <= m && leastShared(m, need) > 0
			if err := c.Validate(); (err == nil) != safe {
				t.Errorf("need %d of %d members: %v, want valid %v", need, m, err, safe)
			}
			if safe && need < usual || need == usual && !safe {
				t.Errorf("need %d of %d members is allowed: %v, and the default asks for %d", need, m, safe, usual)
			}
		}
	}
}

// leastShared is the least number of members that two sets of at least q among n share.
func leastShared(n, q int) int {
	least := n
	for a := range uint(1) << n {
		for b := range uint(1) << n {
			if bits.OnesCount(a) >= q && bits.OnesCount(b) >= q {
				least = min(least, bits.OnesCount(a&b))
			}
		}
	}
	return least
}

func TestDefaultWitnessing(t *testing.T) {
	c := sample()
	want := Witnessing{Need: 4, Faulty: 1, Groups: []WitnessGroup{{"EE", 1}, {"IS", 1}, {"LU", 1}, {"PT", 1}, {"UM", 1}}}
	if got := c.DefaultWitnessing(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	one := sampleOfVersion1()
	want = Witnessing{Need: 2, Faulty: 0, Groups: []WitnessGroup{{"IS", 1}, {"LU", 1}, {"PT", 1}}}
	if got := one.WitnessingInForce(); !reflect.DeepEqual(got, want) {
		t.Errorf("version 1: %+v, want %+v", got, want)
	}
	c.Witnessing.Groups[0].Need = 7
	if got := c.WitnessingInForce(); got.Groups[0].Need != 7 {
		t.Errorf("version 2: %+v is not what the charter says", got)
	}
	threeInLU(&c)
	c.Embassies = append(c.Embassies, embassyOf("hofn", "IS", 55))
	want = Witnessing{Need: 3, Faulty: 1, Groups: []WitnessGroup{{"EE", 1}, {"IS", 2}, {"LU", 2}, {"PT", 1}}}
	if got := c.DefaultWitnessing(); !reflect.DeepEqual(got, want) {
		t.Errorf("with two in IS and three in LU: %+v, want %+v", got, want)
	}
	if got := (&Charter{Version: 2}).DefaultWitnessing(); !reflect.DeepEqual(got, Witnessing{Groups: []WitnessGroup{}}) {
		t.Errorf("of nobody: %+v", got)
	}
}

func TestGrownWitnessingNeverFalls(t *testing.T) {
	for n := 1; n <= 12; n++ {
		for need := 1; need <= n; need++ {
			for faulty := 0; faulty <= n; faulty++ {
				c := sample()
				c.Embassies, c.Witnesses, c.Auditors = nil, nil, nil
				add := func(i int) {
					c.Witnesses = append(c.Witnesses, witnessOf(fmt.Sprintf("w%d", i), string([]byte{'A', byte('A' + i)}), uint64(100+i)))
				}
				for i := range n {
					add(i)
				}
				regroup(&c)
				if c.Witnessing.Need, c.Witnessing.Faulty = need, faulty; checkGroups(&c) != nil {
					continue
				}
				for i := n; i < n+4; i++ {
					was := c.Witnessing
					add(i)
					c.Witnessing = c.GrownWitnessing()
					if err := checkGroups(&c); err != nil || c.Witnessing.Need < was.Need || c.Witnessing.Faulty < was.Faulty {
						t.Fatalf("%+v grown to %+v: %v", was, c.Witnessing, err)
					}
				}
			}
		}
	}
	c := sample()
	threeInLU(&c)
	c.Witnessing.Groups[2].Need = 3 // one more than the default
	c.Embassies = append(c.Embassies, embassyOf("oslo", "NO", 54), embassyOf("hofn", "IS", 55))
	got := c.GrownWitnessing()
	want := Witnessing{Need: 4, Faulty: 1, Groups: []WitnessGroup{{"EE", 1}, {"IS", 2}, {"LU", 3}, {"NO", 1}, {"PT", 1}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.Embassies, c.Witnesses = c.Embassies[:2], nil
	if got, want := c.GrownWitnessing(), c.DefaultWitnessing(); !reflect.DeepEqual(got, want) || len(want.Groups) != 2 {
		t.Errorf("shrunk to two countries: %+v, want the default %+v", got, want)
	}
}

func TestWhoMayInspect(t *testing.T) {
	r := mustNew(t, sample()).Roster()
	who := map[string]uint64{"agent": 40, "recovery": 21, "embassy": 51, "witness": 81, "auditor": 85}
	for name, n := range who {
		if !r.MayInspect(pub(n)) {
			t.Errorf("%s may not inspect", name)
		}
		if r.IsWitness(pub(n)) != (name == "witness") || r.IsAuditor(pub(n)) != (name == "auditor") {
			t.Errorf("%s is taken for another", name)
		}
		if r.IsAgent(pub(n)) != (name == "agent") {
			t.Errorf("%s: IsAgent", name)
		}
	}
	for name, key := range map[string][]byte{"signer": pub(10), "stranger": pub(99), "none": nil, "zero": make([]byte, 32), "short": pub(85)[:31]} {
		if r.MayInspect(key) || r.IsWitness(key) || r.IsAuditor(key) {
			t.Errorf("%s may inspect", name)
		}
	}
	if w, ok := r.WitnessByKey(pub(80)); !ok || w.Name != "home" || !w.PublicKey().Equal(pub(80)) || w.MLDSAPublicKey() != nil {
		t.Errorf("home: %+v %v", w, ok)
	}
	c := mustNew(t, sample())
	if w, ok := c.WitnessByName("tallinn"); !ok || !slices.Equal(w.MLDSAPublicKey(), take(82, MLDSAKeySize)) {
		t.Errorf("tallinn: %v", ok)
	}
	if _, ok := c.WitnessByName("lux"); ok {
		t.Error("an embassy is in the list of witnesses")
	}
	if !c.Auditors[0].PublicKey().Equal(pub(85)) || (Auditor{Key: "x"}).PublicKey() != nil {
		t.Error("the auditor's key")
	}
	if r := mustNew(t, sampleOfVersion1()).Roster(); r.MayInspect(pub(85)) || r.MayInspect(pub(80)) || !r.MayInspect(pub(40)) {
		t.Error("roster of version 1")
	}
}

func TestCosignerName(t *testing.T) {
	if got, want := CosignerName(pub(50)), witnessPrefix+EmbassyIDOf(pub(50)).String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFreshFor(t *testing.T) {
	c, one := sample(), sampleOfVersion1()
	c.Freshness = 7
	if c.FreshFor() != 7*time.Hour || one.FreshFor() != 24*time.Hour {
		t.Errorf("%v and %v", c.FreshFor(), one.FreshFor())
	}
}

func TestNewFillsInWhatIsNotSaid(t *testing.T) {
	c := sample()
	c.Freshness, c.Witnessing = 0, Witnessing{}
	n := mustNew(t, c)
	if n.Freshness != 24 || !reflect.DeepEqual(n.Witnessing, c.DefaultWitnessing()) {
		t.Errorf("%d, %+v", n.Freshness, n.Witnessing)
	}
	c.Witnessing.Need = 4 // said, and wrong
	if _, err := New(c); !errors.Is(err, ErrInvalid) {
		t.Errorf("a policy half said: %v", err)
	}
}

// The bytes that the first release wrote are read, mean the same, and are written again alike.
func TestVersion1StaysByteExact(t *testing.T) {
	old := sampleOfVersion1()
	doc, err := old.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	vectors, err := os.ReadFile("../../testdata/vectors/charter/charters.json")
	if err != nil {
		t.Fatal(err)
	}
	escaped := strings.NewReplacer("\n", `\n`, `"`, `\"`).Replace(string(doc))
	if !strings.Contains(string(vectors), escaped) {
		t.Error("the document is not the one of the vectors, which the first release wrote")
	}
	c, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if c.doc = nil; !reflect.DeepEqual(*c, old) {
		t.Errorf("it means %+v", *c)
	}
}

func TestNextOfVersion1IsVersion2(t *testing.T) {
	old := mustNew(t, sampleOfVersion1())
	n := old.Next()
	if n.Version != 2 || n.Freshness != 24 || !reflect.DeepEqual(n.Witnessing, old.DefaultWitnessing()) || n.Witnesses != nil {
		t.Errorf("%d, %d, %+v", n.Version, n.Freshness, n.Witnessing)
	}
	next := mustNew(t, n)
	sigs := signed(t, next.Bytes(), 10, 11)
	if err := CheckSuccession(old, next, sigs); err != nil {
		t.Error(err)
	}
	if after := next.Next(); after.Version != 2 || !reflect.DeepEqual(after.Witnessing, next.Witnessing) {
		t.Errorf("after it: %d, %+v", after.Version, after.Witnessing)
	}
}

// versionOne makes a charter one of version 1 again.
func versionOne(c *Charter) {
	c.Version, c.Freshness, c.Witnesses, c.Witnessing, c.Auditors = 1, 0, nil, Witnessing{}, nil
}

func TestVersionNeverGoesBack(t *testing.T) {
	for first, want := range map[int]error{1: nil, 2: ErrSuccession} {
		c := sample()
		if first == 1 {
			versionOne(&c)
		}
		old := mustNew(t, c)
		n := old.Next()
		versionOne(&n)
		next := mustNew(t, n)
		err := CheckSuccession(old, next, signed(t, next.Bytes(), 10, 11))
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("version 1 after %d: %v, want %v", first, err, want)
		}
		if want != nil && !strings.Contains(err.Error(), "version 1 after 2") {
			t.Errorf("error %q does not speak of the version", err)
		}
	}
}
