package archive

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// fileTask is a file being restored.
type fileTask struct {
	place *place
	entry snapshot.Entry
	mu    sync.Mutex
	out   *filetree.Output
	left  int // pieces
	err   error
}

// work fetches the packs of a window and writes what they hold. It returns when every piece and every link has come to
// an end, good or bad.
func (w *restorer) work(win *window) error {
	queue := make(chan *packWork)
	var all sync.WaitGroup
	for _, u := range w.unpackers {
		open := win.packs[u.last]
		if u.payload == nil {
			open = nil
		}
		if open != nil {
			delete(win.packs, u.last)
		}
		all.Go(func() {
			if open != nil { // it has this pack from the window before
				u.unpack(open)
			}
			for work := range queue {
				u.unpack(work)
			}
		})
	}
	for _, work := range win.order {
		if win.packs[work.ref.ID] != nil {
			queue <- work
		}
	}
	close(queue)
	all.Wait()
	for _, l := range win.links {
		w.link(l)
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return nil
}

// unpacker is what one goroutine needs to take chunks out of packs.
type unpacker struct {
	w       *restorer
	buffers register.Buffers
	raw     []byte
	hasher  *chunk.Hasher
	unpress *pack.Decompressor

	last    pack.ID // the pack whose payload is open
	payload []byte  // nil for none
}

func newUnpacker(w *restorer) *unpacker {
	return &unpacker{w: w, hasher: w.r.run.reg.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

// unpack fetches a pack, unless it is open from before, or only the part of it that is wanted, and writes its pieces,
// each chunk opened once. When the run has failed it only ends the pieces.
func (u *unpacker) unpack(work *packWork) {
	slices.SortStableFunc(work.pieces, func(a, b piece) int { return cmp.Compare(a.entry.Offset, b.entry.Offset) })
	part := u.part(work)
	if part == nil {
		if err := u.open(&work.ref); err != nil {
			for i := range work.pieces {
				work.pieces[i].task.fail(err)
			}
			return
		}
	}
	var raw []byte
	var last chunk.ID
	var lastErr error
	for i := range work.pieces {
		p := &work.pieces[i]
		if i == 0 || p.entry.ID != last {
			raw, lastErr = u.chunk(work, part, p.entry)
			last = p.entry.ID
		}
		switch {
		case lastErr != nil:
			p.task.fail(fmt.Errorf("pack %s: %w", work.ref.ID, lastErr))
		case uint64(p.off)+uint64(p.n) > uint64(len(raw)):
			p.task.fail(fmt.Errorf("%w: an extent ends behind its chunk", register.ErrDamaged))
		default:
			p.task.write(raw[p.off:p.off+p.n], p.at)
		}
	}
}

// open makes sure that a pack's payload is there.
func (u *unpacker) open(ref *snapshot.PackRef) (err error) {
	if u.w.ctx.Err() != nil {
		return context.Cause(u.w.ctx)
	}
	if u.payload != nil && u.last == ref.ID {
		return nil
	}
	u.payload, err = u.w.r.fetcher.Open(u.w.ctx, &u.buffers, ref)
	u.last = ref.ID
	if err != nil {
		u.payload = nil
		if !register.Unreadable(err) {
			u.w.failure.set(err)
		}
		return err
	}
	u.w.progress.Stored.Add(int64(ref.Class.Size()))
	return nil
}

// part fetches only what is wanted of a pack, when some paths are restored and they want little of it. It returns nil
// where the whole pack is to be fetched.
func (u *unpacker) part(work *packWork) *partReader {
	if len(u.w.opts.Include) == 0 || u.payload != nil && u.last == work.ref.ID {
		return nil
	}
	var entries []pack.Entry
	stored := 0
	for i := range work.pieces {
		if e := work.pieces[i].entry; len(entries) == 0 || e.ID != entries[len(entries)-1].ID {
			entries = append(entries, e)
			stored += int(e.Stored)
		}
	}
	if stored*partBelow > work.ref.Class.Size() {
		return nil
	}
	p, err := readPart(u.w.ctx, u.w.r.fetcher, &work.ref, entries)
	if err != nil {
		return nil
	}
	for _, leaf := range p.leaves {
		u.w.progress.Stored.Add(int64(len(leaf)))
	}
	return p
}

// chunk returns a chunk of a pack, checked against its id. Where a part of the pack does not give it, the whole pack is
// fetched, which finds who is at fault.
func (u *unpacker) chunk(work *packWork, part *partReader, e pack.Entry) ([]byte, error) {
	if cap(u.raw) < int(e.Raw) {
		u.raw = make([]byte, 0, max(int(e.Raw), chunk.Max))
	}
	if part != nil {
		if stored, err := part.stored(nil, e); err == nil {
			alone := e
			alone.Offset = 0
			if raw, err := register.OpenChunk(u.hasher, u.unpress, u.raw, stored, alone); err == nil {
				return raw, nil
			}
		}
		if err := u.open(&work.ref); err != nil {
			return nil, err
		}
	}
	return register.OpenChunk(u.hasher, u.unpress, u.raw, u.payload, e)
}

// write puts bytes into the file, which is made with the first and finished with the last.
func (t *fileTask) write(data []byte, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.place.w
	if t.err == nil && t.out == nil {
		out, err := t.place.dir.CreateFile(t.entry.Name, int64(t.entry.Size))
		if err != nil {
			w.failure.set(err)
			t.err = err
		}
		t.out = out
	}
	if t.err == nil && len(data) > 0 {
		if _, err := t.out.WriteAt(data, at); err != nil {
			w.failure.set(err)
			t.err = err
		}
		w.progress.Bytes.Add(int64(len(data)))
	}
	t.end()
}

// fail ends one piece without its bytes: the file is not restored.
func (t *fileTask) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
		if register.Unreadable(err) {
			t.place.w.lose(join(t.place.rel, t.entry.Name), err)
		}
	}
	t.end()
}

// end counts a piece; with the last one the file gets its attributes, or is removed.
func (t *fileTask) end() {
	if t.left--; t.left > 0 {
		return
	}
	w := t.place.w
	switch {
	case t.err != nil && t.out != nil:
		if err := t.out.Discard(); err != nil {
			w.failure.set(err)
		}
	case t.err == nil:
		if err := t.out.Finish(toMeta(&t.entry)); err != nil {
			w.failure.set(err)
		}
		w.progress.Files.Add(1)
		if err := w.made(t.place, &t.entry); err != nil {
			w.failure.set(err)
		}
	}
	t.out = nil
	t.place.leave()
}
