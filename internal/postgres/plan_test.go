package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/wal"
)

// Whoever names a moment and no snapshot gets the newest base backup that ended before it, however many were made since;
// a name or a transaction is found in the log, also one that was prepared, whatever else its record says.
func TestAMomentFindsItsBaseBackup(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("max_prepared_transactions", "5"))
		s := w.stream()
		defer s.end()
		s.told(postgres.Connected)
		do := func(sql string) string { return w.server.Exec(sql) }
		do("CREATE TABLE fact (n int PRIMARY KEY); CREATE TABLE old AS SELECT generate_series(1, 100) AS n; ANALYZE old")
		row := func(n string) (xid string, at wal.LSN, when time.Time) {
			t.Helper()
			xid = do("INSERT INTO fact VALUES (" + n + ") RETURNING pg_current_xact_id()")
			at, err := wal.ParseLSN(do("SELECT pg_current_wal_insert_lsn()"))
			check(t, err)
			when, err = time.Parse("2006-01-02 15:04:05.999999-07", do("SET timezone = 'UTC'; SELECT clock_timestamp()"))
			check(t, err)
			return xid, at, when
		}
		w.backup() // 1
		first, _, _ := row("1")
		do("SELECT pg_create_restore_point('sold')")
		_, at, when := row("2")
		do("BEGIN; INSERT INTO fact VALUES (3); SAVEPOINT a; DROP TABLE old; SAVEPOINT b; CREATE TABLE new (n int); PREPARE TRANSACTION 'three'")
		prepared := do("SELECT transaction FROM pg_prepared_xacts WHERE gid = 'three'")
		do("SELECT pg_switch_wal()")
		do("COMMIT PREPARED 'three'")
		_, last, _ := row("4")
		w.backup() // 2
		row("5")
		do("BEGIN; INSERT INTO fact VALUES (6); PREPARE TRANSACTION 'six'")
		given := do("SELECT transaction FROM pg_prepared_xacts WHERE gid = 'six'")
		do("ROLLBACK PREPARED 'six'")
		row("7")
		do("SELECT pg_create_restore_point('sold')")
		row("8")
		w.backup() // 3
		do("SELECT pg_create_restore_point('end')")
		row("9")
		s.until(w.written())

		for what, c := range map[string]struct {
			target postgres.Target
			from   string // the snapshot that is named
			head   uint64
			rows   string
		}{
			"a position":                 {postgres.Target{LSN: at}, "", 1, "1,2"},
			"a time":                     {postgres.Target{Time: when}, "", 1, "1,2"},
			"just before a backup":       {postgres.Target{LSN: last}, "", 1, "1,2,3,4"},
			"a transaction":              {postgres.Target{XID: first}, "", 1, "1"},
			"one that was prepared":      {postgres.Target{XID: prepared}, "", 1, "1,2,3"},
			"one that was given up":      {postgres.Target{XID: given}, "", 2, "1,2,3,4,5"},
			"the newest of a name":       {postgres.Target{Name: "sold"}, "", 2, "1,2,3,4,5,7"},
			"the first behind the first": {postgres.Target{Name: "sold"}, "1", 1, "1"},
			"a name at the end":          {postgres.Target{Name: "end"}, "", 3, "1,2,3,4,5,7,8"},
			"the latest":                 {postgres.Target{}, "", 3, "1,2,3,4,5,7,8,9"},
		} {
			if rounds(major, 2) == 1 && c.target.XID == "" {
				continue
			}
			t.Run(what, func(t *testing.T) {
				w := *w
				w.TB = t
				c2 := w.restoreOf(c.from, c.target)
				if seq, err := postgres.RestoredSnapshot(c2.Data); err != nil || seq != c.head {
					t.Errorf("from snapshot %d, not %d: %v", seq, c.head, err)
				}
				if got := c2.recovers().Exec("SELECT string_agg(n::text, ',' ORDER BY n) FROM fact"); got != c.rows {
					t.Errorf("it holds %s, not %s", got, c.rows)
				}
			})
		}

		r := w.reader()
		newest, err := r.Find("latest")
		check(t, err)
		for what, target := range map[string]postgres.Target{
			"no such name": {Name: "never"}, "no such transaction": {XID: "4000000"}, "no transaction": {XID: "0"}, "too early": {LSN: 1},
			"too late": {Time: time.Now().Add(time.Hour)}, "another timeline": {Timeline: 7},
		} {
			if _, err := postgres.NewPlan(t.Context(), r, nil, target, nil); !errors.Is(err, postgres.ErrBeyond) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := postgres.NewPlan(t.Context(), r, newest, postgres.Target{Name: "sold"}, nil); !errors.Is(err, postgres.ErrBeyond) || !strings.Contains(err.Error(), "behind snapshot 3") {
			t.Errorf("a name before the snapshot that was named: %v", err)
		}
	})
}

// A name is found over a change of timelines, and on the timeline that is asked for.
func TestANameIsFoundOnItsTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	s := w.stream()
	s.told(postgres.Connected)
	w.backup()
	w.server.Exec("CREATE TABLE fact AS SELECT 1 AS n")
	w.server.Exec("SELECT pg_create_restore_point('before')")
	w.server.Exec("INSERT INTO fact VALUES (2)")
	s.until(w.written())
	s.end()
	c := w.restore(postgres.Target{Name: "before"}).recovers() // on timeline 2
	c.unserve()
	w.server.Kill()
	w.server = c.Server
	s = w.stream()
	s.told(postgres.Connected)
	w.server.Exec("INSERT INTO fact VALUES (3)")
	w.server.Exec("SELECT pg_create_restore_point('after')")
	w.server.Exec("INSERT INTO fact VALUES (4)")
	w.backup()
	s.until(w.written())
	s.end()
	for what, c := range map[string]struct {
		target postgres.Target
		rows   string
	}{
		"before, by the new one": {postgres.Target{Name: "before"}, "1"},
		"after":                  {postgres.Target{Name: "after"}, "1,3"},
		"the end of the old one": {postgres.Target{Timeline: 1}, "1,2"},
	} {
		if got := w.restoreOf("", c.target).recovers().Exec("SELECT string_agg(n::text, ',' ORDER BY n) FROM fact"); got != c.rows {
			t.Errorf("%s: it holds %s, not %s", what, got, c.rows)
		}
	}
	if _, err := postgres.NewPlan(t.Context(), w.reader(), nil, postgres.Target{Name: "after", Timeline: 1}, nil); !errors.Is(err, postgres.ErrBeyond) {
		t.Errorf("a name of another timeline: %v", err)
	}
}

// What a restored folder says of its snapshot is a number or nothing.
func TestWhatAFolderSaysOfItsSnapshot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, postgres.RecoveryFolder), 0o700))
	if n, err := postgres.RestoredSnapshot(dir); n != 0 || err != nil {
		t.Errorf("of an earlier release: %d, %v", n, err)
	}
	file := filepath.Join(dir, postgres.RecoveryFolder, "snapshot")
	for _, text := range []string{"", "0\n", "-1\n", "1 2\n", "x", strings.Repeat("1", 1<<20)} {
		check(t, os.WriteFile(file, []byte(text), 0o600))
		if n, err := postgres.RestoredSnapshot(dir); err == nil {
			t.Errorf("%.20q is %d", text, n)
		}
	}
	check(t, os.Remove(file))
	check(t, os.Symlink("/etc/hostname", file))
	if n, err := postgres.RestoredSnapshot(dir); err == nil {
		t.Errorf("through a link that leads out: %d", n)
	}
}
