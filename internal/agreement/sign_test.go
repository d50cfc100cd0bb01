package agreement

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/vectest"
)

func TestBothSidesMustSign(t *testing.T) {
	a, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	former := formerCharter(t)
	nobody := sampleCharter(t, func(c *charter.Charter) { c.Acts = c.Acts[:1] })
	touch := sampleCharter(t, func(c *charter.Charter) { c.People = slices.Clone(c.People); c.State.ID = charter.StateID{9} })
	order, err := charter.SignIn("order@chancery", a.doc, key(20))
	if err != nil {
		t.Fatal(err)
	}
	ofCharter, err := charter.Sign(a.doc, key(10))
	if err != nil {
		t.Fatal(err)
	}
	february := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		sigs []byte
		c    *charter.Charter
		at   time.Time
		want error
	}{
		"two and two":                        {signed(t, a.doc, 10, 11, 20, 21), c, noon, nil},
		"in any order":                       {signed(t, a.doc, 22, 12, 20, 10), c, noon, nil},
		"everybody":                          {signed(t, a.doc, 10, 11, 12, 20, 21, 22), c, noon, nil},
		"a stranger's adds nothing":          {signed(t, a.doc, 99, 10, 11, 20, 21), c, noon, nil},
		"by the signers of charter 1":        {signed(t, a.doc, 10, 20, 21), former, noon, nil},
		"nobody":                             {nil, c, noon, ErrUnsigned},
		"one of the state":                   {signed(t, a.doc, 10, 20, 21), c, noon, ErrUnsigned},
		"one of the host":                    {signed(t, a.doc, 10, 11, 20), c, noon, ErrUnsigned},
		"the host alone":                     {signed(t, a.doc, 20, 21, 22), c, noon, ErrUnsigned},
		"the state alone":                    {signed(t, a.doc, 10, 11, 12), c, noon, ErrUnsigned},
		"one of the state twice":             {signed(t, a.doc, 10, 10, 20, 21), c, noon, ErrUnsigned},
		"one of the state with two keys":     {signed(t, a.doc, 11, 13, 20, 21), c, noon, ErrUnsigned},
		"one of the host twice":              {signed(t, a.doc, 10, 11, 20, 20), c, noon, ErrUnsigned},
		"a stranger in a signer's place":     {signed(t, a.doc, 10, 11, 20, 99), c, noon, ErrUnsigned},
		"whose term is over":                 {signed(t, a.doc, 10, 11, 20, 21), c, february, ErrUnsigned},
		"the others after it":                {signed(t, a.doc, 10, 12, 20, 21), c, february, nil},
		"before anybody's term":              {signed(t, a.doc, 10, 11, 20, 21), c, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), ErrUnsigned},
		"a charter by which nobody may":      {signed(t, a.doc, 10, 11, 20, 21), nobody, noon, ErrUnsigned},
		"no charter":                         {signed(t, a.doc, 10, 11, 20, 21), nil, noon, ErrUnsigned},
		"another state's charter":            {signed(t, a.doc, 10, 11, 20, 21), touch, noon, ErrParty},
		"signed as an order":                 {append(signed(t, a.doc, 10, 11, 21), order...), c, noon, charter.ErrSignature},
		"signed as a charter":                {append(signed(t, a.doc, 11, 20, 21), ofCharter...), c, noon, charter.ErrSignature},
		"one signed other bytes":             {append(signed(t, append(a.Bytes(), '\n'), 10), signed(t, a.doc, 11, 20, 21)...), c, noon, charter.ErrSignature},
		"something between the signatures":   {append([]byte("signed: yes\n"), signed(t, a.doc, 10, 11, 20, 21)...), c, noon, charter.ErrSignature},
		"cut off in the last signature":      {signed(t, a.doc, 10, 11, 20, 21)[:1000], c, noon, charter.ErrSignature},
		"two and two, with lines of Windows": {bytes.ReplaceAll(signed(t, a.doc, 10, 11, 20, 21), []byte("\n"), []byte("\r\n")), c, noon, nil},
	}
	for name, x := range tests {
		t.Run(name, func(t *testing.T) {
			if err := a.Verify(x.sigs, x.c, x.at); !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
				t.Errorf("%v, want %v", err, x.want)
			}
		})
	}
}

