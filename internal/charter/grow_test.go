package charter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// grower makes random charters of one signer and adds to them.
type grower struct {
	*rand.Rand
	made uint64 // names and keys given out
}

var grownCountries = []string{"AA", "BB", "CC", "DD", "EE", "FF", "GG", "HH"}

// join adds an embassy or a witness in one of the first n countries, or either
// with an ML-DSA key; an embassy with one only where the charter's version knows it.
func (g *grower) join(c *Charter, n int) {
	g.made++
	name, country := fmt.Sprintf("m-%d", g.made), grownCountries[g.IntN(n)]
	w := witnessOf(name, country, 1000+g.made)
	switch kind := g.IntN(5); {
	case kind < 2:
		e := embassyOf(name, country, 1000+g.made)
		if c.Version >= 3 && kind == 0 && g.made < 12 {
			e.MLDSAKey = EncodeKey(take(1000+g.made, MLDSAKeySize))
		}
		c.Embassies = append(c.Embassies, e)
	case kind == 2 && g.made < 12: // more would not fit a note
		w.MLDSAKey = EncodeKey(take(1000+g.made, MLDSAKeySize))
		fallthrough
	default:
		c.Witnesses = append(c.Witnesses, w)
	}
}

// charter is a random one of one signer: in one of four of version 1, else with
// a policy that is drawn among all that are allowed.
func (g *grower) charter() Charter {
	c := small()
	c.Embassies, c.Witnesses, c.Auditors, g.made = nil, nil, nil, 0
	countries := 1 + g.IntN(len(grownCountries))
	for range g.IntN(12) {
		g.join(&c, countries)
	}
	if regroup(&c); g.IntN(4) == 0 {
		versionOne(&c)
		return c
	}
	if g.IntN(2) == 0 {
		c = (&c).Upgraded() // to version 3, and 4 where an embassy with an ML-DSA key joins
	}
	for i := range c.Witnessing.Groups {
		least := &c.Witnessing.Groups[i].Need
		*least += g.IntN(c.members()[c.Witnessing.Groups[i].Country] - *least + 1)
	}
	if n := len(c.Witnessing.Groups); n > 0 {
		f := g.IntN((n-1)/3 + 1)
		least := (n+f)/2 + 1
		c.Witnessing.Need, c.Witnessing.Faulty = least+g.IntN(n-f-least+1), f
	}
	return c
}

// fell names what of a policy is lower than it was, written apart from the
// program's own comparison.
func fell(was, is Witnessing) string {
	needs := map[string]int{}
	for _, g := range is.Groups {
		needs[g.Country] = g.Need
	}
	for _, g := range was.Groups {
		if needs[g.Country] < g.Need {
			return g.Country
		}
	}
	if is.Need < was.Need || is.Faulty < was.Faulty {
		return "need or faulty"
	}
	return ""
}

// Whoever joins, the policy that the program offers is valid, is nowhere lower than before, and may be put into force
// by a state with one signer. The control is a policy that was not grown: it is refused as soon as it does not suit.
func TestGrownWitnessingIsAlwaysASuccessor(t *testing.T) {
	g := &grower{Rand: rand.New(seeded(7))}
	var raised, kept, firstOfVersion2 int
	for range 150 {
		old := mustNew(t, g.charter())
		for range 1 + g.IntN(3) {
			n := old.Next()
			was := n.Witnessing
			for range 1 + g.IntN(2) {
				g.join(&n, len(grownCountries))
			}
			is := n.GrownWitnessing()
			if suits := slices.Equal(is.Groups, was.Groups); suits {
				kept++
			} else {
				raised++
				if err := n.Validate(); !errors.Is(err, ErrInvalid) {
					t.Fatalf("control: %+v, grown to %+v, is still allowed: %v", was, is, err)
				}
			}
			n.Witnessing = is
			next, err := New(n)
			if err != nil {
				t.Fatalf("%+v grown to %+v: %v", was, is, err)
			}
			if what := fell(old.WitnessingInForce(), next.Witnessing); what != "" {
				t.Fatalf("%+v grown to %+v: %s fell", was, is, what)
			}
			if err := CheckSuccession(old, next, signed(t, next.Bytes(), 10)); err != nil {
				t.Fatalf("%+v grown to %+v: %v", was, is, err)
			}
			if p, err := next.Policy(); err != nil || p.Need != is.Need || p.Faulty != is.Faulty {
				t.Fatalf("%+v: policy %+v: %v", is, p, err)
			}
			if old.Version == 1 {
				firstOfVersion2++
			}
			old = next
		}
	}
	if raised < 50 || kept < 20 || firstOfVersion2 < 10 {
		t.Errorf("%d policies had to change, %d had not, %d came after version 1: too few of one kind", raised, kept, firstOfVersion2)
	}
}

// The control of the test above: for the same random charters, a policy with anything lowered is refused from one hand.
func TestWhatIsLoweredIsNoSuccessorOfOneHand(t *testing.T) {
	g := &grower{Rand: rand.New(seeded(8))}
	lowered := map[string]int{}
	for range 150 {
		old := mustNew(t, g.charter())
		n := old.Next()
		g.join(&n, len(grownCountries))
		grown := n.GrownWitnessing()
		for what, lower := range map[string]func(*Witnessing){
			"need":   func(w *Witnessing) { w.Need = old.WitnessingInForce().Need - 1 },
			"faulty": func(w *Witnessing) { w.Faulty = old.WitnessingInForce().Faulty - 1 },
			"group": func(w *Witnessing) {
				for i := range w.Groups {
					w.Groups[i].Need = majority(n.members()[w.Groups[i].Country])
				}
			},
		} {
			n.Witnessing = grown
			n.Witnessing.Groups = slices.Clone(grown.Groups)
			lower(&n.Witnessing)
			next, err := New(n)
			if err != nil || fell(old.WitnessingInForce(), next.Witnessing) == "" {
				continue // not allowed to anyone, or not lower
			}
			lowered[what]++
			if err := CheckSuccession(old, next, signed(t, next.Bytes(), 10)); !errors.Is(err, ErrSuccession) {
				t.Fatalf("%s lowered: %+v to %+v: %v", what, old.WitnessingInForce(), next.Witnessing, err)
			}
		}
	}
	if lowered["need"] < 5 || lowered["faulty"] < 5 || lowered["group"] < 5 {
		t.Errorf("lowered %v times: too few", lowered)
	}
}

// A policy of everyone's own making never fails where the charter passed: ledger.Policy.Check and Validate agree.
func TestEveryValidCharterHasAPolicy(t *testing.T) {
	g := &grower{Rand: rand.New(seeded(9))}
	var ok, refused int
	for range 400 {
		c := g.charter()
		if c.Version == 1 || len(c.Witnessing.Groups) == 0 {
			continue
		}
		// Disturb one number.
		group := &c.Witnessing.Groups[g.IntN(len(c.Witnessing.Groups))]
		*[]*int{&group.Need, &c.Witnessing.Need, &c.Witnessing.Faulty}[g.IntN(3)] += g.IntN(3) - 1
		_, err := c.Policy()
		if err != nil && !errors.Is(err, ledger.ErrPolicy) {
			t.Fatal(err)
		}
		if valid := checkGroups(&c); (valid == nil) != (err == nil) {
			t.Fatalf("%+v: the charter says %v, the ledger %v", c.Witnessing, valid, err)
		}
		if err == nil {
			ok++
		} else {
			refused++
		}
	}
	if ok < 50 || refused < 50 {
		t.Errorf("%d held and %d did not: too few of one kind", ok, refused)
	}
}
