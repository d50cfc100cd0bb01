package order

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
)

// Why an order does not count. Too few signatures are [charter.ErrQuorum], a bad one is [charter.ErrSignature], and a
// kind that the charter gives to nobody is [charter.ErrNoAct].
var (
	ErrState    = errors.New("an order of another state")
	ErrCharter  = errors.New("given under another charter than the one in force")
	ErrEmbassy  = errors.New("for an embassy that the charter does not name")
	ErrExpired  = errors.New("the order has expired")
	ErrEarly    = errors.New("the order was made in the future")
	ErrValid    = errors.New("the order is open for longer than the charter allows")
	ErrProposer = errors.New("whoever proposes an order signs it, and may")
	ErrContent  = errors.New("does not fit the charter in force")
	ErrUsed     = errors.New("another order has this nonce")
)

// Skew is how far ahead of the judge's clock the clock of those who made an order may be.
const Skew = time.Hour

// Approval is what the signatures of an order or a veto come to under a charter.
type Approval struct {
	// Rule is what the charter asks: its act, or what stands in for it where a charter comes by succession.
	Rule charter.Act
	// Succession: signed by those who may give the next charter when the usual quorum cannot.
	Succession bool
	Votes      []charter.Vote
	// Missing are those whose signature would still count.
	Missing []string
}

// Check holds an order, as it is before it is logged, against the charter in force at a time: the judge's clock.
// People whom the charter names and who are barred (suspended) count for nothing. What it returns with
// [charter.ErrQuorum] says who has yet to sign.
func Check(c *charter.Charter, o *Order, sigs []byte, at time.Time, barred []string) (Approval, error) {
	if err := checkBound(c, o); err != nil {
		return Approval{}, err
	}
	if err := checkTimes(c, o, at); err != nil {
		return Approval{}, err
	}
	a, err := count(c, o, sigs, at, barred)
	if err != nil && !errors.Is(err, charter.ErrQuorum) {
		return a, err
	}
	if !mayPropose(c, o, at, barred) {
		return a, fmt.Errorf("order: %w: %s", ErrProposer, o.Proposer)
	}
	if err == nil && !slices.ContainsFunc(a.Votes, func(v charter.Vote) bool { return v.Name == o.Proposer }) {
		err = fmt.Errorf("order: %w: %s", ErrProposer, o.Proposer)
	}
	return a, err
}

// Recheck is asked before a logged order takes effect, at a witnessed time: c may have followed the charter under which
// it was given, and people may have left or been suspended since. Its approval's rule is that of c; whoever waits,
// waits as long as the stricter of the two says. The order's own dates count no more: they were for its signing.
func Recheck(c *charter.Charter, o *Order, sigs []byte, at time.Time, barred []string) (Approval, error) {
	if err := checkFits(c, o); err != nil {
		return Approval{}, err
	}
	if c.Number < o.Charter {
		return Approval{}, fmt.Errorf("order: %w: charter %d, not %d", ErrCharter, o.Charter, c.Number)
	}
	return count(c, o, sigs, at, barred)
}

// checkBound holds an order against exactly the charter that it names.
func checkBound(c *charter.Charter, o *Order) error {
	if err := checkFits(c, o); err != nil {
		return err
	}
	if o.Charter != c.Number || o.CharterHash != c.Hash() {
		return fmt.Errorf("order: %w: charter %d (%s), not %d (%s)", ErrCharter,
			o.Charter, charter.EncodeDigest(o.CharterHash), c.Number, charter.EncodeDigest(c.Hash()))
	}
	return nil
}

func checkFits(c *charter.Charter, o *Order) error {
	k, ok := KindOf(o.Kind)
	if !ok {
		return fmt.Errorf("order: %w: %q", ErrKind, o.Kind)
	}
	if o.State != c.State.ID {
		return fmt.Errorf("order: %w: %s, not %s", ErrState, o.State, c.State.ID)
	}
	for _, name := range o.Embassies {
		if _, ok := c.EmbassyByName(name); !ok {
			return fmt.Errorf("order: %w: %s", ErrEmbassy, name)
		}
	}
	if k.against == nil {
		return nil
	}
	if err := k.against(c, &o.Content); err != nil {
		return fmt.Errorf("order: %s: %w", o.Kind, err)
	}
	return nil
}

