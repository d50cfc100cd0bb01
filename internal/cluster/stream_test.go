package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/wal"
)

// same holds what was received against the server's own files.
func (f *tail) same(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for segment, b := range f.log.Segments {
		own, err := os.ReadFile(filepath.Join(s.Data, "pg_wal", segment.Name(f.log.Size)))
		if err != nil {
			t.Error(err)
			continue
		}
		from := max(0, int(f.from)-int(segment.Start(f.log.Size)))
		if len(own) < len(b) || from > len(b) || !bytes.Equal(own[from:len(b)], b[from:]) {
			t.Errorf("segment %s is not the server's", segment.Name(f.log.Size))
		}
	}
}

// keep lets the server keep all its log, so that it can be compared.
var keep = pgtest.Options{SegmentSize: 1, Settings: map[string]string{"wal_keep_size": "500MB"}}

// The stream is the server's log to the byte, over segments that are full and some that are switched early, and goes on
// after the server was killed where it had ended: nothing is missing and nothing comes twice.
func TestStreamIsTheLogAlsoOverACrash(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		f := follow(t, s, "stream")
		s.Exec("CREATE TABLE numbered AS SELECT generate_series(1, 60000) AS n")
		s.Exec("SELECT pg_switch_wal()")
		s.Exec("INSERT INTO numbered SELECT generate_series(60001, 70000)")
		f.until(t, written(t, s))
		for crash := range 3 {
			s.Exec(fmt.Sprintf("INSERT INTO numbered VALUES (%d)", crash))
			s.Kill()
			for {
				m, err := f.s.Receive(deadline(t))
				if err != nil {
					if !errors.Is(err, cluster.ErrConnection) {
						t.Fatal(err)
					}
					break
				}
				f.log.Add(f.id.Timeline, m)
			}
			s.StartAgain()
			f.again(t, s, "stream")
			s.Exec("INSERT INTO numbered SELECT generate_series(70001, 80000)")
			f.until(t, written(t, s))
		}
		if n := len(f.log.Segments); n < 5 {
			t.Errorf("only %d segments", n)
		}
		f.log.Check(t, f.id, nil)
		f.same(t, s)
	})
}

// again opens a new connection, to the same system, and goes on where the stream ended.
func (f *tail) again(t *testing.T, s *pgtest.Server, slot string) {
	t.Helper()
	f.conn = open(t, s)
	if _, err := f.conn.Require(deadline(t), f.id.System); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 100 { // the server may not have noticed yet that the last connection is gone
		if f.s, err = f.conn.StartStream(deadline(t), slot, f.log.End, f.id.Timeline); !errors.Is(err, cluster.ErrSlotBusy) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// standby makes a standby of a server out of a base backup and what a stream received; it does not connect to it.
func standby(t *testing.T, s *pgtest.Server, f *tail) *pgtest.Server {
	t.Helper()
	c := pgtest.NewCopy(t)
	if _, err := open(t, s).BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, c); err != nil {
		t.Fatal(err)
	}
	s.Exec("CREATE TABLE after_the_backup AS SELECT generate_series(1, 1000) AS n")
	f.until(t, written(t, s))
	c.Remap()
	f.log.Write(t, filepath.Join(c.Data, "pg_wal"))
	if err := os.WriteFile(filepath.Join(c.Data, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := pgtest.Adopt(t, s.Major, c.Data)
	r.StartAgain()
	return r
}

// A standby that is promoted ends its timeline; the stream says which follows and where, the history says the same, and
// the log goes on there without a gap. What the old primary wrote beyond is in nobody's history.
func TestPromotionIsTold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		f := follow(t, s, "stream")
		s.Exec("CREATE TABLE numbered AS SELECT generate_series(1, 1000) AS n")
		r := standby(t, s, f)
		c := open(t, r)
		id, err := c.Require(deadline(t), f.id.System)
		if err != nil || !id.Standby || id.Timeline != 1 {
			t.Fatalf("%+v, %v", id, err)
		}
		stream, err := c.StartStream(deadline(t), "", f.log.Size.Floor(id.WriteLSN), 1)
		if err != nil {
			t.Fatal(err)
		}
		r.Promote()
		got := &tail{log: pgtest.Log{Size: id.SegmentSize}, id: id, s: stream, from: f.log.Size.Floor(id.WriteLSN)}
		end := got.toEnd(t)
		h := history(t, c, end.Next)
		if at, ok := h.Left(1); !ok || at != end.Switch || end.Next != 2 || end.Switch != got.log.End {
			t.Fatalf("%+v, history %+v, received to %s", end, h, got.log.End)
		}
		if m, err := stream.Receive(deadline(t)); err != nil || m.Kind != cluster.End || m.Switch != end.Switch {
			t.Errorf("after the end: %+v, %v", m, err)
		}
		f.afterwards(t, s, r, c, end, h)
	})
}

