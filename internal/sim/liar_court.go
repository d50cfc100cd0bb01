package sim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
)

func cutPrefix(s, prefix string) (string, bool) { return strings.CutPrefix(s, prefix) }

// assize ends a seed. The network is good now: within this bound every lie that took effect must be found.
func (w *world) assize() error {
	if err := w.verify(true); err != nil {
		return err
	}
	if err := w.restore(); err != nil {
		return err
	}
	var heard []*host // everyone who lies, and now and then one who does not
	sample := w.rng.IntN(len(w.hosts))
	for i, h := range w.hosts {
		if h.lies() || i == sample && w.hash(len(w.trees), len(w.acks))%3 == 0 {
			heard = append(heard, h)
		}
	}
	if len(heard) == 0 {
		heard = append(heard, w.hosts[sample])
	}
	if err := w.settle(heard); err != nil {
		return err
	}
	for _, h := range heard {
		if err := w.auditAll(h); err != nil {
			return err
		}
		if err := w.read(h); err != nil {
			return err
		}
		if err := w.verifyLog(h); err != nil {
			return err
		}
	}
	if !w.denies && !w.anyTwoFaced() && w.rng.IntN(3) > 0 {
		return nil // a court with nothing before it costs as much as one that has
	}
	return w.judge()
}

func (w *world) anyTwoFaced() bool {
	for i := range w.hosts {
		if w.twoFaced(i) {
			return true
		}
	}
	return false
}

// settle lets everyone who does not lie come to an end: witnesses wake up, and the logs get what they need.
func (w *world) settle(heard []*host) error {
	w.mail = nil
	for round := range 2 {
		for _, h := range heard {
			b := h.side(w.auditorSide())
			if b.covers == b.book.size() && w.mayAsk(h, b) {
				continue
			}
			for _, x := range w.watchers {
				if err := x.rouse(h.who, true); err != nil {
					return err
				}
			}
			before := len(w.mail)
			if err := w.publish(h, b); err != nil {
				return err
			}
			if most := before + w.policy.Need + 1; round == 0 && len(w.mail) > most { // the rest only if these are too few
				w.mail = w.mail[:most]
			}
		}
		for _, h := range heard {
			if h.forked && round == 0 {
				if err := w.publish(h, h.branches[1]); err != nil {
					return err
				}
			}
		}
		for i := 0; i < 100 && len(w.mail) > 0; i++ {
			if err := w.deliver(1); err != nil {
				return err
			}
		}
		w.now = w.now.Add(time.Minute)
	}
	return nil
}

// auditAll draws samples, and then asks for everything.
func (w *world) auditAll(h *host) error {
	b := h.side(w.auditorSide())
	if b.cosigned == nil {
		_, err := w.audit(h, true, false)
		return err
	}
	if h.store == predicts { // it knows when an audit is due
		if err := h.predict(); err != nil {
			return err
		}
	}
	lost, all := h.lacks(b, min(b.covers, b.book.size()))
	missed := true
	for i := 0; i < 8 && missed && lost > 0; i++ {
		o, err := w.audit(h, false, false)
		if err != nil {
			return err
		}
		missed = o == audit.OK
	}
	// Eight samples of four miss half of all with a probability of 2^-32.
	if lost > 0 && 2*lost >= all && missed {
		return broken(caught, "embassy %d has lost %d of %d objects, and no sample shows it", h.who, lost, all)
	}
	o, err := w.audit(h, true, false)
	if err != nil {
		return err
	}
	if (o == audit.OK || o == audit.Unknown) && lost > 0 && w.mayAsk(h, b) {
		return broken(caught, "embassy %d has lost %d of %d objects, and the audit of all says %s", h.who, lost, all, o)
	}
	if o != audit.OK && w.mayAsk(h, b) && !h.lies() {
		return broken(innocent, "embassy %d is honest, and the audit says %s", h.who, o)
	}
	return nil
}

