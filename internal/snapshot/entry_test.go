package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/chunk"
)

func TestEntryComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := genEntry().Draw(r, "entry")
		if err := e.Check(); err != nil {
			r.Fatal(err)
		}
		b := AppendEntry([]byte("before"), &e)[6:]
		got, rest, err := ParseEntry(append(b, "behind"...))
		if err != nil || string(rest) != "behind" || !reflect.DeepEqual(got, e) {
			r.Fatalf("%v %q\n%+v\n%+v", err, rest, got, e)
		}
		for n := range len(b) {
			if _, _, err := ParseEntry(b[:n]); !errors.Is(err, ErrEntry) {
				r.Fatalf("%d bytes of %d: %v", n, len(b), err)
			}
		}
	})
}

// file returns a sound file of one extent.
func file(name string) Entry {
	return Entry{
		Name: name, Kind: File, Mode: 0o644, UID: 1000, GID: 1000, ModSec: 1_700_000_000, ModNsec: 5, Size: 100,
		Extents: []Extent{{Chunk: chunk.ID{1, 2, 3}, Offset: 7, Length: 100}},
	}
}

func TestCheckNamesEveryFlaw(t *testing.T) {
	long := strings.Repeat("x", MaxName+1)
	for name, spoil := range map[string]func(e *Entry){
		"no name":                 func(e *Entry) { e.Name = "" },
		"dot":                     func(e *Entry) { e.Name = "." },
		"dot dot":                 func(e *Entry) { e.Name = ".." },
		"slash":                   func(e *Entry) { e.Name = "a/b" },
		"NUL in name":             func(e *Entry) { e.Name = "a\x00" },
		"long name":               func(e *Entry) { e.Name = long },
		"kind 0":                  func(e *Entry) { e.Kind = 0 },
		"kind 8":                  func(e *Entry) { e.Kind = 8 },
		"type bits in mode":       func(e *Entry) { e.Mode = 0o100644 },
		"nanoseconds":             func(e *Entry) { e.ModNsec = 1e9 },
		"flags":                   func(e *Entry) { e.Flags = 4 },
		"extents too short":       func(e *Entry) { e.Size++ },
		"extents too long":        func(e *Entry) { e.Size-- },
		"empty extent":            func(e *Entry) { e.Extents = append(e.Extents, Extent{}) },
		"empty hole":              func(e *Entry) { e.Extents = append(e.Extents, Extent{Hole: true}) },
		"hole with a chunk":       func(e *Entry) { e.Extents[0].Hole, e.Extents[0].HoleLength = true, 100 },
		"extent past 4 GiB":       func(e *Entry) { e.Extents[0].Offset = 1<<32 - 50 },
		"extents on a FIFO":       func(e *Entry) { e.Kind, e.Size = FIFO, 0 },
		"size on a FIFO":          func(e *Entry) { e.Kind, e.Extents = FIFO, nil },
		"files on a file":         func(e *Entry) { e.Files = 1 },
		"target on a file":        func(e *Entry) { e.Target = "x" },
		"link without target":     func(e *Entry) { *e = Entry{Name: "l", Kind: Symlink} },
		"link with long target":   func(e *Entry) { *e = Entry{Name: "l", Kind: Symlink, Target: long} },
		"NUL in target":           func(e *Entry) { *e = Entry{Name: "l", Kind: Symlink, Target: "a\x00"} },
		"device on a file":        func(e *Entry) { e.Device = 1 },
		"folder with links":       func(e *Entry) { *e = Entry{Name: "d", Kind: Dir, LinkGroup: 1} },
		"folder with a hole":      func(e *Entry) { *e = Entry{Name: "d", Kind: Dir, Extents: []Extent{{Hole: true, HoleLength: 1}}} },
		"indirect folder":         func(e *Entry) { *e = Entry{Name: "d", Kind: Dir, Flags: Indirect} },
		"indirect without pieces": func(e *Entry) { e.Flags, e.Extents = Indirect, nil },
		"partial socket":          func(e *Entry) { *e = Entry{Name: "s", Kind: Socket, Flags: Partial} },
		"attributes out of order": func(e *Entry) { e.Xattrs = []Xattr{{Name: "b"}, {Name: "a"}} },
		"attribute twice":         func(e *Entry) { e.Xattrs = []Xattr{{Name: "a"}, {Name: "a"}} },
		"attribute without name":  func(e *Entry) { e.Xattrs = []Xattr{{}} },
		"large attribute":         func(e *Entry) { e.Xattrs = []Xattr{{Name: "a", Value: make([]byte, MaxXattr+1)}} },
		"many large attributes": func(e *Entry) {
			for i := range 17 {
				e.Xattrs = append(e.Xattrs, Xattr{Name: string(rune('a' + i)), Value: make([]byte, MaxXattr)})
			}
		},
	} {
		e := file("f")
		if err := e.Check(); err != nil {
			t.Fatal("control:", err)
		}
		spoil(&e)
		if err := e.Check(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if name == "hole with a chunk" || name == "files on a file" || name == "target on a file" || name == "device on a file" ||
			name == "extents on a FIFO" || name == "size on a FIFO" {
			continue // has no encoding at all
		}
		if _, _, err := ParseEntry(AppendEntry(nil, &e)); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: ParseEntry says %v", name, err)
		}
	}
}

