package evidence

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"html"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// People of the charter under which orders are given: representatives order, the elder stops.
const (
	jaanKey = 500 + iota
	evaKey
	olevKey
)

func orderCharter() charter.Charter {
	former := sampleCharter()
	c := former.Upgraded()
	person := func(name string, k uint64) charter.Person {
		return charter.Person{Name: name, Office: "Office of " + name, From: "2026-01-01", Keys: []string{first(charter.SSHPublicKey(public(k)))}}
	}
	c.People = []charter.Person{person("mari", signerKey), person("jaan", jaanKey), person("eva", evaKey), person("olev", olevKey)}
	c.Roles = []charter.Role{{Name: "representative", People: []string{"mari", "jaan", "eva"}}, {Name: "elder", People: []string{"olev"}}}
	c.Acts = nil
	for _, k := range order.Kinds() {
		cooling := charter.Span("0")
		if k.Destroys {
			cooling = "1h"
		}
		c.Acts = append(c.Acts, charter.Act{Act: k.Name, Role: "representative", Need: 2, Cooling: cooling, Valid: "7d", Touch: "no", Veto: "elder"})
	}
	return c
}

// story is what happens around one order at embassy lu: two objects go by it. A test changes one thing of it.
type story struct {
	w       *world
	lu      *log
	objects [2][32]byte
	listed  [][32]byte
	order   order.Order
	signers []uint64
	veto    string // by whom, once the order is logged
	vetoKey uint64
	hold    bool
	lift    bool
	late    bool   // the order is logged after the first removal
	never   bool   // it is not logged at all
	during  func() // what happens while it waits
	begun   int64  // when it began to act, as its result says
	wait    time.Duration
	of      [16]byte // register in the removals' leaves
	hash    [32]byte
	notes   [][]byte
	number  uint64
}

func newStory(t testing.TB) *story { return newStoryOf(t, orderCharter()) }

func newStoryOf(t testing.TB, c charter.Charter, early ...func(*story)) *story {
	w := newWorldOf(t, c, jaanKey)
	s := &story{w: w, lu: w.logs["lu"], signers: []uint64{signerKey, jaanKey}, wait: time.Hour, of: land, number: 1}
	s.order = order.Order{
		Kind: charter.ActRelease, State: w.charter.State.ID, Charter: 1, CharterHash: w.charter.Hash(), Embassies: []string{"lu"},
		Proposer: "mari", Created: epoch, Expires: epoch.Add(24 * time.Hour), Nonce: [16]byte{1}, Reason: "Ten years are over",
		Content: order.Content{Register: charter.RegisterID(land), Label: "land register", Snapshots: []uint64{1}},
	}
	for _, do := range early { // before anything is stored
		do(s)
	}
	for i := range s.objects {
		s.objects[i] = hash32(uint64(70 + i))
		s.lu.object(s.objects[i])
	}
	s.listed = s.objects[:]
	return s
}

func (s *story) see() {
	s.notes = append(s.notes, s.lu.cosigned())
}

// log enters an order and its document.
func (s *story) log(o *order.Order, signers ...uint64) (n uint64, index uint64) {
	var sigs []byte
	for _, k := range signers {
		sigs = append(sigs, first(charter.SignIn(order.Namespace, o.Bytes(), key(k)))...)
	}
	doc := first(order.NewRecord(o.Bytes(), sigs).Bytes())
	s.w.docs = append(s.w.docs, Record{ledger.OrderRecord, doc})
	n, s.number = s.number, s.number+1
	return n, s.lu.record(orderSlot(ledger.OrderRecord, n), doc)
}

func (s *story) done(n uint64, hash [32]byte) { s.doneAt(n, hash, 0, 0) }

func (s *story) doneAt(n uint64, hash [32]byte, begun, ended int64) {
	r := order.NewResult(hash, order.OutcomeDone)
	r.Begun, r.Ended = begun, ended
	doc := first(r.Bytes())
	s.w.docs = append(s.w.docs, Record{ledger.ResultRecord, doc})
	s.lu.record(orderSlot(ledger.ResultRecord, n), doc)
}