// mayAsk tells whether a branch's newest cosigned checkpoint may be challenged from.
func (w *world) mayAsk(h *host, b *branch) bool {
	if b.cosigned == nil {
		return false
	}
	if !bytes.Equal(b.judged, b.cosigned) {
		v, err := w.policy.Judge(b.cosigned, h.log)
		b.judged, b.since, b.enough = b.cosigned, v.Time, err == nil && v.Enough
	}
	return b.enough && w.now.Sub(b.since) <= w.charter.FreshFor()
}

// judge has a court judge what everyone kept, by files alone.
func (w *world) judge() error {
	p := &evidence.Pack{State: w.charter.State.ID, Made: w.now}
	proven := map[string]bool{}
	for _, h := range w.hosts {
		l, convicts, err := w.exhibit(h)
		if err != nil {
			return err
		}
		p.Ledgers = append(p.Ledgers, l)
		proven[h.log.Member] = convicts
	}
	claims, forged, err := w.claims()
	if err != nil {
		return err
	}
	p.Records = append(append(p.Records, w.docs...), forged...)
	v, err := evidence.Judge(p, claims, w.charter)
	if err != nil {
		return err
	}
	for i := range v.Findings {
		if err := w.judgeFinding(&v.Findings[i], claims[i], proven); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) judgeFinding(f *evidence.Finding, c evidence.Claim, proven map[string]bool) error {
	switch f.Outcome {
	case evidence.Broken:
		w.tally.Broken++
	case evidence.Held:
		w.tally.Held++
	default:
		w.tally.Open++
	}
	for _, p := range f.By {
		bad := w.guilty(p.Kind, p.Name)
		if p.Kind == "embassy" && c.Kind == evidence.OneHistory {
			bad = bad && w.twoFaced(w.index(p.Name))
		}
		if p.Kind == "embassy" && (c.Kind == evidence.Possession || c.Kind == evidence.Lost) {
			bad = w.hosts[w.index(p.Name)].store != honest
		}
		if !bad {
			return broken(innocent, "%s, by %s: %v", p, f.Claim, f.Because)
		}
	}
	switch c.Kind {
	case evidence.OneHistory:
		if proven[c.Party] && (f.Outcome != evidence.Broken || len(f.By) != 1) {
			return broken(caught, "%s is in the file with both its histories, and %s is %s: %q %q", c.Party, f.Claim, f.Outcome, f.Because, f.Open)
		}
	case evidence.Lost:
		if !w.hosts[w.index(c.Party)].lies() && f.Outcome == evidence.Held {
			return broken(innocent, "%s is believed of %s", f.Claim, c.Party)
		}
	case evidence.NeverOrdered:
		if w.denies && (f.Outcome != evidence.Broken || len(f.By) == 0) {
			return broken(caught, "the state denies what it ordered: %s is %s", f.Claim, f.Outcome)
		}
	}
	return nil
}

func (w *world) index(name string) int {
	for i, n := range w.names {
		if n == name {
			return i
		}
	}
	return -1
}

// exhibit is what a file shows of a log: the leaves that it shows now, and every checkpoint that someone honest keeps.
// convicts tells whether that proves two histories.
func (w *world) exhibit(h *host) (l evidence.Ledger, convicts bool, err error) {
	b := h.side(w.auditorSide())
	raw, err := h.checkpoint(b, b.book.size())
	if err != nil {
		return l, false, err
	}
	l = evidence.Ledger{Name: h.log.Member, Key: h.log.Key, Origin: h.log.Origin, Checkpoints: []evidence.Checkpoint{{Source: "live", Note: raw}}}
	if b.cosigned != nil {
		l.Checkpoints = append(l.Checkpoints, evidence.Checkpoint{Source: "cosigned", Note: b.cosigned})
	}
	for _, leaf := range b.book.leaves {
		l.Leaves = append(l.Leaves, evidence.NewLeaf(leaf))
	}
	root, err := b.book.root(b.book.size())
	if err != nil {
		return l, false, err
	}
	now := w.trees[tree{h.who, b.book.size(), root}]
	list := distinct(w.known(h.who))
	for i, k := range list {
		g := w.trees[k.tree]
		against := g.contradicts(now)
		for _, o := range list[:i] {
			convicts = convicts || o.tree.size == g.size && o.tree.root != g.root
		}
		convicts = convicts || g.size <= now.size && against
		// What is one with the leaves proves nothing new and costs a signature to check.
		if against || g.size > now.size || w.rng.IntN(4) == 0 {
			l.Checkpoints = append(l.Checkpoints, evidence.Checkpoint{Source: k.from, Note: k.raw})
		}
	}
	return l, convicts, nil
}

// claims are what the court is asked; a state that lies brings more, with a report that it made up.
func (w *world) claims() (claims []evidence.Claim, forged []evidence.Record, err error) {
	for _, h := range w.hosts {
		name := h.log.Member
		claims = append(claims, evidence.Claim{Kind: evidence.OneHistory, Party: name}, evidence.Claim{Kind: evidence.Possession, Party: name})
	}
	for _, n := range w.names {
		claims = append(claims, evidence.Claim{Kind: evidence.Witness, Party: n})
	}
	claims = append(claims, evidence.Claim{Kind: evidence.Charters})
	if !w.denies {
		return claims, nil, nil
	}
	if w.head != nil {
		w.tally.Denied++
		claims = append(claims, evidence.Claim{Kind: evidence.NeverOrdered, Register: landRegister, Snapshot: 1})
	}
	for _, h := range w.hosts {
		// Loss of what was stored and of what never was, with the state's own word for it.
		for _, a := range w.acks {
			if a.host == h.who && a.data != nil {
				claims = append(claims, evidence.Claim{Kind: evidence.Lost, Object: a.object, Party: h.log.Member})
				break
			}
		}
		claims = append(claims, evidence.Claim{Kind: evidence.Lost, Object: [32]byte{9}, Party: h.log.Member})
		r, err := w.forge(h)
		if err != nil {
			return nil, nil, err
		}
		if r != nil {
			forged = append(forged, *r)
		}
	}
	return claims, forged, nil
}

// forge makes a report of a loss up, from a challenge that could have been asked.
func (w *world) forge(h *host) (*evidence.Record, error) {
	b := h.branches[0]
	if b.cosigned == nil || h.lies() {
		return nil, nil
	}
	ch := w.challenge(h, b.cosigned, uint64(b.covers), true)
	var buf bytes.Buffer
	if err := audit.Respond(&buf, ch, &answers{h: h, b: b}, h.key); err != nil {
		return nil, err
	}
	res, err := audit.Verify(&buf, ch, h.log)
	if err != nil {
		return nil, err
	}
	leaf := b.book.leaves[b.covers-1]
	made := *res // the answer was good: the findings are not
	made.Wrong = append(made.Wrong, audit.Finding{Index: uint64(b.covers - 1), Name: sha256.Sum256(leaf), What: audit.WrongBytes})
	if made.First == nil {
		made.First = &audit.Exhibit{Frame: fmt.Appendf(nil, "%s", leaf)}
	}
	run := &audit.Run{State: w.charter.State.ID, Embassy: h.id, Challenge: ch, Started: w.now, Outcome: audit.Wrong, Result: &made}
	r, err := audit.NewReport(run, [32]byte{1})
	if err != nil {
		return nil, err
	}
	if err := r.Sign(w.auditor); err != nil {
		return nil, err
	}
	if _, err := r.Convicts(h.log.Key); (err == nil || w.off.blameWithoutProof) && h.store == honest {
		return nil, broken(innocent, "embassy %d by a report that was made up", h.who)
	}
	data, err := r.Bytes()
	return &evidence.Record{Kind: ledger.Audit, Data: data}, err
}
