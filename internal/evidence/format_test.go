package evidence

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/ledger"
)

// sample is a pack with something of everything.
func samplePack(t testing.TB) (*world, *Pack) {
	w := newWorld(t)
	w.snapshot(1, 2, nil)
	lu, is := w.logs["lu"], w.logs["is"]
	shown := lu.show(2, lu.cosigned(), lu.checkpoint(1))
	shown.Joins = []Join{lu.join(1, len(lu.leaves))}
	shown.Proofs = []ledger.Proof{lu.proof(1, lu.checkpoint(0), len(lu.leaves))}
	p := w.pack(shown, is.show(0, is.cosigned()))
	p.Withhold(func(l string, i uint64, _ *ledger.Leaf) bool { return l == "is" && i == 1 })
	return w, p
}

func written(t testing.TB, p *Pack) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readBytes(b []byte) (*Pack, error) { return Read(bytes.NewReader(b), int64(len(b))) }

func TestOneContentHasOneFile(t *testing.T) {
	_, p := samplePack(t)
	b := written(t, p)
	read, err := readBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written(t, read), b) {
		t.Error("read and written again it is another file")
	}
	slices.Reverse(p.Ledgers)
	slices.Reverse(p.Records)
	p.Records = append(p.Records, p.Records[0])
	slices.Reverse(p.Ledgers[0].Checkpoints)
	if !bytes.Equal(written(t, p), b) {
		t.Error("the order in which things came shows in the file")
	}
}

func TestAnyZipProgramReadsIt(t *testing.T) {
	_, p := samplePack(t)
	b := written(t, p)
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	c := first(open(bytes.NewReader(b), int64(len(b))))
	if len(z.File) != len(c.entries) {
		t.Fatalf("%d files, want %d", len(z.File), len(c.entries))
	}
	for i, f := range z.File {
		r := first(f.Open())
		if got, want := first(io.ReadAll(r)), first(c.read(&c.entries[i])); !bytes.Equal(got, want) || f.Name != c.entries[i].name {
			t.Errorf("%s differs", f.Name)
		}
	}
}

