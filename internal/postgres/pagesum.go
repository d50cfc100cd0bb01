package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/bits"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pageReader sums each page of what is read through it, by CRC-32C.
type pageReader struct {
	r    io.Reader
	page int
	at   int // in the page
	sum  uint32
	sums []byte // 4 of each whole page, little endian
}

func (p *pageReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		part := rest[:min(len(rest), p.page-p.at)]
		p.sum = crc32.Update(p.sum, castagnoli, part)
		rest = rest[len(part):]
		if p.at += len(part); p.at == p.page {
			p.sums = binary.LittleEndian.AppendUint32(p.sums, p.sum)
			p.at, p.sum = 0, 0
		}
	}
	return n, err
}

// pageJoiner makes the sum of a whole from those of its pages: what a page's length of zeros does to a sum is linear, so
// it is a table of four times 256.
type pageJoiner [4][256]uint32

// newPageJoiner is for pages of a power of two of bytes.
func newPageJoiner(page int) *pageJoiner {
	// One bit of zeros, as a matrix of columns; squared, it is two of them, and so on.
	var m [32]uint32
	m[0] = crc32.Castagnoli
	for i := 1; i < 32; i++ {
		m[i] = 1 << (i - 1)
	}
	for range 3 + bits.Len(uint(page)) - 1 {
		old := m
		for i := range m {
			m[i] = times(&old, old[i])
		}
	}
	j := &pageJoiner{}
	for i := range j {
		for b := range j[i] {
			j[i][b] = times(&m, uint32(b)<<(8*i))
		}
	}
	return j
}

func times(m *[32]uint32, v uint32) (out uint32) {
	for ; v != 0; v &= v - 1 {
		out ^= m[bits.TrailingZeros32(v)]
	}
	return out
}

// join is the sum of what sum is of, followed by pages of the given sums.
func (j *pageJoiner) join(sum uint32, pages []byte) uint32 {
	for ; len(pages) >= 4; pages = pages[4:] {
		sum = j[0][byte(sum)] ^ j[1][byte(sum>>8)] ^ j[2][byte(sum>>16)] ^ j[3][sum>>24] ^ binary.LittleEndian.Uint32(pages)
	}
	return sum
}

// sumText is a sum as servers write it, on machines that count from the lowest byte.
func sumText(sum uint32) string {
	return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, sum))
}
