package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// Errors that end a stream: going on would paper over what people must decide.
var (
	// ErrTwoServers means that the server's log differs from what the embassies hold of the same place: two servers wrote
	// one timeline.
	ErrTwoServers = errors.New("two servers wrote the same place of the log")
	// ErrBehind means that the server is at an earlier place than the embassies hold: an older copy of it was started.
	ErrBehind = errors.New("the server is behind what the embassies hold")
)

// StreamOptions say how a cluster's log is taken abroad.
type StreamOptions struct {
	Conninfo string
	Slot     string // at the server; it is made where it is missing
	// Synchronous sends each piece at once, so that a server that names us as its synchronous standby commits as soon as
	// may be. Without, a piece waits up to Interval for more.
	Synchronous bool
	Interval    time.Duration
	// Until ends the stream once this much of the timeline is durable; zero never does.
	Until *Position
	// Watch is how often it is looked how much log the server keeps for us, and whether the embassies answer; 0 is 30 s.
	Watch time.Duration
	// Keep is given what a conflict leaves as evidence; write writes the server's own bytes, and may fail. May be nil.
	Keep func(e Evidence, write func(io.Writer) error) error
	// Tell is told what happens, by one goroutine at a time; may be nil.
	Tell func(Event)
}

// Event is what a stream has to tell.
type Event struct {
	What  EventKind    `json:"what"`
	Text  string       `json:"text"`
	Alarm bool         `json:"alarm"` // somebody should look
	Line  wal.Timeline `json:"timeline,omitempty"`
	LSN   wal.LSN      `json:"lsn,omitempty"`
	Time  time.Time    `json:"time"`
}

// EventKind is the word for an event, which scripts may rely on.
type EventKind string

// The events.
const (
	Connected    EventKind = "connected"
	Disconnected EventKind = "disconnected" // the server or the embassies do not answer; it is tried again
	Durable      EventKind = "durable"      // enough embassies hold the log up to here
	Switched     EventKind = "switched"     // the server went over to another timeline
	Gap          EventKind = "gap"          // a part of the log was never taken: only a new base backup makes up for it
	Abandoned    EventKind = "abandoned"    // what was taken of a timeline is longer than what the server went on from
	Unanswered   EventKind = "unanswered"   // too few embassies answer: nothing becomes durable, and the server keeps the log
	Filling      EventKind = "filling"      // the server keeps more and more log: its disk may fill, or the slot be lost
	Conflict     EventKind = "conflict"     // two servers, or an older copy
	Stopped      EventKind = "stopped"      // it cannot go on: no room at home, or the server may not be asked
)

// Stream takes a cluster's log to the embassies until ctx ends, or a thing happens that people must decide. It
// reconnects by itself. The server is told only of what is durable (stream.Options).
func Stream(ctx context.Context, to *stream.Stream, o StreamOptions) error {
	s, err := newStreamer(to, o)
	if err != nil {
		return err
	}
	pause := time.Duration(0)
	for {
		started := time.Now()
		err := s.session(ctx)
		switch {
		case s.reached():
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errAgain):
			pause = 0
			continue
		case s.final(err):
			err = s.evidence(ctx, err)
			s.tell(Event{What: lastWord(err), Alarm: true, Text: err.Error()})
			return err
		}
		if time.Since(started) > 5*time.Second {
			pause = 0
		}
		pause = min(max(2*pause, 200*time.Millisecond), 15*time.Second)
		s.tell(Event{What: Disconnected, Alarm: pause > 5*time.Second, Text: err.Error()})
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lastWord is the event with which a stream ends by itself.
func lastWord(err error) EventKind {
	for _, x := range []error{ErrTwoServers, ErrBehind, register.ErrForked, cluster.ErrSystemChanged} {
		if errors.Is(err, x) {
			return Conflict
		}
	}
	return Stopped
}

// errAgain asks for another session at once.
var errAgain = errors.New("begin again")

// final tells errors that trying again does not mend.
func (s *streamer) final(err error) bool {
	for _, x := range []error{
		ErrTwoServers, ErrBehind, register.ErrForked, stream.ErrClosed, cluster.ErrSystemChanged, cluster.ErrVersion,
		cluster.ErrSlotKind, cluster.ErrConninfo, cluster.ErrNotReplication, ErrPosition,
	} {
		if errors.Is(err, x) {
			return true
		}
	}
	_, _, broken := s.to.Last()
	return broken != nil
}

// streamer is the state of a stream over all its sessions.
type streamer struct {
	to   *stream.Stream
	opts StreamOptions

	// One goroutine at a time: the session's, or the one that hands over for it.
	at       Position // behind the newest byte that was handed to the archive; Timeline 0 before the first
	fresh    bool     // what comes next does not follow at: a new stream, or behind a gap
	unproved wal.LSN  // the server no longer has the segment before this position to compare
	digest   *digest
	ratio    float64 // of compression, as seen lately
	press    *pack.Compressor
	pressed  []byte
	conflict *span // what of the server's log is evidence

	raised map[EventKind]time.Time // alarms of the watch, when they were raised last
	failed int                     // how many looks in a row saw too few embassies

	telling sync.Mutex
	acking  sync.Mutex // held while an acknowledgement is written

	mu       sync.Mutex // guards what follows
	live     *cluster.Stream
	line     wal.Timeline // of live
	received wal.LSN      // by live, and held against what was taken before; 0 before that
	durable  Position     // the newest log that is durable
	intake   *intake
	flights  int
	done     chan struct{} // closed when all that was asked for is durable
	isDone   bool
}

func newStreamer(to *stream.Stream, o StreamOptions) (*streamer, error) {
	s := &streamer{to: to, opts: o, fresh: true, ratio: 2, press: pack.NewCompressor(), done: make(chan struct{}), raised: map[EventKind]time.Time{}}
	raw, seq, err := to.Last()
	if err != nil || seq == 0 {
		return s, err
	}
	if s.at, err = ParsePosition(raw); err != nil {
		return nil, err
	}
	s.fresh = s.at.Kind == KindHistory
	s.landed(s.at)
	return s, nil
}

func (s *streamer) tell(e Event) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if e.Time = time.Now(); s.opts.Tell != nil {
		s.opts.Tell(e)
	}
}