// also gives another order of the register, which takes effect at once.
func (s *story) also(kind charter.ActName) {
	o := s.order
	o.Kind, o.Nonce = kind, sha256Of(string(kind))
	o.Content = order.Content{Register: charter.RegisterID(land), Label: "land register", Hold: "court-1"}
	x := first(order.New(o))
	n, _ := s.log(x, signerKey, evaKey)
	s.done(n, x.Hash())
}

func sha256Of(text string) [16]byte {
	h := sha256.Sum256([]byte(text))
	return [16]byte(h[:16])
}

func (s *story) remove(i int, n uint64) {
	leaf := s.w.leaf(ledger.ObjectRemoved)
	leaf.Name, leaf.Size, leaf.Slot = s.objects[i], 1000, ledger.Slot{Kind: ledger.OrderRecord, Register: s.of, Sequence: n}
	s.lu.add(leaf)
}

// tell plays the story and returns what there is to show.
func (s *story) tell() *Pack {
	list := ledger.ObjectList(slices.Clone(s.listed))
	slices.SortFunc(list, compareHashes)
	attachment := first(list.Bytes())
	for _, e := range s.order.Embassies {
		s.order.Content.Lists = append(s.order.Content.Lists, order.List{Embassy: e, Hash: sha256.Sum256(attachment), Count: uint64(len(list)), Bytes: 2000})
	}
	if !slices.Contains([]charter.ActName{charter.ActRelease, charter.ActErase}, s.order.Kind) {
		s.order.Content.Lists, s.order.Content.Snapshots = nil, nil
	}
	o := first(order.New(s.order))
	s.hash = o.Hash()
	if s.hold {
		s.also(charter.ActHold)
	}
	if s.lift {
		s.also(charter.ActLift)
	}
	n := s.number
	s.see()
	if !s.late && !s.never {
		n, _ = s.log(o, s.signers...)
	}
	if s.veto != "" {
		v := order.Veto{Order: s.hash, Name: s.veto, Reason: "Not yet", Time: epoch}
		text := first(v.Marshal())
		doc := first(order.NewRecord(text, first(charter.SignIn(order.VetoNamespace, text, key(s.vetoKey)))).Bytes())
		s.w.docs = append(s.w.docs, Record{ledger.VetoRecord, doc})
		s.lu.record(orderSlot(ledger.VetoRecord, n), doc)
	}
	s.see()
	if s.during != nil {
		s.during()
	}
	s.w.now = s.w.now.Add(s.wait)
	s.see()
	s.remove(0, n)
	if s.late {
		s.log(o, s.signers...)
	}
	s.remove(1, n)
	if !s.never {
		s.doneAt(n, s.hash, s.begun, s.begun)
	}
	s.see()
	p := s.w.pack(s.lu.show(0, s.notes...))
	p.Attachments = [][]byte{attachment}
	return p
}

