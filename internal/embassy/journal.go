package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

const (
	batchLeaves        = 256
	gatherTime         = time.Millisecond       // see append
	batchAge           = 500 * time.Microsecond // of the driver: no less than adding 256 leaves takes
	checkpointInterval = 100 * time.Millisecond // the driver's shortest
	republishInterval  = 10 * time.Minute
	pollInterval       = 10 * time.Millisecond
)

// journal is the ledger of one state on this embassy's disk: C2SP tlog-tiles in
// one folder.
type journal struct {
	dir      string
	origin   string
	verifier note.Verifier
	add      tessera.AddFn
	reader   tessera.LogReader
	shutdown func(context.Context) error
	cancel   context.CancelFunc

	mu     sync.Mutex
	newest ledger.Checkpoint // last one read

	gate    sync.Mutex
	waiting []*leafWaiting // for the batch under way to end
	writing bool           // a batch is under way
}

// leafWaiting is a leaf on its way into the ledger. index and err are set when
// done is closed.
type leafWaiting struct {
	entry *tessera.Entry
	done  chan struct{}
	index uint64
	err   error
}

func openJournal(dir, origin string, key ed25519.PrivateKey) (*journal, error) {
	if err := durable.MkdirAll(dir, folderPerm); err != nil {
		return nil, fmt.Errorf("embassy: ledger: %w", err)
	}
	signer, err := ledger.NewSigner(origin, key)
	if err != nil {
		return nil, err
	}
	verifier, err := ledger.NewVerifier(origin, publicOf(key))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("embassy: ledger: %w", err)
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(batchLeaves, batchAge).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(republishInterval).
		WithShutdownTimeout(10 * time.Second)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("embassy: ledger: %w", err)
	}
	return &journal{
		dir: dir, origin: origin, verifier: verifier,
		add: appender.Add, reader: reader, shutdown: shutdown, cancel: cancel,
	}, nil
}

// close publishes what was appended and ends the background work. Nobody may
// append any more.
func (j *journal) close() error {
	err := j.shutdown(context.Background())
	j.cancel()
	if err != nil {
		return fmt.Errorf("embassy: ledger: close: %w", err)
	}
	return nil
}

// append returns when the leaf is durable in the ledger, at the index returned.
// A crash before that leaves the leaf in the ledger or not; a second leaf for
// the same thing does no harm, for the first counts.
//
// A batch costs the disk the same few fsyncs whether it has one leaf or 256.
// Therefore one is written at a time, leaves that come meanwhile make the next,
// and each waits gatherTime for those that come close behind the first.
func (j *journal) append(l *ledger.Leaf) (index uint64, err error) {
	indexes, err := j.appendAll([]*ledger.Leaf{l})
	if err != nil {
		return 0, err
	}
	return indexes[0], nil
}

// appendAll is append for several leaves. They go into the ledger in order, so
// that a crash leaves the first so many of them. It returns the indexes of those
// that are durable with all before them, and why the next is not.
func (j *journal) appendAll(leaves []*ledger.Leaf) (indexes []uint64, err error) {
	if len(leaves) == 0 {
		return nil, nil
	}
	waits := make([]*leafWaiting, len(leaves))
	for i, l := range leaves {
		data, err := l.Bytes()
		if err != nil {
			return nil, err
		}
		waits[i] = &leafWaiting{entry: tessera.NewEntry(data), done: make(chan struct{})}
	}
	j.gate.Lock()
	j.waiting = append(j.waiting, waits...)
	first := !j.writing
	j.writing = true
	j.gate.Unlock()
	if first {
		go j.writeWaiting()
	}
	for _, w := range waits {
		<-w.done
		if w.err != nil && err == nil {
			err = fmt.Errorf("embassy: ledger: append: %w", w.err)
		}
		if err == nil {
			indexes = append(indexes, w.index)
		}
	}
	return indexes, err
}

// writeWaiting writes batch after batch until nobody waits.
func (j *journal) writeWaiting() {
	for {
		time.Sleep(gatherTime)
		batch := j.takeWaiting()
		futures := make([]tessera.IndexFuture, len(batch))
		for i, w := range batch {
			futures[i] = j.add(context.Background(), w.entry)
		}
		for i, w := range batch {
			at, err := futures[i]()
			w.index, w.err = at.Index, err
			close(w.done)
		}
		j.gate.Lock()
		j.writing = len(j.waiting) > 0
		more := j.writing
		j.gate.Unlock()
		if !more {
			return
		}
	}
}

// takeWaiting takes the next batch, oldest leaves first.
func (j *journal) takeWaiting() []*leafWaiting {
	j.gate.Lock()
	defer j.gate.Unlock()
	n := min(len(j.waiting), batchLeaves)
	batch := j.waiting[:n:n]
	j.waiting = j.waiting[n:]
	return batch
}

