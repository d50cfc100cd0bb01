package stream

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

const (
	firstPause = 250 * time.Millisecond // after an embassy failed; it doubles
	lastPause  = 5 * time.Second        // and ends here
	// maxLingering is how many durable stretches may be on their way to slow embassies.
	maxLingering = 64
	// fillBatch is how many records that an embassy lacks are read from disk at once.
	fillBatch = 64
)

// errSlow means that an embassy took so long that the others would have had to wait.
var errSlow = errors.New("slower than the stream")

// lane is an embassy as a stream sees it. Its fields are guarded by Stream.mu.
type lane struct {
	*register.Site
	why     error // of the last call, if it failed
	pause   time.Duration
	retry   time.Time // not before
	has     uint64    // it has all records up to this one
	beyond  map[uint64]bool
	under   map[uint64]bool // records that are on their way, maybe with others
	filling bool            // it is given records, or asked whether it is back
	whole   uint64          // it has a share of all stretches up to this one, in their own packs or gatherings'
	missed  uint64          // the newest stretch behind it of which, or of whose gathering, it may have none; 0: it misses nothing

	delivered uint64 // deliveries say what it was given, up to this stretch
}

// carry brings a stretch to one embassy: until it has it, or enough others do and it does not answer.
func (s *Stream) carry(f *flight, l *lane) {
	defer s.landed(f)
	shared := false
	for s.mayTry(f, l) {
		err := s.offer(f, l, &shared)
		if err == nil {
			s.acknowledged(f, l)
			return
		}
		if f.ctx.Err() != nil {
			if s.ctx.Err() == nil {
				s.fails(l, errSlow)
			}
			break
		}
		s.fails(l, err)
	}
	if !shared {
		s.mu.Lock()
		if f.seq > l.whole { // else it has the gathering
			l.missed = max(l.missed, f.seq)
		}
		s.mu.Unlock()
	}
}

// mayTry waits until an embassy that failed may be asked again. It is false when nobody needs it any more.
func (s *Stream) mayTry(f *flight, l *lane) bool {
	s.mu.Lock()
	wait := time.Duration(0)
	if l.why != nil {
		wait = time.Until(l.retry)
	}
	needed := !f.durable
	s.mu.Unlock()
	if wait <= 0 {
		return f.ctx.Err() == nil
	}
	if !needed {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return f.ctx.Err() == nil
	case <-f.over:
		return false
	case <-f.ctx.Done():
		return false
	}
}

// offer sends share and record at once: one way there and back. The record waits until it is on disk at home, and for
// its turn.
func (s *Stream) offer(f *flight, l *lane, shared *bool) error {
	answer := make(chan error, 1)
	go func() {
		if *shared {
			answer <- nil
			return
		}
		answer <- l.Objects.Put(f.ctx, f.ref.Shares[l.Share], f.parts[l.Share])
	}()
	<-f.logged
	err := f.lost
	if err == nil {
		err = s.bring(f, l)
	}
	if perr := <-answer; perr != nil {
		return fmt.Errorf("storing object %s: %w", f.ref.Shares[l.Share], perr)
	}
	*shared = true
	return err
}

// fails notes that a call failed: the embassy is left alone for a while.
func (s *Stream) fails(l *lane, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	if now := time.Now(); l.why == nil || now.After(l.retry) { // of several calls at once, one counts
		l.pause = min(max(2*l.pause, firstPause), lastPause)
		l.retry = now.Add(l.pause/2 + rand.N(l.pause))
	}
	l.why = err
}

func (l *lane) answers() { l.why, l.pause = nil, 0 }

// took notes that an embassy has a record: s.mu is held.
func (l *lane) took(seq uint64) {
	if seq > l.has {
		l.beyond[seq] = true
	}
	for l.beyond[l.has+1] {
		delete(l.beyond, l.has+1)
		l.has++
	}
}

// acknowledged notes that an embassy has share and record of a stretch, and which stretches are durable by that.
func (s *Stream) acknowledged(f *flight, l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.answers()
	f.acks++
	for len(s.flights) > 0 && s.flights[0].acks >= s.holders && s.broken == nil {
		first := s.flights[0]
		first.durable, s.durable = true, first.seq
		close(first.over)
		s.flights = s.flights[1:]
		s.settled = append(s.settled, first)
		if first.busy > 0 {
			s.lingering = append(s.lingering, first)
		}
		if len(s.lingering) > maxLingering {
			s.lingering[0].stop()
		}
		s.changed.Broadcast()
	}
	s.mayFill(l)
}

// landed is the end of a stretch's way to one embassy.
func (s *Stream) landed(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.busy--
	if f.busy > 0 {
		return
	}
	f.stop()
	s.giveBack(f.ref.Class, f.buf)
	f.parts, f.buf = nil, nil
	s.memory -= f.size
	if i := slices.Index(s.lingering, f); i >= 0 {
		s.lingering = slices.Delete(s.lingering, i, i+1)
	}
	s.changed.Broadcast()
}

