package postgres

import (
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/wal"
)

// Target is the moment that a restore is to bring back. At most one field is set; none is the latest.
type Target struct {
	Time time.Time // everything that was committed until then
	LSN  wal.LSN   // everything up to here
	XID  string    // this transaction, and what was committed before it
	Name string    // a restore point of this name
	// Timeline is the timeline to follow; 0 is the newest that the base backup leads to.
	Timeline wal.Timeline

	found wal.LSN // where the record of XID or Name begins, once a Plan has found it
}

// ErrBeyond means that a moment cannot be reached; the message names the nearest that can.
var ErrBeyond = errors.New("the moment cannot be reached")

// Reach is how far a base backup can be recovered, and what that takes.
type Reach struct {
	Timeline wal.Timeline // that recovery follows
	Through  wal.LSN      // the first position that is not known, or not needed
	Clock    time.Time    // until when, by the server's clock, everything is in it
	Bytes    uint64       // of log to replay
	Gap      error        // why it goes no further, where more is known or may be; nil at the proven end
}

// Reach follows the log from a base backup on to the end of a timeline, 0 for the newest that the backup leads to, as far as
// it can be read. A gap before the backup's own end is an error: nothing could be recovered.
func (t *Trail) Reach(b *Base, follow wal.Timeline) (*Reach, error) {
	if b.System != t.System || t.Segment != 0 && b.Segment != t.Segment {
		return nil, fmt.Errorf("%w: the base backup is of another cluster than the log", ErrPosition)
	}
	if follow == 0 {
		follow = t.newest(b)
	}
	path, err := t.history(follow).Path(b.Timeline, b.Start)
	if err != nil {
		return nil, fmt.Errorf("%w: timeline %d: %w", ErrBeyond, follow, err)
	}
	if left, ok := t.history(follow).Left(b.Timeline); ok && left < b.End {
		return nil, fmt.Errorf("%w: timeline %d left %d at %s, before the base backup ended at %s", ErrBeyond, follow, b.Timeline, left, b.End)
	}
	r := &Reach{Timeline: follow, Through: b.Start, Clock: time.Unix(0, b.Clock), Gap: t.doubt}
	for i, s := range path {
		to := t.End(s.Timeline)
		switch {
		case s.To != wal.Open: // the file in which a timeline was left is read of the next one, which repeats it
			to = t.Segment.Floor(s.To)
		case i > 0: // where nothing is known of the last timeline yet, what was before it is
			to = max(to, min(s.From, t.End(path[i-1].Timeline)))
		}
		parts, err := t.Cover(s.Timeline, r.Through, to)
		for _, p := range parts {
			if why := t.missing[p.Stretch]; why != nil {
				err = fmt.Errorf("%w: %s of timeline %d: %w", ErrHole, p.Start, s.Timeline, why)
				break
			}
			r.add(t, p)
		}
		if err != nil {
			r.Gap = err
			break
		}
	}
	if r.Through < b.End {
		return nil, fmt.Errorf("%w: the log is there until %s, the base backup ended at %s: %w", ErrHole, r.Through, b.End, cause(r.Gap))
	}
	return r, nil
}

func cause(gap error) error {
	if gap == nil {
		return ErrEnd
	}
	return gap
}

func (r *Reach) add(t *Trail, p Part) {
	r.Bytes += uint64(p.End - p.Start)
	r.Through = p.End
	if c := t.clock(p.Stretch); c.After(r.Clock) {
		r.Clock = c
	}
}

// clock is the server's clock at the end of a stretch.
func (t *Trail) clock(stretch int) time.Time {
	return time.Unix(0, t.clocks[stretch])
}

// newest is the highest timeline whose history goes through the base backup's end.
func (t *Trail) newest(b *Base) wal.Timeline {
	best := b.Timeline
	for _, tl := range t.Timelines() {
		h := t.history(tl)
		if left, ok := h.Left(b.Timeline); tl > best && ok && left >= b.End {
			best = tl
		}
	}
	return best
}

// Check tells whether a target can be reached, without a doubt. ErrBeyond names the nearest moment that can.
func (r *Reach) Check(b *Base, target *Target) error {
	nearest := fmt.Sprintf("the nearest is %s, %s", r.Through, r.Clock.UTC().Format(time.RFC3339Nano))
	switch {
	case target.LSN != 0 && target.LSN < b.End:
		return fmt.Errorf("%w: %s is before the base backup's end, %s: name an older snapshot", ErrBeyond, target.LSN, b.End)
	case target.LSN > r.Through:
		return r.beyond(fmt.Sprintf("position %s: %s", target.LSN, nearest))
	case !target.Time.IsZero() && target.Time.UnixNano() < b.Clock:
		return fmt.Errorf("%w: %s is before the base backup's end, %s: name an older snapshot", ErrBeyond,
			target.Time.UTC().Format(time.RFC3339), time.Unix(0, b.Clock).UTC().Format(time.RFC3339))
	case !target.Time.IsZero() && target.Time.After(r.Clock):
		return r.beyond(fmt.Sprintf("%s: %s", target.Time.UTC().Format(time.RFC3339), nearest))
	}
	if r.Gap != nil && target.LSN == 0 && target.Time.IsZero() && target.found == 0 { // the end, a transaction or a name: it may lie behind
		return r.beyond(nearest)
	}
	return nil
}

func (r *Reach) beyond(what string) error {
	if r.Gap != nil {
		return fmt.Errorf("%w: %s; %w", ErrBeyond, what, r.Gap)
	}
	return fmt.Errorf("%w: %s", ErrBeyond, what)
}
