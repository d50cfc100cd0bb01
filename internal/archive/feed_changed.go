package archive

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/snapshot"
)

// Fed is a file of the last feed, of which a source may say only what changed.
type Fed struct {
	Path string
	Size int64
	Note []byte // what the source noted with it
}

// ErrNotFed means that a file was given by its changes and what it was before is not known, or is no longer kept.
var ErrNotFed = errors.New("what the file was before is not known")

// fedFragments bounds how scattered a file may be that is given by its changes: so many extents for each chunk that it
// would be cut into. One that is more so has to come whole, or it would be read from ever more places.
const fedFragments = 4

// Before returns the note of the last feed that was remembered; nil where there is none.
func (f *Feeder) Before() []byte { return f.before.note }

// Fed yields the files that [Feeder.Changed] takes: those whose chunks are all kept and not too scattered.
func (f *Feeder) Fed() iter.Seq[Fed] {
	return func(yield func(Fed) bool) {
		for p := range f.before.files {
			rec, ok := f.before.record(p)
			if !ok || len(rec.extents) > 8+fedFragments*int((rec.size+chunk.Pages-1)/chunk.Pages) || !f.kept(rec.extents) {
				continue
			}
			if !yield(Fed{p, int64(rec.size), rec.note}) {
				return
			}
		}
	}
}

func (f *Feeder) kept(extents []snapshot.Extent) bool {
	for i := range extents {
		if x := &extents[i]; !x.Hole && !f.w.known.stays(x.Chunk) {
			return false
		}
	}
	return true
}

// Remember keeps what was given by Noted and Changed for the next feed, with a note of at most 4 KiB, not empty.
// Without it the next feed knows nothing.
func (f *Feeder) Remember(note []byte) { f.note = note }

// Noted is File and remembers the file for the next feed. note is called when the content has been read.
func (f *Feeder) Noted(p string, a Attributes, size int64, r io.Reader, note func() []byte) error {
	return f.file(p, a, size, r, note)
}

// A Change is what a file became since the last feed.
type Change struct {
	Size   int64    // a multiple of Block
	Block  int64    // bytes; chunk.Pages is a multiple of it
	Blocks []uint32 // those that changed, ascending, below Size/Block
	// Note is the file's note from now on; it is given the old one when the blocks have been read.
	Note func(before []byte) []byte
}

// Changed gives a file that was fed before by what changed in it; r gives the blocks that changed, one after the other.
// What the file had not before, and is not among them, is zeros. Errors wrap ErrNotFed when what it was is not known.
func (f *Feeder) Changed(p string, a Attributes, c Change, r io.Reader) error {
	before, ok := f.before.record(p)
	if !ok {
		return fmt.Errorf("%s: %w", p, ErrNotFed)
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	e, err := f.add(p, snapshot.File, a)
	if err != nil {
		return err
	}
	e.Size = uint64(c.Size)
	fresh := int64(len(c.Blocks)) * c.Block
	file := newFedFile(p, e, fresh)
	file.change, file.before = &c, before.extents
	if err := f.content(file, fresh, r); err != nil {
		return err
	}
	file.note = c.Note(before.note)
	if fresh == 0 {
		f.stats.unchanged.Add(1)
	}
	f.progress.Bytes.Add(c.Size - fresh)
	return f.finish(file, c.Size)
}

func (c *Change) check() error {
	if c.Block <= 0 || chunk.Pages%c.Block != 0 || c.Size < 0 || c.Size%c.Block != 0 {
		return fmt.Errorf("%w: %d bytes in blocks of %d", ErrFeed, c.Size, c.Block)
	}
	for i, b := range c.Blocks {
		if int64(b) >= c.Size/c.Block || i > 0 && b <= c.Blocks[i-1] {
			return fmt.Errorf("%w: block %d", ErrFeed, b)
		}
	}
	return nil
}

// put replaces a file's extents, which are of the blocks that changed, by those of all of it.
func (f *Feeder) put(file *fedFile) error {
	c, old, fresh := file.change, extentReader{rest: file.before}, extentReader{rest: file.extents}
	var out extentList
	at := int64(0)
	for _, b := range c.Blocks {
		start := int64(b) * c.Block
		old.move(uint64(start-at), out.add)
		old.move(uint64(c.Block), func(snapshot.Extent) {})
		fresh.move(uint64(c.Block), out.add)
		at = start + c.Block
	}
	old.move(uint64(c.Size-at), out.add)
	file.extents, file.before = out, nil
	for i := range file.extents {
		if x := &file.extents[i]; !x.Hole && !f.w.known.has(x.Chunk) {
			return fmt.Errorf("%s: %w: chunk %s", file.path, ErrNotFed, x.Chunk)
		}
	}
	return nil
}

// extentReader reads a list of extents from its front. The list itself stays as it is.
type extentReader struct {
	rest []snapshot.Extent
	left snapshot.Extent // of the first of rest, once a part of it was read
	part bool
}

// move hands the next n bytes on; where the list has ended, zeros.
func (r *extentReader) move(n uint64, to func(snapshot.Extent)) {
	for n > 0 {
		if len(r.rest) == 0 {
			to(snapshot.Extent{Hole: true, HoleLength: n})
			return
		}
		x := r.rest[0]
		if r.part {
			x = r.left
		}
		if size := x.Size(); size <= n {
			r.rest, r.part = r.rest[1:], false
			n -= size
			to(x)
			continue
		}
		r.left, r.part = x, true
		if x.Hole {
			x.HoleLength, r.left.HoleLength = n, x.HoleLength-n
		} else {
			x.Length, r.left.Offset, r.left.Length = uint32(n), x.Offset+uint32(n), x.Length-uint32(n)
		}
		to(x)
		return
	}
}

// extentList grows at its end.
type extentList []snapshot.Extent

// add appends an extent, as one with the last where it goes on from it.
func (l *extentList) add(x snapshot.Extent) {
	if n := len(*l); n > 0 {
		last := &(*l)[n-1]
		switch {
		case x.Hole && last.Hole:
			last.HoleLength += x.HoleLength
			return
		case !x.Hole && !last.Hole && x.Chunk == last.Chunk && x.Offset == last.Offset+last.Length:
			last.Length += x.Length
			return
		}
	}
	*l = append(*l, x)
}

// remembering opens what the last feed left and begins what the next will find; nothing of either is needed for a
// snapshot, so that what fails of it is passed over.
func (f *Feeder) remembering(dir string, forget bool) {
	f.before = &fedBefore{}
	if !forget {
		f.before = openFed(dir)
	}
	if w, err := newFedWriter(dir); err == nil {
		f.next = w
	}
}

// remembered ends both, with what was given as what the next feed finds, if there is a snapshot of it.
func (f *Feeder) remembered(made bool) error {
	f.before.close()
	if f.next == nil {
		return nil
	}
	next := f.next
	f.next = nil
	if !made || len(f.note) == 0 {
		next.abort()
		return nil
	}
	return next.commit(f.note)
}
