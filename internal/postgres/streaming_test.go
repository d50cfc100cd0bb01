package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// streaming is a stream that runs.
type streaming struct {
	w    *world
	to   *stream.Stream
	stop context.CancelFunc
	over chan struct{}
	err  error // once over is closed

	mu     sync.Mutex
	events []postgres.Event
}

func (w *world) stream(change ...func(*postgres.StreamOptions)) *streaming {
	w.Helper()
	reg := w.register()
	to, err := stream.Open(w.Context(), reg, w.state.Agent, stream.Options{
		Holders: w.holders,
		Mend: func(ctx context.Context, what stream.Lack) error {
			_, err := archive.MendStream(ctx, reg, w.state.Agent, what)
			return err
		},
	})
	check(w, err)
	s := &streaming{w: w, to: to, over: make(chan struct{})}
	o := postgres.StreamOptions{
		Conninfo: w.server.Conninfo(), Slot: "chancery_land", Interval: 20 * time.Millisecond, Tell: s.tell,
	}
	for _, c := range change {
		c(&o)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() {
		defer close(s.over)
		s.err = postgres.Stream(ctx, to, o)
		ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
		defer stop()
		_ = to.Close(ctx)
	}()
	w.Cleanup(func() {
		s.end()
		if w.Failed() {
			for _, e := range s.all() {
				if e.What != postgres.Durable {
					w.Logf("%s %s: %s (%d, %s)", e.Time.Format("05.000"), e.What, e.Text, e.Line, e.LSN)
				}
			}
		}
	})
	return s
}

func (s *streaming) tell(e postgres.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *streaming) all() []postgres.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]postgres.Event(nil), s.events...)
}

// end stops the stream and waits for it.
func (s *streaming) end() {
	s.stop()
	<-s.over
}

// crash ends the stream as the death of its machine does: nothing more goes out, and nothing is gathered.
func (s *streaming) crash() {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = s.to.Close(ctx)
	s.end()
}

// ends waits for a stream that is to end by itself, and returns why.
func (s *streaming) ends() error {
	s.w.Helper()
	select {
	case <-s.over:
	case <-time.After(patience):
		s.w.Fatal("the stream does not end")
	}
	return s.err
}

// durable is how far the embassies hold the newest timeline, as the stream told.
func (s *streaming) durable() (tl wal.Timeline, at wal.LSN) {
	for _, e := range s.all() {
		if e.What == postgres.Durable {
			tl, at = e.Line, e.LSN
		}
	}
	return tl, at
}

// told waits for an event of a kind.
func (s *streaming) told(kind postgres.EventKind) postgres.Event {
	s.w.Helper()
	var found postgres.Event
	await(s.w, "the event "+string(kind), func() bool {
		for _, e := range s.all() {
			if e.What == kind {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (s *streaming) count(kind postgres.EventKind) (n int) {
	for _, e := range s.all() {
		if e.What == kind {
			n++
		}
	}
	return n
}

// until waits until the embassies hold the log up to a position.
func (s *streaming) until(at wal.LSN) {
	s.w.Helper()
	await(s.w, fmt.Sprintf("the log at the embassies up to %s", at), func() bool {
		_, end := s.durable()
		return end >= at
	})
}
