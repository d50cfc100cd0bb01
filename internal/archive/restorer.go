package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

const (
	// fetchers is how many packs are fetched and unpacked at once.
	fetchers = 3
	// windowPieces and windowFolders bound how much of a tree is under way: pieces of files whose packs are being
	// fetched, and folders that are open because something below them is not yet written.
	windowPieces  = 32 << 10
	windowFolders = 400
)

// restorer writes a tree. The walk makes folders and collects a window of pieces; the window is then worked off pack
// by pack, so that each pack is fetched once however its pieces are spread, while the walk collects the next.
type restorer struct {
	ctx      context.Context
	r        *Reader
	target   *filetree.Target
	opts     RestoreOptions
	progress *Progress

	window  *window
	busy    chan error // the result of the window before, once there is one
	linksMu sync.Mutex // guards links and what they point to
	links   map[uint64]*linkTarget
	lost    problemList
	marked  problemList
	failure failure
}

// window is a part of the tree whose content is to be fetched.
type window struct {
	packs   map[pack.ID]*packWork
	order   []*packWork
	pieces  int
	folders int
	links   []*linkTask
}

// packWork is what one pack holds for a window.
type packWork struct {
	ref    snapshot.PackRef
	pieces []piece
}

// piece is one run of a file's bytes in a chunk.
type piece struct {
	entry pack.Entry
	task  *fileTask
	at    int64 // in the file
	off   uint32
	n     uint32
}

// place is a folder being restored; it gets its times when everything in it is written.
type place struct {
	rel    string
	dir    *filetree.Place
	meta   filetree.Meta
	parent *place
	left   atomic.Int64
	w      *restorer
}

// fileTask is a file being restored.
type fileTask struct {
	place *place
	entry snapshot.Entry
	mu    sync.Mutex
	out   *filetree.Output
	left  int // pieces
	err   error
}

// linkTarget is the first entry of a group of hard links.
type linkTarget struct {
	ref  filetree.LinkRef
	done bool
	err  error
}

// linkTask is a further name of an inode.
type linkTask struct {
	place *place
	entry snapshot.Entry
	first *linkTarget
}

func newRestorer(ctx context.Context, r *Reader, t *filetree.Target, opts RestoreOptions, p *Progress) *restorer {
	w := &restorer{r: r, target: t, opts: opts, progress: p, links: map[uint64]*linkTarget{}}
	w.ctx, w.failure.stop = context.WithCancelCause(ctx)
	w.window = newWindow()
	return w
}

func newWindow() *window { return &window{packs: map[pack.ID]*packWork{}} }

// tree restores everything below the root, and the root's own attributes.
func (w *restorer) tree(p *snapshot.Payload) error {
	root := &place{dir: w.target.Root(), meta: toMeta(&p.Root), w: w}
	if err := w.folder(root, &p.Root); err != nil {
		w.failure.set(err)
	}
	if err := w.turn(); err != nil {
		w.failure.set(err)
	}
	if err := w.settle(); err != nil {
		w.failure.set(err)
	}
	if w.failure.err == nil && w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return w.failure.err
}

// folder restores a folder's entries. It holds one part of the place until it has seen them all.
func (w *restorer) folder(p *place, e *snapshot.Entry) error {
	p.left.Add(1)
	defer p.leave()
	w.window.folders++
	w.progress.Folders.Add(1)
	if e.Flags&snapshot.Partial != 0 {
		w.marked.add(p.rel, "the folder could not be read whole when it was backed up")
	}
	for child, err := range w.r.List(w.ctx, e) {
		if err != nil {
			if w.ctx.Err() != nil {
				return context.Cause(w.ctx)
			}
			w.lost.add(p.rel+"/", "everything in this folder from here on: "+err.Error())
			break
		}
		if err := w.child(p, &child); err != nil {
			return err
		}
	}
	if w.window.folders >= windowFolders {
		return w.turn()
	}
	return nil
}

// wants reports whether a path is asked for, and whether something below it may be.
func (w *restorer) wants(rel string) (all, below bool) {
	if len(w.opts.Include) == 0 {
		return true, true
	}
	for _, inc := range w.opts.Include {
		if inc == "" || rel == inc || strings.HasPrefix(rel, inc+"/") {
			return true, true
		}
		below = below || strings.HasPrefix(inc, rel+"/")
	}
	return false, below
}

