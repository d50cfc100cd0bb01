//go:build !race

// Under the race detector what follows takes minutes of moving bytes, and does nothing at once that other tests do not.

package postgres_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
)

// changing is a world whose server says what changed.
func changing(t *testing.T, major int) (*world, *streaming) {
	w := newWorld(t, major, settings("summarize_wal", "on"))
	w.server.Exec("CREATE TABLE big AS SELECT i, md5(i::text) || md5((-i)::text) AS x FROM generate_series(1, 20000) i; CREATE INDEX ON big (i)")
	w.server.Exec("CREATE TABLE doomed AS SELECT * FROM big; CREATE TABLE shrinking AS SELECT * FROM big; CREATE EXTENSION amcheck")
	s := w.stream()
	s.told(postgres.Connected)
	return w, s
}

// disturb does everything to a cluster that moves pages: statements in random order.
func (w *world) disturb(r *rand.Rand, round int) {
	w.Helper()
	far := filepath.Join(pgtest.Folder(w), "far")
	check(w, os.Mkdir(far, 0o700))
	pgtest.Give(w, far)
	acts := []string{
		fmt.Sprintf("UPDATE big SET x = 'changed %d' WHERE i %% %d = 0", round, 50+r.IntN(1000)),
		fmt.Sprintf("INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, %d) i", 1+r.IntN(9000)),
		fmt.Sprintf("DELETE FROM big WHERE i BETWEEN %d AND %[1]d + 900", r.IntN(20000)),
		fmt.Sprintf("DELETE FROM shrinking WHERE i > %d; VACUUM shrinking", 20000-round*6000-r.IntN(5000)),
		"VACUUM FULL big",
		"TRUNCATE doomed; INSERT INTO doomed SELECT * FROM big LIMIT 700",
		"DROP TABLE doomed; CREATE TABLE doomed AS SELECT * FROM big LIMIT 5000",
		fmt.Sprintf("CREATE TABLE fresh%d AS SELECT * FROM big", round),
		fmt.Sprintf("INSERT INTO numbered SELECT n, 'x' FROM generate_series(%d, %d) n", 1000*round+1, 1000*round+1000),
		fmt.Sprintf("CREATE TABLESPACE far%d LOCATION '%s'; CREATE TABLE there%[1]d TABLESPACE far%[1]d AS SELECT * FROM big", round, far),
		fmt.Sprintf("CREATE DATABASE other%d STRATEGY %s", round, []string{"file_copy", "wal_log"}[round%2]),
		"VACUUM big", "CHECKPOINT",
	}
	r.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
	for _, a := range acts {
		for _, one := range strings.Split(a, "; ") { // some may stand in no transaction
			w.server.Exec(one)
		}
	}
}

// contents is a sum of every row of every table that a test made, table by table, and what is found through indexes.
func contents(s *pgtest.Server) string {
	var out []string
	for _, name := range strings.Fields(s.Exec("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")) {
		out = append(out, name+" "+s.Exec("SELECT count(*), sum(hashtext(t::text)) FROM "+name+" t"))
	}
	return strings.Join(append(out, s.Exec("SELECT datname FROM pg_database ORDER BY 1")), "\n")
}

// sound holds each index against its table; what is wrong is an error of the server.
func sound(s *pgtest.Server) {
	s.Exec("SELECT bt_index_parent_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relpersistence = 'p'")
}

// heapDamage is what verify_heapam finds.
func heapDamage(s *pgtest.Server) string {
	return s.Exec("SELECT string_agg(c.relname || ': ' || v.msg, '; ') FROM pg_class c, verify_heapam(c.oid::regclass) v WHERE c.relkind IN ('r', 't')")
}

// files writes the tree of a snapshot and returns its folder; name is a file of it by the server's name.
func (w *world) files(snap string) (name func(string) string) {
	w.Helper()
	r := w.reader()
	head, err := r.Find(snap)
	check(w, err)
	to := filepath.Join(sim.FastDir(w), "tree")
	_, err = r.Restore(w.Context(), head, to, archive.RestoreOptions{}, nil)
	check(w, err)
	return func(name string) string {
		if rest, ok := strings.CutPrefix(name, "pg_tblspc/"); ok {
			return filepath.Join(to, "tablespaces", rest)
		}
		return filepath.Join(to, "data", name)
	}
}

