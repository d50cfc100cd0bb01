package stream

import (
	"context"
	"maps"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Needs is what is needed of a register's stream where everything from a stretch on is: no pack of a stretch before,
// and no stretch's own pack where a gathering with every embassy holds the stretch too. Everything from there to the
// newest stays. Records are never let go: the chain is checked through them.
type Needs struct {
	First uint64                // the oldest stretch that is needed
	Lost  []*snapshot.Gathering // those that end before First
	Whole []*snapshot.Gathering // those of which every embassy holds its share, in order

	view  *view
	alone map[uint64]bool // stretches of Whole that have a pack of their own only
}

// FindNeeds asks the sites what there is of a stream of which everything from stretch first on is needed. A gathering
// whose pack an order is to remove, which parting tells, spares nothing. It needs no key that opens.
func FindNeeds(ctx context.Context, reg *register.Register, agent *register.Agent, sites register.Sites, faults *register.Faults, first uint64,
	parting func(*snapshot.PackRef) bool,
) (*Needs, error) {
	n := &Needs{First: first, alone: map[uint64]bool{}, view: newView(reg, agent.Trusted, sites, faults)}
	list, err := n.view.gatherings(ctx, 1)
	if err != nil {
		return nil, err
	}
	refs := make([]*snapshot.PackRef, len(list))
	for i, g := range list {
		refs[i] = &g.Pack
	}
	held, err := n.view.holders(ctx, refs)
	if err != nil {
		return nil, err
	}
	for i, g := range list {
		switch {
		case g.Through < first:
			n.Lost = append(n.Lost, g)
		case held[i].good == len(sites) && !parting(&g.Pack):
			table, err := openTable(reg, g)
			if err != nil {
				return nil, err
			}
			n.Whole = append(n.Whole, g)
			maps.Copy(n.alone, alones(g, table))
		}
	}
	return n, nil
}

// Spares reports whether nothing needs a stretch's own pack.
func (n *Needs) Spares(s *snapshot.Stretch) bool {
	if s.Sequence < n.First {
		return true
	}
	if n.alone[s.Sequence] {
		return false
	}
	for _, g := range n.Whole {
		if g.First <= s.Sequence && s.Sequence <= g.Through {
			return true
		}
	}
	return false
}

// End is the last stretch whose own pack may be spared; 0 where there is none.
func (n *Needs) End() uint64 {
	if len(n.Whole) > 0 {
		return max(n.First-1, n.Whole[len(n.Whole)-1].Through)
	}
	return n.First - 1
}

// Each calls yield for every stretch up to a number, in order, and ends with its first error. hole says why stretches
// before that number are missing, where nobody shows one and later ones are shown.
func (n *Needs) Each(ctx context.Context, through uint64, yield func(*snapshot.Stretch) error) (hole, err error) {
	_, _, err = n.view.walk(ctx, 0, through, nil, nil, func(s *snapshot.Stretch, _ []byte) error { return yield(s) })
	if err == nil {
		err = n.view.fork()
	}
	return n.view.hole, err
}