func (w *restorer) child(p *place, e *snapshot.Entry) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	rel := join(p.rel, e.Name)
	all, below := w.wants(rel)
	if !all && !(below && e.Kind == snapshot.Dir) {
		return nil
	}
	switch e.Kind {
	case snapshot.Dir:
		dir, err := p.dir.Mkdir(e.Name)
		if err != nil {
			return err
		}
		p.left.Add(1)
		return w.folder(&place{rel: rel, dir: dir, meta: toMeta(e), parent: p, w: w}, e)
	case snapshot.File:
		return w.file(p, e)
	}
	if w.linked(p, e) {
		return nil
	}
	if err := w.special(p, e); err != nil {
		return err
	}
	return w.made(p, e)
}

// special restores what is neither a folder nor a file.
func (w *restorer) special(p *place, e *snapshot.Entry) error {
	switch e.Kind {
	case snapshot.Symlink:
		return p.dir.Symlink(e.Name, e.Target, toMeta(e))
	case snapshot.FIFO:
		return p.dir.Fifo(e.Name, toMeta(e))
	case snapshot.CharDevice, snapshot.BlockDevice:
		return p.dir.Device(e.Name, filetree.Kind(e.Kind), e.Device, toMeta(e))
	}
	return p.dir.Socket(e.Name)
}

// linked takes an entry as a further name of an inode that was restored under another one.
func (w *restorer) linked(p *place, e *snapshot.Entry) bool {
	if e.LinkGroup == 0 {
		return false
	}
	w.linksMu.Lock()
	defer w.linksMu.Unlock()
	first, ok := w.links[e.LinkGroup]
	if !ok {
		w.links[e.LinkGroup] = &linkTarget{}
		return false
	}
	p.left.Add(1)
	w.window.links = append(w.window.links, &linkTask{p, *e, first})
	return true
}

// made keeps what a later name of the same inode links to.
func (w *restorer) made(p *place, e *snapshot.Entry) error {
	if e.LinkGroup == 0 {
		return nil
	}
	ref, err := p.dir.Ref(e.Name)
	w.linksMu.Lock()
	defer w.linksMu.Unlock()
	*w.links[e.LinkGroup] = linkTarget{ref: ref, done: true, err: err}
	return err
}

// file queues the pieces of a file; an empty one, or one of holes only, is made at once.
func (w *restorer) file(p *place, e *snapshot.Entry) error {
	if w.linked(p, e) {
		return nil
	}
	rel := join(p.rel, e.Name)
	if e.Flags&snapshot.Partial != 0 {
		w.marked.add(rel, "changed or could not be read whole when it was backed up")
	}
	extents, err := w.r.extents(w.ctx, e)
	if err != nil {
		w.lost.add(rel, err.Error())
		return nil
	}
	e.Extents = nil
	t := &fileTask{place: p, entry: *e}
	pieces := make([]piece, 0, len(extents))
	refs := make([]snapshot.PackRef, 0, 1)
	at := int64(0)
	for i := range extents {
		x := &extents[i]
		if !x.Hole {
			loc, ok := w.r.run.index.Lookup(x.Chunk)
			if !ok {
				w.lost.add(rel, "a part of it is in no pack")
				return nil
			}
			loc.Entry.ID = x.Chunk
			pieces = append(pieces, piece{loc.Entry, t, at, x.Offset, x.Length})
			refs = append(refs, loc.Ref)
		}
		at += int64(x.Size())
	}
	p.left.Add(1)
	if t.left = len(pieces); t.left == 0 {
		t.left = 1
		t.write(nil, 0)
		return nil
	}
	for i := range pieces {
		w.window.add(refs[i], pieces[i])
	}
	if w.window.pieces >= windowPieces {
		return w.turn()
	}
	return nil
}

func (w *window) add(ref snapshot.PackRef, p piece) {
	work := w.packs[ref.ID]
	if work == nil {
		work = &packWork{ref: ref}
		w.packs[ref.ID] = work
		w.order = append(w.order, work)
	}
	work.pieces = append(work.pieces, p)
	w.pieces++
}

