package charter

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/vectest"
)

// sampleOfPeople is a charter of version 3: four people in two roles, all acts, a house and a succession.
func sampleOfPeople(t testing.TB) Charter {
	t.Helper()
	c := sample()
	c.Version, c.Threshold, c.Signers = 3, 0, nil
	person := func(name string, keys ...string) Person {
		return Person{Name: name, Office: "Ministry of " + name, Clearance: "secret", From: "2026-01-01", Keys: keys}
	}
	c.People = []Person{
		person("mari", signerOf("mari", 10).Key, vectest.Hardware{Key: testKey(60), Flags: 1}.Text()),
		person("jaan", signerOf("jaan", 11).Key), person("anna", signerOf("anna", 12).Key),
		person("olev", signerOf("olev", 13).Key), person("eva", signerOf("eva", 14).Key),
	}
	c.People[2].Until, c.Agents[0].Until = "2026-12-31", "2027-01-31"
	c.Roles = []Role{
		{Name: "representative", People: []string{"mari", "jaan", "anna"}},
		{Name: "elder", People: []string{"olev", "eva"}},
	}
	for _, name := range []ActName{ActCharter, ActAgreement, ActErase, ActRelease, ActHold} {
		c.Acts = append(c.Acts, Act{name, "representative", 2, "0", "30d", "no", "elder"})
	}
	c.Acts[2].Cooling = "72h"
	c.Houses = []House{{Name: "justice", ID: StateID(take(70, 16))}}
	c.Succession = Succession{Role: "elder", Need: 2, After: "14d", StoppedBy: "representative"}
	return c
}

func TestVersion3KeepsExactBytesAndFields(t *testing.T) {
	want := sampleOfPeople(t)
	doc, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	got.doc = nil
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("fields differ:\n%+v\n%+v", *got, want)
	}
	next := mustNew(t, want)
	n := next.Next()
	n.People[0].Keys[0], n.Roles[0].People[0], n.Acts[0].Need, n.Houses[0].Name = "x", "x", 9, "x"
	if again, err := Parse(next.Bytes()); err != nil || !reflect.DeepEqual(again.People, next.People) || !reflect.DeepEqual(again.Roles, next.Roles) ||
		!reflect.DeepEqual(again.Acts, next.Acts) || !reflect.DeepEqual(again.Houses, next.Houses) {
		t.Error("changing the next charter changed the old one")
	}
}

func TestVersion3Vectors(t *testing.T) {
	all := vector(t, "charters3.json", func() []charterVector {
		c := mustNew(t, sampleOfPeople(t))
		doc, sigs := string(c.Bytes()), signed(t, c.Bytes(), 10, 11)
		v := func(name, doc, expect string) charterVector {
			return charterVector{name, doc, EncodeDigest((&Charter{doc: []byte(doc)}).Hash()), string(sigs), expect}
		}
		last := "    until: \"2027-01-31\"\n"
		return []charterVector{
			v("people, roles and acts", doc, "ok"),
			v("the agent's last day changed after signing", strings.Replace(doc, last, "    until: \"2028-01-31\"\n", 1), "signature"),
			v("the agent's last day left out after signing", strings.Replace(doc, last, "", 1), "signature"),
			v("an agent's empty last day", strings.Replace(doc, last, "    until: \"\"\n", 1), "invalid"),
			v("one hand erases", strings.Replace(doc, "act: \"erase\"\n    role: \"representative\"\n    need: 2", "act: \"erase\"\n    role: \"representative\"\n    need: 1", 1), "invalid"),
		}
	})
	if len(all) < 5 {
		t.Fatalf("%d vectors", len(all))
	}
	for _, v := range all {
		if got := outcomeOf(t, v); got != v.Expect {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Expect)
		}
	}
}

