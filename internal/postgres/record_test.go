//go:build !race

// Under the race detector what follows takes minutes of moving bytes, and does nothing at once that other tests do not.

package postgres_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/wal"
)

// The records that are found are those that the server's own program finds, wherever the walk begins: over pages, switches,
// records larger than a segment and crashes.
func TestRecordsAreTheServersOwn(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, 15, settings("wal_keep_size", "200MB"))
	size := wal.SegmentSize(1 << 20)
	from := size.Floor(lsnOf(t, s))
	s.Exec("CREATE TABLE numbered (n int, filler text)")
	s.Exec("ALTER TABLE numbered ALTER filler SET STORAGE EXTERNAL")
	for range 3 {
		s.Exec("INSERT INTO numbered SELECT n, repeat(md5(n::text), n % 40) FROM generate_series(1, 3000) n")
		s.Exec("SELECT pg_switch_wal()")
		s.Exec("INSERT INTO numbered SELECT n, '' FROM generate_series(1, 10) n")
		s.Exec("SELECT pg_logical_emit_message(false, 'x', repeat('y', 3000000))")
		s.Kill()
		s.StartAgain()
	}
	end := lsnOf(t, s)
	s.Stop()
	var data []byte
	for at := from; at < end; at += wal.LSN(size) {
		b, err := os.ReadFile(filepath.Join(s.Data, "pg_wal", wal.Segment{Timeline: 1, Number: size.Number(at)}.Name(size)))
		check(t, err)
		data = append(data, b...)
	}
	data = data[:end-from]
	dump := pgtest.Run(t, s.Dir, filepath.Join(s.Bin, "pg_waldump"), "-p", filepath.Join(s.Data, "pg_wal"), "-s", from.String(), "-e", end.String())
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^rmgr.* lsn: ([0-9A-F]+/[0-9A-F]+), .*?desc: (COMMIT |ABORT )?`).FindAllStringSubmatch(dump, -1) {
		var high, low uint32
		_, err := fmt.Sscanf(m[1], "%X/%X", &high, &low)
		check(t, err)
		want = append(want, fmt.Sprint(wal.LSN(uint64(high)<<32|uint64(low)), m[2] != ""))
	}
	var starts []wal.LSN
	walk := func(begin int) (got []string) {
		starts = nil
		reached, cut := wal.Records(from+wal.LSN(begin), size, data[begin:], func(r wal.Record) bool {
			starts = append(starts, r.Start)
			got = append(got, fmt.Sprint(r.Start, !r.Ended.IsZero()))
			return true
		})
		if reached < end && !cut { // the log that is on disk may end amid a record
			t.Fatalf("from %s on %s was reached of %s", from+wal.LSN(begin), reached, end)
		}
		return got
	}
	all := walk(0)
	if fmt.Sprint(all) != fmt.Sprint(want) || len(want) < 1000 {
		t.Fatalf("%d records, the server's program finds %d; the last are %s and %s", len(all), len(want), all[len(all)-1], want[len(want)-1])
	}
	begun := starts
	for begin := 0; begin < len(data); begin += wal.PageSize { // from any page, also of what a switch left empty
		first, _ := slices.BinarySearch(begun, from+wal.LSN(begin))
		if got := walk(begin); !slices.Equal(got, want[first:]) {
			t.Fatalf("from %s on %d records, and not the server's last %d", from+wal.LSN(begin), len(got), len(want)-first)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 { // damage ends the walk, and nothing else
		bad := bytes.Clone(data[:1<<19])
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		bad[r.IntN(len(bad))] = byte(r.IntN(256))
		wal.Records(from, size, bad[:r.IntN(len(bad))], func(wal.Record) bool { return true })
	}
}

func lsnOf(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	at, err := wal.ParseLSN(s.Exec("SELECT pg_current_wal_flush_lsn()"))
	check(t, err)
	return at
}
