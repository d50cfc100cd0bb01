package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/wal"
)

// Errors that tell why a part of the log cannot be given. Only ErrEnd is an answer by which recovery may end.
var (
	// ErrEnd means that the signed index proves that there is no more: the one reason to say "end of archive".
	ErrEnd = errors.New("the log ends before it")
	// ErrUnproven means that nothing is known there, and the index cannot prove that nothing is.
	ErrUnproven = errors.New("whether there is more cannot be proven")
	// ErrHole means that a part of the log is missing while later parts are there.
	ErrHole = errors.New("a hole in the log")
)

// Trail is the index of a cluster's log: which stretch holds which bytes of which timeline.
type Trail struct {
	System  uint64
	Segment wal.SegmentSize

	logs      map[wal.Timeline][]run // by start
	clocks    []int64                // the server's, by stretch
	histories map[wal.Timeline]*trailHistory
	doubt     error         // why the end is not proven; nil when it is
	missing   map[int]error // why stretches cannot be read, by their place in the index; those that Lacks told of
}

// run is a stretch of the log in a trail.
type run struct {
	stretch    int // its place in the index
	start, end wal.LSN
}

// trailHistory is how a timeline came to be, as the server wrote it.
type trailHistory struct {
	text   []byte
	parsed *wal.History
}

// Part is a run of bytes of the log and where they are.
type Part struct {
	Stretch    int // its place in the index
	Offset     int // of the part in the stretch's bytes
	Start, End wal.LSN
}

// NewTrail makes the index of one system's log. doubt is why the index may lack its end, nil where it cannot. history
// returns the text of the stretch at a place, which holds a timeline's history.
func NewTrail(system uint64, positions []Position, doubt error, history func(int) ([]byte, error)) (*Trail, error) {
	t := &Trail{System: system, logs: map[wal.Timeline][]run{}, histories: map[wal.Timeline]*trailHistory{}, doubt: doubt}
	for i := range positions {
		p := &positions[i]
		t.clocks = append(t.clocks, p.Clock)
		if p.System != system {
			continue
		}
		if t.Segment != 0 && t.Segment != p.Segment {
			return nil, fmt.Errorf("the log changes its segment size at stretch %d: %w", i, ErrPosition)
		}
		t.Segment = p.Segment
		if p.Kind == KindLog {
			t.logs[p.Timeline] = append(t.logs[p.Timeline], run{i, p.Start, p.End})
			continue
		}
		text, err := history(i)
		if err == nil {
			err = t.AddHistory(p.Timeline, text)
		}
		if err != nil {
			return nil, err
		}
	}
	for tl, runs := range t.logs {
		slices.SortStableFunc(runs, func(a, b run) int { return cmp.Compare(a.start, b.start) })
		t.logs[tl] = runs
	}
	return t, nil
}

// AddHistory adds what is known of a timeline from elsewhere: a base backup brings its own.
func (t *Trail) AddHistory(tl wal.Timeline, text []byte) error {
	h, err := wal.ParseHistory(tl, text)
	if err != nil {
		return err
	}
	if old := t.histories[tl]; old != nil && !slices.Equal(old.parsed.Ancestors, h.Ancestors) {
		return fmt.Errorf("%w: timeline %d began twice", ErrTwoServers, tl)
	}
	t.histories[tl] = &trailHistory{text, h}
	return nil
}

// Lacks notes why stretches, by their place in the index, cannot be read: what they hold is not reached.
func (t *Trail) Lacks(missing map[int]error) { t.missing = missing }

// Doubt is why the end of the log is not proven; nil when it is.
func (t *Trail) Doubt() error { return t.doubt }

// Timelines returns the timelines of which there is something, in order.
func (t *Trail) Timelines() []wal.Timeline {
	var out []wal.Timeline
	for tl := range t.logs {
		out = append(out, tl)
	}
	for tl := range t.histories {
		if _, ok := t.logs[tl]; !ok {
			out = append(out, tl)
		}
	}
	slices.Sort(out)
	return out
}

// history is how a timeline came to be. One that never left another has no file.
func (t *Trail) history(tl wal.Timeline) *wal.History {
	if h := t.histories[tl]; h != nil {
		return h.parsed
	}
	return &wal.History{Timeline: tl}
}

// End is the position behind the last byte of a timeline that is known; 0 where there is none.
func (t *Trail) End(tl wal.Timeline) (end wal.LSN) {
	for _, r := range t.logs[tl] {
		end = max(end, r.end)
	}
	return end
}

