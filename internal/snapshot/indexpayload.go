package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

// Caps of an index payload.
const (
	MaxIndexPayload = 16 << 20 // bytes
	MaxPackEntries  = 1 << 20  // chunks of one pack
	maxRaw          = 16 << 20 // bytes of a chunk
)

const (
	minIndexEntry = 32 + 3              // id, gap, stored, raw
	minIndexPack  = 16 + 4 + 1 + 32 + 1 // id, kind class k n, epoch, one name, count
)

// ErrIndex is wrapped by every refusal of an index payload.
var ErrIndex = errors.New("not a canonical index payload")

// IndexedPack is a pack and where each chunk is in it, by ascending offset, as pack.Builder made them.
type IndexedPack struct {
	Ref     PackRef
	Entries []pack.Entry
}

// AppendIndex appends the one encoding of these packs. Each pack is named once, its Ref satisfies
// Check, its entries ascend by offset without overlap, inside the pack, none empty.
//
//	payload = version[1] = 1, count, packs      pack  = id[16] kind[1] class[1] k[1] n[1] epoch
//	                                                    name[32] * n, count, entries
//	                                            entry = id[32] gap stored 2*raw+compressed
//
// gap is the distance from the end of the entry before (of the payload's start). Numbers without a
// length are uvarints. Specification: docs/spec/index.md.
func AppendIndex(dst []byte, packs []IndexedPack) []byte {
	dst = append(dst, version1)
	dst = binary.AppendUvarint(dst, uint64(len(packs)))
	for i := range packs {
		r := &packs[i].Ref
		dst = append(dst, r.ID[:]...)
		dst = append(dst, byte(r.Kind), byte(r.Class), r.K, r.N)
		dst = binary.AppendUvarint(dst, uint64(r.Epoch))
		dst = appendNames(dst, r.Shares)
		dst = binary.AppendUvarint(dst, uint64(len(packs[i].Entries)))
		end := uint32(0)
		for j := range packs[i].Entries {
			e := &packs[i].Entries[j]
			dst = append(dst, e.ID[:]...)
			dst = binary.AppendUvarint(dst, uint64(e.Offset-end))
			dst = binary.AppendUvarint(dst, uint64(e.Stored))
			raw := uint64(e.Raw) << 1
			if e.Compressed {
				raw |= 1
			}
			dst = binary.AppendUvarint(dst, raw)
			end = e.Offset + e.Stored
		}
	}
	return dst
}

// IndexSize returns the most bytes that a pack takes in an index payload.
func IndexSize(p *IndexedPack) int {
	return minIndexPack + 10 + 32*len(p.Ref.Shares) + (minIndexEntry+9)*len(p.Entries)
}

// SplitIndex encodes the packs, in order, into as few payloads of at most capacity bytes as a greedy
// walk makes. Errors: one pack alone is larger than that, or fails its check.
func SplitIndex(packs []IndexedPack, capacity int) ([][]byte, error) {
	const start = 1 + binary.MaxVarintLen64
	var out [][]byte
	first, size := 0, start
	for i := range packs {
		if err := packs[i].Check(); err != nil {
			return nil, err
		}
		n := IndexSize(&packs[i])
		if start+n > capacity {
			return nil, fmt.Errorf("index: pack %s: its %d chunks do not fit in %d bytes: %w",
				packs[i].Ref.ID, len(packs[i].Entries), capacity, ErrIndex)
		}
		if size+n > capacity {
			out = append(out, AppendIndex(nil, packs[first:i]))
			first, size = i, start
		}
		size += n
	}
	if first < len(packs) {
		out = append(out, AppendIndex(nil, packs[first:]))
	}
	return out, nil
}

// Check tells whether the pack can be written: a reference that can be, chunks in ascending order inside
// the pack, none empty, none over another. Errors wrap ErrIndex.
func (p *IndexedPack) Check() error {
	if err := p.Ref.Check(); err != nil {
		return fmt.Errorf("index: %w: %w", err, ErrIndex)
	}
	if len(p.Entries) > MaxPackEntries {
		return fmt.Errorf("index: pack %s: %d chunks: %w", p.Ref.ID, len(p.Entries), ErrIndex)
	}
	end, limit := uint64(0), uint64(p.Ref.Class.Size())
	for i := range p.Entries {
		e := &p.Entries[i]
		stop := uint64(e.Offset) + uint64(e.Stored)
		if uint64(e.Offset) < end || e.Stored == 0 || e.Raw == 0 || e.Raw > maxRaw || stop > limit ||
			!e.Compressed && e.Raw != e.Stored {
			return fmt.Errorf("index: pack %s: chunk %d is not where a chunk can be: %w", p.Ref.ID, i, ErrIndex)
		}
		end = stop
	}
	return nil
}

// ParseIndex reads what AppendIndex wrote, all of b. It keeps no reference to b. Errors wrap ErrIndex.
func ParseIndex(b []byte) ([]IndexedPack, error) {
	if len(b) == 0 || len(b) > MaxIndexPayload || b[0] != version1 {
		return nil, fmt.Errorf("index: %d bytes without a known version: %w", len(b), ErrIndex)
	}
	r := reader{b: b[1:]}
	n := r.number(MaxIndexPayload)
	if r.bad || n > uint64(len(r.b)/minIndexPack) {
		return nil, fmt.Errorf("index: more packs than bytes: %w", ErrIndex)
	}
	packs := make([]IndexedPack, n)
	seen := make(map[pack.ID]struct{}, n)
	for i := range packs {
		p := &packs[i]
		if err := r.indexedPack(p); err != nil {
			return nil, err
		}
		if _, twice := seen[p.Ref.ID]; twice {
			return nil, fmt.Errorf("index: pack %s is named twice: %w", p.Ref.ID, ErrIndex)
		}
		seen[p.Ref.ID] = struct{}{}
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("index: %d bytes behind the end: %w", len(r.b), ErrIndex)
	}
	return packs, nil
}

func (r *reader) indexedPack(p *IndexedPack) error {
	copy(p.Ref.ID[:], r.bytes(len(p.Ref.ID)))
	p.Ref.Kind, p.Ref.Class = pack.Kind(r.byte()), pack.Class(r.byte())
	p.Ref.K, p.Ref.N = r.byte(), r.byte()
	p.Ref.Epoch = uint32(r.number(1<<32 - 1))
	if p.Ref.N > MaxMembers {
		r.fail()
	}
	p.Ref.Shares = parseNames(r.bytes(int(p.Ref.N) * len(shard.Name{})))
	n := int(r.number(MaxPackEntries))
	if r.bad || n > len(r.b)/minIndexEntry {
		return fmt.Errorf("index: pack %s: cut short or not canonical: %w", p.Ref.ID, ErrIndex)
	}
	if n > 0 {
		p.Entries = make([]pack.Entry, n)
	}
	end := uint64(0)
	for i := range p.Entries {
		e := &p.Entries[i]
		copy(e.ID[:], r.bytes(len(chunk.ID{})))
		offset := end + r.number(1<<32-1)
		e.Offset = uint32(offset)
		e.Stored = uint32(r.number(1<<32 - 1))
		raw := r.number(maxRaw<<1 | 1)
		e.Raw, e.Compressed = uint32(raw>>1), raw&1 == 1
		end = offset + uint64(e.Stored)
		if r.bad || end > 1<<32-1 {
			return fmt.Errorf("index: pack %s: chunk %d: cut short or not canonical: %w", p.Ref.ID, i, ErrIndex)
		}
	}
	return p.Check()
}