// stories are what may happen, and what becomes of the claims executed, waited and removals. The first is the control.
var stories = []struct {
	name                       string
	change                     func(*story)
	executed, waited, removals Outcome
}{
	{"as it should be", func(*story) {}, Held, Held, Held},
	{"three sign", func(s *story) { s.signers = append(s.signers, evaKey) }, Held, Held, Held},
	{"a veto of one who may not", func(s *story) { s.veto, s.vetoKey = "eva", evaKey }, Held, Held, Held},
	{"a veto that another signed", func(s *story) { s.veto, s.vetoKey = "olev", evaKey }, Held, Held, Held},
	{"a hold that was lifted", func(s *story) { s.hold, s.lift = true, true }, Held, Held, Held},
	{"no order", func(s *story) { s.never = true }, Unknown, Unknown, Broken},
	{"logged too late", func(s *story) { s.late = true }, Broken, Broken, Broken},
	{"one signs", func(s *story) { s.signers = s.signers[:1] }, Broken, Held, Broken},
	{"one signs twice", func(s *story) { s.signers = []uint64{signerKey, signerKey} }, Broken, Held, Broken},
	{"a stranger signs", func(s *story) { s.signers = []uint64{signerKey, strangerKey} }, Broken, Held, Broken},
	{"the elder signs", func(s *story) { s.signers = []uint64{signerKey, olevKey} }, Broken, Held, Broken},
	{"its proposer does not sign", func(s *story) { s.signers = []uint64{jaanKey, evaKey} }, Broken, Held, Broken},
	{"for another embassy", func(s *story) { s.order.Embassies = []string{"is"} }, Broken, Held, Broken},
	{"open for too long", func(s *story) { s.order.Expires = epoch.Add(8 * 24 * time.Hour) }, Broken, Held, Broken},
	{"under another charter 1", func(s *story) { s.order.CharterHash[0]++ }, Broken, Unknown, Broken},
	{"one object is not listed", func(s *story) { s.listed = s.objects[:1] }, Broken, Held, Broken},
	{"of another register", func(s *story) { s.of[0]++ }, Broken, Held, Broken},
	{"stopped", func(s *story) { s.veto, s.vetoKey = "olev", olevKey }, Broken, Held, Broken},
	{"on hold", func(s *story) { s.hold = true }, Broken, Held, Broken},
	{"too early", func(s *story) { s.wait = 50 * time.Minute }, Held, Broken, Held},
	{"an order that removes nothing", func(s *story) {
		s.order.Kind, s.order.Content.Hold = charter.ActHold, "court-2"
	}, Broken, Held, Broken},
}

func claimsOf(s *story) []string {
	return []string{fmt.Sprintf("executed:%x:lu", s.hash), fmt.Sprintf("waited:%x:lu", s.hash), "removals:lu"}
}

// TestOrdersAreJudged plays each story and holds the verdicts against what they should be; who is blamed is the
// embassy and nobody else.
func TestOrdersAreJudged(t *testing.T) {
	for _, x := range stories {
		s := newStory(t)
		x.change(s)
		p := s.tell()
		claims := claimsOf(s)
		v := s.w.judge(p, claims...)
		for i, want := range []Outcome{x.executed, x.waited, x.removals} {
			f := v.Findings[i]
			guilty := len(f.By) == 1 && f.By[0] == Party{"embassy", "lu"}
			if f.Outcome != want || (want == Broken) != guilty || want != Broken && len(f.By) > 0 {
				t.Errorf("%s: %s: %s by %v, want %s: because %q, open %q", x.name, claims[i], f.Outcome, f.By, want, f.Because, f.Open)
			}
		}
	}
}

// TestWithholdingProvesNothing takes each leaf, each document, each list and each checkpoint out of stories: nobody
// else is blamed by that, nothing that was broken is held, and of an honest embassy nothing is broken. A file that ends
// sooner speaks of less: without the last checkpoint it may hold what was so until then.
func TestWithholdingProvesNothing(t *testing.T) {
	chosen := []string{"as it should be", "a hold that was lifted", "no order", "logged too late", "one object is not listed", "stopped", "on hold", "too early"}
	for _, x := range stories {
		if !slices.Contains(chosen, x.name) {
			continue
		}
		s := newStory(t)
		x.change(s)
		whole := s.tell()
		claims := claimsOf(s)
		want := []Outcome{x.executed, x.waited, x.removals}
		look := func(what string, p *Pack) {
			t.Helper()
			sooner := what == fmt.Sprintf("checkpoint %d", len(s.notes)-1)
			for i, f := range s.w.judge(p, claims...).Findings {
				if f.Outcome != Unknown && f.Outcome != want[i] && !(sooner && f.Outcome == Held) {
					t.Errorf("%s without %s: %s: %s, and with it %s: %q", x.name, what, claims[i], f.Outcome, want[i], f.Because)
				}
				for _, b := range f.By {
					if want[i] != Broken || b != (Party{"embassy", "lu"}) {
						t.Errorf("%s without %s: %s: %v is blamed", x.name, what, claims[i], b)
					}
				}
			}
		}
		for i := range s.lu.leaves {
			p := *whole
			p.Ledgers = []Ledger{s.lu.show(0, s.notes...)}
			p.Records, p.Attachments = slices.Clone(whole.Records), slices.Clone(whole.Attachments)
			p.Withhold(func(_ string, index uint64, _ *ledger.Leaf) bool { return index == uint64(i) })
			look(fmt.Sprintf("leaf %d", i), &p)
		}
		for i := range whole.Records {
			p := *whole
			p.Records = slices.Delete(slices.Clone(whole.Records), i, i+1)
			look("a document", &p)
		}
		p := *whole
		p.Attachments = nil
		look("its list", &p)
		for i := range s.notes {
			p := *whole
			p.Ledgers = []Ledger{s.lu.show(0, slices.Delete(slices.Clone(s.notes), i, i+1)...)}
			look(fmt.Sprintf("checkpoint %d", i), &p)
		}
	}
}

