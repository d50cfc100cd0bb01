package stream

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Reader reads a register's stream with its opened key. It is safe for concurrent use.
type Reader struct {
	reg     *register.Register
	trusted []ed25519.PublicKey
	sites   register.Sites
	faults  *register.Faults
	packs   *packs
}

// NewReader prepares to read the stream of the fetcher's register, with what it knows of the embassies. Records
// count that an agent signed whom this one trusts.
func NewReader(f *register.Fetcher, agent *register.Agent) *Reader {
	return &Reader{reg: f.Register, trusted: agent.Trusted, sites: f.Sites, faults: f.Faults, packs: newPacks(f)}
}

func (r *Reader) view() *view { return newView(r.reg, r.trusted, r.sites, r.faults) }

// ReadStretch returns the bytes of a stretch of an index, by its place in the list. They are the caller's own. It takes
// them from the gathering's pack or from the stretch's own, whichever can be read; it fails with ErrDamaged when it is
// certain that neither can, with ErrUnfinished when that is no loss, and with ErrTooFew when too few embassies answer to tell. It
// may be called from several goroutines, and keeps the last few packs open: neighbours lie in one.
func (r *Reader) ReadStretch(ctx context.Context, x *Index, i int) ([]byte, error) {
	p := &x.places[i]
	var first error
	if p.gathered > 0 {
		raw, err := r.packs.read(ctx, &x.gathered[p.gathered-1].Pack, int(p.chunk))
		if err == nil || ctx.Err() != nil {
			return raw, err
		}
		first = fmt.Errorf("gathering %d: %w", x.gathered[p.gathered-1].Sequence, err)
	}
	ref, err := r.ownPack(ctx, x, p)
	if err == nil {
		var raw []byte
		if raw, err = r.packs.read(ctx, ref, 0); err == nil || ctx.Err() != nil {
			return raw, err
		}
	}
	if errors.Is(err, register.ErrDamaged) && first != nil && !errors.Is(first, register.ErrDamaged) {
		err = fmt.Errorf("%w: %w", register.ErrTooFew, first)
	} else if first != nil {
		err = fmt.Errorf("%w; %s", err, first)
	}
	if errors.Is(err, register.ErrDamaged) && p.seq > x.kept && r.neverStored(ctx, ref) {
		err = fmt.Errorf("%w: %s", ErrUnfinished, err)
	}
	return nil, fmt.Errorf("stretch %d: %w", p.seq, err)
}

// Again has the reader ask embassies once more that did not answer before. A reader leaves out those that fail, which is
// right for a restore of minutes; whoever reads for as long as a recovery takes calls it before giving up.
func (r *Reader) Again() {
	for _, s := range r.sites {
		s.Again()
	}
}

// ownPack returns the reference of a stretch's own pack, from its record where only a gathering was read yet.
func (r *Reader) ownPack(ctx context.Context, x *Index, p *indexed) (*snapshot.PackRef, error) {
	if p.ref != nil {
		return p.ref, nil
	}
	v := r.view()
	b, err := v.one(ctx, p.seq)
	if err != nil {
		return nil, err
	}
	s, err := v.stretch(b, p.seq)
	if err != nil {
		return nil, err
	}
	position, err := openPosition(r.reg, s)
	if err == nil && string(position) != string(p.position) {
		err = fmt.Errorf("%w: its record and gathering %d tell two positions", register.ErrForked, x.gathered[p.gathered-1].Sequence)
	}
	return &s.Pack, err
}

// neverStored tells whether so many embassies say that they do not hold a pack's share that it cannot have been
// durable, unless as many lost it.
func (r *Reader) neverStored(ctx context.Context, ref *snapshot.PackRef) bool {
	absent := 0
	for i, s := range r.sites {
		if !s.Up() || ref == nil {
			continue
		}
		flaws, err := s.Objects.Check(ctx, ref.Shares[i:i+1], false)
		if err == nil && len(flaws) > 0 {
			absent++
		}
	}
	return absent > len(r.sites)-int(r.reg.K)
}

const (
	openPacks = 3 // that stay open
	fetchers  = 2 // packs fetched at once
)

// packs reads chunks of packs of a stream. A pack that several ask for is fetched once.
type packs struct {
	fetcher *register.Fetcher
	hasher  chunk.IDKey
	fetch   chan *register.Buffers // one for each fetcher
	tools   sync.Pool              // of *tools

	mu   sync.Mutex // guards open
	open []*openPack
}

type tools struct {
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

// openPack is a pack in memory of its own, once ready is closed.
type openPack struct {
	id      pack.ID
	ready   chan struct{}
	payload []byte
	entries []pack.Entry
	err     error
}

func newPacks(f *register.Fetcher) *packs {
	p := &packs{fetcher: f, hasher: f.Register.IDKey, fetch: make(chan *register.Buffers, fetchers)}
	for range fetchers {
		p.fetch <- &register.Buffers{}
	}
	p.tools.New = func() any { return &tools{p.hasher.NewHasher(), pack.NewDecompressor()} }
	return p
}

// read returns chunk number n of a pack.
func (p *packs) read(ctx context.Context, ref *snapshot.PackRef, n int) ([]byte, error) {
	o, err := p.get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if n >= len(o.entries) {
		return nil, fmt.Errorf("%w: pack %s holds %d stretches", register.ErrDamaged, ref.ID, len(o.entries))
	}
	t := p.tools.Get().(*tools)
	defer p.tools.Put(t)
	e := o.entries[n]
	raw, err := register.OpenChunk(t.hasher, t.unpress, nil, o.payload, e)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", ref.ID, err)
	}
	if !e.Compressed {
		raw = slices.Clone(raw)
	}
	return raw, nil
}

// get returns an open pack, and fetches it where it is not. Whoever fetched it may have been stopped: then the next one does.
func (p *packs) get(ctx context.Context, ref *snapshot.PackRef) (*openPack, error) {
	for {
		p.mu.Lock()
		i := slices.IndexFunc(p.open, func(o *openPack) bool { return o.id == ref.ID })
		if i < 0 {
			break
		}
		o := p.open[i]
		p.open = slices.Insert(slices.Delete(p.open, i, i+1), 0, o)
		p.mu.Unlock()
		select {
		case <-o.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if o.err == nil {
			return o, nil
		}
		if errors.Is(o.err, register.ErrDamaged) || errors.Is(o.err, register.ErrTooFew) {
			return nil, o.err
		}
	}
	o := &openPack{id: ref.ID, ready: make(chan struct{})}
	p.open = slices.Insert(p.open[:min(len(p.open), openPacks-1)], 0, o)
	p.mu.Unlock()
	o.payload, o.entries, o.err = p.load(ctx, ref)
	if o.err != nil {
		p.mu.Lock()
		p.open = slices.DeleteFunc(p.open, func(x *openPack) bool { return x == o })
		p.mu.Unlock()
	}
	close(o.ready)
	return o, o.err
}

func (p *packs) load(ctx context.Context, ref *snapshot.PackRef) ([]byte, []pack.Entry, error) {
	var b *register.Buffers
	select {
	case b = <-p.fetch:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { p.fetch <- b }()
	payload, err := p.fetcher.Open(ctx, b, ref)
	if err != nil {
		return nil, nil, err
	}
	b.Keep() // it stays open in memory of its own
	entries, err := pack.ParseFooter(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: pack %s: %w", register.ErrDamaged, ref.ID, err)
	}
	return payload, entries, nil
}
