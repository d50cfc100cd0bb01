//go:build !race

// Under the race detector what follows takes minutes of moving bytes, and does nothing at once that other tests do not.

package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// boot tries to bring the newest snapshot back; at is called with each thing that is being done, and the scratch folder.
func (w *world) boot(at func(doing, scratch string), change ...func(*postgres.BootOptions)) (*postgres.Booted, error) {
	w.Helper()
	r := w.reader()
	head, err := r.Find("latest")
	check(w, err)
	self, err := program()
	check(w, err)
	o := postgres.BootOptions{
		Scratch: pgtest.Folder(w), Owner: owner(w), Program: self, Began: time.Now(), Programs: pgtest.Bin(w, w.server.Major),
	}
	o.Assertions = []postgres.BootAssertion{{Name: "rows", Database: "postgres", SQL: "SELECT count(*) > 0 FROM numbered"}}
	o.Tell = func(format string, args ...any) {
		if at != nil {
			at(fmt.Sprintf(format, args...), o.Scratch)
		}
	}
	for _, c := range change {
		c(&o)
	}
	b, err := postgres.Boot(w.Context(), r, head, o, nil)
	if w.Failed() || err != nil {
		log, _ := os.ReadFile(filepath.Join(o.Scratch, postgres.ServerLog))
		w.Logf("%v\n%+v\n%s", err, b.Checks, log)
	}
	return b, err
}

// failed are the names of the checks that failed.
func failed(b *postgres.Booted) (names []string) {
	for _, c := range b.Checks {
		if c.Outcome == snapshot.CheckFailed {
			names = append(names, c.Name)
		}
	}
	return names
}

// flipAt changes one byte of a file.
func flipAt(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	one := make([]byte, 1)
	_, err = f.ReadAt(one, at)
	check(t, err)
	one[0] ^= 0x55
	_, err = f.WriteAt(one, at)
	check(t, err)
}

// kept writes rows, has them at the embassies with a base backup, and ends the stream.
func (w *world) kept(rows int) {
	w.Helper()
	s := w.stream()
	w.server.Exec(fmt.Sprintf("INSERT INTO numbered SELECT g, repeat('x', 100) FROM generate_series(1, %d) g", rows))
	w.server.Exec("CHECKPOINT")
	w.backup()
	s.until(w.written())
	s.end()
}

// TestEveryVersionComesBackAndIsLookedAt: an index that lacks a row is found in each, also where there is no pg_amcheck.
func TestEveryVersionComesBackAndIsLookedAt(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			w := newWorld(t, major, settings())
			w.server.Exec("CREATE DATABASE \"other's one\"")
			w.server.Exec("CREATE SCHEMA \"a b\"; CREATE EXTENSION amcheck SCHEMA \"a b\"")
			w.kept(100)
			if b, err := w.boot(nil); err != nil || len(b.Position) == 0 || b.Version == "" {
				t.Fatal(err, b)
			}
			ready := func(is bool) {
				w.server.Exec(fmt.Sprintf("UPDATE pg_index SET indisready = %t WHERE indexrelid = 'numbered_pkey'::regclass", is))
			}
			ready(false)
			w.server.Exec("INSERT INTO numbered VALUES (101, 'in no index')")
			ready(true)
			s := w.stream()
			s.until(w.written())
			s.end()
			b, err := w.boot(nil)
			if !errors.Is(err, postgres.ErrNotProven) || !slices.Equal(failed(b), []string{"amcheck"}) || !strings.Contains(err.Error(), "lacks matching index tuple") {
				t.Errorf("%v, %v", failed(b), err)
			}
		})
	}
}

// TestAProofHasALimit: an assertion that takes too long has failed and keeps no other from being asked, a proof that takes
// too long has failed, and so has a recovery that does not go on. No server is left behind.
func TestAProofHasALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	s := w.stream()
	s.told(postgres.Connected)
	w.backup()
	w.server.Exec("INSERT INTO numbered SELECT g, repeat('x', 100) FROM generate_series(1, 100) g; SELECT pg_switch_wal()")
	s.until(w.written())
	s.end()
	endless := func(limit time.Duration) func(*postgres.BootOptions) {
		return func(o *postgres.BootOptions) {
			o.Assertions = append([]postgres.BootAssertion{{
				Name: "endless", Database: "postgres", SQL: "SELECT pg_sleep(3600) IS NOT NULL", Limit: limit,
			}}, o.Assertions...)
		}
	}
	b, err := w.boot(nil, endless(200*time.Millisecond))
	if !errors.Is(err, postgres.ErrNotProven) || !slices.Equal(failed(b), []string{"assertion endless"}) ||
		!strings.Contains(err.Error(), "assertion endless: it was not done within 200ms") {
		t.Errorf("an assertion: %v, %v", failed(b), err)
	}
	var scratch string
	began := time.Now()
	_, err = w.boot(func(_, at string) { scratch = at }, endless(0), func(o *postgres.BootOptions) { o.Limit = 5 * time.Second })
	if !errors.Is(err, postgres.ErrNotProven) || !strings.Contains(err.Error(), "it was not done within 5s; at last: ") {
		t.Errorf("all of it: %v", err)
	}
	if took := time.Since(began); took > 10*time.Minute {
		t.Errorf("it ended after %s", took)
	}
	gone(t, scratch)
	_, err = w.boot(func(doing, at string) {
		if scratch = at; strings.HasPrefix(doing, "starting") {
			w.state.Fail(sim.Slow(time.Hour)) // no embassy refuses the log, and none gives it
		}
	}, func(o *postgres.BootOptions) { o.Stall = 2 * time.Second })
	if err == nil || !strings.Contains(err.Error(), "recovery makes no progress for 2s") {
		t.Errorf("a recovery that hangs: %v", err)
	}
	gone(t, scratch)
}

