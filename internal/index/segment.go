package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// A segment is one immutable file. Numbers are little-endian.
//
//	header  128 bytes: magic[16] after[8] through[8] chunks[8] packs[8] stride[4] bits[4] zero[8]
//	                   SHA-256 of sums[32]  SHA-256 of the 96 bytes before[32]
//	body    packs      packs records of stride bytes, ascending by id:
//	                   id[16] kind[1] class[1] k[1] n[1] epoch[4] name[32]*n zero to the stride
//	        entries    chunks records of 48 bytes, strictly ascending by id:
//	                   id[32] pack[4] offset[4] stored[4] raw[4] (bit 31: compressed)
//	        fan-out    2^bits+1 numbers[4]: entry i*... the first entry whose id's first bits are not below i
//	sums    CRC-32C[4] of each 4096 bytes of the body
type segment struct {
	data  []byte // the whole file, mapped
	unmap func([]byte) error
	name  segmentName
	refs  atomic.Int64

	after, through uint64
	chunks, packs  uint64
	stride         uint64
	bits           uint

	entriesAt, fanAt uint64 // offsets in body
	body, sums       []byte
	seen             []atomic.Uint64 // bit per block of the body: its sum was right
}

const (
	magic      = "chancery index 1"
	headerSize = 128
	signedSize = 96 // of the header
	packFixed  = 24
	nameSize   = len(shard.Name{})
	entrySize  = 48
	blockSize  = 4096
	sumSize    = 4
	maxFanBits = 24
	perBucket  = 8
	compressed = 1 << 31
	maxRecords = 1<<32 - 1
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// fanBits returns how many leading bits of an id choose the bucket, for two to four chunks a bucket.
func fanBits(chunks uint64) uint { return min(uint(bits.Len64(chunks/perBucket)), maxFanBits) }

func strideFor(n int) uint64 { return uint64(packFixed + n*nameSize) }

func openSegment(dir string, name segmentName) (*segment, error) {
	f, err := os.Open(filepath.Join(dir, name.file()))
	if err != nil {
		return nil, fmt.Errorf("segment: %w: %w", err, ErrDamaged)
	}
	defer func() { _ = f.Close() }() // read only; the map outlives it
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	// Mapping beyond the end of a file that lost its tail would kill the process later.
	if info.Size() != name.Size || info.Size() < headerSize || int64(int(info.Size())) != info.Size() {
		return nil, fmt.Errorf("segment %s: %d bytes, expected %d: %w", name.file(), info.Size(), name.Size, ErrDamaged)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("segment %s: map: %w", name.file(), err)
	}
	s, err := parseSegment(data)
	if err == nil && sha256.Sum256(data[:headerSize]) != name.Hash {
		err = fmt.Errorf("not the file that the manifest names: %w", ErrDamaged)
	}
	if err != nil {
		if e := unix.Munmap(data); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("segment %s: %w", name.file(), err)
	}
	s.name, s.unmap = name, unix.Munmap
	return s, nil
}

// parseSegment checks the header, the size and the table of sums, and nothing of the body.
func parseSegment(data []byte) (*segment, error) {
	if len(data) < headerSize || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("unknown format: %w", ErrDamaged)
	}
	if sha256.Sum256(data[:signedSize]) != [32]byte(data[signedSize:headerSize]) {
		return nil, fmt.Errorf("header: wrong sum: %w", ErrDamaged)
	}
	le := binary.LittleEndian
	s := &segment{
		data: data, after: le.Uint64(data[16:]), through: le.Uint64(data[24:]),
		chunks: le.Uint64(data[32:]), packs: le.Uint64(data[40:]),
		stride: uint64(le.Uint32(data[48:])), bits: uint(le.Uint32(data[52:])),
	}
	if s.after > s.through || s.chunks > maxRecords || s.packs > maxRecords || s.stride < packFixed ||
		s.stride > strideFor(snapshot.MaxMembers) || s.bits > maxFanBits || le.Uint64(data[56:]) != 0 {
		return nil, fmt.Errorf("header: impossible numbers: %w", ErrDamaged)
	}
	s.entriesAt = s.packs * s.stride
	s.fanAt = s.entriesAt + s.chunks*entrySize
	body := s.fanAt + (1<<s.bits+1)*4
	blocks := (body + blockSize - 1) / blockSize
	if uint64(len(data)) != headerSize+body+blocks*sumSize {
		return nil, fmt.Errorf("%d bytes are not what the header says: %w", len(data), ErrDamaged)
	}
	s.body, s.sums = data[headerSize:headerSize+body], data[headerSize+body:]
	if sha256.Sum256(s.sums) != [32]byte(data[64:signedSize]) {
		return nil, fmt.Errorf("table of sums: wrong sum: %w", ErrDamaged)
	}
	s.seen = make([]atomic.Uint64, (blocks+63)/64)
	s.refs.Store(1)
	return s, nil
}

