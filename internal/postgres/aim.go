package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/wal"
)

// Aim is how a server is told to stop at a target. A server stops only at a record: one that is to stop behind the last
// that is known would find none, and refuse to open. So it is told which the last one is.
type Aim struct {
	// Record is where the last record begins that is to be replayed; 0 has the server find it by the target itself.
	Record wal.LSN
	// Enough is where log may end that is handed out: what follows is missing, or in doubt, and the server stops before it.
	// 0 where the end is proven.
	Enough   wal.LSN
	Timeline wal.Timeline
}

const (
	// aimWindow is how much log is looked through at a time, from the end.
	aimWindow = 4 << 20
	// aimOverlap is what of the next piece is looked at once more: a record that ends a transaction is smaller.
	aimOverlap = 64 << 10
	// maxAim bounds a record that is looked for as a whole.
	maxAim = 256 << 20
)

// Aim finds the record at which a target is reached. reach is what Reach found for it.
func (l *Log) Aim(ctx context.Context, reach *Reach, target *Target) (*Aim, error) {
	a := &Aim{Timeline: reach.Timeline}
	if reach.Gap != nil {
		a.Enough = reach.Through
	}
	switch {
	case target.found != 0:
		a.Record = target.found
	case target.LSN != 0:
		last, err := l.last(ctx, reach, target.LSN)
		a.Record = last.Start
		return a, err
	case !target.Time.IsZero():
		later, err := l.endsAfter(ctx, reach, target.Time)
		if err != nil || later {
			return a, err
		}
		last, err := l.last(ctx, reach, reach.Through)
		a.Record = last.Start
		return a, err
	}
	return a, nil
}

// last finds the last record that ends at or before a position.
func (l *Log) last(ctx context.Context, reach *Reach, before wal.LSN) (last wal.Record, err error) {
	for window := wal.LSN(1 << 20); ; window *= 4 {
		from := l.pageBefore(before, window)
		data, err := l.bytes(ctx, reach.Timeline, from, before)
		if err != nil {
			return last, err
		}
		reached, cut := wal.Records(from, l.Base.Segment, data, func(r wal.Record) bool {
			last = r
			return true
		})
		if last.Start != 0 && (cut || reached >= before) {
			return last, nil
		}
		if from == l.pageBefore(l.Base.Start+1, 1) || window > maxAim {
			return last, fmt.Errorf("%w: no record of the log begins at %s of timeline %d", register.ErrDamaged, reached, reach.Timeline)
		}
	}
}

// endsAfter tells whether a transaction ended later than a time, by the newest that the log knows: the server stops there.
// It is true as well where that cannot be told: a server that has nowhere to stop refuses to open.
func (l *Log) endsAfter(ctx context.Context, reach *Reach, t time.Time) (bool, error) {
	over := wal.LSN(aimOverlap)
	for to := reach.Through; to > l.Base.Start; {
		from, end := l.pageBefore(to, aimWindow), min(reach.Through, to+over)
		data, err := l.bytes(ctx, reach.Timeline, from, end)
		if err != nil {
			return false, err
		}
		known, later := false, false
		reached, cut := wal.Records(from, l.Base.Segment, data, func(r wal.Record) bool {
			known = known || !r.Ended.IsZero()
			later = later || r.Ended.After(t)
			return !later
		})
		switch {
		case later:
			return true, nil
		case cut && reached < to && end < reach.Through && over < maxAim: // a record begins before and ends far behind
			over *= 4
		case reached < to && !(cut && end == reach.Through): // what is behind is not known
			return true, nil
		case known:
			return false, nil
		default:
			to, over = from, aimOverlap
		}
	}
	return false, nil
}

// pageBefore is where a page begins, so much before a position and not before the base backup.
func (l *Log) pageBefore(to, window wal.LSN) wal.LSN {
	from := to - min(to, window)
	return max(from, l.Base.Start) &^ (wal.PageSize - 1)
}

// bytes reads a run of the log.
func (l *Log) bytes(ctx context.Context, tl wal.Timeline, from, to wal.LSN) ([]byte, error) {
	parts, err := l.Trail.Cover(tl, from, to)
	if err != nil {
		return nil, err
	}
	return l.View().join(ctx, parts, int(to-from))
}

// readAtOnce is how many stretches are read at once: each is asked of embassies far away.
const readAtOnce = 4

// join reads parts that follow each other. When one fails no further one is begun; those under way are not hung up on, for
// an embassy that is would count as one that does not answer.
func (v View) join(ctx context.Context, parts []Part, room int) ([]byte, error) {
	data, at := make([]byte, room), 0
	free := make(chan struct{}, readAtOnce)
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error // by time
	failed := func(err error) bool {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = err
		}
		return first != nil
	}
	for _, p := range parts {
		n := int(p.End - p.Start)
		if n > room-at {
			failed(fmt.Errorf("%w: parts of the log of more than %d bytes", register.ErrDamaged, room))
		}
		if free <- struct{}{}; failed(nil) {
			break
		}
		into := data[at : at+n]
		at += n
		all.Go(func() {
			failed(v.part(ctx, p, into))
			<-free
		})
	}
	all.Wait()
	return data[:at], first
}

// part reads one part.
func (v View) part(ctx context.Context, p Part, into []byte) error {
	b, err := v.Read(ctx, p.Stretch)
	if err != nil {
		return err
	}
	if p.Offset+len(into) > len(b) {
		return fmt.Errorf("%w: a stretch is shorter than its position says", register.ErrDamaged)
	}
	copy(into, b[p.Offset:])
	return nil
}

// enoughFile says how far the log is that a restored cluster needs: TIMELINE POSITION. It stands in the recovery folder
// only where what follows is missing or in doubt.
const enoughFile = "enough"

func (a *Aim) enough() []byte { return fmt.Appendf(nil, "%d %s\n", a.Timeline, a.Enough) }

// parseEnough reads what enough wrote. What cannot be read is nothing: then nothing that ends in a hole is handed out.
func parseEnough(text []byte) (tl wal.Timeline, at wal.LSN) {
	line, rest, _ := strings.Cut(string(text), "\n")
	first, second, ok := strings.Cut(line, " ")
	if !ok || rest != "" {
		return 0, 0
	}
	tl, err := wal.ParseTimeline(first)
	if err != nil {
		return 0, 0
	}
	if at, err = wal.ParseLSN(second); err != nil {
		return 0, 0
	}
	return tl, at
}
