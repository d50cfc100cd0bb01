package archive

import (
	"context"
	"errors"
	"io"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// Ranges is what Objects may offer besides: a part of an object, and what proves it. With it, one small file comes
// back without fetching its whole pack.
type Ranges interface {
	// GetRange appends n bytes of the object from off; both are at borders of leaves, or at its end.
	GetRange(ctx context.Context, name shard.Name, off int64, n int, dst []byte) ([]byte, error)
	// Leaves returns the hashes of all leaves of the object. They are held against the name by the caller.
	Leaves(ctx context.Context, name shard.Name) ([][32]byte, error)
}

// partBelow is the part of a pack, as a divisor, below which only that part is fetched: every range costs a question
// and a proof, so a quarter is where the whole pack is as quick.
const partBelow = 4

// errNoPart means that the whole pack must be fetched: an embassy cannot give ranges, or did not give them right.
// Fetching the whole pack then finds who is at fault.
var errNoPart = errors.New("no part to be had")

// partReader reads a sealed pack where it lies: in the first k shares, which are the pack's own bytes in order. It
// fetches leaves, holds each against its share's name, and keeps them.
type partReader struct {
	ctx    context.Context
	f      *register.Fetcher
	ref    *snapshot.PackRef
	size   int64 // of a share
	proofs map[int][][32]byte
	leaves map[int64][]byte // by first byte in the shares side by side
}

// readPart prepares to read some chunks of a pack, and fetches all that they need. It returns errNoPart when that cannot
// be done.
func readPart(ctx context.Context, f *register.Fetcher, ref *snapshot.PackRef, entries []pack.Entry) (*partReader, error) {
	p := &partReader{
		ctx: ctx, f: f, ref: ref, size: int64(shard.Size(ref.Class.Size(), int(ref.K))),
		proofs: map[int][][32]byte{}, leaves: map[int64][]byte{},
	}
	const head = pack.WrappedSize + seal.Prefix
	if err := p.fetch(0, head); err != nil {
		return nil, err
	}
	for _, e := range entries {
		const sealed = seal.SegmentSize + seal.Tag
		first, last := int64(e.Offset)/seal.SegmentSize, (int64(e.Offset)+int64(e.Stored)-1)/seal.SegmentSize
		if err := p.fetch(head+first*sealed, min(head+(last+1)*sealed, int64(ref.Class.Size()))); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// fetch brings the leaves that hold the bytes from off up to end.
func (p *partReader) fetch(off, end int64) error {
	for off < end {
		share := int(off / p.size)
		base := int64(share) * p.size
		from := base + (off-base)/shard.LeafSize*shard.LeafSize
		to := min(base+p.size, base+(end-base+shard.LeafSize-1)/shard.LeafSize*shard.LeafSize)
		for from < to && p.leaves[from] != nil {
			from += shard.LeafSize
		}
		if from < to {
			if err := p.fetchRun(share, from-base, min(to-base, p.size)); err != nil {
				return err
			}
		}
		off = max(to, off+1)
	}
	return nil
}

// fetchRun brings a run of leaves of one share, checked and unmasked.
func (p *partReader) fetchRun(share int, from, to int64) error {
	s := p.f.Sites[share]
	source, ok := s.Objects.(Ranges)
	if !ok || !s.Up() {
		return errNoPart
	}
	name := p.ref.Shares[share]
	if p.proofs[share] == nil {
		hashes, err := source.Leaves(p.ctx, name)
		if err != nil || shard.RootOf(hashes) != name {
			return errNoPart
		}
		p.proofs[share] = hashes
	}
	data, err := source.GetRange(p.ctx, name, from, int(to-from), nil)
	if err != nil || int64(len(data)) != to-from {
		return errNoPart
	}
	if shard.VerifyRange(name, p.size, int(from/shard.LeafSize), data, p.proofs[share]) != nil {
		return errNoPart
	}
	shard.MaskAt(s.Mask, p.ref.ID, share, from, data)
	for at := from; at < to; at += shard.LeafSize {
		p.leaves[int64(share)*p.size+at] = data[at-from : min(at-from+shard.LeafSize, int64(len(data)))]
	}
	return nil
}

// ReadAt reads bytes of the sealed pack that fetch brought.
func (p *partReader) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		at := off + int64(n)
		base := at / p.size * p.size
		first := base + (at-base)/shard.LeafSize*shard.LeafSize
		leaf := p.leaves[first]
		if leaf == nil || at-first >= int64(len(leaf)) {
			if at >= int64(p.ref.Class.Size()) {
				return n, io.EOF
			}
			return n, errNoPart
		}
		n += copy(b[n:], leaf[at-first:])
	}
	return n, nil
}

// stored returns the stored bytes of one chunk that readPart was asked for.
func (p *partReader) stored(dst []byte, e pack.Entry) ([]byte, error) {
	return p.f.Opener.OpenAt(dst, p.f.Register.MetaOf(p.ref), p, int(e.Offset), int(e.Stored))
}
