package order

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

func sampleVeto(order [32]byte) Veto {
	return Veto{Order: order, Name: "olev", Reason: "The court has withdrawn its decision", Time: noon}
}

func mustVeto(t testing.TB, v Veto) *Veto {
	t.Helper()
	doc, err := v.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	n, err := ParseVeto(doc)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sampleResult() *Result {
	r := NewResult([32]byte{7}, OutcomeDone)
	r.Objects, r.Freed, r.Begun, r.Ended = 12, 786432, noon.Unix(), noon.Unix()+5
	return r
}

func TestVeto(t *testing.T) {
	c := mustCharter(t)
	o := mustOrder(t, sampleOrder(c, charter.ActHold))
	a, err := Check(c, o, signed(t, Namespace, o.Bytes(), mari, jaan), noon, nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*Veto)
		sign   func(doc []byte) []byte
		barred []string
		want   error
	}{
		"of one who may":        {nil, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, olev) }, nil, nil},
		"among others":          {nil, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, mari, olev) }, nil, nil},
		"of one who may not":    {func(v *Veto) { v.Name = "mari" }, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, mari) }, nil, ErrVeto},
		"in another's name":     {nil, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, eva) }, nil, ErrVeto},
		"not signed":            {nil, func([]byte) []byte { return nil }, nil, ErrVeto},
		"of one suspended":      {nil, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, olev) }, []string{"olev"}, ErrVeto},
		"of another order":      {func(v *Veto) { v.Order[0]++ }, func(doc []byte) []byte { return signed(t, VetoNamespace, doc, olev) }, nil, ErrVeto},
		"signed as an order":    {nil, func(doc []byte) []byte { return signed(t, Namespace, doc, olev) }, nil, charter.ErrSignature},
		"of other bytes":        {nil, func([]byte) []byte { return signed(t, VetoNamespace, []byte("x"), olev) }, nil, charter.ErrSignature},
		"the order's signature": {nil, func([]byte) []byte { return signed(t, Namespace, o.Bytes(), olev) }, nil, charter.ErrSignature},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := sampleVeto(o.Hash())
			if test.change != nil {
				test.change(&v)
			}
			veto := mustVeto(t, v)
			_, err := CheckVeto(c, a.Rule, o, veto, test.sign(veto.Bytes()), noon, test.barred)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	nobody := a.Rule
	nobody.Veto = ""
	v := mustVeto(t, sampleVeto(o.Hash()))
	if _, err := CheckVeto(c, nobody, o, v, signed(t, VetoNamespace, v.Bytes(), olev), noon, nil); !errors.Is(err, ErrVeto) {
		t.Errorf("where nobody may: %v", err)
	}
}