func TestLongerFormsOfNumbersAreRefused(t *testing.T) {
	e := file("f")
	b := AppendEntry(nil, &e)
	long := append([]byte{0x81, 0x00}, b[1:]...) // the name's length, 1, in two bytes
	if _, _, err := ParseEntry(b); err != nil {
		t.Fatal("control:", err)
	}
	if _, _, err := ParseEntry(long); !errors.Is(err, ErrEntry) {
		t.Error(err)
	}
}

func TestExtentListsHoldWhatAnEntryCannot(t *testing.T) {
	list := make([]Extent, 1000)
	for i := range list {
		list[i] = Extent{Chunk: chunk.ID{byte(i)}, Length: uint32(i + 1)}
	}
	b := AppendExtents(nil, list)
	got, err := ParseExtents(b)
	if err != nil || !slices.Equal(got, list) || CheckExtents(500500, got) != nil || CheckExtents(500501, got) == nil {
		t.Fatal(err)
	}
	e := file("large")
	e.Size, e.Flags = 500500, Indirect
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, {2, 0}, append(slices.Clone(b), 0), b[:len(b)-1], {1, 1, 1}, {1, 0xff, 0xff, 0xff, 0x0f}} {
		if _, err := ParseExtents(bad); !errors.Is(err, ErrEntry) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

// pieces writes a folder and returns copies of its pieces.
func pieces(t testing.TB, entries iter.Seq[Entry]) [][]byte {
	t.Helper()
	var w ListingWriter
	var out [][]byte
	for e := range entries {
		p, err := w.Add(&e)
		if err != nil {
			t.Fatal(err)
		}
		if p != nil {
			out = append(out, bytes.Clone(p))
		}
	}
	if p := w.Finish(); p != nil {
		out = append(out, bytes.Clone(p))
	}
	return out
}

func each(list [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, b := range list {
			if !yield(b, nil) {
				return
			}
		}
	}
}

func folder(n, without int, extra ...string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range n {
			if i != without && !yield(file(fmt.Sprintf("record-%08d.xml", i))) {
				return
			}
			for _, name := range extra {
				if strings.HasPrefix(name, fmt.Sprintf("record-%08d.xml", i)) && !yield(file(name)) {
					return
				}
			}
		}
	}
}

func TestAFolderComesBackFromItsPieces(t *testing.T) {
	const n = 30_000
	list := pieces(t, folder(n, -1))
	if len(list) < 2 {
		t.Fatalf("%d pieces", len(list))
	}
	i := 0
	for e, err := range Listing(each(list)) {
		if want := file(fmt.Sprintf("record-%08d.xml", i)); err != nil || !reflect.DeepEqual(e, want) {
			t.Fatal(i, err, e)
		}
		i++
	}
	if i != n {
		t.Fatalf("%d entries", i)
	}
	if got := pieces(t, folder(0, -1)); got != nil {
		t.Error("an empty folder has a piece")
	}
}

func TestOneNameMoreOrLessChangesOnePiece(t *testing.T) {
	const n = 50_000
	before := pieces(t, folder(n, -1))
	total := 0
	for _, p := range before {
		total += len(p)
		if len(p) > MaxPiece {
			t.Errorf("a piece of %d bytes", len(p))
		}
	}
	if mean := total / len(before); mean < meanPiece/3 || mean > MaxPiece {
		t.Errorf("%d pieces of %d bytes on average", len(before), mean)
	}
	changed := 0
	for i := range 2 {
		at := n * (2*i + 1) / 4
		changed += unlike(before, pieces(t, folder(n, at)))
		changed += unlike(before, pieces(t, folder(n, -1, fmt.Sprintf("record-%08d.xml.new", at))))
	}
	if changed > 5 {
		t.Errorf("4 changes touched %d pieces", changed)
	}
}

// unlike counts the pieces of b that a does not have.
func unlike(a, b [][]byte) int {
	have := map[string]bool{}
	for _, p := range a {
		have[string(p)] = true
	}
	n := 0
	for _, p := range b {
		if !have[string(p)] {
			n++
		}
	}
	return n
}

func TestHugeEntriesHaveTheirOwnPieces(t *testing.T) {
	huge := func(name string) Entry {
		e := file(name)
		e.Size, e.Extents = 0, make([]Extent, 50_000)
		for i := range e.Extents {
			e.Extents[i] = Extent{Chunk: chunk.ID{byte(i)}, Length: 1 << 20}
			e.Size += 1 << 20
		}
		return e
	}
	all := []Entry{file("a"), huge("b"), file("c"), huge("d"), huge("e"), file("f")}
	list := pieces(t, slices.Values(all))
	i := 0
	for e, err := range Listing(each(list)) {
		if err != nil || !reflect.DeepEqual(e, all[i]) {
			t.Fatal(i, err)
		}
		i++
	}
	if i != len(all) || len(list) < 3 {
		t.Fatalf("%d entries in %d pieces", i, len(list))
	}
}

