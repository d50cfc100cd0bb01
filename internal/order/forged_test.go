package order

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

// The forged orders of testdata/vectors/order/forged.json: each must be refused for the reason that stands beside it,
// and those that say "ok" are their controls. They are tried here, and against a live embassy by package embassy.
type forgedFile struct {
	Now      string          `json:"now"`      // the judge's clock
	Embassy  string          `json:"embassy"`  // name in the charters of an embassy
	Seed     string          `json:"seed"`     // hexadecimal: its Ed25519 key, so that a live one can be it
	Charters []forgedCharter `json:"charters"` // none follows another: each is the first of its state
	Orders   []forgedOrder   `json:"orders"`
}

type forgedCharter struct {
	Name       string `json:"name"`
	Document   string `json:"document"`
	Signatures string `json:"signatures"`
	Expect     string `json:"expect"` // ok or invalid
}

type forgedOrder struct {
	Name       string   `json:"name"`
	Charter    string   `json:"charter"` // in force
	Barred     []string `json:"barred"`  // people who are suspended
	After      string   `json:"after"`   // the order that was taken before this one, or empty
	Document   string   `json:"document"`
	Signatures string   `json:"signatures"`
	Expect     string   `json:"expect"`
}

// reasons are the words of Expect, most telling first.
var reasons = []struct {
	word string
	err  error
}{
	{"kind", ErrKind},
	{"invalid", ErrInvalid},
	{"state", ErrState},
	{"charter", ErrCharter},
	{"embassy", ErrEmbassy},
	{"expired", ErrExpired},
	{"early", ErrEarly},
	{"valid", ErrValid},
	{"proposer", ErrProposer},
	{"content", ErrContent},
	{"used", ErrUsed},
	{"no-act", charter.ErrNoAct},
	{"threshold", charter.ErrThreshold},
	{"signature", charter.ErrSignature},
	{"quorum", charter.ErrQuorum},
}

