package wal

import (
	"encoding/binary"
	"testing"
)

// TestARecordEndsBehindThePagesThatItCrosses: with the header of each page counted, and none where there are zeros.
func TestARecordEndsBehindThePagesThatItCrosses(t *testing.T) {
	const size = MinSegmentSize
	for _, c := range []struct {
		at, begins LSN
		length     uint32
		want       LSN
	}{
		{size.Start(3) + 100, size.Start(3) + 100, 50, size.Start(3) + 150},
		{size.Start(3), size.Start(3) + 40, 24, size.Start(3) + 64},
		{size.Start(3) + PageSize, size.Start(3) + PageSize + 24, 24, size.Start(3) + PageSize + 48},
		{size.Start(3) + PageSize - 8, size.Start(3) + PageSize - 8, 108, size.Start(3) + PageSize + 24 + 100},
		{size.Start(3) + PageSize - 8, size.Start(3) + PageSize - 8, 8 + 8168 + 1, size.Start(3) + 2*PageSize + 24 + 1},
		{size.Start(4) - 8, size.Start(4) - 8, 32, size.Start(4) + 40 + 24},
		{size.Start(4) - 24, size.Start(4) - 24, 24, size.Start(4)},
	} {
		segment := make([]byte, size)
		binary.LittleEndian.PutUint32(segment[size.Offset(c.begins):], c.length)
		if end, ok := size.RecordEnd(segment, c.at); !ok || end != c.want {
			t.Errorf("%d bytes at %s: end at %s, not %s", c.length, c.at, end, c.want)
		}
		binary.LittleEndian.PutUint32(segment[size.Offset(c.begins):], 0)
		if end, ok := size.RecordEnd(segment, c.at); ok {
			t.Errorf("zeros at %s: end at %s", c.at, end)
		}
		if _, ok := size.RecordEnd(segment[:size.Offset(c.begins)], c.at); ok {
			t.Errorf("%s: behind the file's end", c.at)
		}
	}
}
