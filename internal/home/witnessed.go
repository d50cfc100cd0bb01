package home

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/durable"
)

// The file "witnessed" of a register notes when witnesses first vouched for each head, as far as home saw it: lines "HEAD
// SECONDS", rising by head, of the time of the first cosigned checkpoint that covers it. Rules of retention count by it.
// Lost, it is asked for again, and snapshots then look younger than they are, never older; noted together they have one time,
// by which rules keep them together.
const witnessedFile = "witnessed"

// Witnessed returns the times that are noted.
func (r *Register) Witnessed() (map[uint64]time.Time, error) {
	path := filepath.Join(r.Dir, witnessedFile)
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	times := map[uint64]time.Time{}
	last := uint64(0)
	for line := range strings.Lines(string(raw)) {
		head, seconds, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		seq, err := strconv.ParseUint(head, 10, 64)
		at, err2 := strconv.ParseInt(seconds, 10, 64)
		if !ok || err != nil || err2 != nil || seq <= last || at <= 0 {
			return nil, fmt.Errorf("%s: %q is not a head and its time: remove the file, and they are asked for again", path, line)
		}
		times[seq], last = time.Unix(at, 0).UTC(), seq
	}
	return times, nil
}

// LastHead is the sequence of the newest head that is kept here; 0 is none.
func (r *Register) LastHead() (uint64, error) {
	names, err := os.ReadDir(filepath.Join(r.Dir, "heads"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	last := uint64(0)
	for _, x := range names {
		if seq, err := strconv.ParseUint(x.Name(), 10, 64); err == nil { // others are being written
			last = max(last, seq)
		}
	}
	return last, nil
}

// NoteWitnessed adds times to those that are noted, which stay as they are, and returns all. A crash leaves the older notes.
// Of two that note at the same moment one may be lost: it is noted again, later.
func (r *Register) NoteWitnessed(fresh map[uint64]time.Time) (map[uint64]time.Time, error) {
	times, err := r.Witnessed()
	if err != nil {
		return nil, err
	}
	changed := false
	for seq, at := range fresh {
		if times[seq].IsZero() && at.Unix() > 0 {
			times[seq], changed = at, true
		}
	}
	if !changed {
		return times, nil
	}
	var b strings.Builder
	for _, seq := range slices.Sorted(maps.Keys(times)) {
		fmt.Fprintf(&b, "%d %d\n", seq, times[seq].Unix())
	}
	return times, durable.WriteFile(filepath.Join(r.Dir, witnessedFile), []byte(b.String()), 0o600)
}