// session is one connection: from finding the place to go on from, to the end of the connection or of the timeline.
func (s *streamer) session(ctx context.Context) error {
	conn, err := cluster.Open(ctx, s.opts.Conninfo)
	if err != nil {
		return err
	}
	defer conn.Close()
	var id cluster.Identity
	if s.at.System != 0 {
		id, err = conn.Require(ctx, s.at.System)
	} else {
		id, err = conn.Identify(ctx)
	}
	if err != nil {
		return err
	}
	slot, err := s.slot(ctx, conn)
	if err != nil {
		return err
	}
	from, err := s.place(ctx, conn, id, slot)
	if err != nil {
		return err
	}
	live, err := conn.StartStream(ctx, s.opts.Slot, from, s.at.Timeline)
	switch {
	case errors.Is(err, cluster.ErrWALRemoved):
		return s.removed(from, err)
	case errors.Is(err, cluster.ErrDiverged):
		return s.diverged(ctx, conn, id, err)
	case err != nil:
		return err
	}
	s.tell(Event{What: Connected, Line: s.at.Timeline, LSN: from, Text: fmt.Sprintf("the log from %s of timeline %d", from, s.at.Timeline)})
	return s.receive(ctx, conn, live, from, id.Timeline != s.at.Timeline)
}

// slot makes sure of the slot. One that the server gave up is told of and made anew.
func (s *streamer) slot(ctx context.Context, conn *cluster.Conn) (cluster.Slot, error) {
	slot, created, err := conn.EnsureSlot(ctx, s.opts.Slot)
	lost := errors.Is(err, cluster.ErrSlotLost)
	if lost {
		if err := conn.DropSlot(ctx, s.opts.Slot); err != nil {
			return slot, err
		}
		slot, created, err = conn.EnsureSlot(ctx, s.opts.Slot)
	}
	if err == nil && created && (lost || !s.fresh) { // the log may still be there: asking for it will tell
		why := "was not there"
		if lost {
			why = "held more log than the server allows, which gave it up"
		}
		s.tell(Event{What: Disconnected, Alarm: true, Text: fmt.Sprintf("slot %s %s; it is made anew", s.opts.Slot, why)})
	}
	return slot, err
}

// place finds where to begin. What was taken of the last segment is read again, and held against what was taken.
func (s *streamer) place(ctx context.Context, conn *cluster.Conn, id cluster.Identity, slot cluster.Slot) (wal.LSN, error) {
	if err := id.SegmentSize.Check(); err != nil {
		return 0, err
	}
	if err := s.follows(id); err != nil {
		return 0, err
	}
	switch {
	case s.at.Kind == KindHistory: // the archive heard of the timeline, and of nothing in it
		_, at, err := beginning(ctx, conn, s.at.Timeline)
		if err != nil {
			return 0, err
		}
		s.turned(s.at.Timeline, at)
	case s.fresh:
		from := slot.RestartLSN
		if from == 0 {
			from = id.WriteLSN
		}
		s.at = Position{System: id.System, Segment: id.SegmentSize}
		if id.Timeline > 1 { // the slot may be older than the timeline
			at, err := s.history(ctx, conn, id.Timeline)
			if err != nil {
				return 0, err
			}
			from = max(from, at)
		}
		s.turned(id.Timeline, from)
		s.fresh = true
	}
	from := s.at.End
	if s.at.Start < s.at.End && s.unproved != s.at.End { // of a whole segment it is that one: another server may have written it
		from = s.at.Segment.Floor(s.at.End - 1)
	}
	s.digest = newDigest(s.at.Segment, from)
	return from, nil
}

// turned has the stream go on at the beginning of the segment that holds a position, on a timeline of which nothing was
// taken yet.
func (s *streamer) turned(tl wal.Timeline, at wal.LSN) {
	from := s.at.Segment.Floor(at)
	s.at = Position{Kind: KindLog, System: s.at.System, Timeline: tl, Segment: s.at.Segment, Start: from, End: from, Clock: s.at.Clock}
	s.fresh = false
}

