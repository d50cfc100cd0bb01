package embassy

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newWitnessed(path string, size uint64) *witnessed {
	return openWitnessed(path, "chancery.dev/ledger/x", size, slog.New(slog.DiscardHandler))
}

// Whatever checkpoints come, in whatever order and with whatever times, and however often the embassy starts again: no
// leaf is ever taken for older than the newest time that was vouched for says, counted from the first checkpoint that
// covered it. And it is not taken for much younger while the file is whole.
func TestNoLeafIsTakenForOlderThanItWasWitnessed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "w")
		_ = os.Remove(path)
		w := newWitnessed(path, 1<<40)
		first := map[uint64]int64{} // leaf -> time of the first checkpoint that covered it, of those that went on
		var newest, size uint64
		at := int64(1_700_000_000)
		lost := false
		for range rapid.IntRange(1, 120).Draw(t, "checkpoints") {
			grow := uint64(rapid.IntRange(0, 5).Draw(t, "grow"))
			step := rapid.SampledFrom([]int64{-100_000, -1, 0, 1, 1, 2, 9, 60, 600, 3600, 86_400}).Draw(t, "step")
			before, _ := w.now()
			if before.Unix() < at { // after a loss time goes on, and only then is there something to go back from
				step = max(0, step)
			}
			w.note(size+grow, time.Unix(at+step, 0))
			if size+grow > 0 && (before.IsZero() || at+step > before.Unix() || (at+step == before.Unix() && grow > 0)) { // it went on, as far as the embassy knows
				size += grow
				for leaf := range size {
					if t, was := first[leaf]; !was || at+step < t {
						first[leaf] = at + step
					}
				}
				at = max(at, at+step)
				newest = max(newest, uint64(at))
			}
			switch rapid.IntRange(0, 40).Draw(t, "then") {
			case 0: // killed: what was not saved is gone, and the next checkpoint tells the time again
				w = newWitnessed(path, size)
				lost = true
			case 1: // ended
				w.close()
				w = newWitnessed(path, size)
			case 2: // damaged on the disk
				w.close()
				if data, err := os.ReadFile(path); err == nil {
					data[rapid.IntRange(0, len(data)-1).Draw(t, "byte")] ^= 1
					if err := os.WriteFile(path, data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				w, lost = newWitnessed(path, size), true
				if now, _ := w.now(); !now.IsZero() {
					t.Fatal("a damaged file was believed")
				}
			}
		}
		for leaf, since := range first {
			truth := int64(newest) - since
			age := int64(w.age(leaf) / time.Second)
			if age > truth {
				t.Fatalf("leaf %d is taken for %d s old, and was witnessed %d s ago", leaf, age, truth)
			}
			if slack := min(momentSpan, truth/momentShare); !lost && age < truth-slack-1 {
				t.Fatalf("leaf %d is taken for %d s old, and was witnessed %d s ago", leaf, age, truth)
			}
		}
		if age := w.age(size); age != 0 {
			t.Fatalf("a leaf that no checkpoint covers is %v old", age)
		}
	})
}

func TestTheFileOfWitnessedTimeStaysSmall(t *testing.T) {
	t.Parallel()
	w := newWitnessed(filepath.Join(t.TempDir(), "w"), 0)
	w.saved.time = 1 << 60 // nothing to disk: this is about what is kept
	at := int64(1_700_000_000)
	for i := range uint64(20_000) { // every 7 minutes for three months
		at += 400
		w.note(i+1, time.Unix(at, 0))
	}
	if hours := int(20_000 * 400 / 3600); len(w.moments) > 2*hours+1000 {
		t.Errorf("%d moments in %d hours", len(w.moments), hours)
	}
	for i := range uint64(5_000) { // and every second
		w.note(20_001+i, time.Unix(at+int64(i), 0))
	}
	if n := len(w.moments); n > 2*2222+1500 {
		t.Errorf("%d moments", n)
	}
}

// The embassy's own clock has no say, in whatever year it is.
func TestTheOwnClockMakesNothingOlder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	size := w.store(0, 5, "old")
	w.cosigned(0, size)
	until(t, "witnessed time", func() bool { now, _ := w.state(0).clock.now(); return !now.IsZero() })
	w.sites[0].stop()
	w.opts.now = func() time.Time { return time.Now().AddDate(30, 0, 0) }
	w.start(0)
	size = w.store(0, 5, "more")
	w.cosigned(0, size)
	if age := w.state(0).clock.age(1); age > time.Minute {
		t.Errorf("an object of just now is %v old", age)
	}
	if _, ok := w.state(0).clock.covered(1); !ok {
		t.Error("control: it is covered")
	}
	// Control: witnesses that vouch for later do make it older.
	now, _ := w.state(0).clock.now()
	w.state(0).clock.note(size, now.Add(1000*time.Hour))
	if age := w.state(0).clock.age(1); age < 999*time.Hour {
		t.Errorf("control: %v", age)
	}
}