// formerCharter is of version 1: its one signer makes agreements.
func formerCharter(t testing.TB) *charter.Charter {
	return sampleCharter(t, func(c *charter.Charter) {
		c.Version, c.People, c.Roles, c.Acts, c.Succession = 1, nil, nil, nil, charter.Succession{}
		c.Threshold, c.Signers = 1, []charter.Signer{{Name: "mari", Key: sshOf(t, 10)}}
	})
}

// Each byte of the document counts, comments too.
func TestAChangedByteIsSignedByNobody(t *testing.T) {
	a, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	sigs := signed(t, a.doc, 10, 11, 20, 21)
	for _, change := range [][2]string{{"# Article 5.", "# Article 6."}, {`minimum: "90d"`, `minimum: "80d"`}, {"quota_bytes: 1", "quota_bytes: 2"}, {"\n\n", "\n"}} {
		other, err := Parse([]byte(strings.Replace(string(a.doc), change[0], change[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Verify(sigs, c, noon); !errors.Is(err, charter.ErrSignature) {
			t.Errorf("%q: %v", change[1], err)
		}
	}
}

func TestNobodySignsForBothSides(t *testing.T) {
	c := sampleCharter(t, nil)
	both := changed(t, func(a *Agreement) { a.Host.Signatories[2].Key = sshOf(t, 13) }) // jaan's second key
	if err := both.Verify(signed(t, both.doc, 10, 11, 20, 21), c, noon); !errors.Is(err, ErrParty) {
		t.Errorf("one key on both sides: %v", err)
	}
	// The control: with that key on one side only the same signatures are enough.
	one := mustNew(t, sample(t))
	if err := one.Verify(signed(t, one.doc, 10, 11, 20, 21), c, noon); err != nil {
		t.Error(err)
	}
}

func TestSidesSayWhoHasYetToSign(t *testing.T) {
	a, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	sides, err := a.Sides(nil, signed(t, a.doc, 21, 12), c, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []Side{
		{"state", 2, []string{"tiit"}, []string{"mari", "jaan"}},
		{"host", 2, []string{"paul"}, []string{"anne", "luc"}},
	}
	for i, s := range sides {
		if s.Name != want[i].Name || s.Need != want[i].Need || !slices.Equal(s.Signed, want[i].Signed) || !slices.Equal(s.Open, want[i].Open) || s.Complete() {
			t.Errorf("%+v, want %+v", s, want[i])
		}
	}
	if sides, err = a.Sides(nil, signed(t, a.doc, 21, 20), nil, noon); err != nil || len(sides) != 1 || !sides[0].Complete() {
		t.Errorf("without a charter: %+v, %v", sides, err)
	}
}

func TestAmendments(t *testing.T) {
	first, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	next := first.Next()
	next.Limits.QuotaBytes *= 2
	next.Host.Need = 1
	next.Host.Signatories = []Signatory{{"anne", "Minister of State", sshOf(t, 20)}, {"marc", "Minister of Justice", sshOf(t, 23)}}
	second := mustNew(t, next)
	all := []uint64{10, 11, 20, 21, 23}
	if err := CheckAmendment(first, second, signed(t, second.doc, all...), c, noon); err != nil {
		t.Fatal(err)
	}
	// anne signs by both lists; with her, one more of the old list is enough, and nobody of the new.
	if err := CheckAmendment(first, second, signed(t, second.doc, without(all, 23)...), c, noon); err != nil {
		t.Error(err)
	}
	for name, keys := range map[string][]uint64{
		"one of the state missing":           without(all, 11),
		"one of the old list alone":          without(all, 21),
		"the new list and nobody of the old": {10, 11, 23},
		"the old list and nobody of the new": {10, 11, 21, 22},
	} {
		err := CheckAmendment(first, second, signed(t, second.doc, keys...), c, noon)
		if !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatAnAmendmentMayNotChange(t *testing.T) {
	first, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	sign := func(a *Agreement) []byte { return signed(t, a.doc, 10, 11, 20, 21) }
	other := changed(t, func(a *Agreement) { a.Law.Courts = "Those of the moon." })
	for name, change := range map[string]func(*Agreement){
		"a number left out":        func(a *Agreement) { a.Number = 3 },
		"another one before":       func(a *Agreement) { a.Previous = charter.EncodeDigest(other.Hash()) },
		"the state's code":         func(a *Agreement) { a.State.Code = "UN" },
		"the host":                 func(a *Agreement) { a.Host.Code = "IS" },
		"the embassy's name":       func(a *Agreement) { a.Embassy.Name = "lu-2" },
		"the embassy's country":    func(a *Agreement) { a.Embassy.Country = "BE" },
		"the embassy's key":        func(a *Agreement) { a.Embassy.Key = charter.Fingerprint(public(51)) },
		"the state":                func(a *Agreement) { a.State.ID[0]++ },
		"that it lowers something": func(a *Agreement) { a.Retention.Lowers = "yes" },
	} {
		next := first.Next()
		change(&next)
		made := mustNew(t, next)
		if err := CheckAmendment(first, made, sign(made), c, noon); !errors.Is(err, ErrAmendment) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckAmendment(first, first, sign(first), c, noon); !errors.Is(err, ErrAmendment) {
		t.Errorf("itself: %v", err)
	}
	same := mustNew(t, first.Next()) // the control
	if err := CheckAmendment(first, same, sign(same), c, noon); err != nil {
		t.Error(err)
	}
}

func TestRetentionIsLoweredInTheOpenOnly(t *testing.T) {
	first, c := mustNew(t, sample(t)), sampleCharter(t, nil) // 90d and 72h
	tests := []struct {
		minimum, cooling charter.Span
		lowers           string
		ok               bool
	}{
		{"90d", "72h", "no", true},
		{"2160h", "3d", "no", true}, // the same in other words
		{"91d", "73h", "no", true},
		{"89d", "72h", "no", false},
		{"89d", "72h", "yes", true},
		{"0", "72h", "no", false},
		{"90d", "71h", "no", false},
		{"90d", "71h", "yes", true},
		{"400d", "1h", "no", false}, // more of one does not pay for less of the other
		{"400d", "1h", "yes", true},
		{"91d", "73h", "yes", false},
	}
	for _, x := range tests {
		next := first.Next()
		next.Retention.Minimum, next.Retention.Cooling, next.Retention.Lowers = x.minimum, x.cooling, x.lowers
		made := mustNew(t, next)
		err := CheckAmendment(first, made, signed(t, made.doc, 10, 11, 20, 21), c, noon)
		if (err == nil) != x.ok || err != nil && !errors.Is(err, ErrAmendment) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	// An amendment that lowered once is not leave to lower again.
	next := first.Next()
	next.Retention.Minimum, next.Retention.Lowers = "30d", "yes"
	second := mustNew(t, next)
	third := second.Next()
	third.Retention.Minimum = "10d"
	if err := mustNew(t, third).Follows(second); !errors.Is(err, ErrAmendment) {
		t.Errorf("lowered again in silence: %v", err)
	}
}

func TestPhases(t *testing.T) {
	a := changed(t, func(a *Agreement) {
		a.InForce.From, a.InForce.Until, a.Termination.Return = "2026-12-01", "2027-03-31", "10d"
	})
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for text, want := range map[string]Phase{
		"2026-11-30T23:59:59.999999999Z": NotYet,
		"2026-12-01T00:00:00Z":           InForce,
		"2026-12-01T00:30:00+01:00":      NotYet, // half past eleven the day before, in UTC
		"2027-03-31T23:59:59.999999999Z": InForce,
		"2027-04-01T00:00:00Z":           Returning,
		"2027-04-10T23:59:59.999999999Z": Returning,
		"2027-04-11T00:00:00Z":           Ended,
		"2090-01-01T00:00:00Z":           Ended,
	} {
		if got := a.PhaseAt(at(text)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if end := a.ReturnEnds(); !end.Equal(at("2027-04-11T00:00:00Z")) {
		t.Errorf("the return period ends %s", end)
	}
	open := changed(t, func(a *Agreement) { a.InForce.Until, a.InForce.Renewal = "", "none" })
	if got := open.PhaseAt(at("2200-01-01T00:00:00Z")); got != InForce || !open.ReturnEnds().IsZero() {
		t.Errorf("without an end: %s", got)
	}
	none := changed(t, func(a *Agreement) { a.InForce.Until, a.Termination.Return = "2027-03-31", "0" })
	if got := none.PhaseAt(at("2027-04-01T00:00:00Z")); got != Ended {
		t.Errorf("without a return period: %s", got)
	}
}

func TestAnAmendmentWaitsForItsDay(t *testing.T) {
	first := mustNew(t, sample(t))
	next := first.Next()
	next.InForce.From = "2027-06-01"
	second := mustNew(t, next)
	last := second.Next()
	last.InForce.From = "2027-03-01" // and overtakes it
	third := mustNew(t, last)
	day := func(text charter.Date) time.Time { return text.Start() }
	for _, x := range []struct {
		chain []*Agreement
		at    charter.Date
		want  *Agreement
	}{
		{nil, "2027-01-01", nil},
		{[]*Agreement{first}, "2026-11-30", nil},
		{[]*Agreement{first}, "2026-12-01", first},
		{[]*Agreement{first, second}, "2027-05-31", first},
		{[]*Agreement{first, second}, "2027-06-01", second},
		{[]*Agreement{first, second, third}, "2027-02-28", first},
		{[]*Agreement{first, second, third}, "2027-03-01", third},
		{[]*Agreement{first, second, third}, "2027-06-01", third},
	} {
		if got := Governing(x.chain, day(x.at)); got != x.want {
			t.Errorf("%s of %d: %v", x.at, len(x.chain), got)
		}
	}
}

func TestNobodyOfTheFormerHostSignsForTheState(t *testing.T) {
	first, c := mustNew(t, sample(t)), sampleCharter(t, nil)
	defector := sampleCharter(t, func(c *charter.Charter) { c.People[2].Keys = []string{sshOf(t, 22)} }) // luc's key is tiit's now
	next := first.Next()
	next.Host.Signatories = next.Host.Signatories[:2]
	second := mustNew(t, next)
	sigs := signed(t, second.doc, 10, 11, 20, 21)
	if err := CheckAmendment(first, second, sigs, defector, noon); !errors.Is(err, ErrParty) {
		t.Errorf("a key of the old list and of the state: %v", err)
	}
	if err := CheckAmendment(first, second, sigs, c, noon); err != nil { // the control
		t.Error(err)
	}
}

// Where the charter asks for touch, a key in a file counts for nothing, and a hardware key that was not touched is refused.
func TestTheCharterMayAskForTouch(t *testing.T) {
	touching := sampleCharter(t, func(c *charter.Charter) {
		c.People[0].Keys = []string{sshOf(t, 10), vectest.Hardware{Key: key(60), Flags: 1}.Text()}
		c.People[1].Keys = []string{vectest.Hardware{Key: key(61), Flags: 1}.Text()}
		c.Acts[1].Touch = "yes"
	})
	a := mustNew(t, sample(t))
	both := slices.Concat(vectest.Hardware{Key: key(60), Flags: 1}.SignIn(t, Namespace, a.doc), vectest.Hardware{Key: key(61), Flags: 1}.SignIn(t, Namespace, a.doc), signed(t, a.doc, 20, 21))
	if err := a.Verify(both, touching, noon); err != nil {
		t.Errorf("two touched keys: %v", err)
	}
	inFile := slices.Concat(signed(t, a.doc, 10, 12, 20, 21), vectest.Hardware{Key: key(61), Flags: 1}.SignIn(t, Namespace, a.doc))
	if err := a.Verify(inFile, touching, noon); !errors.Is(err, ErrUnsigned) {
		t.Errorf("one touched key and two in files: %v", err)
	}
	untouched := slices.Concat(vectest.Hardware{Key: key(60), Flags: 0}.SignIn(t, Namespace, a.doc), vectest.Hardware{Key: key(61), Flags: 1}.SignIn(t, Namespace, a.doc), signed(t, a.doc, 20, 21))
	if err := a.Verify(untouched, touching, noon); !errors.Is(err, charter.ErrSignature) {
		t.Errorf("one not touched: %v", err)
	}
}