// at finds a stretch of a timeline that holds the byte at a position: of several the one that begins last.
func (t *Trail) at(tl wal.Timeline, at wal.LSN) (run, bool) {
	runs := t.logs[tl]
	n, _ := slices.BinarySearchFunc(runs, at, func(r run, at wal.LSN) int {
		if r.start <= at {
			return -1
		}
		return 1
	})
	for i := n - 1; i >= max(0, n-maxOverlap); i-- {
		if runs[i].end > at {
			return runs[i], true
		}
	}
	return run{}, false
}

// maxOverlap is how many stretches of one timeline may overlap at one place: a stream that begins again starts no
// further back than its segment's start, so the stretches that reach over a place are those of one segment.
const maxOverlap = 1 << 14

// Cover returns the parts that hold a timeline's bytes from one position up to another, in order. Bytes before the
// timeline began are those of the timelines before it. Where a part is missing, the parts before it come with ErrHole.
func (t *Trail) Cover(tl wal.Timeline, from, to wal.LSN) ([]Part, error) {
	h := t.history(tl)
	var out []Part
	for at := from; at < to; {
		on := tl
		r, ok := t.at(on, at)
		limit := to
		if !ok { // what was before the timeline is repeated in its first segment, and may be known only where it was written
			if on = h.At(at); on != tl {
				r, ok = t.at(on, at)
				if left, _ := h.Left(on); left > at {
					limit = min(limit, left)
				}
			}
		}
		if !ok {
			return out, fmt.Errorf("%w: %s of timeline %d", ErrHole, at, on)
		}
		p := Part{Stretch: r.stretch, Offset: int(at - r.start), Start: at, End: min(limit, r.end)}
		out, at = append(out, p), p.End
	}
	return out, nil
}

// Find returns the parts of a segment's file, and how many zero bytes follow them where the log ends within it. ErrEnd
// only where the index proves that the segment is not there; ErrHole and ErrUnproven otherwise.
func (t *Trail) Find(s wal.Segment) (parts []Part, zeros int, err error) {
	start, stop, end := s.Start(t.Segment), s.End(t.Segment), t.End(s.Timeline)
	if end == 0 || end <= start || stop <= t.begin(s.Timeline) {
		if t.doubt != nil {
			return nil, 0, fmt.Errorf("segment %s: %w: %w", s.Name(t.Segment), ErrUnproven, t.doubt)
		}
		return nil, 0, fmt.Errorf("segment %s: %w", s.Name(t.Segment), ErrEnd)
	}
	to := min(stop, end)
	if to < stop && t.doubt != nil { // more of it may be known elsewhere: a shorter file would end recovery there
		return nil, 0, fmt.Errorf("segment %s behind %s: %w: %w", s.Name(t.Segment), to, ErrUnproven, t.doubt)
	}
	parts, err = t.Cover(s.Timeline, start, to)
	if err != nil {
		return nil, 0, fmt.Errorf("segment %s: %w", s.Name(t.Segment), err)
	}
	return parts, int(stop - to), nil
}

// begin is where a timeline begins: 0 where it is not known to have left another.
func (t *Trail) begin(tl wal.Timeline) wal.LSN {
	if h := t.histories[tl]; h != nil && len(h.parsed.Ancestors) > 0 {
		return t.Segment.Floor(h.parsed.Ancestors[len(h.parsed.Ancestors)-1].LSN)
	}
	return 0
}

// HistoryOf returns the history file of a timeline. ErrEnd only where the index proves that there is none, ErrUnproven
// or ErrHole otherwise.
func (t *Trail) HistoryOf(tl wal.Timeline) ([]byte, error) {
	if h := t.histories[tl]; h != nil {
		return h.text, nil
	}
	if tl == 1 { // it left no other: there is no such file anywhere
		return nil, fmt.Errorf("%s: %w", wal.HistoryName(tl), ErrEnd)
	}
	if _, ok := t.logs[tl]; ok { // its log is there, so it had a history
		return nil, fmt.Errorf("%s: %w: the timeline's log is there and its history is not", wal.HistoryName(tl), ErrHole)
	}
	if t.doubt != nil {
		return nil, fmt.Errorf("%s: %w: %w", wal.HistoryName(tl), ErrUnproven, t.doubt)
	}
	return nil, fmt.Errorf("%s: %w", wal.HistoryName(tl), ErrEnd)
}
