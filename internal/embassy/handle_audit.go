package embassy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// auditTime is what one answer to a challenge may take.
const auditTime = 5 * time.Minute

// audit answers a challenge out of the ledger and the disk as they are.
func (s *Server) audit(q *session) error {
	raw, err := q.body(audit.MaxChallenge)
	if err != nil {
		return err
	}
	ch, err := audit.ParseChallenge(raw)
	if err != nil {
		return invalid("challenge", "not one that is understood")
	}
	if ch.State != [16]byte(q.state.id) {
		return invalid("challenge", "for another state")
	}
	cp, err := ch.Opened(publicOf(s.key))
	if err != nil || cp.Origin != q.state.journal.origin {
		return invalid("challenge", "not for a checkpoint of this ledger")
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), auditTime)
	defer cancel()
	size, err := q.state.journal.size(ctx)
	if err != nil {
		return err
	}
	if cp.Size > size {
		return &refusal{status: http.StatusConflict, Code: codeConflict, What: "challenge", Why: "for more leaves than this ledger has"}
	}
	// Few at once: each reads the disk all the time.
	if err := q.aside(func() error {
		select {
		case s.audits <- struct{}{}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}); err != nil {
		return err
	}
	defer func() { <-s.audits }()
	err = http.NewResponseController(q.w).SetWriteDeadline(time.Now().Add(auditTime))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return failed("request", err)
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	out := bufio.NewWriterSize(q.w, 128<<10)
	src := &evidenceSource{ctx: ctx, journal: q.state.journal, store: q.state.store, find: q.state.catalog.objectEver, size: size, bundle: ^uint64(0)}
	if err := audit.Respond(out, ch, src, s.key); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return nil // the peer went away
	}
	return nil
}

// evidenceSource is what one audit is answered from.
type evidenceSource struct {
	ctx     context.Context
	journal *journal
	store   *store
	find    func(shard.Name) (place, bool, error)
	size    uint64 // of the ledger when the audit began

	bundle  uint64 // of entries, which is kept: a range asks in order
	entries [][]byte
	prover  *ledger.Prover
	of      uint64 // the size that prover is for
	proven  int
	data    [shard.LeafSize]byte
}

// maxProven is after how many proofs the tiles read so far are given up, so that
// a long range does not gather a whole ledger in memory.
const maxProven = 4096

// Entry reads one leaf of the ledger.
func (e *evidenceSource) Entry(index uint64) ([]byte, error) {
	if n := index / layout.EntryBundleWidth; n != e.bundle {
		entries, err := e.journal.bundle(e.ctx, n, e.size)
		if err != nil {
			return nil, err
		}
		e.bundle, e.entries = n, entries
	}
	at := index % layout.EntryBundleWidth
	if index >= e.size || at >= uint64(len(e.entries)) {
		return nil, fmt.Errorf("embassy: ledger: no leaf %d", index)
	}
	return e.entries[at], nil
}

// Inclusion proves that a leaf is in the tree of the first size leaves.
func (e *evidenceSource) Inclusion(index, size uint64) ([][32]byte, error) {
	if e.prover == nil || e.of != size || e.proven >= maxProven {
		p, err := ledger.NewProver(size, e.journal.tile(e.ctx))
		if err != nil {
			return nil, err
		}
		e.prover, e.of, e.proven = p, size, 0
	}
	e.proven++
	return e.prover.Inclusion(index)
}

// Leaf reads a whole object, since its path needs the hashes of all its leaves.
func (e *evidenceSource) Leaf(name shard.Name, size uint64, leaf int) (data []byte, path [][32]byte, err error) {
	if err := e.ctx.Err(); err != nil {
		return nil, nil, err
	}
	hashes, err := e.store.leaves(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := e.store.open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // read only
	off := int64(leaf) * shard.LeafSize
	n := min(int64(size)-off, shard.LeafSize)
	if n <= 0 {
		return nil, nil, fs.ErrInvalid
	}
	if _, err := f.ReadAt(e.data[:n], off); err != nil {
		return nil, nil, fmt.Errorf("embassy: object: %w", err)
	}
	leaves := make([][32]byte, len(hashes)/32)
	for i := range leaves {
		leaves[i] = [32]byte(hashes[32*i:])
	}
	return e.data[:n], audit.Path(leaves, leaf), nil
}

// Removed shows the leaf of an order that had an object removed. It may have come
// after the checkpoint that is asked about, and after this audit began: then a
// newer checkpoint shows it, and that it continues the other.
func (e *evidenceSource) Removed(name shard.Name, size uint64) (*audit.Removal, error) {
	at, ever, err := e.find(name)
	if err != nil || !ever || !at.removed {
		return nil, err
	}
	r := &audit.Removal{Index: at.index}
	n := at.index / layout.EntryBundleWidth
	cp, err := e.journal.covering(e.ctx, at.index+1)
	if err != nil {
		return nil, err
	}
	entries, err := e.journal.bundle(e.ctx, n, cp.Size)
	if err != nil {
		return nil, err
	}
	r.Leaf = entries[at.index%layout.EntryBundleWidth]
	if at.index < size {
		r.Proof, err = e.Inclusion(at.index, size)
		return r, err
	}
	p, err := ledger.NewProver(cp.Size, e.journal.tile(e.ctx))
	if err != nil {
		return nil, err
	}
	if r.Consistency, err = p.Consistency(size); err != nil {
		return nil, err
	}
	r.Checkpoint = cp.Raw
	r.Proof, err = p.Inclusion(at.index)
	return r, err
}
