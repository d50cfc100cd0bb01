package archive

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Held asks the embassies for a share of each pack that a snapshot needs, before it is restored. It tells why it would not
// come back whole: ErrDamaged where fewer than k hold one, ErrTooFew where those that do not answer may be the others.
// Listings are read for that, and no content: that an embassy says it holds a share does not show that it is whole. It keeps
// some forty bytes a pack.
func (r *Reader) Held(ctx context.Context, head *snapshot.Head) error {
	h := &holding{seen: map[pack.ID]struct{}{}}
	h.in = &register.Inspector{
		Register: r.run.reg, Agent: r.run.agent, Sites: r.run.sites, Faults: &register.Faults{}, Found: h.found,
	}
	err := r.Walk(ctx, head, func(_ string, e *snapshot.Entry) error {
		if e.Kind != snapshot.File {
			return nil
		}
		extents, err := r.extents(ctx, e)
		for i := range extents {
			if err == nil && !extents[i].Hole {
				err = h.extent(ctx, r.run, &extents[i])
			}
		}
		return err
	})
	if err == nil {
		err = h.flush(ctx)
	}
	if err != nil {
		return fmt.Errorf("snapshot %d: %w", head.Sequence, err)
	}
	return h.verdict(head)
}

// holding is what is asked about a snapshot's packs.
type holding struct {
	in     *register.Inspector
	seen   map[pack.ID]struct{}
	batch  []snapshot.PackRef
	lost   int
	hidden int
	first  pack.ID // of those
}

func (h *holding) extent(ctx context.Context, r *run, x *snapshot.Extent) error {
	loc, ok := r.index.Lookup(x.Chunk)
	if !ok {
		return r.unknown(fmt.Sprintf("chunk %s is in no pack", x.Chunk))
	}
	if _, asked := h.seen[loc.Ref.ID]; asked {
		return nil
	}
	h.seen[loc.Ref.ID] = struct{}{}
	if h.batch = append(h.batch, loc.Ref); len(h.batch) < register.Batch {
		return nil
	}
	return h.flush(ctx)
}

func (h *holding) flush(ctx context.Context) error {
	err := h.in.Check(ctx, h.batch)
	h.batch = h.batch[:0]
	return err
}

func (h *holding) found(ref *snapshot.PackRef, v register.Verdict) {
	switch v {
	case register.Lost:
		h.lost++
	case register.Hidden:
		h.hidden++
	default:
		return
	}
	if h.lost+h.hidden == 1 {
		h.first = ref.ID
	}
}

func (h *holding) verdict(head *snapshot.Head) error {
	switch n := h.lost + h.hidden; {
	case h.lost > 0:
		return fmt.Errorf("snapshot %d: %w: of %d of its %d packs too few embassies hold a share, of %s first", head.Sequence, register.ErrDamaged, n, len(h.seen), h.first)
	case h.hidden > 0:
		return fmt.Errorf("snapshot %d: %w: of %d of its %d packs too few of those that answer hold a share, of %s first; %w",
			head.Sequence, register.ErrTooFew, n, len(h.seen), h.first, h.down())
	}
	return nil
}

// down is who does not answer.
func (h *holding) down() (err error) {
	for _, d := range h.in.Sites.Down() {
		if err != nil {
			err = fmt.Errorf("%w; %s: %s", err, d.Embassy, d.Why)
		} else {
			err = fmt.Errorf("%s: %s", d.Embassy, d.Why)
		}
	}
	return err
}
