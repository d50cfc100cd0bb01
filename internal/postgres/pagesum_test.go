package postgres

import (
	"bytes"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"

	"chancery.dev/chancery/internal/sim"
)

// The sum of a whole, joined from those of its pages, is that of its bytes, however they were read and whatever stood
// before them.
func TestSumsOfPagesJoin(t *testing.T) {
	t.Parallel()
	for _, page := range []int{1024, 8192, 32768} {
		before, data := sim.Bytes(1, 777), sim.Bytes(uint64(page), 5*page)
		clear(data[page : 2*page])
		for _, in := range []io.Reader{bytes.NewReader(data), iotest.HalfReader(bytes.NewReader(data)), iotest.OneByteReader(bytes.NewReader(data))} {
			r := &pageReader{r: in, page: page}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) || len(r.sums) != 20 {
				t.Fatalf("%d bytes, %d sums, %v", len(got), len(r.sums), err)
			}
			j := newPageJoiner(page)
			if got, want := j.join(0, r.sums), crc32.Checksum(data, castagnoli); got != want {
				t.Errorf("pages of %d: %x, not %x", page, got, want)
			}
			if got, want := j.join(crc32.Checksum(before, castagnoli), r.sums), crc32.Checksum(append(before, data...), castagnoli); got != want {
				t.Errorf("pages of %d behind others: %x, not %x", page, got, want)
			}
		}
	}
}

// A basis is read as it was written, in its one form.
func TestABasisIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	b := basis{System: 1 << 63, Version: 180004, Timeline: 3, Checksums: true, Start: 5 << 33, End: 6 << 33, Whole: -7}
	raw := b.bytes()
	if got, ok := parseBasis(raw); !ok || got != b || len(raw) != basisSize {
		t.Errorf("%+v, %v", got, ok)
	}
	two := bytes.Clone(raw)
	two[17] = 2
	for _, bad := range [][]byte{nil, raw[1:], append(bytes.Clone(raw), 0), append([]byte{2}, raw[1:]...), two} {
		if got, ok := parseBasis(bad); ok {
			t.Errorf("%x is read as %+v", bad, got)
		}
	}
}
