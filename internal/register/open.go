package register

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// packOpener opens packs to hold their chunks against their ids.
type packOpener struct {
	fetcher *Fetcher
	buffers Buffers
	share   []byte
	raw     []byte
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

func (in *Inspector) newOpener() *packOpener {
	f := &Fetcher{Register: in.Register, Sites: in.Sites, Faults: in.Faults}
	if in.Key != nil {
		f.Opener = pack.NewOpener(in.Key)
	}
	return &packOpener{fetcher: f, hasher: in.Register.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

func (u *packOpener) open(ctx context.Context, ref *snapshot.PackRef) (int, error) {
	if ref.Kind == pack.Index {
		return 0, u.table(ctx, ref)
	}
	payload, err := u.fetcher.Open(ctx, &u.buffers, ref)
	if err != nil {
		return 0, err
	}
	entries, err := pack.ParseFooter(payload)
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		if cap(u.raw) < int(e.Raw) {
			u.raw = make([]byte, 0, max(int(e.Raw), chunk.Max))
		}
		if _, err := OpenChunk(u.hasher, u.unpress, u.raw, payload, e); err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// table opens a pack that is sealed under the index key: an index pack, or a snapshot's references.
func (u *packOpener) table(ctx context.Context, ref *snapshot.PackRef) error {
	payload, err := u.fetcher.Open(ctx, &u.buffers, ref)
	if err != nil {
		return err
	}
	body, err := pack.UnpadPayload(payload)
	if err != nil {
		return err
	}
	index, err := snapshot.CheckReferences(body)
	if err == nil && index {
		_, err = snapshot.ParseIndex(body)
	}
	return err
}

// OpenChunk returns the chunk of an entry of a pack's payload, checked against its id. The result is in dst's memory or the
// payload's. Errors wrap ErrDamaged.
func OpenChunk(h *chunk.Hasher, d *pack.Decompressor, dst, payload []byte, e pack.Entry) ([]byte, error) {
	end := uint64(e.Offset) + uint64(e.Stored)
	if end > uint64(len(payload)) {
		return nil, fmt.Errorf("%w: chunk %s lies behind the end of its pack", ErrDamaged, e.ID)
	}
	raw := payload[e.Offset:end]
	if e.Compressed {
		var err error
		if raw, err = d.Decompress(dst[:0], e, raw); err != nil {
			return nil, fmt.Errorf("%w: chunk %s: %w", ErrDamaged, e.ID, err)
		}
	}
	if h.Sum(raw) != e.ID {
		return nil, fmt.Errorf("%w: chunk %s has another content: the agent that stored it lied", ErrDamaged, e.ID)
	}
	return raw, nil
}
