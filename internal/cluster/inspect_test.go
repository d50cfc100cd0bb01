package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
)

func inspect(t *testing.T, conninfo string) cluster.Facts {
	t.Helper()
	f, err := cluster.Inspect(deadline(t), conninfo)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// furnished is a cluster with one of each thing that its files alone do not tell.
func furnished(t *testing.T, major int) (s *pgtest.Server, outside string) {
	t.Helper()
	s = pgtest.Start(t, major, pgtest.Options{})
	outside = pgtest.Folder(t)
	for name, text := range map[string]string{
		"more.conf": "work_mem = '5MB'\n",
		"hba.conf":  "local all all trust\nlocal replication all trust\n",
	} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(outside, "space"), 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Give(t, outside)
	s.Kill()
	s.Set(map[string]string{"hba_file": filepath.Join(outside, "hba.conf"), "include": filepath.Join(outside, "more.conf")})
	s.StartAgain()
	s.Exec("CREATE TABLESPACE far LOCATION '" + filepath.Join(outside, "space") + "'")
	s.Exec("CREATE DATABASE land TEMPLATE template0 LOCALE 'C.UTF-8' ENCODING UTF8 TABLESPACE far")
	s.Exec("CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'et' LOCALE 'C' ENCODING UTF8")
	s.ExecIn("land", `CREATE UNLOGGED TABLE scratch (id serial PRIMARY KEY, n int);
		CREATE COLLATION estonian (provider = icu, locale = 'et-EE');
		CREATE TABLE owners (name text COLLATE estonian); CREATE INDEX ON owners (name COLLATE "en-x-icu")`)
	s.Exec("SELECT pg_create_physical_replication_slot('keeper', true)")
	s.Set(map[string]string{"synchronous_standby_names": "abroad", "synchronous_commit": "local"})
	s.Reload()
	s.Await("SHOW synchronous_commit", "local")
	return s, outside
}

func TestInspect(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s, outside := furnished(t, major)
		f := inspect(t, s.Conninfo())
		if f.Version/10000 != major || f.DataDirectory != s.Data || f.SynchronousStandbyNames != "abroad" || f.SynchronousCommit != "local" {
			t.Errorf("%+v", f)
		}
		if fmt.Sprint(f.System) != s.Exec("SELECT system_identifier FROM pg_control_system()") || len(f.Unread) != 0 {
			t.Errorf("system %d, unread %v", f.System, f.Unread)
		}
		if len(f.Slots) != 1 || f.Slots[0].Name != "keeper" || f.Slots[0].RestartLSN == 0 || f.Slots[0].WALStatus != "reserved" {
			t.Errorf("slots %+v", f.Slots)
		}
		if len(f.Tablespaces) != 1 || f.Tablespaces[0].Name != "far" || f.Tablespaces[0].Path != filepath.Join(outside, "space") {
			t.Errorf("tablespaces %+v", f.Tablespaces)
		}
		checkConfig(t, f, outside)
		checkDatabases(t, f)
		a, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(inspect(t, s.Conninfo()))
		if err != nil || string(a) != string(b) {
			t.Errorf("twice the same, and two texts:\n%s\n%s", a, b)
		}
		if strings.Contains(string(a), "null") {
			t.Errorf("null for an empty list: %s", a)
		}
	})
}

func checkConfig(t *testing.T, f cluster.Facts, outside string) {
	t.Helper()
	want := map[string]string{
		"hba.conf":  "local all all trust\nlocal replication all trust\n",
		"more.conf": "work_mem = '5MB'\n",
	}
	for _, c := range f.ConfigFiles {
		name, err := filepath.Rel(outside, c.Path)
		if err != nil || want[name] != string(c.Content) || c.Unread != "" {
			t.Errorf("%s: %q %s", c.Path, c.Content, c.Unread)
		}
		delete(want, name)
	}
	if len(want) != 0 {
		t.Errorf("not found: %v", want)
	}
}

