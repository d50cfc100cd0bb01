package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/seal"
)

const segment = seal.SegmentSize + seal.Tag

var (
	testKey  = seal.Key{1, 2, 3}
	testSalt = seal.Salt{4, 5, 6}
	context  = []byte("a vault")
)

func sealed(n int) []byte { return seal.Seal(nil, &testKey, testSalt, context, pattern(n)) }

func TestEveryLengthAroundBordersComesBack(t *testing.T) {
	var lengths []int
	for _, border := range []int{0, seal.SegmentSize, 2 * seal.SegmentSize, 9 * seal.SegmentSize} {
		for d := -20; d <= 20; d++ {
			if border+d >= 0 {
				lengths = append(lengths, border+d)
			}
		}
	}
	for _, n := range lengths {
		message := sealed(n)
		if len(message) != seal.Size(n) {
			t.Fatalf("%d bytes seal to %d, Size says %d", n, len(message), seal.Size(n))
		}
		if back, err := seal.PlainSize(len(message)); err != nil || back != n {
			t.Fatalf("PlainSize(%d) = %d, %v; want %d", len(message), back, err, n)
		}
		out, err := seal.Open([]byte("before"), &testKey, context, message)
		if err != nil || !bytes.Equal(out, append([]byte("before"), pattern(n)...)) {
			t.Fatalf("%d bytes do not come back: %v", n, err)
		}
	}
}

func TestSizesOfNoMessageAreRefused(t *testing.T) {
	possible := map[int]int{}
	for n := range 3 * seal.SegmentSize {
		possible[seal.Size(n)] = n
	}
	for size := -1; size < seal.Size(3*seal.SegmentSize)-seal.Tag; size++ {
		n, err := seal.PlainSize(size)
		if want, ok := possible[size]; ok && (err != nil || n != want) {
			t.Fatalf("PlainSize(%d) = %d, %v; want %d", size, n, err, want)
		} else if !ok && !errors.Is(err, seal.ErrTruncated) {
			t.Fatalf("PlainSize(%d) = %d, %v; want ErrTruncated", size, n, err)
		}
	}
}

func TestEveryAlteredByteIsDetected(t *testing.T) {
	message := sealed(seal.SegmentSize + 100)
	dst := make([]byte, 0, 2*seal.SegmentSize)
	for i := range message {
		want := seal.ErrDamaged
		if i < seal.Prefix {
			want = seal.ErrContext
		}
		message[i] ^= 1 << (i % 8)
		out, err := seal.Open(dst, &testKey, context, message)
		message[i] ^= 1 << (i % 8)
		if !errors.Is(err, want) || out != nil {
			t.Fatalf("byte %d altered: %v, want %v", i, err, want)
		}
	}
	if _, err := seal.Open(dst, &testKey, context, message); err != nil {
		t.Fatalf("control: the message unaltered: %v", err)
	}
}

func TestWrongContextOrKeyIsAnErrorOfItsOwn(t *testing.T) {
	message := sealed(100)
	other := testKey
	other[31] ^= 1
	for _, c := range []struct {
		name    string
		key     *seal.Key
		context string
	}{
		{"other context", &testKey, "a vaulu"},
		{"shorter context", &testKey, "a vaul"},
		{"longer context", &testKey, "a vault\x00"},
		{"no context", &testKey, ""},
		{"other key", &other, "a vault"},
		{"no key", &seal.Key{}, "a vault"},
	} {
		if out, err := seal.Open(nil, c.key, []byte(c.context), message); !errors.Is(err, seal.ErrContext) || out != nil {
			t.Errorf("%s: Open: %v", c.name, err)
		}
		r := bytes.NewReader(message)
		if out, err := seal.OpenAt(nil, c.key, []byte(c.context), r, r.Size(), 0, 1); !errors.Is(err, seal.ErrContext) || out != nil {
			t.Errorf("%s: OpenAt: %v", c.name, err)
		}
	}
}

