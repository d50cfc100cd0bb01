package wal

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPositionsHaveOneForm(t *testing.T) {
	for text, want := range map[string]LSN{"0/0": 0, "0/16B3740": 0x16B3740, "1/0": 1 << 32, "FFFFFFFF/FFFFFFFF": Open} {
		if got, err := ParseLSN(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "/", "0/", "/0", "0/16b3740", "00/0", "0/016B3740", "0/+1", "0/1/2", "0/100000000", "0x1/0", " 0/0", "0/1_0"} {
		if got, err := ParseLSN(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "01", "+1", "-1", "4294967296", "1 "} {
		if got, err := ParseTimeline(text); !errors.Is(err, ErrFormat) {
			t.Errorf("timeline %q: %d, %v", text, got, err)
		}
	}
}

func TestSegmentSizes(t *testing.T) {
	for s := MinSegmentSize; s <= MaxSegmentSize; s *= 2 {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []SegmentSize{0, 1, MinSegmentSize / 2, MinSegmentSize + 1, 3 << 20, MaxSegmentSize * 2, ^SegmentSize(0)} {
		if err := s.Check(); err == nil {
			t.Errorf("size %d", s)
		}
	}
}

// Names as servers with these segment sizes gave them.
func TestNamesOfSegments(t *testing.T) {
	for _, v := range []struct {
		size  SegmentSize
		at    LSN
		tli   Timeline
		name  string
		start LSN
	}{
		{16 << 20, 0x16B3740, 1, "000000010000000000000001", 0x1000000},
		{16 << 20, 0xA000028, 1, "00000001000000000000000A", 0xA000000},
		{16 << 20, 0x1_00000000, 2, "000000020000000100000000", 0x1_00000000},
		{16 << 20, 0x1_FFFFFFFF, 2, "0000000200000001000000FF", 0x1_FF000000},
		{1 << 20, 0xA00028, 1, "00000001000000000000000A", 0xA00000},
		{1 << 20, 0xFFF00000, 1, "000000010000000000000FFF", 0xFFF00000},
		{1 << 30, 0x2_C0000001, 0xFFFFFFFF, "FFFFFFFF0000000200000003", 0x2_C0000000},
	} {
		s := Segment{v.tli, v.size.Number(v.at)}
		if s.Name(v.size) != v.name || s.Start(v.size) != v.start || v.size.Floor(v.at) != v.start ||
			LSN(v.size.Offset(v.at)) != v.at-v.start || s.End(v.size) != v.start+LSN(v.size) {
			t.Errorf("%s on %d: %s at %s", v.at, v.tli, s.Name(v.size), s.Start(v.size))
		}
		if n, err := ParseName(v.name, v.size); err != nil || n.Kind != KindSegment || n.Segment != s {
			t.Errorf("%s: %+v, %v", v.name, n, err)
		}
	}
}

func TestNamesOfOtherFiles(t *testing.T) {
	for text, want := range map[string]Name{
		"000000010000000000000008.partial":         {KindPartial, Segment{1, 8}, 0},
		"0000000A.history":                         {KindHistory, Segment{Timeline: 10}, 0},
		"000000010000000000000003.00000028.backup": {KindBackup, Segment{1, 3}, 0x28},
	} {
		if n, err := ParseName(text, DefaultSegmentSize); err != nil || n != want {
			t.Errorf("%s: %+v, %v", text, n, err)
		}
	}
	for _, text := range []string{
		"", "archive_status", "00000001", "00000000.history", "0000000a.history", "00000001.History", "00000001.history.tmp",
		"00000000000000000000000A", "00000001000000000000000a", "000000010000000000000100", "00000001000000000000000A.",
		"00000001000000000000000A.partial.partial", "00000001000000000000000A.28.backup", "00000001000000000000000A.01000000.backup",
		"00000001000000000000000A.backup", "+0000001000000000000000A", "00000001 0000000000000A0", "00000001000000000000000A/..",
	} {
		if n, err := ParseName(text, DefaultSegmentSize); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %+v, %v", text, n, err)
		}
	}
	if _, err := ParseName("000000010000000000000001", 1<<19); err == nil {
		t.Error("a name under a size that no server has")
	}
}

// Every segment has one name, under every size.
func TestNamesGoBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := MinSegmentSize << rapid.IntRange(0, 10).Draw(t, "size")
		s := Segment{Timeline(rapid.Uint32Min(1).Draw(t, "timeline")), rapid.Uint64Max(size.last()).Draw(t, "number")}
		if n, err := ParseName(s.Name(size), size); err != nil || n.Segment != s {
			t.Fatalf("%+v: %s: %+v, %v", s, s.Name(size), n, err)
		}
	})
}

