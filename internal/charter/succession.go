package charter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// ErrSuccession is returned where a charter does not follow another.
var ErrSuccession = errors.New("not a successor")

// CheckSuccession checks that next may take the place of old: the same state,
// the number one higher, Previous naming the exact bytes of old, the version
// not lower, custody never going back, nothing taken away where one signature is a quorum, and signed by
// the quorum of old and by its own. Several steps
// are checked one at a time. The error is [ErrSuccession], [ErrQuorum] or
// [ErrSignature] and says which charter's quorum is missing.
func CheckSuccession(old, next *Charter, nextSigs []byte) error {
	switch {
	case old.doc == nil || next.doc == nil:
		return fmt.Errorf("charter: %w: a charter without its document", ErrSuccession)
	case old.State.ID != next.State.ID:
		return fmt.Errorf("charter: %w: of state %s, not %s", ErrSuccession, next.State.ID, old.State.ID)
	case old.State.HouseOf != next.State.HouseOf:
		return fmt.Errorf("charter: %w: house of %q, not %q", ErrSuccession, next.State.HouseOf, old.State.HouseOf)
	case old.State.Code != next.State.Code:
		return fmt.Errorf("charter: %w: state code %s, not %s", ErrSuccession, next.State.Code, old.State.Code)
	case next.Number != old.Number+1:
		return fmt.Errorf("charter: %w: number %d after %d", ErrSuccession, next.Number, old.Number)
	case next.Version < old.Version:
		return fmt.Errorf("charter: %w: version %d after %d", ErrSuccession, next.Version, old.Version)
	case next.Previous != EncodeDigest(old.Hash()):
		return fmt.Errorf("charter: %w: it follows another charter %d than this one", ErrSuccession, old.Number)
	}
	if err := checkCustodySuccession(&old.Custody, &next.Custody); err != nil {
		return err
	}
	if act, _ := old.Act(ActCharter); act.Need < 2 {
		if err := checkOnlyAdds(old, next); err != nil {
			return err
		}
	}
	if _, err := old.Quorum(ActCharter, Namespace, next.doc, nextSigs, time.Time{}); err != nil {
		if !errors.Is(err, ErrQuorum) || !BySuccession(old, next, nextSigs) {
			return fmt.Errorf("charter %d: quorum of charter %d: %w", next.Number, old.Number, err)
		}
	}
	if err := next.Verify(nextSigs); err != nil {
		return fmt.Errorf("charter %d: its own quorum: %w", next.Number, err)
	}
	return nil
}

// BySuccession reports whether next is signed by those whom old names to give
// the next charter when the usual quorum cannot. An embassy takes such a charter
// by an order alone, after the time that old asks for, unless someone stopped it;
// whoever follows charters later has the embassies' ledgers to ask whether it waited.
func BySuccession(old, next *Charter, nextSigs []byte) bool {
	s := old.Succession
	if s.Role == "" || s.Need < 2 {
		return false
	}
	votes, err := Tally(next.doc, nextSigs, Namespace, old.Voters(s.Role, time.Time{}), false)
	return err == nil && len(votes) >= s.Need
}

// checkOnlyAdds is what a single hand may do: where one signature is a quorum, the next charter may name more agents,
// embassies, witnesses and auditors, give embassies and witnesses new addresses, and embassies that have none an ML-DSA-44
// key, order that an embassy begin its next ledger, ask for more cosignatures and for fresher ones, and take nothing away.
// Otherwise whoever stole that one key could put other custodians in the place of the true ones and lock these out of what
// embassies hold, or let a lying embassy go unseen.
func checkOnlyAdds(old, next *Charter) error {
	what := witnessingTaken(old, next)
	switch {
	case !reflect.DeepEqual(next.rules(), old.rules()):
		what = "the signers"
	case next.Version >= 3 && !sameHands(old, next):
		what = "houses or succession"
	case next.Custody.Generation != old.Custody.Generation || !slices.Equal(next.Custody.Custodians, old.Custody.Custodians):
		what = "custody"
	}
	for _, a := range old.Agents {
		if !slices.Contains(next.Agents, a) {
			what = "agent " + a.Name
		}
	}
	for _, e := range old.Embassies {
		kept, ok := next.EmbassyByID(e.ID)
		kept.URLs = e.URLs
		if e.MLDSAKey == "" { // with one more signature is asked for
			kept.MLDSAKey = ""
		}
		if kept.Origin == ledger.NextOrigin(e.Origin) { // what it holds it enters there again
			kept.Origin = e.Origin
		}
		if !ok || !reflect.DeepEqual(kept, e) {
			what = "embassy " + e.Name
		}
	}
	if what != "" {
		return fmt.Errorf("charter: %w: one signature is enough for charter %d, so the next may only add, and it changes %s", ErrSuccession, old.Number, what)
	}
	return nil
}

// sameHands reports whether next keeps the houses and the succession of old.
func sameHands(old, next *Charter) bool {
	was := old.Upgraded()
	for _, h := range was.Houses {
		if !slices.Contains(next.Houses, h) {
			return false
		}
	}
	return next.Succession == was.Succession
}

// checkCustodySuccession lets a generation of custody be replaced by a higher
// one and otherwise lets only the custodians' own age keys change.
func checkCustodySuccession(old, next *Custody) error {
	if next.Generation < old.Generation {
		return fmt.Errorf("charter: %w: custody goes back from generation %d to %d", ErrSuccession, old.Generation, next.Generation)
	}
	if next.Generation > old.Generation {
		return nil
	}
	same := next.Threshold == old.Threshold && next.OpeningKey == old.OpeningKey &&
		next.RecoveryKey == old.RecoveryKey && len(next.Custodians) == len(old.Custodians)
	for i := 0; same && i < len(old.Custodians); i++ {
		a, b := old.Custodians[i], next.Custodians[i]
		same = a.Name == b.Name && a.X == b.X && a.Commitment == b.Commitment
	}
	if !same {
		return fmt.Errorf("charter: %w: custody changes within generation %d", ErrSuccession, old.Generation)
	}
	return nil
}
