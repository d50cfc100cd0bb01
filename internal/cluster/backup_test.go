package cluster_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/wal"
)

// onAll runs a test on every version.
func onAll(t *testing.T, f func(t *testing.T, major int)) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			f(t, major)
		})
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, s *pgtest.Server) *cluster.Conn {
	t.Helper()
	c, err := cluster.Open(deadline(t), s.Conninfo())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func identify(t *testing.T, c *cluster.Conn) cluster.Identity {
	t.Helper()
	id, err := c.Identify(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A tail receives a stream in the background until it has reached a position.
type tail struct {
	log  pgtest.Log
	id   cluster.Identity
	s    *cluster.Stream
	conn *cluster.Conn
	from wal.LSN
}

func follow(t *testing.T, server *pgtest.Server, slot string) *tail {
	t.Helper()
	return followOn(t, open(t, server), slot)
}

// until receives up to a position, and acknowledges it.
func (f *tail) until(t *testing.T, at wal.LSN) {
	t.Helper()
	for f.log.End < at {
		m, err := f.s.Receive(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == cluster.End {
			t.Fatalf("the timeline ends at %s", m.Switch)
		}
		f.log.Add(f.id.Timeline, m)
	}
	if err := f.s.Acknowledge(f.log.End, f.log.End, f.log.End); err != nil {
		t.Fatal(err)
	}
}

func written(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	at, err := wal.ParseLSN(s.Exec("SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// What is received is a cluster: the manifest's sums fit, and with the log of the stream it starts and has every row
// that was committed, in tablespaces, too; unlogged tables come empty.
func TestBackupAndStreamAreTheCluster(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, pgtest.Options{SegmentSize: 1})
		space := pgtest.Folder(t)
		s.Exec("CREATE TABLESPACE far LOCATION '" + space + "'")
		s.Exec(`CREATE TABLE near_rows (n int); CREATE TABLE far_rows (n int) TABLESPACE far;
			CREATE UNLOGGED TABLE gone (n int); INSERT INTO gone SELECT generate_series(1, 1000);
			INSERT INTO near_rows SELECT generate_series(1, 50000); INSERT INTO far_rows SELECT generate_series(1, 50000)`)
		unlogged := s.Exec("SELECT pg_relation_filepath('gone')")
		f := follow(t, s, "backup")
		copied := pgtest.NewCopy(t)
		var done, total int64
		result, err := open(t, s).BaseBackup(deadline(t), cluster.BackupOptions{Label: "it's one", Fast: true, Progress: func(d, all int64) {
			if d < done || all < d {
				t.Errorf("progress %d of %d after %d", d, all, done)
			}
			done, total = d, all
		}}, copied)
		if err != nil {
			t.Fatal(err)
		}
		if done != result.Bytes || total < done || done == 0 {
			t.Errorf("progress ended at %d of %d, and %d bytes came", done, total, result.Bytes)
		}
		checkLabel(t, copied, result)
		checkManifest(t, major, copied)
		for _, name := range copied.Entries {
			if name == "0/"+unlogged {
				t.Error("the unlogged table's rows were sent")
			}
		}
		s.Exec("INSERT INTO far_rows SELECT generate_series(50001, 60000); INSERT INTO near_rows SELECT generate_series(50001, 60000)")
		f.until(t, written(t, s))
		f.log.Check(t, f.id, nil)
		s.Kill()

		copied.Remap()
		f.log.Write(t, filepath.Join(copied.Data, "pg_wal"))
		r := pgtest.Adopt(t, major, copied.Data)
		r.StartAgain()
		for query, want := range map[string]string{
			"SELECT count(*), sum(n) FROM near_rows":                                      "60000|1800030000",
			"SELECT count(*), sum(n) FROM far_rows":                                       "60000|1800030000",
			"SELECT count(*) FROM gone":                                                   "0",
			"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'": copied.Space(result2oid(t, copied)),
		} {
			if got := r.Exec(query); got != want {
				t.Errorf("%s: %s, not %s", query, got, want)
			}
		}
	})
}

func result2oid(t *testing.T, c *pgtest.Copy) uint32 {
	t.Helper()
	if len(c.Begun.Tablespaces) != 2 || c.Begun.Tablespaces[1].OID != 0 {
		t.Fatalf("tablespaces: %v", c.Begun.Tablespaces)
	}
	return c.Begun.Tablespaces[0].OID
}

func checkLabel(t *testing.T, c *pgtest.Copy, r cluster.BackupResult) {
	t.Helper()
	l := c.Label
	if l.Start != r.Start || l.Timeline != r.Timeline || l.Label != "it's one" || l.Standby {
		t.Errorf("label %+v of %+v", l, r)
	}
	if r.End <= r.Start || c.Begun.LSN != r.Start {
		t.Errorf("from %s to %s, begun at %s", r.Start, r.End, c.Begun.LSN)
	}
	var own []string
	for _, name := range c.Entries {
		if strings.HasPrefix(name, "0/") {
			own = append(own, name)
		}
	}
	if own[0] != "0/backup_label" || own[len(own)-1] != "0/global/pg_control" {
		t.Errorf("from %s to %s", own[0], own[len(own)-1])
	}
}

// checkManifest holds the files against the manifest, ourselves and with pg_verifybackup. That of the system knows only
// the first version of manifests; a later one is put into that form for it.
func checkManifest(t *testing.T, major int, c *pgtest.Copy) {
	t.Helper()
	path := filepath.Join(c.Data, "backup_manifest")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Files []struct {
			Path      string
			Size      int64
			Algorithm string `json:"Checksum-Algorithm"`
			Checksum  string
		}
		Checksum string `json:"Manifest-Checksum"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range m.Files {
		p := f.Path
		if oid, rest, ok := strings.Cut(strings.TrimPrefix(p, "pg_tblspc/"), "/"); ok && strings.HasPrefix(p, "pg_tblspc/") {
			p = filepath.Join("..", "space-"+oid, rest)
		}
		b, err := os.ReadFile(filepath.Join(c.Data, p))
		if err != nil {
			t.Fatal(err)
		}
		sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		if f.Algorithm != "CRC32C" || hex.EncodeToString(sum) != f.Checksum || int64(len(b)) != f.Size {
			t.Errorf("%s: not as in the manifest", f.Path)
		}
		seen++
	}
	if seen < 900 {
		t.Errorf("the manifest has %d files", seen)
	}
	if major >= 17 {
		text = regexp.MustCompile(`"System-Identifier": [0-9]+,\n`).ReplaceAll(text, nil)
		text = []byte(strings.Replace(string(text), `"PostgreSQL-Backup-Manifest-Version": 2`, `"PostgreSQL-Backup-Manifest-Version": 1`, 1))
		head, _, _ := strings.Cut(string(text), `"Manifest-Checksum"`)
		text = fmt.Appendf([]byte(head), "\"Manifest-Checksum\": \"%x\"}\n", sha256.Sum256([]byte(head)))
	}
	// pg_verifybackup finds tablespaces through the links that the server makes at its start.
	for _, s := range c.Begun.Tablespaces {
		if s.OID != 0 {
			link := filepath.Join(c.Data, "pg_tblspc", fmt.Sprint(s.OID))
			if err := os.Symlink(c.Space(s.OID), link); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(link)
		}
	}
	other := filepath.Join(c.Dir, "manifest")
	if err := os.WriteFile(other, text, 0o644); err != nil {
		t.Fatal(err)
	}
	pgtest.Give(t, c.Dir)
	pgtest.Run(t, c.Dir, pgtest.VerifyBackup(t), "--no-parse-wal", "--manifest-path="+other, c.Data)
}