func checkTimes(c *charter.Charter, o *Order, at time.Time) error {
	act, ok := c.Act(o.Kind)
	switch {
	case !ok:
		return fmt.Errorf("order: charter %d: %w: %s", c.Number, charter.ErrNoAct, o.Kind)
	case at.After(o.Expires):
		return fmt.Errorf("order: %w: on %s", ErrExpired, o.Expires.Format(timeLayout))
	case o.Created.After(at.Add(Skew)):
		return fmt.Errorf("order: %w: on %s, and it is %s", ErrEarly, o.Created.Format(timeLayout), at.UTC().Format(timeLayout))
	case o.Expires.Sub(o.Created) > act.Valid.Duration():
		return fmt.Errorf("order: %w: for %s, and the charter says %s", ErrValid, o.Expires.Sub(o.Created), act.Valid)
	}
	return nil
}

// count finds who signed, under the act or, for a charter, by succession.
func count(c *charter.Charter, o *Order, sigs []byte, at time.Time, barred []string) (Approval, error) {
	act, ok := c.Act(o.Kind)
	if !ok {
		return Approval{}, fmt.Errorf("order: charter %d: %w: %s", c.Number, charter.ErrNoAct, o.Kind)
	}
	votes, err := c.Quorum(o.Kind, Namespace, o.doc, sigs, at, barred...)
	a := Approval{Rule: act, Votes: votes, Missing: missing(c.Voters(act.Role, at, barred...), votes)}
	if err == nil {
		return a, nil
	}
	err = fmt.Errorf("order: %w", err)
	if o.Kind != charter.ActCharter || !errors.Is(err, charter.ErrQuorum) {
		return a, err
	}
	if rule, ok := successionRule(c, act); ok {
		heirs := c.Voters(rule.Role, at, barred...)
		if votes, e := charter.Tally(o.doc, sigs, Namespace, heirs, false); e == nil && len(votes) >= rule.Need {
			return Approval{Rule: rule, Succession: true, Votes: votes, Missing: missing(heirs, votes)}, nil
		}
	}
	return a, err
}

// Rules returns what may rule an order under a charter: its act, and for a charter the succession, too. It fails with
// [charter.ErrNoAct].
func Rules(c *charter.Charter, o *Order) ([]charter.Act, error) {
	act, ok := c.Act(o.Kind)
	if !ok {
		return nil, fmt.Errorf("order: charter %d: %w: %s", c.Number, charter.ErrNoAct, o.Kind)
	}
	rules := []charter.Act{act}
	if rule, ok := successionRule(c, act); ok && o.Kind == charter.ActCharter {
		rules = append(rules, rule)
	}
	return rules, nil
}

// successionRule is the charter's succession as an act.
func successionRule(c *charter.Charter, act charter.Act) (charter.Act, bool) {
	s := c.Succession
	if s.Role == "" || s.Need < 2 {
		return charter.Act{}, false
	}
	return charter.Act{
		Act: charter.ActCharter, Role: s.Role, Need: s.Need, Cooling: s.After, Valid: act.Valid, Touch: "no", Veto: s.StoppedBy,
	}, true
}

// missing lists those of voters who have no vote.
func missing(voters []charter.Voter, votes []charter.Vote) (names []string) {
	for _, v := range voters {
		if !slices.ContainsFunc(votes, func(w charter.Vote) bool { return w.Name == v.Name }) {
			names = append(names, v.Name)
		}
	}
	return names
}

// mayPropose reports whether the proposer is one of those whose signature would count.
func mayPropose(c *charter.Charter, o *Order, at time.Time, barred []string) bool {
	rules, err := Rules(c, o)
	if err != nil {
		return false
	}
	for _, rule := range rules {
		if slices.ContainsFunc(c.Voters(rule.Role, at, barred...), func(v charter.Voter) bool { return v.Name == o.Proposer }) {
			return true
		}
	}
	return false
}

// Book is which orders of one state an embassy has taken: their hashes by nonce. An order has effect once.
type Book map[[16]byte][32]byte

// Take enters an order and reports whether it was there already: then its time has begun, and it begins no second one.
// Another order with the same nonce is [ErrUsed].
func (b Book) Take(o *Order) (again bool, err error) {
	hash, again := b[o.Nonce]
	if again && hash != o.Hash() {
		return false, fmt.Errorf("order: %w: %s", ErrUsed, charter.EncodeDigest(hash))
	}
	b[o.Nonce] = o.Hash()
	return again, nil
}
