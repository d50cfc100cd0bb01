package audit

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	maxSegments = 1 << 17
	maxCoverage = 8 << 20
	// together is how far apart in time neighbours may be and yet be kept as one,
	// with the older time: a ledger then has some thousand segments at most.
	together = 3600
)

// What is known of a stretch of entries.
const (
	seen    uint8 = 0 // in the ledger, and never audited
	audited uint8 = 1 // shown by the embassy
	lost    uint8 = 2 // the last audit found a loss
)

// retry is after how long, in seconds, what was lost is due again.
const retry = 24 * 3600

// segment is a stretch of entries of one age.
type segment struct {
	_        struct{} `cbor:",toarray"`
	From, To uint64
	Time     int64 // seconds since 1970 UTC: of the last audit or, if there was none, when the entries were first seen
	State    uint8
}

// Coverage remembers when each entry of one ledger was last audited in a range,
// and what audits found lost. Draws of samples do not count, unless they found a
// loss. Not for concurrent use.
type Coverage struct {
	segments []segment // from 0 to the size, without gaps
}

// coverageFile is how coverage is kept:
//
//	CBOR array(2) [ version 1, array of array(4) [ from, to, time, state ] ]
type coverageFile struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Segments []segment
}

// ParseCoverage reads what Bytes wrote: ErrFormat or ErrUnknown. Nothing at all is
// the coverage of a ledger that was never audited.
func ParseCoverage(data []byte) (*Coverage, error) {
	if len(data) == 0 {
		return &Coverage{}, nil
	}
	var f coverageFile
	if err := decode(data, maxCoverage, &f); err != nil {
		return nil, fmt.Errorf("audit: coverage: %w", err)
	}
	if f.Version != version {
		return nil, fmt.Errorf("audit: coverage: version %d: %w", f.Version, ErrUnknown)
	}
	at := uint64(0)
	for i, s := range f.Segments {
		if s.From != at || s.To <= s.From || s.To > maxTree || s.Time < 0 || s.State > lost {
			return nil, fmt.Errorf("audit: coverage: segment %d: %w", i, ErrFormat)
		}
		at = s.To
	}
	return &Coverage{segments: f.Segments}, nil
}

// Bytes is the canonical encoding.
func (c *Coverage) Bytes() ([]byte, error) {
	return encode(&coverageFile{Version: version, Segments: c.segments})
}

// Size is how many entries are known.
func (c *Coverage) Size() uint64 {
	if len(c.segments) == 0 {
		return 0
	}
	return c.segments[len(c.segments)-1].To
}

// Grow takes note that the ledger had size entries at t: the new ones are owed an
// audit from then on. A smaller size than before changes nothing: an embassy that
// shows an older checkpoint must not set the clock back.
func (c *Coverage) Grow(size uint64, t time.Time) {
	if old := c.Size(); size > old && size <= maxTree {
		c.segments = append(c.segments, segment{From: old, To: size, Time: seconds(t)})
		c.join()
	}
}

// Add takes note that the entries [from,to) were audited at t, and shown. Where a
// later audit is known already, that one counts; of one second the one told last.
func (c *Coverage) Add(from, to uint64, t time.Time) { c.set(from, to, t, audited) }

// Lose takes note that an audit at t found the entries [from,to) lost: they are
// not covered, and due again after a day, until an audit shows them.
func (c *Coverage) Lose(from, to uint64, t time.Time) { c.set(from, to, t, lost) }

func (c *Coverage) set(from, to uint64, t time.Time, state uint8) {
	if from >= to || to > maxTree {
		return
	}
	c.Grow(to, t)
	var out []segment
	for _, s := range c.segments {
		a, b := max(s.From, from), min(s.To, to)
		if a >= b || s.State != seen && s.Time > seconds(t) {
			out = append(out, s)
			continue
		}
		for _, part := range []segment{
			{From: s.From, To: a, Time: s.Time, State: s.State},
			{From: a, To: b, Time: seconds(t), State: state},
			{From: b, To: s.To, Time: s.Time, State: s.State},
		} {
			if part.From < part.To {
				out = append(out, part)
			}
		}
	}
	c.segments = out
	c.join()
}

