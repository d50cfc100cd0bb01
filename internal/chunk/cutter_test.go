package chunk

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"testing"
)

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// cuts returns the positions of all cuts of data.
func cuts(c *Cutter, data []byte) []int {
	var at []int
	pos := 0
	for pos < len(data) {
		pos += c.Cut(data[pos:])
		at = append(at, pos)
	}
	return at
}

// plainCut is the definition in docs/spec/chunks.md, written for clearness.
func plainCut(gearKey [32]byte, b []byte) int {
	table, err := hkdf.Expand(sha256.New, gearKey[:], "chancery chunk gear v1", 2048)
	if err != nil {
		panic(err)
	}
	var h uint64 // modulo 2^63, of the last 63 bytes: older ones are shifted out
	for n := Min - 62; n < len(b) && n < Max; n++ {
		h = (2*h + binary.BigEndian.Uint64(table[8*int(b[n-1]):])) % (1 << 63)
		limit := uint64(1 << (63 - 22))
		if n >= Avg {
			limit = 1 << (63 - 18)
		}
		if n >= Min && h < limit {
			return n
		}
	}
	return min(len(b), Max)
}

func TestCutIsTheSpecification(t *testing.T) {
	for seed := range byte(4) {
		key := [32]byte{seed}
		c := NewCutter(key)
		data := random(seed, Max/2)
		if seed == 3 { // a cut at the very first place it may be
			want := c.Cut(data)
			data = data[want-Min:]
		}
		if got, want := c.Cut(data), plainCut(key, data); got != want {
			t.Errorf("seed %d: cut at %d, the specification says %d", seed, got, want)
		}
	}
}

func TestGearTableIsHKDF(t *testing.T) {
	key := [32]byte{7, 8, 9}
	c := NewCutter(key)
	want, err := hkdf.Expand(sha256.New, key[:], gearInfo, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, v := range c.gear {
		got = binary.BigEndian.AppendUint64(got, v)
	}
	if !bytes.Equal(got, want) {
		t.Error("the table is not HKDF-Expand of the key")
	}
}

func TestCutStaysWithinBounds(t *testing.T) {
	c := NewCutter([32]byte{1})
	long := random(1, 2*Max)
	for _, n := range []int{0, 1, 63, 64, Min - 1, Min, Min + 1, Min + 2, Min + 3, Avg - 2, Avg - 1, Avg, Avg + 1, Max - 1, Max, Max + 1, 2 * Max} {
		for _, data := range [][]byte{long[:n], make([]byte, n), bytes.Repeat([]byte("ab"), n/2)} {
			got := c.Cut(data)
			switch {
			case got > Max, got > len(data), len(data) > 0 && got == 0, got < min(Min, len(data)):
				t.Errorf("Cut of %d bytes is %d", len(data), got)
			}
		}
	}
}

func TestCutDoesNotLookBeyondMax(t *testing.T) {
	c := NewCutter([32]byte{2})
	data := random(2, Max+4096)
	if a, b := c.Cut(data), c.Cut(data[:Max]); a != b {
		t.Errorf("cut is %d with and %d without the bytes after Max", a, b)
	}
}

func TestSizesAreDistributedAsPlanned(t *testing.T) {
	data := random(3, 64<<20)
	at := cuts(NewCutter([32]byte{3}), data)
	early, prev, atMax := 0, 0, 0
	for _, p := range at[:len(at)-1] {
		n := p - prev
		prev = p
		if n < Avg {
			early++
		}
		if n == Max {
			atMax++
		}
	}
	n := len(at) - 1
	mean := prev / n
	t.Logf("%d chunks, mean %d, %d before the average, %d at the maximum", n, mean, early, atMax)
	if mean < 8*Avg/10 || mean > 14*Avg/10 {
		t.Errorf("mean size %d is far from %d", mean, Avg)
	}
	if early > n/2 {
		t.Errorf("%d of %d chunks are shorter than the average", early, n)
	}
	if atMax > n/50 {
		t.Errorf("%d of %d chunks were cut by length", atMax, n)
	}
}

func TestCutsResynchroniseAfterAnInsertion(t *testing.T) {
	data := random(4, 24<<20)
	c := NewCutter([32]byte{4})
	before := cuts(c, data)
	for _, insert := range []int{1, 2, 3, 1001} {
		const where = 3 << 20
		edited := append(append(append([]byte(nil), data[:where]...), random(5, insert)...), data[where:]...)
		common := map[int]bool{}
		for _, p := range before {
			if p > where {
				common[p+insert] = true
			}
		}
		after := cuts(c, edited)
		synced, total := 0, 0
		for _, p := range after {
			if p > where {
				total++
				if common[p] {
					synced++
				}
			}
		}
		if total-synced > 6 {
			t.Errorf("after inserting %d bytes %d of %d cuts moved", insert, total-synced, total)
		}
		if !common[after[len(after)-2]] {
			t.Errorf("after inserting %d bytes the cuts never met again", insert)
		}
	}
}

func TestCutsDependOnTheKeyOnly(t *testing.T) {
	data := random(6, 24<<20)
	a, b := cuts(NewCutter([32]byte{1}), data), cuts(NewCutter([32]byte{1}), bytes.Clone(data))
	if len(a) != len(b) {
		t.Fatal("the same bytes were cut differently")
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("the same bytes were cut differently")
		}
	}
	other := cuts(NewCutter([32]byte{0: 1, 31: 1}), data)
	same := 0
	seen := map[int]bool{}
	for _, p := range a[:len(a)-1] {
		seen[p] = true
	}
	for _, p := range other[:len(other)-1] {
		if seen[p] {
			same++
		}
	}
	if same > 1 {
		t.Errorf("another key gave %d of %d cuts again", same, len(a))
	}
}

