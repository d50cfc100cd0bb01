package postgres

import (
	"context"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// Log is the log of a cluster behind one base backup, as a reader of the register sees it.
type Log struct {
	Base  Base
	Trail *Trail

	reader *archive.Reader
	head   *snapshot.Head
	index  *stream.Index
	places []int // of the trail's stretches in the index
}

// OpenLog lists the log that a snapshot of a cluster needs and what follows it, and asks who holds it. The embassies must
// answer as for any read; how far the list can be relied on is the trail's Doubt. ErrNotCluster for another snapshot.
func OpenLog(ctx context.Context, r *archive.Reader, head *snapshot.Head) (*Log, error) {
	l := &Log{reader: r, head: head}
	if len(head.Source) == 0 {
		return nil, fmt.Errorf("snapshot %d: %w", head.Sequence, ErrNotCluster)
	}
	raw, err := archive.Position(r.Register(), head)
	if err != nil {
		return nil, err
	}
	if l.Base, err = ParseBase(raw); err != nil {
		return nil, err
	}
	if err := l.list(ctx); err != nil {
		return nil, err
	}
	return l, l.held(ctx)
}

// held tells the trail what of the log too few embassies hold.
func (l *Log) held(ctx context.Context) error {
	unreadable, err := l.reader.Stream().Unreadable(ctx, l.index)
	if err != nil {
		return err
	}
	missing := map[int]error{}
	for i, place := range l.places {
		if why := unreadable[place]; why != nil {
			missing[i] = why
		}
	}
	l.Trail.Lacks(missing)
	return nil
}

// Renew lists the log anew, also from embassies that did not answer before.
func (l *Log) Renew(ctx context.Context) (*Log, error) {
	l.reader.Stream().Again()
	next := &Log{Base: l.Base, reader: l.reader, head: l.head}
	return next, next.list(ctx)
}

// View is the log for a Supply.
func (l *Log) View() View { return View{Trail: l.Trail, Read: l.Read} }

func (l *Log) list(ctx context.Context) error {
	index, err := l.reader.Stream().Stretches(ctx, l.Base.Stretch)
	if err != nil {
		return err
	}
	var positions []Position
	var places []int
	for i := range index.Len() {
		at := index.At(i)
		if !at.Settled { // nobody was told that it is durable, and the server still had it
			continue
		}
		p, err := ParsePosition(at.Position)
		if err != nil {
			return fmt.Errorf("stretch %d: %w", at.Sequence, err)
		}
		positions, places = append(positions, p), append(places, i)
	}
	trail, err := NewTrail(l.Base.System, positions, index.Complete(), func(i int) ([]byte, error) {
		return l.reader.Stream().ReadStretch(ctx, index, places[i])
	})
	if err != nil {
		return err
	}
	if trail.Segment == 0 {
		trail.Segment = l.Base.Segment
	}
	if err := l.own(ctx, trail); err != nil {
		return err
	}
	l.Trail, l.index, l.places = trail, index, places
	return nil
}

// own adds the history that the base backup brings.
func (l *Log) own(ctx context.Context, t *Trail) error {
	if l.Base.Timeline == 1 {
		return nil
	}
	text, err := l.reader.ReadFile(ctx, l.head, historyFolder+"/"+wal.HistoryName(l.Base.Timeline), wal.MaxHistory)
	if errors.Is(err, archive.ErrNoPath) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.AddHistory(l.Base.Timeline, text)
}

// Read returns the bytes of a stretch by its place in the trail. Where too few embassies answer, those that failed earlier
// in a recovery, which may take hours, are asked once more.
func (l *Log) Read(ctx context.Context, stretch int) ([]byte, error) {
	data, err := l.reader.Stream().ReadStretch(ctx, l.index, l.places[stretch])
	if errors.Is(err, register.ErrTooFew) && ctx.Err() == nil {
		l.reader.Stream().Again()
		data, err = l.reader.Stream().ReadStretch(ctx, l.index, l.places[stretch])
	}
	return data, err
}

// NeedsFrom returns what register.Register.StreamFrom is for a cluster: recovery from a base backup needs the log from the
// stretch that its head names. It needs no key that opens.
func NeedsFrom(reg *register.Register) func(*snapshot.Head) (uint64, error) {
	return func(head *snapshot.Head) (uint64, error) {
		raw, err := archive.Position(reg, head)
		if err != nil {
			return 0, err
		}
		b, err := ParseBase(raw)
		return b.Stretch, err
	}
}
