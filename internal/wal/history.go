package wal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The most that is read of a history: a cluster that was promoted every hour for a year stays below.
const (
	MaxHistory   = 1 << 20 // bytes
	MaxAncestors = 10000
)

// Why there is no way from one place of a cluster's history to another.
var (
	ErrNotAncestor = errors.New("not an ancestor of the timeline")
	ErrPastSwitch  = errors.New("past the point where the timeline was left")
)

// A Switch is where one timeline was left for the next.
type Switch struct {
	Timeline Timeline // that was left
	LSN      LSN      // first position that is not of it
	Reason   string   // in the server's words
}

// A History is how a timeline came to be: through which others, from where.
type History struct {
	Timeline  Timeline
	Ancestors []Switch // from the oldest; timelines rise, positions do not fall
}

// ParseHistory reads the file TIMELINE.history. Timeline 1 has none; its history is without ancestors, as is that of an
// empty file.
//
// The text is lines of timeline, tab, position, tab, reason; empty lines and lines that begin with # are passed over,
// as the server does.
func ParseHistory(t Timeline, text []byte) (*History, error) {
	h := &History{Timeline: t}
	if t == 0 || len(text) > MaxHistory {
		return nil, h.bad(0, "timeline 0, or more than 1 MiB")
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return nil, h.bad(bytes.Count(text, []byte("\n"))+1, "the last line is cut off")
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSwitch(line)
		if err != nil {
			return nil, h.bad(number, err.Error())
		}
		if n := len(h.Ancestors); n > 0 && (s.Timeline <= h.Ancestors[n-1].Timeline || s.LSN < h.Ancestors[n-1].LSN) {
			return nil, h.bad(number, "older than the line before")
		}
		if h.Ancestors = append(h.Ancestors, s); len(h.Ancestors) > MaxAncestors {
			return nil, h.bad(number, "too many ancestors")
		}
	}
	if n := len(h.Ancestors); n > 0 && h.Ancestors[n-1].Timeline >= t {
		return nil, h.bad(number, "an ancestor that is not older than the timeline")
	}
	return h, nil
}

func (h *History) bad(line int, why string) error {
	return fmt.Errorf("%s: line %d: %s: %w", HistoryName(h.Timeline), line, why, ErrFormat)
}

func parseSwitch(line string) (s Switch, err error) {
	parts := strings.SplitN(line, "\t", 3)
	if len(parts) != 3 {
		return s, errors.New("want timeline, position and reason")
	}
	if s.Timeline, err = ParseTimeline(parts[0]); err != nil {
		return s, err
	}
	if s.LSN, err = ParseLSN(parts[1]); err != nil {
		return s, err
	}
	if s.LSN == 0 {
		return s, errors.New("no position")
	}
	s.Reason = parts[2]
	return s, nil
}

// Has says whether the history goes through a timeline, or ends in it.
func (h *History) Has(t Timeline) bool {
	_, ok := h.leg(t)
	return ok
}

// A Leg is the part of one timeline that a history goes through.
type Leg struct {
	Timeline Timeline
	From     LSN
	To       LSN // first position that is not of it; [Open] where nothing ends it
}

// Open is the end of a timeline that was not left.
const Open = ^LSN(0)

// Legs returns the whole history from the beginning of the log.
func (h *History) Legs() []Leg {
	out := make([]Leg, 0, len(h.Ancestors)+1)
	var from LSN
	for _, s := range h.Ancestors {
		out = append(out, Leg{s.Timeline, from, s.LSN})
		from = s.LSN
	}
	return append(out, Leg{h.Timeline, from, Open})
}

func (h *History) leg(t Timeline) (Leg, bool) {
	all := h.Legs()
	i := slices.IndexFunc(all, func(s Leg) bool { return s.Timeline == t })
	if i < 0 {
		return Leg{}, false
	}
	return all[i], true
}

// Left returns where an ancestor was left.
func (h *History) Left(t Timeline) (LSN, bool) {
	i := slices.IndexFunc(h.Ancestors, func(s Switch) bool { return s.Timeline == t })
	if i < 0 {
		return 0, false
	}
	return h.Ancestors[i].LSN, true
}

// At returns the timeline on which the byte at l was written.
func (h *History) At(l LSN) Timeline {
	for _, s := range h.Ancestors {
		if l < s.LSN {
			return s.Timeline
		}
	}
	return h.Timeline
}

// Segment returns the file that recovery to this timeline needs for a segment number: that of the youngest timeline
// that has begun by the segment's end. Where a timeline is left in the midst of a segment, the file of the next one
// repeats what came before.
func (h *History) Segment(number uint64, size SegmentSize) Segment {
	for _, s := range slices.Backward(h.Legs()) {
		if size.Number(s.From) <= number {
			return Segment{s.Timeline, number}
		}
	}
	return Segment{h.Timeline, number}
}

// Continues says whether the history goes on from an older one: through its timeline and the very same switches. Two
// timelines of one cluster that do not continue each other were forked: two servers wrote.
func (h *History) Continues(older *History) bool {
	n := len(older.Ancestors)
	if h.Timeline == older.Timeline {
		return slices.EqualFunc(h.Ancestors, older.Ancestors, sameSwitch)
	}
	return len(h.Ancestors) > n && h.Ancestors[n].Timeline == older.Timeline &&
		slices.EqualFunc(h.Ancestors[:n], older.Ancestors, sameSwitch)
}

func sameSwitch(a, b Switch) bool { return a.Timeline == b.Timeline && a.LSN == b.LSN }

// Path returns what leads from a position on a timeline to the end of this history. It fails with [ErrNotAncestor] when
// the history does not go through that timeline, and with [ErrPastSwitch] when it left the timeline before the position:
// what was written there is not in it. Exactly at the switch the path begins on the next timeline.
func (h *History) Path(from Timeline, at LSN) ([]Leg, error) {
	begin, ok := h.leg(from)
	if !ok {
		return nil, fmt.Errorf("timeline %d to %d: %w", from, h.Timeline, ErrNotAncestor)
	}
	if at > begin.To {
		return nil, fmt.Errorf("timeline %d to %d: position %s: %w, %s", from, h.Timeline, at, ErrPastSwitch, begin.To)
	}
	if at < begin.From {
		return nil, fmt.Errorf("timeline %d to %d: position %s: %w: the timeline begins at %s", from, h.Timeline, at, ErrNotAncestor, begin.From)
	}
	var out []Leg
	for _, s := range h.Legs() {
		if s.To > at {
			out = append(out, Leg{s.Timeline, max(s.From, at), s.To})
		}
	}
	return out, nil
}
