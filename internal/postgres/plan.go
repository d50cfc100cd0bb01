package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// Plan is how a moment is brought back: from which base backup, by which log, and where the server stops.
type Plan struct {
	Head   *snapshot.Head
	Log    *Log
	Reach  *Reach
	Target Target // as asked for; what a transaction or a name stands for has been found
	Aim    *Aim
	// Passed are later base backups that suited too, and why they cannot be had.
	Passed []error
}

// heldError means that too few embassies hold what a base backup needs, for all that is known now.
type heldError struct{ error }

func (e heldError) Unwrap() error { return e.error }

// NewPlan finds how a moment is brought back from a base backup, or fails with the reason: ErrBeyond, ErrHole. Without a
// base backup (head is nil) it is the newest that ended before the moment and that enough embassies hold; a log that can be had
// brings back the same from an older one.
//
// A transaction and a restore point are looked for in the log, which is read for that: with head nil the newest of that
// name or number, from the newest base backup back; else the first behind that base backup, as a server finds it. looking is
// told how many bytes of log are about to be read, and may be nil.
func NewPlan(ctx context.Context, r *archive.Reader, head *snapshot.Head, target Target, looking func(bytes uint64)) (*Plan, error) {
	s := &search{r: r, target: target, looking: looking}
	if target.XID != "" {
		n, err := strconv.ParseUint(target.XID, 10, 64)
		if s.xid = uint32(n); err != nil || s.xid < firstXID {
			return nil, fmt.Errorf("%w: %q is no transaction's number", ErrBeyond, target.XID)
		}
	}
	if head != nil {
		return s.behind(ctx, head)
	}
	newest, err := r.Find("latest")
	if err != nil {
		return nil, err
	}
	for seq := newest.Sequence; seq > 0; seq-- {
		head, err := r.Find(archive.SnapshotName(seq))
		if errors.Is(err, archive.ErrReleased) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := r.Payload(head); err != nil && seq > 1 { // whoever held home last could sign what holds nothing
			continue
		}
		newer := s.newer
		p, err := s.from(ctx, head)
		var unheld heldError
		if errors.As(err, &unheld) {
			s.passed, s.newer = append(s.passed, err), newer
			continue
		}
		if p != nil {
			p.Passed = s.passed
		}
		if p != nil || err != nil {
			return p, err
		}
	}
	return nil, s.nowhere()
}

// firstXID is the least number of a transaction; its upper half, the epoch, stands in no record.
const firstXID = 3

// search looks for the base backup, and for the record, of a moment.
type search struct {
	r       *archive.Reader
	target  Target
	xid     uint32 // of the target; 0 where it is none
	looking func(uint64)

	newer   *Base // the base backup that was looked at before, which began later
	passed  []error
	refused error // why a base backup was passed over whose timeline is another's
	doubt   error // why the log behind the newest may hold what was not found
}

// aimed reports whether the moment is one that must be looked for in the log.
func (s *search) aimed() bool { return s.target.Name != "" || s.target.XID != "" }

// open lists the log of a base backup.
func (s *search) open(ctx context.Context, head *snapshot.Head) (*Plan, error) {
	l, err := OpenLog(ctx, s.r, head)
	if err != nil {
		return nil, err
	}
	reach, err := l.Trail.Reach(&l.Base, s.target.Timeline)
	return &Plan{Head: head, Log: l, Reach: reach, Target: s.target}, err
}

