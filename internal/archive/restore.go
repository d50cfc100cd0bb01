package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// Reader reads a register's snapshots with its opened key. Close ends it; the key is not kept longer.
type Reader struct {
	run     *run
	fetcher *register.Fetcher
	tree    *treeCache
	stream  *stream.Reader
}

// OpenReader brings the local history and index up to date and prepares to read. k embassies must answer.
func OpenReader(ctx context.Context, reg *register.Register, agent *register.Agent, key *seal.PrivateKey) (*Reader, error) {
	return openReader(ctx, reg, agent, key, nil)
}

func openReader(ctx context.Context, reg *register.Register, agent *register.Agent, key *seal.PrivateKey, without *objectLists) (*Reader, error) {
	if string(key.Public().Bytes()) != string(reg.Public.Bytes()) {
		return nil, ErrNotRegister
	}
	sites := reg.Sites()
	r, err := openRunWithout(ctx, reg, agent, sites, undisputed, without)
	if err != nil {
		return nil, err
	}
	f := &register.Fetcher{Register: reg, Sites: sites, Opener: pack.NewOpener(key), Faults: r.faults}
	return &Reader{run: r, fetcher: f, tree: newTreeCache(r, f), stream: stream.NewReader(f, agent)}, nil
}

// Close releases the index.
func (r *Reader) Close() { r.run.close() }

// Register is the register that is read.
func (r *Reader) Register() *register.Register { return r.run.reg }

// Stream reads the register's stream, as long as the reader is not closed. Both share what they know of the embassies.
func (r *Reader) Stream() *stream.Reader { return r.stream }

// Faults returns what embassies gave wrong so far, and Down those that could not be asked.
func (r *Reader) Faults() []register.Fault { return r.run.faults.All() }

// Down returns the embassies that did not answer.
func (r *Reader) Down() []register.Down { return r.run.sites.Down() }

// Payload opens the sealed part of a head.
func (r *Reader) Payload(head *snapshot.Head) (*snapshot.Payload, error) {
	m := headMeta(r.run.reg, head.Sequence)
	m.K, m.N = head.K, uint8(len(head.Members))
	plain, err := r.fetcher.Opener.OpenMessage(m, head.Manifest)
	if err != nil {
		return nil, fmt.Errorf("head %d: %w: %w", head.Sequence, register.ErrDamaged, err)
	}
	p, err := snapshot.ParsePayload(plain)
	if err != nil {
		return nil, fmt.Errorf("head %d: %w: %w", head.Sequence, register.ErrDamaged, err)
	}
	return p, nil
}

// List yields the entries of a folder, from its entry.
func (r *Reader) List(ctx context.Context, e *snapshot.Entry) iter.Seq2[snapshot.Entry, error] {
	return snapshot.Listing(func(yield func([]byte, error) bool) {
		for i := range e.Extents {
			piece, err := r.tree.read(ctx, &e.Extents[i])
			if !yield(piece, err) || err != nil {
				return
			}
		}
	})
}

