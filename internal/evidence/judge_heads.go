package evidence

import (
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// heads: a register's heads are a chain with one of each number. Two of one number, signed by one agent, convict it.
func (j *judge) heads(f *Finding, c Claim) {
	last := uint64(0)
	for _, place := range j.docs.places {
		if place.Register == c.Register {
			last = max(last, place.Sequence)
			j.twoHeads(f, place)
		}
	}
	named := uint64(0) // the highest number that a leaf names
	for _, h := range j.histories {
		for slot := range h.slots {
			if slot.Kind == ledger.Head && slot.Register == c.Register {
				named = max(named, slot.Sequence)
			}
		}
	}
	if f.Outcome == Broken {
		return
	}
	if last == 0 {
		f.open("no head of it is in the file")
		return
	}
	var prev *snapshot.Head
	for n := uint64(1); n <= max(last, named); n++ {
		list := j.docs.heads[headSlot(c.Register, n)]
		if len(list) == 0 {
			f.open("head %d is not in the file", n)
			return
		}
		if err := snapshot.CheckChain(prev, list[0].Head); err != nil {
			f.open("%v", err)
			return
		}
		prev = list[0].Head
		for _, h := range j.histories {
			if at, ok := h.slots[headSlot(c.Register, n)]; ok && (at.name != list[0].hash || at.twice) {
				f.open("leaf %d of embassy %s names another head %d, which is not in the file", at.index, h.name, n)
			}
		}
		for _, p := range j.leavesOf(list[0].hash) {
			f.rest(p.Embassy, p.Leaf)
		}
	}
	slices.SortFunc(f.Rests, comparePlaces)
	f.because("%s: signed by an agent, each naming the one before", span("head", 1, last))
	for _, h := range j.histories {
		if why, ok := h.complete(); !ok {
			f.open("of the ledger of embassy %s not everything is shown: %s", h.name, why)
		}
	}
	if len(f.Open) == 0 {
		f.Outcome = Held
		f.because("no ledger shown has another")
	}
}

// twoHeads looks for two heads of one number.
func (j *judge) twoHeads(f *Finding, place ledger.Slot) {
	list := j.docs.heads[place]
	for i := range list {
		for _, other := range list[:i] {
			f.Outcome = Broken
			f.because("there are two heads %d: %x… by agent %s and %x… by agent %s", place.Sequence, other.hash[:8], other.agent, list[i].hash[:8], list[i].agent)
			if other.Agent == list[i].Agent {
				f.blame("agent", list[i].agent)
			}
		}
	}
}