func TestManyFilesNeedTheLargeDirectory(t *testing.T) {
	for _, n := range []int{0xfffe, 0xffff, 0x10000} {
		var b bytes.Buffer
		w := packer{w: &b}
		for i := range n {
			if err := w.add(fmt.Sprintf("f%06d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		c, err := open(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil || len(c.entries) != n {
			t.Fatalf("%d files: %v", n, err)
		}
		z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil || len(z.File) != n {
			t.Fatalf("%d files for archive/zip: %v", n, err)
		}
	}
}

func TestEveryChangedByteIsRefused(t *testing.T) {
	_, p := samplePack(t)
	p.Ledgers, p.Records = p.Ledgers[:1], p.Records[:1]
	p.Ledgers[0].Leaves = p.Ledgers[0].Leaves[:1]
	b := written(t, p)
	for i := range b {
		if i%7 != 0 && i < len(b)-400 { // every byte of the directory's end, every seventh elsewhere
			continue
		}
		b[i] ^= 0x20
		if _, err := readBytes(b); err == nil {
			t.Errorf("byte %d of %d changed is taken", i, len(b))
		}
		b[i] ^= 0x20
	}
	for n := range len(b) {
		if n%97 == 0 || n > len(b)-50 {
			if _, err := readBytes(b[:n]); !errors.Is(err, ErrFormat) {
				t.Errorf("the first %d bytes: %v", n, err)
			}
		}
	}
	if _, err := readBytes(append(slices.Clone(b), 0)); !errors.Is(err, ErrFormat) {
		t.Error("a byte behind the end is taken")
	}
	if _, err := readBytes(append([]byte{0}, b...)); !errors.Is(err, ErrFormat) {
		t.Error("a byte before the beginning is taken")
	}
}

// boxOf builds a file of these files, in this order and with these names, whether that is allowed or not.
func boxOf(files ...file) []byte {
	var b []byte
	var entries []entry
	for _, f := range files {
		e := entry{name: f.name, crc: crc32.ChecksumIEEE(f.data), size: uint32(len(f.data)), offset: uint32(len(b))}
		entries = append(entries, e)
		b = append(append(b, e.local()...), f.data...)
	}
	return append(b, directory(entries, int64(len(b)))...)
}

func TestHostileContainersAreRefused(t *testing.T) {
	good := boxOf(file{"a", []byte("x")}, file{"b/c", nil})
	if _, err := open(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", maxName+1)
	for name, files := range map[string][]file{
		"twice": {{"a", nil}, {"a", nil}}, "out of order": {{"b", nil}, {"a", nil}}, "absolute": {{"/etc/passwd", nil}},
		"upward": {{"../a", nil}}, "upward within": {{"a/../b", nil}}, "backslash": {{`a\b`, nil}}, "empty": {{"", nil}},
		"folder": {{"a/", nil}}, "hidden": {{".a", nil}}, "long": {{long, nil}}, "capital": {{"A", nil}}, "NUL": {{"a\x00b", nil}}, "deep": {{"a/b/c/d/e/f", nil}},
	} {
		b := boxOf(files...)
		if _, err := open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var deflated bytes.Buffer
	z := zip.NewWriter(&deflated)
	_, _ = first(z.Create("a")).Write(make([]byte, 1<<20))
	_ = z.Close()
	if _, err := open(bytes.NewReader(deflated.Bytes()), int64(deflated.Len())); !errors.Is(err, ErrFormat) {
		t.Errorf("a compressed file: %v", err)
	}
	// Lengths that promise more than is there take no memory.
	end := directory(nil, 0)
	end[12], end[13], end[14], end[15] = 0xff, 0xff, 0xff, 0xff
	if _, err := open(bytes.NewReader(end), int64(len(end))); !errors.Is(err, ErrFormat) {
		t.Errorf("a directory of 4 GiB: %v", err)
	}
	if _, err := open(bytes.NewReader(nil), 1<<40); !errors.Is(err, ErrTooLarge) {
		t.Error("a terabyte is read")
	}
}

func TestWhatBelongsNowhereIsRefused(t *testing.T) {
	_, p := samplePack(t)
	c := first(open(bytes.NewReader(written(t, p)), int64(len(written(t, p)))))
	var all []file
	for i := range c.entries {
		all = append(all, file{c.entries[i].name, first(c.read(&c.entries[i]))})
	}
	edit := func(f func([]file) []file) []byte {
		files := f(slices.Clone(all))
		sorted(files)
		return boxOf(files...)
	}
	if _, err := readBytes(edit(func(f []file) []file { return f })); err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) func([]file) []file {
		return func(f []file) []file {
			for i := range f {
				if f[i].name == manifestName {
					f[i].data = bytes.Replace(f[i].data, []byte(from), []byte(to), 1)
				}
			}
			return f
		}
	}
	for name, b := range map[string][]byte{
		"a file more": edit(func(f []file) []file { return append(f, file{"notes.txt", []byte("x")}) }),
		"a file less": edit(func(f []file) []file { return f[1:] }),
		"no manifest": edit(func(f []file) []file {
			return slices.DeleteFunc(f, func(x file) bool { return x.name == manifestName })
		}),
		"another time":       edit(replace("Z\"", "+00:00\"")),
		"another version":    edit(replace(`"version": 1`, `"version": 3`)),
		"a later version":    edit(replace(`"version": 1`, `"version": 2`)),
		"another range":      edit(replace(`"from": 2`, `"from": 3`)),
		"a field more":       edit(replace(`"version": 1,`, `"version": 1, "x": 1,`)),
		"another state":      edit(replace(`"state": "`, `"state": "z`)),
		"a checkpoint moved": edit(func(f []file) []file { f[2].name = "ledgers/is/checkpoints/live-0009.note"; return f }),
	} {
		if _, err := readBytes(b); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readBytes(edit(replace(`"version": 1`, `"version": 3`))); !errors.Is(err, ErrUnknown) {
		t.Error("a version of later is not told apart")
	}
}

func TestWriteRefusesWhatReadWould(t *testing.T) {
	for name, spoil := range map[string]func(*Pack){
		"a name":          func(p *Pack) { p.Ledgers[0].Name = "../lu" },
		"two of one name": func(p *Pack) { p.Ledgers[0].Name = "is" },
		"two of one log":  func(p *Pack) { p.Ledgers[0].Key, p.Ledgers[0].Origin = p.Ledgers[1].Key, p.Ledgers[1].Origin },
		"another's log":   func(p *Pack) { p.Ledgers[0].Origin = p.Ledgers[1].Origin },
		"a key":           func(p *Pack) { p.Ledgers[0].Key = p.Ledgers[0].Key[1:] },
		"a leaf's hash":   func(p *Pack) { p.Ledgers[0].Leaves[0].Hash[0] ^= 1 },
		"a prefix":        func(p *Pack) { p.Ledgers[0].Prefix = nil },
		"a note":          func(p *Pack) { p.Ledgers[0].Checkpoints[0].Note = []byte("no note") },
		"a source":        func(p *Pack) { p.Ledgers[0].Checkpoints[0].Source = "<b>" },
		"a join":          func(p *Pack) { p.Ledgers[0].Joins[0].Old = p.Ledgers[0].Joins[0].New },
		"a proof":         func(p *Pack) { p.Ledgers[0].Proofs[0].Checkpoint = nil },
		"a record":        func(p *Pack) { p.Records[0].Data = nil },
		"a record's kind": func(p *Pack) { p.Records[0].Kind = 99 },
		"a charter":       func(p *Pack) { p.Charters[0].Document = []byte("x") },
		"a year":          func(p *Pack) { p.Made = p.Made.AddDate(9000, 0, 0) },
		"many ledgers":    func(p *Pack) { p.Ledgers = make([]Ledger, maxLedgers+1) },
	} {
		_, p := samplePack(t)
		spoil(p)
		if err := Write(io.Discard, p); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClaimsAreReadAsTheyAreWritten(t *testing.T) {
	obj, reg := strings.Repeat("ab", 32), strings.Repeat("cd", 16)
	for _, text := range []string{
		"charters", "one-history:lu", "fresh:lu", "possession:lu", "stored:" + reg + "@7:lu", "delivered:" + obj + ":lu", "never-stored:" + obj + ":lu",
		"lost:" + obj + ":lu", "ordered:" + reg + "@1", "never-ordered:" + reg + "@1", "heads:" + reg, "witness:home",
		"erased:" + reg, "destroyed:1", "destroyed:4294967295",
	} {
		c, err := ParseClaim(text)
		if err != nil || c.String() != text || c.says() == string(c.Kind) {
			t.Errorf("%s: %v, %s, %q", text, err, c, c.says())
		}
	}
	for _, text := range []string{
		"", "x", "charters:lu", "one-history", "one-history:", "one-history:LU", "one-history:lu:is", "stored:" + reg + ":lu", "stored:" + reg + "@0:lu", "stored:" + reg + "@07:lu",
		"stored:" + reg + "@1", "lost:" + obj[2:] + ":lu", "lost:" + strings.ToUpper(obj) + ":lu", "heads:" + obj, "ordered:" + reg + "@1:lu", "heads:" + reg + ":",
		"erased:" + obj, "erased:" + reg + ":lu", "destroyed:0", "destroyed:01", "destroyed:4294967296", "destroyed:1:lu",
	} {
		if c, err := ParseClaim(text); !errors.Is(err, ErrClaim) {
			t.Errorf("%q is taken as %v", text, c)
		}
	}
}

func FuzzRead(f *testing.F) {
	_, p := samplePack(f)
	f.Add(written(f, p))
	f.Add(boxOf(file{"manifest.json", []byte("{}")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		read, err := readBytes(b)
		if err != nil {
			return
		}
		if !bytes.Equal(written(t, read), b) {
			t.Error("two files for one content")
		}
		if v, err := Judge(read, nil, nil); err == nil {
			if err := HTML(io.Discard, v); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzContent puts other bytes into one file of a good one and makes the container and the manifest right again, so that
// what is inside is reached.
func FuzzContent(f *testing.F) {
	w, p := samplePack(f)
	good := written(f, p)
	c := first(open(bytes.NewReader(good), int64(len(good))))
	var all []file
	for i := range c.entries {
		all = append(all, file{c.entries[i].name, first(c.read(&c.entries[i]))})
		f.Add(uint(i), all[i].data)
	}
	f.Fuzz(func(t *testing.T, at uint, data []byte) {
		files, i := slices.Clone(all), at%uint(len(all))
		files[i].data = data
		m := first(c.manifest())
		for k := range m.Files {
			if m.Files[k].Name == files[i].name {
				m.Files[k].Size, m.Files[k].SHA256 = len(data), fmt.Sprintf("%x", sha256.Sum256(data))
			}
		}
		for k := range files {
			if files[k].name == manifestName && uint(k) != i {
				files[k].data = first(m.bytes())
			}
		}
		b := boxOf(files...)
		read, err := readBytes(b)
		if err != nil {
			return
		}
		if !bytes.Equal(written(t, read), b) {
			t.Error("two files for one content")
		}
		v, err := Judge(read, nil, w.charter)
		if err == nil {
			err = HTML(io.Discard, v)
		}
		if err != nil {
			t.Error(err)
			return
		}
		if by := blamed(v); len(by) > 0 {
			t.Errorf("blamed: %q", by)
		}
	})
}

func FuzzContainer(f *testing.F) {
	f.Add(boxOf(file{"a", []byte("x")}, file{"b/c", nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var files []file
		for i := range c.entries {
			data, err := c.read(&c.entries[i])
			if err != nil {
				return
			}
			files = append(files, file{c.entries[i].name, data})
		}
		if !bytes.Equal(boxOf(files...), b) {
			t.Error("two containers for one content")
		}
	})
}

func FuzzParseClaim(f *testing.F) {
	f.Add("stored:" + strings.Repeat("cd", 16) + "@7:lu")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseClaim(text); err == nil && c.String() != text {
			t.Errorf("%q is %q", text, c)
		}
	})
}
