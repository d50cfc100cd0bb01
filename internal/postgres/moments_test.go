package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/wal"
)

// A restored cluster holds exactly the rows that were committed before its target, whichever target that is.
func TestEveryMomentComesBack(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, major, settings())
			s := w.stream()
			s.told(postgres.Connected)
			wr := w.write(time.Millisecond)
			wr.more(t, 20)
			w.backup()
			first := wr.count() + 1 // committed behind the backup's end
			wr.more(t, 100)
			sold := wr.count()
			w.server.Exec("SELECT pg_create_restore_point('sold')")
			named := moment{"a name", postgres.Target{Name: "sold"}, sold, wr.count() + 1}
			wr.more(t, 100)
			w.server.Exec("SELECT pg_switch_wal()")
			wr.more(t, 50)
			wr.end()
			w.server.Exec("SELECT pg_switch_wal()") // commits nothing: no record ends a transaction later than the last row's
			s.until(w.written())
			s.end()
			rows := wr.acknowledged()
			for _, m := range append(moments(t, major, rows, first, w.written()), named) {
				t.Run(m.name, func(t *testing.T) {
					w := *w
					w.TB = t
					w.restore(m.target).recovers().holds(t, m.least, m.most)
				})
			}
		})
	}
}

// A base backup ends with a switch, which leaves most of a segment of the usual size empty. A moment soon behind it is found
// all the same: looking for it back from the end begins in what is empty.
func TestAMomentSoonBehindABaseBackupComesBack(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			o := settings()
			o.SegmentSize = 16
			w := newWorld(t, major, o)
			s := w.stream()
			s.told(postgres.Connected)
			w.backup()
			wr := w.write(time.Millisecond)
			wr.more(t, 60)
			wr.end()
			w.server.Exec("CHECKPOINT") // log later than the last commit
			s.until(w.written())
			s.end()
			rows := wr.acknowledged()
			for _, m := range []moment{
				{"a time", postgres.Target{Time: rows[20].time}, 21, 21},
				{"a position", postgres.Target{LSN: rows[30].lsn}, 31, 31},
				{"a time behind the last commit", postgres.Target{Time: rows[len(rows)-1].time.Add(time.Microsecond)}, len(rows), len(rows)},
			} {
				t.Run(m.name, func(t *testing.T) {
					w := *w
					w.TB = t
					w.restore(m.target).recovers().holds(t, m.least, m.most)
				})
			}
		})
	}
}

type moment struct {
	name        string
	target      postgres.Target
	least, most int
}

func moments(t *testing.T, major int, rows []row, first int, end wal.LSN) []moment {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func() row { return rows[first+r.IntN(len(rows)-first-1)] }
	one, two, three := pick(), pick(), pick()
	between := rows[one.n-1].lsn + wal.LSN(r.Uint64N(uint64(rows[one.n].lsn-rows[one.n-1].lsn)))
	all := []moment{
		{"a position", postgres.Target{LSN: one.lsn}, one.n, one.n},
		{"a time behind the last commit", postgres.Target{Time: rows[len(rows)-1].time.Add(time.Microsecond)}, len(rows), len(rows)},
		{"the latest", postgres.Target{}, len(rows), len(rows)},
	}
	if major == 15 {
		all = append(all,
			moment{"a time", postgres.Target{Time: two.time}, two.n, two.n},
			moment{"another time", postgres.Target{Time: three.time}, three.n, three.n},
			moment{"the last position", postgres.Target{LSN: end}, len(rows), len(rows)},
			moment{"a position in a commit", postgres.Target{LSN: between}, one.n, one.n + 1},
			moment{"a transaction", postgres.Target{XID: three.xid}, three.n, three.n},
		)
	}
	return all
}
