package archive

import (
	"context"
	"fmt"
	"maps"

	"chancery.dev/chancery/internal/snapshot"
)

// What a release may take of a register's stream: the packs of stretches before the first that a kept snapshot needs, and
// a stretch's own pack where a gathering with every embassy holds the stretch too. Everything between what is kept
// stays. Records are never removed: the chain is checked through them.

// streamNeeds is what kept snapshots need of a register's stream.
type streamNeeds struct {
	first uint64 // the oldest stretch that one of them needs; 0: the register has no stream
	by    uint64 // the snapshot that needs it
	view  *streamView
	whole []*snapshot.Gathering // those of which every embassy holds its share, in order
	alone map[uint64]bool       // of their stretches, those that have a pack of their own only
	lost  []*snapshot.Gathering // before first
}

// streamNeeds finds out what of the stream the kept snapshots need. It asks the register's own reading of positions, which
// needs no key that opens.
func (r *run) streamNeeds(ctx context.Context, kept []uint64) (*streamNeeds, error) {
	n := &streamNeeds{alone: map[uint64]bool{}}
	if r.reg.StreamFrom == nil || len(kept) == 0 {
		return n, nil
	}
	for _, seq := range kept {
		head, err := r.history.head(seq)
		if err != nil {
			return nil, err
		}
		from, err := r.reg.StreamFrom(head)
		if err != nil {
			return nil, fmt.Errorf("snapshot %d: %w: what it needs of the stream: %w", seq, ErrReferences, err)
		}
		if from = max(from, 1); n.first == 0 || from < n.first {
			n.first, n.by = from, seq
		}
	}
	n.view = newStreamView(r.reg, r.agent.Trusted, r.sites, r.faults)
	list, err := n.view.gatherings(ctx, 1)
	if err != nil {
		return nil, err
	}
	refs := make([]*snapshot.PackRef, len(list))
	for i, g := range list {
		refs[i] = &g.Pack
	}
	good, _, err := n.view.holders(ctx, refs)
	if err != nil {
		return nil, err
	}
	for i, g := range list {
		switch {
		case g.Through < n.first:
			n.lost = append(n.lost, g)
		case good[i] == len(r.sites) && !r.orders.parting(&g.Pack):
			if err := n.add(r.reg, g); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

// add takes a gathering whose stretches need no packs of their own.
func (n *streamNeeds) add(reg *Register, g *snapshot.Gathering) error {
	table, err := reg.table(g)
	if err != nil {
		return err
	}
	n.whole = append(n.whole, g)
	maps.Copy(n.alone, alones(g, table))
	return nil
}

// spares reports whether nothing needs a stretch's own pack.
func (n *streamNeeds) spares(s *snapshot.Stretch) bool {
	if s.Sequence < n.first {
		return true
	}
	if n.alone[s.Sequence] {
		return false
	}
	for _, g := range n.whole {
		if g.First <= s.Sequence && s.Sequence <= g.Through {
			return true
		}
	}
	return false
}

// end is the last stretch whose own pack may be spared.
func (n *streamNeeds) end() uint64 {
	if len(n.whole) > 0 {
		return max(n.first-1, n.whole[len(n.whole)-1].Through)
	}
	return n.first - 1
}

// each calls yield for every stretch up to the last that may be spared.
func (n *streamNeeds) each(ctx context.Context, through uint64, yield func(*snapshot.Stretch) error) error {
	_, _, err := n.view.walk(ctx, 0, through, nil, nil, func(s *snapshot.Stretch, _ []byte) error { return yield(s) })
	if err == nil {
		err = n.view.fork()
	}
	if err == nil && n.view.hole != nil {
		err = fmt.Errorf("%w: %w", ErrReferences, n.view.hole)
	}
	return err
}

// collectStream adds to a release what nothing needs of the stream.
func (p *releasing) collectStream(ctx context.Context, kept []uint64) error {
	n, err := p.run.streamNeeds(ctx, kept)
	if err != nil || n.first == 0 || n.end() == 0 {
		return err
	}
	for _, g := range n.lost {
		p.add(&g.Pack)
	}
	return n.each(ctx, n.end(), func(s *snapshot.Stretch) error {
		if n.spares(s) {
			p.add(&s.Pack)
		}
		return nil
	})
}

// stream holds what is listed of the stream against what kept snapshots need of it.
func (c *checking) stream(ctx context.Context) error {
	var kept []uint64
	for i := range c.kept {
		kept = append(kept, c.kept[i].seq)
	}
	n, err := c.run.streamNeeds(ctx, kept)
	if err != nil || n.first == 0 {
		return err
	}
	gatherings := append(n.lost[:len(n.lost):len(n.lost)], n.whole...)
	for _, g := range gatherings {
		if err := c.pack(&g.Pack, func(k *keptNeed) bool { return k.seq == n.by && g.Through >= n.first }); err != nil {
			return err
		}
	}
	return n.each(ctx, ^uint64(0), func(s *snapshot.Stretch) error {
		spared := n.spares(s)
		return c.pack(&s.Pack, func(k *keptNeed) bool { return k.seq == n.by && !spared })
	})
}
