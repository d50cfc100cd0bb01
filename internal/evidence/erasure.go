package evidence

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// attestDoc is a custodian's word in the file that a share is destroyed, signed by that custodian.
type attestDoc struct {
	*custody.Attestation
	hash [32]byte // of the record
	key  string   // that signed
}

// registerDoc is a register's record in the file, signed by an agent.
type registerDoc struct {
	*charter.Register
	hash [32]byte
}

// readAttestation keeps what the custodian signed whom the last charter of that generation names for the share.
func (j *judge) readAttestation(data []byte, hash [32]byte) (why string) {
	r, err := order.ParseRecord(data)
	if err != nil {
		return err.Error()
	}
	a, err := custody.ParseAttestation(r.Document)
	if err != nil {
		return err.Error()
	}
	c, since := j.t.generation(a.Generation)
	if c == nil || a.State != [16]byte(j.p.State) {
		return fmt.Sprintf("no charter with generation %d of this state follows from the one that is trusted", a.Generation)
	}
	if !slices.ContainsFunc(c.Custody.Custodians, func(k charter.Custodian) bool {
		return k.X == a.X && k.Name == a.Custodian && k.Commitment == charter.EncodeDigest(a.Commitment)
	}) {
		return fmt.Sprintf("charter %d has no such share", c.Number)
	}
	votes, err := charter.Tally(r.Document, r.Signatures, custody.AttestNamespace, []charter.Voter{charter.VoterOf(a.Custodian, since...)}, false)
	if err != nil {
		return err.Error()
	}
	if len(votes) == 0 {
		return "it is signed by none of " + a.Custodian + "'s keys"
	}
	j.docs.attestations = append(j.docs.attestations, attestDoc{a, hash, votes[0].Key})
	return ""
}

func (j *judge) readRegister(data []byte, hash [32]byte) (why string) {
	r, err := charter.ParseRegister(data)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		return err.Error()
	}
	if _, ok := j.t.agent(r.Agent); !ok || r.State != j.p.State {
		return "it is signed by a key that the charters name as no agent of this state"
	}
	j.docs.records = append(j.docs.records, registerDoc{r, hash})
	return ""
}

// generation is the last charter with a generation of the opening key, and all with that one or a later one.
func (t *trust) generation(n uint32) (last *charter.Charter, since []*charter.Charter) {
	for _, c := range t.chain {
		if c.Custody.Generation >= n {
			since = append(since, c)
		}
		if c.Custody.Generation == n {
			last = c
		}
	}
	return last, since
}

// Attested is a custodian's word in the file that a share is destroyed.
type Attested struct {
	Generation uint32  `json:"generation"`
	Custodian  string  `json:"custodian"`
	Share      uint8   `json:"share"`
	Destroyed  string  `json:"destroyed"` // the day
	How        string  `json:"how"`
	Key        string  `json:"key"`              // the SSH key that signed
	Leaves     []Place `json:"leaves,omitempty"` // that hold it
}

// attested tells the attestations that count, by generation and share.
func (j *judge) attested() (list []Attested) {
	for _, a := range j.docs.attestations {
		list = append(list, Attested{a.Generation, a.Custodian, a.X, a.Destroyed.Format(time.DateOnly), a.How, a.key, j.leavesOf(a.hash)})
	}
	slices.SortStableFunc(list, func(a, b Attested) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Share, b.Share))
	})
	return list
}

// destroyed: so many custodians of a generation signed that their shares are gone, that too few can remain to open.
func (j *judge) destroyed(f *Finding, generation uint32) {
	c, since := j.t.generation(generation)
	switch {
	case c == nil:
		f.open("no charter with generation %d of the opening key follows from the one that is trusted", generation)
		return
	case since[len(since)-1].Custody.Generation == generation:
		f.open("generation %d is the newest that the charters in the file know: it is in force", generation)
		return
	}
	var missing []string
	for _, k := range c.Custody.Custodians {
		i := slices.IndexFunc(j.docs.attestations, func(a attestDoc) bool { return a.Generation == generation && a.X == k.X })
		if i < 0 {
			missing = append(missing, k.Name)
			continue
		}
		a := j.docs.attestations[i]
		f.because("%s signed that share %d was destroyed on %s: %s", a.Custodian, a.X, a.Destroyed.Format(time.DateOnly), a.How)
		for _, p := range j.leavesOf(a.hash) {
			f.rest(p.Embassy, p.Leaf)
		}
	}
	n, t := len(c.Custody.Custodians), c.Custody.Threshold
	if len(missing) >= t {
		f.open("%s attested nothing that is in the file: %d of %d shares can remain, and any %d open", strings.Join(missing, ", "), len(missing), n, t)
		return
	}
	f.Outcome = Held
	f.because("of %d shares of generation %d at most %d remain, if those who signed said the truth, and any %d were needed to open with it", n, generation, len(missing), t)
}

