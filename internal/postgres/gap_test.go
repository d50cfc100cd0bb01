package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/wal"
)

// flood makes so many MiB of log that cannot be compressed much, in several commits that add no row.
func (w *world) flood(mib int) {
	w.Helper()
	w.server.Exec("CREATE TABLE IF NOT EXISTS flood (x text)")
	for range mib {
		w.server.Exec("INSERT INTO flood SELECT md5(i::text || random()) FROM generate_series(1, 12000) i")
	}
}

// A slot that the server gave up while the stream was away leaves a hole: it is told, a moment behind it is refused with
// the nearest one named, and a new base backup makes it well. What was before the hole comes back.
func TestALostSlotIsAHole(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("max_slot_wal_keep_size", "2MB", "min_wal_size", "2MB", "max_wal_size", "4MB"))
		s := w.stream()
		s.told(postgres.Connected)
		first := w.backup()
		wr := w.write(0)
		wr.more(t, 30)
		wr.end()
		before := wr.count()
		s.until(w.written())
		reached := w.written()
		s.end()
		w.flood(10)
		w.server.Exec("CHECKPOINT")
		w.server.Await("SELECT wal_status FROM pg_replication_slots", "lost")
		s = w.stream()
		gap := s.told(postgres.Gap)
		if !gap.Alarm || gap.LSN < reached {
			t.Errorf("%+v; the log is there until %s", gap, reached)
		}
		wr = w.write(0)
		wr.more(t, 30)
		wr.end()
		s.until(w.written())
		behind := w.written()
		for name, target := range map[string]postgres.Target{"the latest": {}, "a position": {LSN: behind}, "a time": {Time: time.Now()}} {
			_, _, _, reach, err := w.plan("latest", &target)
			if !errors.Is(err, postgres.ErrBeyond) || !errors.Is(err, postgres.ErrHole) || !strings.Contains(err.Error(), reach.Through.String()) {
				t.Errorf("%s behind the hole: %v; it is reached until %s", name, err, reach.Through)
			}
			if reach.Through < reached || reach.Through >= behind {
				t.Errorf("reaches until %s, not %s", reach.Through, reached)
			}
		}
		if err := postgres.Holds(t.Context(), w.register(), w.state.Agent, &first.Base, 1, reached); err != nil {
			t.Errorf("before the hole: %v", err)
		}
		if err := postgres.Holds(t.Context(), w.register(), w.state.Agent, &first.Base, 1, behind); !errors.Is(err, postgres.ErrHole) {
			t.Errorf("behind the hole: %v", err)
		}
		if err := postgres.Holds(t.Context(), w.register(), w.state.Agent, &first.Base, 1, behind+1<<30); !errors.Is(err, register.ErrTooFew) {
			t.Errorf("behind all: %v", err)
		}
		w.restoreOf("1", postgres.Target{LSN: reached}).recovers().holds(t, before, before)
		w.backup()
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
		if n := s.count(postgres.Gap); n != 1 {
			t.Errorf("%d gaps are told", n)
		}
	})
}

// A slot that is lost while a base backup is taken leaves a hole in the log that the backup needs, however far the stream
// goes on behind it: there is no snapshot that cannot be recovered.
func TestAHoleInTheLogThatABackupNeedsFailsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings("max_slot_wal_keep_size", "2MB", "min_wal_size", "2MB", "max_wal_size", "4MB"))
	s := w.stream()
	s.until(w.written())
	s.end()
	sent, streams, came := make(chan bool), make(chan bool), make(chan error, 1)
	go func() {
		_, err := w.tryBackup(func(o *postgres.BaseOptions) {
			o.Covered = func(ctx context.Context, tl wal.Timeline, to wal.LSN) error {
				close(sent)
				<-streams
				return w.covered(ctx, tl, to)
			}
		})
		came <- err
	}()
	<-sent
	w.flood(10)
	w.server.Exec("CHECKPOINT")
	w.server.Await("SELECT wal_status FROM pg_replication_slots", "lost")
	s = w.stream()
	s.told(postgres.Gap)
	s.until(w.written())
	close(streams)
	if err := <-came; !errors.Is(err, postgres.ErrUncovered) || !errors.Is(err, postgres.ErrHole) {
		t.Errorf("a backup of whose log a part is lost: %v", err)
	}
	w.backup()
	head, err := w.reader().Find("latest")
	check(t, err)
	if head.Sequence != 1 {
		t.Errorf("%d snapshots; want the one behind the hole", head.Sequence)
	}
	w.restore(postgres.Target{}).recovers()
}