func checkDatabases(t *testing.T, f cluster.Facts) {
	t.Helper()
	var names []string
	of := map[string]cluster.Database{}
	for _, d := range f.Databases {
		names = append(names, d.Name)
		of[d.Name] = d
	}
	if want := []string{"icu", "land", "postgres", "template0", "template1"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
	land, icu := of["land"], of["icu"]
	if land.Tablespace != "far" || land.Encoding != "UTF8" || land.Collate != "C.UTF-8" || land.Ctype != "C.UTF-8" ||
		land.LocaleProvider != "libc" || land.Owner != "postgres" || !land.Connectable || land.Template {
		t.Errorf("%+v", land)
	}
	if icu.LocaleProvider != "icu" || icu.Locale != "et" || icu.CollationVersion == "" || icu.CollationVersion != icu.CollationActual {
		t.Errorf("%+v", icu)
	}
	var unlogged, collations []string
	for _, u := range land.Unlogged {
		unlogged = append(unlogged, u.Kind+" "+u.Name)
	}
	for _, c := range land.Collations {
		if c.Provider == "icu" && (c.Version == "" || c.Version != c.Actual) {
			t.Errorf("%+v", c)
		}
		collations = append(collations, c.Name+" "+c.Provider)
	}
	want := []string{"table scratch", "sequence scratch_id_seq", "index scratch_pkey"}
	if !slices.Equal(unlogged, want) {
		t.Errorf("%v", unlogged)
	}
	for _, name := range []string{"estonian icu", "en-x-icu icu"} {
		if !slices.Contains(collations, name) {
			t.Errorf("no %s in %v", name, collations)
		}
	}
	if len(land.Extensions) != 1 || land.Extensions[0].Name != "plpgsql" || len(f.LocaleVersions) == 0 {
		t.Errorf("%+v, %+v", land.Extensions, f.LocaleVersions)
	}
}

// A user who may read little learns what is missing; nothing is left out in silence.
func TestInspectSaysWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s, outside := furnished(t, major)
		s.Exec("CREATE ROLE weak LOGIN; REVOKE CONNECT ON DATABASE land FROM PUBLIC")
		f := inspect(t, strings.Replace(s.Conninfo(), "user=postgres", "user=weak", 1))
		var what []string
		for _, u := range f.Unread {
			what = append(what, u.What)
			if u.Why == "" {
				t.Errorf("%s: no reason", u.What)
			}
		}
		want := []string{"config_file, hba_file, ident_file", "data_directory", "database land", "pg_file_settings"}
		if major >= 16 {
			want = append(want, "pg_hba_file_rules", "pg_ident_file_mappings")
		}
		if !slices.Equal(what, want) {
			t.Errorf("%v", what)
		}
		s.Exec("GRANT pg_monitor TO weak")
		f = inspect(t, strings.Replace(s.Conninfo(), "user=postgres", "user=weak", 1))
		for _, c := range f.ConfigFiles {
			if c.Unread == "" || len(c.Content) != 0 {
				t.Errorf("%+v", c)
			}
		}
		if len(f.ConfigFiles) == 0 || !strings.HasPrefix(f.ConfigFiles[0].Path, outside) {
			t.Errorf("%+v", f.ConfigFiles)
		}
	})
}

// The user that the operator's guide makes may read all that a cluster is brought back with.
func TestTheGuidesUserMayReadEverything(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(guide), "```sql\n")
	block, _, ended := strings.Cut(block, "```")
	if !found || !ended {
		t.Fatal("the guide says no SQL")
	}
	onAll(t, func(t *testing.T, major int) {
		s, _ := furnished(t, major)
		for line := range strings.Lines(block) {
			s.Exec(line)
		}
		f := inspect(t, strings.Replace(s.Conninfo(), "user=postgres", "user=chancery", 1))
		if len(f.Unread) > 0 || len(f.ConfigFiles) == 0 {
			t.Errorf("not read: %+v; configuration: %d files", f.Unread, len(f.ConfigFiles))
		}
		for _, c := range f.ConfigFiles {
			if c.Unread != "" {
				t.Errorf("%s: %s", c.Path, c.Unread)
			}
		}
	})
}

func TestInspectFails(t *testing.T) {
	t.Parallel()
	if _, err := cluster.Inspect(deadline(t), "host=/nowhere"); !errors.Is(err, cluster.ErrConnection) {
		t.Error(err)
	}
}
