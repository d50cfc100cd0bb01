package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/index"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// known answers which chunks are stored already, and keeps the journal: the packs that embassies acknowledged but
// that no head names yet. After an interruption the journal is what makes a rerun send only what is missing.
//
// The journal is a file of records, each
//
//	length u32 | first 8 bytes of the SHA-256 of the body | body: an index payload of one pack
//
// It is not fsynced: a record lost in a crash costs sending one pack again, never data, because nothing refers to
// a pack before its head does.
type known struct {
	reg       *register.Register
	committed *index.Index // packs that heads name
	lost      lostPacks    // those of them that cannot be brought back
	leaving   leavingPacks // those of them that an order removes, or will
	needs     *needs       // those of them that the snapshot being made needs
	pending   *index.Index // packs of the journal, but for the newest
	path      string
	file      *os.File

	mu     sync.Mutex
	fresh  map[chunk.ID]struct{}  // claimed in this run, not yet in pending
	recent []snapshot.IndexedPack // recorded, not yet in pending
	chunks int                    // of recent
	packs  int                    // in the journal

	// What resume found of the run before.
	absent  map[shard.Name]bool // shares of packs of the journal that an embassy which is up does not hold
	gaps    int                 // how many
	partly  []bool              // share -> whether that embassy lacks some of them
	objects int64               // shares that embassies hold
	stored  int64               // their bytes
}

const (
	// spillAt is how many chunks stay in the heap before they go to the pending index.
	spillAt = 64 << 10
	// resumeBatch is how many packs of the journal are looked at together.
	resumeBatch = 1024
	// maxRecord caps a journal record.
	maxRecord = 16 << 20
)

// openKnown opens what a run needs to know; close releases it.
func openKnown(reg *register.Register, committed *index.Index, leaving leavingPacks) (*known, error) {
	dir := reg.Dir
	pending, err := index.Open(filepath.Join(dir, "pending"))
	if errors.Is(err, index.ErrDamaged) {
		pending, err = remakeIndex(filepath.Join(dir, "pending"))
	}
	if err != nil {
		return nil, err
	}
	lost, err := readLost(dir)
	if err != nil {
		pending.Close()
		return nil, err
	}
	return &known{
		lost: lost, leaving: leaving, needs: newNeeds(), reg: reg, partly: make([]bool, len(reg.Members)), committed: committed, pending: pending, path: filepath.Join(dir, "journal"),
		fresh: map[chunk.ID]struct{}{}, absent: map[shard.Name]bool{},
	}, nil
}

// remakeIndex starts a damaged index anew; what was in it comes back from the embassies, or is sent again.
func remakeIndex(dir string) (*index.Index, error) {
	if err := index.Discard(dir); err != nil {
		return nil, err
	}
	return index.Open(dir)
}

func (k *known) close() {
	if k.file != nil {
		k.file.Close()
	}
	k.pending.Close()
}

// stays reports whether a head's packs hold the chunk, in one that is there and stays.
func (k *known) stays(id chunk.ID) bool {
	in, ok := k.committed.Where(id)
	return ok && !k.lost[in] && !k.leaving[in]
}

// kept reports whether a head's packs hold the chunk, in one that is there and stays, and notes that the snapshot being
// made needs that pack.
func (k *known) kept(id chunk.ID) bool {
	in, ok := k.committed.Where(id)
	if !ok || k.lost[in] || k.leaving[in] {
		return false
	}
	k.needs.add(in)
	return true
}

// claim reports whether the caller is the first to bring this chunk, and must store it.
func (k *known) claim(id chunk.ID) bool {
	if k.kept(id) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.fresh[id]; ok || k.pending.Has(id) {
		return false
	}
	k.fresh[id] = struct{}{}
	return true
}

// has reports whether a chunk that an earlier run stored is still known.
func (k *known) has(id chunk.ID) bool {
	if k.kept(id) {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.fresh[id]
	return ok || k.pending.Has(id)
}

// record adds an acknowledged pack to the journal.
func (k *known) record(p snapshot.IndexedPack) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == nil {
		f, err := os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		k.file = f
	}
	if err := writeRecord(k.file, p); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	k.packs++
	return k.keep(p)
}

// keep makes a pack known, in the heap at first. It is called with mu held, or before there is concurrency.
func (k *known) keep(p snapshot.IndexedPack) error {
	k.recent, k.chunks = append(k.recent, p), k.chunks+len(p.Entries)
	if k.chunks < spillAt {
		return nil
	}
	return k.spill()
}

// spill moves what is in the heap to the pending index, so that the heap does not grow with a run.
func (k *known) spill() error {
	if err := k.pending.Add(k.recent, 0); err != nil {
		return err
	}
	for _, p := range k.recent {
		for _, e := range p.Entries {
			delete(k.fresh, e.ID)
		}
	}
	k.recent, k.chunks = nil, 0
	return nil
}

func writeRecord(w io.Writer, p snapshot.IndexedPack) error {
	body := snapshot.AppendIndex(nil, []snapshot.IndexedPack{p})
	sum := sha256.Sum256(body)
	rec := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	rec = append(append(rec, sum[:8]...), body...)
	_, err := w.Write(rec)
	return err
}

// errJournal means that the journal is not what this run wrote.
var errJournal = errors.New("the journal is damaged")

