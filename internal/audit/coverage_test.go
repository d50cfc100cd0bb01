package audit

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	day    = 24 * time.Hour
	period = 90 * day
)

// TestCoverageAgainstAList compares coverage with a list of each entry's times.
// Coverage may take an entry to be audited up to an hour earlier, never later.
func TestCoverageAgainstAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &Coverage{}
		var last, first []time.Time
		now := anyTime
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "hours")) * time.Hour)
			if rapid.Bool().Draw(t, "grow") {
				size := len(first) + rapid.IntRange(0, 20).Draw(t, "more")
				c.Grow(uint64(size), now)
				for len(first) < size {
					first, last = append(first, now), append(last, time.Time{})
				}
			} else if len(first) > 0 {
				from := rapid.IntRange(0, len(first)-1).Draw(t, "from")
				to := rapid.IntRange(from, len(first)).Draw(t, "to")
				at := now.Add(-time.Duration(rapid.IntRange(0, 200).Draw(t, "ago")) * time.Hour)
				c.Add(uint64(from), uint64(to), at)
				for i := from; i < to; i++ {
					if last[i].Before(at) {
						last[i] = at
					}
				}
			}
			again := reparsed(t, c)
			for i := range first {
				s := again.segments[again.find(uint64(i))]
				want := last[i]
				if (s.State == audited) != !want.IsZero() {
					t.Fatalf("entry %d: state %d", i, s.State)
				}
				if s.State == seen {
					want = first[i]
				}
				if d := want.Unix() - s.Time; d < 0 {
					t.Fatalf("entry %d: %ds later than it was", i, -d)
				}
			}
		}
	})
}

