package archive

import (
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// What a release may take of a register's stream: the packs of stretches before the first that a kept snapshot needs, and
// a stretch's own pack where a gathering with every embassy holds the stretch too (stream.Needs).

// streamNeeds finds out what of the stream the kept snapshots need, and which of them needs the oldest stretch; nil where the
// register has no stream. It asks the register's own reading of positions, which needs no key that opens.
func (r *run) streamNeeds(ctx context.Context, kept []uint64) (n *stream.Needs, by uint64, err error) {
	if r.reg.StreamFrom == nil || len(kept) == 0 {
		return nil, 0, nil
	}
	first := uint64(0)
	for _, seq := range kept {
		head, err := r.history.head(seq)
		if err != nil {
			return nil, 0, err
		}
		from, err := r.reg.StreamFrom(head)
		if err != nil {
			return nil, 0, fmt.Errorf("snapshot %d: %w: what it needs of the stream: %w", seq, ErrReferences, err)
		}
		if from = max(from, 1); first == 0 || from < first {
			first, by = from, seq
		}
	}
	n, err = stream.FindNeeds(ctx, r.reg, r.agent, r.sites, r.faults, first, r.orders.parting)
	return n, by, err
}

// eachStretch calls yield for every stretch up to a number. Where one is missing, what is needed cannot be told.
func eachStretch(ctx context.Context, n *stream.Needs, through uint64, yield func(*snapshot.Stretch) error) error {
	hole, err := n.Each(ctx, through, yield)
	if err == nil && hole != nil {
		err = fmt.Errorf("%w: %w", ErrReferences, hole)
	}
	return err
}

// collectStream adds to a release what nothing needs of the stream.
func (p *releasing) collectStream(ctx context.Context, kept []uint64) error {
	n, _, err := p.run.streamNeeds(ctx, kept)
	if err != nil || n == nil || n.End() == 0 {
		return err
	}
	for _, g := range n.Lost {
		p.add(&g.Pack)
	}
	return eachStretch(ctx, n, n.End(), func(s *snapshot.Stretch) error {
		if n.Spares(s) {
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
	n, by, err := c.run.streamNeeds(ctx, kept)
	if err != nil || n == nil {
		return err
	}
	for _, g := range slices.Concat(n.Lost, n.Whole) {
		if err := c.pack(&g.Pack, func(k *keptNeed) bool { return k.seq == by && g.Through >= n.First }); err != nil {
			return err
		}
	}
	return eachStretch(ctx, n, ^uint64(0), func(s *snapshot.Stretch) error {
		spared := n.Spares(s)
		return c.pack(&s.Pack, func(k *keptNeed) bool { return k.seq == by && !spared })
	})
}
