package auditor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
)

// FollowOptions say from where a log is followed and how.
type FollowOptions struct {
	// Since is the first entry that Act is called for. Now is beyond all that there
	// are at the start.
	Since uint64
	Known []Known // checkpoints that the first one must continue
	// Round is how long one look at the log may take; 0 is a minute.
	Round time.Duration
	// Wait returns when the log is to be looked at again, or with an error that ends
	// Follow.
	Wait func(ctx context.Context) error
	// Act is called once for each entry, in order, when it is proven; leaf is nil
	// where it is of an unknown version. Its error ends Follow.
	Act func(index uint64, leaf *ledger.Leaf, raw []byte) error
	// Checkpoint, if any, is called for each new checkpoint after its entries.
	Checkpoint func(cp ledger.Checkpoint)
	// Trouble is told what kept a look from being made; it is tried again.
	Trouble func(error)
}

// Now is the Since of a follower who wants only what is yet to come.
const Now = ^uint64(0)

const (
	followRound = time.Minute
	// followBytes and followBundles cap what is held before it is proven.
	followBytes   = 8 << 20
	followBundles = 16
)

// follower is one Follow under way.
type follower struct {
	reader
	verifier note.Verifier
	opts     FollowOptions
	tree     *ledger.Tree // what is proven so far; nil before the first look
	last     ledger.Checkpoint
	since    uint64
}

// Follow calls Act for each entry from Since on, as the log grows. Each new
// checkpoint is proven to continue the last one, and each entry to be in it,
// before Act sees it. It ends with ctx, with an error of Wait or Act, with
// ledger.ErrShorter or ledger.ErrForked when the log is not the one that it was,
// or with ErrDamaged or ledger.ErrSignature when what it shows is not what it
// signed. That it does not answer, or not in time, is no end: it is asked again.
func Follow(ctx context.Context, src Source, log ledger.Log, opts FollowOptions) error {
	v, err := ledger.NewVerifier(log.Origin, log.Key)
	if err != nil {
		return err
	}
	if opts.Round <= 0 {
		opts.Round = followRound
	}
	f := &follower{verifier: v, opts: opts, since: opts.Since}
	for {
		err := f.round(ctx, src)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
		case errors.Is(err, errAgain):
			if opts.Trouble != nil {
				opts.Trouble(err)
			}
		default:
			return err
		}
		if err := opts.Wait(ctx); err != nil {
			return err
		}
	}
}

// errAgain marks what another look may cure.
var errAgain = errors.New("not read")

// again keeps a look that failed from ending Follow. What is missing may only not
// be there yet, or not any more: files are replaced while a log grows.
func again(err error) error { return fmt.Errorf("auditor: %w: %w", errAgain, err) }

// round looks at the log once.
func (f *follower) round(ctx context.Context, src Source) error {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Round)
	defer cancel()
	f.reader = reader{ctx: ctx, src: src}
	raw, err := f.checkpoint()
	if errors.Is(err, ErrUnusable) {
		return fmt.Errorf("auditor: checkpoint: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return again(err)
	}
	cp, err := ledger.ParseCheckpoint(raw, f.verifier)
	if err != nil {
		return err
	}
	if f.tree == nil {
		if err := f.begin(cp); err != nil {
			return err
		}
	}
	if cp.Size < f.tree.Size() {
		return fmt.Errorf("auditor: %d entries after %d: %w", cp.Size, f.tree.Size(), ledger.ErrShorter)
	}
	for f.tree.Size() < cp.Size {
		if err := f.some(cp); err != nil {
			return err
		}
	}
	if f.tree.Root() != cp.Root {
		return fmt.Errorf("auditor: two roots of %d entries: %w", cp.Size, ledger.ErrForked)
	}
	if cp.Size == f.last.Size && len(f.last.Raw) > 0 {
		return nil
	}
	f.last = cp
	if f.opts.Checkpoint != nil {
		f.opts.Checkpoint(cp)
	}
	return nil
}