func reparsed(t rapid.TB, c *Coverage) *Coverage {
	data, err := c.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseCoverage(data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *Coverage) find(i uint64) int {
	for n, s := range c.segments {
		if i < s.To {
			return n
		}
	}
	return -1
}

// TestEveryEntryWithinThePeriod runs a year of nightly rounds over a ledger that
// grows, with an embassy that is down for a month now and then. No entry ever
// waits longer than the period. The control: with half the rounds' budget some do.
func TestEveryEntryWithinThePeriod(t *testing.T) {
	year := func(budget uint64) (behind uint64, segments int) {
		c := &Coverage{}
		size := uint64(10_000)
		for n := range 365 {
			now := anyTime.Add(time.Duration(n) * day)
			c.Grow(size, now)
			behind = max(behind, c.Behind(now, period))
			for left := budget; left > 0 && n%120 < 90; { // the last 30 of each 120 nights it is down
				from, to := c.Next(size, now, period, min(left, 500))
				if from == to {
					break
				}
				c.Add(from, to, now)
				left -= to - from
			}
			segments = max(segments, len(c.segments))
			size += 50
		}
		return behind, segments
	}
	behind, segments := year(1000)
	if behind > 0 || segments > 400 {
		t.Errorf("%d entries waited too long, %d segments", behind, segments)
	}
	if behind, _ := year(100); behind == 0 {
		t.Error("a round too small for the ledger falls behind too")
	}
}

func TestNextTakesWhatWaitsLongest(t *testing.T) {
	c := &Coverage{}
	now := anyTime
	if from, to := c.Next(0, now, period, 10); from != to {
		t.Error("something of nothing")
	}
	c.Grow(100, now)
	c.Add(0, 30, now.Add(time.Hour))
	now = now.Add(2 * day)
	for _, want := range [][2]uint64{{30, 70}, {70, 110}, {110, 120}, {0, 0}} {
		from, to := c.Next(120, now, period, 40)
		if [2]uint64{from, to} != want {
			t.Errorf("[%d,%d), want %v", from, to, want)
		}
		c.Add(from, to, now)
	}
	if got := c.Share(120, now, period); got != 1 {
		t.Errorf("share %v", got)
	}
	if got := c.Share(240, now, period); got != 0.5 {
		t.Errorf("share %v of a ledger that has doubled", got)
	}
	if got := c.Share(120, now.Add(period+time.Second), period); got != 0 {
		t.Errorf("share %v after the period", got)
	}
	if got := c.Behind(now.Add(period+time.Second), period); got != 120 {
		t.Errorf("%d behind", got)
	}
	if !c.Newest().Equal(now) || !c.Oldest().Equal(anyTime.Add(time.Hour)) {
		t.Errorf("%v to %v", c.Oldest(), c.Newest())
	}
	// An embassy that shows an older checkpoint sets nothing back.
	c.Grow(50, now.Add(period))
	if c.Size() != 120 || c.Behind(now.Add(period+time.Second), period) != 120 {
		t.Error("an older checkpoint set the clock back")
	}
	if from, to := c.Next(50, now.Add(period), period, 1000); from != 0 || to != 50 {
		t.Errorf("[%d,%d) of 50 entries", from, to)
	}
}

// What was lost is not covered, and due every day until it is shown again.
func TestLosses(t *testing.T) {
	c := &Coverage{}
	now := anyTime
	c.Add(0, 100, now)
	c.Lose(40, 42, now)
	if from, to := c.LostFrom(0, 1); c.Lost() != 2 || from != 40 || to != 41 || c.Share(100, now, period) != 0.98 {
		t.Errorf("%d lost, [%d,%d)", c.Lost(), from, to)
	}
	if from, to := c.LostFrom(41, 5); from != 41 || to != 42 {
		t.Errorf("[%d,%d) is lost from 41", from, to)
	}
	if from, to := c.LostFrom(42, 5); from != to {
		t.Errorf("[%d,%d) is lost from 42", from, to)
	}
	c.Add(0, 100, now.Add(-time.Second)) // told late, and older
	if from, to := c.Next(100, now.Add(day-time.Second), period, 10); from != to {
		t.Errorf("[%d,%d) is due at once", from, to)
	}
	if from, to := c.Next(100, now.Add(day), period, 10); from != 40 || to != 42 {
		t.Errorf("[%d,%d) is due after a day", from, to)
	}
	c.Add(40, 42, now.Add(day))
	c.Lose(40, 42, now.Add(day))
	if c.Lost() != 2 {
		t.Error("lost again, and not known")
	}
	c.Add(40, 42, now.Add(day)) // repaired and shown within the same second
	if n := c.Lost(); n != 0 || c.Share(100, now, period) != 1 {
		t.Errorf("%d lost after a repair", n)
	}
}

func TestCoverageThatCannotBe(t *testing.T) {
	for _, f := range []coverageFile{
		{Version: 2},
		{Version: 1, Segments: []segment{{From: 1, To: 2}}},
		{Version: 1, Segments: []segment{{From: 0, To: 2}, {From: 3, To: 4}}},
		{Version: 1, Segments: []segment{{From: 0, To: 2}, {From: 1, To: 4}}},
		{Version: 1, Segments: []segment{{From: 0, To: 0}}},
		{Version: 1, Segments: []segment{{From: 0, To: 1, Time: -1}}},
		{Version: 1, Segments: []segment{{From: 0, To: 1, State: 3}}},
	} {
		data, err := encode(&f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseCoverage(data); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if c, err := ParseCoverage(nil); err != nil || c.Size() != 0 {
		t.Error("nothing is the coverage of nothing:", err)
	}
}

func FuzzCoverage(f *testing.F) {
	c := &Coverage{}
	c.Grow(10, anyTime)
	c.Add(2, 5, anyTime.Add(day))
	data, err := c.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCoverage(data)
		if err != nil || len(data) == 0 {
			return
		}
		if again, err := c.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x, %v", data, again, err)
		}
		from, to := c.Next(c.Size()+5, anyTime, period, 100)
		if to-from > 100 || from > to || to > c.Size() {
			t.Errorf("[%d,%d) of %d", from, to, c.Size())
		}
	})
}
