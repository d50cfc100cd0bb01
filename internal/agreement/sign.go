package agreement

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/charter"
)

// Namespace is the SSH signature namespace of agreements.
const Namespace = "agreement@chancery"

var (
	// ErrUnsigned is returned where a side has not signed as its rules demand.
	ErrUnsigned = errors.New("not signed by both sides")
	// ErrAmendment is returned where an agreement does not follow another.
	ErrAmendment = errors.New("not an amendment")
	// ErrParty is returned for an agreement of another state than the charter's, and for a key that stands on both sides.
	ErrParty = errors.New("not between two parties")
)

// Side is one side that must sign, and how far it is.
type Side struct {
	// Name is "state", "host", or "host before": the signatories of the agreement that is amended.
	Name string
	Need int
	// Signed are those who did, in the order of their signatures; Open are the others who may.
	Signed, Open []string
}

// Complete reports whether enough people of the side have signed.
func (s Side) Complete() bool { return s.Need > 0 && len(s.Signed) >= s.Need }

// Sign returns an armored SSH signature over the exact bytes of doc, as `ssh-keygen -Y sign -n agreement@chancery`
// makes it. Signatures of several people are put one after the other in one file.
func Sign(doc []byte, key ed25519.PrivateKey) ([]byte, error) {
	sig, err := charter.SignIn(Namespace, doc, key)
	if err != nil {
		return nil, fmt.Errorf("agreement: %w", err)
	}
	return sig, nil
}

// Sides says who signed a and who has yet to. before is the agreement that a amends, and nil where there is none. c is
// the state's charter and at the time of judging, by which the terms of its people count. With a nil charter the
// state's side is left out. It fails with charter.ErrSignature for a signature that is damaged or of other bytes, and
// with [ErrParty]. A charter by which nobody may make agreements needs 0 and is never complete.
func (a *Agreement) Sides(before *Agreement, sigs []byte, c *charter.Charter, at time.Time) ([]Side, error) {
	var sides []Side
	add := func(name string, need int, voters []charter.Voter, touch bool) error {
		votes, err := charter.Tally(a.doc, sigs, Namespace, voters, touch)
		if err != nil {
			return fmt.Errorf("agreement %d: %w", a.Number, err)
		}
		side := Side{Name: name, Need: need}
		signed := map[string]bool{}
		for _, v := range votes {
			side.Signed, signed[v.Name] = append(side.Signed, v.Name), true
		}
		for _, v := range voters {
			if !signed[v.Name] {
				side.Open = append(side.Open, v.Name)
			}
		}
		sides = append(sides, side)
		return nil
	}
	if c != nil {
		if err := a.checkParties(before, c); err != nil {
			return nil, err
		}
		act, _ := c.Act(charter.ActAgreement)
		if err := add("state", act.Need, c.Voters(act.Role, at), act.Touch == "yes"); err != nil {
			return nil, err
		}
	}
	if err := add("host", a.Host.Need, a.Host.voters(), false); err != nil {
		return nil, err
	}
	if before != nil {
		if err := add("host before", before.Host.Need, before.Host.voters(), false); err != nil {
			return nil, err
		}
	}
	return sides, nil
}

func (h *Host) voters() []charter.Voter {
	voters := make([]charter.Voter, len(h.Signatories))
	for i, s := range h.Signatories {
		voters[i] = charter.Voter{Name: s.Name, Keys: []string{s.Key}}
	}
	return voters
}

// checkParties refuses the charter of another state, and a key by which one person could sign for both.
func (a *Agreement) checkParties(before *Agreement, c *charter.Charter) error {
	if c.State.ID != a.State.ID || c.State.Code != a.State.Code {
		return fmt.Errorf("agreement %d: %w: it is of state %s (%s), the charter of %s (%s)", a.Number, ErrParty,
			a.State.ID, a.State.Code, c.State.ID, c.State.Code)
	}
	hosts := a.Host.voters()
	if before != nil {
		hosts = append(hosts, before.Host.voters()...)
	}
	whose := map[string]string{}
	for _, h := range hosts {
		whose[h.Keys[0]] = h.Name
	}
	for _, p := range c.Everyone() {
		for _, k := range p.Keys {
			if host, both := whose[k]; both {
				return fmt.Errorf("agreement %d: %w: %s of the state and %s of the host have one key", a.Number, ErrParty, p.Name, host)
			}
		}
	}
	return nil
}

