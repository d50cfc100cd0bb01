package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"chancery.dev/chancery/internal/wal"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	beatEvery    = 10 * time.Second // a status goes to the server at least so often
	silenceLimit = 60 * time.Second // without a message, though each status asks for one
	writeTimeout = 30 * time.Second
)

// MessageKind says what a message of a stream is.
type MessageKind int

// The kinds of messages.
const (
	WAL       MessageKind = iota + 1 // bytes of the log
	Keepalive                        // the server is there, and says how far it is
	End                              // the timeline ends here; the server has gone over to another
)

// A Message is what a stream receives.
type Message struct {
	Kind      MessageKind
	Start     wal.LSN   // of Data
	Data      []byte    // valid until the next Receive
	ServerEnd wal.LSN   // how far the server's log was written
	Sent      time.Time // by the server's clock
	// ReplyRequested: the server asked for an answer, and has had it.
	ReplyRequested bool

	Next   wal.Timeline // End: the timeline that follows
	Switch wal.LSN      // End: where it begins
}

// A Stream receives the log of one timeline. One goroutine receives; another may acknowledge. The connection does
// nothing else until the timeline ends or the stream is stopped.
type Stream struct {
	conn     *Conn
	timeline wal.Timeline
	quit     chan struct{} // closed when nothing more is to be sent
	finish   func()
	beats    sync.WaitGroup

	// the receiver's
	end *Message // the timeline's end, when it was reached

	mu       sync.Mutex // guards what follows, and writing
	at       wal.LSN    // end of what was received
	acked    position
	finished bool
	waiting  bool      // Receive waits for the server
	left     time.Time // when Receive returned last
	stalled  bool      // closed because nobody received
}

type position struct{ written, flushed, applied wal.LSN }

// StartStream begins to receive the log of a timeline from a position, through a slot, or through none for an empty
// name: then the server may remove what was not received. Where the log is kept in whole segments start is the first
// position of one. It fails with [ErrSlotLost], [ErrSlotMissing], [ErrSlotBusy], [ErrWALRemoved] (also from
// [Stream.Receive]), [ErrDiverged] and [ErrSystemChanged].
func (c *Conn) StartStream(ctx context.Context, slot string, start wal.LSN, timeline wal.Timeline) (*Stream, error) {
	s, err := c.startStream(ctx, slot, start, timeline)
	if err != nil {
		return nil, fmt.Errorf("stream from %s on timeline %d: %w", start, timeline, err)
	}
	return s, nil
}

func (c *Conn) startStream(ctx context.Context, slot string, start wal.LSN, timeline wal.Timeline) (*Stream, error) {
	id, err := c.Identify(ctx)
	if err != nil {
		return nil, err
	}
	if timeline > id.Timeline || timeline == id.Timeline && start > id.WriteLSN {
		return nil, fmt.Errorf("%w: it is at %s on timeline %d", ErrDiverged, id.WriteLSN, id.Timeline)
	}
	if slot != "" {
		if err := c.usable(ctx, slot); err != nil {
			return nil, err
		}
		slot = "SLOT " + quoteName(slot) + " "
	}
	if err := c.send(ctx, fmt.Sprintf("START_REPLICATION %sPHYSICAL %s TIMELINE %d", slot, start, timeline)); err != nil {
		return nil, err
	}
	s := newStream(c, start, timeline)
	m, err := c.next(ctx, answerTimeout)
	if err != nil {
		if stateOf(err) == "XX000" { // the server has no code of its own for this
			err = fmt.Errorf("%w: %w", ErrDiverged, err)
		}
		return nil, err
	}
	switch m := m.(type) {
	case *pgproto3.CopyBothResponse:
		_ = c.net.SetDeadline(time.Time{}) // from here on reading and writing each have their own
		c.live = s
		s.beats.Go(s.beat)
		return s, nil
	case *pgproto3.RowDescription: // the timeline ends just where it should begin
		s.finished = true
		s.finish()
		return s, s.readEnd(ctx, m)
	}
	return nil, c.nonsense(m, "the beginning of a stream")
}

func newStream(c *Conn, start wal.LSN, timeline wal.Timeline) *Stream {
	s := &Stream{conn: c, timeline: timeline, at: start, left: time.Now(), quit: make(chan struct{})}
	s.finish = sync.OnceFunc(func() { close(s.quit) })
	return s
}

// usable asks how the slot stands: the server's refusal of a lost one has a code that others share.
func (c *Conn) usable(ctx context.Context, name string) error {
	s, err := c.Slot(ctx, name)
	if err == nil && s.Lost() {
		return fmt.Errorf("slot %s: %w", name, ErrSlotLost)
	}
	return err
}

