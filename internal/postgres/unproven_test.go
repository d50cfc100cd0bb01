package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
)

// unvouched is a ledger that nobody vouches for.
type unvouched struct{}

func (unvouched) Tree(context.Context) (register.Tree, error) {
	return nil, errors.New("nobody vouches for it")
}

// A restore to a moment before what is known needs no proof of the end: the server stops there, and opens. One that has no
// such moment stays closed, and so does the same server when the log is not cut for it.
func TestAnEarlierMomentNeedsNoProvenEnd(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, major, settings())
			s := w.stream()
			s.told(postgres.Connected)
			w.backup()
			wr := w.write(time.Millisecond)
			wr.more(t, 60)
			w.server.Exec("SELECT pg_switch_wal()")
			wr.more(t, 60) // in a segment that is not full: its end is the end of what is known
			wr.end()
			s.until(w.written())
			s.end()
			rows := wr.acknowledged()
			members := w.state.Register("").Members // of every machine from now on
			for i := range members {
				members[i].Ledger = unvouched{}
			}
			if _, _, _, _, err := w.plan("latest", &postgres.Target{}); !errors.Is(err, postgres.ErrBeyond) || !errors.Is(err, register.ErrTooFew) {
				t.Fatalf("the latest: %v", err)
			}
			row := rows[len(rows)-20]
			if major == pgtest.Majors()[0] { // a transaction that is found needs none either
				w.restore(postgres.Target{XID: row.xid}).recovers().holds(t, row.n, row.n)
			}
			c := w.restore(postgres.Target{LSN: row.lsn})
			enough := filepath.Join(c.Data, postgres.RecoveryFolder, "enough")
			said, err := os.ReadFile(enough)
			check(t, err)
			check(t, os.Remove(enough))
			c.anew(t, func(v postgres.View) postgres.View { return v })
			c.stops(t, postgres.FetchUnproven)
			check(t, os.WriteFile(enough, said, 0o600))
			c.anew(t, func(v postgres.View) postgres.View { return v })
			c.recovers().holds(t, row.n, row.n)
			if major != pgtest.Majors()[0] {
				return
			}
			w.restore(postgres.Target{Time: row.time}).recovers().holds(t, row.n, row.n)
		})
	}
}
