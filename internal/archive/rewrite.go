package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
)

// RewriteReport is what a rewriting did.
type RewriteReport struct {
	Snapshot  string           `json:"snapshot,omitempty"` // that it made; none when nothing was worth rewriting
	Looked    int              `json:"packs_needed"`       // by snapshots that are there
	Rewritten int              `json:"packs_rewritten"`
	Into      int              `json:"packs_made"`
	Before    uint64           `json:"bytes_before"` // of the packs rewritten, each counted once
	After     uint64           `json:"bytes_after"`  // of those made
	More      bool             `json:"more"`         // another run would rewrite more
	Problems  []Problem        `json:"problems,omitempty"`
	Down      []register.Down  `json:"embassies_down,omitempty"`
	Faults    []register.Fault `json:"faults,omitempty"`
	Local     string           `json:"local_problem,omitempty"`
}

const (
	// rewriteChunks is how many chunks one rewriting copies at most, so that its memory is bounded.
	rewriteChunks = 256 << 10
	// rewriteShare is the part of a pack, as a divisor, below which what is needed of it is packed anew.
	rewriteShare = 2
)

// Rewrite packs anew what snapshots need of packs that are less than half full of it, as a part of a snapshot with the
// tree of the newest one, whose references say what moved where. It needs the register's opened key and an agent's
// access. Nothing is removed: once the new packs are receipted, a release finds that nothing needs the old ones. Every
// snapshot can be restored before, meanwhile and after: readers find a chunk in its newest pack. A run that was
// interrupted leaves its packs in the journal, and the next one goes on from there.
func Rewrite(ctx context.Context, reg *register.Register, agent *register.Agent, key *seal.PrivateKey, progress *Progress) (*RewriteReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	if string(key.Public().Bytes()) != string(reg.Public.Bytes()) {
		return nil, ErrNotRegister
	}
	r, err := openRun(ctx, reg, agent, reg.Sites(), whole)
	if err != nil {
		return nil, err
	}
	defer r.close()
	w := &rewriting{run: r, progress: progress, rep: &RewriteReport{}, holders: map[chunk.ID][]int{}}
	w.fetcher = &register.Fetcher{Register: reg, Sites: r.sites, Opener: pack.NewOpener(key), Faults: r.faults}
	w.reader = &Reader{run: r, fetcher: w.fetcher, tree: newTreeCache(r, w.fetcher)}
	if w.books, err = r.openBooks(ctx); err != nil {
		return nil, err
	}
	if err := w.choose(ctx); err != nil {
		return nil, err
	}
	if len(w.old) > 0 {
		err = w.rewrite(ctx)
	}
	w.rep.Down, w.rep.Faults = r.sites.Down(), r.faults.All()
	return w.rep, err
}

// rewriting is one run of Rewrite.
type rewriting struct {
	run      *run
	books    *books
	reader   *Reader
	fetcher  *register.Fetcher
	progress *Progress
	rep      *RewriteReport
	live     liveSet
	old      []oldPack
	holders  map[chunk.ID][]int // chunk that moves -> the old packs that hold it
}

// oldPack is a pack to be rewritten.
type oldPack struct {
	number  uint64
	ref     snapshot.PackRef
	entries []pack.Entry // that are needed
	copied  bool
}

// choose finds the packs that are worth rewriting.
func (w *rewriting) choose(ctx context.Context) error {
	kept := w.books.standing(nil)
	if len(kept) == 0 {
		return nil
	}
	sum, err := w.books.all(kept)
	if err != nil {
		return err
	}
	c := newContents(w.reader, func(x *snapshot.Extent) error { w.live.add(x.Chunk); return nil })
	for _, seq := range kept {
		if err := c.snapshot(ctx, seq); err != nil {
			return fmt.Errorf("snapshot %d: %w", seq, err)
		}
	}
	w.live.sort()
	lost, err := readLost(w.run.reg.Dir)
	if err != nil {
		return err
	}
	var b register.Buffers
	for i := range w.books.heads {
		x := &w.books.heads[i]
		number := x.first
		for j := range x.head.Index {
			ref := &x.head.Index[j]
			if w.run.orders.gone(ref) {
				continue
			}
			packs, err := readIndex(ctx, w.fetcher, &b, ref)
			if err != nil {
				return fmt.Errorf("index of snapshot %d: %w", x.head.Sequence, err)
			}
			for k := range packs {
				if p := &packs[k]; sum.packs.Has(number) && !lost[p.Ref.ID] && !w.run.orders.leaving[p.Ref.ID] {
					w.consider(number, p)
				}
				number++
			}
		}
	}
	w.worthwhile(pack.Data)
	w.worthwhile(pack.Tree)
	return nil
}

