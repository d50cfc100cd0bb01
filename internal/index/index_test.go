package index

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// idOf returns the id of the n-th chunk: as evenly spread as real ones.
func idOf(n uint64) chunk.ID {
	return chunk.ID(sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)))
}

// packOf returns the n-th pack, holding these chunks.
func packOf(n uint64, chunks ...uint64) IndexedPack {
	p := IndexedPack{Ref: snapshot.PackRef{Kind: pack.Data, Class: 2, K: 2, N: 3, Epoch: 1, Shares: make([]shard.Name, 3)}}
	id := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("pack"), n))
	copy(p.Ref.ID[:], id[:])
	for i := range p.Ref.Shares {
		p.Ref.Shares[i] = shard.Name{byte(i), byte(n), byte(n >> 8)}
	}
	for i, c := range chunks {
		e := pack.Entry{ID: idOf(c), Offset: uint32(10 * i), Stored: 10, Raw: 10}
		if c%2 == 1 {
			e.Raw, e.Compressed = 20, true
		}
		p.Entries = append(p.Entries, e)
	}
	return p
}

func span(from, to uint64) []uint64 {
	var out []uint64
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

func open(t testing.TB, dir string) *Index {
	t.Helper()
	ix, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ix.Close(); err != nil {
			t.Error(err)
		}
	})
	return ix
}

func add(t testing.TB, ix *Index, through uint64, packs ...IndexedPack) {
	t.Helper()
	if err := ix.Add(packs, through); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasAddedIsFoundAndNothingElseAlsoAfterReopening(t *testing.T) {
	dir := t.TempDir()
	ix := open(t, dir)
	p := packOf(1, span(0, 1000)...)
	add(t, ix, 1, p)
	for range 2 {
		for i := range uint64(1000) {
			loc, ok := ix.Lookup(idOf(i))
			if !ok || loc.Entry != p.Entries[i] || loc.Ref.ID != p.Ref.ID || !slices.Equal(loc.Ref.Shares, p.Ref.Shares) {
				t.Fatalf("chunk %d: %v, %v", i, loc, ok)
			}
			if !ix.Has(idOf(i)) || ix.Has(idOf(i+1000)) {
				t.Fatalf("chunk %d: Has is wrong", i)
			}
		}
		if ix.Chunks() != 1000 || ix.Through() != 1 || ix.Err() != nil || ix.Verify() != nil {
			t.Fatal(ix.Chunks(), ix.Through(), ix.Err(), ix.Verify())
		}
		if err := ix.Close(); err != nil {
			t.Fatal(err)
		}
		ix = open(t, dir)
	}
}

// The model is a map; the actions are Add (with chunks and packs added again), reopening and Reset.
func TestIndexBehavesAsAMap(t *testing.T) {
	few(t)
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		dir := filepath.Join(root, string(rune('a'+runs%26)), idOf(uint64(runs)).String()[:8])
		ix, err := Open(dir)
		if err != nil {
			r.Fatal(err)
		}
		defer func() { _ = ix.Close() }()
		where, packs, through := map[chunk.ID]pack.ID{}, map[pack.ID]shard.Name{}, uint64(0)
		for step := range rapid.IntRange(1, 14).Draw(r, "steps") {
			switch rapid.IntRange(0, 9).Draw(r, "action") {
			case 0:
				if err := errors.Join(ix.Close(), reopen(dir, &ix)); err != nil {
					r.Fatal(err)
				}
			case 1:
				if step%3 != 0 {
					continue
				}
				if err := ix.Reset(); err != nil {
					r.Fatal(err)
				}
				clear(where)
				clear(packs)
				through = 0
			default:
				through += uint64(rapid.IntRange(0, 1).Draw(r, "heads"))
				var list []IndexedPack
				for range rapid.IntRange(0, 3).Draw(r, "packs") {
					p := packOf(rapid.Uint64Range(0, 20).Draw(r, "pack"), rapid.SliceOfN(rapid.Uint64Range(0, 60), 0, 12).Draw(r, "chunks")...)
					p.Ref.Shares[0] = shard.Name{1, byte(step)}
					if slices.ContainsFunc(list, func(q IndexedPack) bool { return q.Ref.ID == p.Ref.ID }) {
						continue
					}
					list = append(list, p)
				}
				if err := ix.Add(list, through); err != nil {
					r.Fatal(err)
				}
				for _, p := range lastOfEach(list) {
					packs[p.Ref.ID] = p.Ref.Shares[0]
					for _, e := range p.Entries {
						where[e.ID] = p.Ref.ID
					}
				}
			}
			compare(r, ix, where, packs, through)
		}
	})
}