// finish checks a plan and finds where the server stops.
func (p *Plan) finish(ctx context.Context) (*Plan, error) {
	err := p.Reach.Check(&p.Log.Base, &p.Target)
	if err == nil {
		if herr := p.Log.reader.Held(ctx, p.Head); register.Unreadable(herr) || errors.Is(herr, register.ErrTooFew) {
			err = heldError{herr}
		} else {
			err = herr
		}
	}
	if err == nil {
		p.Aim, err = p.Log.Aim(ctx, p.Reach, &p.Target)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// behind plans from one base backup.
func (s *search) behind(ctx context.Context, head *snapshot.Head) (*Plan, error) {
	p, err := s.open(ctx, head)
	if err != nil {
		return nil, err
	}
	if !s.aimed() {
		return p.finish(ctx)
	}
	record, err := s.find(ctx, p, p.Reach.Through, true)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, p.Reach.beyond(fmt.Sprintf("%s is not in the log behind snapshot %d, until %s", s.target.String(), head.Sequence, p.Reach.Through))
	}
	p.Target.found = record.Start
	return p.finish(ctx)
}

// from plans from a base backup if the moment lies behind it; else there is no plan and no error.
func (s *search) from(ctx context.Context, head *snapshot.Head) (*Plan, error) {
	raw, err := archive.Position(s.r.Register(), head)
	if err != nil {
		return nil, err
	}
	base, err := ParseBase(raw)
	if err != nil {
		return nil, err
	}
	t := &s.target
	if t.LSN != 0 && t.LSN < base.End || !t.Time.IsZero() && t.Time.UnixNano() < base.Clock {
		return nil, nil
	}
	p, err := s.open(ctx, head)
	if errors.Is(err, ErrBeyond) { // the timeline asked for does not come from this one
		s.refused = err
		return nil, nil
	}
	if !s.aimed() {
		if err != nil {
			return nil, err
		}
		return p.finish(ctx)
	}
	if errors.Is(err, ErrHole) { // of no use; an older one may be
		s.doubt = errors.Join(s.doubt, fmt.Errorf("snapshot %d: %w", head.Sequence, err))
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	to := p.Reach.Through
	if n := s.newer; n != nil && p.Log.Trail.history(p.Reach.Timeline).At(n.Start) == n.Timeline {
		to = min(to, n.End) // what lies behind was looked at
	} else if p.Reach.Gap != nil {
		s.doubt = errors.Join(s.doubt, p.Reach.Gap)
	}
	s.newer = &p.Log.Base
	record, err := s.find(ctx, p, to, false)
	if record == nil || err != nil {
		return nil, err
	}
	p.Target.found = record.Start
	return p.finish(ctx)
}

// nowhere is why there is no plan.
func (s *search) nowhere() error {
	switch {
	case len(s.passed) > 0:
		return errors.Join(s.passed...)
	case s.refused != nil && s.newer == nil:
		return s.refused
	case s.aimed() && s.doubt != nil:
		return fmt.Errorf("%w: %s is not in the log of any snapshot; %w", ErrBeyond, s.target.String(), s.doubt)
	case s.aimed():
		return fmt.Errorf("%w: %s is not in the log of any snapshot", ErrBeyond, s.target.String())
	}
	return fmt.Errorf("%w: %s is before the end of the oldest snapshot", ErrBeyond, s.target.String())
}

// find looks for the record of a transaction or a name between the end of a plan's base backup and a position: the first,
// or the last.
func (s *search) find(ctx context.Context, p *Plan, to wal.LSN, first bool) (*wal.Record, error) {
	from := p.Log.Base.End
	if from >= to {
		return nil, nil
	}
	if s.looking != nil {
		s.looking(uint64(to - from))
	}
	var found *wal.Record
	err := p.Log.records(ctx, p.Reach.Timeline, from, to, func(r wal.Record) bool {
		is := s.target.Name != "" && r.Point == s.target.Name || s.xid != 0 && r.XID == s.xid
		if is {
			found = &r
		}
		return !(is && first)
	})
	return found, err
}

// records yields the whole records that begin at or behind one position and end at or before another.
func (l *Log) records(ctx context.Context, tl wal.Timeline, from, to wal.LSN, yield func(wal.Record) bool) error {
	for at, window := from, wal.LSN(aimWindow); at < to; {
		start := at &^ (wal.PageSize - 1)
		end := min(to, start+window)
		data, err := l.bytes(ctx, tl, start, end)
		if err != nil {
			return err
		}
		next, over := at, false
		wal.Records(start, l.Base.Segment, data, func(r wal.Record) bool {
			if r.Start < at {
				return true
			}
			next = r.Next
			over = !yield(r)
			return !over
		})
		switch {
		case over || end == to:
			return nil
		case next > at:
			at, window = next, aimWindow
		case window >= maxAim:
			return fmt.Errorf("%w: no record of the log begins at %s of timeline %d", register.ErrDamaged, at, tl)
		default:
			window *= 4
		}
	}
	return nil
}
