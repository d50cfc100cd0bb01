package charter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// ErrSuccession is returned where a charter does not follow another.
var ErrSuccession = errors.New("not a successor")

// CheckSuccession checks that next may take the place of old: the same state,
// the number one higher, Previous naming the exact bytes of old, custody never
// going back, nothing taken away where one signature is a quorum, and signed by
// the quorum of old and by its own. Several steps
// are checked one at a time. The error is [ErrSuccession], [ErrQuorum] or
// [ErrSignature] and says which charter's quorum is missing.
func CheckSuccession(old, next *Charter, nextSigs []byte) error {
	switch {
	case old.doc == nil || next.doc == nil:
		return fmt.Errorf("charter: %w: a charter without its document", ErrSuccession)
	case old.State.ID != next.State.ID:
		return fmt.Errorf("charter: %w: of state %s, not %s", ErrSuccession, next.State.ID, old.State.ID)
	case old.State.Code != next.State.Code:
		return fmt.Errorf("charter: %w: state code %s, not %s", ErrSuccession, next.State.Code, old.State.Code)
	case next.Number != old.Number+1:
		return fmt.Errorf("charter: %w: number %d after %d", ErrSuccession, next.Number, old.Number)
	case next.Previous != EncodeDigest(old.Hash()):
		return fmt.Errorf("charter: %w: it follows another charter %d than this one", ErrSuccession, old.Number)
	}
	if err := checkCustodySuccession(&old.Custody, &next.Custody); err != nil {
		return err
	}
	if old.Threshold < 2 {
		if err := checkOnlyAdds(old, next); err != nil {
			return err
		}
	}
	if err := VerifySignatures(next.doc, nextSigs, old.Signers, old.Threshold); err != nil {
		return fmt.Errorf("charter %d: quorum of charter %d: %w", next.Number, old.Number, err)
	}
	if err := VerifySignatures(next.doc, nextSigs, next.Signers, next.Threshold); err != nil {
		return fmt.Errorf("charter %d: its own quorum: %w", next.Number, err)
	}
	return nil
}

// checkOnlyAdds is what a single hand may do: where one signature is a quorum, the next charter may name more agents
// and embassies and give embassies new addresses, and take nothing away. Otherwise whoever stole that one key could
// put other custodians in the place of the true ones and lock these out of what embassies hold.
func checkOnlyAdds(old, next *Charter) error {
	what := ""
	switch {
	case next.Threshold != old.Threshold || !slices.Equal(next.Signers, old.Signers):
		what = "the signers"
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
		if kept.URLs = e.URLs; !ok || !reflect.DeepEqual(kept, e) {
			what = "embassy " + e.Name
		}
	}
	if what != "" {
		return fmt.Errorf("charter: %w: one signature is enough for charter %d, so the next may only add, and it changes %s", ErrSuccession, old.Number, what)
	}
	return nil
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