// afterwards goes on with the new timeline, and tries the old primary's way.
func (f *tail) afterwards(t *testing.T, s, r *pgtest.Server, c *cluster.Conn, end cluster.Message, h *wal.History) {
	t.Helper()
	// Asked for the old timeline at its very end, the server has nothing to send and says so.
	over, err := c.StartStream(deadline(t), "", end.Switch, 1)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := over.Receive(deadline(t)); err != nil || m.Kind != cluster.End || m.Next != 2 || m.Switch != end.Switch {
		t.Errorf("at the end: %+v, %v", m, err)
	}
	r.Exec("INSERT INTO numbered SELECT generate_series(1001, 20000)")
	s.Exec("INSERT INTO numbered SELECT generate_series(1001, 20000)") // two primaries now
	f.until(t, written(t, s))
	if _, err := c.StartStream(deadline(t), "", f.log.End, 1); !errors.Is(err, cluster.ErrDiverged) {
		t.Errorf("what only the old primary has: %v", err)
	}
	if _, err := c.StartStream(deadline(t), "", end.Switch, 3); !errors.Is(err, cluster.ErrDiverged) {
		t.Errorf("a timeline to come: %v", err)
	}
	if _, err := c.StartStream(deadline(t), "", written(t, r)+wal.LSN(1<<30), 2); !errors.Is(err, cluster.ErrDiverged) {
		t.Errorf("a position to come: %v", err)
	}
	start := f.log.Size.Floor(end.Switch)
	stream, err := c.StartStream(deadline(t), "", start, 2)
	if err != nil {
		t.Fatal(err)
	}
	id := f.id
	id.Timeline = 2
	next := &tail{log: pgtest.Log{Size: id.SegmentSize}, id: id, s: stream, from: start}
	next.until(t, written(t, r))
	next.log.Check(t, id, map[wal.Timeline]*wal.History{2: h})
	next.same(t, r)
	if err := stream.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Identify(deadline(t)); err != nil {
		t.Errorf("after a stop: %v", err)
	}
}

