package auditor

import (
	"crypto/sha256"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// leaves writes a log's entries: each text is an act, as
// "order 1", "veto 1", "result 1", "register a", "store x", "remove x 1 a", "unrecord a".
func leavesOf(t testing.TB, texts ...string) (list [][]byte) {
	t.Helper()
	list = append(list, act(t, 0, ""))
	for _, text := range texts {
		w := append(strings.Fields(text), "", "", "")
		l := ledger.NewLeaf(ledger.RecordStored, testState)
		l.Name, l.Size = sha256.Sum256([]byte(w[0]+w[1])), 9
		number := func(s string) uint64 { return uint64(s[0] - '0') }
		register := func(s string) (id [16]byte) { copy(id[:], s); return id }
		switch w[0] {
		case "order", "veto", "result":
			kind, err := ledger.ParseRecordKind(w[0])
			if err != nil {
				t.Fatal(err)
			}
			l.Slot = ledger.Slot{Kind: kind, Sequence: number(w[1])}
		case "register", "unrecord":
			l.Name = sha256.Sum256([]byte(w[1]))
			l.Slot = ledger.Slot{Kind: ledger.Register, Register: register(w[1]), Sequence: 1}
			if w[0] == "unrecord" {
				l.Kind = ledger.RecordRemoved
			}
		case "store":
			l.Kind, l.Name = ledger.ObjectStored, sha256.Sum256([]byte(w[1]))
		case "remove":
			l.Kind, l.Name = ledger.ObjectRemoved, sha256.Sum256([]byte(w[1]))
			l.Slot = ledger.Slot{Kind: ledger.OrderRecord, Sequence: number(w[2]), Register: register(w[3])}
		default:
			t.Fatal(text)
		}
		b, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// TestEveryRemovalIsAnOrders: each way in which an embassy can let go of something
// that no order in its own ledger lets go is found, at the first such entry, and
// proven against it. The first ones are the controls: what an honest embassy does.
func TestEveryRemovalIsAnOrders(t *testing.T) {
	k := keeperOf("lu")
	begin := []string{"register a", "register b", "store x", "store y"}
	for _, c := range []struct {
		name string
		acts []string
		at   uint64 // entry of the finding; 0: none
		why  string
	}{
		{"by an order", []string{"order 1", "remove x 1 a", "remove y 1 a", "result 1"}, 0, ""},
		{"two orders", []string{"order 1", "order 2", "remove y 2 b", "result 2", "remove x 1 a", "result 1"}, 0, ""},
		{"stored again and removed again", []string{"order 1", "remove x 1 a", "result 1", "store x", "order 2", "remove x 2 a"}, 0, ""},
		{"said twice by one order", []string{"order 1", "remove x 1 a", "remove x 1 a"}, 0, ""},
		{"a whole register", []string{"order 1", "remove x 1 a", "unrecord a", "result 1"}, 0, ""},
		{"a veto of another order", []string{"order 1", "order 2", "veto 2", "result 2", "remove x 1 a"}, 0, ""},
		{"no order", []string{"remove x 1 a"}, 5, "not logged before"},
		{"the order comes later", []string{"remove x 1 a", "order 1"}, 5, "not logged before"},
		{"another order", []string{"order 1", "remove x 2 a"}, 6, "not logged before"},
		{"stopped", []string{"order 1", "veto 1", "remove x 1 a"}, 7, "stopped"},
		{"through", []string{"order 1", "remove x 1 a", "result 1", "remove y 1 a"}, 8, "through already"},
		{"of two registers", []string{"order 1", "remove x 1 a", "remove y 1 b"}, 7, "removed from register"},
		{"of no register", []string{"order 1", "remove x 1 c"}, 6, "there is no record"},
		{"removed twice", []string{"order 1", "order 2", "remove x 1 a", "remove x 2 a"}, 8, "not stored again"},
		{"never stored", []string{"order 1", "remove z 1 a"}, 6, "never stored"},
		{"a record without an order", []string{"unrecord a"}, 5, "no order before"},
		{"a record twice, stored between elsewhere", []string{"order 1", "unrecord a", "register b", "unrecord c"}, 8, "never stored"},
	} {
		list := leavesOf(t, append(begin[:len(begin):len(begin)], c.acts...)...)
		r := verify(t, logOf(t, k, list), k, Options{Direct: true})
		if c.at == 0 {
			if r.Verdict() != nil {
				t.Errorf("%s: %+v", c.name, r.Findings)
			}
			continue
		}
		if len(r.Findings) == 0 {
			t.Errorf("%s: nothing found", c.name)
			continue
		}
		f := r.Findings[0]
		if f.Kind != BadRemoval || f.Index != c.at || !strings.Contains(f.Why, c.why) || f.Blame != Operator || !f.Proven {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

// TestADamagedCopyBlamesNobodyForRemovals: where an entry of a copy is not the
// signed one, the order may have stood there. The control is the whole copy.
func TestADamagedCopyBlamesNobodyForRemovals(t *testing.T) {
	k := keeperOf("lu")
	list := leavesOf(t, "register a", "store x", "order 1", "remove x 1 a")
	m := logOf(t, k, list)
	if r := verify(t, m, k, Options{}); r.Verdict() != nil {
		t.Fatalf("%+v", r.Findings)
	}
	bundle := "tile/entries/000.p/5"
	at := strings.Index(string(m[bundle]), string(list[3])) + len(list[3]) - 60 // in the order's slot or behind it
	for shift := range 59 {
		r := verify(t, m.with(bundle, flip(at+shift)), k, Options{})
		if r.Verdict() == nil {
			t.Fatalf("byte %d changed and not found", shift)
		}
		for _, f := range r.Findings {
			if f.Proven || f.Blame == Operator {
				t.Errorf("byte %d of a copy changed, and the log is blamed: %+v", shift, f)
			}
		}
	}
}