// A history of a server that was promoted twice (15.18; 16 to 18 write the same).
const twice = "1\t0/B00000\tno recovery target specified\n\n2\t0/B280F0\tno recovery target specified\n"

func TestHistory(t *testing.T) {
	h, err := ParseHistory(3, []byte(twice))
	if err != nil {
		t.Fatal(err)
	}
	want := []Leg{{1, 0, 0xB00000}, {2, 0xB00000, 0xB280F0}, {3, 0xB280F0, Open}}
	if got := h.Legs(); !slices.Equal(got, want) {
		t.Fatalf("%+v", got)
	}
	for at, tli := range map[LSN]Timeline{0: 1, 0xAFFFFF: 1, 0xB00000: 2, 0xB280EF: 2, 0xB280F0: 3, Open: 3} {
		if got := h.At(at); got != tli {
			t.Errorf("%s is on %d", at, got)
		}
	}
	// Recovery takes a segment from the youngest timeline that has it: with segments of 1 MiB, A from 1, B from 3.
	for number, tli := range map[uint64]Timeline{0: 1, 10: 1, 11: 3, 12: 3} {
		if got := h.Segment(number, 1<<20); got != (Segment{tli, number}) {
			t.Errorf("segment %d of %d", number, got.Timeline)
		}
	}
	if at, ok := h.Left(2); !ok || at != 0xB280F0 {
		t.Errorf("2 was left at %s", at)
	}
	if _, ok := h.Left(3); ok || !h.Has(3) || h.Has(4) {
		t.Error("3 is the last, and there is no 4")
	}
}

func TestPath(t *testing.T) {
	h, err := ParseHistory(3, []byte(twice))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		from Timeline
		at   LSN
		want []Leg
		err  error
	}{
		{1, 0xA00000, []Leg{{1, 0xA00000, 0xB00000}, {2, 0xB00000, 0xB280F0}, {3, 0xB280F0, Open}}, nil},
		{1, 0xB00000, []Leg{{2, 0xB00000, 0xB280F0}, {3, 0xB280F0, Open}}, nil},
		{2, 0xB280EF, []Leg{{2, 0xB280EF, 0xB280F0}, {3, 0xB280F0, Open}}, nil},
		{3, 0xC00000, []Leg{{3, 0xC00000, Open}}, nil},
		{1, 0xB00001, nil, ErrPastSwitch},
		{2, 0xB280F1, nil, ErrPastSwitch},
		{2, 0xAFFFFF, nil, ErrNotAncestor},
		{4, 0xC00000, nil, ErrNotAncestor},
	} {
		got, err := h.Path(v.from, v.at)
		if !errors.Is(err, v.err) || !slices.Equal(got, v.want) {
			t.Errorf("from %d at %s: %+v, %v", v.from, v.at, got, err)
		}
	}
}

func TestForkedHistories(t *testing.T) {
	parse := func(tli Timeline, text string) *History {
		h, err := ParseHistory(tli, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	one, two := parse(1, ""), parse(2, "1\t0/B00000\tx\n")
	three, other := parse(3, twice), parse(3, "1\t0/C00000\tno recovery target specified\n")
	for _, v := range []struct {
		h, older *History
		want     bool
	}{
		{two, one, true},
		{three, two, true},
		{three, one, true},
		{three, three, true},
		{other, one, true},
		{other, two, false},   // left 1 elsewhere
		{three, other, false}, // two servers made a timeline 3
		{other, three, false},
		{two, three, false},
	} {
		if got := v.h.Continues(v.older); got != v.want {
			t.Errorf("%+v after %+v: %v", v.h, v.older, got)
		}
	}
}

func TestHistoriesAreRefused(t *testing.T) {
	for why, text := range map[string]string{
		"cut off":             strings.TrimSuffix(twice, "\n"),
		"same timeline twice": "1\t0/B00000\tx\n1\t0/B00000\tx\n",
		"falling positions":   "1\t0/B00000\tx\n2\t0/A00000\tx\n",
		"itself":              "3\t0/B00000\tx\n",
		"younger":             "4\t0/B00000\tx\n",
		"blanks for tabs":     "1 0/B00000 x\n",
		"no reason":           "1\t0/B00000\n",
		"no position":         "1\t0/0\tx\n",
		"timeline 0":          "0\t0/B00000\tx\n",
		"words":               "hello\n",
		"too long":            strings.Repeat("#\n", MaxHistory),
	} {
		if h, err := ParseHistory(3, []byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v", why, h, err)
		}
	}
	if _, err := ParseHistory(0, nil); err == nil {
		t.Error("timeline 0")
	}
	if h, err := ParseHistory(2, []byte("# why we left\n\n1\t0/B00000\tx\n")); err != nil || len(h.Ancestors) != 1 {
		t.Errorf("a comment: %+v, %v", h, err)
	}
}
