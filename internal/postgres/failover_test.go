package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/wal"
)

// standby makes a standby of the world's server that follows it.
func (w *world) standby() *pgtest.Server {
	w.Helper()
	c := pgtest.NewCopy(w)
	ctx, stop := context.WithTimeout(w.Context(), patience)
	defer stop()
	conn, err := cluster.Open(ctx, w.server.Conninfo())
	check(w, err)
	defer conn.Close()
	_, err = conn.BaseBackup(ctx, cluster.BackupOptions{Fast: true}, c)
	check(w, err)
	check(w, os.WriteFile(filepath.Join(c.Data, "standby.signal"), nil, 0o600))
	r := pgtest.Adopt(w, w.server.Major, c.Data)
	r.Set(map[string]string{"primary_conninfo": w.server.Conninfo() + " application_name=standby", "wal_retrieve_retry_interval": "100ms"})
	r.StartAgain()
	return r
}

// follows waits until a standby has all that the world's server wrote.
func (w *world) follows(r *pgtest.Server) {
	w.Helper()
	r.Await("SELECT pg_last_wal_replay_lsn() >= '"+w.written().String()+"'", "t")
}

// hosts is how to connect to the first of two servers that answers.
func hosts(a, b *pgtest.Server) string {
	hostOf := func(s *pgtest.Server) string { return strings.TrimPrefix(strings.Fields(s.Conninfo())[0], "host=") }
	return "host=" + hostOf(a) + "," + hostOf(b) + " port=5432,5432 user=postgres sslmode=disable"
}

// kept is evidence as a stream gave it.
type kept struct {
	postgres.Evidence
	data []byte
}

func keeping(into *[]kept) func(*postgres.StreamOptions) {
	return func(o *postgres.StreamOptions) {
		o.Keep = func(e postgres.Evidence, write func(io.Writer) error) error {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				return err
			}
			*into = append(*into, kept{e, b.Bytes()})
			return nil
		}
	}
}

// evident wants evidence of one conflict, which is the server's own log.
func evident(t *testing.T, found []kept, s *pgtest.Server) {
	t.Helper()
	if len(found) != 1 {
		t.Fatalf("%d pieces of evidence", len(found))
	}
	e := found[0]
	segment := wal.Segment{Timeline: e.Timeline, Number: e.Segment.Number(e.Start)}
	own, err := os.ReadFile(filepath.Join(s.Data, "pg_wal", segment.Name(e.Segment)))
	check(t, err)
	if len(e.data) == 0 || len(e.data) != int(e.End-e.Start) || !bytes.Equal(e.data, own[:len(e.data)]) {
		t.Errorf("%d bytes are kept of %s to %s, and they are not what the server has", len(e.data), e.Start, e.End)
	}
}

// The server is lost and a standby takes over that had not received the end: the stream goes on with it, says what is
// abandoned, and a restore follows the new timeline, or the old one to its end where that is asked for. The old server,
// started again, ends the stream with evidence.
func TestAFailoverIsFollowed(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		old, next := w.server, w.standby()
		var found []kept
		s := w.stream(keeping(&found), func(o *postgres.StreamOptions) { o.Conninfo = hosts(old, next) })
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(time.Millisecond)
		wr.more(t, 30)
		w.follows(next)
		next.Kill()
		wr.more(t, 30)
		wr.end()
		s.until(w.written())
		behind := wr.count()
		old.Kill()
		next.StartAgain() // the stream finds it behind, and waits
		next.Promote()
		s.told(postgres.Abandoned)
		s.told(postgres.Switched)
		w.server = next
		common := w.rows()
		wr = w.write(time.Millisecond)
		wr.more(t, 30)
		wr.end()
		s.until(w.written())
		if common >= behind {
			t.Fatalf("the standby had all of %d rows", behind)
		}
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
		w.restore(postgres.Target{Timeline: 1}).recovers().holds(t, behind, behind)
		next.Kill()
		old.StartAgain()
		if err := s.ends(); !errors.Is(err, postgres.ErrBehind) {
			t.Fatal(err)
		}
		evident(t, found, old)
		if s.count(postgres.Abandoned) != 1 || s.count(postgres.Switched) != 1 || s.count(postgres.Gap) != 0 {
			t.Errorf("abandoned %d times, switched %d, gaps %d", s.count(postgres.Abandoned), s.count(postgres.Switched), s.count(postgres.Gap))
		}
	})
}

// A stream that reads from a standby goes over with it when it is promoted: nothing is missing and nothing abandoned. So
// does one that was away meanwhile, and one that ended after it had heard of the timeline and of nothing in it.
func TestAPromotionIsFollowed(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("wal_keep_size", "200MB")) // for the standbys have no slot
		next := w.standby()
		third := w.standby()
		third.Set(map[string]string{"primary_conninfo": next.Conninfo()})
		third.Reload()
		at := func(o *postgres.StreamOptions) { o.Conninfo = next.Conninfo() }
		s := w.stream(at)
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(time.Millisecond)
		wr.more(t, 30)
		wr.end()
		w.follows(next)
		w.server.Kill()
		next.Promote()
		s.told(postgres.Switched)
		s.end()
		w.server = next
		wr = w.write(time.Millisecond)
		wr.more(t, 30)
		wr.end()
		w.follows(third)
		next.Kill()
		third.Promote()
		w.server = third
		wr = w.write(time.Millisecond)
		wr.more(t, 30)
		wr.end()
		third.Exec("SELECT pg_switch_wal()")
		s = w.stream()
		s.until(w.written())
		for _, e := range s.all() {
			if e.Alarm && e.What != postgres.Disconnected {
				t.Errorf("%s: %s", e.What, e.Text)
			}
		}
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}

// An older copy of the server's folder, started again, wrote other log at the same places of the same timeline: the stream
// ends, keeps what it has of it, and nothing of it goes abroad. Before it has written as much it is behind. So also where
// the stream had ended with a whole segment.
func TestTwoServersOnOneTimelineAreFound(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		for _, whole := range []bool{false, true}[:rounds(major, 2)] {
			twoServers(t, major, whole)
		}
	})
}

func twoServers(t *testing.T, major int, whole bool) {
	t.Run(map[bool]string{false: "amid a segment", true: "behind a segment"}[whole], func(t *testing.T) {
		w := newWorld(t, major, settings())
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		copied := w.copied()
		wr := w.write(0)
		wr.more(t, 50)
		wr.end()
		if whole {
			w.server.Exec("SELECT pg_switch_wal()")
		}
		s.until(w.written())
		s.end()
		w.server.Kill()
		real := w.server
		w.server = copied
		copied.StartAgain()
		var found []kept
		if err := w.stream(keeping(&found)).ends(); !errors.Is(err, postgres.ErrBehind) {
			t.Fatal(err)
		}
		evident(t, found, copied)
		copied.Exec("INSERT INTO numbered SELECT n, repeat('other', 20) FROM generate_series(1, 30000) n")
		found = nil
		if err := w.stream(keeping(&found)).ends(); !errors.Is(err, postgres.ErrTwoServers) {
			t.Fatal(err)
		}
		evident(t, found, copied)
		copied.Kill()
		w.server = real
		real.StartAgain()
		s = w.stream()
		s.until(w.written())
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}

// copied is a copy of the server's folder as it stands, with its slots, as a snapshot of its disk would be.
func (w *world) copied() *pgtest.Server {
	w.Helper()
	w.server.Kill()
	data := filepath.Join(pgtest.Folder(w), "data")
	pgtest.Run(w, "/", "cp", "-a", w.server.Data, data)
	w.server.StartAgain()
	return pgtest.On(w, w.server.Major, data)
}