func TestVersion3Refuses(t *testing.T) {
	tests := map[string]struct {
		change func(*Charter)
		say    string
	}{
		"nobody":                       {func(c *Charter) { c.People, c.Roles, c.Acts = nil, nil, nil }, "nobody"},
		"signers beside people":        {func(c *Charter) { c.Threshold = 1; c.Signers = []Signer{signerOf("x", 90)} }, "in the place of"},
		"a person twice":               {func(c *Charter) { c.People[1].Name = "mari" }, "is taken"},
		"a key of two people":          {func(c *Charter) { c.People[1].Keys = c.People[0].Keys[:1] }, "same key as person mari"},
		"no key":                       {func(c *Charter) { c.People[1].Keys = nil }, "0 keys"},
		"a person with an agent's key": {func(c *Charter) { c.Agents[0].Key = EncodeKey(pub(10)) }, "same key as person mari"},
		"no office":                    {func(c *Charter) { c.People[0].Office = "" }, "office"},
		"no first day":                 {func(c *Charter) { c.People[0].From = "" }, "from"},
		"no such day":                  {func(c *Charter) { c.People[0].From = "2026-02-30" }, "from"},
		"gone before they came":        {func(c *Charter) { c.People[0].Until = "2025-01-01" }, "until"},
		"a stranger in a role":         {func(c *Charter) { c.Roles[0].People[0] = "peeter" }, "not among the people"},
		"twice in a role":              {func(c *Charter) { c.Roles[0].People[1] = "mari" }, "twice"},
		"an empty role":                {func(c *Charter) { c.Roles[1].People = nil }, "0 people"},
		"an act of no role":            {func(c *Charter) { c.Acts[0].Role = "king" }, "no role"},
		"an act twice":                 {func(c *Charter) { c.Acts[1].Act = ActCharter }, "stands there twice"},
		"no act for charters":          {func(c *Charter) { c.Acts = c.Acts[1:] }, "charter is missing"},
		"need 0":                       {func(c *Charter) { c.Acts[0].Need = 0 }, "need 0"},
		"need below 0":                 {func(c *Charter) { c.Acts[0].Need = -1 }, "need -1"},
		"need above the role":          {func(c *Charter) { c.Acts[0].Need = 4 }, "need 4"},
		"one hand erases":              {func(c *Charter) { c.Acts[2].Need = 1 }, "no single hand"},
		"one hand releases":            {func(c *Charter) { c.Acts[3].Need = 1 }, "no single hand"},
		"cooling in words":             {func(c *Charter) { c.Acts[0].Cooling = "a day" }, "cooling"},
		"cooling for ever":             {func(c *Charter) { c.Acts[0].Cooling = "99999d" }, "cooling"},
		"shorter open than cooling":    {func(c *Charter) { c.Acts[2].Valid = "72h" }, "no order could take effect"},
		"touch perhaps":                {func(c *Charter) { c.Acts[0].Touch = "maybe" }, "touch"},
		"touch of keys nobody has":     {func(c *Charter) { c.Acts[0].Touch = "yes" }, "1 of role representative have a hardware key"},
		"a veto of no role":            {func(c *Charter) { c.Acts[0].Veto = "king" }, "veto"},
		"a house that is the state":    {func(c *Charter) { c.Houses[0].ID = c.State.ID }, "the state's"},
		"a house with houses":          {func(c *Charter) { c.State.HouseOf = StateID(take(71, 16)).String() }, "none of its own"},
		"a house of itself":            {func(c *Charter) { c.Houses = nil; c.State.HouseOf = c.State.ID.String() }, "house_of"},
		"succession by one":            {func(c *Charter) { c.Succession.Need = 1 }, "succession"},
		"succession at once":           {func(c *Charter) { c.Succession.After = "0" }, "time to object"},
		"succession nobody stops":      {func(c *Charter) { c.Succession.StoppedBy = "" }, "stopped_by"},
		"succession of no role":        {func(c *Charter) { c.Succession.Role = "king" }, "no role"},
		"an agent until never":         {func(c *Charter) { c.Agents[0].Until = "never" }, "until"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := sampleOfPeople(t)
			test.change(&c)
			err := c.Validate()
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.say) {
				t.Errorf("error %v, want ErrInvalid that speaks of %q", err, test.say)
			}
		})
	}
	old := sample()
	old.People = sampleOfPeople(t).People
	if err := old.Validate(); !errors.Is(err, ErrInvalid) {
		t.Errorf("people in version 2: %v", err)
	}
}

