package archive

import (
	"errors"
	"io"
	"runtime"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// readers returns how many files are read, cut, hashed and compressed at once.
func readers() int { return max(2, runtime.GOMAXPROCS(0)) }

// spanSize is what one reader takes of a large file at a time. Chunks end at its borders, so that several readers
// can work on one file; what an insertion moves across a border costs a chunk or two.
const spanSize = 64 << 20

// job is one piece of reading: a group of small files of one folder, or one span of a large file.
type job struct {
	folder *folder
	group  []int
	large  *largeFile
	span   int
}

// largeFile is a file that is read in spans. The last of them to end puts it together.
type largeFile struct {
	index  int
	file   *filetree.OpenedFile
	before filetree.Stat
	spans  []span
	left   countdown
}

// span is a run of a file that one reader reads.
type span struct {
	off, length int64
	hole        bool
	extents     []snapshot.Extent
	read        int64
	err         error
}

// press hashes and compresses; one goroutine uses it at a time.
type press struct {
	hasher     *chunk.Hasher
	compressor *pack.Compressor
	out        []byte
	buf        []byte
}

func newPress(key *chunk.IDKey) *press {
	return &press{hasher: key.NewHasher(), compressor: pack.NewCompressor()}
}

// borrow waits for a press. Presses are few, so their buffers are too.
func (b *backup) borrow() *press {
	p := <-b.presses
	if p == nil {
		p = newPress(&b.run.reg.IDKey)
	}
	return p
}

func (b *backup) giveBack(p *press) { b.presses <- p }

// store makes sure that a chunk is in the archive, and returns its id.
func (b *backup) store(p *press, kind pack.Kind, data []byte) (chunk.ID, error) {
	return p.store(b.w, kind, data)
}

// store makes sure that a chunk is in the archive, and returns its id.
func (p *press) store(w *writer, kind pack.Kind, data []byte) (chunk.ID, error) {
	id := p.hasher.Sum(data)
	if !w.known.claim(id) {
		return id, nil
	}
	if need := len(data) + len(data)/512 + 128; cap(p.out) < need {
		p.out = make([]byte, 0, need)
	}
	out, compressed := p.compressor.Compress(p.out[:0], data)
	return id, w.add(kind, id, out, len(data), compressed)
}

// reader works on jobs until there are no more.
func (b *backup) reader() {
	p := b.borrow()
	defer b.giveBack(p)
	p.buf = make([]byte, 2*chunk.Max)
	cutter := chunk.NewCutter(b.run.reg.GearKey)
	for j := range b.jobs {
		switch {
		case b.ctx.Err() != nil:
			b.drop(j)
		case j.large == nil:
			if err := b.readGroup(p, j); err != nil {
				b.failure.set(err)
			}
		default:
			b.readSpan(p, cutter, j.large, &j.large.spans[j.span])
			if j.large.left.down() {
				b.finishLarge(j)
			}
		}
		j.folder.leave()
	}
	p.buf = nil
}

// readGroup reads small files into one chunk.
func (b *backup) readGroup(p *press, j job) error {
	f := j.folder
	type part struct{ index, off, n int }
	var parts []part
	buf := p.buf[:0]
	for _, i := range j.group {
		it := &f.items[i]
		r := &f.files[i]
		r.got = true
		n, err := b.readSmall(f, i, p.buf[len(buf):cap(p.buf)])
		if err != nil {
			b.problem(f, it.Name, err)
			r.flags |= snapshot.Partial
			r.gone = errors.Is(err, filetree.ErrVanished)
			f.racy.Store(true)
		}
		if n > 0 {
			parts = append(parts, part{i, len(buf), n})
		}
		buf = buf[:len(buf)+n]
		r.size = uint64(n)
		b.stats.bytes.Add(uint64(n))
		b.progress.Files.Add(1)
		b.progress.Bytes.Add(int64(n))
	}
	var id chunk.ID
	var err error
	if len(buf) > 0 {
		id, err = b.store(p, pack.Data, buf)
	}
	for _, x := range parts {
		f.files[x.index].extents = []snapshot.Extent{{Chunk: id, Offset: uint32(x.off), Length: uint32(x.n)}}
	}
	for _, i := range j.group { // also after an error: others may wait
		b.links.settle(&f.items[i].Stat, f.files[i])
	}
	return err
}

// errGrew is a file that changed while it was read; what was read is kept, and marked.
var errGrew = errors.New("changed while being read")

// readSmall reads one small file whole into buf, at most as much as a small file may be.
func (b *backup) readSmall(f *folder, i int, buf []byte) (int, error) {
	it := &f.items[i]
	src, err := f.src.OpenFile(it.Name, it.Stat)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	b.takeXattrs(f, i, src)
	before := src.Opened()
	limit := min(len(buf), chunk.Small)
	if before.Size < int64(limit) {
		limit = int(before.Size) + 1 // one more, to see that it ends
	}
	n := 0
	for n < limit {
		got, err := src.Read(buf[n:limit])
		n += got
		if err == io.EOF || err == nil && got == 0 {
			break
		}
		if err != nil {
			return n, err
		}
	}
	after, err := src.Stat()
	if err != nil {
		return n, err
	}
	if !after.SameContent(before) || int64(n) != after.Size {
		return n, errGrew
	}
	f.asOpened(i, after)
	return n, nil
}

// asOpened takes over what a file was while it was read. It may have changed since its folder was listed, and that
// is no harm: it was read as one state. But the folder's fingerprint is not of that state.
func (f *folder) asOpened(i int, st filetree.Stat) {
	if it := &f.items[i]; it.Stat != st {
		it.Stat = st
		f.racy.Store(true)
	}
}

// takeXattrs reads the attributes of an open file. Without them the rest of the file is still worth having.
func (b *backup) takeXattrs(f *folder, i int, src *filetree.OpenedFile) {
	xattrs, err := src.Xattrs()
	if err != nil {
		b.problem(f, f.items[i].Name, err)
		f.racy.Store(true)
	}
	f.files[i].xattrs, f.files[i].described = toXattrs(xattrs), true
}

// queueLarge opens a large file, finds its holes, and queues its spans. A file that cannot be opened is noted.
func (b *backup) queueLarge(f *folder, i int) {
	it := &f.items[i]
	src, err := f.src.OpenFile(it.Name, it.Stat)
	var ranges []filetree.Range
	if err == nil {
		if ranges, err = src.Extents(nil); err != nil {
			src.Close()
		}
	}
	if err != nil {
		b.problem(f, it.Name, err)
		f.racy.Store(true)
		f.files[i] = fileResult{got: true, flags: snapshot.Partial, gone: errors.Is(err, filetree.ErrVanished)}
		b.links.settle(&it.Stat, f.files[i])
		return
	}
	b.takeXattrs(f, i, src)
	l := &largeFile{index: i, file: src, before: src.Opened()}
	l.spans = cutSpans(ranges, l.before.Size)
	l.left.set(len(l.spans))
	if len(l.spans) == 0 {
		b.finishLarge(job{folder: f, large: l})
		return
	}
	for n := range l.spans {
		b.queue(job{folder: f, large: l, span: n})
	}
}

// cutSpans covers a file of this size with spans: its data, cut every spanSize, and the holes between.
func cutSpans(data []filetree.Range, size int64) []span {
	var out []span
	at := int64(0)
	hole := func(to int64) {
		if to > at {
			out = append(out, span{off: at, length: to - at, hole: true})
			at = to
		}
	}
	for _, r := range data {
		hole(r.Off)
		for end := r.Off + r.Len; at < end; {
			n := min(end-at, spanSize-at%spanSize)
			out = append(out, span{off: at, length: n})
			at += n
		}
	}
	hole(size)
	return out
}

// readSpan reads, cuts and stores one span. A file that ends early ends the span early.
func (b *backup) readSpan(p *press, cutter *chunk.Cutter, l *largeFile, s *span) {
	if s.hole {
		s.extents = []snapshot.Extent{{Hole: true, HoleLength: uint64(s.length)}}
		s.read = s.length
		b.progress.Bytes.Add(s.length)
		return
	}
	held := 0 // bytes of p.buf that are read and not yet stored, from its start
	start := 0
	for {
		if rest := held - start; rest < chunk.Max && s.read < s.length {
			copy(p.buf, p.buf[start:held])
			start, held = 0, rest
			n, err := readFull(l.file, p.buf[held:min(len(p.buf), held+int(min(s.length-s.read, int64(len(p.buf)))))], s.off+s.read)
			held += n
			s.read += int64(n)
			if err != nil && err != io.EOF {
				s.err = err
			}
			if err != nil {
				s.length = s.read
			}
		}
		if held == start {
			return
		}
		n := held - start
		if n > chunk.Whole || s.length > chunk.Whole {
			n = cutter.Cut(p.buf[start:held])
		}
		id, err := b.store(p, pack.Data, p.buf[start:start+n])
		if err != nil {
			b.failure.set(err)
			return
		}
		s.extents = append(s.extents, snapshot.Extent{Chunk: id, Length: uint32(n)})
		start += n
		b.progress.Bytes.Add(int64(n))
		if b.ctx.Err() != nil {
			return
		}
	}
}

func readFull(r io.ReaderAt, buf []byte, off int64) (int, error) {
	n := 0
	for n < len(buf) {
		got, err := r.ReadAt(buf[n:], off+int64(n))
		n += got
		if err != nil {
			return n, err
		}
		if got == 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

// finishLarge puts a large file together from its spans.
func (b *backup) finishLarge(j job) {
	l, f := j.large, j.folder
	it := &f.items[l.index]
	r := &f.files[l.index]
	var problem error
	for i := range l.spans {
		s := &l.spans[i]
		r.extents = append(r.extents, s.extents...)
		r.size += uint64(s.read)
		if s.err != nil && problem == nil {
			problem = s.err
		}
		if s.read < s.length || s.err != nil || i+1 < len(l.spans) && s.off+s.read != l.spans[i+1].off {
			if problem == nil {
				problem = errGrew
			}
			break // what lies behind a gap would be read at the wrong place
		}
	}
	after, err := l.file.Stat()
	if problem == nil && (err != nil || !after.SameContent(l.before) || r.size != uint64(after.Size)) {
		problem = errGrew
	}
	l.file.Close()
	if problem == nil {
		f.asOpened(l.index, after)
	}
	if problem != nil {
		b.problem(f, it.Name, problem)
		r.flags |= snapshot.Partial
		f.racy.Store(true)
	}
	r.got = true
	b.stats.bytes.Add(r.size)
	b.progress.Files.Add(1)
	if err := b.spill(r); err != nil {
		b.failure.set(err)
	}
	b.links.settle(&it.Stat, *r)
}

// spill moves an extent list that is too long for an entry into chunks of its own.
func (b *backup) spill(r *fileResult) error {
	if len(r.extents) <= mostExtents {
		return nil
	}
	p := b.borrow()
	defer b.giveBack(p)
	for i := range r.extents {
		if x := &r.extents[i]; !x.Hole && (len(r.deep) == 0 || r.deep[len(r.deep)-1] != x.Chunk) {
			r.deep = append(r.deep, x.Chunk)
		}
	}
	outer, err := p.storeExtents(b.w, r.extents)
	if err != nil {
		return err
	}
	r.extents, r.flags = outer, r.flags|snapshot.Indirect
	return nil
}

// mostExtents is how many extents an entry carries itself, and each piece of a list that is stored apart.
const mostExtents = 4096

// storeExtents stores a list of extents in chunks of its own and returns where they are.
func (p *press) storeExtents(w *writer, extents []snapshot.Extent) ([]snapshot.Extent, error) {
	var outer []snapshot.Extent
	for i := 0; i < len(extents); i += mostExtents {
		raw := snapshot.AppendExtents(nil, extents[i:min(len(extents), i+mostExtents)])
		id, err := p.store(w, pack.Tree, raw)
		if err != nil {
			return nil, err
		}
		outer = append(outer, snapshot.Extent{Chunk: id, Length: uint32(len(raw))})
	}
	return outer, nil
}
