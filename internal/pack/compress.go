package pack

import (
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// The test for incompressible data looks at samples of this many bytes, at most so many of them.
const (
	sampleSize = 256
	samples    = 64
)

// Of 256 uniformly random bytes 161.8 are distinct, with a standard deviation of 4.9. A sample with
// fewer than fewDistinct shows structure by itself; a mean below meanDistinct shows a skew in all.
const (
	fewDistinct  = 141
	meanDistinct = 159
)

// minGain: a frame is kept when it is shorter by at least 1/minGain of the chunk; less is not worth
// the time of a restore.
const minGain = 32

// maxWindow is the largest zstd window that is written or read, in bytes.
const maxWindow = 16 << 20

// Compressor compresses chunks one after the other. It must not be used concurrently; give each worker
// its own. It holds about 3 MiB.
type Compressor struct {
	zstd *zstd.Encoder
	seen [256]uint32 // sample in which the byte was last seen
	turn uint32
}

// NewCompressor returns a Compressor.
func NewCompressor() *Compressor {
	// An encoder with no writer makes no goroutine. The options are constants; no error is possible.
	enc, _ := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),   // the id of every chunk is checked by the reader, the pack by its seal
		zstd.WithSingleSegment(true), // so that the frame says how long its content is
		zstd.WithWindowSize(1<<20))
	// With lower memory the encoder would move the whole window for every 128 KiB: a tenth of its time.
	return &Compressor{zstd: enc}
}

// Compress appends raw to dst, as one zstd frame where that is shorter by at least 1/32 and as it is
// where not, and says which. With room for len(raw)+len(raw)/1024+64 bytes in dst it does not allocate.
// dst must not share memory with raw.
func (c *Compressor) Compress(dst, raw []byte) (out []byte, compressed bool) {
	if len(raw) == 0 || len(raw) > MaxRaw || !c.promising(raw) {
		return append(dst, raw...), false
	}
	out = c.zstd.EncodeAll(raw, dst)
	if len(out)-len(dst) > len(raw)-max(1, len(raw)/minGain) {
		return append(out[:len(dst)], raw...), false
	}
	return out, true
}

// promising reports whether raw may be compressible, from samples spread evenly over it. One sample
// with structure is enough: data of runs, some of them compressible, is worth compressing as a whole,
// since the encoder passes over the others quickly.
func (c *Compressor) promising(raw []byte) bool {
	if len(raw) < 2*sampleSize {
		return true
	}
	step := max(len(raw)/samples, sampleSize)
	n, sum := 0, 0
	for at := 0; at+sampleSize <= len(raw); at += step {
		d := c.distinct(raw[at : at+sampleSize])
		if d < fewDistinct {
			return true
		}
		n++
		sum += d
	}
	return sum < n*meanDistinct
}

// distinct counts the different bytes of a sample.
func (c *Compressor) distinct(sample []byte) int {
	c.turn++
	if c.turn == 0 {
		clear(c.seen[:])
		c.turn = 1
	}
	n := 0
	for _, b := range sample {
		if c.seen[b] != c.turn {
			n++
		}
		c.seen[b] = c.turn
	}
	return n
}

// Decompressor is the inverse of Compressor. It must not be used concurrently. Its memory is bounded
// whatever it is given: the window, a block, and the chunk itself.
type Decompressor struct {
	zstd *zstd.Decoder
}

// slack beyond the chunk lets the decoder copy in wide steps.
const slack = 1 << 10

// NewDecompressor returns a Decompressor.
func NewDecompressor() *Decompressor {
	// A decoder with no reader makes no goroutine. The options are constants; no error is possible.
	dec, _ := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(MaxRaw+slack),
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecodeAllCapLimit(true))
	return &Decompressor{zstd: dec}
}

// Decompress appends the chunk of exactly e.Raw bytes to dst; stored is what e names, e.Stored bytes. It
// returns ErrFormat for anything else: an impossible entry, a frame of another size, a dictionary, bytes
// after the frame. It says nothing about the chunk's id, which the caller checks.
func (d *Decompressor) Decompress(dst []byte, e Entry, stored []byte) ([]byte, error) {
	if !e.valid() || len(stored) != int(e.Stored) {
		return nil, fmt.Errorf("chunk %v: %w: impossible lengths", e.ID, ErrFormat)
	}
	if !e.Compressed {
		return append(dst, stored...), nil
	}
	// Before anything is allocated, the frame itself must promise the right size.
	if err := checkFrame(stored, uint64(e.Raw)); err != nil {
		return nil, fmt.Errorf("chunk %v: %w", e.ID, err)
	}
	start, end := len(dst), len(dst)+int(e.Raw)
	dst = slices.Grow(dst, int(e.Raw)+slack)
	out, err := d.zstd.DecodeAll(stored, dst[:start:end+slack])
	if err != nil {
		return nil, fmt.Errorf("chunk %v: %w: %w", e.ID, ErrFormat, err)
	}
	if len(out) != end {
		return nil, fmt.Errorf("chunk %v: %w: %d bytes, want %d", e.ID, ErrFormat, len(out)-start, e.Raw)
	}
	return dst[:end], nil
}

// checkFrame walks over the headers of one zstd frame (RFC 8878), decodes nothing, and refuses anything
// but a frame of this content size that ends where the bytes end.
func checkFrame(b []byte, raw uint64) error {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	switch {
	case h.Skippable:
		return fmt.Errorf("%w: skippable frame", ErrFormat)
	case !h.HasFCS || h.FrameContentSize != raw:
		return fmt.Errorf("%w: frame of %d bytes, want %d", ErrFormat, h.FrameContentSize, raw)
	case h.DictionaryID != 0:
		return fmt.Errorf("%w: dictionary", ErrFormat)
	case h.WindowSize > maxWindow:
		return fmt.Errorf("%w: window of %d bytes", ErrFormat, h.WindowSize)
	}
	b = b[min(h.HeaderSize, len(b)):]
	for last := false; !last; {
		if len(b) < 3 {
			return fmt.Errorf("%w: frame without an end", ErrFormat)
		}
		v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		last = v&1 != 0
		size := int(v >> 3)
		if v>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if size > len(b)-3 {
			return fmt.Errorf("%w: block beyond the end", ErrFormat)
		}
		b = b[3+size:]
	}
	if h.HasCheckSum {
		if len(b) < 4 {
			return fmt.Errorf("%w: frame without its checksum", ErrFormat)
		}
		b = b[4:]
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes after the frame", ErrFormat, len(b))
	}
	return nil
}
