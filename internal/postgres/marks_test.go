package postgres

import (
	"testing"
	"time"

	"chancery.dev/chancery/internal/wal"
)

// What the log up to a position holds is never said to be later than what the server said when it had written no more.
func TestMarksClaimNoMoreThanTheServerSaid(t *testing.T) {
	t.Parallel()
	said := map[wal.LSN]time.Time{} // when the server had written so far
	var m marks
	start := time.Unix(1000, 0)
	for i := range 10 * maxMarks {
		written, at := wal.LSN(100+i/2), start.Add(time.Duration(i)*time.Millisecond)
		said[written] = at
		m.add(written, at)
		if len(m.list) > maxMarks {
			t.Fatalf("%d marks are kept", len(m.list))
		}
	}
	m.add(50, start.Add(time.Hour))      // behind what was said
	m.add(99_999, start.Add(-time.Hour)) // its clock went back
	if at := m.reached(99); !at.IsZero() {
		t.Errorf("before the first mark: %s", at)
	}
	last := time.Time{}
	for end := wal.LSN(100); end < 100+5*maxMarks; end += 7 {
		at := m.reached(end)
		if at.IsZero() {
			continue // no more is known than before
		}
		if at.After(said[end]) || at.Before(last) {
			t.Fatalf("up to %s: %s; the server had written so far at %s", end, at, said[end])
		}
		last = at
	}
	if last.Before(start.Add(9 * maxMarks * time.Millisecond)) {
		t.Errorf("the last that is known is %s", last)
	}
}