// toEnd receives up to the timeline's end.
func (f *tail) toEnd(t *testing.T) cluster.Message {
	t.Helper()
	for {
		m, err := f.s.Receive(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == cluster.End {
			return m
		}
		f.log.Add(f.id.Timeline, m)
	}
}

func history(t *testing.T, c *cluster.Conn, tli wal.Timeline) *wal.History {
	t.Helper()
	_, text, err := c.TimelineHistory(deadline(t), tli)
	if err != nil {
		t.Fatal(err)
	}
	h, err := wal.ParseHistory(tli, text)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.TimelineHistory(deadline(t), tli+1); !errors.Is(err, cluster.ErrWALRemoved) {
		t.Errorf("a history that is not there: %v", err)
	}
	return h
}

// A commit that waits for us returns when we acknowledge, and not before.
func TestCommitWaitsForTheAcknowledgement(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		s.Exec("CREATE TABLE numbered (n int)")
		c, err := cluster.Open(deadline(t), s.Conninfo()+" application_name=abroad")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f := followOn(t, c, "sync")
		f.until(t, written(t, s))
		s.Set(map[string]string{"synchronous_standby_names": "abroad"})
		s.Reload()
		s.Await("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'abroad'", "sync")
		for n := range 5 {
			before := f.log.End
			committed := make(chan error, 1)
			go func() {
				_, err := s.Try("postgres", fmt.Sprintf("INSERT INTO numbered VALUES (%d)", n))
				committed <- err
			}()
			f.receive(t, before+1)
			const waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
			s.Await(waits, "1")
			f.receive(t, written(t, s))
			// Written is not durable: nobody returns for it.
			if err := f.s.Acknowledge(f.log.End, before, before); err != nil {
				t.Fatal(err)
			}
			s.Await("SELECT count(*) FROM pg_stat_replication WHERE write_lsn >= '"+f.log.End.String()+"'", "1")
			if got := s.Exec(waits); got != "1" {
				t.Fatal("a commit returned before its log was durable abroad")
			}
			if err := f.s.Acknowledge(f.log.End, f.log.End, f.log.End); err != nil {
				t.Fatal(err)
			}
			if err := <-committed; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// followOn is follow on a connection that is there.
func followOn(t *testing.T, c *cluster.Conn, slot string) *tail {
	t.Helper()
	id := identify(t, c)
	s, _, err := c.EnsureSlot(deadline(t), slot)
	if err != nil {
		t.Fatal(err)
	}
	from := id.SegmentSize.Floor(s.RestartLSN)
	stream, err := c.StartStream(deadline(t), slot, from, id.Timeline)
	if err != nil {
		t.Fatal(err)
	}
	return &tail{log: pgtest.Log{Size: id.SegmentSize, End: from}, id: id, s: stream, conn: c, from: from}
}

// receive receives up to a position and acknowledges nothing.
func (f *tail) receive(t *testing.T, at wal.LSN) {
	t.Helper()
	for f.log.End < at {
		m, err := f.s.Receive(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		f.log.Add(f.id.Timeline, m)
	}
}

// A server that shuts down asks how far we are, is answered at once, and waits until we have everything.
func TestShutdownWaitsForTheStream(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		f := follow(t, s, "stream")
		s.Exec("CREATE TABLE numbered AS SELECT generate_series(1, 1000) AS n")
		f.receive(t, written(t, s))
		stopped := make(chan struct{})
		go func() { s.Stop(); close(stopped) }()
		for {
			m, err := f.s.Receive(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			f.log.Add(f.id.Timeline, m)
			if m.Kind == cluster.Keepalive && m.ReplyRequested {
				break
			}
		}
		select {
		case <-stopped:
			t.Fatal("the server did not wait")
		default:
		}
		for {
			if err := f.s.Acknowledge(f.log.End, f.log.End, f.log.End); err != nil && !errors.Is(err, cluster.ErrConnection) {
				t.Fatal(err)
			}
			m, err := f.s.Receive(deadline(t))
			if errors.Is(err, cluster.ErrConnection) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			f.log.Add(f.id.Timeline, m)
		}
		<-stopped
		f.log.Check(t, f.id, nil)
		f.same(t, s)
		if left := ends(t, s, f); left != f.log.End {
			t.Errorf("received to %s, and the log ends at %s", f.log.End, left)
		}
	})
}

// ends is where a server's log ends, as it says when it is started again and has written nothing.
func ends(t *testing.T, s *pgtest.Server, f *tail) wal.LSN {
	t.Helper()
	s.StartAgain()
	at, err := wal.ParseLSN(s.Exec("SELECT redo_lsn FROM pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	// The shutdown's checkpoint is the last record: it begins at redo, and nothing was written behind it.
	if f.log.End <= at || f.log.End > at+512 {
		return at
	}
	return f.log.End
}

// Nobody can acknowledge what did not come, and a wait that is given up loses nothing.
func TestAcknowledgeOnlyWhatCame(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, 15, keep)
	f := follow(t, s, "stream")
	f.until(t, written(t, s))
	for _, p := range [][3]wal.LSN{{f.log.End + 1, 0, 0}, {f.log.End, f.log.End + 1, 0}, {0, f.log.End + 1, 0}, {0, 0, f.log.End + 1}} {
		if err := f.s.Acknowledge(p[0], p[1], p[2]); !errors.Is(err, cluster.ErrNotReceived) {
			t.Errorf("%v of %s: %v", p, f.log.End, err)
		}
	}
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		m, err := f.s.Receive(ctx)
		cancel()
		if err == nil {
			f.log.Add(1, m)
		} else if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, cluster.ErrConnection) {
			t.Fatal(err)
		}
		s.Exec("SELECT pg_logical_emit_message(false, 'x', repeat('y', 5000))")
	}
	f.until(t, written(t, s))
	f.log.Check(t, f.id, nil)
	f.same(t, s)
}
