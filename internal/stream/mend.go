package stream

import (
	"context"
	"time"

	"chancery.dev/chancery/internal/register"
)

// Lack is what embassies may lack that were away: of durable stretches behind one number, up to another. Sites that are down
// are not asked.
type Lack struct {
	Sites          register.Sites
	After, Through uint64

	records func(after, through uint64) ([][]byte, error) // as this machine holds them; nil: it holds none
}

// Mender gives embassies what they lack, as [Mend] does. A site that is up when it returns, without an error, lacks nothing that
// can be made.
type Mender func(ctx context.Context, what Lack) error

// Between two looks for embassies that are back is tendPause, and between two mendings mendPause. Where one after the other fails,
// and the same embassies answer as before, it is more and more, up to lastMendPause: what one that is away holds is waited for.
var tendPause, mendPause, lastMendPause = time.Second, 10 * time.Second, 6 * time.Hour

// arrears are what embassies that answer may lack: stretches behind one number, up to another; none where that is 0.
type arrears struct {
	after, through uint64
	filling        bool   // one of them is being given records
	answer         uint32 // which embassies answer: a bit for each, by share
}

// arrears tells what embassies may lack that answer.
func (s *Stream) arrears() (a arrears) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.lanes {
		if l.why != nil {
			continue
		}
		if a.answer |= 1 << i; l.missed == 0 {
			continue
		}
		a.filling = a.filling || l.filling
		if a.through == 0 || l.whole < a.after {
			a.after = l.whole
		}
		a.through = max(a.through, min(l.missed, s.kept))
	}
	return a
}

// tending is what tend remembers from one look to the next.
type tending struct {
	gathered time.Time     // when a gathering was written early
	mended   time.Time     // when a mending ended
	pause    time.Duration // before the next, if the same embassies answer
	answer   uint32        // those that did at the last
	ended    chan bool     // of a mending that runs: whether it did all
}

// catchUp begins to give embassies that are back what they missed. What is together for the next gathering comes with that at
// once, out of this machine's memory; what else they lack is made out of what others hold.
func (s *Stream) catchUp(t *tending) {
	select {
	case whole := <-t.ended:
		t.ended, t.mended = nil, time.Now()
		if t.pause = min(max(2*t.pause, mendPause), lastMendPause); whole {
			t.pause = mendPause
		}
	default:
	}
	a := s.arrears()
	if a.through == 0 {
		return
	}
	if time.Since(t.gathered) >= mendPause && s.gather.early(s, a) {
		t.gathered = time.Now()
		return
	}
	pause := t.pause
	if a.answer != t.answer {
		pause = mendPause
	}
	if s.mender == nil || t.ended != nil || a.filling || time.Since(t.mended) < pause || s.gather.brings(a) {
		return
	}
	ended := make(chan bool, 1)
	t.ended, t.answer = ended, a.answer
	s.working.Go(func() { ended <- s.mend(s.ctx, a.after) })
}

// mend has embassies given what they lack behind a stretch, and reports whether they have all now. Those that do not answer
// are left alone.
func (s *Stream) mend(ctx context.Context, after uint64) (all bool) {
	sites := s.reg.Sites()
	s.mu.Lock()
	through := s.landedThrough()
	asked := map[*lane]uint64{}
	for i, l := range s.lanes {
		if l.why != nil {
			sites[i].Fail(l.why)
		} else if l.missed > 0 && l.whole >= after && !l.filling {
			asked[l] = l.whole
		}
	}
	s.mu.Unlock()
	if through <= after {
		return true
	}
	if err := s.mender(ctx, Lack{sites, after, through, s.records}); err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all = true
	for l, whole := range asked {
		if !sites[l.Share].Up() || l.whole < whole { // meanwhile it missed a gathering
			all = false
			continue
		}
		l.gotten(through)
	}
	return all
}

// records returns the records of the local log behind a number, up to another.
func (s *Stream) records(after, through uint64) ([][]byte, error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	return s.log.between(after, through)
}

// mendLast is mend for a stream that is being closed: what is left of it when that must end is done by whoever opens the stream next.
func (s *Stream) mendLast(ctx context.Context) {
	if a := s.arrears(); s.mender != nil && a.through > 0 {
		_ = s.mend(ctx, a.after)
	}
}

// gotten notes that an embassy has a share of everything up to a stretch, and whether that is all it missed: Stream.mu is held.
func (l *lane) gotten(through uint64) {
	if l.whole = max(l.whole, through); l.missed <= through {
		l.missed = 0
	}
}

// given notes whether an embassy took a gathering.
func (s *Stream) given(l *lane, u *gatheringUp, took bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	through := u.first + uint64(len(u.list)) - 1
	switch {
	case !took: // it lacks that, though it may have what stands in it
		l.whole, l.missed = min(l.whole, u.first-1), max(l.missed, through)
	case l.missed > 0 && u.settles(arrears{after: l.whole, through: l.missed}):
		l.gotten(through)
	}
}

// settledFor is the stretch up to which an embassy has everything, as far as is known: s.mu is held.
func (s *Stream) settledFor(l *lane) uint64 {
	if l.missed > 0 {
		return l.whole
	}
	return max(l.whole, s.landedThrough())
}

// landedThrough is the newest durable stretch behind which alone something is on its way: s.mu is held.
func (s *Stream) landedThrough() uint64 {
	if len(s.lingering) > 0 {
		return min(s.kept, s.lingering[0].seq-1)
	}
	return s.kept
}