// whole yields every pack of the journal, and fails unless they are as many as this run knows of: a pack that is
// missing from the index would be missing from the snapshot.
func (k *known) whole(yield func(snapshot.IndexedPack) error) error {
	n := 0
	err := k.journal(func(p snapshot.IndexedPack) error { n++; return yield(p) })
	if err == nil && n != k.packs {
		err = fmt.Errorf("%s: %w: %d packs of %d", k.path, errJournal, n, k.packs)
	}
	return err
}

// journal yields every pack of the journal, in order. It stops without an error at the first record that is cut
// short or does not match its sum: that is where a crash ended it.
func (k *known) journal(yield func(snapshot.IndexedPack) error) error {
	f, err := os.Open(k.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 256<<10)
	for {
		var head [12]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil
		}
		n := binary.BigEndian.Uint32(head[:4])
		if n > maxRecord {
			return nil
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil
		}
		if sum := sha256.Sum256(body); string(sum[:8]) != string(head[4:]) {
			return nil
		}
		packs, err := snapshot.ParseIndex(body)
		if err != nil || len(packs) != 1 {
			return nil
		}
		if err := yield(packs[0]); err != nil {
			return err
		}
	}
}

// resume takes up the journal of an interrupted run. A pack that fewer than k of the sites hold is forgotten, and its
// chunks are sent again; a share that only some sites lack is left for repair, as long as k sites lack none: fewer
// could not be said to hold the snapshot.
func (k *known) resume(ctx context.Context, sites register.Sites) error {
	if _, err := os.Stat(k.path); errors.Is(err, os.ErrNotExist) {
		return k.pending.Reset()
	}
	// A crash here leaves the old journal or the new one; each names only packs that were acknowledged.
	kept, err := durable.Create(k.path, 0o600)
	if err != nil {
		return err
	}
	if err := k.resumeInto(ctx, kept, sites); err != nil {
		return errors.Join(err, kept.Abort())
	}
	return kept.Commit()
}

func (k *known) resumeInto(ctx context.Context, kept io.Writer, sites register.Sites) error {
	if err := k.pending.Reset(); err != nil {
		return err
	}
	var batch []snapshot.IndexedPack
	flush := func() error {
		err := k.takeUp(ctx, kept, sites, batch)
		batch = batch[:0]
		return err
	}
	err := k.journal(func(p snapshot.IndexedPack) error {
		if batch = append(batch, p); len(batch) < resumeBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	return k.spill()
}

// takeUp decides about a batch of packs of the journal.
func (k *known) takeUp(ctx context.Context, kept io.Writer, sites register.Sites, batch []snapshot.IndexedPack) error {
	batch = slices.DeleteFunc(batch, func(p snapshot.IndexedPack) bool {
		_, done := k.committed.Pack(p.Ref.ID) // a head names it: the run ended between its head and its journal
		r := &p.Ref
		return done || len(r.Shares) != len(sites) || int(r.K) != k.reg.K || r.Epoch != k.reg.Epoch
	})
	lacking := make([]map[shard.Name]bool, len(sites))
	var all sync.WaitGroup
	for i, s := range sites {
		all.Go(func() { lacking[i] = missingShares(ctx, s, batch) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := sites.Enough(k.reg.K); err != nil {
		return err
	}
	for _, p := range batch {
		if !k.accept(sites, &p.Ref, lacking) {
			continue
		}
		if err := writeRecord(kept, p); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		k.packs++
		if err := k.keep(p); err != nil {
			return err
		}
	}
	return nil
}

// accept counts who lacks a share of a pack, and reports whether the pack can stay.
func (k *known) accept(sites register.Sites, ref *snapshot.PackRef, lacking []map[shard.Name]bool) bool {
	have, whole := 0, 0
	partly := slices.Clone(k.partly)
	for i, s := range sites {
		if !s.Up() {
			continue
		}
		if lacking[i][ref.Shares[i]] {
			partly[i] = true
		} else {
			have++
		}
		if !partly[i] {
			whole++
		}
	}
	if have < k.reg.K || whole < k.reg.K {
		return false
	}
	for i, s := range sites {
		if s.Up() && lacking[i][ref.Shares[i]] {
			k.absent[ref.Shares[i]] = true
			k.gaps++
		}
	}
	k.partly = partly
	k.objects += int64(have)
	k.stored += int64(have) * int64(shard.Size(ref.Class.Size(), int(ref.K)))
	return true
}

// missingShares asks a site which shares of the packs it lacks. A site that does not answer is down.
func missingShares(ctx context.Context, s *register.Site, packs []snapshot.IndexedPack) map[shard.Name]bool {
	out := map[shard.Name]bool{}
	var names []shard.Name
	ask := func() {
		if len(names) == 0 || !s.Up() {
			return
		}
		missing, err := s.Objects.Check(ctx, names, false)
		if err != nil {
			s.Fail(fmt.Errorf("asking for objects: %w", err))
			return
		}
		for _, m := range missing {
			out[m.Name] = true
		}
		names = names[:0]
	}
	for _, p := range packs {
		if s.Share < len(p.Ref.Shares) {
			names = append(names, p.Ref.Shares[s.Share])
		}
		if len(names) == register.Batch {
			ask()
		}
	}
	ask()
	return out
}

// forget ends the journal once a head names its packs. A crash before it leaves packs in both the journal and the
// index; the next run then finds them in the index and forgets them again.
func (k *known) forget() error {
	if k.file != nil {
		k.file.Close()
		k.file = nil
	}
	k.mu.Lock()
	k.fresh, k.recent, k.chunks, k.packs = map[chunk.ID]struct{}{}, nil, 0, 0
	k.mu.Unlock()
	if err := durable.Remove(k.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return k.pending.Reset()
}