func TestTruncationIsDetected(t *testing.T) {
	message := sealed(3*seal.SegmentSize + 50)
	for k := range 4 {
		for d := range seal.Tag {
			cut := seal.Prefix + k*segment + d
			if _, err := seal.Open(nil, &testKey, context, message[:cut]); !errors.Is(err, seal.ErrTruncated) {
				t.Errorf("cut at segment %d + %d: %v, want ErrTruncated", k, d, err)
			}
		}
	}
	for cut := seal.Prefix + 3*segment + seal.Tag; cut < len(message); cut++ {
		if _, err := seal.Open(nil, &testKey, context, message[:cut]); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("cut at %d: %v, want ErrDamaged", cut, err)
		}
	}
}

func TestMovedSegmentsAreDetected(t *testing.T) {
	n := 3*seal.SegmentSize + 50
	message := sealed(n)
	foreign := seal.Seal(nil, &testKey, seal.Salt{9}, context, pattern(n))
	at := func(m []byte, k int) []byte { return m[seal.Prefix+k*segment : min(len(m), seal.Prefix+(k+1)*segment)] }
	build := func(parts ...[]byte) []byte {
		return slices.Concat(append([][]byte{message[:seal.Prefix]}, parts...)...)
	}
	for name, m := range map[string][]byte{
		"swapped":              build(at(message, 1), at(message, 0), at(message, 2), at(message, 3)),
		"dropped":              build(at(message, 0), at(message, 1), at(message, 3)),
		"doubled":              build(at(message, 0), at(message, 0), at(message, 1), at(message, 2), at(message, 3)),
		"of another message":   build(at(message, 0), at(foreign, 1), at(message, 2), at(message, 3)),
		"last before its time": build(at(message, 3)),
		"a byte at the end":    build(at(message, 0), at(message, 1), at(message, 2), at(message, 3), []byte{0}),
	} {
		if _, err := seal.Open(nil, &testKey, context, m); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
	if _, err := seal.Open(nil, &testKey, context, build(at(message, 0), at(message, 1), at(message, 2), at(message, 3))); err != nil {
		t.Errorf("control: the segments in order: %v", err)
	}
}

func TestFailedOpenLeavesNoPlaintext(t *testing.T) {
	message := sealed(2*seal.SegmentSize + 10)
	message[len(message)-1] ^= 1
	dst := make([]byte, 0, 4*seal.SegmentSize)
	if _, err := seal.Open(dst, &testKey, context, message); !errors.Is(err, seal.ErrDamaged) {
		t.Fatal(err)
	}
	r := bytes.NewReader(message)
	at := make([]byte, 0, 4*seal.SegmentSize)
	if _, err := seal.OpenAt(at, &testKey, context, r, r.Size(), 0, 2*seal.SegmentSize+10); !errors.Is(err, seal.ErrDamaged) {
		t.Fatal(err)
	}
	for i, b := range append(dst[:cap(dst)], at[:cap(at)]...) {
		if b != 0 {
			t.Fatalf("byte %d of the destination is %#x", i, b)
		}
	}
}

// touched records which bytes were read.
type touched struct {
	io.ReaderAt
	lowest, highest int64
}

func (r *touched) ReadAt(p []byte, off int64) (int, error) {
	if off >= seal.Prefix {
		r.lowest, r.highest = min(r.lowest, off), max(r.highest, off+int64(len(p)))
	}
	return r.ReaderAt.ReadAt(p, off)
}

func TestRangeIsOpenedFromItsSegmentsOnly(t *testing.T) {
	const n = 3*seal.SegmentSize + 50
	message, plain := sealed(n), pattern(n)
	offsets := []int{0, 1, 100, n - 1, n}
	for k := 1; k <= 3; k++ {
		offsets = append(offsets, k*seal.SegmentSize-1, k*seal.SegmentSize, k*seal.SegmentSize+1)
	}
	slices.Sort(offsets)
	for i, off := range offsets {
		for _, end := range offsets[i:] {
			damaged := bytes.Clone(message)
			first, last := off/seal.SegmentSize, (end-1)/seal.SegmentSize
			for k := range 4 {
				if end == off || k < first || k > last {
					damaged[seal.Prefix+k*segment] ^= 1
				}
			}
			r := &touched{bytes.NewReader(damaged), 1 << 62, 0}
			out, err := seal.OpenAt([]byte("x"), &testKey, context, r, int64(len(damaged)), off, end-off)
			if err != nil || string(out) != "x"+string(plain[off:end]) {
				t.Fatalf("%d to %d: %v", off, end, err)
			}
			if end > off && (r.lowest != int64(seal.Prefix+first*segment) ||
				r.highest != min(int64(len(message)), int64(seal.Prefix+(last+1)*segment))) {
				t.Fatalf("%d to %d: read %d to %d", off, end, r.lowest, r.highest)
			}
		}
	}
}

func TestRangeRefusals(t *testing.T) {
	message := sealed(seal.SegmentSize + 50)
	broken := bytes.Clone(message)
	broken[seal.Prefix+7] ^= 1
	size, plain := int64(len(message)), seal.SegmentSize+50
	unreadable := errors.New("unreadable")
	for _, c := range []struct {
		name   string
		r      io.ReaderAt
		size   int64
		off, n int
		want   error
	}{
		{"altered segment", bytes.NewReader(broken), size, 0, 1, seal.ErrDamaged},
		{"impossible length", bytes.NewReader(message), seal.Prefix + segment, 0, 1, seal.ErrTruncated},
		{"shorter than said", bytes.NewReader(message[:size-20]), size, seal.SegmentSize, 1, seal.ErrTruncated},
		{"longer than said", bytes.NewReader(message), size - 1, seal.SegmentSize, 1, seal.ErrDamaged},
		{"past the end", bytes.NewReader(message), size, plain, 1, seal.ErrRange},
		{"over the end", bytes.NewReader(message), size, plain - 1, 2, seal.ErrRange},
		{"before the beginning", bytes.NewReader(message), size, -1, 1, seal.ErrRange},
		{"negative length", bytes.NewReader(message), size, 0, -1, seal.ErrRange},
		{"overflowing", bytes.NewReader(message), size, 1, 1<<63 - 1, seal.ErrRange},
		{"reader fails", failing{unreadable}, size, 0, 1, unreadable},
	} {
		if out, err := seal.OpenAt(nil, &testKey, context, c.r, c.size, c.off, c.n); !errors.Is(err, c.want) || out != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// Segments cost no memory: what a message allocates is its key schedule, whatever its length.
func TestMemoryDoesNotGrowWithTheMessage(t *testing.T) {
	allocs := func(n int) (sealing, opening float64) {
		plain, message := pattern(n), sealed(n)
		dst := make([]byte, 0, len(message))
		sealing = testing.AllocsPerRun(10, func() { seal.Seal(dst, &testKey, testSalt, context, plain) })
		opening = testing.AllocsPerRun(10, func() {
			if _, err := seal.Open(dst, &testKey, context, message); err != nil {
				t.Fatal(err)
			}
		})
		return sealing, opening
	}
	s1, o1 := allocs(10)
	s2, o2 := allocs(1 << 20)
	if s1 != s2 || o1 != o2 || s1 > 25 || o1 > 25 {
		t.Errorf("allocations: sealing %v for 10 bytes, %v for 1 MiB; opening %v and %v", s1, s2, o1, o2)
	}
}

func TestNoncesDifferInEverySegment(t *testing.T) {
	message := seal.Seal(nil, &testKey, testSalt, context, make([]byte, 1<<20))
	seen := map[string]int{}
	for i, at := 0, seal.Prefix; at+segment <= len(message); i, at = i+1, at+segment {
		head := string(message[at : at+16])
		if j, again := seen[head]; again {
			t.Fatalf("segments %d and %d of zeros begin alike", j, i)
		}
		seen[head] = i
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(sealed(0))
	f.Add(sealed(100))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		out, err := seal.Open(nil, &testKey, context, message)
		if err != nil {
			return
		}
		again := seal.Seal(nil, &testKey, seal.Salt(message), context, out)
		if !bytes.Equal(again, message) {
			t.Fatal("a message opens that Seal would not make")
		}
	})
}

func ExampleSeal() {
	key, salt := seal.Key{}, seal.Salt{} // both random in earnest
	message := seal.Seal(nil, &key, salt, []byte("register 7, page 1"), []byte("land titles"))
	plain, err := seal.Open(nil, &key, []byte("register 7, page 1"), message)
	fmt.Printf("%s %v\n", plain, err)
	_, err = seal.Open(nil, &key, []byte("register 7, page 2"), message)
	fmt.Println(err)
	// Output:
	// land titles <nil>
	// sealed message: the commitment differs: wrong key or wrong context
}