func TestAPieceIsValidUntilTheNextButOneCall(t *testing.T) {
	var w ListingWriter
	var last, kept []byte
	for e := range folder(60_000, -1) {
		if last != nil && !bytes.Equal(last, kept) {
			t.Fatal("the piece changed one call later")
		}
		p, err := w.Add(&e)
		if err != nil {
			t.Fatal(err)
		}
		last, kept = p, bytes.Clone(p)
	}
}

func TestListingsOutOfOrderAreRefused(t *testing.T) {
	var w ListingWriter
	a, b := file("a"), file("b")
	if _, err := w.Add(&b); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Entry{&a, &b} {
		if _, err := w.Add(e); !errors.Is(err, ErrEntry) {
			t.Error(err)
		}
	}
	good := func(list ...*Entry) []byte {
		out := []byte{version1}
		for _, e := range list {
			out = AppendEntry(out, e)
		}
		return out
	}
	for name, list := range map[string][][]byte{
		"within a piece":  {good(&b, &a)},
		"one name twice":  {good(&a, &a)},
		"across pieces":   {good(&b), good(&a)},
		"empty piece":     {good()},
		"unknown version": {{2, 0}},
		"cut short":       {good(&a)[:20]},
		"bytes behind":    {append(good(&a), 0)},
	} {
		var err error
		for _, e := range Listing(each(list)) {
			err = e
		}
		if !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range Listing(each([][]byte{good(&a), good(&b)})) {
		if err != nil {
			t.Error("control:", err)
		}
	}
}

func entries(list ...Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestDiffTellsContentFromMetadata(t *testing.T) {
	touched, edited, moded, linked := file("same"), file("same"), file("same"), file("same")
	touched.ModSec++
	edited.Extents = []Extent{{Chunk: chunk.ID{9}, Length: 100}}
	moded.Mode, moded.Xattrs = 0o600, []Xattr{{Name: "user.a"}}
	linked.Kind, linked.Extents, linked.Size, linked.Target = Symlink, nil, 0, "x"
	for _, c := range []struct {
		a, b []Entry
		want string
	}{
		{nil, nil, ""},
		{[]Entry{file("same")}, []Entry{file("same")}, ""},
		{[]Entry{file("a"), file("c")}, []Entry{file("b"), file("c")}, "2 a,1 b,"},
		{nil, []Entry{file("a"), file("b")}, "1 a,1 b,"},
		{[]Entry{file("a"), file("b")}, nil, "2 a,2 b,"},
		{[]Entry{file("same")}, []Entry{touched}, "4 same,"},
		{[]Entry{file("same")}, []Entry{moded}, "4 same,"},
		{[]Entry{file("same")}, []Entry{edited}, "3 same,"},
		{[]Entry{file("same")}, []Entry{linked}, "3 same,"},
	} {
		got := ""
		for change, err := range DiffListings(entries(c.a...), entries(c.b...)) {
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%d %s,", change.Kind, change.Name())
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if len(c.a) == 1 && len(c.b) == 1 && SameEntry(&c.a[0], &c.b[0]) != (c.want == "") {
			t.Errorf("SameEntry does not agree with %q", c.want)
		}
	}
	broken := Listing(each([][]byte{{2, 0}}))
	for range 2 {
		var last error
		for _, err := range DiffListings(entries(file("a")), broken) {
			last = err
		}
		if !errors.Is(last, ErrEntry) {
			t.Error(last)
		}
	}
}

func FuzzEntry(f *testing.F) {
	for _, e := range []Entry{
		file("f"),
		{Name: "l", Kind: Symlink, Target: "../x", Xattrs: []Xattr{{Name: "user.a", Value: []byte("b")}}},
		{Name: "d", Kind: Dir, Size: 1, Files: 2, Extents: []Extent{{Length: 3}}},
		{Name: "s", Kind: File, Size: 1 << 40, Extents: []Extent{{Hole: true, HoleLength: 1 << 40}}},
		{Name: "n", Kind: CharDevice, Device: 0x103, ModSec: -1},
	} {
		f.Add(AppendEntry(nil, &e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := ParseEntry(b)
		if err != nil {
			if !errors.Is(err, ErrEntry) {
				t.Fatal(err)
			}
			return
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(AppendEntry(nil, &e), b[:len(b)-len(rest)]) {
			t.Fatal("accepted another spelling")
		}
		for other, err := range Entries(append([]byte{version1}, b[:len(b)-len(rest)]...)) {
			if err != nil || !reflect.DeepEqual(other, e) {
				t.Fatal("the two readers differ", err)
			}
		}
	})
}

func BenchmarkEntries(b *testing.B) {
	list := pieces(b, folder(5000, -1))
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n = 0
		for _, err := range Listing(each(list)) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/entry")
}

func BenchmarkListingWriter(b *testing.B) {
	all := slices.Collect(folder(5000, -1))
	b.ReportAllocs()
	for b.Loop() {
		var w ListingWriter
		for i := range all {
			if _, err := w.Add(&all[i]); err != nil {
				b.Fatal(err)
			}
		}
		w.Finish()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(all)), "ns/entry")
}