// few lowers the number of cases, for each of them waits for the disk dozens of times.
func few(t *testing.T) {
	t.Helper()
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		if err := f.Value.Set("20"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
	}
}

func reopen(dir string, ix **Index) (err error) {
	*ix, err = Open(dir)
	return err
}

func compare(r *rapid.T, ix *Index, where map[chunk.ID]pack.ID, packs map[pack.ID]shard.Name, through uint64) {
	if err := ix.Verify(); err != nil || ix.Through() != through {
		r.Fatal(err, ix.Through(), through)
	}
	for n := range uint64(61) {
		id := idOf(n)
		want, in := where[id]
		loc, ok := ix.Lookup(id)
		if ok != in || loc.Ref.ID != want || ix.Has(id) != in {
			r.Fatalf("chunk %d: %v %v, want %v %v", n, loc.Ref.ID, ok, want, in)
		}
	}
	var last pack.ID
	n := 0
	for ref := range ix.Packs() {
		if n > 0 && string(last[:]) >= string(ref.ID[:]) {
			r.Fatal("packs do not ascend")
		}
		again, ok := ix.Pack(ref.ID)
		if name, in := packs[ref.ID]; !in || name != ref.Shares[0] || !ok || again.Shares[0] != name {
			r.Fatalf("pack %s is not the newest one", ref.ID)
		}
		last, n = ref.ID, n+1
	}
	if n != len(packs) {
		r.Fatalf("%d packs, want %d", n, len(packs))
	}
}

func TestFilesStayFewHoweverManyAdds(t *testing.T) {
	dir := t.TempDir()
	ix := open(t, dir)
	for i := range uint64(40) {
		add(t, ix, i+1, packOf(i, span(i*20, i*20+20)...))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(files) > maxSegments || len(files) != len(ix.segments) {
		t.Fatal(err, len(files), len(ix.segments))
	}
	if ix.Chunks() != 800 || ix.Through() != 40 {
		t.Fatal(ix.Chunks(), ix.Through())
	}
	for i := 1; i < len(ix.segments); i++ {
		if ix.segments[i].after < ix.segments[i-1].through {
			t.Fatal("the heads that segments cover overlap")
		}
	}
}

func TestMergeTakesTheNewestOfLikeSize(t *testing.T) {
	for _, c := range []struct {
		chunks []uint64
		from   int
	}{
		{nil, 0},
		{[]uint64{1, 1, 1, 1, 1, 1, 1, 1}, 8},
		{[]uint64{1, 1, 1, 1, 1, 1, 1, 1, 1}, 0},
		{[]uint64{1e6, 1, 1, 1, 1, 1, 1, 1, 1}, 1},
		{[]uint64{6561, 2187, 729, 243, 81, 27, 9, 3, 1}, 7},
		{[]uint64{1e9, 1e6, 1000, 1000, 1000, 100, 50, 30, 10}, 5},
	} {
		if got := mergeFrom(c.chunks); got != c.from {
			t.Errorf("mergeFrom(%v) = %d, want %d", c.chunks, got, c.from)
		}
	}
}

func TestLookupsGoOnWhileAddsMerge(t *testing.T) {
	ix := open(t, t.TempDir())
	add(t, ix, 1, packOf(0, span(0, 500)...))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for g := range uint64(3) {
		readers.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if !ix.Has(idOf(i % 500)) {
					t.Error("a chunk went missing")
					return
				}
				if i%100 == 0 {
					for ref := range ix.Packs() {
						if _, ok := ix.Pack(ref.ID); !ok {
							t.Error("a pack went missing")
						}
					}
				}
			}
		})
	}
	for i := range uint64(12) {
		add(t, ix, i+2, packOf(i+1, span(500+i*10, 510+i*10)...))
	}
	close(stop)
	readers.Wait()
	if ix.Err() != nil {
		t.Fatal(ix.Err())
	}
}

func TestAddInsideALoopOverPacksDoesNotWait(t *testing.T) {
	ix := open(t, t.TempDir())
	add(t, ix, 1, packOf(0, 1), packOf(1, 2))
	n := uint64(0)
	for range ix.Packs() {
		n++
		add(t, ix, 1+n, packOf(10+n, 10+n))
	}
	if n != 2 {
		t.Fatalf("the loop saw %d packs, want those from when it began", n)
	}
}