func TestQuorumOfPeople(t *testing.T) {
	c := mustNew(t, sampleOfPeople(t))
	doc := []byte("order: \"erase\"\n")
	in := func(namespace string, keys ...uint64) []byte {
		var all []byte
		for _, n := range keys {
			sig, err := SignIn(namespace, doc, testKey(n))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sig...)
		}
		return all
	}
	const ns = "order@chancery"
	during, after := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	before := time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC)
	tests := map[string]struct {
		act    ActName
		sigs   []byte
		at     time.Time
		barred []string
		want   error
	}{
		"two of three":                       {ActErase, in(ns, 10, 11), during, nil, nil},
		"of another role":                    {ActErase, in(ns, 13, 14), during, nil, ErrQuorum},
		"another namespace":                  {ActErase, in(Namespace, 10, 11), during, nil, ErrSignature},
		"one who has left":                   {ActErase, in(ns, 10, 12), after, nil, ErrQuorum},
		"on the last day":                    {ActErase, in(ns, 10, 12), time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC), nil, nil},
		"before they came":                   {ActErase, in(ns, 10, 11), before, nil, ErrQuorum},
		"whenever":                           {ActErase, in(ns, 10, 12), time.Time{}, nil, nil},
		"one who is suspended":               {ActErase, in(ns, 10, 11), during, []string{"jaan"}, ErrQuorum},
		"an act that nobody may do":          {ActGrant, in(ns, 10, 11, 12), during, nil, ErrNoAct},
		"one person with both of their keys": {ActErase, slices.Concat(in(ns, 10), hardwareIn(t, ns, doc)), during, nil, ErrQuorum},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			votes, err := c.Quorum(test.act, ns, doc, test.sigs, test.at, test.barred...)
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if err == nil && len(votes) != 2 {
				t.Errorf("%d votes", len(votes))
			}
		})
	}
}

func hardwareIn(t *testing.T, namespace string, doc []byte) []byte {
	t.Helper()
	return vectest.Hardware{Key: testKey(60), Flags: 1}.SignIn(t, namespace, doc)
}

// Where touch is asked for, a key in a file counts for nothing, whosoever it is.
func TestTouchIsAskedFor(t *testing.T) {
	doc := []byte("order\n")
	hard := vectest.Hardware{Key: testKey(60), Flags: 1}
	voters := []Voter{{"mari", []string{signerOf("mari", 10).Key, hard.Text()}}, {"jaan", []string{signerOf("jaan", 11).Key}}}
	sigs := slices.Concat(signed(t, doc, 10, 11), hard.SignIn(t, Namespace, doc))
	votes, err := Tally(doc, sigs, Namespace, voters, true)
	if err != nil || len(votes) != 1 || votes[0].Name != "mari" || !votes[0].Touched {
		t.Errorf("votes %+v, error %v", votes, err)
	}
	if votes, err := Tally(doc, sigs, Namespace, voters, false); err != nil || len(votes) != 2 {
		t.Errorf("without touch: votes %+v, error %v", votes, err) // the control
	}
	untouched := vectest.Hardware{Key: testKey(60), Flags: 0}.SignIn(t, Namespace, doc)
	if _, err := Tally(doc, untouched, Namespace, voters, false); !errors.Is(err, ErrSignature) {
		t.Errorf("not touched: %v", err)
	}
}

