package postgres_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// now is what the server's clock says.
func now(t testing.TB, s *pgtest.Server) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s.Exec(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
	check(t, err)
	return at
}

// While a stream catches up, it claims no moment of which something is missing: neither of the log that it sends late nor
// of that which is still to come; and a restore to such a moment is refused. When it has caught up it claims all.
func TestABacklogClaimsNoMomentThatItDoesNotHold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("wal_keep_size", "500MB"))
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		w.server.Exec("INSERT INTO numbered VALUES (1, 'x')")
		s.until(w.written())
		s.end()
		left := now(t, w.server)
		w.flood(12)
		w.server.Exec("INSERT INTO numbered VALUES (2, 'x')")
		amid := now(t, w.server)
		w.flood(12)
		stopped := make(chan struct{})
		var puts atomic.Int32
		w.state.Fail(sim.Faults{Before: func(ctx context.Context, c *sim.Call) error {
			if c.Op != sim.Put || puts.Add(1) <= 12 {
				return nil
			}
			select {
			case <-stopped:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		_, from := w.position()
		s = w.stream()
		await(t, "some of the backlog is abroad", func() bool { _, end := w.position(); return end > from })
		clock, end := w.position()
		if end >= w.written() {
			t.Fatal("all of the backlog is abroad")
		}
		if clock.After(left) {
			t.Errorf("with the log until %s of %s, everything until %s is claimed; it was left at %s", end, w.written(), clock, left)
		}
		target := postgres.Target{Time: amid}
		if _, _, _, _, err := w.plan("latest", &target); !errors.Is(err, postgres.ErrBeyond) {
			t.Errorf("a moment of which the log is not there: %v", err)
		}
		close(stopped)
		s.until(w.written())
		if clock, _ := w.position(); clock.Before(amid) {
			t.Errorf("all is abroad, and no more than %s is claimed", clock)
		}
		if _, _, _, _, err := w.plan("latest", &target); err != nil {
			t.Error(err)
		}
	})
}

// position is until when the newest stretch that is durable holds everything, and where it ends.
func (w *world) position() (time.Time, wal.LSN) {
	w.Helper()
	newest, err := stream.FindNewest(w.Context(), w.register(), w.state.Agent)
	check(w, err)
	p, err := postgres.ParsePosition(newest.Position)
	check(w, err)
	return time.Unix(0, p.Clock), p.End
}
