package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"chancery.dev/chancery/internal/chunk"
)

// runs is n bytes, half text and half random in runs of 4 to 64 KiB.
func runs(seed byte, n int) []byte {
	r := rand.New(source(seed))
	var b []byte
	for i := 0; len(b) < n; i++ {
		length := 4<<10 + r.IntN(60<<10)
		if i%2 == 0 {
			b = append(b, random(byte(r.Uint32()), length)...)
		} else {
			b = append(b, text(byte(r.Uint32()), length)...)
		}
	}
	return b[:n]
}

func TestDecompressIsTheInverseOfCompress(t *testing.T) {
	c, d := NewCompressor(), NewDecompressor()
	for _, n := range []int{0, 1, 2, 10, 100, 255, 511, 512, 4096, 128 << 10, 128<<10 + 1, 1 << 20, 5 << 19} {
		for name, raw := range map[string][]byte{
			"random": random(1, n), "text": text(1, n), "runs": runs(1, n), "zeros": make([]byte, n),
		} {
			out, compressed := c.Compress([]byte("x"), raw)
			stored := out[1:]
			if compressed && len(stored) >= len(raw) || !compressed && !bytes.Equal(stored, raw) {
				t.Fatalf("%s, %d bytes: stored %d, compressed %v", name, n, len(stored), compressed)
			}
			if n == 0 {
				continue
			}
			e := Entry{Stored: uint32(len(stored)), Raw: uint32(n), Compressed: compressed}
			got, err := d.Decompress([]byte("y"), e, stored)
			if err != nil || got[0] != 'y' || !bytes.Equal(got[1:], raw) {
				t.Errorf("%s, %d bytes: %v", name, n, err)
			}
		}
	}
	largest := make([]byte, MaxRaw)
	stored, compressed := c.Compress(nil, largest)
	got, err := d.Decompress(nil, Entry{Stored: uint32(len(stored)), Raw: MaxRaw, Compressed: compressed}, stored)
	if err != nil || !bytes.Equal(got, largest) {
		t.Errorf("the largest chunk: %v", err)
	}
}

func TestWhatCompressesIsCompressed(t *testing.T) {
	c := NewCompressor()
	for seed := range byte(6) {
		skewed := random(seed, 1<<20)
		for i, b := range random(seed+100, 1<<20) { // no byte is rare, and no sample shows the skew alone
			skewed[i] = min(skewed[i], b)
		}
		for name, raw := range map[string][]byte{
			"text": text(seed, 1<<20), "runs": runs(seed, 1<<20),
			"text at the end": append(random(seed, 900<<10), text(seed, 124<<10)...),
			"zeros":           make([]byte, 1<<20), "short": text(seed, 600),
		} {
			if _, compressed := c.Compress(nil, raw); !compressed {
				t.Errorf("%s, seed %d: not compressed", name, seed)
			}
		}
		for name, raw := range map[string][]byte{
			"skewed": skewed, "one run": append(random(seed, 256<<10), text(seed, 4<<10)...), "short runs": runs(seed, 150<<10),
		} {
			if !c.promising(raw) {
				t.Errorf("%s, seed %d: counts as random", name, seed)
			}
		}
	}
}

func TestRandomBytesAreRecognised(t *testing.T) {
	c := NewCompressor()
	wrong := 0
	for seed := range byte(40) {
		raw := random(seed, 1<<20)
		if c.promising(raw) {
			wrong++
		}
		if _, compressed := c.Compress(nil, raw); compressed {
			t.Errorf("seed %d: random bytes compressed", seed)
		}
	}
	if wrong > 2 {
		t.Errorf("%d of 40 random chunks were tried in vain", wrong)
	}
}

func TestSamplingSurvivesTheTurnOfItsCounter(t *testing.T) {
	c := NewCompressor()
	sample := random(1, sampleSize)
	want := c.distinct(sample)
	c.turn = 1<<32 - 2
	for range 4 {
		if got := c.distinct(sample); got != want {
			t.Errorf("%d distinct bytes, want %d", got, want)
		}
	}
}

// frame returns one zstd frame of raw.
func frame(t testing.TB, raw []byte, o ...zstd.EOption) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(raw, nil)
}