// release gives up one reference; the last one unmaps the file.
func (s *segment) release() error {
	if s.refs.Add(-1) > 0 || s.unmap == nil {
		return nil
	}
	return s.unmap(s.data)
}

// at returns n > 0 bytes of the body, at most a block's length, once the blocks that hold them have
// proven whole.
func (s *segment) at(off, n uint64) ([]byte, error) {
	for block := off / blockSize; block <= (off+n-1)/blockSize; block++ {
		if s.seen[block/64].Load()>>(block%64)&1 == 0 {
			if err := s.checkBlock(block); err != nil {
				return nil, err
			}
		}
	}
	return s.body[off : off+n : off+n], nil
}

func (s *segment) checkBlock(block uint64) error {
	start := block * blockSize
	b := s.body[start:min(start+blockSize, uint64(len(s.body)))]
	if crc32.Checksum(b, castagnoli()) != binary.LittleEndian.Uint32(s.sums[block*sumSize:]) {
		return fmt.Errorf("segment %s: block %d: wrong sum: %w", s.name.file(), block, ErrDamaged)
	}
	s.seen[block/64].Or(1 << (block % 64))
	return nil
}

func (s *segment) entry(i uint64) ([]byte, error) { return s.at(s.entriesAt+i*entrySize, entrySize) }

func (s *segment) pack(i uint64) ([]byte, error) { return s.at(i*s.stride, s.stride) }

func (s *segment) bucket(i uint64) (lo, hi uint64, err error) {
	b, err := s.at(s.fanAt+i*4, 8)
	if err != nil {
		return 0, 0, err
	}
	lo, hi = uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[4:]))
	if lo > hi || hi > s.chunks {
		return 0, 0, fmt.Errorf("segment %s: fan-out %d: impossible: %w", s.name.file(), i, ErrDamaged)
	}
	return lo, hi, nil
}

