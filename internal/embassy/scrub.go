package embassy

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Pace of the scrub.
const (
	defaultScrubEvery = 30 * 24 * time.Hour
	scrubRate         = 64 << 20 // bytes a second, never more
	scrubPage         = 64       // names taken from the catalogue at once
	scrubSaveEvery    = time.Minute
	scrubRetry        = time.Minute
	busyPause         = 50 * time.Millisecond
	maxKnown          = 1 << 16 // damaged names that are remembered
)

// scrubber reads every object of one state again and again, so that rot on the
// disk is found by the embassy itself and said in its ledger. A sweep goes
// through the names in order and takes half of `every`, so that also an object
// stored just behind it is read in time. It pauses while requests are at work,
// unless it is late.
type scrubber struct {
	state  charter.StateID
	key    ed25519.PrivateKey
	every  time.Duration
	look   func(ctx context.Context, name shard.Name, size int64) (what string, err error)
	list   func(after shard.Name, limit int) ([]shard.Name, error)
	find   func(shard.Name) (place, bool, error)
	total  func() uint64
	busy   func() bool
	record func(ctx context.Context, data []byte, sequence uint64) error // fs.ErrExist: the slot is taken
	now    func() time.Time
	wait   func(context.Context, time.Duration)
	log    *slog.Logger
	file   string

	mu    sync.Mutex // held by run while it changes at, and by status
	at    scrubPlace
	saved time.Time
	told  time.Time // when damage was last recorded
	stuck shard.Name
	tries int // to read stuck
}

func newScrubber(st *state, key ed25519.PrivateKey, srv *Server) *scrubber {
	s := &scrubber{
		state: st.id, key: key, every: st.opts.ScrubEvery, look: st.checkHeld,
		list: st.catalog.listObjects, find: st.catalog.object,
		total: func() uint64 { return uint64(st.catalog.totals().objects) },
		busy:  func() bool { return len(srv.slots) > 0 },
		now:   st.opts.now, wait: pause, log: st.log, file: filepath.Join(st.dir, "scrub"),
	}
	if s.every == 0 {
		s.every = defaultScrubEvery
	}
	s.record = func(ctx context.Context, data []byte, sequence uint64) error {
		slot := ledger.Slot{Kind: ledger.Scrub, Sequence: sequence}
		_, _, err := srv.takeRecord(ctx, st, slot, data, publicOf(key), false)
		return err
	}
	s.at = s.load()
	return s
}

// run scrubs until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := s.step(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Error("scrub", "err", err)
			wait = scrubRetry
		}
		s.wait(ctx, wait)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.save(); err != nil {
		s.log.Error("scrub", "err", err)
	}
}

// pause waits, or returns when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// span is how long a sweep takes.
func (s *scrubber) span() time.Duration { return s.every / 2 }

// due is when the next object's turn comes, at an even pace through the span.
func (s *scrubber) due() time.Time {
	share := min(1, float64(s.at.Done)/float64(max(1, s.total())))
	return s.at.began().Add(time.Duration(share * float64(s.span())))
}

