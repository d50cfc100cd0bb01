package evidence

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
)

// stored: the head and the deliveries are in the embassy's ledger, every object that they name is, and enough
// witnesses saw it.
func (j *judge) stored(f *Finding, h *history, c Claim) {
	head, ok := j.headAt(f, h, c)
	if !ok {
		return
	}
	objects, rests := j.deliveredAt(f, h, c)
	if objects == nil {
		return
	}
	rests = append(rests, h.slots[headSlot(c.Register, c.Snapshot)].index)
	missing := 0
	for object := range objects {
		at, ok := h.objects[object]
		if !ok {
			missing++
			continue
		}
		rests = append(rests, at)
	}
	member := slices.Index(head.Members, [16]byte(h.embassy.ID))
	switch {
	case missing > 0:
		why, complete := h.complete()
		if !complete {
			f.open("%s that the deliveries name are not shown in the ledger (%s)", plural(missing, "object"), why)
			return
		}
		f.Outcome = Broken
		f.because("%s that the deliveries name are nowhere in the whole cosigned ledger", plural(missing, "object"))
		return
	case slices.Contains(head.Missing, [16]byte(h.embassy.ID)):
		f.open("the head itself says that the embassy lacked objects of this snapshot when it was made")
		return
	case member < 0 || uint64(len(objects)) < head.Packs:
		f.open("the snapshot added %d packs, and the deliveries shown name %s", head.Packs, plural(len(objects), "object"))
		return
	}
	f.because("%s that the agent's deliveries name are in the ledger", plural(len(objects), "object"))
	since, ok := h.coversAll(rests)
	if !ok {
		f.open("the embassy's own signature says so; no checkpoint that holds all of it is cosigned by enough witnesses")
		return
	}
	f.Outcome = Held
	f.because("all of it was cosigned by enough witnesses%s", at(since))
}

// coversAll is the moment since when all of these leaves were in trees that enough witnesses cosigned.
func (h *history) coversAll(indexes []uint64) (since time.Time, ok bool) {
	slices.Sort(indexes)
	last := uint64(0) // the largest of the leaves shown: what holds it holds the smaller ones
	for _, i := range indexes {
		if h.under[i] != nil {
			at, ok := h.covers(i)
			if !ok {
				return time.Time{}, false
			}
			if at.After(since) {
				since = at
			}
			continue
		}
		last = i
	}
	at, ok := h.covers(last)
	if at.After(since) {
		since = at
	}
	return since, ok
}

// headAt finds the head of a snapshot in a ledger and its document.
func (j *judge) headAt(f *Finding, h *history, c Claim) (headDoc, bool) {
	at, ok := h.slots[headSlot(c.Register, c.Snapshot)]
	if !ok {
		j.absent(f, h, "the snapshot's head")
		return headDoc{}, false
	}
	f.rest(h.name, at.index)
	for _, d := range j.docs.heads[headSlot(c.Register, c.Snapshot)] {
		if d.hash == at.name {
			f.because("the head, signed by agent %s under charter %d, is leaf %d", d.agent, d.CharterVersion, at.index)
			return d, true
		}
	}
	f.open("leaf %d names a head that is not in the file, or that no agent of the charters signed", at.index)
	return headDoc{}, false
}

// deliveredAt collects what the agent says it gave the embassy for a snapshot. nil: it cannot be told.
func (j *judge) deliveredAt(f *Finding, h *history, c Claim) (objects map[[32]byte]bool, rests []uint64) {
	objects = map[[32]byte]bool{}
	for part := uint32(0); ; part++ {
		slot := ledger.DeliverySlot(c.Register, c.Snapshot, part)
		at, ok := h.slots[slot]
		if !ok && part > 0 {
			return objects, rests
		}
		if !ok {
			f.open("no delivery of this snapshot is shown")
			return nil, nil
		}
		list := j.docs.deliveries[slot]
		i := slices.IndexFunc(list, func(d deliveryDoc) bool { return d.hash == at.name && d.Embassy == [16]byte(h.embassy.ID) })
		if i < 0 {
			f.open("leaf %d names a delivery that is not in the file, or that no agent of the charters signed", at.index)
			return nil, nil
		}
		f.rest(h.name, at.index)
		for _, o := range list[i].Objects {
			objects[o] = true
		}
		rests = append(rests, at.index)
	}
}

// absent says what it means that something is not shown in a ledger: broken only where all of it is shown.
func (j *judge) absent(f *Finding, h *history, what string) {
	why, complete := h.complete()
	if !complete {
		f.open("%s is not shown (%s)", what, why)
		return
	}
	f.Outcome = Broken
	f.because("%s is nowhere in the whole cosigned ledger of %d leaves", what, h.anchored)
}

// delivered, and never stored: a leaf decides, or a whole ledger without one.
func (j *judge) delivered(f *Finding, h *history, c Claim) {
	acknowledged, ok := h.objects[c.Object]
	if ok {
		f.rest(h.name, acknowledged)
		f.because("the embassy acknowledged the object with leaf %d, which is in a checkpoint that it signed", acknowledged)
		if since, ok := h.covers(acknowledged); ok {
			f.because("it was cosigned by enough witnesses%s", at(since))
		}
	}
	if c.Kind == Delivered {
		if ok {
			f.Outcome = Held
			return
		}
		j.absent(f, h, "the object")
		return
	}
	order, ordered := j.wasGiven([16]byte(h.embassy.ID), c.Object)
	if ordered {
		f.because("agent %s signed that it gave the embassy this object, for snapshot %d of register %x", order.agent, order.Head, order.Register)
	}
	switch why, complete := h.complete(); {
	case ok:
		f.Outcome = Broken
		if ordered {
			f.blame("agent", order.agent)
		}
	case ordered:
		f.open("an agent says it was given, and the ledger shows no acknowledgement")
	case !complete:
		f.open("the object is not shown (%s)", why)
	default:
		f.Outcome = Held
		f.because("the object is nowhere in the whole cosigned ledger of %d leaves", h.anchored)
	}
}