// TestAStateThatDeniesItsOrderIsContradicted, and one that calls lost what its own people had removed. The controls:
// an order that too few signed contradicts nobody, and what was removed by such a one the embassy has lost.
func TestAStateThatDeniesItsOrderIsContradicted(t *testing.T) {
	s := newStory(t)
	p := s.tell()
	state := "state " + s.w.charter.State.Name
	denied, ordered := fmt.Sprintf("never-ordered:%x", s.hash), fmt.Sprintf("ordered:%x", s.hash)
	lost := fmt.Sprintf("lost:%x:lu", s.objects[0])
	expect(t, s.w.judge(p, ordered), Held)
	expect(t, s.w.judge(p, denied), Broken, state)
	expect(t, s.w.judge(p, lost), Broken, state)
	if b := blamed(s.w.judge(p)); len(b) > 0 { // by the claims that the file itself suggests
		t.Errorf("blamed: %q", b)
	}

	s = newStory(t)
	s.signers = []uint64{signerKey}
	p = s.tell()
	denied = fmt.Sprintf("never-ordered:%x", s.hash)
	expect(t, s.w.judge(p, denied), Unknown)
	expect(t, s.w.judge(p, lost), Held, "embassy lu")
	if b := blamed(s.w.judge(p)); !slices.Equal(b, []string{"embassy lu"}) {
		t.Errorf("blamed: %q", b)
	}

	s = newStory(t)
	s.tell()
	s.lu.object(s.objects[0]) // stored again: the removal says nothing of it any more
	s.see()
	expect(t, s.w.judge(s.w.pack(s.lu.show(0, s.notes...)), lost), Unknown)
}

// TestThePageTellsOfOrders: who signed, under which charter, what was removed, and by whom it was stopped.
func TestThePageTellsOfOrders(t *testing.T) {
	s := newStory(t)
	s.veto, s.vetoKey = "olev", olevKey
	v := s.w.judge(s.tell())
	var b bytes.Buffer
	if err := HTML(&b, v); err != nil {
		t.Fatal(err)
	}
	text := html.UnescapeString(tags.ReplaceAllString(b.String(), " "))
	for _, want := range []string{
		"let go of snapshot 1 of register land register", "Office of mari", "Office of jaan", "Proposed by mari under charter 1", "2 people are needed",
		"Ten years are over", "olev: Not yet", "2 objects, 2000 bytes", "objects removed by order 1", "by embassy lu", "order 1 stopped by a veto", "done",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestAWithheldOrderTakesItsListWithIt; the control withholds something else.
func TestAWithheldOrderTakesItsListWithIt(t *testing.T) {
	for _, kind := range []ledger.RecordKind{ledger.OrderRecord, ledger.ResultRecord} {
		s := newStory(t)
		p := s.tell()
		p.Withhold(func(_ string, _ uint64, l *ledger.Leaf) bool {
			return l.Kind == ledger.RecordStored && l.Slot.Kind == kind
		})
		if gone := len(p.Attachments) == 0; gone != (kind == ledger.OrderRecord) {
			t.Errorf("%s withheld: %d lists are left", kind, len(p.Attachments))
		}
	}
}