func reason(err error) string {
	if err == nil {
		return "ok"
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return err.Error()
}

// judgeForged is what an embassy does with an order before it logs it.
func judgeForged(c *charter.Charter, book Book, v forgedOrder, now time.Time) error {
	o, err := Parse([]byte(v.Document))
	if err != nil {
		return err
	}
	if _, err := Check(c, o, []byte(v.Signatures), now, v.Barred); err != nil {
		return err
	}
	_, err = book.Take(o)
	return err
}

// forger makes orders of one charter, changed and signed as a case needs.
type forger struct {
	t     testing.TB
	c     *charter.Charter
	name  string
	cases []forgedOrder
	nonce uint64
}

// order makes the document of an order of a kind.
func (f *forger) order(kind charter.ActName, change ...func(*Order)) []byte {
	f.nonce++
	o := sampleOrder(f.c, kind)
	o.Nonce = [16]byte(take(1000+f.nonce, 16))
	for _, g := range change {
		g(&o)
	}
	return mustOrder(f.t, o).Bytes()
}

func (f *forger) sign(doc []byte, keys ...uint64) []byte { return signed(f.t, Namespace, doc, keys...) }

func (f *forger) add(name, expect string, doc, sigs []byte, barred ...string) {
	f.cases = append(f.cases, forgedOrder{
		Name: name, Charter: f.name, Barred: append([]string{}, barred...), Document: string(doc), Signatures: string(sigs), Expect: expect,
	})
}

// hold adds a case of a hold, which two representatives order.
func (f *forger) hold(name, expect string, change func(*Order), keys ...uint64) {
	doc := f.order(charter.ActHold, change)
	f.add(name, expect, doc, f.sign(doc, keys...))
}

func same(*Order) {}

// people: who signs, and how often.
func (f *forger) people() {
	f.hold("two of three sign", "ok", same, mari, jaan)
	f.hold("three of three sign", "ok", same, anna, mari, jaan)
	f.hold("one signs", "quorum", same, mari)
	f.hold("nobody signs", "quorum", same)
	f.hold("one person signs twice", "quorum", same, mari, mari)
	f.hold("the proposer's approval counts once", "quorum", func(o *Order) { o.Proposer = "mari" }, mari, mari, mari)
	f.hold("one person signs with two keys of theirs", "quorum", same, mari)
	last := &f.cases[len(f.cases)-1]
	last.Signatures += string(hardware(mariHard, 1).SignIn(f.t, Namespace, []byte(last.Document)))
	f.hold("people of another role sign", "proposer", func(o *Order) { o.Proposer = "olev" }, olev, eva)
	f.hold("one of the role and one of another", "quorum", same, mari, olev)
	f.hold("a stranger beside one of the role", "quorum", same, mari, 90)
	f.hold("a stranger beside two of the role", "ok", same, mari, jaan, 90)
	f.hold("the proposer did not sign", "proposer", func(o *Order) { o.Proposer = "anna" }, mari, jaan)
	f.hold("proposed by someone of another role", "proposer", func(o *Order) { o.Proposer = "olev" }, mari, jaan)
	f.hold("proposed by nobody of the charter", "proposer", func(o *Order) { o.Proposer = "peeter" }, mari, jaan)
	f.hold("signed by two of whom one is suspended", "quorum", same, mari, jaan)
	f.cases[len(f.cases)-1].Barred = []string{"jaan"}
	f.hold("signed by three of whom one is suspended", "ok", same, mari, jaan, anna)
	f.cases[len(f.cases)-1].Barred = []string{"jaan"}
	f.hold("proposed by someone who is suspended", "proposer", same, mari, jaan, anna)
	f.cases[len(f.cases)-1].Barred = []string{"mari"}
}

// bytes: what was signed is exactly what came.
func (f *forger) bytes() {
	doc := f.order(charter.ActHold)
	good := f.sign(doc, mari, jaan)
	f.add("one byte of the reason changed after signing", "signature", bytes.Replace(doc, []byte("court"), []byte("Court"), 1), good)
	f.add("another hold after signing", "signature", bytes.Replace(doc, []byte("court-3-19"), []byte("court-3-18"), 1), good)
	f.add("a comment added after signing", "invalid", append([]byte("# Approved.\n"), doc...), good)
	commented := append([]byte("# This order does nothing.\n"), doc...)
	f.add("a comment that was signed", "invalid", commented, f.sign(commented, mari, jaan))
	f.add("signatures of another order", "signature", f.order(charter.ActHold), good)
	f.add("signed as a charter", "signature", doc, signed(f.t, charter.Namespace, doc, mari, jaan))
	f.add("signed as a veto", "signature", doc, signed(f.t, VetoNamespace, doc, mari, jaan))
	f.add("signed as a file", "signature", doc, signed(f.t, "file", doc, mari, jaan))
	f.add("one signature cut off", "signature", doc, good[:len(good)-40])
	f.add("words between signatures", "signature", doc, append([]byte("both of us:\n"), good...))
	f.add("129 signatures", "signature", doc, bytes.Repeat(f.sign(doc, mari), charter.MaxSignatures+1))
	f.add("no order at all", "invalid", []byte("hold: true\n"), good)
	f.add("nothing", "invalid", nil, good)
	f.add("too long", "invalid", append(bytes.Clone(doc), bytes.Repeat([]byte("#\n"), MaxSize/2)...), good)
	unknown := bytes.ReplaceAll(doc, []byte("\"hold\""), []byte("\"forget\""))
	f.add("a kind that nobody knows", "kind", unknown, f.sign(unknown, mari, jaan))
	other := bytes.ReplaceAll(doc, []byte("\"hold\""), []byte("\"lift\""))
	f.add("the heading of another kind", "invalid", other, f.sign(other, mari, jaan))
	alias := bytes.Replace(doc, []byte(`"mari"`), []byte(`&a "mari"`), 1)
	f.add("an anchor of YAML", "invalid", alias, f.sign(alias, mari, jaan))
}

// binding: one state, one charter, embassies of it, content that fits, one time.
func (f *forger) binding() {
	f.hold("of another state", "state", func(o *Order) { o.State[0]++ }, mari, jaan)
	f.hold("under the charter before", "charter", func(o *Order) { o.Charter++ }, mari, jaan)
	f.hold("under another charter of that number", "charter", func(o *Order) { o.CharterHash[0]++ }, mari, jaan)
	f.hold("for an embassy that is none", "embassy", func(o *Order) { o.Embassies = []string{"lux", "oslo"} }, mari, jaan)
	f.hold("expired", "expired", func(o *Order) { o.Created, o.Expires = noon.AddDate(0, 0, -7), noon.Add(-time.Second) }, mari, jaan)
	f.hold("in its last second", "ok", func(o *Order) { o.Created, o.Expires = noon.AddDate(0, 0, -7), noon }, mari, jaan)
	f.hold("open for longer than the charter allows", "valid", func(o *Order) { o.Expires = o.Created.AddDate(0, 0, 7).Add(time.Second) }, mari, jaan)
	f.hold("open for as long as the charter allows", "ok", func(o *Order) { o.Expires = o.Created.AddDate(0, 0, 7) }, mari, jaan)
	f.hold("made in the future", "early", func(o *Order) { o.Created = noon.Add(Skew + time.Second) }, mari, jaan)
	f.hold("made within the hour that clocks may differ", "ok", func(o *Order) { o.Created = noon.Add(Skew) }, mari, jaan)
	who := func(w Who) func(*Order) { return func(o *Order) { o.Content.Who = w } }
	both := func(name, expect string, kind charter.ActName, change func(*Order)) {
		doc := f.order(kind, change)
		f.add(name, expect, doc, f.sign(doc, mari, jaan))
	}
	both("to suspend nobody of the charter", "content", charter.ActSuspend, who(Who{Name: "peeter"}))
	both("to suspend an agent under a person's name", "content", charter.ActSuspend, who(Who{Agent: true, Name: "jaan"}))
	both("to suspend an agent", "ok", charter.ActSuspend, who(Who{Agent: true, Name: "home-1"}))
	both("a charter that does not follow", "content", charter.ActCharter, func(o *Order) { o.Content.Number = 3 })
	both("a charter that follows", "ok", charter.ActCharter, same)
	both("keys of a generation to come", "content", charter.ActRotate, func(o *Order) { o.Content.Generation = 3 })
	both("keys of the next generation", "ok", charter.ActRotate, same)

	f.hold("first with its nonce", "ok", same, mari, jaan)
	first := f.cases[len(f.cases)-1]
	f.hold("second with that nonce", "used", func(o *Order) {
		o.Nonce, o.Reason = [16]byte(take(1000+f.nonce-1, 16)), "Once more"
	}, mari, jaan)
	f.cases[len(f.cases)-1].After = first.Name
}

// touch: an act for which only hardware keys count that were touched.
func (f *forger) touch() {
	erase := func(name, expect string, sigs func(doc []byte) [][]byte) {
		doc := f.order(charter.ActErase)
		f.add(name, expect, doc, slices.Concat(sigs(doc)...))
	}
	hard := func(doc []byte, key uint64, flags byte) []byte {
		return hardware(key, flags).SignIn(f.t, Namespace, doc)
	}
	erase("two touched hardware keys", "ok", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), hard(doc, katiHard, 1)} })
	erase("verified by PIN, too", "ok", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 5), hard(doc, katiHard, 5)} })
	erase("one touched, one not", "signature", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), hard(doc, katiHard, 0)} })
	erase("verified by PIN and not touched", "signature", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), hard(doc, katiHard, 4)} })
	erase("one touched, one by a file", "quorum", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), f.sign(doc, jaan)} })
	erase("two by files", "quorum", func(doc []byte) [][]byte { return [][]byte{f.sign(doc, mari, jaan)} })
	erase("one touched twice", "quorum", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), hard(doc, mariHard, 1)} })
	erase("one touched key, and that person's file", "quorum", func(doc []byte) [][]byte { return [][]byte{hard(doc, mariHard, 1), f.sign(doc, mari)} })
	erase("touched for another order", "signature", func(doc []byte) [][]byte {
		return [][]byte{hard(doc, mariHard, 1), hard(f.order(charter.ActErase), katiHard, 1)}
	})
}

