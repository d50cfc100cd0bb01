package evidence

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// erasure is a register that is erased: taken under generation 1 of the opening key at all embassies, removed by order,
// left out of generation 2, and the custodians' word that generation 1 is destroyed. A test changes one thing of it.
type erasure struct {
	w        *world
	first    *charter.Charter
	register charter.Register
	late     bool              // the register is first taken under generation 2
	second   *charter.Register // another record of it, after the first
	rotates  uint32            // an order names the second, for this generation
	rotators []uint64          // who sign that
	attests  map[string]uint64 // custodian -> key that signs
	erasers  []uint64          // who sign the order to erase
	snapshot bool              // it erases a snapshot alone
	outcome  order.Outcome
}

var estate = charter.RegisterID{8, 8, 8}

func erasureWorld(t testing.TB) *erasure {
	c := orderCharter()
	c.Custody.Threshold, c.Custody.Custodians = 2, nil
	for i, name := range []string{"mari", "jaan", "eva"} {
		c.Custody.Custodians = append(c.Custody.Custodians, charter.Custodian{
			Name: name, X: uint8(i + 1), Recipient: "age1pq1" + strings.Repeat(string("qpz"[i]), 1952), Commitment: charter.EncodeDigest(hash32(uint64(90 + i))),
		})
	}
	e := &erasure{
		w: newWorldOf(t, c, jaanKey), attests: map[string]uint64{"mari": signerKey, "eva": evaKey}, erasers: []uint64{signerKey, jaanKey},
		rotators: []uint64{signerKey, jaanKey}, outcome: order.OutcomeDone,
	}
	e.first = e.w.charter
	e.register = charter.Register{
		Version: charter.RegisterVersion, ID: estate, State: e.first.State.ID, Sequence: 1, PublicKey: fill(80, charter.OpeningKeySize), Epoch: 1,
		K: 1, Sealed: fill(81, 100), Time: epoch.UnixNano(),
	}
	for _, x := range e.first.Embassies[:2] {
		e.register.Members = append(e.register.Members, x.ID)
	}
	return e
}

// taken enters a record of the register at its members.
func (e *erasure) taken(r *charter.Register) (hash [32]byte) {
	if err := r.Sign(key(agentKey)); err != nil {
		e.w.t.Fatal(err)
	}
	doc := first(r.Marshal())
	e.w.docs = append(e.w.docs, Record{ledger.Register, doc})
	for _, h := range hosts[:2] {
		e.w.logs[h[0]].record(ledger.Slot{Kind: ledger.Register, Register: [16]byte(r.ID), Sequence: r.Sequence}, doc)
	}
	return sha256.Sum256(doc)
}

// ordered enters an order at the register's members as their n-th, and what came of it.
func (e *erasure) ordered(n uint64, kind charter.ActName, content order.Content, outcome order.Outcome, signers ...uint64) {
	o := first(order.New(order.Order{
		Kind: kind, State: e.first.State.ID, Charter: 1, CharterHash: e.first.Hash(), Embassies: []string{"is", "lu"}, Proposer: "mari",
		Created: epoch, Expires: epoch.Add(24 * time.Hour), Nonce: [16]byte{byte(n)}, Reason: "The law of 3 May", Content: content,
	}))
	var sigs []byte
	for _, k := range signers {
		sigs = append(sigs, first(charter.SignIn(order.Namespace, o.Bytes(), key(k)))...)
	}
	doc := first(order.NewRecord(o.Bytes(), sigs).Bytes())
	r := order.NewResult(o.Hash(), outcome)
	if outcome != order.OutcomeDone {
		r.Why = "a hold"
	}
	result := first(r.Bytes())
	e.w.docs = append(e.w.docs, Record{ledger.OrderRecord, doc}, Record{ledger.ResultRecord, result})
	for _, h := range hosts[:2] {
		e.w.logs[h[0]].record(orderSlot(ledger.OrderRecord, n), doc)
		e.w.logs[h[0]].record(orderSlot(ledger.ResultRecord, n), result)
	}
}

