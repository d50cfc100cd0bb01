package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/wal"
)

const (
	// fill and fillSmall are how many compressed bytes a stretch should have: just below what the packs of a mebibyte and of
	// 64 KiB hold.
	fill      = 900 << 10
	fillSmall = 50 << 10
	// most is how many bytes a stretch holds however well they compress: some of them are in memory at once.
	most = 8 << 20
	// samples of this many bytes, spread over a piece, are compressed to guess how much the whole will be.
	samples, sampleBytes = 4, 16 << 10
	// watchEvery is how often it is looked how much log the server keeps for us.
	watchEvery = 30 * time.Second
)

// receive takes the log until the connection or the timeline ends, or all that was asked for is durable.
//
//	server ── collect ──> intake ── hand ──> stream.Stream ───> embassies
//	   ^                                           └── landed: k of them hold it
//	   └─────────────── acknowledgement ───────────────┘
//
// A timeline that the server has left says nothing of how late it is.
func (s *streamer) receive(ctx context.Context, conn *cluster.Conn, live *cluster.Stream, from wal.LSN, left bool) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	small, full := s.sizes()
	in := newIntake(pace{small, full, s.opts.Interval, s.idle})
	s.mu.Lock()
	s.live, s.line, s.received, s.intake = live, s.at.Timeline, 0, in
	s.mu.Unlock()
	handed, watched := make(chan error, 1), make(chan struct{})
	go func() {
		err := s.hand(ctx, in)
		if err != nil {
			stop()
		}
		handed <- err
	}()
	go func() {
		defer close(watched)
		s.watch(inner, stop)
	}()
	end, err := s.collect(inner, live, in, from, left)
	in.close() // what is left is handed over all the same
	if herr := <-handed; herr != nil {
		err = herr
	}
	stop()
	<-watched
	s.acking.Lock() // the connection is about to be closed: nobody writes to it any more
	s.mu.Lock()
	s.live, s.intake = nil, nil
	s.mu.Unlock()
	s.acking.Unlock()
	switch {
	case errors.Is(err, cluster.ErrWALRemoved):
		return s.removed(from, err)
	case err != nil || end == nil:
		return err
	}
	return s.turn(ctx, conn, end.Next, end.Switch)
}

// collect receives until an error or the end of the timeline.
func (s *streamer) collect(ctx context.Context, live *cluster.Stream, in *intake, from wal.LSN, left bool) (*cluster.Message, error) {
	taken := s.at
	for {
		m, err := live.Receive(ctx)
		switch {
		case err != nil:
			return nil, err
		case m.Kind == cluster.End:
			return &m, nil
		case m.Kind != cluster.WAL:
			continue
		}
		data := m.Data
		if m.Start < taken.End { // taken before: only compared
			n := min(len(data), int(taken.End-m.Start))
			s.digest.add(data[:n])
			data = data[n:]
			if s.digest.at == taken.End && s.digest.value() != taken.Digest {
				s.conflict = &span{taken.Timeline, from, taken.End}
				return nil, fmt.Errorf("%w: timeline %d from %s to %s", ErrTwoServers, taken.Timeline, from, taken.End)
			}
		}
		end := m.Start + wal.LSN(len(m.Data))
		if end >= taken.End {
			s.came(end)
		}
		if !left {
			in.heard(end, m.ServerEnd, m.Sent)
		}
		if err := in.add(data); err != nil {
			return nil, err
		}
	}
}

// hand gives the archive what comes in, piece by piece, until the intake is closed and empty.
func (s *streamer) hand(ctx context.Context, in *intake) error {
	wake := context.AfterFunc(ctx, func() { in.fail(context.Cause(ctx)) })
	defer wake()
	for {
		data, err := in.next()
		if err != nil || len(data) == 0 {
			return err
		}
		for len(data) > 0 {
			n := s.piece(data)
			if err := s.handOver(ctx, in, data[:n]); err != nil {
				in.fail(err)
				return err
			}
			data = data[n:]
		}
		in.set(s.sizes())
	}
}

// handOver gives the archive one piece.
func (s *streamer) handOver(ctx context.Context, in *intake, data []byte) error {
	p := s.at
	p.Kind, p.Start, p.End = KindLog, s.at.End, s.at.End+wal.LSN(len(data))
	if at := in.reached(p.End); !at.IsZero() {
		p.Clock = at.UnixNano()
	}
	s.digest.add(data)
	p.Digest = s.digest.value()
	if err := s.append(ctx, p, data); err != nil {
		return err
	}
	s.at, s.fresh = p, false
	return nil
}

// sizes are how many bytes make a stretch that fills a small pack, and the next one.
func (s *streamer) sizes() (small, full int) {
	return int(fillSmall * s.ratio), min(int(fill*s.ratio), most)
}

// piece is how much of what came makes one stretch: what does not fit the pack that it was cut for would take one that is
// sixteen times as large. It learns how well the log compresses.
func (s *streamer) piece(data []byte) int {
	if len(data) < samples*sampleBytes {
		return len(data)
	}
	raw, pressed := 0, 0
	for i := range samples {
		at := i * (len(data) - sampleBytes) / (samples - 1)
		s.pressed, _ = s.press.Compress(s.pressed[:0], data[at:at+sampleBytes])
		raw, pressed = raw+sampleBytes, pressed+len(s.pressed)
	}
	s.ratio = min(16, float64(raw)/float64(pressed+1))
	if n := int(fill * s.ratio); len(data) > n+n/10 { // the archive's frame of all of it is smaller than the samples say
		return n
	}
	return len(data)
}