// begin takes up the log at its present checkpoint.
func (f *follower) begin(cp ledger.Checkpoint) error {
	for _, k := range f.opts.Known {
		known, err := ledger.ParseCheckpoint(k.Raw, f.verifier)
		if err != nil {
			return fmt.Errorf("auditor: the checkpoint seen by %s: %w", k.From, err)
		}
		if err := f.continues(known, cp); err != nil {
			return fmt.Errorf("auditor: the checkpoint seen by %s: %w", k.From, err)
		}
	}
	if f.since == Now {
		f.since = cp.Size
	}
	tree, err := f.first(min(f.since, cp.Size), cp)
	if err != nil {
		return err
	}
	f.tree, f.last = tree, ledger.Checkpoint{Origin: cp.Origin, Size: tree.Size(), Root: tree.Root()}
	return nil
}

// first is the tree of the first n entries under a checkpoint, proven by the
// log's own tiles; ErrDamaged when they do not lead to the checkpoint.
func (r *reader) first(n uint64, cp ledger.Checkpoint) (*ledger.Tree, error) {
	stack, err := r.stack(n, cp.Size)
	if err != nil {
		return nil, err
	}
	tree, err := ledger.NewTree(n, stack)
	if err != nil {
		return nil, err
	}
	prover, err := ledger.NewProver(cp.Size, r.tiles(cp.Size))
	if err != nil {
		return nil, err
	}
	proof, err := prover.Consistency(n)
	if err != nil {
		return nil, err
	}
	before := ledger.Checkpoint{Origin: cp.Origin, Size: n, Root: tree.Root()}
	if err := ledger.VerifyConsistency(before, cp, proof); err != nil {
		return nil, fmt.Errorf("auditor: the tiles do not lead to the checkpoint of %d entries: %w", cp.Size, ErrDamaged)
	}
	return tree, nil
}

// continues holds a signed checkpoint against a newer one.
func (r *reader) continues(older, newer ledger.Checkpoint) error {
	if older.Size > newer.Size {
		return fmt.Errorf("auditor: %d entries after %d: %w", newer.Size, older.Size, ledger.ErrShorter)
	}
	tree, err := r.first(older.Size, newer)
	if err != nil {
		return err
	}
	if tree.Root() != older.Root {
		return fmt.Errorf("auditor: %d entries do not continue the %d of before: %w", newer.Size, older.Size, ledger.ErrForked)
	}
	return nil
}

// tiles reads hashes for a prover.
func (r *reader) tiles(size uint64) func(ledger.Tile) ([]byte, error) {
	return func(t ledger.Tile) ([]byte, error) {
		tile, path, why, err := r.hashes(int(t.Level), t.Index, size)
		if err != nil {
			return nil, again(err)
		}
		if why != "" {
			err := fmt.Errorf("%s: %s: %w", path, why, ErrDamaged)
			if why == missing {
				err = again(err)
			}
			return nil, err
		}
		data := make([]byte, 0, len(tile)*hashSize)
		for i := range tile {
			data = append(data, tile[i][:]...)
		}
		return data, nil
	}
}

// some proves and hands over the next entries, as many as may be held at once.
func (f *follower) some(cp ledger.Checkpoint) error {
	tree := *f.tree
	var list [][]byte
	held, first := 0, tree.Size()
	for range followBundles {
		if tree.Size() == cp.Size || held > followBytes {
			break
		}
		n := tree.Size() / tileWidth
		bundle, err := f.bundle(n, cp.Size)
		if err != nil {
			return err
		}
		for _, e := range bundle[tree.Size()-n*tileWidth:] {
			tree.Append(ledger.LeafHash(e))
			list, held = append(list, e), held+len(e)
		}
	}
	signed, err := f.first(tree.Size(), cp)
	if err != nil {
		return err
	}
	if signed.Root() != tree.Root() {
		if len(f.last.Raw) > 0 { // else nothing was signed before
			if err := f.continues(f.last, cp); err != nil {
				return err
			}
		}
		return fmt.Errorf("auditor: entries from %d on: %w", first, ErrDamaged)
	}
	for i, raw := range list {
		index := first + uint64(i)
		if index < f.since {
			continue
		}
		leaf, err := ledger.ParseLeaf(raw)
		known := &leaf
		if err != nil {
			if !errors.Is(err, ledger.ErrUnknown) {
				return fmt.Errorf("auditor: entry %d: %w: %w", index, ErrDamaged, err)
			}
			known = nil
		}
		if err := f.opts.Act(index, known, raw); err != nil {
			return err
		}
	}
	f.tree = &tree
	return nil
}