// erased: a register was sealed to no generation of the opening key but such as are destroyed, no reader has its key,
// and its people had each embassy remove it.
func (j *judge) erased(f *Finding, c Claim) {
	f.Outcome = Held
	docs := j.recordsOf(f, c.Register)
	members := j.shownWhole(f, docs)
	if len(docs) == 0 {
		return
	}
	for _, d := range docs {
		if n := len(d.Grants); n > 0 {
			f.doubt("record %d of the register gives its key to %s, whose own keys open what hosts kept", d.Sequence, plural(n, "reader"))
		}
	}
	for _, g := range j.sealedTo(f, docs) {
		f.because("its secrets were sealed to generation %d of the opening key", g)
		part := Finding{Outcome: Unknown}
		j.destroyed(&part, g)
		f.take(&part)
	}
	for _, h := range members {
		j.erasedAt(f, h, c.Register)
	}
}

// doubt says what keeps a finding from being held.
func (f *Finding) doubt(format string, args ...any) {
	f.Outcome = Unknown
	f.open(format, args...)
}

// take makes another finding a part of this one, which is held only where all parts are.
func (f *Finding) take(part *Finding) {
	f.Because, f.Open = append(f.Because, part.Because...), append(f.Open, part.Open...)
	for _, p := range part.Rests {
		f.rest(p.Embassy, p.Leaf)
	}
	if part.Outcome != Held {
		f.Outcome = Unknown
	}
}

// recordsOf are the records of a register that ledgers in the file show, by their number.
func (j *judge) recordsOf(f *Finding, register [16]byte) (docs []registerDoc) {
	for _, h := range j.histories {
		for slot, at := range h.slots {
			if slot.Kind != ledger.Register || slot.Register != register {
				continue
			}
			f.rest(h.name, at.index)
			i := slices.IndexFunc(j.docs.records, func(d registerDoc) bool {
				return d.hash == at.name && [16]byte(d.ID) == register && d.Sequence == slot.Sequence
			})
			switch {
			case i < 0 || at.twice:
				f.doubt("leaf %d of embassy %s names a record of the register that is not in the file", at.index, h.name)
			case !slices.ContainsFunc(docs, func(d registerDoc) bool { return d.hash == at.name }):
				docs = append(docs, j.docs.records[i])
			}
		}
	}
	if len(docs) == 0 {
		f.doubt("no ledger in the file shows a record of the register that is in the file")
	}
	slices.SortFunc(docs, func(a, b registerDoc) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), bytes.Compare(a.hash[:], b.hash[:]))
	})
	slices.SortFunc(f.Rests, func(a, b Place) int { return cmp.Or(cmp.Compare(a.Embassy, b.Embassy), cmp.Compare(a.Leaf, b.Leaf)) })
	return docs
}

// shownWhole demands the complete ledgers of all embassies that may hold a record of the register, and returns those of
// its members.
func (j *judge) shownWhole(f *Finding, docs []registerDoc) (members []*history) {
	ids := map[charter.EmbassyID]bool{}
	for _, d := range docs {
		for _, id := range d.Members {
			ids[id] = true
		}
	}
	for _, h := range j.histories {
		if why, ok := h.complete(); !ok {
			f.doubt("embassy %s: %s", h.name, why)
		}
		if ids[h.embassy.ID] {
			members = append(members, h)
		}
	}
	for _, e := range j.t.newest().Embassies {
		ids[e.ID] = true
	}
	for id := range ids {
		if !slices.ContainsFunc(j.histories, func(h *history) bool { return h.embassy.ID == id }) {
			f.doubt("the ledger of embassy %s is not in the file", id)
		}
	}
	slices.Sort(f.Open)
	return members
}

