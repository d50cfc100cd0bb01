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

// Ordering is one order in the file, for people.
type Ordering struct {
	Order    string          `json:"order"` // SHA-256 of its text
	Kind     string          `json:"kind"`
	Says     string          `json:"says"`
	Reason   string          `json:"reason"`
	Proposer string          `json:"proposer"`
	Charter  uint64          `json:"charter"`
	Signed   []Approver      `json:"signed"` // those who count, under that charter
	Need     int             `json:"need"`   // 0: that charter is not known, or lets nobody
	Expires  time.Time       `json:"expires"`
	At       []OrderingPlace `json:"embassies"`
}

// Approver is a person whose signature counts.
type Approver struct {
	Name    string `json:"name"`
	Office  string `json:"office,omitempty"`
	Key     string `json:"key"`
	Touched bool   `json:"touched"` // a hardware key that was touched
}

// OrderingPlace is what one embassy's ledger shows of an order.
type OrderingPlace struct {
	Embassy string `json:"embassy"`
	Number  uint64 `json:"number"` // of the embassy's orders
	Leaf    uint64 `json:"leaf"`
	Vetoed  string `json:"vetoed,omitempty"` // by whom, and why
	Removed uint64 `json:"removed"`          // objects
	Bytes   uint64 `json:"bytes"`
	Result  string `json:"result,omitempty"` // in words
}

// orderings tells each order once.
func (j *judge) orderings() (list []Ordering) {
	for i, o := range j.ordersOf() {
		if i > 0 && list[len(list)-1].Order == charter.EncodeDigest(o.Hash()) {
			continue
		}
		o, _ = j.orderOf(o.Hash())
		x := Ordering{
			Order: charter.EncodeDigest(o.Hash()), Kind: string(o.Kind), Says: o.Say(), Reason: o.Reason, Proposer: o.Proposer,
			Charter: o.Charter, Expires: o.Expires, Signed: []Approver{}, At: []OrderingPlace{},
		}
		if c := j.t.at(o.Charter); c != nil && c.Hash() == o.CharterHash {
			a, _ := order.Recheck(c, o.Order, o.sigs, whenever, nil) // what is wrong with it the findings say
			x.Need = a.Rule.Need
			for _, v := range a.Votes {
				p, _ := c.PersonByName(v.Name)
				x.Signed = append(x.Signed, Approver{v.Name, p.Office, v.Key, v.Touched})
			}
		}
		for _, h := range j.histories {
			for _, n := range j.sequences(h, o.Hash()) {
				x.At = append(x.At, j.orderingAt(h, n))
			}
		}
		list = append(list, x)
	}
	return list
}

func (j *judge) orderingAt(h *history, n uint64) OrderingPlace {
	p := OrderingPlace{Embassy: h.name, Number: n, Leaf: h.slots[orderSlot(ledger.OrderRecord, n)].index}
	for _, x := range h.removals {
		if x.leaf.Kind == ledger.ObjectRemoved && x.leaf.Slot.Sequence == n {
			p.Removed, p.Bytes = p.Removed+1, p.Bytes+x.leaf.Size
		}
	}
	if at, ok := h.slots[orderSlot(ledger.VetoRecord, n)]; ok {
		p.Vetoed = "by whom is not in the file"
		if v, ok := j.docs.vetoes[at.name]; ok {
			p.Vetoed = v.Name + ": " + v.Reason
		}
	}
	if at, ok := h.slots[orderSlot(ledger.ResultRecord, n)]; ok {
		p.Result = "not in the file"
		if r, ok := j.docs.results[at.name]; ok {
			p.Result = resultText(r)
		}
	}
	return p
}

func resultText(r *order.Result) string {
	text := r.Outcome.String()
	if r.Objects > 0 {
		text += fmt.Sprintf(", %s of %d bytes removed", plural(int(r.Objects), "object"), r.Freed)
	}
	if r.Why != "" {
		text += ": " + r.Why
	}
	return text
}

// orderDefaults are the claims that the orders and removals in the file suggest.
func (j *judge) orderDefaults() (claims []Claim) {
	for _, h := range j.histories {
		logged := slices.ContainsFunc(j.ordersOf(), func(o orderDoc) bool { return len(j.sequences(h, o.Hash())) > 0 })
		if logged || len(h.removals) > 0 {
			claims = append(claims, Claim{Kind: Removals, Party: h.name})
		}
	}
	var last [32]byte
	for _, o := range j.ordersOf() {
		hash := o.Hash()
		if hash == last || len(claims) > maxDefaults {
			continue
		}
		last = hash
		claims = append(claims, Claim{Kind: Ordered, Object: hash})
		for _, h := range j.histories {
			list := j.sequences(h, hash)
			if len(list) == 0 {
				continue
			}
			claims = append(claims, Claim{Kind: Executed, Object: hash, Party: h.name})
			if slices.ContainsFunc(h.removals, func(x removal) bool {
				return slices.Contains(list, x.leaf.Slot.Sequence) && x.leaf.Kind == ledger.ObjectRemoved
			}) {
				claims = append(claims, Claim{Kind: Waited, Object: hash, Party: h.name})
				// Mostly nobody had objects cosigned at every moment; that is no reason to call a file undecided.
				if kept := (Claim{Kind: Kept, Object: hash, Party: h.name}); j.judge(kept).Outcome != Unknown {
					claims = append(claims, kept)
				}
			}
		}
	}
	return claims
}

// orderRecord says what a leaf about orders or agreements names; note is empty where the document is not in the file.
func (j *judge) orderRecord(leaf *ledger.Leaf) (what, note string) {
	n := leaf.Slot.Sequence
	switch leaf.Slot.Kind {
	case ledger.OrderRecord:
		what = fmt.Sprintf("order %d of the embassy logged", n)
		if o, ok := j.docs.orders[leaf.Name]; ok {
			r := j.signedOrder(o)
			note = fmt.Sprintf("%s, proposed by %s: %s. %s", o.Kind, o.Proposer, o.Say(), strings.Join(append(r.because, r.open...), "; "))
		}
	case ledger.VetoRecord:
		what = fmt.Sprintf("order %d stopped by a veto", n)
		if v, ok := j.docs.vetoes[leaf.Name]; ok {
			note = v.Name + ": " + v.Reason
		}
	case ledger.ResultRecord:
		what = fmt.Sprintf("what came of order %d", n)
		if r, ok := j.docs.results[leaf.Name]; ok {
			note = resultText(r)
		}
	case ledger.AgreementRecord:
		what = fmt.Sprintf("agreement %d taken", n)
	case ledger.AttestationRecord:
		what = fmt.Sprintf("custodian's word that share %d of generation %d is destroyed", n%256, n/256)
		for _, a := range j.docs.attestations {
			if a.hash == leaf.Name {
				note = fmt.Sprintf("signed by %s: destroyed on %s: %s", a.Custodian, a.Destroyed.Format(time.DateOnly), a.How)
			}
		}
	}
	return what, note
}
