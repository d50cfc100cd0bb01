package sim

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// vault is an embassy as far as orders go: package order decides, it keeps the book.
type vault struct {
	name   string
	w      *thiefWorld
	held   map[[32]byte]bool
	book   order.Book
	holds  map[string]bool
	barred []string
	orders []*keptOrder
	log    []happened
	ahead  time.Duration // of its own clock
	seen   time.Time     // newest witnessed time
	proven int           // entries of the log that verify has looked at
}

type keptOrder struct {
	order         *order.Order
	sigs          []byte
	names         ledger.ObjectList
	rule          charter.Act
	seen          time.Time
	stopped, over bool
}

func (v *vault) clock() time.Time { return v.w.now.Add(v.ahead) }

var errNotTaken = errors.New("not taken")

// take is what an embassy does with an order that is handed in.
func (v *vault) take(record, list []byte) error {
	r, err := order.ParseRecord(record)
	if err != nil {
		return err
	}
	o, err := order.Parse(r.Document)
	if err != nil {
		return err
	}
	off, at := v.w.off, v.clock()
	if off.noExpiry {
		at = o.Created
	}
	a, err := order.Check(v.w.charter, o, r.Signatures, at, v.barred)
	if errors.Is(err, charter.ErrQuorum) && (off.noQuorum || off.countSignatures && bytes.Count(r.Signatures, []byte("BEGIN SSH")) == a.Rule.Need) {
		err = nil
	}
	if err != nil {
		return err
	}
	if !o.For(v.name) && !off.noAim {
		return fmt.Errorf("%w: for another embassy", errNotTaken)
	}
	k := &keptOrder{order: o, sigs: r.Signatures, rule: a.Rule}
	if len(o.Content.Lists) > 0 {
		bound := o.Content.Lists[0]
		if own, ok := o.Content.ListFor(v.name); ok {
			bound = own
		}
		if err := bound.Check(list); err != nil && !off.noList {
			return err
		}
		if k.names, err = ledger.ParseObjectList(list); err != nil {
			return err
		}
	}
	if !off.noBook {
		again, err := v.book.Take(o)
		if err != nil || again {
			return fmt.Errorf("%w: again: %w", errNotTaken, err)
		}
	}
	v.orders = append(v.orders, k)
	v.log = append(v.log, happened{what: "order", at: v.w.now, hash: o.Hash()})
	return nil
}

// veto is handed in by anybody.
func (v *vault) veto(k *keptOrder, name, key string) {
	x := order.Veto{Order: k.order.Hash(), Name: name, Reason: "No", Time: v.w.now}
	doc, err := x.Marshal()
	if err != nil {
		return
	}
	sig, err := charter.SignIn(order.VetoNamespace, doc, keyOf(key))
	if err != nil || k.over {
		return
	}
	read, err := order.ParseVeto(doc)
	if err == nil {
		_, err = order.CheckVeto(v.w.charter, k.rule, k.order, read, sig, v.clock(), v.barred)
	}
	if err != nil && !v.w.off.anyVeto {
		v.w.tally.Refused++
		return
	}
	v.w.tally.Vetoes++
	k.stopped = true
	v.log = append(v.log, happened{what: "veto", at: v.w.now, hash: k.order.Hash(), by: name})
}

// witnessed: enough witnesses saw the ledger as it is.
func (v *vault) witnessed() {
	v.seen = v.w.now
	for _, k := range v.orders {
		if k.seen.IsZero() {
			k.seen = v.seen
			v.log = append(v.log, happened{what: "seen", at: v.w.now, hash: k.order.Hash()})
		}
	}
}

// act carries out what is due.
func (v *vault) act() {
	off := v.w.off
	for _, k := range v.orders {
		if k.over {
			continue
		}
		f := order.Facts{Logged: true, Witnessed: k.seen, Vetoed: k.stopped && !off.noVeto, Cooling: k.rule.Cooling.Duration()}
		now := v.seen
		if off.ownClock {
			now = v.clock()
			f.Witnessed = v.w.now
			if !k.seen.IsZero() {
				f.Witnessed = k.seen
			}
		}
		if off.noCooling {
			f.Cooling = 0
		}
		if off.noExpiry && f.Witnessed.After(k.order.Expires) {
			f.Witnessed = k.order.Expires
		}
		switch s := order.Judge(k.order, f, now); {
		case s.Status.Over():
			k.over = true
		case s.Status == order.Effective:
			v.execute(k)
		}
	}
}

func (v *vault) execute(k *keptOrder) {
	off := v.w.off
	k.over = true
	if _, err := order.Recheck(v.w.charter, k.order, k.sigs, v.seen, v.barred); err != nil && !off.noQuorum && !off.countSignatures {
		return
	}
	switch k.order.Kind {
	case charter.ActHold:
		v.holds[k.order.Content.Hold] = true
		v.log = append(v.log, happened{what: "hold", at: v.w.now})
	case charter.ActLift:
		v.holds[k.order.Content.Hold] = false
		v.log = append(v.log, happened{what: "lift", at: v.w.now})
	case charter.ActSuspend:
		v.barred = append(v.barred, k.order.Content.Who.Name)
		v.log = append(v.log, happened{what: "suspend", at: v.w.now, hash: k.order.Hash()})
	case charter.ActRelease:
		if slices.Contains([]bool{v.holds["court"]}, true) && !off.noHold {
			return
		}
		for _, name := range k.names {
			if v.held[name] {
				delete(v.held, name)
				v.w.tally.Removed++
				v.log = append(v.log, happened{what: "removal", at: v.w.now, hash: k.order.Hash(), name: name})
			}
		}
	}
}