func TestAddRefusesToGoBackAndWhatCannotBe(t *testing.T) {
	ix := open(t, t.TempDir())
	add(t, ix, 5, packOf(1, 1))
	if err := ix.Add(nil, 4); !errors.Is(err, ErrOrder) {
		t.Error(err)
	}
	bad := packOf(2, 1, 2)
	bad.Entries[1].Offset = 5
	if err := ix.Add([]IndexedPack{bad}, 6); !errors.Is(err, snapshot.ErrIndex) {
		t.Error(err)
	}
	if ix.Through() != 5 || ix.Has(idOf(2)) {
		t.Error("a refused Add left something")
	}
	if err := ix.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ix.Add(nil, 9); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if ix.Has(idOf(1)) {
		t.Error("a closed index answers")
	}
}

func TestOneFolderIsOpenOnce(t *testing.T) {
	dir := t.TempDir()
	ix := open(t, dir)
	if _, err := Open(dir); !errors.Is(err, durable.ErrLocked) {
		t.Error(err)
	}
	if err := Discard(dir); !errors.Is(err, durable.ErrLocked) {
		t.Error(err)
	}
	if err := ix.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestALookupAllocatesNothing(t *testing.T) {
	ix := open(t, t.TempDir())
	add(t, ix, 1, packOf(1, span(0, 1000)...))
	id, other := idOf(7), idOf(5000)
	if n := testing.AllocsPerRun(100, func() { ix.Has(id); ix.Has(other) }); n != 0 {
		t.Errorf("Has allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { ix.Lookup(id) }); n > 1 {
		t.Errorf("Lookup allocates %v times, only the names should", n)
	}
}

// TestHeapStaysFarBelowTheChunks bounds the heap of an open index to one megabyte for each million
// chunks, so that ten million stay far below a hundred.
func TestHeapStaysFarBelowTheChunks(t *testing.T) {
	const chunks, each = 200_000, 2000
	dir := t.TempDir()
	fillIndex(t, dir, chunks, each)
	before := heap()
	ix := open(t, dir)
	for i := range uint64(1000) {
		if !ix.Has(idOf(i * (chunks / 1000))) {
			t.Fatal("not there")
		}
	}
	grown := heap() - before
	if limit := int64(1<<20) * chunks / 1_000_000; grown > limit {
		t.Errorf("%d chunks take %d bytes of heap, want at most %d", chunks, grown, limit)
	}
	runtime.KeepAlive(ix)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func fillIndex(tb testing.TB, dir string, chunks, each uint64) {
	tb.Helper()
	ix, err := Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var batch []IndexedPack
	for n := uint64(0); n < chunks; n += each {
		batch = append(batch, packOf(n, span(n, n+each)...))
		if uint64(len(batch))*each >= 500_000 || n+each >= chunks {
			if err := ix.Add(batch, n); err != nil {
				tb.Fatal(err)
			}
			batch = nil
		}
	}
	if err := ix.Close(); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkHas(b *testing.B) {
	dir := b.TempDir()
	fillIndex(b, dir, 500_000, 1000)
	ix := open(b, dir)
	ids := make([]chunk.ID, 1<<16)
	for i := range ids {
		ids[i] = idOf(uint64(i) * 7)
	}
	b.Run("there", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			ix.Has(ids[i%len(ids)])
		}
	})
	for i := range ids {
		ids[i] = idOf(uint64(i) + 1<<40)
	}
	b.Run("not there", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			ix.Has(ids[i%len(ids)])
		}
	})
}

// BenchmarkTenMillion builds an index of ten million chunks once (half a gigabyte of disk) and reports the
// heap it takes when it is open and warm, and the time of a lookup.
func BenchmarkTenMillion(b *testing.B) {
	const chunks = 10_000_000
	dir := b.TempDir()
	fillIndex(b, dir, chunks, 1000)
	ids := make([]chunk.ID, 1<<18)
	for i := range ids {
		ids[i] = idOf(uint64(i) * 37)
	}
	before := heap()
	ix := open(b, dir)
	for _, id := range ids {
		if !ix.Has(id) { // the first look at each block checks its sum
			b.Fatal("not there")
		}
	}
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		ix.Has(ids[i%len(ids)])
	}
	b.StopTimer()
	grown := heap() - before
	b.ReportMetric(float64(grown)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(len(ix.segments)), "files")
	if grown > 100<<20 {
		b.Errorf("%d bytes of heap", grown)
	}
	runtime.KeepAlive(ids)
}