// beat tells the server now and then how far the stream is, and that it is there, and asks the same of it.
func (s *Stream) beat() {
	tick := time.NewTicker(s.conn.beat)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
			if !s.beatOnce() {
				return
			}
		}
	}
}

func (s *Stream) beatOnce() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting && time.Since(s.left) > s.conn.silence {
		s.stalled = true
		_ = s.conn.net.Close() // the receiver learns of it when it comes back
		return false
	}
	_ = s.status(true) // a broken connection is the receiver's to tell
	return true
}

// receiving notes that Receive begins or ends to wait.
func (s *Stream) receiving(waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting, s.left = waiting, time.Now()
}

// status sends how far the stream is; the caller holds the lock.
func (s *Stream) status(ask bool) error {
	if s.finished {
		return nil
	}
	b := make([]byte, 0, 34)
	b = append(b, 'r')
	for _, l := range []wal.LSN{s.acked.written, s.acked.flushed, s.acked.applied} {
		b = binary.BigEndian.AppendUint64(b, uint64(l))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(epoch).Microseconds()))
	if ask {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return s.write(&pgproto3.CopyData{Data: b})
}

func (s *Stream) write(m pgproto3.FrontendMessage) error {
	_ = s.conn.net.SetWriteDeadline(time.Now().Add(writeTimeout))
	s.conn.front.Send(m)
	if err := s.conn.front.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrConnection, err)
	}
	return nil
}

// epoch is where the server's times begin.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Acknowledge tells the server at once what is written, durable and applied: a commit that waits for this standby
// returns, and a slot lets go of the log before flushed. It goes forward only: a position below one acknowledged before
// counts as that one. Zero is none. It fails with [ErrNotReceived] for what was not received, and flushed and applied
// are never beyond written. It may be called beside [Stream.Receive].
func (s *Stream) Acknowledge(written, flushed, applied wal.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := position{max(written, s.acked.written), max(flushed, s.acked.flushed), max(applied, s.acked.applied)}
	if a.written > s.at || a.flushed > a.written || a.applied > a.written {
		return fmt.Errorf("stream: acknowledge %s, %s, %s of %s: %w", written, flushed, applied, s.at, ErrNotReceived)
	}
	s.acked = a
	if err := s.status(false); err != nil {
		return fmt.Errorf("stream: acknowledge: %w", err)
	}
	return nil
}

// Receive waits for the next message. When ctx ends it returns the context's error and can be called again; after any
// other error the connection is closed, but for one that the server itself sent. Log that does not go on where the
// message before ended is [ErrGap]. After [End] it returns the same again, and the connection is free.
//
// Between two calls there may be a minute. Whoever cannot take more for longer stops the stream: a server whose words
// find no room on the way cannot even give the slot up, and its checkpoints wait. A stream that nobody receives from is
// closed, and the next call says [ErrStalled].
func (s *Stream) Receive(ctx context.Context) (Message, error) {
	if s.end != nil {
		return *s.end, nil
	}
	m, err := s.receive(ctx)
	if err != nil {
		s.mu.Lock()
		at := s.at
		s.mu.Unlock()
		return Message{}, fmt.Errorf("stream on timeline %d at %s: %w", s.timeline, at, err)
	}
	return m, nil
}

func (s *Stream) receive(ctx context.Context) (Message, error) {
	m, err := s.next(ctx)
	if err != nil {
		return Message{}, err
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		out, err := s.decode(m.Data)
		if err != nil {
			s.close()
			return Message{}, s.conn.fail(err)
		}
		return out, nil
	case *pgproto3.CopyDone:
		return s.ended(ctx)
	case *pgproto3.CommandComplete: // the server shuts down, and has sent everything
		s.close()
		return Message{}, s.conn.fail(fmt.Errorf("%w: the server is shutting down", ErrConnection))
	}
	s.close()
	return Message{}, s.conn.nonsense(m, "a stream")
}