// lost: acknowledged, and by the embassy's own signed answer no longer there. What was never acknowledged cannot be lost.
func (j *judge) lost(f *Finding, h *history, c Claim) {
	acknowledged, ok := h.objects[c.Object]
	if !ok {
		j.absent(f, h, "the object")
		if f.Outcome == Broken {
			f.because("the embassy cannot lose what it never acknowledged")
		}
		return
	}
	f.rest(h.name, acknowledged)
	f.because("the embassy acknowledged the object with leaf %d", acknowledged)
	for _, r := range j.docs.reports {
		if found, ok := j.convicts(h, &r); ok && found.Name == c.Object && found.What != audit.WrongEntry {
			f.Outcome = Held
			f.blame("embassy", h.embassy.Name)
			f.because("asked for it, the embassy signed an answer that shows: %s (audit of %s)", found.What, when(r.Started))
			return
		}
	}
	if !j.admitted(f, h, c.Object, acknowledged) && !j.letGo(f, h, c.Object) {
		f.open("nothing that the embassy signed says that it is gone")
	}
}

// convicts returns what an audit's answer proves against the embassy, if it does.
func (j *judge) convicts(h *history, r *report) (audit.Finding, bool) {
	if r.Embassy != [16]byte(h.embassy.ID) {
		return audit.Finding{}, false
	}
	ch, err := audit.ParseChallenge(r.Challenge)
	if err != nil || !bytes.HasPrefix(ch.Checkpoint, []byte(h.log.Origin+"\n")) {
		return audit.Finding{}, false // of an earlier or later ledger of this embassy
	}
	found, err := r.Convicts(h.Key)
	return found, err == nil
}

func when(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }

// possession: the audits in the file. One answer that the embassy signed and that shows a loss breaks it.
func (j *judge) possession(f *Finding, c Claim) {
	h := j.history(c.Party)
	if h == nil {
		f.open("no ledger of embassy %s is in the file", c.Party)
		return
	}
	var newest *report
	for i := range j.docs.reports {
		r := &j.docs.reports[i]
		if r.Embassy != [16]byte(h.embassy.ID) {
			continue
		}
		if found, ok := j.convicts(h, r); ok {
			f.Outcome = Broken
			f.blame("embassy", h.embassy.Name)
			f.because("asked on %s for leaf %d, the embassy signed an answer that shows: %s", when(r.Started), found.Index, found.What)
		}
		if r.known && (newest == nil || r.Started > newest.Started) {
			newest = r
		}
	}
	if newest == nil {
		f.open("no audit of it by anyone whom the charters let audit is in the file")
		return
	}
	for _, p := range j.leavesOf(newest.hash) {
		f.rest(p.Embassy, p.Leaf)
	}
	slices.SortFunc(f.Rests, comparePlaces)
	word := fmt.Sprintf("%s, the newest audit in the file, on %s: %s", newest.auditor, when(newest.Started), newest.Outcome)
	withheld := 0
	for _, x := range j.histories {
		withheld += x.Withheld()
	}
	signed := newest.Answered(h.Key) == nil
	switch {
	case f.Outcome == Broken:
		f.because("%s", word)
	case newest.Outcome != audit.OK:
		f.open("%s; nothing that the embassy signed shows a loss", word)
	case !signed:
		f.open("%s; the embassy's own signature is not on it", word)
	case withheld > 0:
		f.because("%s", word)
		f.open("%s withheld, which may be audits that found otherwise", leaves(uint64(withheld)))
	default:
		f.Outcome = Held
		f.because("%s; %s; the embassy signed its answer", word, plural(int(newest.Objects), "object"))
	}
}

// ordered, and its denial: an agent's signature on a head or a delivery decides.
func (j *judge) ordered(f *Finding, c Claim) {
	if c.Snapshot == 0 {
		j.orderedBy(f, c)
		return
	}
	agents := []string{}
	for _, d := range j.docs.heads[headSlot(c.Register, c.Snapshot)] {
		agents = append(agents, d.agent)
		f.because("agent %s signed the snapshot's head under charter %d, by its own clock on %s", d.agent, d.CharterVersion, when(d.Time))
		for _, p := range j.leavesOf(d.hash) {
			f.rest(p.Embassy, p.Leaf)
		}
	}
	for slot, list := range j.docs.deliveries {
		if slot.Register != c.Register || slot.Sequence>>16 != c.Snapshot {
			continue
		}
		for _, d := range list {
			agents = append(agents, d.agent)
			f.because("agent %s signed part %d of what embassy %s was to store for it: %s", d.agent, d.Part+1, j.embassyName(d.Embassy), plural(len(d.Objects), "object"))
			for _, p := range j.leavesOf(d.hash) {
				f.rest(p.Embassy, p.Leaf)
			}
		}
	}
	slices.Sort(f.Because)
	slices.SortFunc(f.Rests, comparePlaces)
	switch {
	case len(agents) == 0:
		f.open("neither a head nor a delivery of it, signed by an agent, is in the file")
	case c.Kind == Ordered:
		f.Outcome = Held
	default:
		f.Outcome = Broken
		slices.Sort(agents)
		for _, a := range agents {
			f.blame("agent", a)
		}
	}
}

func (j *judge) embassyName(id [16]byte) string {
	for _, c := range slices.Backward(j.t.chain) {
		if e, ok := c.EmbassyByID(id); ok {
			return e.Name
		}
	}
	return hexOf(id[:])
}