// manifested holds the files of a snapshot against its manifest: each by length and sum. It returns what differs.
func (w *world) manifested(snap string) (wrong []string, files int) {
	w.Helper()
	at := w.files(snap)
	text, err := os.ReadFile(at("backup_manifest"))
	check(w, err)
	var m struct {
		Files []struct {
			Path     string
			Size     int
			Checksum string
		}
		Checksum string `json:"Manifest-Checksum"`
	}
	check(w, json.Unmarshal(text, &m))
	if above, _, _ := strings.Cut(string(text), `"Manifest-Checksum"`); fmt.Sprintf("%x", sha256.Sum256([]byte(above))) != m.Checksum {
		wrong = append(wrong, "the manifest itself")
	}
	for _, f := range m.Files {
		b, err := os.ReadFile(at(f.Path))
		check(w, err)
		sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		if len(b) != f.Size || hex.EncodeToString(sum) != f.Checksum {
			wrong = append(wrong, fmt.Sprintf("%s: %d bytes, %x, not %d, %s", f.Path, len(b), sum, f.Size, f.Checksum))
		}
	}
	return wrong, len(m.Files)
}

// Whatever happens to a cluster, a snapshot of which the server sent changes alone is a whole one: its manifest holds of
// every file, it starts by itself, its pages are sound, and it has the rows that there were; and its tables are, byte for
// byte, those of a snapshot of which the server sent everything.
func TestChangesMakeAWholeBackup(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major < cluster.SummaryVersion {
			continue
		}
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			w, s := changing(t, major)
			if rep := w.backup(); rep.Since != 0 {
				t.Fatalf("the first is the changes since %s", rep.Since)
			}
			r := rand.New(rand.NewPCG(86, uint64(major)))
			var last *postgres.BaseReport
			want := ""
			for round := range 2 {
				w.disturb(r, round)
				want = contents(w.server) // whoever reads changes pages, too; from here on nobody does
				before := last
				last = w.backup()
				if last.Since == 0 || before != nil && last.Since != before.Base.Start {
					t.Fatalf("changes since %s, and not since the last backup", last.Since)
				}
				if wrong, files := w.manifested(last.Snapshot); len(wrong) > 0 || files < 900 {
					t.Errorf("round %d: of %d files: %q", round, files, wrong)
				}
			}
			w.samePages(last)
			s.until(w.written())
			s.end()
			elsewhere := map[string]string{}
			for i, at := range last.Tablespace {
				elsewhere[at] = filepath.Join(pgtest.Folder(t), fmt.Sprint("elsewhere", i))
			}
			c := w.restoreOf(last.Snapshot, postgres.Target{}, func(o *postgres.RestoreOptions) { o.Tablespaces = elsewhere }).recovers()
			if got := contents(c.Server); got != want {
				t.Errorf("it has\n%s\nnot\n%s", got, want)
			}
			sound(c.Server)
			if found := heapDamage(c.Server); found != "" {
				t.Error(found)
			}
		})
	}
}

// samePages takes everything anew and holds the tables of both snapshots against each other.
func (w *world) samePages(by *postgres.BaseReport) {
	w.Helper()
	check(w, os.Remove(filepath.Join(w.register().Dir, "fed")))
	whole := w.backup()
	if whole.Since != 0 {
		w.Fatalf("changes since %s, of which nothing is known", whole.Since)
	}
	a, b := w.files(by.Snapshot), w.files(whole.Snapshot)
	paths := strings.Fields(w.server.Exec("SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace"))
	for _, p := range paths {
		x, err := os.ReadFile(a(p))
		check(w, err)
		y, err := os.ReadFile(b(p))
		check(w, err)
		if string(x) != string(y) {
			w.Errorf("%s: %d bytes put together differ from %d read", p, len(x), len(y))
		}
	}
	if len(paths) < 6 {
		w.Errorf("only %q were compared", paths)
	}
}