// gone wants no process that works in a folder.
func gone(t *testing.T, dir string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	check(t, err)
	for _, l := range links {
		if at, err := os.Readlink(l); err == nil && strings.HasPrefix(at, dir) {
			t.Errorf("%s still works in %s", l, at)
		}
	}
}

// TestAClusterWithTablespacesComesBack: each goes into the scratch folder, and none to where the original's is.
func TestAClusterWithTablespacesComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	space := pgtest.Folder(t)
	w.server.Exec("CREATE TABLESPACE apart LOCATION '" + space + "'")
	w.server.Exec("CREATE TABLE far (n int PRIMARY KEY) TABLESPACE apart")
	w.server.Exec("INSERT INTO far SELECT generate_series(1, 1000)")
	w.kept(10)
	before, err := os.ReadDir(space)
	check(t, err)
	in := ""
	b, err := w.boot(func(doing, scratch string) {
		if strings.HasPrefix(doing, "stopping") {
			all, _ := filepath.Glob(filepath.Join(scratch, "space-*", "PG_15_*"))
			in = strings.Join(all, " ")
		}
	})
	if err != nil || in == "" || len(b.Position) == 0 || b.Took <= 0 {
		t.Error(err, in, b)
	}
	if after, err := os.ReadDir(space); err != nil || len(after) != len(before) {
		t.Error("the original's tablespace was touched", after, err)
	}
}

// TestAChangedFileIsFoundBeforeAndAfter: by the server's manifest before it starts, by checksums after it has stopped.
func TestAChangedFileIsFoundBeforeAndAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	w.kept(1000)
	file := w.server.Exec("SELECT pg_relation_filepath('numbered')")
	for stage, check := range map[string]string{"holding the files": "files", "looking at the checksums": "checksums"} {
		b, err := w.boot(func(doing, scratch string) {
			if strings.HasPrefix(doing, stage) {
				flipAt(t, filepath.Join(scratch, "data", file), 8000)
			}
		})
		if !errors.Is(err, postgres.ErrNotProven) || !slices.Contains(failed(b), check) {
			t.Errorf("%s: %v, %v", stage, failed(b), err)
		}
	}
}

// TestAPageThatWasDamagedAtHomeIsFound: without checksums the base backup takes it as it is.
func TestAPageThatWasDamagedAtHomeIsFound(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 17} { // by pg_amcheck, and without
		o := settings()
		o.Checksums = true // left out
		w := newWorld(t, major, o)
		w.server.Exec("INSERT INTO numbered SELECT g, 'x' FROM generate_series(1, 1000) g")
		w.server.Exec("CHECKPOINT")
		flipAt(t, filepath.Join(w.server.Data, w.server.Exec("SELECT pg_relation_filepath('numbered')")), 24+1) // its first line pointer
		s := w.stream()
		w.backup()
		s.until(w.written())
		s.end()
		b, err := w.boot(nil)
		if !errors.Is(err, postgres.ErrNotProven) || !slices.Equal(failed(b), []string{"amcheck"}) || !strings.Contains(err.Error(), "line pointer") {
			t.Errorf("%d: %v, %v", major, failed(b), err)
		}
	}
}

// TestADamagedRecordIsNotTheEnd: a server that meets one in its log takes it for the end and opens without what follows.
func TestADamagedRecordIsNotTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	w.kept(10)
	at, err := wal.ParseLSN(w.server.Exec("SELECT pg_current_wal_insert_lsn()"))
	check(t, err)
	w.server.Exec("INSERT INTO numbered SELECT g, repeat('y', 200) FROM generate_series(11, 30) g")
	w.server.Exec("CHECKPOINT")
	size := wal.SegmentSize(1 << 20)
	name := wal.Segment{Timeline: 1, Number: size.Number(at)}.Name(size)
	flipAt(t, filepath.Join(w.server.Data, "pg_wal", name), int64(size.Offset(at))+60)
	w.server.Exec("INSERT INTO numbered VALUES (31, 'behind')")
	s := w.stream()
	s.until(w.written())
	s.end()
	b, err := w.boot(nil)
	if !errors.Is(err, postgres.ErrNotProven) || !slices.Contains(failed(b), "replay") || len(b.Position) > 0 {
		t.Errorf("%v, %v", failed(b), err)
	}
}
