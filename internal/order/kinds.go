package order

import (
	"fmt"
	"slices"
	"strings"

	"chancery.dev/chancery/internal/charter"
)

// Kind is one kind of order. Its name is the act of the charter that says who may give it.
type Kind struct {
	Name charter.ActName
	// Fields are the names of what an order of this kind contains, in the order of its text.
	Fields []string
	// Does says for people what it does and what cannot be undone. It stands in the order, and is part of the format.
	Does []string
	// Destroys: after it something is gone, so it never takes effect before witnesses have seen it logged.
	Destroys bool

	against func(*charter.Charter, *Content) error // holds the content against the charter in force; nil: nothing to hold
	say     func(*Order) string                    // what this one will do, in a sentence
}

// kinds are all kinds of orders. A new one is an entry below, the act in the charter, and what the embassy does.
func kinds() []Kind { return slices.Concat(removing(), holding(), trusting(), renewing()) }

func removing() []Kind {
	return []Kind{
		{
			Name: charter.ActErase, Destroys: true, Fields: strings.Fields("register label snapshots lists"),
			Does: []string{
				"It removes a register, or the snapshots that it names, from the embassies that it names.",
				"What was removed cannot be brought back by anyone.",
			},
			say: func(o *Order) string { return "remove " + o.Content.what() + " for good: " + o.Content.removes() },
		},
		{
			Name: charter.ActRelease, Destroys: true, Fields: strings.Fields("register label snapshots lists"),
			Does: []string{
				"It lets embassies remove what no snapshot needs that is kept. The snapshots that it names are kept no more.",
				"What was removed cannot be brought back by anyone.",
			},
			say: func(o *Order) string {
				what := "what no snapshot needs of " + o.Content.register()
				if len(o.Content.Snapshots) > 0 {
					what = o.Content.what()
				}
				return "let go of " + what + ": " + o.Content.removes()
			},
		},
	}
}

func holding() []Kind {
	return []Kind{
		{
			Name: charter.ActHold, Fields: strings.Fields("register label name"),
			Does: []string{"It holds a register: until the hold is lifted by another order, nothing of it may be erased or released."},
			say: func(o *Order) string {
				return "forbid to erase or release anything of " + o.Content.register() + " while hold " + o.Content.Hold + " stands"
			},
		},
		{
			Name: charter.ActLift, Fields: strings.Fields("register label name"),
			Does: []string{"It ends a hold of a register: where no other hold stands, it may be erased and released again."},
			say:  func(o *Order) string { return "end hold " + o.Content.Hold + " of " + o.Content.register() },
		},
	}
}

func trusting() []Kind {
	return []Kind{
		{
			Name: charter.ActSuspend, Fields: []string{"who"}, against: knowsWho,
			Does: []string{
				"It suspends a person, whose signatures then count for nothing, or an agent, which then may write nothing,",
				"until another order restores them.",
			},
			say: func(o *Order) string { return "suspend " + o.Content.Who.String() },
		},
		{
			Name: charter.ActRestore, Fields: []string{"who"}, against: knowsWho,
			Does: []string{"It ends the suspension of a person or an agent."},
			say:  func(o *Order) string { return "end the suspension of " + o.Content.Who.String() },
		},
		{
			Name: charter.ActGrant, Fields: strings.Fields("register label recipient record"),
			Does: []string{
				"It lets a reader open a register: embassies take the record that gives the register's key to them.",
				"What a reader has read cannot be taken back.",
			},
			say: func(o *Order) string {
				return "give the key of " + o.Content.register() + " to the reader " + charter.EncodeDigest(o.Content.Recipient)
			},
		},
	}
}

func renewing() []Kind {
	return []Kind{
		{
			Name: charter.ActRotate, Fields: strings.Fields("generation records"), against: nextGeneration,
			Does: []string{
				"It renews keys: embassies take the records of registers that are sealed to this generation of the opening key.",
				"Once custodians have destroyed their old shares, nothing opens what these records leave out.",
			},
			say: func(o *Order) string {
				return fmt.Sprintf("take records of %d registers, sealed to generation %d of the opening key", len(o.Content.Records), o.Content.Generation)
			},
		},
		{
			Name: charter.ActCharter, Fields: strings.Fields("number hash"), against: nextCharter,
			Does: []string{"It puts the next charter in force. Its own people must have signed that one, too."},
			say: func(o *Order) string {
				return fmt.Sprintf("put charter %d in force, of which the hash is %s", o.Content.Number, charter.EncodeDigest(o.Content.Hash))
			},
		},
	}
}

// Kinds lists the kinds of orders that this program knows.
func Kinds() []Kind { return kinds() }

// KindOf returns the kind of that name.
func KindOf(name charter.ActName) (Kind, bool) {
	all := kinds()
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return all[i], true
}

// Say returns in one sentence, without its full stop, what the order does.
func (o *Order) Say() string {
	k, ok := KindOf(o.Kind)
	if !ok {
		return "nothing that this program knows"
	}
	return k.say(o)
}

func (c *Content) register() string { return fmt.Sprintf("register %s (%s)", c.Label, c.Register) }

func (c *Content) what() string {
	switch len(c.Snapshots) {
	case 0:
		return "all of " + c.register()
	case 1:
		return fmt.Sprintf("snapshot %d of %s", c.Snapshots[0], c.register())
	}
	numbers := strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Snapshots), " ", ", "), "[]")
	return "snapshots " + numbers + " of " + c.register()
}

func (c *Content) removes() string {
	parts := make([]string, len(c.Lists))
	for i, l := range c.Lists {
		parts[i] = fmt.Sprintf("%d objects of %d bytes at %s", l.Count, l.Bytes, l.Embassy)
	}
	return strings.Join(parts, ", ")
}

func knowsWho(c *charter.Charter, x *Content) error {
	known := false
	if x.Who.Agent {
		known = slices.ContainsFunc(c.Agents, func(a charter.Agent) bool { return a.Name == x.Who.Name })
	} else {
		_, known = c.PersonByName(x.Who.Name)
	}
	if !known {
		return fmt.Errorf("%w: charter %d has no %s", ErrContent, c.Number, x.Who)
	}
	return nil
}

// nextGeneration: the records may come before or after the charter that brings their generation.
func nextGeneration(c *charter.Charter, x *Content) error {
	if g := c.Custody.Generation; x.Generation != g && x.Generation != g+1 {
		return fmt.Errorf("%w: generation %d, when charter %d has %d", ErrContent, x.Generation, c.Number, g)
	}
	return nil
}

func nextCharter(c *charter.Charter, x *Content) error {
	if x.Number != c.Number+1 {
		return fmt.Errorf("%w: charter %d does not follow charter %d", ErrContent, x.Number, c.Number)
	}
	return nil
}