// step reads one page of objects, or ends a sweep, and tells how long nothing is
// to be done.
func (s *scrubber) step(ctx context.Context) (time.Duration, error) {
	now := s.now()
	if s.at.began().After(now) { // the clock was set back: what it said before means nothing
		s.change(func(p *scrubPlace) { p.begin(now) })
	}
	if s.at.Resting {
		next := s.at.began().Add(s.span())
		if s.at.Done == 0 { // there was nothing to read: look again soon
			next = s.at.began().Add(s.span() / 100)
		}
		if wait := next.Sub(now); wait > 0 {
			return min(wait, s.span()), nil
		}
		s.change(func(p *scrubPlace) { p.begin(now) })
	}
	if len(s.at.Found) >= audit.MaxFound || len(s.at.Mended) >= audit.MaxFound { // it could not be told before
		if err := s.tell(ctx, s.at.after()); err != nil {
			return 0, err
		}
	}
	slack := min(5*time.Second, s.span()/100)
	if wait := s.due().Sub(now); wait > 0 {
		return wait + slack, nil
	}
	names, err := s.list(s.at.after(), scrubPage)
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, s.endSweep(ctx)
	}
	for _, name := range names {
		if s.due().After(s.now().Add(slack)) {
			break
		}
		s.yield(ctx)
		if err := s.one(ctx, name); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// yield waits while requests are at work. Late by an eighth of the span it does
// not wait any more: else a busy embassy would never read its disk.
func (s *scrubber) yield(ctx context.Context) {
	for s.busy() && ctx.Err() == nil && s.now().Before(s.due().Add(s.span()/8)) {
		s.wait(ctx, busyPause)
	}
}

// one reads an object and keeps what was found.
func (s *scrubber) one(ctx context.Context, name shard.Name) error {
	p, ok, err := s.find(name)
	if err != nil {
		return err
	}
	what := ""
	if ok {
		began := s.now()
		if what, err = s.check(ctx, name, int64(p.size)); err != nil {
			return s.stumble(name, err)
		}
		// Never faster than the disk can bear beside its work.
		took, least := s.now().Sub(began), time.Duration(p.size)*time.Second/scrubRate
		defer s.wait(ctx, least-took)
	}
	s.change(func(at *scrubPlace) { at.took(name, p.size, what) })
	if len(s.at.Found) >= audit.MaxFound || len(s.at.Mended) >= audit.MaxFound || (len(s.at.Found) > 0 && s.now().Sub(s.told) >= s.every/720) {
		return s.tell(ctx, s.at.after())
	}
	if s.now().Sub(s.saved) >= scrubSaveEvery {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.save()
	}
	return nil
}

// stumble steps over an object that could not be read for a reason that says
// nothing of it, after some tries. It counts neither as read nor as damaged.
func (s *scrubber) stumble(name shard.Name, err error) error {
	if s.stuck != name {
		s.stuck, s.tries = name, 0
	}
	if s.tries++; s.tries >= attempts {
		s.change(func(at *scrubPlace) { at.After = name.String() })
	}
	return err
}

// check reads twice before it calls an object damaged: the first time it may
// have met a repair.
func (s *scrubber) check(ctx context.Context, name shard.Name, size int64) (string, error) {
	what, err := s.look(ctx, name, size)
	if what == "" || err != nil {
		return what, err
	}
	return s.look(ctx, name, size)
}

// endSweep records the rest of a sweep; where nothing is stored there is nothing
// to say.
func (s *scrubber) endSweep(ctx context.Context) error {
	if s.at.Done > 0 {
		if err := s.tell(ctx, lastName); err != nil {
			return err
		}
	}
	if err := s.forgetRemoved(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at.rest()
	return s.save()
}

// forgetRemoved takes what is not held any more off the list of damaged objects:
// no sweep comes by it again.
func (s *scrubber) forgetRemoved() error {
	for text := range s.at.Known {
		name, err := shard.ParseName(text)
		if err != nil {
			return fmt.Errorf("embassy: scrub: %w", err)
		}
		if _, held, err := s.find(name); held || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		s.change(func(p *scrubPlace) { delete(p.Known, text) })
	}
	return nil
}

// tell stores a record of what was read since the last one, up to the name `to`.
func (s *scrubber) tell(ctx context.Context, to shard.Name) error {
	r := s.at.document(s.state, to, s.now(), s.total())
	if _, err := rand.Read(r.Salt[:]); err != nil {
		return fmt.Errorf("embassy: scrub: %w", err)
	}
	for {
		if err := r.Sign(s.key); err != nil {
			// Only a place that somebody wrote by hand is no place of a sweep.
			s.change(func(p *scrubPlace) { p.begin(s.now()) })
			return err
		}
		data, err := r.Bytes()
		if err != nil {
			return err
		}
		// A crash after this and before the next save leaves a record that the
		// place does not know: what it tells of is read and told again, under the
		// next free number.
		err = s.record(ctx, data, r.Sequence)
		if errors.Is(err, errTaken) && r.Sequence < math.MaxUint64 {
			r.Sequence++
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if len(r.Damaged) > 0 {
		s.told = s.now()
		s.log.Warn("scrub found damaged objects", "damaged", len(r.Damaged), "record", r.Sequence)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at.told(r)
	return s.save()
}

// change alters the place where status may see it.
func (s *scrubber) change(do func(*scrubPlace)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(&s.at)
}

// status is the state of things in numbers.
func (s *scrubber) status() *ScrubStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &ScrubStatus{Sequence: s.at.Sequence, Checked: s.at.Read, Damaged: uint64(len(s.at.Known))}
	if s.at.Ended > 0 {
		st.Ended = time.Unix(0, s.at.Ended).UTC()
	}
	for _, f := range s.at.Found {
		if _, ok := s.at.Known[f.Name.String()]; !ok {
			st.Damaged++
		}
	}
	if s.at.Whole > 0 && s.now().Sub(time.Unix(0, s.at.Whole)) <= s.every {
		st.Coverage = 1
	} else {
		st.Coverage = min(1, float64(s.at.Done)/float64(max(1, s.total())))
	}
	return st
}

// sortFound orders findings by name.
func sortFound(found []audit.Found) {
	slices.SortFunc(found, func(a, b audit.Found) int { return slices.Compare(a.Name[:], b.Name[:]) })
}
