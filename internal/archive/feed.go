package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Feed is a source that gives its entries one after the other, each once, instead of being read from a folder: a
// database server that sends its files. Files are cut at fixed places (chunk.Pages); runs of zero bytes become holes.
type Feed struct {
	Path string   // what the snapshot says it was made of
	Tags []string // ascending, distinct
	// Forget has everything given whole: nothing is known of the last feed.
	Forget bool
	// Read hands everything to the feeder. What it returns is the source's position, which the head bears as it is.
	// An error ends the backup, and no snapshot is made.
	Read func(context.Context, *Feeder) (position []byte, err error)
}

// Attributes are what an entry of a feed has besides its name and content.
type Attributes struct {
	Mode     uint32 // the 07777 bits
	UID, GID uint32
	Modified time.Time
}

// Feeder takes the entries of a feed. Paths are below the snapshot's root, with "/" between names; folders that are not
// given are made. Its methods are called by one goroutine.
type Feeder struct {
	ctx      context.Context
	w        *writer
	progress *Progress
	root     *fedFolder
	stats    counters

	before *fedBefore // what the last feed left
	next   *fedWriter // what the next will find; nil where it cannot be written
	note   []byte

	blocks  chan fedBlock
	free    chan []byte
	workers sync.WaitGroup
	failure failure
}

// fedFolder is a folder of a feed. Only names and where contents are stay in memory.
type fedFolder struct {
	entry   snapshot.Entry
	names   map[string]*snapshot.Entry // of what is not a folder
	folders map[string]*fedFolder
}

// fedFile is a file on its way: the last block to be stored completes its entry.
type fedFile struct {
	path    string
	entry   *snapshot.Entry
	extents []snapshot.Extent
	left    atomic.Int64

	note   []byte            // what is remembered with it; nil where it is not remembered
	change *Change           // of one that is given by its changes: extents are of the blocks that changed,
	before []snapshot.Extent // these of what it was
}

func newFedFile(p string, e *snapshot.Entry, size int64) *fedFile {
	f := &fedFile{path: p, entry: e, extents: make([]snapshot.Extent, (size+chunk.Pages-1)/chunk.Pages)}
	f.left.Store(int64(len(f.extents)) + 1) // one of them is the feeder's own, so that nobody completes it before
	return f
}

type fedBlock struct {
	file  *fedFile
	place int
	data  []byte
}

// BackupFeed makes a snapshot of a feed as Backup does of a folder.
func BackupFeed(ctx context.Context, reg *register.Register, agent *register.Agent, feed Feed, progress *Progress) (*BackupReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	started := agent.Now()
	m, err := begin(ctx, reg, agent)
	if err != nil {
		return nil, err
	}
	defer m.end()
	f := newFeeder(m.w, progress)
	defer f.failure.stop(nil)
	f.remembering(reg.Dir, feed.Forget)
	defer f.remembered(false) // when there is no snapshot
	position, err := feed.Read(f.ctx, f)
	if ended := f.end(); err == nil || ended != nil && errors.Is(err, context.Canceled) {
		err = ended
	}
	var root snapshot.Entry
	if err == nil {
		root, err = f.list(newPress(&reg.IDKey), f.root)
	}
	if err != nil {
		m.w.abort(err)
		return nil, err
	}
	if err := m.w.close(); err != nil {
		return nil, err
	}
	payload := &snapshot.Payload{
		Root: root, Path: feed.Path, Host: agent.Host, Stats: f.stats.total(m.w),
		Started: started.UnixNano(), Finished: agent.Now().UnixNano(), Tags: feed.Tags,
	}
	payload.Root.Name = ""
	m.run.position = position
	head, err := commit(ctx, m.run, m.w, payload, nil)
	if err != nil {
		return nil, err
	}
	rep := m.report(head, payload)
	// From here on there is a snapshot, whatever goes wrong on the local disk; the next run makes that good.
	if err := errors.Join(m.run.settle(m.known, head), f.remembered(true)); err != nil {
		rep.Local = err.Error()
	}
	return rep, nil
}