func seconds(t time.Time) int64 { return max(0, t.Unix()) }

// join keeps neighbours of about the same age as one. The older time counts, so
// that nothing is taken to be audited later than it was.
func (c *Coverage) join() {
	var out []segment
	for _, s := range c.segments {
		if n := len(out) - 1; n >= 0 && out[n].State == s.State && max(out[n].Time-s.Time, s.Time-out[n].Time) <= together {
			out[n].To, out[n].Time = s.To, min(out[n].Time, s.Time)
			continue
		}
		out = append(out, s)
	}
	c.segments = out
}

// Next returns the entries to audit next, at most budget of them: of those that
// were never audited, not within half of the period, or lost for a day, the ones
// that wait longest. Half, so that the other half is left for embassies that do
// not answer. from equals to when nothing is due. size is the ledger's at now.
func (c *Coverage) Next(size uint64, now time.Time, period time.Duration, budget uint64) (from, to uint64) {
	c.Grow(size, now)
	due := func(s segment) bool {
		waits := seconds(now) - s.Time
		return s.From < size && (s.State == seen || s.State == lost && waits >= retry || waits > int64(period.Seconds()/2))
	}
	first := -1
	for i, s := range c.segments {
		if due(s) && (first < 0 || s.Time < c.segments[first].Time) {
			first = i
		}
	}
	if first < 0 || budget == 0 {
		return 0, 0
	}
	from, to = c.segments[first].From, c.segments[first].To
	for _, s := range c.segments[first+1:] {
		if to-from >= budget || !due(s) {
			break
		}
		to = s.To
	}
	return from, min(to, from+budget, size)
}

// Lost counts the entries that their last audit found lost.
func (c *Coverage) Lost() uint64 {
	n := uint64(0)
	for _, s := range c.segments {
		if s.State == lost {
			n += s.To - s.From
		}
	}
	return n
}

// LostFrom returns the first stretch of lost entries from the entry on, at most
// budget long, for an audit after a repair. from equals to when there is none.
func (c *Coverage) LostFrom(entry, budget uint64) (from, to uint64) {
	for _, s := range c.segments {
		if s.State == lost && s.To > entry {
			from = max(s.From, entry)
			return from, min(s.To, from+budget)
		}
	}
	return 0, 0
}

// Share is how much of the ledger's size entries was audited within period, from
// 0 to 1. Of an empty ledger it is 1.
func (c *Coverage) Share(size uint64, now time.Time, period time.Duration) float64 {
	if size == 0 {
		return 1
	}
	n := uint64(0)
	for _, s := range c.segments {
		if s.State == audited && seconds(now)-s.Time <= int64(period.Seconds()) {
			n += min(s.To, size) - min(s.From, size)
		}
	}
	return float64(n) / float64(size)
}

// Behind counts the entries that have waited longer than period: since their last
// audit or, if there was none, since they were first seen.
func (c *Coverage) Behind(now time.Time, period time.Duration) uint64 {
	n := uint64(0)
	for _, s := range c.segments {
		if seconds(now)-s.Time > int64(period.Seconds()) {
			n += s.To - s.From
		}
	}
	return n
}

// Oldest is the time of the entries that wait longest, zero when there are none.
func (c *Coverage) Oldest() time.Time {
	if len(c.segments) == 0 {
		return time.Time{}
	}
	s := slices.MinFunc(c.segments, func(a, b segment) int { return cmp.Compare(a.Time, b.Time) })
	return time.Unix(s.Time, 0).UTC()
}

// Newest is the time of the last audit, zero when there was none.
func (c *Coverage) Newest() time.Time {
	newest := int64(-1)
	for _, s := range c.segments {
		if s.State != seen {
			newest = max(newest, s.Time)
		}
	}
	if newest < 0 {
		return time.Time{}
	}
	return time.Unix(newest, 0).UTC()
}