// streamed returns a frame that does not say how long its content is.
func streamed(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	enc, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	for part := raw; len(part) > 0; part = part[min(1000, len(part)):] {
		if _, err := enc.Write(part[:min(1000, len(part))]); err != nil {
			t.Fatal(err)
		}
		if err := enc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecompressTakesOneFrameOfTheRightSize(t *testing.T) {
	d := NewDecompressor()
	raw := text(1, 100_000)
	good := frame(t, raw)
	entry := func(stored []byte, raw int) Entry {
		return Entry{Stored: uint32(len(stored)), Raw: uint32(raw), Compressed: true}
	}
	if _, err := d.Decompress(nil, entry(good, len(raw)), good); err != nil {
		t.Fatal(err) // the control
	}
	broken := bytes.Clone(good)
	broken[len(broken)/2] ^= 0xff
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}
	for name, tt := range map[string]struct {
		e      Entry
		stored []byte
	}{
		"one more":            {entry(good, len(raw)+1), good},
		"one less":            {entry(good, len(raw)-1), good},
		"other stored":        {Entry{Stored: 9, Raw: 100_000, Compressed: true}, good},
		"raw above cap":       {entry(good, MaxRaw+1), good},
		"not compressed":      {Entry{Stored: uint32(len(good)), Raw: uint32(len(raw))}, good},
		"broken":              {entry(broken, len(raw)), broken},
		"truncated":           {entry(good[:len(good)-5], len(raw)), good[:len(good)-5]},
		"header only":         {entry(good[:9], len(raw)), good[:9]},
		"size not said":       {entry(streamed(t, raw), len(raw)), streamed(t, raw)},
		"skippable first":     {entry(append(bytes.Clone(skippable), good...), len(raw)), append(bytes.Clone(skippable), good...)},
		"skippable last":      {entry(append(bytes.Clone(good), skippable...), len(raw)), append(bytes.Clone(good), skippable...)},
		"twice":               {entry(append(bytes.Clone(good), good...), 2*len(raw)), append(bytes.Clone(good), good...)},
		"twice, size of once": {entry(append(bytes.Clone(good), good...), len(raw)), append(bytes.Clone(good), good...)},
		"not zstd":            {entry(raw[:1000], 2000), raw[:1000]},
	} {
		if _, err := d.Decompress(nil, tt.e, tt.stored); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := d.Decompress(nil, entry(good, len(raw)), good); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("after the failures: %v", err)
	}
}

// bomb is a frame that says it holds said bytes and unfolds to blocks times 128 KiB.
func bomb(said uint32, blocks int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x68, byte(said), byte(said >> 8), byte(said >> 16), byte(said >> 24)}
	for i := range blocks {
		v := uint32(128<<10)<<3 | 1<<1
		if i == blocks-1 {
			v |= 1
		}
		b = append(b, byte(v), byte(v>>8), byte(v>>16), 'A')
	}
	return b
}

func TestABombCostsNoMoreThanItsChunk(t *testing.T) {
	d := NewDecompressor()
	control := bomb(256<<10, 2)
	if got, err := d.Decompress(nil, Entry{Stored: uint32(len(control)), Raw: 256 << 10, Compressed: true}, control); err != nil || len(got) != 256<<10 {
		t.Fatalf("control: %d bytes, %v", len(got), err)
	}
	for name, tt := range map[string]struct {
		stored []byte
		raw    uint32
	}{
		"unfolds to 1 GiB, says 1 MiB":   {bomb(1<<20, 8192), 1 << 20},
		"says 2 GiB, the entry 1 MiB":    {bomb(1<<31, 8192), 1 << 20},
		"one block too many":             {bomb(1<<20, 9), 1 << 20},
		"one block too few":              {bomb(1<<20, 7), 1 << 20},
		"says and unfolds above the cap": {bomb(MaxRaw+1, 129), MaxRaw + 1},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := d.Decompress(nil, Entry{Stored: uint32(len(tt.stored)), Raw: tt.raw, Compressed: true}, tt.stored)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	good := frame(f, text(1, 3000))
	f.Add(good, uint32(3000), true)
	f.Add(bomb(1<<20, 8), uint32(1<<20), true)
	f.Add([]byte("abc"), uint32(3), false)
	d := NewDecompressor()
	f.Fuzz(func(t *testing.T, stored []byte, raw uint32, compressed bool) {
		got, err := d.Decompress(nil, Entry{Stored: uint32(len(stored)), Raw: raw, Compressed: compressed}, stored)
		if err == nil && len(got) != int(raw) {
			t.Errorf("%d bytes, want %d", len(got), raw)
		}
	})
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	c, raw := NewCompressor(), text(1, 1<<20)
	dst := make([]byte, 0, len(raw)+len(raw)/1024+64)
	noise := random(1, 1<<20)
	d := NewDecompressor()
	stored, compressed := c.Compress(nil, raw)
	e := Entry{Stored: uint32(len(stored)), Raw: uint32(len(raw)), Compressed: compressed}
	back := make([]byte, 0, len(raw)+slack)
	b := NewBuilder(make([]byte, 0, Payload(1, Data)))
	s := newSession(t, newKey(t, 1), 7)
	sealed, rnd := make([]byte, 0, 1<<20), source(1)
	for name, tt := range map[string]struct {
		f    func()
		most float64
	}{
		"compress text":   {func() { c.Compress(dst, raw) }, 0},
		"compress random": {func() { c.Compress(dst, noise) }, 0},
		// The decoder takes buffers from a pool, which may forget some.
		"decompress": {func() {
			if _, err := d.Decompress(back, e, stored); err != nil {
				t.Fatal(err)
			}
		}, 8},
		"build": {func() {
			b.Reset()
			b.Add(chunk.ID{1}, stored, len(raw), compressed)
			b.Finish(1)
		}, 0},
		// The key schedule of each pack allocates a little; nothing grows with the payload.
		"seal": {func() {
			if _, err := s.Seal(sealed, rnd, testMeta(Data, 1), b.Finish(1)); err != nil {
				t.Fatal(err)
			}
		}, 40},
	} {
		tt.f()
		if n := testing.AllocsPerRun(5, tt.f); n > tt.most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
