package postgres

import (
	"crypto/sha256"
	"hash"

	"chancery.dev/chancery/internal/wal"
)

// digest is SHA-256 of the log from the start of a segment on. It is carried with each stretch, so that whoever goes on
// with a stream can tell whether the server is the one that wrote what is abroad.
type digest struct {
	size wal.SegmentSize
	at   wal.LSN
	sum  hash.Hash
}

func newDigest(size wal.SegmentSize, at wal.LSN) *digest {
	return &digest{size, at, sha256.New()}
}

// add takes the bytes at the digest's place.
func (d *digest) add(b []byte) {
	for len(b) > 0 {
		if d.size.Offset(d.at) == 0 {
			d.sum.Reset()
		}
		n := min(len(b), int(uint32(d.size)-d.size.Offset(d.at)))
		d.sum.Write(b[:n])
		d.at += wal.LSN(n)
		b = b[n:]
	}
}

// value is the digest up to its place. Exactly behind a segment it is that of the whole segment.
func (d *digest) value() [32]byte { return [32]byte(d.sum.Sum(nil)) }
