package archive

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"chancery.dev/chancery/internal/snapshot"
)

// Find returns the head of a snapshot by its number, or the newest for "latest" or nothing.
// One that was released is ErrReleased, with the order.
func (r *Reader) Find(name string) (*snapshot.Head, error) {
	head, err := r.run.history.find(name)
	if err != nil {
		return nil, err
	}
	if order, ok := r.run.orders.released(head.Sequence); ok {
		return nil, fmt.Errorf("snapshot %d: %w by %s", head.Sequence, ErrReleased, order)
	}
	return head, nil
}

// FindUntil returns the head of the newest snapshot that was taken at a moment or before it: the highest number whose head
// claims no later time, of those that were not released. ErrNotYet tells that all are later, and names the oldest. A head's
// time is what its agent claims: home's rise with the numbers, and a thief's may be any.
func (r *Reader) FindUntil(moment time.Time) (*snapshot.Head, error) {
	newest, err := r.run.history.find("latest")
	if err != nil {
		return nil, err
	}
	return r.before(newest.Sequence+1, moment)
}

// Reaches reports whether a moment reaches to the end of what embassies show: no head is from later. Only then may a head that
// nobody shows be from the moment or before: the times of home's heads rise with their numbers. The zero moment is the end.
func (r *Reader) Reaches(moment time.Time) (bool, error) {
	h := r.run.history
	if moment.IsZero() || h.last == 0 {
		return true, nil
	}
	head, err := h.head(h.last)
	if err != nil {
		return false, err
	}
	return !time.Unix(0, head.Time).After(moment), nil
}

// before returns the newest snapshot below a number that was not released and is from a moment or before; the zero moment
// is any.
func (r *Reader) before(seq uint64, moment time.Time) (*snapshot.Head, error) {
	var oldest *snapshot.Head
	for seq--; seq > 0; seq-- {
		if _, released := r.run.orders.released(seq); released {
			continue
		}
		head, err := r.run.history.head(seq)
		if err != nil {
			return nil, err
		}
		if moment.IsZero() || !time.Unix(0, head.Time).After(moment) {
			return head, nil
		}
		if oldest == nil || head.Time < oldest.Time {
			oldest = head
		}
	}
	if oldest == nil {
		return nil, fmt.Errorf("%w: none is kept", ErrNotYet)
	}
	return nil, fmt.Errorf("%w: the oldest that is kept is %d, of %s", ErrNotYet, oldest.Sequence, time.Unix(0, oldest.Time).UTC().Format(time.RFC3339Nano))
}

// Newest returns the newest snapshot whose payload opens, and says which it passed over: whoever held home last could
// sign heads that hold nothing. With a moment it is the newest of those that FindUntil knows, with a name it is Find.
func (r *Reader) Newest(name string, moment time.Time) (*snapshot.Head, []string, error) {
	if name != "" && name != "latest" {
		head, err := r.Find(name)
		return head, nil, err
	}
	head, err := r.Find(name)
	if !moment.IsZero() {
		head, err = r.FindUntil(moment)
	}
	if err != nil {
		return nil, nil, err
	}
	var skipped []string
	for {
		_, err := r.Payload(head)
		if err == nil {
			return head, skipped, nil
		}
		older, none := r.before(head.Sequence, moment)
		if errors.Is(none, ErrNotYet) {
			return nil, skipped, err
		}
		if none != nil {
			return nil, skipped, none
		}
		if len(skipped) < maxProblems {
			skipped = append(skipped, fmt.Sprintf("snapshot %d does not open and is passed over", head.Sequence))
		}
		head = older
	}
}

func (h *history) find(name string) (*snapshot.Head, error) {
	latest := name == "" || name == "latest"
	seq, err := strconv.ParseUint(name, 10, 64)
	switch {
	case h.fork > 0 && (latest || err == nil && seq >= h.fork):
		return nil, fmt.Errorf("%w (undisputed are the snapshots before %d: name one)", h.forked, h.fork)
	case h.last == 0:
		return nil, fmt.Errorf("%w: the register has none yet", ErrNoSnapshot)
	case latest:
		return h.head(h.last)
	}
	if err != nil || seq == 0 || seq > h.last {
		return nil, fmt.Errorf("%w: %q (they are 1 to %d)", ErrNoSnapshot, name, h.last)
	}
	return h.head(seq)
}
