package evidence

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// whenever is the time at which everybody serves whom a charter names: a signature bears none, and nobody is convicted
// by a day that cannot be shown.
var whenever time.Time

// ruling is what the file shows of one order, or of what stands in its place.
type ruling struct {
	outcome Outcome
	because []string
	open    []string
	order   orderDoc
	rule    charter.Act // under the charter that the order names
}

func (r *ruling) broken(format string, args ...any) {
	r.outcome = Broken
	r.because = append(r.because, fmt.Sprintf(format, args...))
}

func (r *ruling) unknown(format string, args ...any) {
	if r.outcome == Held {
		r.outcome = Unknown
	}
	r.open = append(r.open, fmt.Sprintf(format, args...))
}

func (r *ruling) found(format string, args ...any) {
	r.because = append(r.because, fmt.Sprintf(format, args...))
}

// signed judges an order by itself: do the people whom its charter names for such an act stand behind it. Held and
// Unknown are the outcomes, and Broken where the file shows that they do not.
func (j *judge) signedOrder(o orderDoc) ruling {
	r := ruling{outcome: Held, order: o}
	c := j.t.at(o.Charter)
	switch {
	case c == nil:
		r.unknown("it names charter %d, which is not in the file or does not follow from the one that is trusted", o.Charter)
		return r
	case c.Hash() != o.CharterHash:
		r.broken("it names another charter %d than the state's", o.Charter)
		return r
	}
	a, err := order.Recheck(c, o.Order, o.sigs, whenever, nil)
	r.rule = a.Rule
	if err != nil {
		r.broken("it does not count under charter %d: %v", c.Number, err)
		return r
	}
	if o.Expires.Sub(o.Created) > a.Rule.Valid.Duration() {
		r.broken("it was open for signatures for longer than charter %d allows", c.Number)
	}
	if !slices.ContainsFunc(a.Votes, func(v charter.Vote) bool { return v.Name == o.Proposer }) {
		r.broken("%s, who proposed it, did not sign it", o.Proposer)
	}
	r.found("%s signed it under charter %d, which asks for %d of role %s", j.people(c, a.Votes), c.Number, a.Rule.Need, a.Rule.Role)
	return r
}