// bundle reads the entries of bundle n.
func (r *reader) bundle(n, size uint64) ([][]byte, error) {
	_, width := filePath(entries, n, size)
	data, path, err := r.file(entries, n, size)
	if errors.Is(err, ErrUnusable) {
		return nil, fmt.Errorf("auditor: %s: %w: %w", path, ErrDamaged, err)
	}
	if err != nil {
		return nil, again(fmt.Errorf("%s: %w", path, err))
	}
	list, why := split(data, width)
	if why != "" {
		return nil, fmt.Errorf("auditor: %s: %s: %w", path, why, ErrDamaged)
	}
	return list, nil
}

// stack reads the hashes that make up the tree of the first n entries.
func (r *reader) stack(n, size uint64) ([][32]byte, error) {
	read := r.tiles(size)
	var stack [][32]byte
	for done := uint64(0); done < n; {
		height := bits.Len64(n-done) - 1 // of the largest subtree that is left
		level, row := height/tileHeight, height%tileHeight
		index := done >> (tileHeight * level)
		_, width := filePath(level, index/tileWidth, size)
		data, err := read(ledger.Tile{Level: uint8(level), Index: index / tileWidth, Width: width})
		if err != nil {
			return nil, err
		}
		hashes := make([]tlog.Hash, 1<<row)
		for i := range hashes {
			hashes[i] = tlog.Hash(data[(int(index%tileWidth)+i)*hashSize:])
		}
		stack = append(stack, fold(hashes))
		done += 1 << height
	}
	return stack, nil
}

// Entry is one entry of a log and the proof that it is there.
type Entry struct {
	Receipt ledger.Receipt
	Leaf    ledger.Leaf
	Size    uint64 // of the log, as its checkpoint signs it
	Hash    [32]byte
}

// Show reads one entry and proves that it is in the log's present checkpoint. It
// fails with fs.ErrNotExist when the log has no such entry, with
// ledger.ErrSignature, ErrDamaged, ledger.ErrUnknown or ledger.ErrFormat, or as
// the source does.
func Show(ctx context.Context, src Source, log ledger.Log, index uint64) (*Entry, error) {
	v, err := ledger.NewVerifier(log.Origin, log.Key)
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, src: src}
	raw, err := r.checkpoint()
	if err != nil {
		return nil, fmt.Errorf("auditor: checkpoint: %w", err)
	}
	cp, err := ledger.ParseCheckpoint(raw, v)
	if err != nil {
		return nil, err
	}
	if index >= cp.Size {
		return nil, fmt.Errorf("auditor: entry %d of %d: %w", index, cp.Size, fs.ErrNotExist)
	}
	list, err := r.bundle(index/tileWidth, cp.Size)
	if err != nil {
		return nil, err
	}
	prover, err := ledger.NewProver(cp.Size, r.tiles(cp.Size))
	if err != nil {
		return nil, err
	}
	proof, err := prover.Inclusion(index)
	if err != nil {
		return nil, err
	}
	e := &Entry{Size: cp.Size}
	e.Receipt = ledger.Receipt{Leaf: list[index%tileWidth], Index: index, Proof: proof, Checkpoint: cp.Raw}
	e.Hash = sha256.Sum256(append([]byte{0}, e.Receipt.Leaf...))
	if e.Leaf, _, err = e.Receipt.Verify(v); errors.Is(err, ledger.ErrProof) {
		path, _ := filePath(entries, index/tileWidth, cp.Size)
		return nil, fmt.Errorf("auditor: entry %d (%s): %w: %w", index, path, ErrDamaged, err)
	}
	return e, err
}