// consider takes a pack when less than half of it is needed.
func (w *rewriting) consider(number uint64, p *snapshot.IndexedPack) {
	w.rep.Looked++
	o := oldPack{number: number, ref: p.Ref}
	size := 0
	for _, e := range p.Entries {
		if w.live.has(e.ID) {
			o.entries, size = append(o.entries, e), size+int(e.Stored)
		}
	}
	if size*rewriteShare >= pack.Payload(p.Ref.Class, p.Ref.Kind) {
		return
	}
	if len(w.holders)+len(o.entries) > rewriteChunks {
		w.rep.More = true
		return
	}
	w.old = append(w.old, o)
	for _, e := range o.entries {
		w.holders[e.ID] = append(w.holders[e.ID], len(w.old)-1)
	}
}

// worthwhile drops the packs of one kind unless the new ones are smaller together: a few small ones, each well below
// half of the smallest class, would otherwise be copied again and again.
func (w *rewriting) worthwhile(kind pack.Kind) {
	var before, stored, chunks int
	for _, o := range w.old {
		if o.ref.Kind == kind {
			before += o.ref.Class.Size()
			for _, e := range o.entries {
				stored, chunks = stored+int(e.Stored), chunks+1
			}
		}
	}
	const entry = 64 // of a pack's footer, rounded up
	if after := sizeOf(stored+chunks*entry, kind); after < before {
		return
	}
	w.old = slices.DeleteFunc(w.old, func(o oldPack) bool { return o.ref.Kind == kind })
	clear(w.holders)
	for i := range w.old {
		for _, e := range w.old[i].entries {
			w.holders[e.ID] = append(w.holders[e.ID], i)
		}
	}
}

// sizeOf is about what so many bytes take in packs.
func sizeOf(stored int, kind pack.Kind) int {
	if stored == 0 {
		return 0
	}
	class, ok := pack.Smallest(stored, kind)
	if most := pack.Class(1); !ok || class > most && stored < splitBelow || kind == pack.Tree && class > most {
		class = most
		if stored >= splitBelow && kind == pack.Data {
			class = most + 1
		}
	}
	room := pack.Payload(class, kind)
	return (stored + room - 1) / room * class.Size()
}

func (w *rewriting) rewrite(ctx context.Context) error {
	r := w.run
	known, err := openKnown(r.reg, r.index, r.orders.leaving)
	if err != nil {
		return err
	}
	defer known.close()
	if err := known.resume(ctx, r.sites); err != nil {
		return err
	}
	out, err := newWriter(ctx, r.reg, r.sites, known)
	if err != nil {
		return err
	}
	defer out.stop(nil)
	if err := w.copyAll(ctx, out); err != nil {
		out.abort(err)
		return err
	}
	if err := out.close(); err != nil {
		return err
	}
	newest, err := r.history.head(r.history.last)
	if err != nil {
		return err
	}
	payload, err := w.reader.Payload(newest)
	if err != nil {
		return err
	}
	m, err := w.moving(known)
	if err != nil {
		return err
	}
	head, err := commit(ctx, r, out, payload, m)
	if err != nil {
		return err
	}
	w.rep.Snapshot, w.rep.Into = SnapshotName(head.Sequence), known.packs
	for i := range w.old {
		if w.old[i].copied {
			w.rep.Rewritten++
			w.rep.Before += uint64(w.old[i].ref.Class.Size())
		}
	}
	// A crash before this leaves a snapshot that may come to need a rewritten pack again: then that pack stays.
	leaving := leavingPacks{}
	for i := range w.old {
		if w.old[i].copied {
			leaving[w.old[i].ref.ID] = true
		}
	}
	err = known.whole(func(p snapshot.IndexedPack) error { w.rep.After += uint64(p.Ref.Class.Size()); return nil })
	if err = errors.Join(err, writeLeaving(r.reg.Dir, "rewritten-"+w.rep.Snapshot, leaving), r.settle(known, head)); err != nil {
		w.rep.Local = err.Error()
	}
	return nil
}