// A slot that somebody dropped is made anew, and is no hole while the server has the log.
func TestADroppedSlotIsNoHole(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("wal_keep_size", "200MB"))
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(0)
		wr.more(t, 30)
		s.end()
		w.server.Await("SELECT active FROM pg_replication_slots WHERE slot_name = 'chancery_land'", "f")
		w.server.Exec("SELECT pg_drop_replication_slot('chancery_land')")
		wr.more(t, 30)
		wr.end()
		s = w.stream()
		s.until(w.written())
		if s.count(postgres.Gap) != 0 {
			t.Error("a hole is told")
		}
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}

// Another cluster at the address ends the stream, and nothing of it goes abroad.
func TestAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	s := w.stream()
	s.until(w.written())
	s.end()
	other := newWorld(t, 15, settings())
	w.server = other.server
	if err := w.stream().ends(); !errors.Is(err, cluster.ErrSystemChanged) {
		t.Error(err)
	}
}

// While too few embassies answer the server keeps the log: an alarm tells that nothing becomes durable, another that the
// slot may be lost, before it is. When they are back everything arrives.
func TestAnAlarmComesBeforeTheSlotIsLost(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("max_slot_wal_keep_size", "200MB", "max_wal_size", "4MB", "min_wal_size", "2MB"))
		s := w.stream(func(o *postgres.StreamOptions) { o.Watch = 100 * time.Millisecond })
		s.told(postgres.Connected)
		w.backup()
		w.state.Fail(sim.Down())
		s.told(postgres.Unanswered)
		w.flood(6)
		wr := w.write(0)
		wr.more(t, 30)
		wr.end()
		w.server.Exec("CHECKPOINT")
		e := s.told(postgres.Filling)
		status := w.server.Exec("SELECT wal_status FROM pg_replication_slots")
		if !e.Alarm || status == "lost" {
			t.Errorf("%+v, and the slot is %s", e, status)
		}
		w.state.Fail(sim.Faults{})
		s.until(w.written())
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}

// logged is how many records of log an embassy has: of stretches, and of gatherings of them.
func logged(e *sim.Embassy) (n int) {
	for _, s := range e.Slots() {
		if s.Kind == ledger.StretchRecord || s.Kind == ledger.GatheringRecord {
			n++
		}
	}
	return n
}

// Each embassy is cut in turn, for long or amid everything, and back: the stream goes on with the others, and the one
// that lacked something gets it, so that any two bring everything back.
func TestEachEmbassyMayBeCut(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(time.Millisecond)
		for _, e := range w.state.Embassies {
			e.Fail(sim.Down())
			wr.more(t, 40)
			s.until(w.written())
			e.Fail(sim.Faults{})
			wr.more(t, 10)
		}
		wr.end()
		s.until(w.written())
		await(t, "every embassy has every record", func() bool {
			n := logged(w.state.Embassies[0])
			return !slices.ContainsFunc(w.state.Embassies, func(e *sim.Embassy) bool { return logged(e) != n })
		})
		s.end()
		for i, e := range w.state.Embassies {
			t.Run(fmt.Sprint("without ", i), func(t *testing.T) {
				w := *w
				w.TB = t
				e.Fail(sim.Down())
				defer e.Fail(sim.Faults{})
				_, _, l, reach, err := w.plan("latest", &postgres.Target{})
				check(t, err)
				check(t, l.Trail.Doubt())
				if reach.Through < w.written() {
					t.Errorf("only until %s of %s", reach.Through, w.written())
				}
			})
		}
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}
