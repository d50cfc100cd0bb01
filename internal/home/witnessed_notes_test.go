package home

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The first time that is noted of a head stays, whatever comes later; a file that is not whole is refused.
func TestTheFirstWitnessedTimeStays(t *testing.T) {
	r := &Register{Dir: t.TempDir()}
	times, err := r.Witnessed()
	if err != nil || len(times) != 0 {
		t.Fatal(err, times)
	}
	first := time.Unix(1_700_000_000, 0).UTC()
	if _, err := r.NoteWitnessed(map[uint64]time.Time{2: first, 1: first.Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if times, err = r.Witnessed(); err != nil || len(times) != 2 {
		t.Fatal(err, times)
	}
	if _, err := r.NoteWitnessed(map[uint64]time.Time{2: first.Add(-24 * time.Hour), 3: first.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if times, err = r.Witnessed(); err != nil || len(times) != 3 || !times[2].Equal(first) || !times[3].Equal(first.Add(time.Hour)) {
		t.Fatal(err, times)
	}
	for _, bad := range []string{"1\n", "1 x\n", "2 1700000000\n1 1700000000\n", "0 1700000000\n", "1 0\n"} {
		if err := os.WriteFile(filepath.Join(r.Dir, "witnessed"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Witnessed(); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