func TestVetoHasOneText(t *testing.T) {
	doc := string(mustVeto(t, sampleVeto([32]byte{1})).Bytes())
	for name, text := range map[string]string{
		"a comment more": "# Of no consequence.\n" + doc, "an empty line more": doc + "\n", "a field more": doc + "also: \"x\"\n",
		"version 2": strings.Replace(doc, "version: 1", "version: 2", 1), "no reason": strings.Replace(doc, "The court has withdrawn its decision", "", 1),
		"no name": strings.Replace(doc, "olev", "O.", 1), "no hash": strings.Replace(doc, "veto: \"01", "veto: \"", 1),
		"no time": strings.Replace(doc, "T12:", " 12:", 1), "too long": doc + strings.Repeat("#\n", MaxVetoSize), "nothing": "",
	} {
		if _, err := ParseVeto([]byte(text)); text == doc || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Between being logged and taking effect an order's people and charter may change, and are asked again.
func TestRecheck(t *testing.T) {
	c := mustCharter(t)
	o := mustOrder(t, sampleOrder(c, charter.ActHold))
	sigs := signed(t, Namespace, o.Bytes(), mari, jaan)
	later := noon.AddDate(0, 0, 30) // long after it expired for signing
	next := func(change func(*charter.Charter)) *charter.Charter {
		n := c.Next()
		change(&n)
		return mustCharter(t, func(x *charter.Charter) { *x = n })
	}
	before := mustCharter(t, func(x *charter.Charter) { x.State = c.State })
	newer := mustOrder(t, func() Order { x := sampleOrder(next(func(*charter.Charter) {}), charter.ActHold); return x }())
	tests := map[string]struct {
		c      *charter.Charter
		o      *Order
		at     time.Time
		barred []string
		want   error
	}{
		"the same charter":              {c, o, later, nil, nil},
		"the next charter, same people": {next(func(*charter.Charter) {}), o, later, nil, nil},
		"someone left by then":          {next(func(n *charter.Charter) { n.People[1].Until = "2026-06-15" }), o, later, nil, charter.ErrQuorum},
		"someone left after":            {next(func(n *charter.Charter) { n.People[1].Until = "2026-12-15" }), o, later, nil, nil},
		"someone is suspended":          {c, o, later, []string{"jaan"}, charter.ErrQuorum},
		"someone has another key":       {next(func(n *charter.Charter) { n.People[1].Keys = []string{sshKey(99)} }), o, later, nil, charter.ErrQuorum},
		"three are needed now":          {next(func(n *charter.Charter) { n.Acts[2].Need = 3 }), o, later, nil, charter.ErrQuorum},
		"touch is needed now":           {next(func(n *charter.Charter) { n.Acts[2].Touch, n.Acts[2].Role = "yes", "guard" }), o, later, nil, charter.ErrQuorum},
		"nobody may now":                {next(func(n *charter.Charter) { n.Acts = append(n.Acts[:2], n.Acts[3:]...) }), o, later, nil, charter.ErrNoAct},
		"an embassy is closed":          {next(func(n *charter.Charter) { n.Embassies = n.Embassies[1:]; n.Witnessing = n.DefaultWitnessing() }), o, later, nil, ErrEmbassy},
		"a charter before":              {before, newer, later, nil, ErrCharter},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := sigs
			if test.o == newer {
				s = signed(t, Namespace, newer.Bytes(), mari, jaan)
			}
			if _, err := Recheck(test.c, test.o, s, test.at, test.barred); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	// Control: before it is logged, all of this is asked more strictly.
	if _, err := Check(next(func(*charter.Charter) {}), o, sigs, noon, nil); !errors.Is(err, ErrCharter) {
		t.Errorf("under the next charter before it is logged: %v", err)
	}
}

func TestApprovalSaysWhoIsMissing(t *testing.T) {
	c := mustCharter(t)
	o := mustOrder(t, sampleOrder(c, charter.ActHold))
	a, err := Check(c, o, signed(t, Namespace, o.Bytes(), jaan), noon, nil)
	if !errors.Is(err, charter.ErrQuorum) || len(a.Votes) != 1 || a.Votes[0].Name != "jaan" || !reflect.DeepEqual(a.Missing, []string{"mari", "anna"}) {
		t.Errorf("%v: %+v", err, a)
	}
	p := sampleOrder(c, charter.ActCharter)
	p.Proposer = "eva"
	o = mustOrder(t, p)
	a, err = Check(c, o, signed(t, Namespace, o.Bytes(), olev, eva), noon, nil)
	if err != nil || !a.Succession || a.Rule.Cooling != "14d" || a.Rule.Veto != "representative" || len(a.Votes) != 2 {
		t.Errorf("by succession: %v: %+v", err, a)
	}
}

func TestJudge(t *testing.T) {
	c := mustCharter(t)
	erase, hold := mustOrder(t, sampleOrder(c, charter.ActErase)), mustOrder(t, sampleOrder(c, charter.ActHold))
	cooling := 72 * time.Hour
	in := func(d time.Duration) time.Time { return noon.Add(d) }
	until := in(cooling)
	late := erase.Expires.Add(time.Second)
	result := func(o Outcome) *Result { r := NewResult(erase.Hash(), o); r.Why = "x"; return r }
	tests := map[string]struct {
		o    *Order
		f    Facts
		now  time.Time
		want Standing
	}{
		"not logged":                           {erase, Facts{Cooling: cooling}, noon, Standing{Open, time.Time{}}},
		"not logged in its last second":        {erase, Facts{Cooling: cooling}, erase.Expires, Standing{Open, time.Time{}}},
		"not logged in time":                   {erase, Facts{Cooling: cooling}, late, Standing{Expired, time.Time{}}},
		"logged and not witnessed":             {erase, Facts{Logged: true, Cooling: cooling}, noon, Standing{Waiting, time.Time{}}},
		"logged, not witnessed for ever":       {erase, Facts{Logged: true, Cooling: cooling}, in(9999 * time.Hour), Standing{Waiting, time.Time{}}},
		"witnessed":                            {erase, Facts{Logged: true, Witnessed: noon, Cooling: cooling}, noon, Standing{Waiting, until}},
		"a second too early":                   {erase, Facts{Logged: true, Witnessed: noon, Cooling: cooling}, until.Add(-time.Second), Standing{Waiting, until}},
		"in time":                              {erase, Facts{Logged: true, Witnessed: noon, Cooling: cooling}, until, Standing{Effective, until}},
		"in time, after it expired":            {erase, Facts{Logged: true, Witnessed: erase.Expires, Cooling: 300 * time.Hour}, late.Add(300 * time.Hour), Standing{Effective, erase.Expires.Add(300 * time.Hour)}},
		"witnessed too late":                   {erase, Facts{Logged: true, Witnessed: late, Cooling: cooling}, late, Standing{Expired, time.Time{}}},
		"stopped":                              {erase, Facts{Logged: true, Witnessed: noon, Vetoed: true, Cooling: cooling}, in(9999 * time.Hour), Standing{Vetoed, time.Time{}}},
		"stopped before it was witnessed":      {erase, Facts{Logged: true, Vetoed: true, Cooling: cooling}, noon, Standing{Vetoed, time.Time{}}},
		"no waiting, nothing destroyed":        {hold, Facts{Logged: true}, noon, Standing{Effective, time.Time{}}},
		"no waiting, but something destroyed":  {erase, Facts{Logged: true}, noon, Standing{Waiting, time.Time{}}},
		"no waiting, destroyed, and witnessed": {erase, Facts{Logged: true, Witnessed: noon}, noon, Standing{Effective, noon}},
		"done":                                 {erase, Facts{Logged: true, Witnessed: noon, Result: result(OutcomeDone), Cooling: cooling}, until, Standing{Done, time.Time{}}},
		"done, and a veto after":               {erase, Facts{Logged: true, Witnessed: noon, Vetoed: true, Result: result(OutcomeDone)}, until, Standing{Done, time.Time{}}},
		"done in part":                         {erase, Facts{Logged: true, Result: result(OutcomePartial)}, until, Standing{Partial, time.Time{}}},
		"refused":                              {erase, Facts{Logged: true, Result: result(OutcomeRefused)}, until, Standing{Refused, time.Time{}}},
		"expired by its result":                {erase, Facts{Logged: true, Result: result(OutcomeExpired)}, until, Standing{Expired, time.Time{}}},
		"stopped by its result":                {erase, Facts{Logged: true, Result: result(OutcomeVetoed)}, until, Standing{Vetoed, time.Time{}}},
	}
	for name, test := range tests {
		if got := Judge(test.o, test.f, test.now); got != test.want {
			t.Errorf("%s: %v until %v, want %v until %v", name, got.Status, got.Until, test.want.Status, test.want.Until)
		}
	}
	seen := map[string]bool{}
	for s := Open; s <= Refused; s++ {
		if w := s.String(); w == "unknown" || seen[w] || s.Over() != (s >= Done) {
			t.Errorf("status %d is called %q", s, w)
		} else {
			seen[w] = true
		}
	}
	if Status(0).String() != "unknown" || Status(99).String() != "unknown" || Outcome(9).String() != "unknown" {
		t.Error("an unknown status has a name")
	}
}

func TestResults(t *testing.T) {
	good := sampleResult()
	b, err := good.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseResult(b); err != nil || !reflect.DeepEqual(got, good) {
		t.Errorf("%v: %+v", err, got)
	}
	for name, change := range map[string]func(*Result){
		"version 2": func(r *Result) { r.Version = 2 }, "no outcome": func(r *Result) { r.Outcome = 0 },
		"an unknown outcome": func(r *Result) { r.Outcome = 6 }, "refused without why": func(r *Result) { r.Outcome, r.Objects, r.Freed = OutcomeRefused, 0, 0 },
		"refused, and yet something gone": func(r *Result) { r.Outcome, r.Why = OutcomeRefused, "x" },
		"a long why":                      func(r *Result) { r.Why = strings.Repeat("x", maxWhy+1) }, "ended before it began": func(r *Result) { r.Ended = r.Begun - 1 },
		"begun before 1970": func(r *Result) { r.Begun = -1 }, "sums that overflow": func(r *Result) { r.Outcome, r.Why, r.Objects, r.Freed = OutcomeVetoed, "x", 1, math.MaxUint64 },
	} {
		r := *good
		change(&r)
		if _, err := r.Bytes(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := form.Encode(&r); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := ParseResult(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: read: %v", name, err)
		}
	}
}

func TestRecords(t *testing.T) {
	r := NewRecord([]byte("doc"), []byte("sig"), [32]byte{1}, [32]byte{2})
	b, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRecord(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%v: %+v", err, got)
	}
	for name, r := range map[string]*Record{
		"no document": NewRecord(nil, nil), "a long document": NewRecord(make([]byte, MaxSize+1), nil),
		"long signatures":      NewRecord([]byte("x"), make([]byte, MaxSignatures+1)),
		"too many attachments": NewRecord([]byte("x"), nil, make([][32]byte, MaxAttachments+1)...),
		"version 0":            {Document: []byte("x")},
	} {
		if _, err := r.Bytes(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := form.Encode(r); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := ParseRecord(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: read: %v", name, err)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	c := mustCharter(t)
	for name, change := range map[string]func(*Order){
		"no state": func(o *Order) { o.State = charter.StateID{} }, "no charter": func(o *Order) { o.Charter = 0 },
		"no embassy": func(o *Order) { o.Embassies = nil }, "embassies out of order": func(o *Order) { o.Embassies = []string{"lux", "lisbon"} },
		"an embassy twice": func(o *Order) { o.Embassies = []string{"lux", "lux"} }, "an embassy without name": func(o *Order) { o.Embassies = []string{""} },
		"no proposer": func(o *Order) { o.Proposer = "" }, "parts of a second": func(o *Order) { o.Created = o.Created.Add(1) },
		"local time": func(o *Order) { o.Expires = o.Expires.In(time.FixedZone("x", 3600)) }, "expires as it is made": func(o *Order) { o.Expires = o.Created },
		"no nonce": func(o *Order) { o.Nonce = [16]byte{} }, "no reason": func(o *Order) { o.Reason = "" }, "a reason of two lines": func(o *Order) { o.Reason = "a\nb" },
		"no register": func(o *Order) { o.Content.Register = charter.RegisterID{} }, "no label": func(o *Order) { o.Content.Label = "" },
		"a quote in the label": func(o *Order) { o.Content.Label = `a"b` }, "snapshot 0": func(o *Order) { o.Content.Snapshots = []uint64{0} },
		"snapshots out of order": func(o *Order) { o.Content.Snapshots = []uint64{3, 2} }, "a snapshot twice": func(o *Order) { o.Content.Snapshots = []uint64{3, 3} },
		"no lists": func(o *Order) { o.Content.Lists = nil }, "lists of others": func(o *Order) { o.Content.Lists[0].Embassy = "aaa" },
		"a list missing": func(o *Order) { o.Content.Lists = o.Content.Lists[:1] }, "a field of another kind": func(o *Order) { o.Content.Hold = "x" },
		"too many snapshots": func(o *Order) { o.Content.Snapshots = make([]uint64, MaxSnapshots+1) },
	} {
		o := sampleOrder(c, charter.ActErase)
		change(&o)
		if _, err := o.Marshal(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := sampleOrder(c, charter.ActErase)
	o.Kind = charter.ActAgreement
	if _, err := o.Marshal(); !errors.Is(err, ErrKind) {
		t.Errorf("an act that is no order: %v", err)
	}
}

func TestAttachments(t *testing.T) {
	c := mustCharter(t)
	o := mustOrder(t, sampleOrder(c, charter.ActErase))
	l, ok := o.Content.ListFor("lisbon")
	if !ok || l.Check([]byte("a")) != nil || !errors.Is(l.Check([]byte("b")), ErrAttachment) {
		t.Errorf("%v %+v", ok, l)
	}
	if _, ok := o.Content.ListFor("reykjavik"); ok || o.For("reykjavik") || !o.For("lux") {
		t.Error("a list for an embassy that the order does not name")
	}
}

func FuzzParse(f *testing.F) {
	c := mustCharter(f)
	for _, k := range Kinds() {
		f.Add(mustOrder(f, sampleOrder(c, k.Name)).Bytes())
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		o, err := Parse(doc)
		if err != nil {
			return
		}
		if again, err := o.Marshal(); err != nil || !bytes.Equal(again, doc) || !bytes.Equal(o.Bytes(), doc) {
			t.Errorf("not its one text: %v", err)
		}
		_ = o.Say()
		if _, err := Check(c, o, nil, noon, nil); err == nil {
			t.Error("a quorum of nobody")
		}
	})
}

func FuzzParseVeto(f *testing.F) {
	f.Add(mustVeto(f, sampleVeto([32]byte{1})).Bytes())
	f.Fuzz(func(t *testing.T, doc []byte) {
		if v, err := ParseVeto(doc); err == nil {
			if again, err := v.Marshal(); err != nil || !bytes.Equal(again, doc) {
				t.Errorf("not its one text: %v", err)
			}
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	b, err := NewRecord([]byte("doc"), []byte("sig"), [32]byte{1}).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRecord(data); err == nil {
			if again, err := r.Bytes(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("not canonical: %v", err)
			}
		}
	})
}

func FuzzParseResult(f *testing.F) {
	b, err := sampleResult().Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseResult(data); err == nil {
			if again, err := r.Bytes(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("not canonical: %v", err)
			}
		}
	})
}