func newFeeder(w *writer, progress *Progress) *Feeder {
	f := &Feeder{w: w, progress: progress, root: newFedFolder(""), blocks: make(chan fedBlock, readers())}
	f.ctx, f.failure.stop = context.WithCancelCause(w.ctx)
	f.free = make(chan []byte, 4*readers())
	for range cap(f.free) {
		f.free <- nil
	}
	for range readers() {
		f.workers.Go(f.worker)
	}
	return f
}

func newFedFolder(name string) *fedFolder {
	return &fedFolder{
		entry: snapshot.Entry{Name: name, Kind: snapshot.Dir, Mode: 0o700},
		names: map[string]*snapshot.Entry{}, folders: map[string]*fedFolder{},
	}
}

// end waits until everything that was given is stored, or failed.
func (f *Feeder) end() error {
	close(f.blocks)
	f.workers.Wait()
	if f.failure.err != nil {
		return f.failure.err
	}
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	return nil
}

// Folder gives a folder. One that was made for what stands below it gets its attributes.
func (f *Feeder) Folder(p string, a Attributes) error {
	dir, err := f.folder(p)
	if err != nil {
		return err
	}
	describe(&dir.entry, a)
	return nil
}

// Link gives a symbolic link.
func (f *Feeder) Link(p, target string, a Attributes) error {
	e, err := f.add(p, snapshot.Symlink, a)
	if err != nil {
		return err
	}
	e.Target = target
	f.stats.links.Add(1)
	return e.Check()
}

// File gives a file of so many bytes, which are read to their end before File returns. A reader that ends early is
// io.ErrUnexpectedEOF.
func (f *Feeder) File(p string, a Attributes, size int64, r io.Reader) error {
	return f.file(p, a, size, r, nil)
}

func (f *Feeder) file(p string, a Attributes, size int64, r io.Reader, note func() []byte) error {
	e, err := f.add(p, snapshot.File, a)
	if err != nil {
		return err
	}
	e.Size = uint64(size)
	file := newFedFile(p, e, size)
	if err := f.content(file, size, r); err != nil {
		return err
	}
	if note != nil {
		file.note = note()
	}
	return f.finish(file, size)
}