// Verify checks that the state signed a by the act "agreement" of its charter, and the host by the signatories and the
// number that a itself names. at is the time of judging. An amendment is checked by [CheckAmendment] instead. It fails
// with [ErrUnsigned], [ErrParty] or charter.ErrSignature.
func (a *Agreement) Verify(sigs []byte, c *charter.Charter, at time.Time) error {
	return a.verify(nil, sigs, c, at)
}

func (a *Agreement) verify(before *Agreement, sigs []byte, c *charter.Charter, at time.Time) error {
	if a.doc == nil || c == nil {
		return fmt.Errorf("agreement: %w: without its document or the state's charter", ErrUnsigned)
	}
	sides, err := a.Sides(before, sigs, c, at)
	if err != nil {
		return err
	}
	for _, s := range sides {
		if s.Need < 1 {
			return fmt.Errorf("agreement %d: %w: charter %d lets nobody make agreements", a.Number, ErrUnsigned, c.Number)
		}
		if !s.Complete() {
			return fmt.Errorf("agreement %d: %w: %d of the %d needed for the %s", a.Number, ErrUnsigned, len(s.Signed), s.Need, s.Name)
		}
	}
	return nil
}

// CheckAmendment checks that next may take the place of old: the number one higher, Previous naming the exact bytes of
// old, the same state, host and embassy, and signed by the state, by the host's signatories of old and by its own.
// A lower minimum or cooling-off applies to what is stored already, which is why the amendment must say
// `lowers: "yes"` then, and may not say it otherwise. It fails with [ErrAmendment], [ErrUnsigned], [ErrParty] or
// charter.ErrSignature.
func CheckAmendment(old, next *Agreement, sigs []byte, c *charter.Charter, at time.Time) error {
	if err := next.Follows(old); err != nil {
		return err
	}
	return next.verify(old, sigs, c, at)
}

// Follows is the part of [CheckAmendment] that needs no signatures; [ErrAmendment] says what is wrong.
func (a *Agreement) Follows(old *Agreement) error {
	why := ""
	switch {
	case old.doc == nil || a.doc == nil:
		why = "an agreement without its document"
	case a.Number != old.Number+1:
		why = fmt.Sprintf("number %d after %d", a.Number, old.Number)
	case a.Version < old.Version:
		why = fmt.Sprintf("version %d after %d", a.Version, old.Version)
	case a.Previous != charter.EncodeDigest(old.Hash()):
		why = fmt.Sprintf("it follows another agreement %d than this one", old.Number)
	case a.State.ID != old.State.ID || a.State.Code != old.State.Code:
		why = "of another state"
	case a.Host.Code != old.Host.Code:
		why = fmt.Sprintf("with host %s, not %s", a.Host.Code, old.Host.Code)
	case a.Embassy != old.Embassy:
		why = "about another embassy: another name, country or key is a new agreement"
	case a.lowers(old) && a.Retention.Lowers != "yes":
		why = fmt.Sprintf("it lowers retention from minimum %s, cooling-off %s to %s, %s for what is stored already, and does not say so in retention.lowers",
			old.Retention.Minimum, old.Retention.Cooling, a.Retention.Minimum, a.Retention.Cooling)
	case !a.lowers(old) && a.Retention.Lowers != "no":
		why = "retention.lowers says yes, and nothing is lowered"
	}
	if why != "" {
		return fmt.Errorf("agreement %d: %w: %s", a.Number, ErrAmendment, why)
	}
	return nil
}

func (a *Agreement) lowers(old *Agreement) bool {
	now, then := &a.Retention, &old.Retention
	return now.Minimum.Duration() < then.Minimum.Duration() || now.Cooling.Duration() < then.Cooling.Duration()
}
