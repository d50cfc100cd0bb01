package sim

import (
	"crypto/sha256"
	"fmt"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

func (w *thiefWorld) any() *vault { return w.vaults[w.rng.IntN(len(w.vaults))] }

// released: two people sign an order that lets one embassy go of objects. x is nil where there is nothing to let go.
func (w *thiefWorld) released(people ...string) (x *intent, sigs []byte, v *vault, err error) {
	names := w.some(1)
	if len(names) == 0 {
		return nil, nil, nil, nil
	}
	v = w.any()
	if x, err = w.draft(charter.ActRelease, names, v.name); err != nil {
		return nil, nil, nil, err
	}
	sigs, err = w.sign(x, people...)
	return x, sigs, v, err
}

// honest: two people let one embassy go of objects; eva may be one of them.
func (w *thiefWorld) honest() error {
	x, sigs, v, err := w.released("eva", "jaan")
	if x == nil || err != nil {
		return err
	}
	w.tally.Orders++
	x.given = true
	return w.submit(x.order.Bytes(), sigs, x.list, v)
}

// keptBack: an order that people signed and then did not want any more. Eva keeps it until it has expired.
func (w *thiefWorld) keptBack() error {
	x, sigs, v, err := w.released("eva", "mari")
	if x == nil || err != nil {
		return err
	}
	x.withdrawn = true
	w.now = w.now.Add(thiefValid + 2*order.Skew)
	w.tally.Late++
	return w.submit(x.order.Bytes(), sigs, x.list, v)
}

// forge: the thief and eva alone, with whatever keys there are at home.
func (w *thiefWorld) forge() error {
	v := w.any()
	x, err := w.draft(charter.ActRelease, w.some(2), v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva")
	for _, k := range []string{"agent", "thief"} {
		sig, serr := charter.SignIn(order.Namespace, x.order.Bytes(), keyOf(k))
		if serr != nil {
			return serr
		}
		sigs = append(sigs, sig...)
	}
	if err != nil {
		return err
	}
	x.names = nil // nobody honest means them
	w.tally.Forged++
	return w.submit(x.order.Bytes(), sigs, x.list, v)
}

// twice: eva signs with both of her keys.
func (w *thiefWorld) twice() error {
	v := w.any()
	x, err := w.draft(charter.ActRelease, w.some(1), v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva")
	if err != nil {
		return err
	}
	more, err := charter.SignIn(order.Namespace, x.order.Bytes(), keyOf("eva-second"))
	if err != nil {
		return err
	}
	x.names = nil
	w.tally.Twice++
	return w.submit(x.order.Bytes(), append(sigs, more...), x.list, v)
}

// replay hands in again, anywhere, some of what was handed in lately.
func (w *thiefWorld) replay() error {
	if len(w.handed) == 0 {
		return nil
	}
	w.tally.Replays++
	for range 3 {
		h := w.handed[len(w.handed)-1-w.rng.IntN(min(len(w.handed), 10))]
		for _, v := range w.vaults {
			if err := v.take(h[0], h[1]); err != nil {
				w.tally.Refused++
			}
		}
	}
	return nil
}

// aim takes the signatures of an honest order to an order about another embassy, and the order itself there.
func (w *thiefWorld) aim() error {
	names := w.some(1)
	if len(names) == 0 {
		return nil
	}
	x, err := w.draft(charter.ActRelease, names, w.vaults[0].name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva", "jaan")
	if err != nil {
		return err
	}
	x.given = true
	w.tally.Aimed++
	other := x.order.Bytes()
	for i := range len(other) - len(w.vaults[0].name) {
		if string(other[i:i+len(w.vaults[0].name)]) == w.vaults[0].name {
			copy(other[i:], w.vaults[1].name) // the names are of one length
		}
	}
	if err := w.submit(other, sigs, x.list, w.vaults[1]); err != nil {
		return err
	}
	return w.submit(x.order.Bytes(), sigs, x.list, w.vaults...)
}

// relist brings an honest order with another list than it binds.
func (w *thiefWorld) relist() error {
	names := w.some(3)
	if len(names) < 3 {
		return nil
	}
	v := w.any()
	bad, err := w.draft(charter.ActRelease, names[1:], v.name)
	if err != nil {
		return err
	}
	x, err := w.draft(charter.ActRelease, names[:1], v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva", "jaan")
	if err != nil {
		return err
	}
	x.given = true
	if err := w.submit(x.order.Bytes(), sigs, bad.list, v); err != nil {
		return err
	}
	return w.submit(x.order.Bytes(), sigs, x.list, v)
}

// deceive: jaan is tricked into signing; the elder sees it in the ledger.
func (w *thiefWorld) deceive() error {
	v := w.any()
	x, err := w.draft(charter.ActRelease, w.some(2), v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva", "jaan")
	if err != nil {
		return err
	}
	x.deceived, x.names = true, nil
	w.tally.Deceived++
	return w.submit(x.order.Bytes(), sigs, x.list, v)
}

// evasVeto: she stops whatever waits, and may not.
func (w *thiefWorld) evasVeto() error {
	for _, v := range w.vaults {
		for _, k := range v.orders {
			if !k.over {
				v.veto(k, "eva", "eva-ssh")
			}
		}
	}
	return nil
}

// suspend: eva alone would have mari's signature count for nothing.
func (w *thiefWorld) suspend() error {
	v := w.any()
	x, err := w.draft(charter.ActSuspend, nil, v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva")
	if err != nil {
		return err
	}
	return w.submit(x.order.Bytes(), sigs, nil, v)
}

// restock: the agent stores again what an order let go; it is wanted again.
func (w *thiefWorld) restock() error {
	for _, v := range w.vaults {
		for i := range 24 {
			name := sha256.Sum256(fmt.Append(nil, "object", i))
			if !v.held[name] && w.rng.IntN(3) > 0 {
				v.held[name] = true
				v.log = append(v.log, happened{what: "stored", at: w.now, name: name})
				w.tally.Restored++
			}
		}
	}
	return nil
}

// hold: two people forbid all removal at an embassy for a while; the same two lift it by ordering it again.
func (w *thiefWorld) hold() error {
	kind := charter.ActHold
	v := w.any()
	if v.holds["court"] {
		kind = charter.ActLift
	}
	x, err := w.draft(kind, nil, v.name)
	if err != nil {
		return err
	}
	sigs, err := w.sign(x, "eva", "mari")
	if err != nil {
		return err
	}
	w.tally.Held++
	return w.submit(x.order.Bytes(), sigs, nil, v)
}

// clocks: somebody turns the clock of an embassy forward, or puts it right.
func (w *thiefWorld) clocks() error {
	v := w.any()
	if v.ahead > 0 {
		v.ahead = 0
	} else {
		v.ahead = 5 * cooling
	}
	return nil
}

// flood: orders of nobody, which leave no trace.
func (w *thiefWorld) flood() error {
	v := w.any()
	before := len(v.log)
	x, err := w.draft(charter.ActRelease, w.some(1), v.name)
	if err != nil {
		return err
	}
	for range 5 {
		if err := w.submit(x.order.Bytes(), nil, x.list, v); err != nil {
			return err
		}
	}
	if len(v.log) != before && !w.off.noQuorum {
		return fmt.Errorf("%s: orders of nobody are in the ledger", byQuorum)
	}
	return nil
}
