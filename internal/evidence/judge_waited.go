package evidence

import (
	"bytes"
	"slices"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// waited: between the order and the first removal lay the cooling-off that its charter and the agreement ask for, in the time of those
// who cosign. Where a cosigned tree lacks the order and one that is younger by less than that holds a removal, it was
// too short: a witness signs no smaller tree after a larger. It was long enough where a cosigned tree lacks the removal
// and one that is older by as much holds the order.
func (j *judge) waited(f *Finding, h *history, c Claim) {
	list := j.sequences(h, c.Object)
	if len(list) == 0 {
		f.open("the ledger shows no such order whose document is in the file")
		return
	}
	f.Outcome = Held
	for _, n := range list {
		at := h.slots[orderSlot(ledger.OrderRecord, n)]
		doc := j.docs.orders[at.name]
		under := j.t.at(doc.Charter)
		if under == nil || under.Hash() != doc.CharterHash {
			f.Outcome = Unknown
			f.open("it names charter %d, which is not in the file or does not follow from the one that is trusted", doc.Charter)
			continue
		}
		rule, _ := under.Act(doc.Kind)
		first := uint64(0)
		for _, x := range h.removals {
			if x.leaf.Kind == ledger.ObjectRemoved && x.leaf.Slot.Sequence == n {
				first = x.index
				break
			}
		}
		if first == 0 { // a ledger begins with a charter
			f.because("nothing is shown that it had removed")
			continue
		}
		f.rest(h.name, at.index)
		f.rest(h.name, first)
		// The longer of what the charter and the agreement say: what of the agreement is not shown convicts nobody.
		least := rule.Cooling.Duration()
		most := least
		if low, high, ok := j.agreed(&Finding{}, h, first, func(r *agreement.Retention) charter.Span { return r.Cooling }); ok {
			least, most = max(least, low), max(most, high)
		}
		j.between(f, h, least, most, at.index, first)
	}
}

// between judges the time between two leaves, which was to be so long at least.
func (j *judge) between(f *Finding, h *history, least, most time.Duration, logged, removed uint64) {
	without, ok := h.lastWithout(logged)
	done, also := h.holdsBy(removed)
	if ok && also && done.Sub(without) < least {
		f.Outcome = Broken
		f.blame("embassy", h.embassy.Name)
		f.because("the order was not there when the ledger was cosigned%s, and an object was gone by it%s: it was to wait %s", at(without), at(done), least)
		return
	}
	seen, ok := h.holdsBy(logged)
	before, also := h.lastWithout(removed)
	if ok && also && (most == 0 || before.Sub(seen) >= most) && h.sawBetween(logged, removed) {
		f.because("it was cosigned%s, and nothing had been removed by it%s: it was to wait %s", at(seen), at(before), most)
		return
	}
	if f.Outcome == Held {
		f.Outcome = Unknown
	}
	f.open("the cosigned checkpoints in the file do not show whether it waited %s", most)
}

// lastWithout is the latest moment at which enough witnesses stood behind a tree that does not hold a leaf.
func (h *history) lastWithout(index uint64) (since time.Time, ok bool) {
	for i := range h.says {
		s := &h.says[i]
		if s.judged && s.verdict.Enough && s.size <= index && s.verdict.Time.After(since) {
			since, ok = s.verdict.Time, true
		}
	}
	return since, ok
}

// holdsBy is a moment by which a leaf was there for sure: when the last of those had signed who stand behind a tree that
// holds it. One of them may have put its clock back, and nobody is convicted by that.
func (h *history) holdsBy(index uint64) (by time.Time, ok bool) {
	for _, r := range h.reach {
		if r.latest.IsZero() || index >= r.size && !slices.Contains(h.under[index], r.tree) {
			continue
		}
		if !ok || r.latest.Before(by) {
			by, ok = r.latest, true
		}
	}
	return by, ok
}

// sawBetween tells whether enough witnesses saw one leaf before the other was there.
func (h *history) sawBetween(first, second uint64) bool {
	for _, r := range h.reach {
		if r.size > first && r.tree.size <= second {
			return true
		}
	}
	return false
}

// orderedBy: the people of the state signed an order, and their denial.
func (j *judge) orderedBy(f *Finding, c Claim) {
	o, ok := j.orderOf(c.Object)
	if !ok {
		f.open("no such order is in the file")
		return
	}
	f.because("the order: %s", o.Say())
	for _, p := range j.leavesOf(o.hash) {
		f.rest(p.Embassy, p.Leaf)
	}
	r := j.signedOrder(o)
	f.Because = append(f.Because, r.because...)
	f.Open = append(f.Open, r.open...)
	switch {
	case r.outcome != Held:
		f.open("that others signed as well is not shown")
	case c.Kind == Ordered:
		f.Outcome = Held
	default:
		f.Outcome = Broken
		f.blame("state", j.t.root.State.Name)
	}
}

// letGo judges the claim that an embassy lost an object whose newest leaf says that it was removed. ok is false where
// there is no such leaf.
func (j *judge) letGo(f *Finding, h *history, object [32]byte) bool {
	var last *removal
	for i := range h.removals {
		if x := &h.removals[i]; x.leaf.Kind == ledger.ObjectRemoved && bytes.Equal(x.leaf.Name[:], object[:]) {
			last = x
		}
	}
	if last == nil || last.index < h.newest[object] {
		return false
	}
	f.rest(h.name, last.index)
	f.because("leaf %d says that order %d had it removed", last.index, last.leaf.Slot.Sequence)
	r := j.logged(h, last.leaf.Slot.Sequence)
	f.Because = append(f.Because, r.because...)
	f.Open = append(f.Open, r.open...)
	switch r.outcome {
	case Held:
		f.Outcome = Broken
		f.because("the state's own people had it removed")
		f.blame("state", j.t.root.State.Name)
	case Broken:
		f.Outcome = Held
		f.because("no order that counts had it removed")
		f.blame("embassy", h.embassy.Name)
	}
	return true
}