// copyAll stores what is needed of the old packs. One that does not open stays as it is.
func (w *rewriting) copyAll(ctx context.Context, out *writer) error {
	var b register.Buffers
	var raw []byte
	hasher, unpress := w.run.reg.IDKey.NewHasher(), pack.NewDecompressor()
	for i := range w.old {
		o := &w.old[i]
		if o.copied = len(o.entries) == 0; o.copied {
			continue
		}
		payload, err := w.fetcher.Open(ctx, &b, &o.ref)
		if err == nil {
			for _, e := range o.entries { // the whole pack first: one that lies must not be copied in part
				if cap(raw) < int(e.Raw) {
					raw = make([]byte, 0, max(int(e.Raw), chunk.Max))
				}
				if _, err = register.OpenChunk(hasher, unpress, raw, payload, e); err != nil {
					break
				}
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if register.Unreadable(err) {
			w.rep.Problems = append(w.rep.Problems, Problem{o.ref.ID.String(), err.Error()})
			continue
		}
		if err != nil {
			return err
		}
		o.copied = true
		w.progress.Bytes.Add(int64(o.ref.Class.Size()))
		for _, e := range o.entries {
			if !out.known.claimAgain(e.ID) {
				continue
			}
			if err := out.add(o.ref.Kind, e.ID, payload[e.Offset:e.Offset+e.Stored], int(e.Raw), e.Compressed); err != nil {
				return err
			}
		}
	}
	return nil
}

// claimAgain is claim for a chunk of which a new copy is wanted.
func (k *known) claimAgain(id chunk.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.fresh[id]; ok || k.pending.Has(id) {
		return false
	}
	k.fresh[id] = struct{}{}
	return true
}

// moving is what the references of a snapshot say that a rewriting makes.
type moving struct {
	needs snapshot.Numbers
	moved []snapshot.Move
}

// moving finds in which of the new packs everything went.
func (w *rewriting) moving(k *known) (*moving, error) {
	before, err := w.run.addedBefore()
	if err != nil {
		return nil, err
	}
	to := make([]snapshot.Numbers, len(w.old))
	found := make([]map[chunk.ID]struct{}, len(w.old))
	for i := range found {
		found[i] = map[chunk.ID]struct{}{}
	}
	number := before
	err = k.whole(func(p snapshot.IndexedPack) error {
		for _, e := range p.Entries {
			for _, i := range w.holders[e.ID] {
				to[i].Add(number, number+1)
				found[i][e.ID] = struct{}{}
			}
		}
		number++
		return nil
	})
	if err != nil {
		return nil, err
	}
	n, err := w.books.of(w.run.history.last)
	if err != nil {
		return nil, err
	}
	m := &moving{needs: n.packs}
	for i := range w.old {
		o := &w.old[i]
		for _, e := range o.entries {
			if _, ok := found[i][e.ID]; o.copied && !ok {
				return nil, fmt.Errorf("rewriting: chunk %s of pack %s: %w", e.ID, o.ref.ID, errJournal)
			}
		}
		if o.copied {
			m.moved = append(m.moved, snapshot.Move{Pack: o.number, To: to[i]})
			m.needs.Remove(o.number)
		}
	}
	return m, nil
}

// liveSet is a set of chunks, of which it keeps eight bytes each: two that agree in these count as one, and then a chunk
// that nothing needs is copied with the others.
type liveSet struct {
	ids    []uint64
	sorted int
}

func (s *liveSet) add(id chunk.ID) {
	s.ids = append(s.ids, binary.BigEndian.Uint64(id[:]))
	if len(s.ids) > 2*s.sorted+1<<20 {
		s.sort()
	}
}

func (s *liveSet) sort() {
	slices.Sort(s.ids)
	s.ids = slices.Compact(s.ids)
	s.sorted = len(s.ids)
}

func (s *liveSet) has(id chunk.ID) bool {
	_, ok := slices.BinarySearch(s.ids, binary.BigEndian.Uint64(id[:]))
	return ok
}
