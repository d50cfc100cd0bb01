package archive

import (
	"fmt"
	"sync/atomic"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// countdown counts parts that several goroutines end.
type countdown struct{ n atomic.Int64 }

func (c *countdown) set(n int) { c.n.Store(int64(n)) }

// down ends one part and reports whether it was the last.
func (c *countdown) down() bool { return c.n.Add(-1) == 0 }

// leave ends one part of a folder; the last one finishes it.
func (f *folder) leave() {
	if f.left.Add(-1) != 0 {
		return
	}
	b := f.b
	if b.ctx.Err() == nil {
		if err := b.finish(f); err != nil {
			b.failure.set(err)
		}
	}
	if f.parent != nil {
		f.src.Close()
		parent := f.parent
		f.items, f.files = nil, nil
		parent.leave()
	}
}

// smallListing is the size below which a folder's listing is stored with its siblings' in one chunk, so that a
// million small folders are not a million chunks.
const smallListing = 8 << 10

// finish stores a folder's listing, or finds that it is stored, and tells the parent where.
func (b *backup) finish(f *folder) error {
	var r fileResult
	if f.same && !f.grown.Load() && b.allKnown(f.known.listing) {
		r = fileResult{extents: f.known.listing, size: f.known.size, files: f.known.files}
		b.seenNext.add(b.key.folder(f.rel), f.raw)
	} else {
		var err error
		if r, err = b.list(f); err != nil {
			return err
		}
		if f.parent != nil {
			f.parent.grown.Store(true)
		}
	}
	if f.parent == nil {
		return b.finishRoot(f, r)
	}
	r.got = true
	p := &f.parent.files[f.place]
	r.flags |= p.flags
	*p = r
	return nil
}

func (b *backup) finishRoot(f *folder, r fileResult) error {
	xattrs, err := f.src.Xattrs(".", filetree.Dir)
	if err != nil {
		b.problem(f, "", err)
	}
	e := toEntry("", &b.rootStat)
	e.Extents, e.Size, e.Files, e.Xattrs, e.Flags = r.extents, r.size, r.files, toXattrs(xattrs), r.flags
	b.outcome <- e
	return nil
}

// list writes the listing of a folder that is not as it was seen.
func (b *backup) list(f *folder) (fileResult, error) {
	p := b.borrow()
	defer b.giveBack(p)
	if f.same {
		b.recall(f)
	}
	if err := b.storeSmallListings(p, f); err != nil {
		return fileResult{}, err
	}
	var r fileResult
	var w snapshot.ListingWriter
	var first []byte // the piece so far, while there is only one
	keep := func(piece []byte) error {
		if piece == nil {
			return nil
		}
		if first == nil && len(r.extents) == 0 && len(piece) < smallListing && f.parent != nil {
			first = append([]byte(nil), piece...)
			return nil
		}
		if first != nil {
			if err := b.storePiece(p, &r, first); err != nil {
				return err
			}
			first = nil
		}
		return b.storePiece(p, &r, piece)
	}
	for i := range f.items {
		e, ok := b.entry(f, i)
		if !ok {
			continue
		}
		if e.Kind == snapshot.Dir {
			r.files += e.Files
		} else if e.Kind == snapshot.File {
			r.files++
		}
		r.size += e.Size
		piece, err := w.Add(&e)
		if err != nil {
			return r, err
		}
		if err := keep(piece); err != nil {
			return r, err
		}
	}
	if err := keep(w.Finish()); err != nil {
		return r, err
	}
	if f.racy.Load() {
		f.record.print = print{}
	}
	key := b.key.folder(f.rel)
	if first != nil {
		r.listing, r.key, r.record = first, key, &f.record
		return r, nil
	}
	b.seenNext.add(key, f.record.body(r.size, r.files, r.extents))
	return r, nil
}

func (b *backup) storePiece(p *press, r *fileResult, piece []byte) error {
	id, err := b.store(p, pack.Tree, piece)
	r.extents = append(r.extents, snapshot.Extent{Chunk: id, Length: uint32(len(piece))})
	return err
}

// storeSmallListings puts the listings of small folders below f into chunks, in the order of their names.
func (b *backup) storeSmallListings(p *press, f *folder) error {
	var buf []byte
	var held []int
	flush := func() error {
		if len(held) == 0 {
			return nil
		}
		id, err := b.store(p, pack.Tree, buf)
		if err != nil {
			return err
		}
		at := 0
		for _, i := range held {
			r := &f.files[i]
			r.extents = []snapshot.Extent{{Chunk: id, Offset: uint32(at), Length: uint32(len(r.listing))}}
			at += len(r.listing)
			b.seenNext.add(r.key, r.record.body(r.size, r.files, r.extents))
			r.listing, r.record = nil, nil
		}
		buf, held = buf[:0], held[:0]
		return nil
	}
	for i := range f.files {
		if l := f.files[i].listing; l != nil {
			if len(buf)+len(l) > chunk.Small {
				if err := flush(); err != nil {
					return err
				}
			}
			buf, held = append(buf, l...), append(held, i)
		}
	}
	return flush()
}

// recall fills in the files of a folder that is as it was seen, because a folder below it is not.
func (b *backup) recall(f *folder) {
	files := f.known.byPrint()
	var state []byte
	for i := range f.items {
		it := &f.items[i]
		if it.Stat.Kind != filetree.File {
			continue
		}
		state = appendState(state[:0], it)
		old := files[b.key.print(state)]
		f.files[i] = fileResult{extents: old.extents, deep: old.deep, flags: old.flags, size: uint64(it.Stat.Size), got: true}
	}
}

// entry makes the entry of a folder's item. It reads what a link points to, and the attributes of what was not read
// anew. An item that vanished has none.
func (b *backup) entry(f *folder, i int) (snapshot.Entry, bool) {
	it, r := &f.items[i], &f.files[i]
	if r.gone || it.Err != nil {
		return snapshot.Entry{}, false
	}
	e := toEntry(it.Name, &it.Stat)
	e.Extents, e.Flags = r.extents, r.flags
	e.LinkGroup = b.linkGroup(&it.Stat)
	e.Xattrs = r.xattrs
	var err error
	switch it.Stat.Kind {
	case filetree.File:
		e.Size = r.size
	case filetree.Dir:
		e.Size, e.Files = r.size, r.files
	case filetree.Symlink:
		if e.Target, err = f.src.ReadLink(it.Name); err != nil {
			b.problem(f, it.Name, err)
			f.racy.Store(true)
			return e, false
		}
	}
	if !r.described {
		xattrs, err := f.src.Xattrs(it.Name, it.Stat.Kind)
		if err != nil {
			b.problem(f, it.Name, err)
			f.racy.Store(true)
		}
		e.Xattrs = toXattrs(xattrs)
	}
	if it.Stat.Kind == filetree.File && r.flags&snapshot.Partial == 0 && b.settled(&it.Stat) {
		state := appendState(nil, it)
		f.record.add(b.key.print(state), &seenFile{flags: r.flags, extents: r.extents, deep: r.deep})
	}
	return b.storable(f, e)
}

// storable drops what no listing can hold: attributes beyond the caps, or the whole entry. Both are noted.
func (b *backup) storable(f *folder, e snapshot.Entry) (snapshot.Entry, bool) {
	err := e.Check()
	if err == nil {
		return e, true
	}
	b.problem(f, e.Name, fmt.Errorf("not stored: %v", err))
	f.racy.Store(true)
	if e.Xattrs = nil; e.Check() != nil {
		return e, false
	}
	return e, true
}

// toEntry takes over what a stat says.
func toEntry(name string, st *filetree.Stat) snapshot.Entry {
	e := snapshot.Entry{
		Name: name, Kind: snapshot.Kind(st.Kind), Mode: st.Mode, UID: st.UID, GID: st.GID,
		ModSec: st.ModSec, ModNsec: st.ModNsec,
	}
	if st.Kind == filetree.CharDevice || st.Kind == filetree.BlockDevice {
		e.Device = st.Device
	}
	return e
}

func toXattrs(in []filetree.Xattr) []snapshot.Xattr {
	out := make([]snapshot.Xattr, len(in))
	for i, x := range in {
		out[i] = snapshot.Xattr(x)
	}
	return out
}

// storeProblems stores the list of problems and returns where it is.
func (b *backup) storeProblems() ([]snapshot.Extent, error) {
	p := b.borrow()
	defer b.giveBack(p)
	var r fileResult
	for text := b.problems.text; len(text) > 0; {
		n := min(len(text), chunk.Small)
		if err := b.storePiece(p, &r, text[:n]); err != nil {
			return nil, err
		}
		text = text[n:]
	}
	return r.extents, nil
}
