package postgres

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// Holds returns nil when the embassies hold the log from a base backup's beginning up to a position of a timeline without a
// hole, and ErrHole where they hold later parts and lack one: the server may have given the slot up, and the stream gone
// on behind the hole. It needs no key that opens. register.ErrTooFew means that those who answer now do not show the
// position. Of a later timeline than the backup's it looks at what is known of that one alone: where it left the others,
// readers can tell.
func Holds(ctx context.Context, reg *register.Register, agent *register.Agent, b *Base, tl wal.Timeline, to wal.LSN) error {
	x, err := stream.List(ctx, reg, agent, b.Stretch)
	if err != nil {
		return err
	}
	var log []Position
	for i := range x.Len() {
		p, err := ParsePosition(x.At(i).Position)
		if err != nil {
			return fmt.Errorf("stretch %d: %w", x.At(i).Sequence, err)
		}
		if p.Kind == KindLog && x.At(i).Settled {
			log = append(log, p)
		}
	}
	t, err := NewTrail(b.System, log, nil, nil)
	if err != nil {
		return err
	}
	if end := t.End(tl); end < to {
		return fmt.Errorf("%w: those that answer show timeline %d until %s, and it is needed until %s", register.ErrTooFew, tl, end, to)
	}
	from := b.Start
	if tl != b.Timeline {
		from = t.logs[tl][0].start
	}
	_, err = t.Cover(tl, from, to)
	return err
}
