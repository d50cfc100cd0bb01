package postgres

import (
	"sync"
	"time"

	"chancery.dev/chancery/internal/wal"
)

const (
	// mostPending is how much of the log waits at home at most. Then nothing more is received, and the server keeps it.
	mostPending = 16 << 20
	// brisk is how long log waits at most where there is enough of it to fill packs: waiting longer would save nothing.
	brisk = 150 * time.Millisecond
	// smallRing and largeRing are the least and the most memory of an intake: what waits, and the piece that is lent.
	smallRing, largeRing = 1 << 20, mostPending + most
)

// pace says how much makes a piece, and when one goes.
type pace struct {
	small    int           // bytes that fill the smallest pack
	full     int           // bytes that fill the next one; no piece is larger
	interval time.Duration // the longest that a byte waits
	now      func() bool   // whether whatever there is should go at once; may change any time (wake)
}

// cut is how much of the bytes there are makes a piece: packs are filled, not begun.
func (p *pace) cut(n int, whole bool) int {
	switch {
	case n >= p.full:
		return p.full
	case whole || 2*n >= p.full:
		return n
	}
	return min(n, p.small)
}

// due reports whether the bytes there are should go, after the first has waited for so long, and else how long they may
// still wait. Where the server is ahead by more than a piece it fills soon; the end of such a backlog goes soon as well.
func (p *pace) due(n int, waited time.Duration, ahead, backlog bool) (wait time.Duration, due bool) {
	limit := p.interval
	if (n >= p.small || backlog) && !ahead {
		limit = min(limit, brisk)
	}
	return limit - waited, n >= p.full || waited >= limit
}

// intake is what a session has received and not yet handed to the archive. Bytes are copied once, into a ring. It grows
// while much waits, and is small again after that: an agent has one for each cluster, most of them idle.
type intake struct {
	mu      sync.Mutex
	changed *sync.Cond
	pace    pace
	marks   marks
	ahead   bool // the server has written at least a whole piece beyond what has come
	backlog bool // it was since nothing waited here
	ring    []byte
	head    int     // where the oldest byte is
	used    int     // bytes from there on, lent ones first
	lent    int     // bytes of the piece that next returned last
	joined  []byte  // that piece, where it lies across the ring's end
	stamps  []stamp // oldest first; the first is of the oldest byte that waits
	added   uint64  // bytes, ever
	emptied uint64  // of these, when nothing was left last
	closed  bool
	err     error
}

// stamp says when a byte came. There is one for each piece's worth of bytes.
type stamp struct {
	at   uint64 // how many came before
	time time.Time
}

func newIntake(p pace) *intake {
	in := &intake{pace: p}
	in.changed = sync.NewCond(&in.mu)
	return in
}

// heard takes what the server said of itself when it sent what ends at a position: how far its log is written, and when.
func (in *intake) heard(end, written wal.LSN, at time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.marks.add(written, at)
	in.ahead = written > end+wal.LSN(in.pace.full)
	in.backlog = in.backlog || in.ahead
}

// reached is until when everything is in what was taken up to a position; the zero time where nothing more than before is
// known.
func (in *intake) reached(end wal.LSN) time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.marks.reached(end)
}

// add takes bytes, and waits while too many wait already. It fails when nobody takes them any more.
func (in *intake) add(data []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(data) > 0 && in.err == nil {
		n := min(len(data), len(in.ring)-in.used, mostPending-in.waiting())
		switch {
		case n > 0:
			in.store(data[:n])
			data = data[n:]
			in.changed.Broadcast()
		case in.waiting() < mostPending && len(in.ring) < largeRing:
			in.grow()
		default:
			in.changed.Wait()
		}
	}
	return in.err
}

// waiting is how many bytes nobody has taken yet.
func (in *intake) waiting() int { return in.used - in.lent }

// store takes bytes for which there is room.
func (in *intake) store(data []byte) {
	if n := len(in.stamps); n == 0 || in.added-in.stamps[n-1].at >= uint64(in.pace.full) {
		in.stamps = append(in.stamps, stamp{in.added, time.Now()})
	}
	at := (in.head + in.used) % len(in.ring)
	n := copy(in.ring[at:], data)
	copy(in.ring, data[n:])
	in.used, in.added = in.used+len(data), in.added+uint64(len(data))
}

// grow doubles the ring. Who has a piece of the old one keeps it.
func (in *intake) grow() {
	ring := make([]byte, min(max(smallRing, 2*len(in.ring)), largeRing))
	n := copy(ring, in.ring[in.head:min(in.head+in.used, len(in.ring))])
	copy(ring[n:], in.ring[:in.used-n])
	in.ring, in.head = ring, 0
}

// next returns the next piece, as soon as the pace says so or nothing more will come. It is valid until next is called
// again. Nothing without an error is the end.
func (in *intake) next() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free()
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for in.err == nil {
		n := min(in.waiting(), in.pace.full)
		if n == 0 && in.closed {
			return nil, nil
		}
		if n > 0 {
			wait, due := in.pace.due(n, time.Since(in.stamps[0].time), in.ahead, in.backlog)
			now := in.pace.now()
			if due || now || in.closed {
				return in.lend(in.pace.cut(n, now || in.closed)), nil
			}
			if timer != nil {
				timer.Stop()
			}
			timer = time.AfterFunc(wait, in.wake)
		}
		in.changed.Wait()
	}
	return nil, in.err
}

// lend lends the first n bytes that wait.
func (in *intake) lend(n int) []byte {
	in.lent = n
	left := in.added - uint64(in.waiting())
	for len(in.stamps) > 0 && (in.waiting() == 0 || len(in.stamps) > 1 && in.stamps[1].at <= left) {
		in.stamps = in.stamps[1:]
	}
	in.backlog = in.ahead || in.backlog && in.waiting() > 0
	in.changed.Broadcast()
	whole := in.ring[in.head:min(in.head+n, len(in.ring))]
	if len(whole) < n {
		in.joined = append(append(in.joined[:0], whole...), in.ring[:n-len(whole)]...)
		return in.joined
	}
	return whole
}

// free takes back what was lent. An empty ring begins anew, so that who needs little of it touches no more; one that was
// large without need since it was empty last becomes small.
func (in *intake) free() {
	if in.lent == 0 {
		return
	}
	in.head, in.used, in.lent = (in.head+in.lent)%len(in.ring), in.used-in.lent, 0
	if in.used == 0 {
		if in.added-in.emptied <= smallRing && len(in.ring) > smallRing {
			in.ring, in.joined = nil, nil
		}
		in.head, in.emptied = 0, in.added
	}
	in.changed.Broadcast()
}

// set changes the pace from the next piece on.
func (in *intake) set(small, full int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pace.small, in.pace.full = small, full
}

// close says that nothing more will come.
func (in *intake) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.changed.Broadcast()
}

// fail ends both sides.
func (in *intake) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = err
	}
	in.changed.Broadcast()
}

// wake has the sides look again.
func (in *intake) wake() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.changed.Broadcast()
}
