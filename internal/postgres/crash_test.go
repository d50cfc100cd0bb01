package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
)

// The server is killed amid writing, again and again: the stream goes on, and what a restore brings back is every row
// that the stream had told to be durable, each once and none missing in between.
func TestTheStreamOutlivesCrashes(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream()
		s.told(postgres.Connected)
		w.backup()
		wr := w.write(time.Millisecond)
		crashes := rounds(major, 4)
		for n := range crashes {
			wr.more(t, 60)
			await(t, "another connection", func() bool { return s.count(postgres.Connected) > n })
			wr.more(t, 10)
			w.server.Kill()
			w.server.StartAgain()
		}
		await(t, "the last connection", func() bool { return s.count(postgres.Connected) > crashes })
		wr.more(t, 10)
		wr.end()
		_, durable := s.durable()
		s.end() // what is on its way may or may not arrive
		least := 0
		rows := wr.acknowledged()
		for _, r := range rows {
			if r.lsn != 0 && r.lsn <= durable {
				least = r.n
			}
		}
		if n := s.count(postgres.Gap) + s.count(postgres.Conflict) + s.count(postgres.Abandoned); n > 0 {
			t.Errorf("%d events of lost log", n)
		}
		w.restore(postgres.Target{}).recovers().holds(t, least, len(rows)+1)
	})
}

// synchronize has commits wait for the stream, from now on.
func (w *world) synchronize() {
	w.Helper()
	w.synchronizeWith("chancery")
	w.inSync()
}

func (w *world) synchronizeWith(name string) {
	w.Helper()
	w.server.Set(map[string]string{"synchronous_standby_names": name})
	w.server.Reload()
	w.server.Await("SHOW synchronous_standby_names", name)
}

// inSync waits until the server takes the stream for its synchronous standby.
func (w *world) inSync() {
	w.Helper()
	w.server.Await("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'chancery'", "sync")
}

// asSynchronous makes a stream one that sends each piece at once.
func asSynchronous(o *postgres.StreamOptions) { o.Synchronous, o.Interval = true, time.Hour }

// far lets every embassy take a while for what it stores, as one abroad does, or refuse it.
func (w *world) far(refuse bool) {
	w.state.Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op != sim.Put && c.Op != sim.PutRecord {
			return nil
		}
		if refuse {
			return sim.ErrDown
		}
		time.Sleep(time.Duration(2+rand.IntN(10)) * time.Millisecond)
		return nil
	}})
}

// A commit that returned when every embassy held it is in a restore, though the server was lost at that moment together
// with as many embassies as may be.
func TestASynchronousCommitIsNeverLost(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		w.holders = 3
		w.far(false)
		last := w.stream(asSynchronous)
		last.told(postgres.Connected)
		w.backup()
		w.synchronize()
		wr := w.write(0)
		for round, gone := range w.state.Embassies[:rounds(major, 3)] {
			wr.more(t, 20+round*17)
			w.far(true) // from now on no embassy takes anything that would have come too late
			w.server.Kill()
			rows := wr.count()
			gone.Fail(sim.Down())
			last.end()
			r := w.restore(postgres.Target{}).recovers()
			r.holds(t, rows, rows+1)
			r.Kill()
			w.far(false)
			w.server.StartAgain()
			last = w.stream(asSynchronous)
			w.inSync()
		}
		wr.end()
	})
}

// A commit that returned when the least embassies held it is in a restore, or there is none: with one of these gone, and the
// third that never had it, no server opens without it. It opens with it when that one is back.
func TestACommitThatTheLeastHoldIsNeverLeftOut(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream(asSynchronous)
		s.told(postgres.Connected)
		w.backup()
		w.synchronize()
		wr := w.write(0)
		wr.more(t, 10)
		w.state.Embassies[2].Fail(sim.Down())
		wr.more(t, 10)
		w.server.Kill()
		rows := wr.count()
		s.crash()
		w.state.Fail(sim.Faults{})
		wr.end()
		w.state.Embassies[0].Fail(sim.Down())
		if _, err := postgres.NewPlan(t.Context(), w.reader(), nil, postgres.Target{}, nil); !errors.Is(err, postgres.ErrBeyond) || !errors.Is(err, register.ErrTooFew) {
			t.Fatal(err)
		}
		w.state.Fail(sim.Faults{})
		w.restore(postgres.Target{}).recovers().holds(t, rows, rows+1)
	})
}

// With too few embassies up a commit does not return, and does when one is back.
func TestASynchronousCommitWaitsForEmbassies(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream(asSynchronous, func(o *postgres.StreamOptions) { o.Watch = 50 * time.Millisecond })
		s.told(postgres.Connected)
		w.synchronize()
		wr := w.write(0)
		wr.more(t, 10)
		w.state.Embassies[0].Fail(sim.Down())
		wr.more(t, 10) // two of three are enough
		w.state.Embassies[1].Fail(sim.Down())
		s.told(postgres.Unanswered)
		n := wr.count()
		time.Sleep(500 * time.Millisecond)
		if more := wr.count(); more > n+1 { // one may have been on its way when it was counted
			t.Errorf("%d commits returned with one embassy of three", more-n)
		}
		if !wr.waiting() {
			t.Error("no commit waits")
		}
		w.state.Embassies[0].Fail(sim.Faults{})
		wr.more(t, 10)
		wr.end()
	})
}

// A commit whose log is at the embassies already, and that waits since nobody said so before the connection ended, returns
// with the next connection, before anything else becomes durable.
func TestACommitThatWaitsGoesOnWithTheNextConnection(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream(asSynchronous)
		s.told(postgres.Connected)
		w.synchronizeWith("another")
		wr := w.write(0)
		w.server.Await("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1") // its commit is in the log
		at := w.written()
		s.until(at)
		s.end()
		w.synchronizeWith("chancery")
		s = w.stream(asSynchronous)
		wr.more(t, 3)
		wr.end()
		for _, e := range s.all() {
			if first := wr.acknowledged()[0]; e.What == postgres.Durable && e.LSN > at && e.Time.Before(first.at) {
				t.Errorf("it waited until %s was durable, though %s had been for long", e.LSN, at)
				break
			}
		}
	})
}