// Where the server cannot say what changed everything is taken, and it is said why.
func TestEverythingIsTakenWhereChangesAreNotKnown(t *testing.T) {
	t.Parallel()
	w, s := changing(t, 17)
	w.backup()
	if rep := w.backup(); rep.Since == 0 {
		t.Fatal("everything was taken, and nothing was wrong")
	}
	w.server.Exec("ALTER SYSTEM SET summarize_wal = off")
	w.server.Reload()
	w.server.Await("SHOW summarize_wal", "off")
	w.takesEverything("summarize_wal is off")
	w.server.Exec("ALTER SYSTEM SET summarize_wal = on")
	w.server.Reload()
	w.server.Await("SHOW summarize_wal", "on")
	for range 3 { // until the log from which it could be summarized again is gone
		w.server.Exec("UPDATE big SET x = x || 'y'")
		s.until(w.written())
		w.server.Exec("CHECKPOINT")
	}
	w.server.Stop()
	summaries := filepath.Join(w.server.Data, "pg_wal", "summaries")
	check(t, os.RemoveAll(summaries))
	check(t, os.Mkdir(summaries, 0o700))
	pgtest.Give(t, summaries)
	w.server.StartAgain()
	w.takesEverything("cannot say what changed")
	if wrong, files := w.manifested("latest"); len(wrong) > 0 || files < 900 {
		t.Errorf("of %d files: %q", files, wrong)
	}
	w.server.Exec("INSERT INTO numbered VALUES (1, 'x')")
	if rep := w.backup(); rep.Since == 0 {
		t.Error("everything was taken once more")
	}
	s.until(w.written())
	s.end()
	if b, err := w.boot(nil); err != nil || len(failed(b)) > 0 {
		t.Errorf("the snapshot of changes is not proven: %v, %+v", err, b.Checks)
	}
}

// takesEverything takes a backup of which the server sends everything, and wants to be told why.
func (w *world) takesEverything(why string) {
	w.Helper()
	var said []string
	rep, err := w.tryBackup(func(o *postgres.BaseOptions) {
		o.Log = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	})
	check(w, err)
	if rep.Since != 0 || !strings.Contains(strings.Join(said, "\n"), why) {
		w.Errorf("changes since %s; said %q, not %q", rep.Since, said, why)
	}
}

// A file that home takes for what it was not is found by its manifest: what is put together is held against sums that
// were taken of the pages as the server sent them.
func TestAWrongMemoryIsFound(t *testing.T) {
	t.Parallel()
	w, s := changing(t, 17)
	w.server.Exec("CREATE TABLE twin AS SELECT i, reverse(x) AS x FROM shrinking")
	w.backup()
	paths := strings.Split(w.server.Exec("SELECT pg_relation_filepath('shrinking'), pg_relation_filepath('twin')"), "|")
	swapFed(t, filepath.Join(w.register().Dir, "fed"), "data/"+paths[0], "data/"+paths[1])
	if rep := w.backup(); rep.Since == 0 {
		t.Fatal("everything was taken")
	}
	wrong, _ := w.manifested("latest")
	if len(wrong) != 2 {
		t.Errorf("%q; want the two files", wrong)
	}
	s.until(w.written())
	s.end()
	// Servers without pg_verifybackup find it in the rows.
	if b, err := w.boot(nil); !errors.Is(err, postgres.ErrNotProven) || !slices.Contains(failed(b), "files") && !slices.Contains(failed(b), "amcheck") {
		t.Errorf("a proof fails by %q: %v", failed(b), err)
	}
}

// swapFed has home take each of two files for the other, in a memory that is whole by its sum.
func swapFed(t *testing.T, path, one, other string) {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	const magic = "chancery fed 1\n"
	text := func(b []byte) (part, rest []byte) {
		n, used := binary.Uvarint(b)
		return b[used : used+int(n)], b[used+int(n):]
	}
	extents := map[string][]byte{} // with the size before them
	out := []byte(magic)
	for _, swapping := range []bool{false, true} {
		for rest := data[len(magic):]; ; {
			n := binary.BigEndian.Uint32(rest)
			if n == 0 {
				if swapping {
					out = append(out, rest[:len(rest)-sha256.Size]...)
				}
				break
			}
			name, more := text(rest[4 : 4+n])
			_, used := binary.Uvarint(more)
			_, note := text(more[used:])
			mine := more[:len(more)-len(note)]
			if !swapping {
				extents[string(name)] = mine
			} else {
				if string(name) == one {
					mine = extents[other]
				} else if string(name) == other {
					mine = extents[one]
				}
				record := append(binary.AppendUvarint(nil, uint64(len(name))), name...)
				record = append(append(record, mine...), note...)
				out = append(binary.BigEndian.AppendUint32(out, uint32(len(record))), record...)
			}
			rest = rest[4+n:]
		}
	}
	if len(extents[one]) == 0 || len(extents[other]) == 0 {
		t.Fatalf("%s or %s is not remembered", one, other)
	}
	sum := sha256.Sum256(out)
	check(t, os.WriteFile(path, append(out, sum[:]...), 0o600))
}