func TestUpgradedMeansTheSame(t *testing.T) {
	old := mustNew(t, sample())
	n := old.Upgraded()
	n.Number, n.Previous = old.Number+1, EncodeDigest(old.Hash())
	next := mustNew(t, n)
	if err := CheckSuccession(old, next, signed(t, next.Bytes(), 10, 11)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []ActName{ActCharter, ActAgreement} {
		was, _ := old.Act(name)
		is, ok := next.Act(name)
		if !ok || was != is {
			t.Errorf("%s: %+v, was %+v", name, is, was)
		}
	}
	if _, ok := next.Act(ActErase); ok {
		t.Error("erasing came by itself")
	}
	if !reflect.DeepEqual(old.Everyone(), next.Everyone()) {
		t.Error("other people")
	}
}

// One hand cannot use the change of version to give itself more.
func TestASingleHandCannotChangeTheRules(t *testing.T) {
	one := sample()
	one.Threshold, one.Signers = 1, one.Signers[:1]
	tests := map[string]struct {
		change func(*Charter)
		want   error
	}{
		"the same in version 3": {func(*Charter) {}, nil},
		"another person": {func(c *Charter) {
			c.People = append(c.People, Person{Name: "x", Office: "x", From: "2026-01-01", Keys: []string{signerOf("x", 90).Key}})
		}, ErrSuccession},
		"another act": {func(c *Charter) { c.Acts = append(c.Acts, Act{ActHold, "representative", 1, "0", "30d", "no", ""}) }, ErrSuccession},
		"a house":     {func(c *Charter) { c.Houses = []House{{"justice", StateID(take(70, 16))}} }, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old := mustNew(t, one)
			n := old.Upgraded()
			n.Number, n.Previous = old.Number+1, EncodeDigest(old.Hash())
			test.change(&n)
			next := mustNew(t, n)
			err := CheckSuccession(old, next, signed(t, next.Bytes(), 10))
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestSuccessorsGiveTheNextCharter(t *testing.T) {
	old := mustNew(t, sampleOfPeople(t))
	n := old.Next()
	n.Roles[0].People = []string{"olev", "eva"}
	next := mustNew(t, n)
	if sigs := signed(t, next.Bytes(), 13, 14); CheckSuccession(old, next, sigs) != nil || !BySuccession(old, next, sigs) {
		t.Errorf("the successors' charter: %v", CheckSuccession(old, next, sigs))
	}
	if sigs := signed(t, next.Bytes(), 13); !errors.Is(CheckSuccession(old, next, sigs), ErrQuorum) {
		t.Error("one successor is enough")
	}
	without := sampleOfPeople(t)
	without.Succession = Succession{After: "0"}
	old = mustNew(t, without)
	n = old.Next()
	n.Roles[0].People = []string{"olev", "eva"}
	next = mustNew(t, n)
	if sigs := signed(t, next.Bytes(), 13, 14); !errors.Is(CheckSuccession(old, next, sigs), ErrQuorum) { // the control
		t.Error("people who are no successors gave a charter")
	}
}

func TestSpansAndDates(t *testing.T) {
	for text, want := range map[Span]time.Duration{
		"0": 0, "10s": 10 * time.Second, "15m": 15 * time.Minute, "72h": 72 * time.Hour, "30d": 720 * time.Hour,
	} {
		if !text.Valid() || text.Duration() != want {
			t.Errorf("%q: %v", text, text.Duration())
		}
	}
	for _, text := range []Span{"", "0s", "1", "01h", "-1h", "1h ", "1.5h", "1w", "100000s"} {
		if text.Valid() {
			t.Errorf("%q counts as a span", text)
		}
	}
	for _, text := range []Date{"", "2026-1-1", "2026-13-01", "1969-12-31", "2026-01-01T00:00:00Z"} {
		if text.Valid() {
			t.Errorf("%q counts as a day", text)
		}
	}
}

func FuzzParsePeople(f *testing.F) {
	c := mustNew(f, sampleOfPeople(f))
	f.Add(c.Bytes())
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := Parse(doc)
		if err != nil {
			return
		}
		again, err := New(*c)
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if !bytes.Equal(c.Bytes(), doc) {
			t.Error("the bytes are not kept")
		}
		again.doc = c.doc
		if !reflect.DeepEqual(again, c) {
			t.Error("written again it means something else")
		}
	})
}

// Who takes office right after midnight serves when a clock that is behind says so.
func TestTheFirstDayHoldsForClocksThatAreBehind(t *testing.T) {
	midnight := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		now  time.Time
		want Date
	}{
		{midnight, "2026-11-30"},
		{midnight.Add(time.Hour - time.Second), "2026-11-30"},
		{midnight.Add(time.Hour), "2026-12-01"},
		{midnight.Add(23 * time.Hour), "2026-12-01"},
	} {
		if got := FirstDay(x.now); got != x.want {
			t.Errorf("%s: from %s, want %s", x.now, got, x.want)
		}
	}
}