// people names those who signed, with their offices.
func (j *judge) people(c *charter.Charter, votes []charter.Vote) string {
	var names []string
	for _, v := range votes {
		name := v.Name
		if p, ok := c.PersonByName(v.Name); ok && p.Office != "" && p.Office != v.Name {
			name += " (" + p.Office + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// logged judges what a ledger holds as its n-th order, and what the embassy removed by it.
func (j *judge) logged(h *history, n uint64) ruling {
	var mine []removal
	for _, x := range h.removals {
		if x.leaf.Kind == ledger.ObjectRemoved && x.leaf.Slot.Sequence == n {
			mine = append(mine, x)
		}
	}
	at, ok := h.slots[orderSlot(ledger.OrderRecord, n)]
	if len(mine) > 0 && (!ok || at.index > mine[0].index) {
		r := ruling{outcome: Held}
		if h.wholeBelow(mine[0].index) {
			r.broken("leaf %d says that an object was removed by order %d, which was not logged before", mine[0].index, n)
		} else {
			r.unknown("order %d is not shown before leaf %d, which says that it had an object removed", n, mine[0].index)
		}
		return r
	}
	if why, none := j.docs.none[at.name]; none && why != "" {
		r := ruling{outcome: Held}
		r.broken("leaf %d names as order %d what is none: %s", at.index, n, why)
		return r
	}
	doc, ok := j.docs.orders[at.name]
	if !ok {
		r := ruling{outcome: Held}
		r.unknown("leaf %d names order %d, which is not in the file, or of a later version", at.index, n)
		return r
	}
	r := j.signedOrder(doc)
	if r.outcome == Broken {
		j.otherCharter(h, &r)
	}
	r.found("leaf %d of embassy %s holds it as its order %d", at.index, h.name, n)
	if !doc.For(j.nameUnder(h, doc.Charter)) {
		r.broken("it is not for embassy %s", h.name)
	}
	j.served(h, &r, n, mine)
	j.removed(h, &r, mine)
	j.stopped(h, &r, n, mine)
	j.onHold(h, &r, mine)
	return r
}

// otherCharter takes back a verdict that rests on a charter which the embassy may have known another one of.
func (j *judge) otherCharter(h *history, r *ruling) {
	c := j.t.at(r.order.Charter)
	if c == nil || c.Hash() == r.order.CharterHash {
		return
	}
	if taken, ok := h.charters[r.order.Charter]; !ok || taken.name != c.Hash() {
		r.outcome = Unknown
		r.open = append(r.open, r.because...)
		r.because = nil
		r.unknown("whether the embassy took the charter %d that is trusted is not shown", r.order.Charter)
	}
}

// nameUnder is an embassy's name in a charter.
func (j *judge) nameUnder(h *history, number uint64) string {
	if c := j.t.at(number); c != nil {
		if e, ok := c.EmbassyByID(h.embassy.ID); ok {
			return e.Name
		}
	}
	return h.embassy.Name
}

// removed holds what was removed against what the order lists.
func (j *judge) removed(h *history, r *ruling, mine []removal) {
	if len(mine) == 0 {
		return
	}
	o := r.order
	list, ok := o.Content.ListFor(j.nameUnder(h, o.Charter))
	if !ok {
		r.broken("an order of kind %s for this embassy lists nothing to remove, and leaf %d says that it removed an object", o.Kind, mine[0].index)
		return
	}
	var names ledger.ObjectList
	data, there := j.docs.lists[list.Hash]
	if there {
		var err error
		if names, err = ledger.ParseObjectList(data); err != nil {
			r.broken("what it binds as its list is none: %v", err)
			return
		}
	} else {
		r.unknown("the list of objects that it binds for embassy %s is not in the file", h.name)
	}
	size := uint64(0)
	for _, x := range mine {
		size += x.leaf.Size
		if there && !names.Has(x.leaf.Name) {
			r.broken("leaf %d says that object %x was removed by it, which it does not list", x.index, x.leaf.Name)
		}
		if x.leaf.Slot.Register != [16]byte{} && x.leaf.Slot.Register != [16]byte(o.Content.Register) {
			r.broken("leaf %d says that an object of register %x was removed by it, and it is about register %x", x.index, x.leaf.Slot.Register, o.Content.Register)
		}
	}
	r.found("%s of %d bytes were removed by it, the first with leaf %d", plural(len(mine), "object"), size, mine[0].index)
}

// stopped looks for a veto that was logged before anything was removed.
func (j *judge) stopped(h *history, r *ruling, n uint64, mine []removal) {
	if !h.wholeBelow(h.anchored) {
		r.unknown("not all leaves are shown, and among them may be a veto, a hold, or more that was removed")
	}
	at, ok := h.slots[orderSlot(ledger.VetoRecord, n)]
	if len(mine) == 0 || !ok || at.index > mine[len(mine)-1].index {
		return
	}
	v, there := j.docs.vetoes[at.name]
	c := j.t.at(r.order.Charter)
	if !there || c == nil {
		r.unknown("leaf %d names a veto of it, which is not in the file", at.index)
		return
	}
	vote, err := order.CheckVeto(c, r.rule, r.order.Order, v.Veto, v.sigs, whenever, nil)
	if err != nil {
		r.found("leaf %d names a veto that does not count: %v", at.index, err)
		return
	}
	r.broken("%s stopped it with leaf %d, and leaf %d removed an object all the same", vote.Name, at.index, mine[len(mine)-1].index)
}

// onHold looks for a hold of the register that had taken effect before something was removed and was not lifted.
func (j *judge) onHold(h *history, r *ruling, mine []removal) {
	if len(mine) == 0 {
		return
	}
	first, last := mine[0].index, mine[len(mine)-1].index
	for slot, at := range h.slots {
		if slot.Kind != ledger.OrderRecord || at.index > first {
			continue
		}
		o, ok := j.docs.orders[at.name]
		if !ok {
			r.unknown("leaf %d names an order that is not in the file, which may be a hold", at.index)
			continue
		}
		if o.Kind != charter.ActHold || o.Content.Register != r.order.Content.Register || j.signedOrder(o).outcome == Broken {
			continue
		}
		done, outcome := j.outcomeAt(h, slot.Sequence)
		switch {
		case outcome > order.OutcomeDone || j.lifted(h, o.Content.Register, o.Content.Hold, at.index, last):
		case outcome == order.OutcomeDone && done < first && j.signedOrder(o).outcome == Held:
			r.broken("hold %s of the register had taken effect with leaf %d", o.Content.Hold, done)
		default:
			r.unknown("whether hold %s of the register, which was logged with leaf %d, had taken effect is not shown", o.Content.Hold, at.index)
		}
	}
}

// outcomeAt is the leaf of an order's result and what it says; 0 where that is not known.
func (j *judge) outcomeAt(h *history, n uint64) (uint64, order.Outcome) {
	at, ok := h.slots[orderSlot(ledger.ResultRecord, n)]
	r := j.docs.results[at.name]
	if !ok || r == nil {
		return 0, 0
	}
	return at.index, r.Outcome
}

// lifted tells whether a hold was, or may have been, ended between two leaves. A lift that was logged counts, whatever
// is shown of its result.
func (j *judge) lifted(h *history, register charter.RegisterID, name string, after, before uint64) bool {
	for slot, at := range h.slots {
		o, ok := j.docs.orders[at.name]
		if slot.Kind == ledger.OrderRecord && at.index < before && at.index > after && (!ok || o.Kind == charter.ActLift && o.Content.Register == register && o.Content.Hold == name) {
			return true
		}
	}
	return !h.wholeBelow(before)
}

// execution: what one embassy did with an order.
func (j *judge) execution(f *Finding, h *history, c Claim) {
	list := j.sequences(h, c.Object)
	if len(list) == 0 {
		f.open("the ledger shows no such order whose document is in the file")
		return
	}
	f.Outcome = Held
	for _, n := range list {
		f.rest(h.name, h.slots[orderSlot(ledger.OrderRecord, n)].index)
		j.settle(f, h, j.logged(h, n))
	}
}

// settle takes a ruling into a finding about an embassy.
func (j *judge) settle(f *Finding, h *history, r ruling) {
	f.Because = append(f.Because, r.because...)
	f.Open = append(f.Open, r.open...)
	switch {
	case r.outcome == Broken:
		f.Outcome = Broken
		f.blame("embassy", h.embassy.Name)
	case r.outcome == Unknown && f.Outcome == Held:
		f.Outcome = Unknown
	}
}

// removals: everything that one embassy removed.
func (j *judge) removals(f *Finding, h *history) {
	f.Outcome = Held
	var orders []uint64
	for _, x := range h.removals {
		f.rest(h.name, x.index)
		if n := x.leaf.Slot.Sequence; x.leaf.Kind == ledger.ObjectRemoved && !slices.Contains(orders, n) {
			orders = append(orders, n)
		}
		if x.leaf.Kind == ledger.RecordRemoved {
			j.settle(f, h, j.recordRemoved(h, x))
		}
	}
	for _, n := range orders {
		j.settle(f, h, j.logged(h, n))
	}
	if why, ok := h.complete(); !ok {
		f.open("%s", why)
		if f.Outcome == Held {
			f.Outcome = Unknown
		}
	}
	if len(h.removals) == 0 {
		f.because("the ledger shows no removal")
	}
}

// recordRemoved: a register's own record goes only with an order that erases all of it.
func (j *judge) recordRemoved(h *history, x removal) ruling {
	r := ruling{outcome: Held}
	for slot, at := range h.slots {
		o, ok := j.docs.orders[at.name]
		if slot.Kind != ledger.OrderRecord || at.index > x.index {
			continue
		}
		if !ok {
			r.unknown("leaf %d names an order that is not in the file", at.index)
			continue
		}
		if o.Kind == charter.ActErase && len(o.Content.Snapshots) == 0 && [16]byte(o.Content.Register) == x.leaf.Slot.Register {
			return j.logged(h, slot.Sequence)
		}
	}
	switch {
	case r.outcome == Unknown:
	case !h.wholeBelow(x.index):
		r.unknown("leaves before leaf %d, which removed a record, are not shown", x.index)
	default:
		r.broken("leaf %d removed record %d of register %x, and no order before it erased that register", x.index, x.leaf.Slot.Sequence, x.leaf.Slot.Register)
	}
	return r
}
