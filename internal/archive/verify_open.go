package archive

import (
	"context"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// packOpener opens packs to hold their chunks against their ids.
type packOpener struct {
	fetcher *fetcher
	buffers buffers
	share   []byte
	raw     []byte
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

func (v *verifier) newOpener() *packOpener {
	f := &fetcher{reg: v.run.reg, sites: v.run.sites, faults: v.run.faults}
	if v.opts.Key != nil {
		f.opener = pack.NewOpener(v.opts.Key)
	}
	return &packOpener{fetcher: f, hasher: v.run.reg.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

func (u *packOpener) open(ctx context.Context, ref *snapshot.PackRef) (int, error) {
	if ref.Kind == pack.Index {
		return 0, u.table(ctx, ref)
	}
	payload, err := u.fetcher.open(ctx, &u.buffers, ref)
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
		if _, err := plain(u.hasher, u.unpress, u.raw, payload, e); err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// table opens a pack that is sealed under the index key: an index pack, or a snapshot's references.
func (u *packOpener) table(ctx context.Context, ref *snapshot.PackRef) error {
	payload, err := u.fetcher.open(ctx, &u.buffers, ref)
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