// refreshed puts the charter of generation 2 in force everywhere.
func (e *erasure) refreshed() {
	w, next := e.w, e.first.Next()
	next.Custody.Generation, next.Custody.OpeningKey = 2, charter.EncodeKey(fill(92, charter.OpeningKeySize))
	w.older = []Charter{{e.first.Bytes(), w.sigs}}
	w.charter, w.sigs = first(charter.New(next)), nil
	for _, k := range []uint64{signerKey, jaanKey} {
		w.sigs = append(w.sigs, first(charter.Sign(w.charter.Bytes(), key(k)))...)
	}
	for _, h := range hosts {
		leaf := w.leaf(ledger.CharterTaken)
		leaf.Name, leaf.Size, leaf.Slot = w.charter.Hash(), uint64(len(w.charter.Bytes())), ledger.Slot{Kind: ledger.Charter, Sequence: 2}
		w.logs[h[0]].add(leaf)
	}
}

// attested enters the custodians' words at every embassy.
func (e *erasure) attested() {
	for i, k := range e.first.Custody.Custodians {
		signer, ok := e.attests[k.Name]
		if !ok {
			continue
		}
		a := custody.Attestation{
			State: e.first.State.ID, StateName: e.first.State.Name, Generation: 1, X: k.X, Custodian: k.Name,
			Commitment: hash32(uint64(90 + i)), Destroyed: time.Date(2026, 5, 12, 0, 0, 0, 0, time.UTC), How: "burned",
		}
		text := a.Marshal()
		doc := first(order.NewRecord(text, first(charter.SignIn(custody.AttestNamespace, text, key(signer)))).Bytes())
		e.w.docs = append(e.w.docs, Record{ledger.AttestationRecord, doc})
		for _, h := range hosts {
			e.w.logs[h[0]].record(ledger.Slot{Kind: ledger.AttestationRecord, Sequence: 256 + uint64(k.X)}, doc)
		}
	}
}

func (e *erasure) tell() *Pack {
	if e.late {
		e.refreshed()
	}
	e.taken(&e.register)
	if e.second != nil {
		ref := order.RecordRef{Register: estate, Hash: e.taken(e.second)}
		if e.rotates > 0 {
			e.ordered(2, charter.ActRotate, order.Content{Generation: e.rotates, Records: []order.RecordRef{ref}}, order.OutcomeDone, e.rotators...)
		}
	}
	content := order.Content{Register: estate, Label: "estates"}
	empty := first(ledger.ObjectList{}.Bytes())
	for _, name := range []string{"is", "lu"} {
		content.Lists = append(content.Lists, order.List{Embassy: name, Hash: sha256.Sum256(empty)})
	}
	if e.snapshot {
		content.Snapshots = []uint64{1}
	}
	e.ordered(1, charter.ActErase, content, e.outcome, e.erasers...)
	if !e.late {
		e.refreshed()
	}
	e.attested()
	var shown []Ledger
	for _, h := range hosts {
		shown = append(shown, e.w.logs[h[0]].show(0, e.w.logs[h[0]].cosigned()))
	}
	return e.w.pack(shown...)
}

// another is the register's next record, with its secrets sealed anew.
func (e *erasure) another() *charter.Register {
	r := e.register
	r.Sequence, r.Sealed = 2, fill(82, 100)
	return &r
}

const (
	erasedClaim    = "erased:08080800000000000000000000000000"
	destroyedClaim = "destroyed:1"
)

