package archive

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/snapshot"
)

// folder is one folder on its way into the snapshot. The walk makes it, readers fill its files, and whoever brings
// its last missing part finishes it; left counts those parts.
//
//	walk ── lists, compares with what was seen ──> jobs ──> readers ──> extents
//	                                   children ──> their listings ──┘──> finish: own listing, to the parent
type folder struct {
	b      *backup
	parent *folder
	place  int // of its entry in the parent's items
	rel    string
	depth  int
	src    *filetree.Folder
	items  []filetree.Item
	files  []fileResult // by item; filled for files and folders
	known  *seenFolder
	raw    []byte      // known, as it stands in the file
	same   bool        // every item is as it was seen
	racy   atomic.Bool // something changed so lately that a later change could look the same, or was not read whole
	grown  atomic.Bool // a folder below is not as it was seen
	left   atomic.Int64
	record seenRecord
}

// fileResult is what came of one item.
type fileResult struct {
	extents []snapshot.Extent
	deep    []chunk.ID // of a file whose extents are in chunks of their own: the chunks of its content
	size    uint64
	files   uint64 // folders: files below
	flags   uint8
	xattrs  []snapshot.Xattr

	described bool   // xattrs are set
	got       bool   // extents are set
	gone      bool   // vanished: no entry
	listing   []byte // a small folder's listing, which the parent stores with its siblings'
	key       print  // of a small folder, whose record waits for its listing's place
	record    *seenRecord
}

// tree walks the source and returns the entry of its root once everything below is stored.
func (b *backup) tree() (snapshot.Entry, error) {
	defer b.root.Close()
	defer b.seen.close()
	for range readers() {
		b.readers.Go(b.reader)
	}
	root := &folder{b: b, src: b.root.Root()}
	b.visit(root)
	close(b.jobs)
	b.readers.Wait()
	if b.failure.err != nil {
		return snapshot.Entry{}, b.failure.err
	}
	if b.ctx.Err() != nil {
		return snapshot.Entry{}, context.Cause(b.ctx)
	}
	select {
	case root := <-b.outcome:
		return root, nil
	default:
		return snapshot.Entry{}, errors.New("archive: the walk ended before its root did")
	}
}

// visit lists a folder, queues what must be read, and goes down. It holds one part of the folder's count itself, so
// that nobody finishes a folder that is still being visited.
func (b *backup) visit(f *folder) {
	f.left.Add(1)
	defer f.leave()
	if b.ctx.Err() != nil {
		return
	}
	items, err := f.src.List(nil)
	if err != nil && f.parent == nil {
		b.failure.set(fmt.Errorf("source: %w", err)) // a snapshot of nothing would hide that everything is gone
		return
	}
	if err != nil {
		b.problem(f, "", err)
		f.racy.Store(true)
		f.parent.files[f.place].flags |= snapshot.Partial
	}
	f.items = b.keep(f, items)
	f.files = make([]fileResult, len(f.items))
	b.compare(f)
	b.count(f)
	if !f.same {
		b.queueFiles(f)
	}
	for i := range f.items {
		it := &f.items[i]
		if it.Stat.Kind != filetree.Dir || it.Err != nil || b.ctx.Err() != nil {
			continue
		}
		b.descend(f, i)
	}
}

// descend visits one folder below f, unless it lies on another file system.
func (b *backup) descend(f *folder, i int) {
	it := &f.items[i]
	rel := join(f.rel, it.Name)
	if it.Stat.Dev != b.rootStat.Dev && !b.src.AllFileSystems {
		if len(b.otherFS) < snapshot.MaxOtherFileSystems {
			b.otherFS = append(b.otherFS, rel)
		}
		f.files[i].got = true
		f.grown.Store(true) // it may have been backed up before
		return
	}
	src, err := f.src.OpenFolder(it.Name, it.Stat)
	if err != nil {
		f.racy.Store(true)
		f.files[i].got = true
		f.files[i].gone = errors.Is(err, filetree.ErrVanished)
		f.files[i].flags |= snapshot.Partial
		f.grown.Store(true)
		b.problem(f, it.Name, err)
		return
	}
	f.left.Add(1)
	b.visit(&folder{b: b, parent: f, place: i, rel: rel, depth: f.depth + 1, src: src})
}

func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}