// succession: those who may give the next charter when the usual quorum cannot, and nothing else.
func (f *forger) succession() {
	next := func(name, expect string, change func(*Order), keys ...uint64) {
		doc := f.order(charter.ActCharter, change)
		f.add(name, expect, doc, f.sign(doc, keys...))
	}
	byOlev := func(o *Order) { o.Proposer = "olev" }
	next("a charter by succession", "ok", byOlev, olev, eva)
	next("a charter by half a succession", "quorum", byOlev, olev)
	next("half a quorum and half a succession", "quorum", byOlev, olev, mari)
	f.hold("a hold by succession", "proposer", byOlev, olev, eva)
}

// forged makes all of the file.
func forged(t testing.TB) forgedFile {
	file := forgedFile{Now: noon.Format(timeLayout), Embassy: "lux", Seed: hexOf(testKey(51).Seed())}
	add := func(name string, change func(*charter.Charter), make func(*forger)) {
		c := mustCharter(t, change)
		file.Charters = append(file.Charters, forgedCharter{name, string(c.Bytes()), string(signed(t, charter.Namespace, c.Bytes(), mari, jaan)), "ok"})
		f := &forger{t: t, c: c, name: name, nonce: uint64(100 * len(file.Charters))}
		make(f)
		file.Orders = append(file.Orders, f.cases...)
	}
	add("usual", func(*charter.Charter) {}, func(f *forger) {
		f.people()
		f.bytes()
		f.binding()
		f.touch()
		f.succession()
	})
	add("nobody may hold", func(c *charter.Charter) {
		c.Acts = slices.DeleteFunc(c.Acts, func(a charter.Act) bool { return a.Act == charter.ActHold })
	}, func(f *forger) { f.hold("an act that the charter gives to nobody", "no-act", same, mari, jaan) })
	add("people come and go", func(c *charter.Charter) { c.People[0].Until, c.People[2].From = "2026-05-31", "2026-06-02" }, func(f *forger) {
		byJaan := func(o *Order) { o.Proposer = "jaan" }
		f.hold("signed by one who has left", "quorum", byJaan, jaan, mari)
		f.hold("signed by one who has yet to come", "quorum", byJaan, jaan, anna)
		f.hold("proposed by one who has left", "proposer", same, jaan, mari)
	})

	doc := file.Charters[0].Document
	bad := func(name, old, new string) {
		text := strings.Replace(doc, old, new, 1)
		file.Charters = append(file.Charters, forgedCharter{name, text, string(signed(t, charter.Namespace, []byte(text), mari, jaan)), "invalid"})
	}
	bad("a threshold below 1", "act: \"hold\"\n    role: \"representative\"\n    need: 2", "act: \"hold\"\n    role: \"representative\"\n    need: 0")
	bad("a threshold above the role", "act: \"hold\"\n    role: \"representative\"\n    need: 2", "act: \"hold\"\n    role: \"representative\"\n    need: 4")
	bad("one hand may erase", "act: \"erase\"\n    role: \"guard\"\n    need: 2", "act: \"erase\"\n    role: \"guard\"\n    need: 1")
	bad("one key under two names", sshKey(jaan), sshKey(mari))
	return file
}

