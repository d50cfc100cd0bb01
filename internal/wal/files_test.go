package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

// First pages of segments of 1 MiB, as 15.18, 16.14, 17.10 and 18.4 wrote them.
var firstPages = []struct {
	version int
	system  uint64
	header  string
}{
	{15, 7713716881193426537, "10d107000100000000008000000000003900000000000000" + "69de7769a2a00c6b" + "0000100000200000"},
	{16, 7713716890430439069, "13d107000100000000008000000000008110000000000000" + "9d7e0990a4a00c6b" + "0000100000200000"},
	{17, 7713716898861162239, "16d10700010000000000800000000000e918000000000000" + "ff1e8c86a6a00c6b" + "0000100000200000"},
	{18, 7713716905352871780, "18d10700010000000000800000000000f907000000000000" + "64bf7b09a8a00c6b" + "0000100000200000"},
}

func firstPage(t testing.TB, i int) []byte {
	t.Helper()
	b, err := hex.DecodeString(firstPages[i].header)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPagesOfAllVersions(t *testing.T) {
	for i, v := range firstPages {
		p, err := ParsePage(firstPage(t, i))
		if err != nil || p.Version != v.version || p.System != v.system || p.Timeline != 1 || p.Address != 0x800000 ||
			p.Size != 1<<20 || !p.Long || p.Rest == 0 {
			t.Errorf("%d: %+v, %v", v.version, p, err)
		}
	}
}

func TestPagesAreRefused(t *testing.T) {
	for why, change := range map[string]func([]byte) []byte{
		"unknown magic":        func(b []byte) []byte { b[0]++; return b },
		"big-endian":           func(b []byte) []byte { b[0], b[1] = b[1], b[0]; return b },
		"unknown info":         func(b []byte) []byte { b[2] |= 16; return b },
		"timeline 0":           func(b []byte) []byte { b[4] = 0; return b },
		"amid a page":          func(b []byte) []byte { b[8] = 1; return b },
		"amid a segment":       func(b []byte) []byte { b[9] = 0x20; return b },
		"rest not announced":   func(b []byte) []byte { b[2] &^= 1; return b },
		"size of segments":     func(b []byte) []byte { b[34] = 3 << 4; return b },
		"size of pages":        func(b []byte) []byte { b[37] = 0x40; return b },
		"cut in a long header": func(b []byte) []byte { return b[:39] },
		"cut in a short one":   func(b []byte) []byte { return b[:23] },
	} {
		if p, err := ParsePage(change(firstPage(t, 0))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v", why, p, err)
		}
	}
}

// segment makes a segment of 1 MiB whose pages are written by timelines of a history, up to some page; the rest is empty.
func segment(t *testing.T, tli func(LSN) Timeline, pages int) []byte {
	b := make([]byte, 1<<20)
	for i := range pages {
		page := b[i*PageSize:]
		copy(page, firstPage(t, 0))
		at := LSN(0x800000 + i*PageSize)
		if i > 0 {
			page[2] &^= pageLong
			clear(page[shortHeader:longHeader])
		}
		binary.LittleEndian.PutUint32(page[4:], uint32(tli(at)))
		binary.LittleEndian.PutUint64(page[8:], uint64(at))
		page[PageSize-1] = 1
	}
	return b
}

func one(LSN) Timeline { return 1 }

func TestSegmentsAreWhatTheyClaim(t *testing.T) {
	h, err := ParseHistory(2, []byte("1\t0/804001\tx\n"))
	if err != nil {
		t.Fatal(err)
	}
	whole := Claim{Version: 15, System: firstPages[0].system, Segment: Segment{1, 8}, Size: 1 << 20}
	next := whole
	next.Segment.Timeline, next.History = 2, h
	for what, v := range map[string]struct {
		claim Claim
		bytes []byte
	}{
		"whole":             {whole, segment(t, one, 128)},
		"empty at the end":  {whole, segment(t, one, 5)},
		"cut after a page":  {whole, segment(t, one, 128)[:PageSize]},
		"cut amid a page":   {whole, segment(t, one, 128)[:PageSize+10]},
		"after a promotion": {next, segment(t, h.At, 128)},
	} {
		if err := v.claim.Check(v.bytes); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	change := func(f func(b []byte)) []byte {
		b := segment(t, one, 128)
		f(b)
		return b
	}
	otherSystem, otherVersion, otherPlace := whole, whole, whole
	otherSystem.System++
	otherVersion.Version = 16
	otherPlace.Segment.Number++
	for what, v := range map[string]struct {
		claim Claim
		bytes []byte
		want  error
	}{
		"system":           {otherSystem, segment(t, one, 128), ErrSystem},
		"version":          {otherVersion, segment(t, one, 128), ErrSystem},
		"place":            {otherPlace, segment(t, one, 128), ErrPlace},
		"size":             {Claim{Segment: Segment{1, 8}, System: whole.System, Size: 2 << 20}, segment(t, one, 128), ErrSystem},
		"timeline":         {whole, segment(t, func(LSN) Timeline { return 2 }, 128), ErrPlace},
		"late switch":      {next, segment(t, one, 128), ErrPlace},
		"early switch":     {next, segment(t, func(LSN) Timeline { return 2 }, 128), ErrPlace},
		"an old page":      {whole, change(func(b []byte) { b[5*PageSize+10] = 0x70 }), ErrPlace},
		"a long header":    {whole, change(func(b []byte) { copy(b[PageSize:], b[:longHeader]) }), ErrFormat},
		"a hole":           {whole, change(func(b []byte) { clear(b[3*PageSize : 4*PageSize]) }), ErrFormat},
		"noise at the end": {whole, append(segment(t, one, 5)[:1<<20-1], 1), ErrFormat},
		"an empty first":   {whole, make([]byte, 1<<20), ErrFormat},
		"too much":         {whole, make([]byte, 1<<20+1), ErrFormat},
		"nothing":          {whole, nil, ErrFormat},
	} {
		if err := v.claim.Check(v.bytes); !errors.Is(err, v.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// As 15.18 wrote it; 16 to 18 write the same.
const label = "START WAL LOCATION: 0/A00028 (file 00000001000000000000000A)\nCHECKPOINT LOCATION: 0/A00060\n" +
	"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-29 22:01:07 UTC\nLABEL: label\nSTART TIMELINE: 1\n"

func TestLabel(t *testing.T) {
	want := Label{0xA00028, "00000001000000000000000A", 0xA00060, false, "2026-11-29 22:01:07 UTC", "label", 1}
	if got, err := ParseLabel([]byte(label)); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, v := range []struct{ old, new string }{
		{"0/A00028", "0/a00028"},
		{"0/A00028", "0/B00028"},
		{"0/A00060", "0/A00020"},
		{"streamed", "pg_start_backup"},
		{"primary", "somewhere"},
		{"TIMELINE: 1\n", "TIMELINE: 1"},
		{"TIMELINE: 1\n", "TIMELINE: 2\n"},
		{"TIMELINE: 1\n", "TIMELINE: 1\nINCREMENTAL FROM LSN: 0/A00028\n"},
		{"LABEL: label\n", "LABEL: label\nSTART TIMELINE: 1\n"},
		{"LABEL: label\n", ""},
		{"\n", "\r\n"},
		{"0A)", "0A"},
		{"LABEL: ", "LABEL: " + strings.Repeat("x", MaxLabel)},
	} {
		if got, err := ParseLabel([]byte(strings.Replace(label, v.old, v.new, 1))); !errors.Is(err, ErrFormat) {
			t.Errorf("%q for %.40q: %+v, %v", v.new, v.old, got, err)
		}
	}
}

func TestTablespaceMap(t *testing.T) {
	want := []Tablespace{{16384, "/srv/far away"}, {16390, "/srv/back\\slash\nline\rreturn"}}
	text := "16384 /srv/far away\n16390 /srv/back\\\\slash\\\nline\\\rreturn\n"
	got, err := ParseTablespaceMap([]byte(text))
	if err != nil || !slices.Equal(got, want) || string(FormatTablespaceMap(got)) != text {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{
		"16384 /srv", "16384\n", "0 /srv\n", "016384 /srv\n", "x /srv\n", "16384 srv\n", "16384 /a\\b\n", "16384 /a\rb\n", "16384 /a\\",
		"16384 /a\x00b\n", "\n", "99999999999 /a\n", strings.Repeat("1 /a\n", MaxTablespaceMap),
	} {
		if got, err := ParseTablespaceMap([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%.40q: %+v, %v", text, got, err)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("0/16B3740")
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := ParseLSN(s); err == nil && l.String() != s {
			t.Errorf("%q is %s", s, l)
		}
	})
}

func FuzzParseTimeline(f *testing.F) {
	f.Add("1")
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := ParseTimeline(s); err == nil && l.String() != s {
			t.Errorf("%q is %s", s, l)
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"00000001000000000000000A", "00000001000000000000000A.partial", "00000002.history", "000000010000000000000003.00000028.backup"} {
		f.Add(s, uint32(DefaultSegmentSize))
	}
	f.Fuzz(func(t *testing.T, s string, size uint32) {
		if n, err := ParseName(s, SegmentSize(size)); err == nil && n.String(SegmentSize(size)) != s {
			t.Errorf("%q is %q", s, n.String(SegmentSize(size)))
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), []byte(twice))
	f.Fuzz(func(t *testing.T, tli uint32, text []byte) {
		h, err := ParseHistory(Timeline(tli), text)
		if err != nil {
			return
		}
		if !h.Continues(h) || h.At(Open) != h.Timeline {
			t.Error("not its own end")
		}
		for _, s := range h.Legs() {
			path, err := h.Path(s.Timeline, s.From)
			if err != nil || len(path) == 0 || path[len(path)-1] != (Leg{h.Timeline, max(s.From, h.begin()), Open}) {
				t.Errorf("no way from %+v: %+v, %v", s, path, err)
			}
		}
	})
}

func (h *History) begin() LSN { return h.Legs()[len(h.Ancestors)].From }

func FuzzParsePage(f *testing.F) {
	for i := range firstPages {
		f.Add(firstPage(f, i))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePage(b)
		if err != nil {
			return
		}
		if p.Version < 15 || p.Version > 18 || p.Timeline == 0 || p.Address%PageSize != 0 || p.Long && p.Size.Check() != nil {
			t.Errorf("%+v", p)
		}
		if p.Long {
			c := Claim{p.Version, p.System, Segment{p.Timeline, p.Size.Number(p.Address)}, p.Size, nil}
			if err := c.Check(b[:longHeader]); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzParseLabel(f *testing.F) {
	f.Add([]byte(label))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, err := ParseLabel(text); err == nil && (l.Start == 0 || l.Timeline == 0 || l.Checkpoint < l.Start) {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzParseTablespaceMap(f *testing.F) {
	f.Add([]byte("16384 /srv/far\n16390 /srv/back\\\\slash\\\nline\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if spaces, err := ParseTablespaceMap(text); err == nil && !bytes.Equal(FormatTablespaceMap(spaces), text) {
			t.Errorf("%q is %+v", text, spaces)
		}
	})
}
