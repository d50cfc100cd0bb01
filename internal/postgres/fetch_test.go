package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/sim"
)

// stops starts the server, which must end with this exit code of its restore_command and not have opened.
func (c *recovery) stops(t testing.TB, code int) {
	t.Helper()
	_ = c.TryStart() // it may answer readers until it asks for what it does not get
	said := c.Ends()
	want, ok := map[int]string{126: "command not executable", 127: "command not found"}[code]
	if !ok {
		want = fmt.Sprintf("exit code %d", code)
	}
	if !strings.Contains(said, want) {
		t.Errorf("the server ended without %q:\n%s", want, strings.ReplaceAll(said, "\n20", "\n  "))
	}
	c.closed(t)
}

// closed wants a cluster that has not opened.
func (c *recovery) closed(t testing.TB) {
	t.Helper()
	if made, _ := filepath.Glob(filepath.Join(c.Data, "pg_wal", "*.history")); len(made) > 0 {
		t.Errorf("the server began a timeline: %v", made)
	}
	if _, err := os.Stat(filepath.Join(c.Data, "recovery.signal")); err != nil {
		t.Errorf("the server is not to recover any more: %v", err)
	}
}

// anew serves a changed view of the log.
func (c *recovery) anew(t testing.TB, view func(postgres.View) postgres.View) {
	t.Helper()
	c.unserve()
	c.view = view
	c.serve(t.Context())
}

// calling has the server call another program for its log.
func (c *recovery) calling(t testing.TB, from, to string) (back func()) {
	t.Helper()
	path := filepath.Join(c.Data, "postgresql.auto.conf")
	before, err := os.ReadFile(path)
	check(t, err)
	if !strings.Contains(string(before), from) {
		t.Fatalf("no %q in\n%s", from, before)
	}
	check(t, os.WriteFile(path, []byte(strings.Replace(string(before), from, to, 1)), 0o600))
	return func() { check(t, os.WriteFile(path, before, 0o600)) }
}

// script makes a program that the servers' user can run.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(pgtest.Folder(t), "program")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return path
}

// lacking is a log without the stretches that hold what the others end with: a hole, and something behind it.
func lacking(w *world, l *postgres.Log) func(postgres.View) postgres.View {
	return func(v postgres.View) postgres.View {
		r := w.reader()
		x, err := r.Stream().Stretches(w.Context(), l.Base.Stretch) // as the log counts them
		check(w, err)
		var positions []postgres.Position
		for i := range x.Len() {
			if i == x.Len()-2 {
				continue
			}
			p, err := postgres.ParsePosition(x.At(i).Position)
			check(w, err)
			positions = append(positions, p)
		}
		v.Trail, err = postgres.NewTrail(v.Trail.System, positions, nil, nil)
		check(w, err)
		return v
	}
}

// logged makes a cluster with a base backup and some segments of log behind it, and returns the objects of that log.
func (w *world) logged() (rows int, objects map[shard.Name]bool) {
	w.Helper()
	s := w.stream()
	s.told(postgres.Connected)
	w.backup()
	before := map[shard.Name]bool{}
	for _, n := range w.objects() {
		before[n] = true
	}
	wr := w.write(time.Millisecond)
	for range 3 {
		wr.more(w, 30)
		w.server.Exec("SELECT pg_switch_wal()")
	}
	wr.more(w, 30)
	wr.end()
	s.until(w.written())
	s.end()
	objects = map[shard.Name]bool{}
	for _, n := range w.objects() {
		if !before[n] {
			objects[n] = true
		}
	}
	return wr.count(), objects
}

func (w *world) objects() (out []shard.Name) {
	for _, e := range w.state.Embassies {
		out = append(out, e.Objects()...)
	}
	return out
}

// damage inverts a byte of each of these objects at one embassy, and the same again mends it.
func damage(e *sim.Embassy, which map[shard.Name]bool) {
	for _, n := range e.Objects() {
		if which[n] {
			e.Flip(n, 1000, 1)
		}
	}
}

// Whatever keeps the log from a server that recovers, it stops, and has not opened; when that is over it is started again
// and goes on, to the proven end.
func TestAServerOpensOnlyAtAProvenEnd(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		rows, objects := w.logged()
		c := w.restore(postgres.Target{})
		e := w.state.Embassies
		check(t, postgres.CheckSystem(c.Data, c.log.Base.System))
		if postgres.CheckSystem(c.Data, c.log.Base.System+1) == nil {
			t.Error("the log of another system may be handed to it")
		}

		c.unserve()
		c.stops(t, postgres.FetchUnserved)
		c.anew(t, lacking(w, c.log))
		c.stops(t, postgres.FetchHole)

		damage(e[0], objects)
		damage(e[1], objects)
		_, _, l, _, err := w.plan("latest", &postgres.Target{}) // a reader keeps a few packs open
		check(t, err)
		c.log = l
		c.anew(t, nil)
		c.stops(t, postgres.FetchDamaged)
		damage(e[1], objects)

		e[1].Fail(sim.Down())
		e[2].Fail(sim.Down())
		c.stops(t, postgres.FetchUnanswered)
		e[1].Fail(sim.Faults{})
		e[2].Fail(sim.Faults{})

		back := c.calling(t, "%f", "x%f")
		c.stops(t, postgres.FetchRefused)
		back()
		self, err := program()
		check(t, err)
		for _, x := range []struct {
			text string
			code int
		}{
			{"kill -9 $$", 128 + 9},
			{"exit 2", postgres.FetchRefused}, // as a runtime that breaks down
			{"exit 64", postgres.FetchRefused},
			{"exec /absent", 127},
		}[:rounds(major, 4)] {
			back := c.calling(t, self, script(t, x.text))
			c.stops(t, x.code)
			back()
		}

		c.recovers().holds(t, rows, rows) // though one share of each part is damaged
		if _, err := os.Stat(filepath.Join(c.Data, postgres.RecoveryFolder)); err == nil {
			t.Error("what recovery needed is still there")
		}
	})
}

// While too few embassies show their records there may be more than is known: the server stops at the last segment, and
// goes on when they do.
func TestAnUnprovenEndIsNoEnd(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorldOf(t, 1, major, settings())
		rows, _ := w.logged()
		c := w.restore(postgres.Target{})
		gone := w.state.Embassies[2]
		gone.Fail(sim.Down())
		if _, _, _, _, err := w.plan("latest", &postgres.Target{}); err == nil {
			t.Error("the latest moment is promised, though it is not proven")
		}
		c.unserve()
		next, err := c.log.Renew(t.Context())
		check(t, err)
		c.log = next
		c.serve(t.Context())
		c.stops(t, postgres.FetchUnproven)
		gone.Fail(sim.Faults{})
		c.recovers().holds(t, rows, rows)
	})
}