// keep drops what the rules leave out, and counts it.
func (b *backup) keep(f *folder, items []filetree.Item) []filetree.Item {
	if b.src.Rules == nil {
		return items
	}
	return slices.DeleteFunc(items, func(it filetree.Item) bool {
		dir := it.Stat.Kind == filetree.Dir
		if !b.src.Rules.Excluded(join(f.rel, it.Name), dir) {
			return false
		}
		if dir {
			b.countExcluded(f.src, &it)
		}
		b.excluded.Count++
		if it.Stat.Kind == filetree.File {
			b.excluded.Bytes += uint64(it.Stat.Size)
		}
		return true
	})
}

// countExcluded counts what is in an excluded folder.
func (b *backup) countExcluded(in *filetree.Folder, it *filetree.Item) {
	src, err := in.OpenFolder(it.Name, it.Stat)
	if err != nil {
		return
	}
	defer src.Close()
	items, err := src.List(nil)
	if err != nil {
		return
	}
	for i := range items {
		b.excluded.Count++
		switch items[i].Stat.Kind {
		case filetree.File:
			b.excluded.Bytes += uint64(items[i].Stat.Size)
		case filetree.Dir:
			if items[i].Stat.Dev == it.Stat.Dev && b.ctx.Err() == nil {
				b.countExcluded(src, &items[i])
			}
		}
	}
}

// racyWindow is how old a change must be for the next change to be sure to bear another time: kernels stamp files
// with a clock that ticks a few milliseconds apart, some file systems with whole seconds.
const racyWindow = 2 * time.Second

// settled reports whether any later change of an item will show in its change time.
func (b *backup) settled(st *filetree.Stat) bool {
	return b.src.fresh < 0 || time.Unix(st.ChangeSec, int64(st.ChangeNsec)).Before(b.started.Add(-b.src.fresh))
}

// compare fingerprints a folder and finds what is as it was seen.
func (b *backup) compare(f *folder) {
	var state []byte
	for i := range f.items {
		it := &f.items[i]
		if it.Err != nil || !b.settled(&it.Stat) {
			f.racy.Store(true)
		}
		state = appendState(state, it)
	}
	f.record.print = b.key.print(state)
	f.known, f.raw = b.seen.folder(b.key.folder(f.rel))
	if f.known == nil {
		return
	}
	f.same = !f.racy.Load() && f.known.print == f.record.print && f.known.count() == countFiles(f.items) &&
		f.known.each(func(_ print, old *seenFile) bool { return b.stillKnown(old) })
	if !f.same {
		b.reuse(f)
	}
}

func countFiles(items []filetree.Item) (n uint64) {
	for i := range items {
		if items[i].Stat.Kind == filetree.File {
			n++
		}
	}
	return n
}

// reuse takes over the extents of the files that are as they were seen.
func (b *backup) reuse(f *folder) {
	files := f.known.byPrint()
	var state []byte
	for i := range f.items {
		it := &f.items[i]
		if it.Stat.Kind != filetree.File || it.Err != nil {
			continue
		}
		state = appendState(state[:0], it)
		old, ok := files[b.key.print(state)]
		if !ok || !b.stillKnown(&old) {
			continue
		}
		f.files[i] = fileResult{extents: old.extents, deep: old.deep, flags: old.flags, size: uint64(it.Stat.Size), got: true}
		b.stats.unchanged.Add(1)
	}
}

// stillKnown reports whether all that a file needs is stored, so that it need not be read, and notes the packs.
func (b *backup) stillKnown(f *seenFile) bool {
	for i := range f.deep {
		if !b.w.known.has(f.deep[i]) {
			return false
		}
	}
	return b.allKnown(f.extents)
}

func (b *backup) allKnown(extents []snapshot.Extent) bool {
	var last chunk.ID
	for i := range extents {
		if x := &extents[i]; !x.Hole && x.Chunk != last {
			if !b.w.known.has(x.Chunk) {
				return false
			}
			last = x.Chunk
		}
	}
	return true
}

// count adds a folder's items to the statistics.
func (b *backup) count(f *folder) {
	b.stats.folders.Add(1)
	b.progress.Folders.Add(1)
	for i := range f.items {
		it := &f.items[i]
		switch it.Stat.Kind {
		case filetree.Dir:
		case filetree.Symlink:
			b.stats.links.Add(1)
		case filetree.File:
			b.stats.files.Add(1)
			if f.same {
				b.stats.unchanged.Add(1)
			}
			if f.same || f.files[i].got {
				b.stats.bytes.Add(uint64(it.Stat.Size))
				b.progress.Files.Add(1)
				b.progress.Bytes.Add(it.Stat.Size)
			}
		default:
			b.stats.others.Add(1)
		}
	}
}

