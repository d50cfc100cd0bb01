package evidence

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

const hostKey = 600

// agreeingCharter is that under which orders are given and agreements made.
func agreeingCharter() charter.Charter {
	c := orderCharter()
	c.Acts = append(c.Acts, charter.Act{Act: charter.ActAgreement, Role: "representative", Need: 2, Cooling: "0", Valid: "7d", Touch: "no", Veto: "elder"})
	return c
}

// agreed is an agreement about embassy lu that keeps everything for so long.
func (s *story) agreed(minimum charter.Span) *agreement.Agreement {
	e := s.w.charter.Embassies[0]
	doc := first(agreement.Draft(agreement.Parties{
		Template: "rack", State: agreement.State{ID: s.w.charter.State.ID, Name: s.w.charter.State.Name, Code: s.w.charter.State.Code},
		HostName: "Host", HostCode: e.Country, Embassy: agreement.Embassy{Name: e.Name, Country: e.Country, Key: charter.Fingerprint(e.PublicKey())},
		Signatories: []agreement.Signatory{{Name: "anne", Office: "Minister", Key: first(charter.SSHPublicKey(public(hostKey)))}}, From: "2026-01-01",
	}))
	a := first(agreement.ParseDraft([]byte(strings.ReplaceAll(string(doc), agreement.Open, "agreed"))))
	a.Retention.Minimum, a.Retention.Cooling = minimum, "0"
	return first(agreement.New(*a))
}

// takes has the embassy take an agreement that these sign.
func (s *story) takes(a *agreement.Agreement, signers ...uint64) {
	var sigs []byte
	for _, k := range signers {
		sigs = append(sigs, first(charter.SignIn(agreement.Namespace, a.Bytes(), key(k)))...)
	}
	doc := first(order.NewRecord(a.Bytes(), sigs).Bytes())
	s.w.docs = append(s.w.docs, Record{ledger.AgreementRecord, doc})
	s.lu.record(ledger.Slot{Kind: ledger.AgreementRecord, Sequence: a.Number}, doc)
}

// TestTheAgreementsCoolingIsJudged: an order waits for the longer of what the charter (an hour) and the agreement say.
func TestTheAgreementsCoolingIsJudged(t *testing.T) {
	both := []uint64{signerKey, jaanKey, hostKey}
	for _, x := range []struct {
		cooling charter.Span
		signers []uint64
		want    Outcome
	}{
		{"0", both, Held},
		{"30m", both, Held},
		{"1h", both, Held},
		{"7d", both, Broken},
		{"7d", both[:2], Held}, // the host did not sign: by the charter alone
	} {
		s := newStoryOf(t, agreeingCharter(), func(s *story) {
			a := *s.agreed("0")
			a.Retention.Cooling = x.cooling
			s.takes(first(agreement.New(a)), x.signers...)
		})
		p := s.tell()
		f := s.w.judge(p, fmt.Sprintf("waited:%x:lu", s.hash)).Findings[0]
		if guilty := slices.Contains(f.By, Party{"embassy", "lu"}); f.Outcome != x.want || guilty != (x.want == Broken) {
			t.Errorf("an agreed cooling-off of %s: %s by %v, want %s: %q", x.cooling, f.Outcome, f.By, x.want, f.Because)
		}
	}
}

// TestTheAgreementsMinimumIsJudged: an embassy that removed what its agreement still kept is to blame, and nobody is where
// that is not sure. The first is the control.
func TestTheAgreementsMinimumIsJudged(t *testing.T) {
	both := []uint64{signerKey, jaanKey, hostKey}
	takes := func(minimum charter.Span, signers ...uint64) func(*story) {
		return func(s *story) { s.takes(s.agreed(minimum), signers...) }
	}
	see := (*story).see
	month := func(s *story) { s.wait = 31 * 24 * time.Hour }
	for _, x := range []struct {
		name   string
		early  []func(*story)
		change func(*story)
		want   Outcome
	}{
		{"kept for as long", []func(*story){takes("30d", both...), see}, month, Held},
		{"an hour, of thirty days", []func(*story){takes("30d", both...), see}, nil, Broken},
		{"an hour, of half an hour", []func(*story){takes("30m", both...), see}, nil, Held},
		{"nothing asked for", []func(*story){takes("0", both...), see}, nil, Held},
		{"no agreement", []func(*story){see}, nil, Held},
		{"not cosigned before it was stored", []func(*story){takes("30d", both...)}, nil, Unknown},
		{"the host did not sign", []func(*story){takes("30d", signerKey, jaanKey), see}, nil, Unknown},
		{"one of the state's people did not sign", []func(*story){takes("30d", signerKey, hostKey), see}, nil, Unknown},
		{"an amendment that lets it go", []func(*story){see, func(s *story) {
			old := s.agreed("30d")
			s.takes(old, both...)
			next := old.Next()
			next.Retention.Minimum, next.Retention.Lowers = "0", "yes"
			s.takes(first(agreement.New(next)), both...)
		}}, nil, Unknown},
		{"stored again since", []func(*story){takes("30d", both...), see}, func(s *story) {
			month(s)
			s.during = func() { s.lu.object(s.objects[0]) }
		}, Unknown},
	} {
		s := newStoryOf(t, agreeingCharter(), x.early...)
		if x.change != nil {
			x.change(s)
		}
		p := s.tell()
		claim := fmt.Sprintf("kept:%x:lu", s.hash)
		f := s.w.judge(p, claim).Findings[0]
		guilty := len(f.By) == 1 && f.By[0] == Party{"embassy", "lu"}
		if f.Outcome != x.want || (x.want == Broken) != guilty || x.want != Broken && len(f.By) > 0 {
			t.Errorf("%s: %s by %v, want %s: because %q, open %q", x.name, f.Outcome, f.By, x.want, f.Because, f.Open)
		}
		suggested := slices.ContainsFunc(s.w.judge(p).Findings, func(f Finding) bool { return f.Claim == claim })
		if suggested != (x.want != Unknown) {
			t.Errorf("%s: judged without being asked for: %v", x.name, suggested)
		}
		for i := range s.lu.leaves {
			q := *p
			q.Ledgers = []Ledger{s.lu.show(0, s.notes...)}
			q.Records, q.Attachments = slices.Clone(p.Records), slices.Clone(p.Attachments)
			q.Withhold(func(_ string, index uint64, _ *ledger.Leaf) bool { return index == uint64(i) })
			if f := s.w.judge(&q, claim).Findings[0]; f.Outcome != Unknown && f.Outcome != x.want {
				t.Errorf("%s without leaf %d: %s: because %q", x.name, i, f.Outcome, f.Because)
			}
		}
	}
}
