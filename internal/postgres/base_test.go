package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
)

// backedUp is a world with a base backup of what sql makes, whose stream has ended.
func backedUp(t *testing.T, sql ...string) (*world, *postgres.BaseReport) {
	t.Helper()
	w := newWorld(t, 15, settings())
	for _, x := range sql {
		w.server.Exec(x)
	}
	s := w.stream()
	s.told(postgres.Connected)
	rep := w.backup()
	s.until(w.written())
	s.end()
	return w, rep
}

// A tablespace goes where it is told to, or where it was; where something is there already nothing is written.
func TestTablespacesComeBack(t *testing.T) {
	t.Parallel()
	far := filepath.Join(pgtest.Folder(t), "far")
	check(t, os.Mkdir(far, 0o700))
	pgtest.Give(t, far)
	w, rep := backedUp(t, "CREATE TABLESPACE far LOCATION '"+far+"'", "CREATE TABLE plot TABLESPACE far AS SELECT generate_series(1, 5000) AS id")
	if len(rep.Tablespace) != 1 || rep.Tablespace[0] != far {
		t.Errorf("tablespaces in %q", rep.Tablespace)
	}
	r, head, l, reach, err := w.plan("latest", &postgres.Target{})
	check(t, err)
	to := filepath.Join(pgtest.Folder(t), "data")
	_, err = postgres.Restore(t.Context(), r, head, reach, &l.Base, postgres.RestoreOptions{To: to, Program: "chancery"}, nil)
	if _, serr := os.Stat(to); !errors.Is(err, postgres.ErrTablespace) || serr == nil {
		t.Errorf("%v, and %s is there: %v", err, to, serr == nil)
	}
	elsewhere := filepath.Join(pgtest.Folder(t), "elsewhere")
	c := w.restore(postgres.Target{}, func(o *postgres.RestoreOptions) { o.Tablespaces = map[string]string{far: elsewhere} }).recovers()
	if got := c.Exec("SELECT count(*), max(pg_tablespace_location(oid)) FROM plot, pg_tablespace WHERE spcname = 'far'"); got != "5000|"+elsewhere {
		t.Errorf("%s; want 5000 in %s", got, elsewhere)
	}
	c.Kill()
	w.server.Kill()
	check(t, os.RemoveAll(far))
	c = w.restore(postgres.Target{}).recovers()
	if got := c.Exec("SELECT count(*), max(pg_tablespace_location(oid)) FROM plot, pg_tablespace WHERE spcname = 'far'"); got != "5000|"+far {
		t.Errorf("%s; want 5000 in %s", got, far)
	}
}

// What is unlogged comes back empty, and the backup says so.
func TestWhatIsUnloggedIsToldAndEmpty(t *testing.T) {
	t.Parallel()
	w, rep := backedUp(t, "CREATE UNLOGGED TABLE draft AS SELECT generate_series(1, 5000) AS id")
	found := false
	for _, d := range rep.Facts.Databases {
		for _, x := range d.Unlogged {
			found = found || d.Name == "postgres" && x.Name == "draft"
		}
	}
	if !found {
		t.Errorf("%+v", rep.Facts.Databases)
	}
	if got := w.restore(postgres.Target{}).recovers().Exec("SELECT count(*) FROM draft"); got != "0" {
		t.Errorf("%s rows", got)
	}
}

// Configuration that lies elsewhere comes back in the data directory, with what it includes, and the server starts on it.
func TestConfigurationElsewhereComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	w.server.Kill()
	data, etc := w.server.Data, filepath.Join(pgtest.Folder(t), "etc")
	check(t, os.MkdirAll(filepath.Join(etc, "conf.d"), 0o700))
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		check(t, os.Rename(filepath.Join(data, name), filepath.Join(etc, name)))
	}
	check(t, os.WriteFile(filepath.Join(etc, "conf.d", "more.conf"), []byte("work_mem = '7MB'\n"), 0o600))
	pgtest.Give(t, etc)
	w.server = pgtest.On(t, 15, etc)
	w.server.Set(map[string]string{
		"data_directory": data, "include_dir": "conf.d", "hba_file": filepath.Join(etc, "pg_hba.conf"), "ident_file": filepath.Join(etc, "pg_ident.conf"),
	})
	w.server.StartAgain()
	t.Cleanup(w.server.Stop)
	s := w.stream()
	s.told(postgres.Connected)
	w.backup()
	c := w.restore(postgres.Target{}).recovers()
	if got := c.Exec("SELECT current_setting('work_mem'), current_setting('config_file')"); got != "7MB|"+filepath.Join(c.Data, "postgresql.conf") {
		t.Errorf("%s; %q came back", got, c.report.Config)
	}
}

// A page with a wrong checksum fails the backup, and there is no snapshot; so do full_page_writes that are off.
func TestDamageAtHomeIsNoSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	w.server.Exec("INSERT INTO numbered SELECT n, repeat('x', 200) FROM generate_series(1, 2000) n")
	path := w.server.Exec("SELECT pg_relation_filepath('numbered')")
	w.server.Stop()
	f, err := os.OpenFile(filepath.Join(w.server.Data, path), os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("damage"), 3*8192+5000)
	check(t, errors.Join(err, f.Close()))
	w.server.StartAgain()
	s := w.stream()
	s.told(postgres.Connected)
	if _, err := w.tryBackup(); !errors.Is(err, cluster.ErrChecksum) {
		t.Error(err)
	}
	if _, err := w.reader().Find("latest"); err == nil {
		t.Error("a snapshot was made of damaged pages")
	}
	w.server.Exec("DROP TABLE numbered")
	w.server.Exec("CHECKPOINT")
	w.server.Exec("ALTER SYSTEM SET full_page_writes = off")
	w.server.Reload()
	w.server.Await("SHOW full_page_writes", "off")
	if _, err := w.tryBackup(); !errors.Is(err, cluster.ErrFullPageWrites) {
		t.Error(err)
	}
	if _, err := w.reader().Find("latest"); err == nil {
		t.Error("a snapshot was made without full_page_writes")
	}
}

// A second base backup stores the pages that changed and little else.
func TestASecondBackupStoresWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, settings())
	w.server.Exec("CREATE TABLE big AS SELECT i, md5(i::text) || md5((-i)::text) AS x FROM generate_series(1, 300000) i")
	s := w.stream()
	s.told(postgres.Connected)
	w.server.Exec("VACUUM FREEZE big") // or reading it would change every page
	first := w.backup().StoredBytes
	w.server.Exec("UPDATE big SET x = 'changed' WHERE i % 100000 = 0")
	if second := w.backup().StoredBytes; second*3 > first {
		t.Errorf("the first stored %d bytes, the second %d", first, second)
	}
	c := w.restore(postgres.Target{}).recovers()
	if got := c.Exec("SELECT count(*), count(*) FILTER (WHERE x = 'changed') FROM big"); got != "300000|3" {
		t.Error(got)
	}
}
