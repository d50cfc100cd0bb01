package archive_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aged makes a snapshot at each of these times after noon.
func (b *bench) aged(after ...time.Duration) {
	b.Helper()
	b.grow(several)
	for _, d := range after {
		b.state.Agent.Clock = func() time.Time { return noon.Add(d) }
		b.backup()
	}
}

// claims signs the heads anew with other times, as an agent does that does not count them up, in every embassy. A head of
// which the payload is not to open takes that of the first.
func (b *bench) claims(after []time.Duration, broken ...uint64) {
	b.Helper()
	var before, first *snapshot.Head
	for i, d := range after {
		slot := ledger.Slot{Kind: ledger.Head, Register: [16]byte(b.reg().ID), Sequence: uint64(i + 1)}
		raw, err := b.state.Embassies[0].GetRecord(b.Context(), slot)
		check(b, err)
		head, err := snapshot.ParseHead(raw)
		check(b, err)
		head.Time = noon.Add(d).UnixNano()
		if before == nil {
			first = head
		} else {
			head.Previous = before.Hash()
		}
		if slices.Contains(broken, head.Sequence) {
			head.Manifest = first.Manifest
		}
		head.Sign(b.state.Agent.Key)
		for _, e := range b.state.Embassies {
			e.DamageRecord(slot, head.Bytes())
		}
		before = head
	}
}

// number is a head's, 0 where there is none.
func number(head *snapshot.Head) uint64 {
	if head == nil {
		return 0
	}
	return head.Sequence
}

// A moment finds the newest snapshot from then or before, by the times that heads claim.
func TestAMomentFindsTheNewestSnapshotBeforeIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.aged(0, time.Hour, 3*time.Hour)
	rising, err := b.reader()
	check(t, err)
	defer rising.Close()
	b.claims([]time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour})
	falling, err := b.reader()
	check(t, err)
	defer falling.Close()
	for _, c := range []struct {
		what string
		r    *archive.Reader
		at   time.Time
		want uint64 // 0: all are later
	}{
		{"long before the first", rising, noon.AddDate(-400, 0, 0), 0},
		{"just before the first", rising, noon.Add(-1), 0},
		{"at the first", rising, noon, 1},
		{"between", rising, noon.Add(time.Hour - 1), 1},
		{"at the second", rising, noon.Add(time.Hour), 2},
		{"just before the last", rising, noon.Add(3*time.Hour - 1), 2},
		{"at the last", rising, noon.Add(3 * time.Hour), 3},
		{"long after the last", rising, noon.AddDate(1000, 0, 0), 3},
		{"in another zone", rising, noon.Add(time.Hour).In(time.FixedZone("", 3600)), 2},
		{"before the last, whose clock had gone back", falling, noon.Add(2*time.Hour - 1), 1},
		{"at the last, whose clock had gone back", falling, noon.Add(2 * time.Hour), 3},
		{"at the second, whose time is the latest", falling, noon.Add(3 * time.Hour), 3},
	} {
		head, err := c.r.FindUntil(c.at)
		if c.want == 0 {
			if !errors.Is(err, archive.ErrNotYet) || !strings.Contains(err.Error(), "the oldest that is kept is 1, of 2026-03-01T12:00:00Z") {
				t.Errorf("%s: %d, %v", c.what, number(head), err)
			}
			continue
		}
		if err != nil || number(head) != c.want {
			t.Errorf("%s: %d, %v; want %d", c.what, number(head), err, c.want)
		}
	}
	for at, want := range map[time.Time]bool{{}: true, noon.Add(3 * time.Hour): true, noon.Add(3*time.Hour - 1): false, noon: false} {
		if end, err := rising.Reaches(at); err != nil || end != want {
			t.Errorf("%s reaches to the end: %v, %v", at, end, err)
		}
	}
	if head, err := rising.FindUntil(noon); err != nil || head.Time != noon.UnixNano() {
		t.Fatal(number(head), err) // the control: times were as they are told here
	}
}

// What does not open is passed over for the one before, of those from the moment or before, and no other.
func TestAMomentPassesOverWhatDoesNotOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.aged(0, time.Hour, 2*time.Hour, 3*time.Hour)
	b.claims([]time.Duration{0, 3 * time.Hour, time.Hour, 4 * time.Hour}, 3)
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	passed := []string{"snapshot 3 does not open and is passed over"}
	for _, c := range []struct {
		at     time.Duration
		want   uint64
		passed []string
	}{{0, 1, nil}, {time.Hour, 1, passed}, {3 * time.Hour, 2, passed}, {4 * time.Hour, 4, nil}} {
		head, skipped, err := r.Newest("", noon.Add(c.at))
		if err != nil || number(head) != c.want || !slices.Equal(skipped, c.passed) {
			t.Errorf("%v: %d, %v, %v; want %d", c.at, number(head), skipped, err, c.want)
		}
	}
	if _, _, err := r.Newest("", noon.Add(-1)); !errors.Is(err, archive.ErrNotYet) {
		t.Error(err)
	}
	if head, _, err := r.Newest("", time.Time{}); err != nil || number(head) != 4 {
		t.Error(number(head), err)
	}
}

// A register of which nothing was ever stored has no oldest, and is not one that is too young.
func TestAMomentOfARegisterWithoutSnapshots(t *testing.T) {
	t.Parallel()
	r, err := newBench(t, 2, 3).reader()
	check(t, err)
	defer r.Close()
	if _, err := r.FindUntil(noon); !errors.Is(err, archive.ErrNoSnapshot) || errors.Is(err, archive.ErrNotYet) {
		t.Fatal(err)
	}
}

// A snapshot that was released is none, for a moment too.
func TestAMomentPassesOverWhatWasReleased(t *testing.T) {
	t.Parallel()
	a := newAges(t, 2, 3)
	for i := range 3 {
		a.state.Agent.Clock = func() time.Time { return noon.Add(time.Duration(i) * time.Hour) }
		a.age(replaced)
	}
	a.carry(a.propose(2), 1)
	r, err := a.reader()
	check(t, err)
	defer r.Close()
	for i, want := range []uint64{1, 1, 3} {
		if head, err := r.FindUntil(noon.Add(time.Duration(i) * time.Hour)); err != nil || number(head) != want {
			t.Errorf("hour %d: %d, %v; want %d", i, number(head), err, want)
		}
	}
}

// Where the history is in dispute, which snapshots are from before a moment is too.
func TestAMomentOfAForkedRegisterIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, 2, 3)
	b.aged(0, time.Hour)
	slot := ledger.Slot{Kind: ledger.Head, Register: [16]byte(b.reg().ID), Sequence: 2}
	head, err := snapshot.ParseHead(b.state.Embassies[0].DamageRecord(slot, nil))
	check(t, err)
	head.Time++
	head.Sign(b.state.Agent.Key)
	b.state.Embassies[0].DamageRecord(slot, head.Bytes())
	r, err := b.reader()
	check(t, err)
	defer r.Close()
	if _, err := r.FindUntil(noon.Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "undisputed are the snapshots before 2") {
		t.Fatal(err)
	}
}
