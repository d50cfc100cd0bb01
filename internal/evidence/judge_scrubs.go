package evidence

import (
	"cmp"
	"crypto/ed25519"
	"slices"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// An embassy reads its own disk and enters in its ledger what it finds. What it signed there convicts it, as an answer to
// an audit does. That it was made whole again is said beside it: the loss was.

// maxAdmitted caps the losses of one embassy that are judged when no claims are named.
const maxAdmitted = 100

// admission is a leaf of a scrub record.
type admission struct {
	*audit.ScrubRecord
	leaf uint64
}

// admissions are the scrub records that leaves of a ledger name, in its order. A record that no leaf shown names is of
// another of the embassy's ledgers, or was never entered.
func (j *judge) admissions(h *history) (list []admission) {
	for _, r := range j.docs.scrubs {
		at, ok := h.slots[ledger.Slot{Kind: ledger.Scrub, Sequence: r.Sequence}]
		if ok && at.name == r.hash && h.Key.Equal(ed25519.PublicKey(r.Key[:])) {
			list = append(list, admission{r.ScrubRecord, at.index})
		}
	}
	slices.SortFunc(list, func(a, b admission) int { return cmp.Compare(a.leaf, b.leaf) })
	return list
}

// admitted takes up what the embassy itself says of an object after it had acknowledged it; false: nothing.
func (j *judge) admitted(f *Finding, h *history, object shard.Name, acknowledged uint64) bool {
	for _, a := range j.admissions(h) {
		if a.leaf < acknowledged {
			continue
		}
		i := slices.IndexFunc(a.Damaged, func(d audit.Found) bool { return d.Name == object })
		switch {
		case i >= 0 && f.Outcome != Held:
			f.Outcome = Held
			f.blame("embassy", h.embassy.Name)
			f.rest(h.name, a.leaf)
			f.because("reading its own disk, the embassy found it %s by %s, and signed that: leaf %d", a.Damaged[i].What, when(a.Ended), a.leaf)
		case f.Outcome == Held && slices.Contains(a.Mended, object):
			f.rest(h.name, a.leaf)
			f.because("by %s it was whole again, as the embassy signed: leaf %d", when(a.Ended), a.leaf)
			return true
		}
	}
	if f.Outcome != Held && slices.ContainsFunc(j.docs.scrubs, func(r scrubDoc) bool { return r.names(object) && h.Key.Equal(ed25519.PublicKey(r.Key[:])) }) {
		f.open("a scrub record of the embassy names it damaged, and no leaf shown says that it was entered after the acknowledgement")
		return true
	}
	return f.Outcome == Held
}

func (r *scrubDoc) names(object shard.Name) bool {
	return slices.ContainsFunc(r.Damaged, func(d audit.Found) bool { return d.Name == object })
}

// unmended are objects that an embassy acknowledged, says that it lost, and does not say that it holds again.
func (j *judge) unmended(h *history) (list []shard.Name) {
	lost := map[shard.Name]bool{}
	for _, a := range j.admissions(h) {
		for _, d := range a.Damaged {
			if at, ok := h.objects[d.Name]; ok && at < a.leaf {
				lost[d.Name] = true
			}
		}
		for _, n := range a.Mended {
			delete(lost, n)
		}
	}
	for n := range lost {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b shard.Name) int { return compareHashes(a, b) })
	return list
}
