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
	// spareBlocks is how many blocks are kept for what comes next.
	spareBlocks = 2
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
// still wait. Where the server is ahead by more than a piece it fills soon.
func (p *pace) due(n int, waited time.Duration, ahead bool) (wait time.Duration, due bool) {
	limit := p.interval
	if n >= p.small && !ahead {
		limit = min(limit, brisk)
	}
	return limit - waited, n >= p.full || waited >= limit
}

// intake is what a session has received and not yet handed to the archive. Bytes are copied once, into blocks of the size
// of a piece, which are used again.
type intake struct {
	mu      sync.Mutex
	changed *sync.Cond
	pace    pace
	marks   marks
	ahead   bool           // the server has written at least a whole piece beyond what has come
	blocks  []*intakeBlock // oldest first; all but the last are full
	pending int            // bytes of all
	lent    *intakeBlock   // what next returned last
	free    [][]byte
	closed  bool
	err     error
}

type intakeBlock struct {
	data  []byte
	since time.Time // when its first byte came
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
	for in.pending >= mostPending && in.err == nil {
		in.changed.Wait()
	}
	for len(data) > 0 && in.err == nil {
		last := in.last()
		n := min(len(data), in.pace.full-len(last.data))
		last.data = append(last.data, data[:n]...)
		in.pending, data = in.pending+n, data[n:]
		in.changed.Broadcast()
	}
	return in.err
}

// last is the block that has room.
func (in *intake) last() *intakeBlock {
	if n := len(in.blocks); n > 0 && len(in.blocks[n-1].data) < in.pace.full {
		return in.blocks[n-1]
	}
	b := &intakeBlock{since: time.Now(), data: in.buffer()}
	in.blocks = append(in.blocks, b)
	return b
}

// buffer is memory for a whole piece: one that grew with what comes would leave as much behind.
func (in *intake) buffer() []byte {
	for n := len(in.free); n > 0; n-- {
		b := in.free[n-1]
		in.free = in.free[:n-1]
		if cap(b) >= in.pace.full && cap(b) <= 2*in.pace.full {
			return b[:0]
		}
	}
	return make([]byte, 0, in.pace.full)
}

// next returns the next piece, as soon as the pace says so or nothing more will come. It is valid until next is called
// again. Nothing without an error is the end.
func (in *intake) next() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.lent != nil && len(in.free) < spareBlocks {
		in.free = append(in.free, in.lent.data)
	}
	in.lent = nil
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for in.err == nil {
		if len(in.blocks) == 0 && in.closed {
			return nil, nil
		}
		if len(in.blocks) > 0 {
			first := in.blocks[0]
			wait, due := in.pace.due(len(first.data), time.Since(first.since), in.ahead)
			now := in.pace.now()
			if due || now || in.closed || len(in.blocks) > 1 {
				return in.take(in.pace.cut(len(first.data), now || in.closed)), nil
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

// take lends the first bytes of the first block. The rest of it, which is short, moves to a block of its own.
func (in *intake) take(n int) []byte {
	in.lent = in.blocks[0]
	if rest := in.lent.data[n:]; len(rest) > 0 {
		in.blocks[0] = &intakeBlock{data: append(in.buffer(), rest...), since: in.lent.since}
	} else {
		in.blocks = append(in.blocks[:0], in.blocks[1:]...)
	}
	in.pending -= n
	in.changed.Broadcast()
	return in.lent.data[:n]
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