func TestForgedOrders(t *testing.T) {
	file := vector(t, "forged.json", func() forgedFile { return forged(t) })
	now, err := parseTime(file.Now)
	if err != nil {
		t.Fatal(err)
	}
	charters := map[string]*charter.Charter{}
	for _, v := range file.Charters {
		c, err := charter.Parse([]byte(v.Document))
		if (err == nil) != (v.Expect == "ok") {
			t.Errorf("charter %q: %v, want %s", v.Name, err, v.Expect)
			continue
		}
		if err == nil {
			if err := c.Verify([]byte(v.Signatures)); err != nil {
				t.Errorf("charter %q: %v", v.Name, err)
			}
		}
		charters[v.Name] = c
	}
	byName := map[string]forgedOrder{}
	for _, v := range file.Orders {
		if _, twice := byName[v.Name]; twice {
			t.Errorf("%q stands there twice", v.Name)
		}
		byName[v.Name] = v
		book := Book{}
		if v.After != "" {
			if err := judgeForged(charters[v.Charter], book, byName[v.After], now); err != nil {
				t.Errorf("%q before %q: %v", v.After, v.Name, err)
			}
		}
		if got := reason(judgeForged(charters[v.Charter], book, v, now)); got != v.Expect {
			t.Errorf("%q: %s, want %s", v.Name, got, v.Expect)
		}
	}
	// Every reason that there is to refuse an order is in the file.
	for _, r := range reasons {
		if r.err != charter.ErrThreshold && !slices.ContainsFunc(file.Orders, func(v forgedOrder) bool { return v.Expect == r.word }) {
			t.Errorf("no order is refused for %q", r.word)
		}
	}
}

// The file's makers and the file say the same, so that a change of either is seen.
func TestForgedOrdersAreMadeSo(t *testing.T) {
	kept := vector(t, "forged.json", func() forgedFile { return forged(t) })
	made := forged(t)
	if len(kept.Orders) != len(made.Orders) {
		t.Fatalf("%d orders in the file, %d made", len(kept.Orders), len(made.Orders))
	}
	for i := range made.Orders {
		if a, b := kept.Orders[i], made.Orders[i]; a.Name != b.Name || a.Document != b.Document || a.Signatures != b.Signatures {
			t.Errorf("%q is not as the file has it", b.Name)
		}
	}
}