// size is how many leaves are durable, published or not.
func (j *journal) size(ctx context.Context) (uint64, error) {
	n, err := j.reader.IntegratedSize(ctx)
	if err != nil {
		return 0, fmt.Errorf("embassy: ledger: %w", err)
	}
	return n, nil
}

// checkpoint reads the published checkpoint.
func (j *journal) checkpoint(ctx context.Context) (ledger.Checkpoint, error) {
	raw, err := j.reader.ReadCheckpoint(ctx)
	if err != nil {
		return ledger.Checkpoint{}, fmt.Errorf("embassy: ledger: checkpoint: %w", err)
	}
	j.mu.Lock()
	cp := j.newest
	j.mu.Unlock()
	if cp.Raw != nil && bytes.Equal(raw, cp.Raw) {
		return cp, nil // verified before
	}
	return ledger.ParseCheckpoint(raw, j.verifier)
}

// covering waits until a published checkpoint has at least size leaves.
func (j *journal) covering(ctx context.Context, size uint64) (ledger.Checkpoint, error) {
	j.mu.Lock()
	cp := j.newest
	j.mu.Unlock()
	if cp.Size >= size && size > 0 {
		return cp, nil
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		cp, err := j.checkpoint(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ledger.Checkpoint{}, err
		}
		if err == nil && cp.Size >= size {
			j.mu.Lock()
			if cp.Size >= j.newest.Size {
				j.newest = cp
			}
			j.mu.Unlock()
			return cp, nil
		}
		select {
		case <-ctx.Done():
			return ledger.Checkpoint{}, fmt.Errorf("embassy: ledger: no checkpoint of %d leaves yet: %w", size, ctx.Err())
		case <-tick.C:
		}
	}
}

// each reads up to most leaves from index from on and returns the index after
// the last. It reads bundle by bundle and keeps none.
func (j *journal) each(ctx context.Context, from uint64, do func(uint64, *ledger.Leaf) error, most int) (uint64, error) {
	size, err := j.size(ctx)
	if err != nil {
		return from, err
	}
	end := min(size, from+uint64(most))
	for from < end {
		entries, err := j.bundle(ctx, from/layout.EntryBundleWidth, size)
		if err != nil {
			return from, err
		}
		for i := from % layout.EntryBundleWidth; i < uint64(len(entries)) && from < end; i++ {
			l, err := ledger.ParseLeaf(entries[i])
			if err != nil {
				return from, fmt.Errorf("embassy: ledger: leaf %d: %w", from, err)
			}
			if err := do(from, &l); err != nil {
				return from, err
			}
			from++
		}
	}
	return from, nil
}

// bundle reads the entries of bundle n in the log of size leaves.
func (j *journal) bundle(ctx context.Context, n, size uint64) ([][]byte, error) {
	partial := layout.PartialTileSize(0, n, size)
	raw, err := j.reader.ReadEntryBundle(ctx, n, partial)
	if err != nil {
		return nil, fmt.Errorf("embassy: ledger: entries %d: %w", n, err)
	}
	entries, err := ledger.SplitBundle(raw)
	if err != nil {
		return nil, fmt.Errorf("embassy: ledger: entries %d: %w", n, err)
	}
	want := layout.EntryBundleWidth
	if partial > 0 {
		want = int(partial)
	}
	if len(entries) < want {
		return nil, fmt.Errorf("embassy: ledger: entries %d: %d of %d are there", n, len(entries), want)
	}
	return entries, nil
}

// tile reads hashes for a prover.
func (j *journal) tile(ctx context.Context) func(ledger.Tile) ([]byte, error) {
	return func(t ledger.Tile) ([]byte, error) {
		partial := uint8(0)
		if t.Width < layout.TileWidth {
			partial = uint8(t.Width)
		}
		data, err := j.reader.ReadTile(ctx, uint64(t.Level), t.Index, partial)
		if err != nil {
			return nil, fmt.Errorf("embassy: ledger: %w", err)
		}
		return data[:min(len(data), layout.TileWidth*32)], nil
	}
}

// readRaw reads one file of the layout; path has been checked by the caller.
func (j *journal) readRaw(path string) ([]byte, error) {
	root, err := os.OpenRoot(j.dir)
	if err != nil {
		return nil, fmt.Errorf("embassy: ledger: %w", err)
	}
	defer func() { _ = root.Close() }() // read only
	data, err := root.ReadFile(filepath.FromSlash(path))
	if err != nil {
		return nil, fmt.Errorf("embassy: ledger: %w", err)
	}
	return data, nil
}