// extents returns where a file's content is.
func (r *Reader) extents(ctx context.Context, e *snapshot.Entry) ([]snapshot.Extent, error) {
	if e.Flags&snapshot.Indirect == 0 {
		return e.Extents, nil
	}
	var out []snapshot.Extent
	for i := range e.Extents {
		raw, err := r.tree.read(ctx, &e.Extents[i])
		if err != nil {
			return nil, err
		}
		part, err := snapshot.ParseExtents(raw)
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, snapshot.CheckExtents(e.Size, out)
}

// Problems returns what the backup could not take.
func (r *Reader) Problems(ctx context.Context, p *snapshot.Payload) ([]Problem, error) {
	var text []byte
	for i := range p.Problems {
		part, err := r.tree.read(ctx, &p.Problems[i])
		if err != nil {
			return nil, err
		}
		text = append(text, part...)
	}
	fields := strings.Split(string(text), "\x00")
	var out []Problem
	for i := 0; i+1 < len(fields); i += 2 {
		out = append(out, Problem{fields[i], fields[i+1]})
	}
	return out, nil
}

// treeCache reads chunks of listings. It keeps the last few chunks and packs open, because neighbours lie in one.
type treeCache struct {
	run     *run
	fetcher *register.Fetcher
	mu      sync.Mutex // guards what follows
	chunks  []openChunk
	open    []openPack
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

// openPack is a pack's payload in memory.
type openPack struct {
	id      pack.ID
	payload []byte
	buffers *register.Buffers
}

// openChunk is a chunk in memory of its own, which nobody writes.
type openChunk struct {
	id  chunk.ID
	raw []byte
}

// openPacks and openChunks are how many packs of listings, and chunks of these, stay open.
const (
	openPacks  = 3
	openChunks = 16
)

func newTreeCache(r *run, f *register.Fetcher) *treeCache {
	return &treeCache{run: r, fetcher: f, hasher: r.reg.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

// read returns the bytes of an extent. Nobody writes to them, neither may the caller.
func (t *treeCache) read(ctx context.Context, x *snapshot.Extent) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	raw, err := t.chunk(ctx, x.Chunk)
	if err != nil {
		return nil, err
	}
	if uint64(x.Offset)+uint64(x.Length) > uint64(len(raw)) {
		return nil, fmt.Errorf("%w: an extent ends behind its chunk", register.ErrDamaged)
	}
	return raw[x.Offset : x.Offset+x.Length], nil
}

// chunk returns a chunk's bytes.
func (t *treeCache) chunk(ctx context.Context, id chunk.ID) ([]byte, error) {
	for i, c := range t.chunks {
		if c.id == id {
			copy(t.chunks[1:i+1], t.chunks[:i])
			t.chunks[0] = c
			return c.raw, nil
		}
	}
	loc, ok := t.run.index.Lookup(id)
	if !ok {
		return nil, t.run.unknown(fmt.Sprintf("chunk %s is in no pack", id))
	}
	payload, err := t.payload(ctx, &loc.Ref)
	if err != nil {
		return nil, err
	}
	raw, err := register.OpenChunk(t.hasher, t.unpress, nil, payload, loc.Entry)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", loc.Ref.ID, err)
	}
	if !loc.Entry.Compressed {
		raw = slices.Clone(raw) // the pack's memory is used again
	}
	t.chunks = slices.Insert(t.chunks[:min(len(t.chunks), openChunks-1)], 0, openChunk{id, raw})
	return raw, nil
}

func (t *treeCache) payload(ctx context.Context, ref *snapshot.PackRef) ([]byte, error) {
	for i, p := range t.open {
		if p.id == ref.ID {
			copy(t.open[1:i+1], t.open[:i])
			t.open[0] = p
			return p.payload, nil
		}
	}
	b := &register.Buffers{}
	if len(t.open) == openPacks {
		b = t.open[openPacks-1].buffers
		t.open = t.open[:openPacks-1]
	}
	payload, err := t.fetcher.Open(ctx, b, ref)
	if err != nil {
		return nil, err
	}
	t.open = slices.Insert(t.open, 0, openPack{ref.ID, payload, b})
	return payload, nil
}

// RestoreOptions say what a restore writes and how.
type RestoreOptions struct {
	Target  filetree.TargetOptions
	Include []string // paths in the snapshot; none means everything
	Base    string   // the folder of the snapshot that becomes the target; none means its root
	Partial bool     // keep what could be restored when something is damaged
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	Snapshot string             `json:"snapshot"`
	Time     time.Time          `json:"time"`
	Files    int64              `json:"files"`
	Folders  int64              `json:"folders"`
	Bytes    int64              `json:"bytes"`
	Lost     []Problem          `json:"lost,omitempty"` // files that could not be restored
	LostSum  int                `json:"lost_count"`
	Marked   []Problem          `json:"incomplete_at_backup,omitempty"`
	Warnings []filetree.Warning `json:"warnings,omitempty"`
	Faults   []register.Fault   `json:"faults,omitempty"`
	Down     []register.Down    `json:"embassies_down,omitempty"`
}

// ErrNoPath means that one of the paths asked for is not in the snapshot.
var ErrNoPath = errors.New("no such path in the snapshot")

// Restore writes a snapshot into a new or empty folder. Where something is damaged beyond repair it returns
// ErrDamaged with a report that lists every file hit, and ErrTooFew with it where embassies that are down may hold some of
// that; without Partial nothing is left in the folder then.
func (r *Reader) Restore(ctx context.Context, head *snapshot.Head, to string, opts RestoreOptions, progress *Progress) (*RestoreReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	payload, err := r.Payload(head)
	if err != nil {
		return nil, err
	}
	rep := &RestoreReport{Snapshot: SnapshotName(head.Sequence), Time: time.Unix(0, head.Time).UTC()}
	var warnings struct {
		sync.Mutex
		list []filetree.Warning
	}
	opts.Target.Warn = func(w filetree.Warning) {
		warnings.Lock()
		defer warnings.Unlock()
		if len(warnings.list) < maxProblems {
			warnings.list = append(warnings.list, w)
		}
	}
	target, err := filetree.CreateTarget(to, opts.Target)
	if err != nil {
		return nil, err
	}
	w := newRestorer(ctx, r, target, opts, progress)
	err = w.tree(payload)
	if cerr := target.Close(); err == nil {
		err = cerr
	}
	rep.Files, rep.Folders, rep.Bytes = progress.Files.Load(), progress.Folders.Load(), progress.Bytes.Load()
	rep.Lost, rep.LostSum, rep.Marked = w.lost.list, w.lost.count, w.marked.list
	rep.Warnings, rep.Faults, rep.Down = warnings.list, r.Faults(), r.Down()
	slices.SortFunc(rep.Lost, func(a, b Problem) int { return cmp.Compare(a.Path, b.Path) })
	if err == nil && w.lost.count > 0 {
		if err = fmt.Errorf("%w: %d of the files", register.ErrDamaged, w.lost.count); w.hidden.Load() {
			err = fmt.Errorf("%w: %d of the files; %w", register.ErrTooFew, w.lost.count, register.ErrUnasked)
		}
	}
	if rel, missing := w.missing(); err == nil && missing {
		err = fmt.Errorf("%w: %q", ErrNoPath, rel)
	}
	if err != nil && !(opts.Partial && register.Unreadable(err)) {
		if cerr := Empty(to); cerr != nil {
			err = fmt.Errorf("%w; and what was written could not be removed: %w", err, cerr)
		}
		return rep, err
	}
	if serr := filetree.Sync(to); serr != nil && err == nil {
		err = serr
	}
	return rep, err
}

// Empty removes what a refused restore wrote into a folder, and leaves the folder, so that nobody takes it for the register.
func Empty(dir string) error {
	if err := os.Chmod(dir, 0o700); err != nil { // it may have got the mode of a folder that nobody writes
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return emptyRoot(root)
}

func emptyRoot(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if root.RemoveAll(e.Name()) == nil {
			continue
		}
		if err := unlock(root, e.Name()); err != nil {
			return err
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// unlock empties a folder whose own mode, or that of one below it, does not let its owner remove anything.
func unlock(root *os.Root, name string) error {
	if err := root.Chmod(name, 0o700); err != nil {
		return err
	}
	sub, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	return emptyRoot(sub)
}