// next reads a message; only the connection's reading side is touched, for another goroutine writes.
func (s *Stream) next(ctx context.Context) (pgproto3.BackendMessage, error) {
	if s.conn.dead != nil {
		return nil, s.conn.dead
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.receiving(true)
	defer s.receiving(false)
	_ = s.conn.net.SetReadDeadline(time.Now().Add(s.conn.silence))
	stop := context.AfterFunc(ctx, func() { _ = s.conn.net.SetReadDeadline(time.Unix(1, 0)) })
	m, err := s.conn.receive()
	stop()
	if err != nil {
		var timeout net.Error
		if ctx.Err() != nil && errors.As(err, &timeout) && timeout.Timeout() {
			return nil, ctx.Err()
		}
		s.close()
		if err = broken(ctx, err); s.stalled {
			err = fmt.Errorf("%w: %w", ErrStalled, err)
		}
		return nil, s.conn.fail(err)
	}
	if e, ok := m.(*pgproto3.ErrorResponse); ok {
		s.close()
		return nil, s.conn.refused(ctx, e)
	}
	return m, nil
}

// close ends what the stream sends by itself.
func (s *Stream) close() {
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	s.finish()
	s.beats.Wait()
}

// decode reads a message of the stream: w (start, end, time, bytes) or k (end, time, reply requested).
func (s *Stream) decode(b []byte) (Message, error) {
	switch {
	case len(b) >= 25 && b[0] == 'w':
		m := Message{Kind: WAL, Start: lsn(b[1:]), ServerEnd: lsn(b[9:]), Sent: timeOf(b[17:]), Data: b[25:]}
		s.mu.Lock()
		defer s.mu.Unlock()
		if m.Start != s.at {
			return m, fmt.Errorf("%w: %s comes after %s", ErrGap, m.Start, s.at)
		}
		s.at += wal.LSN(len(m.Data))
		return m, nil
	case len(b) == 18 && b[0] == 'k':
		m := Message{Kind: Keepalive, ServerEnd: lsn(b[1:]), Sent: timeOf(b[9:]), ReplyRequested: b[17] != 0}
		if m.ReplyRequested {
			s.mu.Lock()
			defer s.mu.Unlock()
			return m, s.status(false)
		}
		return m, nil
	}
	return Message{}, fmt.Errorf("%w: a message of %d bytes in a stream", ErrProtocol, len(b))
}

func lsn(b []byte) wal.LSN { return wal.LSN(binary.BigEndian.Uint64(b)) }

func timeOf(b []byte) time.Time {
	return epoch.Add(time.Duration(int64(binary.BigEndian.Uint64(b))) * time.Microsecond)
}

// ended answers the server's end of the timeline with ours, and reads which follows.
func (s *Stream) ended(ctx context.Context) (Message, error) {
	s.mu.Lock()
	err := s.write(&pgproto3.CopyDone{})
	s.mu.Unlock()
	s.close()
	if err != nil {
		return Message{}, s.conn.fail(err)
	}
	m, err := s.conn.next(ctx, answerTimeout)
	if err != nil {
		return Message{}, err
	}
	d, ok := m.(*pgproto3.RowDescription)
	if !ok { // the server was told to stop, and ends the stream amid the timeline
		return Message{}, s.conn.fail(fmt.Errorf("%w: the server ended the stream", ErrConnection))
	}
	if err := s.readEnd(ctx, d); err != nil {
		return Message{}, err
	}
	return *s.end, nil
}

func (s *Stream) readEnd(ctx context.Context, d *pgproto3.RowDescription) error {
	rows, err := s.conn.rows(ctx, d)
	if err != nil {
		return err
	}
	if err := s.conn.ready(ctx); err != nil {
		return err
	}
	if len(rows) != 1 {
		return fmt.Errorf("%w: the end of a timeline has %d rows", ErrProtocol, len(rows))
	}
	next, err := wal.ParseTimeline(rows[0]["next_tli"])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	at, err := wal.ParseLSN(rows[0]["next_tli_startpos"])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if next <= s.timeline || at != s.at {
		return fmt.Errorf("%w: timeline %d at %s follows on %d at %s", ErrGap, next, at, s.timeline, s.at)
	}
	s.end = &Message{Kind: End, Next: next, Switch: at}
	return nil
}

// Stop ends the stream amid its timeline; the connection is free for the next command. What arrives meanwhile is
// dropped.
func (s *Stream) Stop(ctx context.Context) error {
	if s.end != nil || s.conn.dead != nil {
		s.close()
		return nil
	}
	s.mu.Lock()
	err := s.write(&pgproto3.CopyDone{})
	s.mu.Unlock()
	s.close()
	if err != nil {
		return s.conn.fail(err)
	}
	for {
		m, err := s.conn.next(ctx, answerTimeout)
		if err != nil {
			return fmt.Errorf("stream: stop: %w", err)
		}
		switch m.(type) {
		case *pgproto3.CopyData, *pgproto3.CopyDone, *pgproto3.RowDescription, *pgproto3.DataRow, *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			s.conn.busy = false
			return nil
		default:
			return s.conn.nonsense(m, "the end of a stream")
		}
	}
}