// turn waits for the window before, starts on this one, and opens the next.
func (w *restorer) turn() error {
	if err := w.settle(); err != nil {
		return err
	}
	win := w.window
	w.window = newWindow()
	w.busy = make(chan error, 1)
	go func() { w.busy <- w.work(win) }()
	return nil
}

func (w *restorer) settle() error {
	if w.busy == nil {
		return nil
	}
	err := <-w.busy
	w.busy = nil
	return err
}

// work fetches the packs of a window and writes what they hold.
func (w *restorer) work(win *window) error {
	queue := make(chan *packWork)
	var all sync.WaitGroup
	for range min(fetchers, len(win.order)) {
		all.Go(func() {
			u := newUnpacker(w)
			for work := range queue {
				if w.ctx.Err() == nil {
					u.unpack(work)
				}
			}
		})
	}
	for _, work := range win.order {
		queue <- work
	}
	close(queue)
	all.Wait()
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	for _, l := range win.links {
		w.link(l)
	}
	return w.failure.err
}

// link makes a further name of an inode.
func (w *restorer) link(l *linkTask) {
	defer l.place.leave()
	rel := join(l.place.rel, l.entry.Name)
	w.linksMu.Lock()
	first := *l.first
	w.linksMu.Unlock()
	switch {
	case first.err != nil:
		w.lost.add(rel, first.err.Error())
	case !first.done:
		w.lost.add(rel, "what it is a hard link of could not be restored")
	default:
		if err := l.place.dir.Link(l.entry.Name, first.ref); err != nil {
			w.failure.set(err)
		}
		if l.entry.Kind == snapshot.File {
			w.progress.Files.Add(1)
		}
	}
}

// leave ends one part of a folder; the last one gives the folder its attributes.
func (p *place) leave() {
	if p.left.Add(-1) != 0 {
		return
	}
	if err := p.dir.Finish(p.meta); err != nil {
		p.w.failure.set(err)
	}
	if p.parent != nil {
		p.parent.leave()
	}
}

// unpacker is what one goroutine needs to take chunks out of packs.
type unpacker struct {
	w       *restorer
	buffers buffers
	raw     []byte
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

func newUnpacker(w *restorer) *unpacker {
	return &unpacker{w: w, hasher: w.r.run.reg.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

// unpack fetches a pack and writes its pieces, each chunk opened once.
func (u *unpacker) unpack(work *packWork) {
	payload, err := u.w.r.fetcher.open(u.w.ctx, &u.buffers, &work.ref)
	if err != nil {
		for i := range work.pieces {
			work.pieces[i].task.fail(err)
		}
		return
	}
	u.w.progress.Stored.Add(int64(work.ref.Class.Size()))
	slices.SortStableFunc(work.pieces, func(a, b piece) int { return cmp.Compare(a.entry.Offset, b.entry.Offset) })
	var raw []byte
	var last chunk.ID
	var lastErr error
	for i := range work.pieces {
		p := &work.pieces[i]
		if i == 0 || p.entry.ID != last {
			if cap(u.raw) < int(p.entry.Raw) {
				u.raw = make([]byte, 0, max(int(p.entry.Raw), chunk.Max))
			}
			raw, lastErr = plain(u.hasher, u.unpress, u.raw, payload, p.entry)
			last = p.entry.ID
		}
		switch {
		case lastErr != nil:
			p.task.fail(fmt.Errorf("pack %s: %w", work.ref.ID, lastErr))
		case uint64(p.off)+uint64(p.n) > uint64(len(raw)):
			p.task.fail(fmt.Errorf("%w: an extent ends behind its chunk", ErrDamaged))
		default:
			p.task.write(raw[p.off:p.off+p.n], p.at)
		}
	}
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
		if t.place.w.ctx.Err() == nil || !errors.Is(err, context.Canceled) {
			t.place.w.lost.add(join(t.place.rel, t.entry.Name), err.Error())
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

func toMeta(e *snapshot.Entry) filetree.Meta {
	m := filetree.Meta{Mode: e.Mode, UID: e.UID, GID: e.GID, ModSec: e.ModSec, ModNsec: e.ModNsec}
	for _, x := range e.Xattrs {
		m.Xattrs = append(m.Xattrs, filetree.Xattr(x))
	}
	return m
}