// find returns the number of the chunk's entry.
func (s *segment) find(id *chunk.ID) (uint64, bool, error) {
	lo, hi, err := s.bucket(binary.BigEndian.Uint64(id[:8]) >> (64 - s.bits))
	if err != nil {
		return 0, false, err
	}
	for lo < hi {
		mid := lo + (hi-lo)/2
		b, err := s.entry(mid)
		if err != nil {
			return 0, false, err
		}
		switch c := bytes.Compare(b[:len(id)], id[:]); {
		case c == 0:
			return mid, true, nil
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false, nil
}

func (s *segment) findPack(id pack.ID) (snapshot.PackRef, bool, error) {
	lo, hi := uint64(0), s.packs
	for lo < hi {
		mid := lo + (hi-lo)/2
		b, err := s.pack(mid)
		if err != nil {
			return snapshot.PackRef{}, false, err
		}
		switch c := bytes.Compare(b[:len(id)], id[:]); {
		case c == 0:
			ref, err := parsePack(b)
			return ref, err == nil, err
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return snapshot.PackRef{}, false, nil
}

// location returns the entry with this number, and its pack.
func (s *segment) location(i uint64) (Location, error) {
	b, err := s.entry(i)
	if err != nil {
		return Location{}, err
	}
	e, ordinal := parseEntry(b)
	if ordinal >= s.packs {
		return Location{}, fmt.Errorf("segment %s: chunk %d: pack %d of %d: %w", s.name.file(), i, ordinal, s.packs, ErrDamaged)
	}
	record, err := s.pack(ordinal)
	if err != nil {
		return Location{}, err
	}
	ref, err := parsePack(record)
	return Location{Ref: ref, Entry: e}, err
}

// packOf returns the id of the pack of the entry with this number.
func (s *segment) packOf(i uint64) (pack.ID, error) {
	b, err := s.entry(i)
	if err != nil {
		return pack.ID{}, err
	}
	ordinal := uint64(binary.LittleEndian.Uint32(b[32:]))
	if ordinal >= s.packs {
		return pack.ID{}, fmt.Errorf("segment %s: chunk %d: pack %d of %d: %w", s.name.file(), i, ordinal, s.packs, ErrDamaged)
	}
	record, err := s.at(ordinal*s.stride, uint64(len(pack.ID{})))
	if err != nil {
		return pack.ID{}, err
	}
	return pack.ID(record), nil
}

// verify reads all of the segment.
func (s *segment) verify() error {
	for block := range uint64(len(s.sums) / sumSize) {
		if err := s.checkBlock(block); err != nil {
			return err
		}
	}
	for i := range s.packs {
		record := s.body[i*s.stride : (i+1)*s.stride]
		if _, err := parsePack(record); err != nil {
			return err
		}
		if i > 0 && bytes.Compare(s.body[(i-1)*s.stride:][:16], record[:16]) >= 0 {
			return fmt.Errorf("segment %s: pack %d: out of order: %w", s.name.file(), i, ErrDamaged)
		}
	}
	bucket := uint64(0)
	for i := range s.chunks {
		record := s.body[s.entriesAt+i*entrySize:][:entrySize]
		if i > 0 && bytes.Compare(s.body[s.entriesAt+(i-1)*entrySize:][:32], record[:32]) >= 0 {
			return fmt.Errorf("segment %s: chunk %d: out of order: %w", s.name.file(), i, ErrDamaged)
		}
		if _, ordinal := parseEntry(record); ordinal >= s.packs {
			return fmt.Errorf("segment %s: chunk %d: no such pack: %w", s.name.file(), i, ErrDamaged)
		}
		for mine := binary.BigEndian.Uint64(record) >> (64 - s.bits); bucket <= mine; bucket++ {
			if s.fan(bucket) != i {
				return fmt.Errorf("segment %s: fan-out %d: wrong: %w", s.name.file(), bucket, ErrDamaged)
			}
		}
	}
	for ; bucket <= 1<<s.bits; bucket++ {
		if s.fan(bucket) != s.chunks {
			return fmt.Errorf("segment %s: fan-out %d: wrong: %w", s.name.file(), bucket, ErrDamaged)
		}
	}
	return nil
}

func (s *segment) fan(i uint64) uint64 {
	return uint64(binary.LittleEndian.Uint32(s.body[s.fanAt+i*4:]))
}

func appendEntry(dst []byte, e *pack.Entry, ordinal uint32) []byte {
	raw := e.Raw
	if e.Compressed {
		raw |= compressed
	}
	dst = append(dst, e.ID[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, ordinal)
	dst = binary.LittleEndian.AppendUint32(dst, e.Offset)
	dst = binary.LittleEndian.AppendUint32(dst, e.Stored)
	return binary.LittleEndian.AppendUint32(dst, raw)
}

func parseEntry(b []byte) (pack.Entry, uint64) {
	le := binary.LittleEndian
	raw := le.Uint32(b[44:])
	return pack.Entry{
		ID: chunk.ID(b[:32]), Offset: le.Uint32(b[36:]), Stored: le.Uint32(b[40:]),
		Raw: raw &^ compressed, Compressed: raw&compressed != 0,
	}, uint64(le.Uint32(b[32:]))
}

func appendPack(dst []byte, r *snapshot.PackRef, stride uint64) []byte {
	end := len(dst) + int(stride)
	dst = append(dst, r.ID[:]...)
	dst = append(dst, byte(r.Kind), byte(r.Class), r.K, r.N)
	dst = binary.LittleEndian.AppendUint32(dst, r.Epoch)
	for i := range r.Shares {
		dst = append(dst, r.Shares[i][:]...)
	}
	return append(dst, make([]byte, end-len(dst))...)
}

// parsePack reads a record of any stride.
func parsePack(b []byte) (snapshot.PackRef, error) {
	r := snapshot.PackRef{
		ID: pack.ID(b[:16]), Kind: pack.Kind(b[16]), Class: pack.Class(b[17]), K: b[18], N: b[19],
		Epoch: binary.LittleEndian.Uint32(b[20:]),
	}
	names := b[packFixed:]
	if int(r.N) > len(names)/nameSize {
		return snapshot.PackRef{}, fmt.Errorf("pack %s: more names than room: %w", r.ID, ErrDamaged)
	}
	r.Shares = make([]shard.Name, r.N)
	for i := range r.Shares {
		r.Shares[i] = shard.Name(names[i*nameSize:])
	}
	if err := r.Check(); err != nil {
		return snapshot.PackRef{}, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return r, nil
}
