package wal

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// SegmentSize is how many bytes one file of the log has, chosen when a cluster is made.
type SegmentSize uint32

// The bounds of a segment's size, and what servers choose by themselves.
const (
	MinSegmentSize     SegmentSize = 1 << 20
	MaxSegmentSize     SegmentSize = 1 << 30
	DefaultSegmentSize SegmentSize = 16 << 20
)

// Check says whether a server can have segments of this size: a power of two from 1 MiB to 1 GiB.
func (s SegmentSize) Check() error {
	if s < MinSegmentSize || s > MaxSegmentSize || bits.OnesCount32(uint32(s)) != 1 {
		return fmt.Errorf("segment size %d: %w: a power of two from 1 MiB to 1 GiB", s, ErrFormat)
	}
	return nil
}

// Number is that of the segment that holds the byte at l. The size must be one that [SegmentSize.Check] accepts, here
// and below.
func (s SegmentSize) Number(l LSN) uint64 { return uint64(l) / uint64(s) }

// Start is the position of the first byte of a segment.
func (s SegmentSize) Start(number uint64) LSN { return LSN(number * uint64(s)) }

// Floor is the first position of the segment that holds l.
func (s SegmentSize) Floor(l LSN) LSN { return l &^ LSN(s-1) }

// Offset is how far into its segment l lies.
func (s SegmentSize) Offset(l LSN) uint32 { return uint32(l & LSN(s-1)) }

// last is the number of the last segment that a position can be in.
func (s SegmentSize) last() uint64 { return ^uint64(0) / uint64(s) }

// Segment is one file of the log.
type Segment struct {
	Timeline Timeline
	Number   uint64 // its start divided by the segment size
}

// Start is the position of the segment's first byte.
func (s Segment) Start(size SegmentSize) LSN { return size.Start(s.Number) }

// End is the position after the segment's last byte.
func (s Segment) End(size SegmentSize) LSN { return size.Start(s.Number + 1) }

// Name is the file's name, as in 00000001000000000000000A.
func (s Segment) Name(size SegmentSize) string {
	per := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), uint32(s.Number/per), uint32(s.Number%per))
}

// Kind says what a file of the log is.
type Kind int

// The kinds of files that servers keep in pg_wal and hand to archives.
const (
	KindSegment Kind = iota + 1 // a whole segment
	KindPartial                 // the segment in which a timeline was left: NAME.partial
	KindHistory                 // a timeline's history: TIMELINE.history
	KindBackup                  // where a base backup began and ended: NAME.OFFSET.backup
)

// Name is the name of a file of the log, taken apart.
type Name struct {
	Kind    Kind
	Segment Segment // of a history, only its timeline
	Offset  uint32  // into the segment, of a backup
}

// String is the file's name.
func (n Name) String(size SegmentSize) string {
	switch n.Kind {
	case KindPartial:
		return n.Segment.Name(size) + ".partial"
	case KindHistory:
		return HistoryName(n.Segment.Timeline)
	case KindBackup:
		return fmt.Sprintf("%s.%08X.backup", n.Segment.Name(size), n.Offset)
	default:
		return n.Segment.Name(size)
	}
}

// HistoryName is the name of the file that holds a timeline's history.
func HistoryName(t Timeline) string { return fmt.Sprintf("%08X.history", uint32(t)) }

// ParseName reads a name of any of the four kinds. Only a server with segments of this size gives it: the same digits
// mean another place under another size.
func ParseName(s string, size SegmentSize) (Name, error) {
	if err := size.Check(); err != nil {
		return Name{}, err
	}
	n, ok := parseName(s, size)
	if !ok || n.Segment.Timeline == 0 || n.String(size) != s {
		return Name{}, fmt.Errorf("log file %.60q: %w: as in 00000001000000000000000A or 00000002.history, of segments of %d bytes",
			s, ErrFormat, size)
	}
	return n, nil
}

func parseName(s string, size SegmentSize) (n Name, ok bool) {
	stem, rest, _ := strings.Cut(s, ".")
	if len(stem) == 8 && rest == "history" {
		t, ok := hex32(stem)
		return Name{Kind: KindHistory, Segment: Segment{Timeline: Timeline(t)}}, ok
	}
	if len(stem) != 24 {
		return n, false
	}
	t, ok1 := hex32(stem[:8])
	high, ok2 := hex32(stem[8:16])
	low, ok3 := hex32(stem[16:])
	per := uint64(1<<32) / uint64(size)
	if !ok1 || !ok2 || !ok3 || uint64(low) >= per {
		return n, false
	}
	n.Segment = Segment{Timeline: Timeline(t), Number: uint64(high)*per + uint64(low)}
	switch {
	case len(stem) == len(s):
		n.Kind = KindSegment
	case rest == "partial":
		n.Kind = KindPartial
	default:
		offset, isBackup := strings.CutSuffix(rest, ".backup")
		o, isHex := hex32(offset)
		if !isBackup || !isHex || o >= uint32(size) {
			return n, false
		}
		n.Kind, n.Offset = KindBackup, o
	}
	return n, true
}

func hex32(s string) (uint32, bool) {
	if len(s) != 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 32)
	return uint32(n), err == nil
}
