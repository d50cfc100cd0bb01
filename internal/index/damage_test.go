package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

var update = flag.Bool("update", false, "write the vectors anew")

// filled returns a folder with a closed index of n chunks in one segment, and the segment's path.
func filled(t testing.TB, n uint64) (dir, segment string) {
	t.Helper()
	dir = t.TempDir()
	ix, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ix.Add([]IndexedPack{packOf(1, span(0, n)...)}, 1), ix.Close()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(files) != 1 {
		t.Fatal(err, files)
	}
	return dir, files[0]
}

func edit(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit anywhere is found: at Open in header, sums and manifest, by the first lookup that comes
// near it elsewhere, by Verify always. Never is a wrong answer given.
func TestEveryFlippedByteIsFound(t *testing.T) {
	const chunks = 100
	dir, file := filled(t, chunks)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := packOf(1, span(0, chunks)...)
	for at := 0; at < len(whole); at += 17 {
		edit(t, file, func(b []byte) []byte {
			copy(b, whole)
			b[at] ^= 0x10
			return b
		})
		ix, err := Open(dir)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("byte %d: %v", at, err)
			}
			continue
		}
		for i, e := range p.Entries {
			if loc, ok := ix.Lookup(e.ID); ok && (loc.Entry != e || loc.Ref.ID != p.Ref.ID) {
				t.Errorf("byte %d: chunk %d: a wrong answer", at, i)
			}
		}
		if !errors.Is(ix.Err(), ErrDamaged) || !errors.Is(ix.Verify(), ErrDamaged) {
			t.Errorf("byte %d: not found: %v, %v", at, ix.Err(), ix.Verify())
		}
		if err := ix.Close(); err != nil {
			t.Fatal(err)
		}
	}
	edit(t, file, func([]byte) []byte { return whole }) // the control: whole again, all is well
	if ix := open(t, dir); ix.Verify() != nil || !ix.Has(idOf(1)) {
		t.Error("the control is damaged")
	}
}

func TestWhatOpenRefusesAndDiscardCures(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir, file string){
		"segment cut short":   func(t *testing.T, _, f string) { edit(t, f, func(b []byte) []byte { return b[:len(b)-1] }) },
		"segment cut to page": func(t *testing.T, _, f string) { edit(t, f, func(b []byte) []byte { return b[:4096] }) },
		"segment empty":       func(t *testing.T, _, f string) { edit(t, f, func([]byte) []byte { return nil }) },
		"segment longer":      func(t *testing.T, _, f string) { edit(t, f, func(b []byte) []byte { return append(b, 0) }) },
		"segment gone": func(t *testing.T, _, f string) {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		},
		"segment of another index": func(t *testing.T, _, f string) {
			_, other := filled(t, 301)
			b, err := os.ReadFile(other)
			if err != nil {
				t.Fatal(err)
			}
			edit(t, f, func([]byte) []byte { return b })
		},
		"manifest changed": func(t *testing.T, d, _ string) {
			edit(t, filepath.Join(d, manifestName), func(b []byte) []byte {
				return bytes.Replace(b, []byte("through 1"), []byte("through 2"), 1)
			})
		},
		"manifest cut short": func(t *testing.T, d, _ string) {
			edit(t, filepath.Join(d, manifestName), func(b []byte) []byte { return b[:len(b)-10] })
		},
		"manifest of an unknown version": func(t *testing.T, d, _ string) {
			edit(t, filepath.Join(d, manifestName), func(b []byte) []byte {
				return bytes.Replace(b, []byte("index 1"), []byte("index 2"), 1)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, file := filled(t, 300)
			spoil(t, dir, file)
			if _, err := Open(dir); !errors.Is(err, ErrDamaged) {
				t.Fatalf("opened: %v", err)
			}
			if err := Discard(dir); err != nil {
				t.Fatal(err)
			}
			ix := open(t, dir)
			if ix.Chunks() != 0 || ix.Through() != 0 {
				t.Fatal("not empty")
			}
			add(t, ix, 1, packOf(1, 1))
		})
	}
}

func TestWhatACrashLeavesIsRemoved(t *testing.T) {
	dir, _ := filled(t, 10)
	stale := []string{segmentName{Number: 99}.file(), ".tmp-0123456789abcdef01234567"}
	for _, name := range stale {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half a segment"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "note.txt"), []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	ix := open(t, dir)
	for _, name := range stale {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "note.txt")); err != nil {
		t.Error("a file that is not ours is gone")
	}
	if !ix.Has(idOf(3)) || ix.Through() != 1 {
		t.Error("the index itself suffered")
	}
}

func TestAMergeOverADamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	ix := open(t, dir)
	for i := range uint64(maxSegments) {
		add(t, ix, i+1, packOf(i, span(i*100, i*100+100)...))
	}
	edit(t, filepath.Join(dir, ix.segments[3].name.file()), func(b []byte) []byte {
		b[headerSize+200] ^= 1
		return b
	})
	// The map shows the file as os.WriteFile left it: same inode, same length.
	if err := ix.Add([]IndexedPack{packOf(50, 9000)}, 20); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}

// reseal makes header and sums right again, so that the fuzzer reaches what is behind them.
func reseal(data []byte) []byte {
	if len(data) < headerSize {
		return data
	}
	data = bytes.Clone(data)
	le := binary.LittleEndian
	body := le.Uint64(data[40:])*uint64(le.Uint32(data[48:])) + le.Uint64(data[32:])*entrySize + (1<<(le.Uint32(data[52:])%32)+1)*4
	if end := uint64(len(data) - headerSize); body < end {
		sums := data[headerSize+body:]
		for i := uint64(0); i*blockSize < body && int(i+1)*sumSize <= len(sums); i++ {
			block := data[headerSize+i*blockSize : headerSize+min(body, (i+1)*blockSize)]
			le.PutUint32(sums[i*sumSize:], crc32.Checksum(block, castagnoli()))
		}
		sum := sha256.Sum256(sums)
		copy(data[64:], sum[:])
	}
	sum := sha256.Sum256(data[:signedSize])
	copy(data[signedSize:], sum[:])
	return data
}

// FuzzSegment: no file, however well sealed, makes a lookup reach outside of it; what Verify accepts
// answers for each of its chunks.
func FuzzSegment(f *testing.F) {
	for _, n := range []uint64{0, 1, 40, 200} {
		_, file := filled(f, n)
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSegment(reseal(b))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		good := s.verify() == nil
		for i := range min(s.chunks, 100) {
			e, err := s.entry(i)
			if err != nil {
				t.Fatal("resealed blocks are whole")
			}
			id := parseID(e)
			at, found, err := s.find(&id)
			if good && (err != nil || !found || at != i) {
				t.Fatalf("chunk %d is not found in a verified segment", i)
			}
			if found && err == nil {
				if _, err := s.location(at); err != nil && good {
					t.Fatal(err)
				}
			}
		}
		m := newPackMerge([]*segment{s})
		for {
			if _, ok, err := m.next(); !ok || err != nil {
				break
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add((&manifest{}).bytes())
	f.Add((&manifest{Through: 7, Segments: []segmentName{{Number: 1, Size: 2}, {Number: 3, Size: 4}}}).bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err == nil && !bytes.Equal(m.bytes(), b) {
			t.Fatal("accepted another spelling")
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}

// vector is a whole segment for another implementation: what went in, and the file.
type vector struct {
	What     string
	After    uint64
	Through  uint64
	Payload  string // docs/spec/index.md, hexadecimal
	Segment  string // the file, hexadecimal
	Manifest string // naming the segment as number 1
}

func TestVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "index", "segment.json")
	if *update {
		writeVectors(t, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(b, &vectors); err != nil || len(vectors) == 0 {
		t.Fatal(err, len(vectors))
	}
	for _, v := range vectors {
		got := makeVector(t, v.What, v.Payload, v.After, v.Through)
		if got != v {
			t.Errorf("%s: the files differ", v.What)
		}
	}
}

func makeVector(t *testing.T, what, payload string, after, through uint64) vector {
	t.Helper()
	b, err := hex.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	packs, err := snapshot.ParseIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ix := open(t, dir)
	if err := errors.Join(ix.Add(nil, after), ix.Add(packs, through)); err != nil {
		t.Fatal(err)
	}
	segment, err1 := os.ReadFile(filepath.Join(dir, segmentName{Number: 1}.file()))
	m, err2 := os.ReadFile(filepath.Join(dir, manifestName))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return vector{What: what, After: after, Through: through, Payload: payload, Segment: hex.EncodeToString(segment), Manifest: string(m)}
}

func writeVectors(t *testing.T, path string) {
	t.Helper()
	small := packOf(7, 1, 2, 3)
	wide := packOf(8, span(10, 30)...)
	wide.Ref.Kind, wide.Ref.N, wide.Ref.Shares = pack.Tree, 4, append(wide.Ref.Shares, shard.Name{9})
	var out []vector
	for _, v := range []struct {
		what  string
		packs []IndexedPack
		after uint64
	}{
		{"one pack of three chunks", []IndexedPack{small}, 0},
		{"two packs of different n; the fan-out has eight buckets", []IndexedPack{wide, small}, 4},
		{"a pack without chunks", []IndexedPack{packOf(9)}, 2},
	} {
		out = append(out, makeVector(t, v.what, hex.EncodeToString(snapshot.AppendIndex(nil, v.packs)), v.after, v.after+1))
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func parseID(record []byte) chunk.ID { return chunk.ID(record[:32]) }
