package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
)

// What a server passes over, because it is no file or folder, or lies where base backups do not look, fails the backup with
// its name: what is restored would lack it. Where it is as it should be there is a backup.
func TestWhatTheServerPassesOverFailsABackup(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings("allow_in_place_tablespaces", "on"))
		s := w.stream()
		defer s.end()
		s.told(postgres.Connected)
		w.server.Exec("CREATE DATABASE moved")
		w.server.Exec("CREATE TABLE plot AS SELECT generate_series(1, 5000) AS id")
		w.server.Exec("CHECKPOINT")
		user := func(name string) func(*postgres.BaseOptions) {
			return func(o *postgres.BaseOptions) { o.Conninfo += name }
		}
		as := user("")
		lacks := func(what string) {
			t.Helper()
			_, err := w.tryBackup(as)
			if !errors.Is(err, postgres.ErrNotSent) || !strings.Contains(err.Error(), what) {
				t.Errorf("without %s: %v", what, err)
			}
		}
		linked := func(path, what string) {
			t.Helper()
			path, away := filepath.Join(w.server.Data, path), filepath.Join(pgtest.Folder(t), "away")
			check(t, os.Rename(path, away))
			check(t, os.Symlink(away, path))
			lacks(what)
			check(t, os.Remove(path))
			check(t, os.Rename(away, path))
		}
		linked("base/"+w.server.Exec("SELECT oid FROM pg_database WHERE datname = 'moved'"), "database moved")
		linked("base/"+w.server.Exec("SELECT oid FROM pg_database WHERE datname = 'template0'"), "database template0")
		w.server.Exec("CREATE ROLE taker LOGIN REPLICATION; GRANT pg_monitor TO taker; REVOKE CONNECT ON DATABASE moved FROM PUBLIC")
		as = user(" user=taker")
		linked("base/"+w.server.Exec("SELECT oid FROM pg_database WHERE datname = 'moved'"), "PG_VERSION of database moved")
		as = user("")
		linked(w.server.Exec("SELECT pg_relation_filepath('plot')"), "public.plot")
		linked("pg_multixact/offsets", "the folder pg_multixact/offsets")

		w.server.Exec("CREATE TABLESPACE within LOCATION ''")
		w.server.Exec("CREATE TABLE inner_plot TABLESPACE within AS SELECT 1 AS id")
		oid := w.server.Exec("SELECT oid FROM pg_tablespace WHERE spcname = 'within'")
		lacks(map[bool]string{true: "pg_tblspc/" + oid, false: "tablespace " + oid}[major == 15])
		if _, err := w.reader().Find("latest"); err == nil {
			t.Error("a snapshot was made of a part")
		}
		w.server.Exec("DROP TABLE inner_plot")
		w.server.Exec("DROP TABLESPACE within")
		w.backup()
	})
}

// Relations that come, go and get other files while a backup is taken do not fail it.
func TestRelationsThatChangeMeanwhileFailNoBackup(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		s := w.stream()
		defer s.end()
		s.told(postgres.Connected)
		for i := range 30 {
			w.server.Exec(strings.ReplaceAll("CREATE TABLE t# AS SELECT generate_series(1, 500) AS id; CREATE INDEX ON t# (id)", "#", string(rune('a'+i%26))+string(rune('a'+i/26))))
		}
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				for _, sql := range []string{
					"TRUNCATE taa, tba", "CREATE TABLE new AS SELECT 1 AS id", "VACUUM FULL tca", "DROP TABLE tda", "REINDEX TABLE tea", "CREATE DATABASE passing",
					"DROP TABLE new", "CREATE TABLE tda (id int)", "DROP DATABASE passing",
				} {
					if _, err := w.server.Try("postgres", sql); err != nil {
						done <- err
						return
					}
				}
			}
		}()
		for range rounds(major, 4) {
			w.backup()
		}
		close(stop)
		check(t, <-done)
	})
}