// beginning is where a timeline that is not the first left the one before it, and the whole history.
func beginning(ctx context.Context, conn *cluster.Conn, tl wal.Timeline) ([]byte, wal.LSN, error) {
	_, text, err := conn.TimelineHistory(ctx, tl)
	if err != nil {
		return nil, 0, err
	}
	h, err := wal.ParseHistory(tl, text)
	if err != nil || len(h.Ancestors) == 0 {
		return nil, 0, err
	}
	return text, h.Ancestors[len(h.Ancestors)-1].LSN, nil
}

// history hands over how a timeline came to be, and returns where it began.
func (s *streamer) history(ctx context.Context, conn *cluster.Conn, tl wal.Timeline) (wal.LSN, error) {
	text, at, err := beginning(ctx, conn, tl)
	if err != nil {
		return 0, err
	}
	p := Position{Kind: KindHistory, System: s.at.System, Timeline: tl, Segment: s.at.Segment, Clock: time.Now().UnixNano()}
	return at, s.append(ctx, p, text)
}

// errCatchUp is a standby that does not have yet what the embassies hold. It will, or is promoted without.
var errCatchUp = errors.New("the standby is behind what the embassies hold")

// follows holds a server's place against what was taken.
func (s *streamer) follows(id cluster.Identity) error {
	at := &s.at
	if at.Timeline == 0 {
		return nil
	}
	if id.SegmentSize != at.Segment {
		return fmt.Errorf("%w: segments of %d bytes, not %d", cluster.ErrSystemChanged, id.SegmentSize, at.Segment)
	}
	if id.Timeline > at.Timeline || id.Timeline == at.Timeline && id.WriteLSN >= at.End {
		return nil
	}
	why := ErrBehind
	if id.Standby {
		why = errCatchUp
	}
	s.conflict = &span{id.Timeline, at.Segment.Floor(id.WriteLSN - 1), id.WriteLSN}
	return fmt.Errorf("%w: it is at %s of timeline %d, they are at %s of timeline %d", why, id.WriteLSN, id.Timeline, at.End, at.Timeline)
}

// removed is log that the server no longer has. Where only what was to be compared is missing, the next session goes
// without.
func (s *streamer) removed(from wal.LSN, err error) error {
	if from < s.at.Segment.Floor(s.at.End) {
		s.unproved = s.at.End
		return errAgain
	}
	if s.fresh { // nothing follows it: the slot is not where it says
		return err
	}
	return s.gap(fmt.Sprintf("the server no longer has the log from %s: %v", from, err))
}

// gap tells of log that is lost, and has the next session begin where the server's log does.
func (s *streamer) gap(why string) error {
	s.tell(Event{What: Gap, Alarm: true, Line: s.at.Timeline, LSN: s.at.End, Text: fmt.Sprintf(
		"from %s on a part of the log was never taken: %s; until a new base backup nothing behind can be restored", s.at.End, why)})
	s.at, s.fresh = Position{System: s.at.System}, true
	return errAgain
}

// diverged is a server whose history left our timeline before our position. If it did so for a later timeline, it was
// promoted without the end of the old one: that end stays abroad, and the log goes on from where the server left.
func (s *streamer) diverged(ctx context.Context, conn *cluster.Conn, id cluster.Identity, why error) error {
	s.conflict = &span{id.Timeline, s.at.Segment.Floor(id.WriteLSN - 1), id.WriteLSN}
	if id.Timeline <= s.at.Timeline {
		return fmt.Errorf("%w: %w", ErrBehind, why)
	}
	_, text, err := conn.TimelineHistory(ctx, id.Timeline)
	if err != nil {
		return err
	}
	h, err := wal.ParseHistory(id.Timeline, text)
	if err != nil {
		return err
	}
	left, ok := h.Left(s.at.Timeline)
	if !ok || left >= s.at.End {
		return fmt.Errorf("%w: timeline %d does not come from timeline %d: %w", ErrTwoServers, id.Timeline, s.at.Timeline, why)
	}
	next := id.Timeline
	for _, a := range h.Ancestors { // the first that follows ours
		if a.Timeline > s.at.Timeline {
			next = a.Timeline
			break
		}
	}
	return s.turn(ctx, conn, next, left)
}

// turn goes over to another timeline: its history first, then its log from the segment in which it began. What was taken
// of the old one behind that place stays abroad, and is told of: the server was promoted without it.
func (s *streamer) turn(ctx context.Context, conn *cluster.Conn, next wal.Timeline, at wal.LSN) error {
	if s.at.Start < s.at.End && at < s.at.End {
		s.tell(Event{What: Abandoned, Alarm: true, Line: s.at.Timeline, LSN: at, Text: fmt.Sprintf(
			"the server left timeline %d at %s; the embassies hold it until %s: what was committed between is not in timeline %d",
			s.at.Timeline, at, s.at.End, next)})
	}
	if _, err := s.history(ctx, conn, next); err != nil {
		return err
	}
	s.tell(Event{What: Switched, Line: next, LSN: at, Text: fmt.Sprintf("timeline %d follows timeline %d at %s", next, s.at.Timeline, at)})
	s.turned(next, at)
	return errAgain
}
