package evidence

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// who gives an order about a person, which is done with a moment of witnessed time.
func (s *story) who(kind charter.ActName, name string, ended time.Time) {
	o := s.order
	o.Kind, o.Nonce = kind, sha256Of(string(kind)+name)
	o.Content = order.Content{Who: order.Who{Name: name}}
	x := first(order.New(o))
	n, _ := s.log(x, signerKey, evaKey)
	s.doneAt(n, x.Hash(), ended.Unix(), ended.Unix())
}

// term gives a person other days of service.
func term(name string, from, until charter.Date) func(*charter.Charter) {
	return func(c *charter.Charter) {
		for i := range c.People {
			if c.People[i].Name == name {
				c.People[i].From, c.People[i].Until = from, until
			}
		}
	}
}

// TestWhoHadLeftOrWasSuspendedDoesNotCount: an embassy that logs or carries out what only such people make enough is to
// blame; the first is the control, and wherever others are enough or it is not sure, nobody is.
func TestWhoHadLeftOrWasSuspendedDoesNotCount(t *testing.T) {
	early, begun := epoch.Add(time.Minute), epoch.Add(2*time.Hour)
	three := func(s *story) { s.signers = append(s.signers, evaKey) }
	for _, x := range []struct {
		name   string
		people func(*charter.Charter)
		change func(*story)
		want   Outcome
	}{
		{"all serve", nil, nil, Held},
		{"a signer had left", term("jaan", "2026-01-01", "2026-05-01"), nil, Broken},
		{"a signer had left, and three signed", term("jaan", "2026-01-01", "2026-05-01"), three, Held},
		{"a signer whose last day was yesterday", term("jaan", "2026-01-01", "2026-05-02"), nil, Unknown},
		{"a signer leaves today", term("jaan", "2026-01-01", "2026-05-03"), nil, Held},
		{"a signer is not there yet", term("jaan", "2026-05-04", ""), nil, Broken},
		{"a signer came today", term("jaan", "2026-05-03", ""), nil, Held},
		{"whoever proposed it had left", term("mari", "2026-01-01", "2026-05-01"), three, Broken},
		{"a signer was suspended", nil, func(s *story) { s.who(charter.ActSuspend, "jaan", early) }, Broken},
		{"another was suspended", nil, func(s *story) { s.who(charter.ActSuspend, "eva", early) }, Held},
		{"a signer was suspended, and three signed", nil, func(s *story) { three(s); s.who(charter.ActSuspend, "jaan", early) }, Held},
		{"a signer was suspended and restored", nil, func(s *story) {
			s.who(charter.ActSuspend, "jaan", early)
			s.who(charter.ActRestore, "jaan", early)
		}, Held},
		{"a signer was suspended while it waited", nil, func(s *story) {
			s.during, s.begun = func() { s.who(charter.ActSuspend, "jaan", early) }, begun.Unix()
		}, Broken},
		{"a signer was suspended when it had begun", nil, func(s *story) {
			s.during, s.begun = func() { s.who(charter.ActSuspend, "jaan", begun) }, begun.Unix()
		}, Held},
		{"a signer was suspended and restored while it waited", nil, func(s *story) {
			s.begun = begun.Unix()
			s.during = func() { s.who(charter.ActSuspend, "jaan", early); s.who(charter.ActRestore, "jaan", early) }
		}, Held},
		{"a signer left while it waited", term("jaan", "2026-01-01", "2026-05-03"), func(s *story) {
			s.begun = epoch.AddDate(0, 0, 2).Unix()
		}, Broken},
	} {
		c := orderCharter()
		if x.people != nil {
			x.people(&c)
		}
		s := newStoryOf(t, c)
		if x.change != nil {
			x.change(s)
		}
		p := s.tell()
		f := s.w.judge(p, fmt.Sprintf("executed:%x:lu", s.hash)).Findings[0]
		guilty := len(f.By) == 1 && f.By[0] == Party{"embassy", "lu"}
		if f.Outcome != x.want || (x.want == Broken) != guilty || x.want != Broken && len(f.By) > 0 {
			t.Errorf("%s: %s by %v, want %s: because %q, open %q", x.name, f.Outcome, f.By, x.want, f.Because, f.Open)
		}
		// Whatever of it is withheld, nobody is blamed who is not blamed with it.
		for i := range s.lu.leaves {
			q := *p
			q.Ledgers = []Ledger{s.lu.show(0, s.notes...)}
			q.Records, q.Attachments = slices.Clone(p.Records), slices.Clone(p.Attachments)
			q.Withhold(func(_ string, index uint64, _ *ledger.Leaf) bool { return index == uint64(i) })
			f := s.w.judge(&q, fmt.Sprintf("executed:%x:lu", s.hash)).Findings[0]
			if f.Outcome == Broken && x.want != Broken || f.Outcome == Held && x.want != Held {
				t.Errorf("%s without leaf %d: %s: because %q", x.name, i, f.Outcome, f.Because)
			}
		}
	}
}

// TestAForgedMomentProvesNoWaiting: what an embassy kept of an order counts by its witnesses' signatures alone. The control
// is the same note as it was.
func TestAForgedMomentProvesNoWaiting(t *testing.T) {
	s := newStory(t)
	p := s.tell()
	claim := fmt.Sprintf("waited:%x:lu", s.hash)
	expect(t, s.w.judge(p, claim), Held)
	for i := range s.notes {
		lines := bytes.Split(s.notes[i], []byte("\n"))
		for j, line := range lines {
			if !bytes.HasPrefix(line, []byte("— ")) || bytes.HasPrefix(line, []byte("— "+s.lu.origin+" ")) {
				continue
			}
			for _, back := range []int{92, 60} { // in the time, in the signature
				forged := slices.Clone(lines)
				forged[j] = bytes.Clone(line)
				forged[j][len(line)-back] ^= 1
				notes := slices.Clone(s.notes)
				notes[i] = bytes.Join(forged, []byte("\n"))
				v := s.w.judge(s.w.pack(s.lu.show(0, notes...)), claim)
				if f := v.Findings[0]; f.Outcome == Broken || len(v.Problems) == 0 {
					t.Errorf("note %d, line %d: %s, problems %q", i, j, f.Outcome, v.Problems)
				}
			}
		}
	}
	for i := range s.notes { // nobody's signature at all
		notes := slices.Clone(s.notes)
		notes[i] = s.lu.checkpoint(int(first(strconv.ParseUint(string(bytes.Split(notes[i], []byte("\n"))[1]), 10, 64))))
		want := Unknown
		if i == 0 || i == 3 { // of the four the second and the third prove it
			want = Held
		}
		expect(t, s.w.judge(s.w.pack(s.lu.show(0, notes...)), claim), want)
	}
	s = newStory(t)
	s.wait = 50 * time.Minute
	p = s.tell()
	expect(t, s.w.judge(p, fmt.Sprintf("waited:%x:lu", s.hash)), Broken, "embassy lu")
}