func TestOneCutterServesManyWorkers(t *testing.T) {
	c := NewCutter([32]byte{5})
	data := random(7, Max)
	want := c.Cut(data)
	done := make(chan int)
	for range 4 {
		go func() { done <- c.Cut(data) }()
	}
	for range 4 {
		if got := <-done; got != want {
			t.Errorf("concurrent cut at %d, want %d", got, want)
		}
	}
}

// vector is one line of testdata/vectors/chunk. Data is the repetition of SHA-256 of a rising counter:
// block i is SHA-256(seed ‖ i as 8 bytes big endian).
type vector struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Seed   string `json:"seed"`
	Length int    `json:"length"`
	Cuts   []int  `json:"cuts,omitempty"`
	ID     string `json:"id,omitempty"`
}

func (v vector) data() []byte {
	b := make([]byte, 0, v.Length+32)
	for i := uint64(0); len(b) < v.Length; i++ {
		s := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(v.Seed), i))
		b = append(b, s[:]...)
	}
	return b[:v.Length]
}

func readVectors(t *testing.T, name string) []vector {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/chunk/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		t.Fatal("no vectors")
	}
	return vs
}

func key32(t *testing.T, s string) [32]byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		t.Fatalf("key %q", s)
	}
	return [32]byte(b)
}

func TestCutVectors(t *testing.T) {
	for _, v := range readVectors(t, "cuts.json") {
		got := cuts(NewCutter(key32(t, v.Key)), v.data())
		if len(got) != len(v.Cuts) {
			t.Errorf("%s: cuts %v, want %v", v.Name, got, v.Cuts)
			continue
		}
		for i := range got {
			if got[i] != v.Cuts[i] {
				t.Errorf("%s: cuts %v, want %v", v.Name, got, v.Cuts)
				break
			}
		}
	}
}

func BenchmarkCut(b *testing.B) {
	c := NewCutter([32]byte{1})
	data := random(8, 32<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for p := data; len(p) > 0; {
			p = p[c.Cut(p):]
		}
	}
}
