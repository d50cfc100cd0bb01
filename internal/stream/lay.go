package stream

import (
	"context"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// desks is how many stretches are compressed at once, which takes as long as all else that home does: the next meanwhile.
const desks = 2

// maxDesk is the largest payload, in bytes, whose memory a desk keeps: few are larger.
const maxDesk = 4 << 20

// desk is where a stretch is compressed and laid out. Its memory is used again.
type desk struct {
	press   *pack.Compressor
	hasher  *chunk.Hasher
	data    []byte // of the stretch
	stored  []byte // the same, compressed
	payload []byte
}

func newDesks(key chunk.IDKey) chan *desk {
	all := make(chan *desk, desks)
	for range desks {
		all <- &desk{press: pack.NewCompressor(), hasher: key.NewHasher()}
	}
	return all
}

// sit waits for a desk.
func (s *Stream) sit(ctx context.Context) (*desk, error) {
	select {
	case d := <-s.desks:
		return d, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// leave gives a desk back.
func (s *Stream) leave(d *desk) {
	if cap(d.payload) > maxDesk {
		d.payload = nil
	}
	s.desks <- d
}

// lay compresses a stretch and lays it out as the payload of the smallest pack, which is the desk's until it is used again.
func (s *Stream) lay(d *desk, f *flight) []byte {
	id, compressed := d.digest()
	class, _ := pack.Smallest(pack.NewBuilder(nil).Len()+len(d.stored)+packEntry, pack.Data) // MaxData fits the largest
	if room := pack.Payload(class, pack.Data); cap(d.payload) < room {
		d.payload = make([]byte, 0, room)
	}
	b := pack.NewBuilder(d.payload[:0:pack.Payload(class, pack.Data)])
	f.entry = b.Add(id, d.stored, len(d.data), compressed)
	if class == 0 || 2*b.Len() < pack.Payload(class, pack.Data) { // a second place for what fills its own would double it
		f.stored = slices.Clone(d.stored)
	}
	f.ref = snapshot.PackRef{
		Kind: pack.Data, Class: class, K: uint8(s.reg.K), N: uint8(len(s.reg.Members)), Epoch: s.reg.Epoch,
	}
	f.size = len(s.lanes) * shard.Size(class.Size(), s.reg.K)
	return b.Finish(class)
}

// packEntry is what a chunk takes in a pack besides its bytes.
const packEntry = 40

// besideFrom is from how many bytes on hashing beside compressing is worth a goroutine.
const besideFrom = 64 << 10

// digest hashes and compresses at once.
func (d *desk) digest() (id chunk.ID, compressed bool) {
	var beside sync.WaitGroup
	if len(d.data) < besideFrom {
		id = d.hasher.Sum(d.data)
	} else {
		beside.Go(func() { id = d.hasher.Sum(d.data) })
	}
	d.stored, compressed = d.press.Compress(d.stored[:0], d.data)
	beside.Wait()
	return id, compressed
}
