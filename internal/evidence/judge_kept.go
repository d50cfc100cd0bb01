package evidence

import (
	"errors"
	"slices"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// agreementDoc is an agreement in the file, as an embassy kept it.
type agreementDoc struct {
	*agreement.Agreement
	sigs []byte
}

func (j *judge) readAgreement(data []byte, hash [32]byte) (why string) {
	r, err := order.ParseRecord(data)
	var a *agreement.Agreement
	if err == nil {
		a, err = agreement.Parse(r.Document)
	}
	if err == nil && a.State.ID != j.p.State {
		err = errors.New("it is of another state")
	}
	if err != nil {
		return err.Error()
	}
	j.docs.agreements[hash] = agreementDoc{a, r.Signatures}
	return ""
}

// agreed is how long something takes at an embassy by the agreements that it took before a leaf: the least and the most
// that one of them says. ok is false where that is not shown.
func (j *judge) agreed(f *Finding, h *history, leaf uint64, says func(*agreement.Retention) charter.Span) (least, most time.Duration, ok bool) {
	chain := map[uint64]agreementDoc{}
	if ok = h.wholeBelow(leaf); !ok {
		f.open("not all leaves before leaf %d are shown, and among them may be an agreement", leaf)
	}
	for slot, at := range h.slots {
		if slot.Kind != ledger.AgreementRecord || at.index >= leaf {
			continue
		}
		f.rest(h.name, at.index)
		a, there := j.docs.agreements[at.name]
		if !there || a.Number != slot.Sequence {
			f.open("leaf %d names agreement %d, which is not in the file", at.index, slot.Sequence)
			return 0, 0, false
		}
		chain[slot.Sequence] = a
	}
	first := true
	for n, a := range chain {
		if !j.bothSigned(a, chain[n-1]) {
			f.open("agreement %d is not shown to be signed by both", n)
			return 0, 0, false
		}
		span := says(&a.Retention).Duration()
		if first || span < least {
			least = span
		}
		most, first = max(most, span), false
	}
	return least, most, ok
}

// bothSigned tells whether a state's people, under a charter of the chain, and the host signed an agreement.
func (j *judge) bothSigned(a, before agreementDoc) bool {
	return slices.ContainsFunc(j.t.chain, func(c *charter.Charter) bool {
		if before.Agreement != nil {
			return agreement.CheckAmendment(before.Agreement, a.Agreement, a.sigs, c, whenever) == nil
		}
		return a.Verify(a.sigs, c, whenever) == nil
	})
}

// kept: what was removed by an order had been kept as long as the agreements say. It was not where the latest cosigned
// tree without an object is younger by less than that than one that holds its removal; it was where a tree that holds the
// object is older by as much than one without the removal.
func (j *judge) kept(f *Finding, h *history, c Claim) {
	list := j.sequences(h, c.Object)
	if len(list) == 0 {
		f.open("the ledger shows no such order whose document is in the file")
		return
	}
	var mine []removal
	for _, x := range h.removals {
		if x.leaf.Kind == ledger.ObjectRemoved && slices.Contains(list, x.leaf.Slot.Sequence) {
			mine = append(mine, x)
		}
	}
	f.Outcome = Held
	if len(mine) == 0 {
		f.because("nothing is shown that it had removed")
		return
	}
	least, most, ok := j.agreed(f, h, mine[0].index, func(r *agreement.Retention) charter.Span { return r.Minimum })
	if ok && most == 0 {
		f.because("no agreement that the embassy had taken asks that anything be kept")
		return
	}
	if !ok { // one that is not shown may ask for less
		least = 0
	}
	unsure := 0
	for _, x := range mine {
		switch j.age(f, h, x, least, most) {
		case Broken:
			f.Outcome = Broken
			f.blame("embassy", h.embassy.Name)
			return
		case Unknown:
			unsure++
		}
	}
	if unsure > 0 || !ok {
		f.Outcome = Unknown
		f.open("the cosigned checkpoints in the file do not show of %s how long they were kept", plural(unsure, "object"))
		return
	}
	f.because("each of %s had been cosigned for at least %s before it was removed", plural(len(mine), "object"), most)
}

// age judges one removal.
func (j *judge) age(f *Finding, h *history, x removal, least, most time.Duration) Outcome {
	stored, ok := h.objects[x.leaf.Name]
	if !ok || stored > x.index {
		return Unknown
	}
	without, lacks := h.lastWithout(stored)
	gone, holds := h.holdsBy(x.index)
	if lacks && holds && gone.Sub(without) < least {
		f.rest(h.name, stored)
		f.rest(h.name, x.index)
		f.because("object %x was not there when the ledger was cosigned%s, and was gone%s: it was to be kept %s", x.leaf.Name, at(without), at(gone), least)
		return Broken
	}
	if stored = h.newest[x.leaf.Name]; stored > x.index {
		return Unknown // it came again, and which leaf this removal is of is not looked for
	}
	seen, holds := h.holdsBy(stored)
	before, lacks := h.lastWithout(x.index)
	if holds && lacks && before.Sub(seen) >= most && h.sawBetween(stored, x.index) {
		return Held
	}
	return Unknown
}
