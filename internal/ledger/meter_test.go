package ledger

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func meterLeaf(kind LeafKind, name byte, size uint64, at time.Time) *Leaf {
	l := NewLeaf(kind, [16]byte{1})
	l.Name, l.Size, l.Time = [32]byte{name}, size, at.UnixNano()
	return &l
}

func TestUsageIsOfThePeriodAlone(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	to := from.AddDate(0, 1, 0)
	m := NewMeter(from, to)
	m.Leaf(meterLeaf(ObjectStored, 1, 100, from.Add(-time.Hour)))     // before: kept all the time
	m.Leaf(meterLeaf(ObjectStored, 2, 1000, from.Add(10*time.Hour)))  // kept for two hours
	m.Leaf(meterLeaf(ObjectStored, 2, 1000, from.Add(11*time.Hour)))  // a second leaf of it
	m.Leaf(meterLeaf(ObjectRemoved, 2, 1000, from.Add(12*time.Hour))) //
	m.Leaf(meterLeaf(ObjectRemoved, 2, 1000, from.Add(13*time.Hour))) // again: nothing
	m.Leaf(meterLeaf(ObjectStored, 3, 10, from.Add(5*time.Hour)))     // a clock set back: from 13 h on
	m.Leaf(meterLeaf(ObjectStored, 4, 7, to.Add(time.Hour)))          // after
	m.Leaf(meterLeaf(ObjectRemoved, 1, 100, to.Add(2*time.Hour)))     // after
	u := m.Usage(to.AddDate(0, 0, 3))
	hours := int64(30 * 24)
	want := 100*hours + 1000*2 + 10*(hours-13)
	if u.ByteHours.Cmp(big.NewInt(want)) != 0 || u.Held != 110 || u.Objects != 2 || u.Stored != 2 || u.Taken != 1010 ||
		u.Removed != 1 || u.Freed != 1000 || u.Leaves != 8 {
		t.Errorf("%+v, want %d byte-hours", u, want)
	}
}

// Two periods that follow each other are together what one over both is.
func TestPeriodsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := time.Unix(1_700_000_000, 0)
		b, c := a.Add(100*time.Hour), a.Add(300*time.Hour)
		first, second, both := NewMeter(a, b), NewMeter(b, c), NewMeter(a, c)
		for range rapid.IntRange(0, 60).Draw(t, "leaves") {
			kind := rapid.SampledFrom([]LeafKind{ObjectStored, ObjectRemoved}).Draw(t, "kind")
			name := byte(rapid.IntRange(1, 5).Draw(t, "name"))
			at := a.Add(time.Duration(rapid.IntRange(-50, 350).Draw(t, "hour")) * time.Hour)
			for _, m := range []*Meter{first, second, both} {
				m.Leaf(meterLeaf(kind, name, uint64(name)*100, at))
			}
		}
		x, y, z := first.Usage(c), second.Usage(c), both.Usage(c)
		if new(big.Int).Add(x.ByteHours, y.ByteHours).Cmp(z.ByteHours) != 0 || x.Stored+y.Stored != z.Stored || x.Freed+y.Freed != z.Freed || y.Held != z.Held {
			t.Fatalf("%+v and %+v are not %+v", x, y, z)
		}
	})
}

// The parts of a period that was cut are what periods of their own would be, and cuts change nothing else.
func TestPartsAreWhatPeriodsOfTheirOwnWouldBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := time.Unix(1_700_000_000, 0)
		to := from.Add(300 * time.Hour)
		var leaves []*Leaf
		at := from.Add(-50 * time.Hour)
		for range rapid.IntRange(0, 60).Draw(t, "leaves") {
			at = at.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "hours")) * time.Hour)
			kind := rapid.SampledFrom([]LeafKind{ObjectStored, ObjectRemoved}).Draw(t, "kind")
			name := byte(rapid.IntRange(1, 5).Draw(t, "name"))
			leaves = append(leaves, meterLeaf(kind, name, uint64(name)*3600, at)) // in whole hours' bytes, so that nothing is rounded
		}
		// A cut is told beside a leaf, for its moment or a later one.
		cut, plain := NewMeter(from, to), NewMeter(from, to)
		for _, l := range leaves {
			cut.Leaf(l)
			plain.Leaf(l)
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				later := cut.At().Add(time.Duration(rapid.IntRange(-3, 40).Draw(t, "later")) * time.Hour)
				cut.Cut(later)
				cut.Cut(later)
			}
		}
		u, want := cut.Usage(to), plain.Usage(to)
		if len(want.Parts) != 1 || want.Parts[0].ByteHours.Cmp(want.ByteHours) != 0 {
			t.Fatalf("control: %+v", want)
		}
		sum, next := new(big.Int), from.UTC()
		for _, p := range u.Parts {
			own := NewMeter(p.From, p.To)
			for _, l := range leaves {
				own.Leaf(l)
			}
			if x := own.Usage(to); x.ByteHours.Cmp(p.ByteHours) != 0 || !p.From.Equal(next) || !p.From.Before(p.To) {
				t.Fatalf("%+v, by itself %v, begins after %v", p, x.ByteHours, next)
			}
			sum, next = sum.Add(sum, p.ByteHours), p.To
		}
		if !next.Equal(to) || sum.Cmp(want.ByteHours) != 0 || u.ByteHours.Cmp(want.ByteHours) != 0 || u.Held != want.Held || u.Taken != want.Taken {
			t.Fatalf("%+v, not %+v", u, want)
		}
	})
}