// idle reports whether a piece should go at once: in synchronous mode, unless one is on its way.
func (s *streamer) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts.Synchronous && s.flights == 0
}

// append hands one stretch to the archive.
func (s *streamer) append(ctx context.Context, p Position, data []byte) error {
	raw, err := p.Bytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.flights++
	s.mu.Unlock()
	err = s.to.Append(ctx, raw, data, func(err error) {
		s.mu.Lock()
		s.flights--
		in := s.intake
		s.mu.Unlock()
		if err == nil {
			s.landed(p)
		}
		if in != nil {
			in.wake()
		}
	})
	if err != nil {
		s.mu.Lock()
		s.flights--
		s.mu.Unlock()
	}
	return err
}

// landed is a stretch that is durable, with all before it.
func (s *streamer) landed(p Position) {
	if p.Kind != KindLog {
		return
	}
	s.mu.Lock()
	s.durable = p
	if u := s.opts.Until; u != nil && !s.isDone && (p.Timeline > u.Timeline || p.Timeline == u.Timeline && p.End >= u.End) {
		s.isDone = true
		close(s.done)
	}
	s.mu.Unlock()
	s.acknowledge()
	s.tell(Event{What: Durable, Line: p.Timeline, LSN: p.End})
}

// came notes how far the connection has come, behind what was compared.
func (s *streamer) came(to wal.LSN) {
	s.mu.Lock()
	first := s.received == 0
	s.received = to
	s.mu.Unlock()
	if first { // what became durable while there was no connection: a commit may wait for it
		s.acknowledge()
	}
}

// acknowledge tells the server what is durable, and nothing else is ever acknowledged: nothing of another timeline,
// whose end may lie beyond where this one began, and nothing that the server's own log was not held against.
func (s *streamer) acknowledge() {
	s.acking.Lock()
	defer s.acking.Unlock()
	s.mu.Lock()
	live, to := s.live, s.durable.End
	if s.durable.Timeline != s.line || to > s.received {
		live = nil
	}
	s.mu.Unlock()
	if live != nil {
		_ = live.Acknowledge(to, to, to) // a broken connection is the receiver's to tell
	}
}

func (s *streamer) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isDone
}

// watch looks how much log the server keeps for us, and stops the session when all that was asked for is durable.
func (s *streamer) watch(ctx context.Context, stop func()) {
	tick := time.NewTicker(cmp.Or(s.opts.Watch, watchEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			stop()
			return
		case <-tick.C:
			s.look(ctx)
			s.answering()
		}
	}
}

// answering raises an alarm while too few embassies answer. One look may fall on a moment that means nothing.
func (s *streamer) answering() {
	err := s.to.Healthy()
	if err == nil {
		if s.failed > 1 {
			delete(s.raised, Unanswered)
			s.tell(Event{What: Connected, Text: "enough embassies answer again"})
		}
		s.failed = 0
		return
	}
	if s.failed++; s.failed > 1 {
		s.raise(Event{What: Unanswered, Alarm: true, Text: err.Error()})
	}
}

// raise tells an alarm of a state that lasts, now and then.
func (s *streamer) raise(e Event) {
	if time.Since(s.raised[e.What]) > raiseEvery {
		s.raised[e.What] = time.Now()
		s.tell(e)
	}
}

const (
	// tightBelow: less room than this before the slot may be lost.
	tightBelow = 512 << 20
	// muchKept: more log than this that the server keeps for us while no limit is set, so that its disk fills.
	muchKept = 4 << 30
	// raiseEvery is how often an alarm of a state that lasts is raised.
	raiseEvery = 10 * time.Minute
)

// look raises an alarm before the server gives the slot up, or its disk fills.
func (s *streamer) look(ctx context.Context) {
	conn, err := cluster.Open(ctx, s.opts.Conninfo)
	if err != nil {
		return // the stream's own connection tells
	}
	defer conn.Close()
	id, err := conn.Identify(ctx)
	if err != nil {
		return
	}
	slot, err := conn.Slot(ctx, s.opts.Slot)
	if err != nil {
		return
	}
	kept := id.WriteLSN - min(id.WriteLSN, slot.RestartLSN)
	switch {
	case slot.SafeWALSize != nil && *slot.SafeWALSize < tightBelow && (slot.WALStatus != "reserved" || kept > tightBelow):
		s.raise(Event{What: Filling, Alarm: true, LSN: id.WriteLSN, Text: fmt.Sprintf(
			"the server keeps %d MiB of log for us and gives slot %s up after %d MiB more", kept>>20, s.opts.Slot, *slot.SafeWALSize>>20)})
	case slot.SafeWALSize == nil && kept > muchKept:
		s.raise(Event{What: Filling, Alarm: true, LSN: id.WriteLSN, Text: fmt.Sprintf(
			"the server keeps %d MiB of log for us without a limit (max_slot_wal_keep_size): its disk may fill", kept>>20)})
	}
}
