package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

const (
	// fetchers is how many packs are fetched and unpacked at once.
	fetchers = 3
	// What bounds how much of a tree is under way: pieces of files whose packs are being fetched, folders that are open
	// because something below them is not yet written, and files that are open because their pieces may be in several
	// packs. Two windows at a time hold that many.
	windowPieces  = 32 << 10
	windowFolders = 256
	windowOpen    = 256
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
	hidden  atomic.Bool // some of it may be with embassies that are down
	marked  problemList
	failure failure

	unpackers []*unpacker // each keeps its buffers, and the last pack open, from window to window
	wanted    []string    // opts.Include as paths are here; nil for everything
	met       []bool      // which of them there are
}

// window is a part of the tree whose content is to be fetched.
type window struct {
	packs   map[pack.ID]*packWork
	order   []*packWork
	pieces  int
	folders int
	open    int // files of several pieces
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
	for range fetchers {
		w.unpackers = append(w.unpackers, newUnpacker(w))
	}
	for _, inc := range opts.Include {
		w.wanted = append(w.wanted, path.Clean("/" + inc)[1:])
	}
	w.met = make([]bool, len(w.wanted))
	return w
}

func newWindow() *window { return &window{packs: map[pack.ID]*packWork{}} }

// tree restores everything below the root, and the root's own attributes. When it returns, nothing of the target is
// open any more but the target itself.
func (w *restorer) tree(p *snapshot.Payload) error {
	defer w.failure.stop(nil)
	base, err := w.base(&p.Root)
	if err != nil {
		return err
	}
	root := &place{dir: w.target.Root(), meta: toMeta(base), w: w}
	for _, step := range []func() error{
		func() error { return w.folder(root, base) }, w.turn, w.settle,
	} {
		if err := step(); err != nil {
			w.failure.set(err)
		}
	}
	if w.failure.err == nil && w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return w.failure.err
}

// base finds the folder that becomes the target.
func (w *restorer) base(root *snapshot.Entry) (*snapshot.Entry, error) {
	if w.opts.Base == "" {
		return root, nil
	}
	e, err := w.r.lookup(w.ctx, root, w.opts.Base)
	if err == nil && e.Kind != snapshot.Dir {
		err = fmt.Errorf("%w: %q is no folder", ErrNoPath, w.opts.Base)
	}
	return e, err
}

// missing returns the first path that was asked for and is not in the snapshot.
func (w *restorer) missing() (string, bool) {
	for i, met := range w.met {
		if !met && w.wanted[i] != "" {
			return w.wanted[i], true
		}
	}
	return "", false
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
			if !register.Unreadable(err) && !errors.Is(err, snapshot.ErrEntry) {
				return err
			}
			w.lose(p.rel+"/", fmt.Errorf("everything in this folder from here on: %w", err))
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
	if len(w.wanted) == 0 {
		return true, true
	}
	for i, inc := range w.wanted {
		if inc == "" || rel == inc || strings.HasPrefix(rel, inc+"/") {
			w.met[i] = true
			all = true
		}
		below = below || strings.HasPrefix(inc, rel+"/")
	}
	return all, all || below
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
	if e.Kind != snapshot.File && errors.Is(err, fs.ErrNotExist) {
		return nil // a device or socket that was not made, which the target told
	}
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
	if register.Unreadable(err) || errors.Is(err, snapshot.ErrEntry) {
		w.lose(rel, err)
		return nil
	}
	if err != nil {
		return err
	}
	e.Extents = nil
	t := &fileTask{place: p, entry: *e}
	for i := range extents {
		if !extents[i].Hole {
			t.left++
		}
	}
	p.left.Add(1)
	if t.left == 0 {
		t.left = 1
		t.write(nil, 0)
		return nil
	}
	if t.left > 1 {
		w.window.open++
	}
	return w.pieces(t, extents)
}

// pieces adds what a file needs to the window. A file may reach over several.
func (w *restorer) pieces(t *fileTask, extents []snapshot.Extent) error {
	at := int64(0)
	var err error
	for i := range extents {
		x := &extents[i]
		switch loc, ok := w.r.run.index.Lookup(x.Chunk); {
		case x.Hole:
		case err != nil:
			t.fail(err) // every piece is ended, come what may
		case !ok:
			t.fail(w.r.run.unknown(fmt.Sprintf("chunk %s is in no pack", x.Chunk)))
		default:
			loc.Entry.ID = x.Chunk
			w.window.add(loc.Ref, piece{loc.Entry, t, at, x.Offset, x.Length})
			if w.window.pieces >= windowPieces || w.window.open >= windowOpen {
				err = w.turn()
			}
		}
		at += int64(x.Size())
	}
	return err
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

// turn waits for the window before, starts on this one, and opens the next. The error is that of the window before;
// this one is worked off all the same, because whoever has a part in it is waiting.
func (w *restorer) turn() error {
	err := w.settle()
	win := w.window
	w.window = newWindow()
	w.busy = make(chan error, 1)
	go func() { w.busy <- w.work(win) }()
	return err
}

func (w *restorer) settle() error {
	if w.busy == nil {
		return nil
	}
	err := <-w.busy
	w.busy = nil
	return err
}

// lose notes a file or folder that cannot be restored.
func (w *restorer) lose(rel string, err error) {
	if errors.Is(err, register.ErrUnasked) {
		w.hidden.Store(true)
	}
	w.lost.add(rel, err.Error())
}

// link makes a further name of an inode.
func (w *restorer) link(l *linkTask) {
	defer l.place.leave()
	if w.ctx.Err() != nil {
		return
	}
	rel := join(l.place.rel, l.entry.Name)
	w.linksMu.Lock()
	first := *l.first
	w.linksMu.Unlock()
	switch {
	case first.err != nil:
		w.lose(rel, first.err)
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
	if p.w.ctx.Err() != nil {
		p.dir.Close()
	} else if err := p.dir.Finish(p.meta); err != nil {
		p.w.failure.set(err)
	}
	if p.parent != nil {
		p.parent.leave()
	}
}

func toMeta(e *snapshot.Entry) filetree.Meta {
	m := filetree.Meta{Mode: e.Mode, UID: e.UID, GID: e.GID, ModSec: e.ModSec, ModNsec: e.ModNsec}
	for _, x := range e.Xattrs {
		m.Xattrs = append(m.Xattrs, filetree.Xattr(x))
	}
	return m
}