// settle tells callers in order what became of their stretches, until the stream ends.
func (s *Stream) settle() {
	for {
		done, err := s.nextSettled()
		ended := err != nil
		if !ended {
			err = s.remember(done)
		}
		for _, f := range done {
			if f.done != nil {
				f.done(err)
			}
			if err == nil {
				s.gather.add(s, f)
			}
		}
		if ended {
			return
		}
		s.mu.Lock()
		s.settled = s.settled[len(done):]
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

// nextSettled waits for durable stretches. When the stream ends it returns those that never became so, and why.
func (s *Stream) nextSettled() ([]*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if done := s.settled; len(done) > 0 {
			return slices.Clone(done), nil
		}
		if s.broken != nil {
			rest := slices.Concat(s.flights, s.laying)
			s.flights, s.laying = nil, nil
			return rest, s.broken
		}
		s.changed.Wait()
	}
}

// remember writes down that stretches are durable, before anybody is told. It is not fsynced: see streamState.
func (s *Stream) remember(done []*flight) error {
	newest := done[len(done)-1]
	s.mu.Lock()
	s.kept, s.position = newest.seq, newest.position
	st, keep := s.toRemember()
	s.mu.Unlock()
	s.disk.Lock()
	err := s.state.write(st)
	if err == nil {
		err = s.log.trim(keep)
	}
	s.disk.Unlock()
	if err != nil {
		err = fmt.Errorf("local state of the stream: %w", err)
		s.mu.Lock()
		s.breakOff(err)
		s.mu.Unlock()
	}
	return err
}

// keepState writes down how far the embassies are.
func (s *Stream) keepState() error {
	s.mu.Lock()
	st, _ := s.toRemember()
	s.mu.Unlock()
	s.disk.Lock()
	defer s.disk.Unlock()
	return s.state.write(st)
}

// toRemember is the state, and the number below which no record is needed at home: s.mu is held.
func (s *Stream) toRemember() (*streamState, uint64) {
	st := &streamState{kept: s.kept, sites: map[[16]byte]siteState{}}
	keep := s.kept
	for _, l := range s.lanes {
		l.whole = s.settledFor(l)
		st.sites[l.ID] = siteState{l.has, l.delivered, l.whole}
		keep = min(keep, l.has, l.delivered)
	}
	return st, keep
}

// mayFill begins to give an embassy the records that it missed, if it lacks any that are not on their way: s.mu is held.
func (s *Stream) mayFill(l *lane) {
	if l.filling || s.broken != nil || l.has >= s.fillEnd() || l.why != nil && time.Now().Before(l.retry) {
		return
	}
	l.filling = true
	s.working.Go(func() { s.fill(l) })
}

// fillEnd is the newest record that is not on its way any more: s.mu is held.
func (s *Stream) fillEnd() uint64 {
	end := s.last
	for _, f := range slices.Concat(s.flights, s.lingering) {
		end = min(end, f.seq-1)
	}
	return end
}

// fill gives an embassy the records that it missed, in order.
func (s *Stream) fill(l *lane) {
	for {
		s.mu.Lock()
		from, end := l.has+1, s.fillEnd()
		if from > end || s.broken != nil {
			l.filling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if err := s.fillFrom(l, from, end); err != nil {
			s.fails(l, err)
			s.mu.Lock()
			l.filling = false
			s.mu.Unlock()
			return
		}
	}
}

func (s *Stream) fillFrom(l *lane, from, end uint64) error {
	var batch [][]byte
	s.disk.Lock()
	first := s.log.first()
	err := s.log.each(from, func(seq uint64, b []byte) (bool, error) {
		if seq > end || len(batch) == fillBatch || seq != from+uint64(len(batch)) {
			return false, nil
		}
		batch = append(batch, b)
		return true, nil
	})
	s.disk.Unlock()
	if err != nil {
		return err
	}
	if len(batch) == 0 { // not at home any more: Repair gives it from other embassies
		s.mu.Lock()
		l.has = max(l.has, from, max(first, 1)-1)
		l.took(l.has)
		s.mu.Unlock()
		return nil
	}
	n, err := l.Records.PutRecords(s.ctx, s.slot(from), batch)
	s.mu.Lock()
	for i := range n {
		l.answers()
		l.took(from + uint64(i))
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if n == 0 && errors.Is(err, fs.ErrExist) {
		return s.putRecord(s.ctx, l, s.slot(from), batch[0]) // and see what is there
	}
	return err
}

// tend looks after embassies that failed, also while nothing is appended.
func (s *Stream) tend() {
	t := time.NewTicker(tendPause)
	defer t.Stop()
	var done tending
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		s.mu.Lock()
		for _, l := range s.lanes {
			s.mayFill(l)
			s.mayAsk(l)
		}
		s.mu.Unlock()
		s.catchUp(&done)
	}
}

// mayAsk begins to find out whether an embassy that failed is back, while nothing is on its way that would tell: s.mu is held.
func (s *Stream) mayAsk(l *lane) {
	if l.why == nil || l.filling || s.broken != nil || len(s.flights)+len(s.lingering) > 0 || time.Now().Before(l.retry) {
		return
	}
	l.filling = true
	newest := s.last
	s.working.Go(func() {
		_, err := l.Records.ListRecords(s.ctx, ledger.StretchRecord, [16]byte(s.reg.ID), newest)
		if err != nil {
			s.fails(l, fmt.Errorf("listing records of the stream: %w", err))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.filling = false; err == nil {
			l.answers()
		}
	})
}
