package postgres_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
)

// landed waits until every embassy has its share of everything, also the last of those that were not waited for, and returns
// the names of all that there is.
func (w *world) landed() map[shard.Name]bool {
	w.Helper()
	await(w, "every embassy to have its share", func() bool {
		n := len(w.state.Embassies[0].Objects())
		return !slices.ContainsFunc(w.state.Embassies, func(e *sim.Embassy) bool { return len(e.Objects()) != n })
	})
	out := map[shard.Name]bool{}
	for _, n := range w.objects() {
		out[n] = true
	}
	return out
}

// What too few embassies hold of the log is known before anything is restored: the plan says why it goes no further, and
// the moment that it names can be restored.
func TestAPlanEndsBeforeWhatTooFewHold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(time.Millisecond)
		wr.more(t, 40)
		wr.end()
		whole := w.written()
		s.until(whole)
		rows := wr.count()
		before := w.landed()
		wr = w.write(time.Millisecond)
		wr.more(t, 40)
		wr.end()
		s.until(w.written())
		w.landed()
		s.crash() // nothing is gathered
		all := wr.count()

		e := w.state.Embassies
		gone := map[shard.Name][]byte{}
		for _, x := range e[:2] {
			for _, n := range x.Objects() {
				if !before[n] {
					gone[n] = x.Damage(n, nil)
				}
			}
		}
		_, _, _, reach, err := w.plan("latest", &postgres.Target{})
		if !errors.Is(err, postgres.ErrBeyond) || !errors.Is(err, postgres.ErrHole) || !errors.Is(err, register.ErrDamaged) || reach.Through < whole {
			t.Fatalf("%v; through %s, and %s is whole", err, reach.Through, whole)
		}
		w.restore(postgres.Target{LSN: reach.Through}).recovers().holds(t, rows, all-1)

		for n, data := range gone {
			e[1].Damage(n, data) // some of them are another's, which harms nothing
		}
		_, _, _, full, err := w.plan("latest", &postgres.Target{})
		check(t, err)
		e[1].Fail(sim.Down())
		if _, _, _, r, err := w.plan("latest", &postgres.Target{}); !errors.Is(err, register.ErrTooFew) || errors.Is(err, register.ErrDamaged) || r.Through != reach.Through {
			t.Fatalf("with one that may have it: %v, through %s", err, r.Through)
		}
		e[1].Fail(sim.Faults{})
		if full.Through <= reach.Through {
			t.Fatalf("through %s with all, %s without", full.Through, reach.Through)
		}
		w.restore(postgres.Target{}).recovers().holds(t, all, all+1)
	})
}

// A base backup that too few embassies hold is passed over for the one before, and the log brings back the same.
func TestAPlanPassesOverABaseBackupThatTooFewHold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		w.server.Exec("CREATE TABLE bulk AS SELECT md5(i::text) AS a, md5((i * 7)::text) AS b FROM generate_series(1, 40000) i")
		w.server.Exec("CHECKPOINT")
		s.until(w.written())
		before := w.landed()
		w.backup()
		w.landed()
		e := w.state.Embassies
		large := map[shard.Name][]byte{} // shares of packs with the new table
		for _, x := range e[:2] {
			for _, n := range x.Objects() {
				if !before[n] && len(x.Object(n)) > 100<<10 {
					large[n] = x.Damage(n, nil)
				}
			}
		}
		w.server.Exec("INSERT INTO numbered VALUES (1)")
		s.until(w.written())
		s.end()

		plan := func() *postgres.Plan {
			p, err := postgres.NewPlan(t.Context(), w.reader(), nil, postgres.Target{}, nil)
			check(t, err)
			return p
		}
		p := plan()
		if p.Head.Sequence != 1 || len(p.Passed) != 1 || !errors.Is(p.Passed[0], register.ErrDamaged) {
			t.Fatalf("of snapshot %d, passed over %v", p.Head.Sequence, p.Passed)
		}
		c := w.restoreOf("", postgres.Target{}).recovers()
		c.holds(t, 1, 1)
		if n := c.Exec("SELECT count(*) FROM bulk"); n != "40000" {
			t.Errorf("%s rows of 40000", n)
		}
		c.Kill()

		for n, data := range large {
			e[1].Damage(n, data) // some of them are another's, which harms nothing
		}
		e[1].Fail(sim.Down())
		if p = plan(); p.Head.Sequence != 1 || len(p.Passed) != 1 || !errors.Is(p.Passed[0], register.ErrTooFew) {
			t.Fatalf("of snapshot %d, passed over %v", p.Head.Sequence, p.Passed)
		}
		e[1].Fail(sim.Faults{})
		if p = plan(); p.Head.Sequence != 2 || len(p.Passed) != 0 {
			t.Fatalf("of snapshot %d, passed over %v", p.Head.Sequence, p.Passed)
		}
	})
}