// queueFiles cuts a folder's changed files into jobs: small ones together, large ones in spans.
func (b *backup) queueFiles(f *folder) {
	var group []int
	var bytes int64
	flush := func() {
		if len(group) > 0 {
			b.queue(job{folder: f, group: group})
			group, bytes = nil, 0
		}
	}
	var state []byte
	for i := range f.items {
		it := &f.items[i]
		if it.Err != nil {
			b.problem(f, it.Name, it.Err)
			f.files[i].flags |= snapshot.Partial
			f.files[i].gone = errors.Is(it.Err, filetree.ErrVanished)
			f.files[i].got = true
			continue
		}
		if it.Stat.Kind != filetree.File || f.files[i].got || b.links.join(f, i) {
			continue
		}
		if it.Stat.Size > chunk.Small {
			b.queueLarge(f, i)
			continue
		}
		if bytes+it.Stat.Size > chunk.Avg || len(group) == maxGroup {
			flush()
		}
		group, bytes = append(group, i), bytes+it.Stat.Size
		state = append(append(state[:0], "group "...), it.Name...)
		if bytes >= chunk.Avg/2 && b.key.print(state)[0] < 64 {
			flush() // where the names say so: one file more or less then moves few of the next groups
		}
	}
	flush()
}

// maxGroup is how many small files go into one chunk at most, so that several readers share a large folder.
const maxGroup = 4096

// queue hands a job to the readers. When the run has ended nobody will take it, and it is dropped.
func (b *backup) queue(j job) {
	j.folder.left.Add(1)
	select {
	case b.jobs <- j:
	case <-b.ctx.Done():
		b.drop(j)
		j.folder.leave()
	}
}

// drop releases what a job holds that will not be done.
func (b *backup) drop(j job) {
	if j.large == nil {
		for _, i := range j.group {
			b.links.settle(&j.folder.items[i].Stat, fileResult{})
		}
		return
	}
	if j.large.left.down() {
		j.large.file.Close()
		b.links.settle(&j.folder.items[j.large.index].Stat, fileResult{})
	}
}

// problem notes what could not be taken of a folder's item, or of the folder itself where name is empty.
func (b *backup) problem(f *folder, name string, err error) {
	path := f.rel
	if name != "" {
		path = join(f.rel, name)
	}
	b.problems.add(path, reasonOf(err))
}

// reasonOf is the end of an error: the path before it is said already.
func reasonOf(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[i+2:]
	}
	return s
}

// linkTable finds the entries that are hard links of one inode, so that it is read once.
type linkTable struct {
	mu     sync.Mutex
	inodes map[[2]uint64]*linkState
}

type linkState struct {
	names   uint64 // met so far
	done    bool
	result  fileResult
	waiting []linkWaiter
}

type linkWaiter struct {
	f *folder
	i int
}

// join reports whether an earlier entry is or was read for this inode. The extents then come from there, now or when
// it is done.
func (t *linkTable) join(f *folder, i int) bool {
	st := &f.items[i].Stat
	if st.Links < 2 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inodes == nil {
		t.inodes = map[[2]uint64]*linkState{}
	}
	key := [2]uint64{st.Dev, st.Inode}
	s := t.inodes[key]
	if s == nil {
		t.inodes[key] = &linkState{names: 1}
		return false
	}
	s.names++
	switch {
	case s.done:
		f.files[i] = s.result
		if s.names >= st.Links {
			delete(t.inodes, key) // it has no other names
		}
	default:
		f.left.Add(1)
		s.waiting = append(s.waiting, linkWaiter{f, i})
	}
	return true
}

// settle gives the result of an inode to everyone who waits for it.
func (t *linkTable) settle(st *filetree.Stat, r fileResult) {
	t.mu.Lock() // whatever the number of links is by now: it was another when the folder was listed
	key := [2]uint64{st.Dev, st.Inode}
	s := t.inodes[key]
	if s == nil {
		t.mu.Unlock()
		return
	}
	s.done, s.result = true, r
	if s.names >= st.Links {
		delete(t.inodes, key)
	}
	waiting := s.waiting
	s.waiting = nil
	t.mu.Unlock()
	for _, w := range waiting {
		w.f.files[w.i] = r
		w.f.leave()
	}
}

// linkGroup is the number that tells hard links of one inode: the same in every backup of one file system.
func (b *backup) linkGroup(st *filetree.Stat) uint64 {
	if st.Links < 2 || st.Kind == filetree.Dir {
		return 0
	}
	mac := hmac.New(sha256.New, b.key[:])
	var dev uint64
	if st.Dev != b.rootStat.Dev {
		dev = st.Dev
	}
	mac.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte("link"), dev), st.Inode))
	return max(1, binary.BigEndian.Uint64(mac.Sum(nil)))
}