// sealedTo are the generations of the opening key to which a register's secrets were sealed. From outside one sees when a
// record was there and whether an order had it changed: the first one is of the generation in force when a ledger took it,
// one with other sealed secrets than before is of the generation of the order that names it.
func (j *judge) sealedTo(f *Finding, docs []registerDoc) (generations []uint32) {
	for i, d := range docs {
		if i > 0 && bytes.Equal(d.Sealed, docs[i-1].Sealed) {
			continue
		}
		g, named := j.rotated(d)
		if !named && i == 0 {
			g, named = j.takenUnder(d)
		}
		if !named {
			f.doubt("to which generation of the opening key record %d of the register is sealed is not shown: no order that counts names it", d.Sequence)
			continue
		}
		if !slices.Contains(generations, g) {
			generations = append(generations, g)
		}
	}
	return generations
}

// rotated is the generation of the order that names a record.
func (j *judge) rotated(d registerDoc) (generation uint32, ok bool) {
	ref := order.RecordRef{Register: d.ID, Hash: d.hash}
	for _, o := range j.docs.orders {
		if o.Kind == charter.ActRotate && slices.Contains(o.Content.Records, ref) && j.signedOrder(o).outcome == Held {
			generation, ok = max(generation, o.Content.Generation), true
		}
	}
	return generation, ok
}

// takenUnder is the generation of the charter that was in force when the first ledger took a record: what was there
// before a key existed is not sealed to it.
func (j *judge) takenUnder(d registerDoc) (generation uint32, ok bool) {
	slot := ledger.Slot{Kind: ledger.Register, Register: [16]byte(d.ID), Sequence: d.Sequence}
	for _, h := range j.histories {
		at, there := h.slots[slot]
		if !there || at.name != d.hash {
			continue
		}
		under := uint64(0)
		for number, taken := range h.charters {
			if c := j.t.at(number); taken.index < at.index && c != nil && c.Hash() == taken.name {
				under = max(under, number)
			}
		}
		if c := j.t.at(under); under > 0 && c != nil && (!ok || c.Custody.Generation < generation) {
			generation, ok = c.Custody.Generation, true
		}
	}
	return generation, ok
}

// erasedAt demands that an embassy logged and carried out an order to erase the whole register.
func (j *judge) erasedAt(f *Finding, h *history, register [16]byte) {
	for _, o := range j.ordersOf() {
		if o.Kind != charter.ActErase || len(o.Content.Snapshots) > 0 || [16]byte(o.Content.Register) != register {
			continue
		}
		for _, n := range j.sequences(h, o.Hash()) {
			at, outcome := j.outcomeAt(h, n)
			if outcome != order.OutcomeDone {
				continue
			}
			r := j.logged(h, n)
			f.rest(h.name, h.slots[orderSlot(ledger.OrderRecord, n)].index)
			f.rest(h.name, at)
			f.because("embassy %s did order %s with leaf %d, which erases the register", h.name, charter.EncodeDigest(o.Hash()), at)
			if f.Open = append(f.Open, r.open...); r.outcome != Held {
				f.doubt("whether it was executed as it says is %s: %s", r.outcome, strings.Join(r.because, "; "))
			}
			return
		}
	}
	f.doubt("embassy %s shows no order to erase the register that it carried out", h.name)
}

// erasureDefaults are the claims that attestations and orders to erase suggest.
func (j *judge) erasureDefaults() (claims []Claim) {
	add := func(c Claim) {
		if !slices.Contains(claims, c) {
			claims = append(claims, c)
		}
	}
	for _, a := range j.docs.attestations {
		add(Claim{Kind: Destroyed, Snapshot: uint64(a.Generation)})
	}
	for _, o := range j.ordersOf() {
		register := [16]byte(o.Content.Register)
		named := slices.ContainsFunc(j.docs.records, func(d registerDoc) bool { return [16]byte(d.ID) == register })
		if named && o.Kind == charter.ActErase && len(o.Content.Snapshots) == 0 {
			add(Claim{Kind: Erased, Register: register})
		}
	}
	return claims
}