// A certificate of erasure holds where everything in it is there, and is unknown, never held, where any one thing that
// it rests on is missing, signed by others, or says something else.
func TestErasureNeedsAllOfItsParts(t *testing.T) {
	t.Parallel()
	dropped := func(kind ledger.RecordKind) func(*Pack) {
		return func(p *Pack) {
			var kept []Record
			for _, r := range p.Records {
				if r.Kind != kind {
					kept = append(kept, r)
				}
			}
			p.Records = kept
		}
	}
	for name, c := range map[string]struct {
		change    func(*erasure)
		cut       func(*Pack)
		erased    Outcome
		destroyed Outcome
	}{
		"all there":             {erased: Held, destroyed: Held},
		"all three attest":      {change: func(e *erasure) { e.attests["jaan"] = jaanKey }, erased: Held, destroyed: Held},
		"one attests":           {change: func(e *erasure) { delete(e.attests, "eva") }, erased: Unknown, destroyed: Unknown},
		"one signs for another": {change: func(e *erasure) { e.attests["eva"] = jaanKey }, erased: Unknown, destroyed: Unknown},
		"a reader has its key":  {change: func(e *erasure) { e.register.Grants = []charter.Grant{{Recipient: hash32(1), Sealed: fill(1, 50)}} }, erased: Unknown, destroyed: Held},
		"a reader had its key": {change: func(e *erasure) {
			e.second = e.another()
			e.second.Sealed = e.register.Sealed
			e.second.Grants = []charter.Grant{{Recipient: hash32(1), Sealed: fill(1, 50)}}
		}, erased: Unknown, destroyed: Held},
		"its members changed":           {change: func(e *erasure) { e.second = e.another(); e.second.Sealed = e.register.Sealed }, erased: Held, destroyed: Held},
		"sealed anew by nobody's order": {change: func(e *erasure) { e.second = e.another() }, erased: Unknown, destroyed: Held},
		"sealed to generation 2":        {change: func(e *erasure) { e.second, e.rotates = e.another(), 2 }, erased: Unknown, destroyed: Held},
		"sealed to generation 1 anew":   {change: func(e *erasure) { e.second, e.rotates = e.another(), 1 }, erased: Held, destroyed: Held},
		"by an order that one signed":   {change: func(e *erasure) { e.second, e.rotates, e.rotators = e.another(), 1, []uint64{signerKey} }, erased: Unknown, destroyed: Held},
		"added under generation 2":      {change: func(e *erasure) { e.late = true }, erased: Unknown, destroyed: Held},
		"one ordered it erased":         {change: func(e *erasure) { e.erasers = e.erasers[:1] }, erased: Unknown, destroyed: Held},
		"the order was refused":         {change: func(e *erasure) { e.outcome = order.OutcomeRefused }, erased: Unknown, destroyed: Held},
		"a snapshot was erased":         {change: func(e *erasure) { e.snapshot = true }, erased: Unknown, destroyed: Held},
		"without its record":            {cut: dropped(ledger.Register), erased: Unknown, destroyed: Held},
		"without the attestations":      {cut: dropped(ledger.AttestationRecord), erased: Unknown, destroyed: Unknown},
		"without the order":             {cut: dropped(ledger.OrderRecord), erased: Unknown, destroyed: Held},
		"without the result":            {cut: dropped(ledger.ResultRecord), erased: Unknown, destroyed: Held},
		"without the ledger of a member": {
			cut: func(p *Pack) { p.Ledgers = append(p.Ledgers[:1], p.Ledgers[2:]...) }, erased: Unknown, destroyed: Held,
		},
		"without another's ledger": {cut: func(p *Pack) { p.Ledgers = p.Ledgers[:3] }, erased: Unknown, destroyed: Held},
		"with a leaf withheld": {
			cut: func(p *Pack) {
				p.Withhold(func(l string, i uint64, leaf *ledger.Leaf) bool {
					return l == "pt" && leaf.Slot.Kind == ledger.Charter && i > 0
				})
			}, erased: Unknown, destroyed: Held,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := erasureWorld(t)
			if c.change != nil {
				c.change(e)
			}
			p := e.tell()
			if c.cut != nil {
				c.cut(p)
			}
			expect(t, e.w.judge(p, erasedClaim), c.erased)
			expect(t, e.w.judge(p, destroyedClaim), c.destroyed)
		})
	}
}

// A generation that is in force, or was never, is not destroyed whoever attests; and what suggests these claims puts them.
func TestDestroyedIsOfPastGenerations(t *testing.T) {
	t.Parallel()
	e := erasureWorld(t)
	p := e.tell()
	for _, claim := range []string{"destroyed:2", "destroyed:3"} {
		expect(t, e.w.judge(p, claim), Unknown)
	}
	got := map[string]Outcome{}
	for _, f := range e.w.judge(p).Findings {
		got[f.Claim] = f.Outcome
	}
	if got[erasedClaim] != Held || got[destroyedClaim] != Held {
		t.Errorf("by themselves: %v", got)
	}
	e = erasureWorld(t)
	e.attested()
	expect(t, e.w.judge(e.w.pack(e.w.logs["lu"].show(0, e.w.logs["lu"].cosigned())), destroyedClaim), Unknown)
}
