package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net/http"
	"path/filepath"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// knows tells whether the charter in force names a key, and nothing is against
// it: an agent that is suspended, or whose last day has passed by witnessed time,
// is a stranger.
func (st *state) knows(key ed25519.PublicKey) bool {
	roster := st.inForce().roster
	if !roster.MayInspect(key) {
		return false
	}
	agent, is := roster.Agent(key)
	if !is {
		return true
	}
	now, _ := st.clock.now()
	return !agent.Until.Over(now) && !st.orders.effects.Load().suspended[order.Who{Agent: true, Name: agent.Name}]
}

// takeCharter puts the successor of the charter in force, in force, and returns
// the number in force then. The charter in force again is no error. One that has
// to wait comes by an order only.
func (st *state) takeCharter(doc, sig []byte, actor ed25519.PublicKey) (uint64, error) {
	st.changing.Lock()
	defer st.changing.Unlock()
	old := st.inForce().charter
	if len(doc) > maxCharter || len(sig) > maxCharter {
		return 0, invalid("charter", "too large")
	}
	next, err := charter.Parse(doc)
	if err != nil {
		return 0, invalid("charter", err.Error())
	}
	if next.Hash() == old.Hash() {
		return old.Number, nil
	}
	if err := st.follows(next, sig); err != nil {
		return 0, charterRefused(err.Error())
	}
	if act, _ := old.Act(charter.ActCharter); act.Cooling.Duration() > 0 || !st.byQuorum(next, sig) {
		return 0, charterRefused("this charter has to wait, so it comes by an order of kind charter")
	}
	return next.Number, st.adopt(next, sig, actor)
}

func charterRefused(why string) *refusal {
	r := refused(why)
	r.What = "charter"
	return r
}

// follows checks that a charter may follow the one in force: also that those who
// signed are neither suspended nor out of office by witnessed time.
func (st *state) follows(next *charter.Charter, sig []byte) error {
	old := st.inForce().charter
	if err := charter.CheckSuccession(old, next, sig); err != nil {
		return err
	}
	if st.byQuorum(next, sig) {
		return nil
	}
	now, _ := st.clock.now()
	s := old.Succession
	heirs := old.Voters(s.Role, now, st.orders.effects.Load().barred()...)
	votes, err := charter.Tally(next.Bytes(), sig, charter.Namespace, heirs, false)
	if err == nil && (s.Role == "" || s.Need < 2 || len(votes) < s.Need) {
		err = errors.New("too few of those who signed count now")
	}
	return err
}

// byQuorum tells whether the usual quorum, as it stands now, signed a charter.
func (st *state) byQuorum(next *charter.Charter, sig []byte) bool {
	now, _ := st.clock.now()
	barred := st.orders.effects.Load().barred()
	_, err := st.inForce().charter.Quorum(charter.ActCharter, charter.Namespace, next.Bytes(), sig, now, barred...)
	return err == nil
}

// adoptOrdered puts the charter of an order in force whose time has come.
func (st *state) adoptOrdered(next *charter.Charter, sig []byte, actor ed25519.PublicKey) error {
	st.changing.Lock()
	defer st.changing.Unlock()
	if next.Hash() == st.inForce().charter.Hash() {
		return nil // a crash ago
	}
	if err := st.follows(next, sig); err != nil {
		return against("%w", err)
	}
	return st.adopt(next, sig, actor)
}

// adopt puts a charter in force that has been checked. It is called with changing held.
func (st *state) adopt(next *charter.Charter, sig []byte, actor ed25519.PublicKey) error {
	// Logged before it takes effect: a crash after this leaves a leaf for a
	// charter that is not in force, and handing it over again adds another.
	if err := st.logCharter(next, actor); err != nil {
		return err
	}
	if err := writeCharter(filepath.Join(st.dir, "charter"), next, sig); err != nil {
		return err
	}
	st.mu.Lock()
	st.force = charterInForce{charter: next, roster: next.Roster(), sig: sig}
	st.mu.Unlock()
	st.notary.adopt(next)
	st.vigil.adopt(next)
	st.orders.rouse()
	return nil
}

// mayRegister holds a register's record that an agent brings against the newest
// one: its key, its epoch, its sealed secrets and its readers change only as an
// order allows that names the record. It is called with the register's lock held.
func (st *state) mayRegister(ctx context.Context, slot ledger.Slot, data []byte) error {
	if st.inForce().charter.Version < 3 {
		return nil // it knows no orders
	}
	given, ordered := st.orders.effects.Load().allowed[sha256.Sum256(data)]
	ordered = ordered && given.register == charter.RegisterID(slot.Register)
	if ordered && given.reader == [32]byte{} {
		return nil
	}
	newest, err := st.newestRecord(ctx, slot)
	if err != nil || newest == nil {
		return err // of a register that is new here, the first record is as it is
	}
	if slot.Sequence <= newest.Slot.Sequence {
		return &refusal{status: http.StatusConflict, Code: codeConflict, What: "record", Why: "the register has a newer one"}
	}
	next, err := charter.ParseRegister(data)
	if err != nil {
		return invalid("record", "not a register's")
	}
	bytesNow, err := readFile(st.recordPath(newest.Slot), maxRecord)
	if err != nil {
		return err
	}
	old, err := charter.ParseRegister(bytesNow)
	why := "keys and readers of a register change by an order only: grant or rotate"
	if ordered {
		// Those who signed saw whom the order names, and of the record its hash alone.
		next.Grants = slices.DeleteFunc(next.Grants, func(g charter.Grant) bool { return g.Recipient == given.reader })
		why = "the record changes more than that the order's reader is granted the register"
	}
	if err != nil || !sameKeys(old, next) {
		r := refused(why)
		r.What = "register"
		return r
	}
	return nil
}

func sameKeys(a, b *charter.Register) bool {
	return a.Epoch == b.Epoch && bytes.Equal(a.PublicKey, b.PublicKey) && bytes.Equal(a.Sealed, b.Sealed) &&
		slices.EqualFunc(a.Grants, b.Grants, func(x, y charter.Grant) bool {
			return x.Recipient == y.Recipient && bytes.Equal(x.Sealed, y.Sealed)
		})
}

// newestRecord is the one of the highest sequence of a register; nil where there is none.
func (st *state) newestRecord(ctx context.Context, slot ledger.Slot) (newest *ledger.RecordInfo, err error) {
	if err := st.catchUp(ctx); err != nil {
		return nil, err
	}
	for after := uint64(0); ; {
		page, err := st.catalog.listRecords(slot.Kind, slot.Register, after, maxSlotPage)
		if err != nil {
			return nil, err
		}
		if n := len(page); n > 0 {
			newest, after = &page[n-1], page[n-1].Slot.Sequence
		}
		if len(page) < maxSlotPage {
			return newest, nil
		}
	}
}
