package evidence

import (
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// Who signed an order counts while in office and not suspended: when the embassy logs it, and again when it begins to act.
// A signature bears no time, so this is judged by what surely was so at these moments.

const (
	// doubt is by how much witnesses' time must have gone beyond a person's last day when an order was not logged yet, for
	// the embassy to have known: what witnesses signed may reach it late, and the order come meanwhile.
	doubt = 24 * time.Hour
	// stir is how much the moment at which an order began to act may be later than when it was last weighed.
	stir = time.Hour
)

// absent are people whose signature does not count, and why; and those of whom that is not shown.
type absent struct {
	out, unsure []string
	why         []string
}

func (a *absent) is(name, why string) {
	a.out, a.why = append(a.out, name), append(a.why, why)
}

// served takes out of an order those who surely did not serve, or were suspended, and judges whether enough are left.
func (j *judge) served(h *history, r *ruling, n uint64, mine []removal) {
	c := j.t.at(r.order.Charter)
	if c == nil || r.outcome == Broken {
		return
	}
	a, err := order.Recheck(c, r.order.Order, r.order.sigs, whenever, nil)
	if err != nil {
		return // said already
	}
	at := h.slots[orderSlot(ledger.OrderRecord, n)].index
	j.still(r, c, "when it was logged", j.away(h, r, c, a.Votes, at))
	if len(mine) > 0 && r.outcome != Broken {
		j.still(r, c, "when it began to act", j.awayLater(h, r, c, a.Votes, n, mine[0].index))
	}
}

// still judges an order without those who are absent.
func (j *judge) still(r *ruling, c *charter.Charter, when string, x absent) {
	counts := func(without []string) bool {
		a, err := order.Recheck(c, r.order.Order, r.order.sigs, whenever, without)
		return err == nil && slices.ContainsFunc(a.Votes, func(v charter.Vote) bool { return v.Name == r.order.Proposer })
	}
	switch {
	case len(x.out) > 0 && !counts(x.out):
		r.broken("without those who did not count %s it has too few, or not whoever proposed it: %s", when, strings.Join(x.why, "; "))
	case len(x.unsure) > 0 && !counts(append(slices.Clone(x.out), x.unsure...)):
		r.unknown("whether %s served %s, and was not suspended, is not shown", strings.Join(x.unsure, ", "), when)
	case len(x.out) > 0:
		r.found("it counts without those who did not %s: %s", when, strings.Join(x.why, "; "))
	}
}

// away finds who of those who signed did not count when an order was logged as a leaf.
func (j *judge) away(h *history, r *ruling, c *charter.Charter, votes []charter.Vote, leaf uint64) (x absent) {
	before, lacks := h.lastWithout(leaf)
	by, holds := h.holdsBy(leaf)
	for _, v := range votes {
		p, ok := c.PersonByName(v.Name)
		if !ok {
			continue
		}
		begun := lacks && !before.Before(p.From.Start()) || !r.order.Created.Add(-order.Skew).Before(p.From.Start())
		switch {
		case lacks && p.Until.Over(before.Add(-doubt)):
			x.is(v.Name, v.Name+" served until "+string(p.Until)+", and the ledger without the order was cosigned"+at(before))
		case lacks && holds && by.Before(p.From.Start()):
			x.is(v.Name, v.Name+" serves from "+string(p.From)+" on, and the order was cosigned"+at(by))
		case !begun, p.Until != "" && !(holds && !p.Until.Over(by)):
			x.unsure = append(x.unsure, v.Name)
		}
	}
	j.suspended(h, &x, votes, leaf, leaf, func(done uint64, _ *order.Result) bool { return done < leaf })
	return x
}

// awayLater finds who of them did not count when the order began to act, as the embassy's own record of its result says. A
// charter that came meanwhile may have asked for others.
func (j *judge) awayLater(h *history, r *ruling, c *charter.Charter, votes []charter.Vote, n, first uint64) (x absent) {
	res := j.docs.results[h.slots[orderSlot(ledger.ResultRecord, n)].name]
	logged := h.slots[orderSlot(ledger.OrderRecord, n)].index
	if res == nil || res.Begun == 0 || res.Order != r.order.Hash() {
		return x
	}
	for _, taken := range h.charters {
		if taken.index > logged && taken.index < first {
			return x
		}
	}
	begun := time.Unix(res.Begun, 0).UTC()
	for _, v := range votes {
		if p, ok := c.PersonByName(v.Name); ok && p.Until.Over(begun.Add(-stir)) {
			x.is(v.Name, v.Name+" served until "+string(p.Until)+", and it began"+at(begun))
		}
	}
	j.suspended(h, &x, votes, logged, first, func(_ uint64, s *order.Result) bool { return s.Ended < res.Begun })
	return x
}

// suspended adds those who signed and had been suspended in time, and not restored, by orders that the ledger shows before
// a leaf. What stands before from may be missing from the file.
func (j *judge) suspended(h *history, x *absent, votes []charter.Vote, from, leaf uint64, inTime func(done uint64, r *order.Result) bool) {
	unsure := func(name string) {
		signed := slices.ContainsFunc(votes, func(v charter.Vote) bool { return name == "" || v.Name == name })
		for _, v := range votes {
			if signed && (name == "" || v.Name == name) && !slices.Contains(x.out, v.Name) && !slices.Contains(x.unsure, v.Name) {
				x.unsure = append(x.unsure, v.Name)
			}
		}
	}
	if !h.wholeBelow(from) {
		unsure("")
	}
	for slot, placed := range h.slots {
		if slot.Kind != ledger.OrderRecord || placed.index >= leaf {
			continue
		}
		o, ok := j.docs.orders[placed.name]
		if why, none := j.docs.none[placed.name]; !ok && (!none || why == "") && placed.index < from {
			unsure("")
		}
		if !ok || o.Kind != charter.ActSuspend || o.Content.Who.Agent ||
			!slices.ContainsFunc(votes, func(v charter.Vote) bool { return v.Name == o.Content.Who.Name }) {
			continue
		}
		name := o.Content.Who.Name
		counts := j.signedOrder(o).outcome
		done, outcome := j.outcomeAt(h, slot.Sequence)
		result := j.docs.results[h.slots[orderSlot(ledger.ResultRecord, slot.Sequence)].name]
		switch logged, restored := j.restored(h, name, placed.index, leaf); {
		case counts == Broken || outcome > order.OutcomeDone || restored:
		case outcome == order.OutcomeDone && inTime(done, result) && counts == Held && !logged && h.wholeBelow(leaf):
			if !slices.Contains(x.out, name) {
				x.is(name, name+" was suspended by an order that had taken effect")
			}
		case outcome == 0 && h.wholeBelow(leaf) && h.slots[orderSlot(ledger.ResultRecord, slot.Sequence)].index == 0:
			// nothing had come of it yet
		case outcome == order.OutcomeDone && !inTime(done, result):
		default:
			unsure(name)
		}
	}
}

// restored tells whether an order to restore a person was logged between two leaves, and whether it had surely taken effect.
func (j *judge) restored(h *history, name string, after, before uint64) (logged, done bool) {
	for slot, placed := range h.slots {
		o, ok := j.docs.orders[placed.name]
		if slot.Kind != ledger.OrderRecord || placed.index <= after || placed.index >= before {
			continue
		}
		if why, none := j.docs.none[placed.name]; !ok {
			logged = logged || !none || why == "" // it may be one
			continue
		}
		if o.Kind != charter.ActRestore || o.Content.Who.Agent || o.Content.Who.Name != name {
			continue
		}
		logged = true
		ended, outcome := j.outcomeAt(h, slot.Sequence)
		done = done || outcome == order.OutcomeDone && ended < before && j.signedOrder(o).outcome == Held
	}
	return logged, done
}