// content hands so many bytes to the workers.
func (f *Feeder) content(file *fedFile, size int64, r io.Reader) error {
	for i := range file.extents {
		buf, err := f.take()
		if err != nil {
			return err
		}
		buf = buf[:min(chunk.Pages, size-int64(i)*chunk.Pages)]
		if _, err := io.ReadFull(r, buf); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%s: %w", file.path, err)
		}
		select {
		case f.blocks <- fedBlock{file, i, buf}:
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
	return nil
}

// finish gives up the feeder's own part of a file.
func (f *Feeder) finish(file *fedFile, size int64) error {
	f.stats.files.Add(1)
	f.stats.bytes.Add(uint64(size))
	f.progress.Files.Add(1)
	if file.left.Add(-1) == 0 {
		return f.complete(newPress(&f.w.reg.IDKey), file)
	}
	return nil
}

// take waits for the memory of one block, which bounds how far reading runs ahead.
func (f *Feeder) take() ([]byte, error) {
	select {
	case buf := <-f.free:
		if buf == nil {
			buf = make([]byte, chunk.Pages)
		}
		return buf[:chunk.Pages], nil
	case <-f.ctx.Done():
		return nil, context.Cause(f.ctx)
	}
}

// worker stores blocks until there are no more.
func (f *Feeder) worker() {
	p := newPress(&f.w.reg.IDKey)
	for b := range f.blocks {
		if f.ctx.Err() == nil {
			if err := f.store(p, b); err != nil {
				f.failure.set(err)
			}
		}
		f.free <- b.data
	}
}

func (f *Feeder) store(p *press, b fedBlock) error {
	x := snapshot.Extent{Hole: true, HoleLength: uint64(len(b.data))}
	if !zeros(b.data) {
		id, err := p.store(f.w, pack.Data, b.data)
		if err != nil {
			return err
		}
		x = snapshot.Extent{Chunk: id, Length: uint32(len(b.data))}
	}
	b.file.extents[b.place] = x
	f.progress.Bytes.Add(int64(len(b.data)))
	if b.file.left.Add(-1) > 0 {
		return nil
	}
	return f.complete(p, b.file)
}

// complete gives a file's entry its extents: neighbouring holes as one, and a long list in chunks of its own.
func (f *Feeder) complete(p *press, file *fedFile) error {
	if file.change != nil {
		if err := f.put(file); err != nil {
			return err
		}
	}
	out := file.extents[:0]
	for _, x := range file.extents {
		if n := len(out); x.Hole && n > 0 && out[n-1].Hole {
			out[n-1].HoleLength += x.HoleLength
			continue
		}
		out = append(out, x)
	}
	if file.note != nil && f.next != nil {
		f.next.add(&fedRecord{file.path, file.entry.Size, out, file.note})
	}
	if file.extents = out; len(out) > fedExtents {
		outer, err := p.storeExtents(f.w, out)
		if err != nil {
			return err
		}
		out, file.entry.Flags = outer, file.entry.Flags|snapshot.Indirect
	}
	file.entry.Extents = append([]snapshot.Extent(nil), out...) // no longer than it need be: all entries are held
	return file.entry.Check()
}

// fedExtents is how many extents the entry of a fed file carries itself. It is few, because all entries of a feed are in
// memory until its end.
const fedExtents = 64

func zeros(b []byte) bool {
	for len(b) >= len(zeroPage) {
		if string(b[:len(zeroPage)]) != zeroPage {
			return false
		}
		b = b[len(zeroPage):]
	}
	return string(b) == zeroPage[:len(b)]
}

var zeroPage = strings.Repeat("\x00", 4096)

func describe(e *snapshot.Entry, a Attributes) {
	e.Mode, e.UID, e.GID = a.Mode&0o7777, a.UID, a.GID
	e.ModSec, e.ModNsec = a.Modified.Unix(), uint32(a.Modified.Nanosecond())
}

// ErrFeed means that a feed gave a name that cannot be kept, or one name twice.
var ErrFeed = errors.New("the source gave a name that cannot be kept")

// folder finds or makes the folder of a path; "" is the root.
func (f *Feeder) folder(p string) (*fedFolder, error) {
	dir := f.root
	if p == "" {
		return dir, nil
	}
	if path.Clean("/" + p)[1:] != p {
		return nil, fmt.Errorf("%w: %q", ErrFeed, p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if dir.names[name] != nil {
			return nil, fmt.Errorf("%w: %q is a file and a folder", ErrFeed, p)
		}
		next := dir.folders[name]
		if next == nil {
			next = newFedFolder(name)
			if err := next.entry.Check(); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrFeed, err)
			}
			dir.folders[name] = next
		}
		dir = next
	}
	return dir, nil
}

// add makes the entry of what is not a folder.
func (f *Feeder) add(p string, kind snapshot.Kind, a Attributes) (*snapshot.Entry, error) {
	dir, err := f.folder(strings.TrimSuffix(p[:strings.LastIndex(p, "/")+1], "/"))
	if err != nil {
		return nil, err
	}
	name := path.Base(p)
	if p == "" || path.Clean("/" + p)[1:] != p || dir.names[name] != nil || dir.folders[name] != nil {
		return nil, fmt.Errorf("%w: %q, or twice", ErrFeed, p)
	}
	e := &snapshot.Entry{Name: name, Kind: kind}
	describe(e, a)
	dir.names[name] = e
	return e, nil
}
