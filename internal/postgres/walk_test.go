//go:build !race

// A walk of some hundred commits and a dozen restores. What runs at once in it runs in other tests under the race detector.

package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
)

// walk is a world to which anything may happen, in any order.
type walk struct {
	*world
	r      *rand.Rand
	stream *streaming
	writer *writer
	done   []string
}

// acts are what may happen. Each leaves all embassies up.
func (k *walk) acts() map[string]func() {
	return map[string]func(){
		"the server dies": func() {
			k.server.Kill()
			k.server.StartAgain()
			k.inSync()
		},
		"the stream dies": func() {
			k.stream.crash()
			k.streams()
		},
		"the stream ends": func() {
			k.stream.end()
			k.streams()
		},
		"an embassy is away": func() {
			e := k.state.Embassies[k.r.IntN(3)]
			e.Fail(sim.Down())
			k.writer.more(k, k.r.IntN(20))
			e.Fail(sim.Faults{})
		},
		"two embassies are away": func() {
			here := k.r.IntN(3)
			for i, e := range k.state.Embassies {
				if i != here {
					e.Fail(sim.Down())
				}
			}
			time.Sleep(time.Duration(k.r.IntN(300)) * time.Millisecond)
			k.state.Fail(sim.Faults{})
		},
		"a segment is left": func() { k.server.Exec("SELECT pg_switch_wal()") },
		"a checkpoint":      func() { k.server.Exec("CHECKPOINT") },
		"a base backup":     func() { k.backup() },
	}
}

// disturbs has the server write other pages than those of the rows that are counted.
func (k *walk) disturbs() {
	for range 1 + k.r.IntN(3) {
		acts := []string{
			fmt.Sprintf("UPDATE big SET x = 'changed' WHERE i %% %d = 0", 50+k.r.IntN(1000)),
			fmt.Sprintf("INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, %d) i", 1+k.r.IntN(3000)),
			fmt.Sprintf("DELETE FROM big WHERE i BETWEEN %d AND %[1]d + 900", k.r.IntN(20000)),
			"VACUUM big", "VACUUM FULL big", "TRUNCATE passing", "INSERT INTO passing SELECT * FROM big LIMIT 700",
			"DROP INDEX big_i_idx; CREATE INDEX ON big (i)",
		}
		k.server.Exec(acts[k.r.IntN(len(acts))])
	}
}

func (k *walk) streams() {
	k.stream = k.world.stream(asSynchronous)
	k.inSync()
}

// step does one thing, amid commits.
func (k *walk) step() {
	acts := k.acts()
	var names []string
	for n := range acts {
		names = append(names, n)
	}
	slices.Sort(names)
	name := names[k.r.IntN(len(names))]
	k.done = append(k.done, name)
	k.writer.more(k, k.r.IntN(30))
	if k.r.IntN(2) == 0 {
		k.disturbs()
	}
	acts[name]()
	k.writer.more(k, 1+k.r.IntN(30))
}

// moment is one that must come back, of those behind the first base backup.
func (k *walk) moment(first int, rows []row) moment {
	var known []row                               // the server said where its log was then
	for _, r := range rows[first : len(rows)-1] { // the clock may not be abroad that the last one was followed by
		if r.lsn != 0 {
			known = append(known, r)
		}
	}
	x := known[k.r.IntN(len(known))]
	return []moment{
		{"a time", postgres.Target{Time: x.time}, x.n, x.n},
		{"a position", postgres.Target{LSN: x.lsn}, x.n, x.n},
		{"a transaction", postgres.Target{XID: x.xid}, x.n, x.n},
		{"the latest", postgres.Target{}, len(rows), len(rows) + 1}, // one may have been committed and not acknowledged
	}[k.r.IntN(4)]
}

// Whatever happens to the server, to the stream and to embassies, and in whatever order, every moment comes back exactly: with
// segments of the usual size, base backups of what changed where there are such, and commits that wait for embassies.
// CHANCERY_EXHAUSTIVE=1 walks on for most of an hour.
func TestWhateverHappensEveryMomentComesBack(t *testing.T) {
	t.Parallel()
	for _, major := range []int{pgtest.Majors()[0], pgtest.Majors()[len(pgtest.Majors())-1]} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			rounds := 2
			if os.Getenv("CHANCERY_EXHAUSTIVE") == "1" {
				rounds = 300
			}
			k := newWalk(t, major, uint64(time.Now().UnixNano()))
			for first := 0; rounds > 0 && !t.Failed(); rounds-- {
				first = k.round(first)
			}
		})
	}
}

func newWalk(t *testing.T, major int, seed uint64) *walk {
	o := settings()
	o.SegmentSize = 16
	if major >= 17 {
		o.Settings["summarize_wal"] = "on"
	}
	k := &walk{world: newWorld(t, major, o), r: rand.New(rand.NewPCG(seed, 1))}
	t.Logf("seed %d", seed)
	k.server.Exec("CREATE TABLE big AS SELECT i, md5(i::text) AS x FROM generate_series(1, 20000) i")
	k.server.Exec("CREATE INDEX ON big (i); CREATE TABLE passing AS SELECT * FROM big; CREATE EXTENSION amcheck")
	k.stream = k.world.stream(asSynchronous)
	k.stream.told(postgres.Connected)
	k.backup()
	k.synchronize()
	return k
}

// round walks some steps, brings a moment back of those behind a row, and returns the last row.
func (k *walk) round(first int) int {
	k.Helper()
	k.done = nil
	k.writer = k.write(0)
	for range 2 + k.r.IntN(4) {
		k.step()
	}
	k.writer.more(k, 3)
	k.writer.end()
	rows := k.writer.acknowledged()
	k.stream.until(k.written())
	m := k.moment(first, rows)
	k.Logf("%s; then %s: %d of %d rows", strings.Join(k.done, ", "), m.name, m.least, len(rows))
	c := k.restoreOf("", m.target).recovers()
	c.holds(k, m.least, m.most)
	sound(c.Server)
	if bad := heapDamage(c.Server); bad != "" {
		k.Error(bad)
	}
	if want := contents(k.server); m.name == "the latest" && contents(c.Server) != want {
		k.Errorf("not what the server has:\n%s\nbut\n%s", want, contents(c.Server))
	}
	c.Kill()
	return len(rows)
}
