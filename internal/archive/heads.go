package archive

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// history is the chain of a register's heads: a local copy of each, checked when it came, in files named by
// sequence. What it knows of a head that it does not hold in memory is on disk, so it does not grow with the chain.
type history struct {
	reg     *Register
	trusted []ed25519.PublicKey
	dir     string
	last    uint64
	lag     map[int]uint64 // share -> the sequence after which this site lacks heads
}

// openHistory reads what is kept locally; sync brings it up to date.
func openHistory(reg *Register, trusted []ed25519.PublicKey) (*history, error) {
	h := &history{reg: reg, trusted: trusted, dir: filepath.Join(reg.Dir, "heads"), lag: map[int]uint64{}}
	if err := durable.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var seq uint64
		if _, err := fmt.Sscanf(e.Name(), "%012d", &seq); err == nil && e.Name() == headName(seq) {
			h.last = max(h.last, seq)
		}
	}
	return h, nil
}

func headName(seq uint64) string { return fmt.Sprintf("%012d", seq) }

// bytes returns the record of a head as it is kept locally.
func (h *history) bytes(seq uint64) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, headName(seq)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("head %d: %w", seq, ErrNoSnapshot)
	}
	return b, err
}

// head returns a head of the chain. Sequences count from 1.
func (h *history) head(seq uint64) (*snapshot.Head, error) {
	b, err := h.bytes(seq)
	if err != nil {
		return nil, err
	}
	return h.parse(b)
}

func (h *history) parse(b []byte) (*snapshot.Head, error) {
	head, err := snapshot.ParseHead(b)
	if err != nil {
		return nil, err
	}
	if head.State != h.reg.State || head.Register != [16]byte(h.reg.ID) {
		return nil, errors.New("head of another register")
	}
	if err := head.Verify(); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(h.trusted, func(k ed25519.PublicKey) bool { return [32]byte(k) == head.Agent }) {
		return nil, fmt.Errorf("head %d is signed by a key that the charter does not name", head.Sequence)
	}
	return head, nil
}

// accept checks a head against the one before it and keeps it. A crash leaves the chain without it, or with it.
func (h *history) accept(b []byte) (*snapshot.Head, error) {
	head, err := h.parse(b)
	if err != nil {
		return nil, err
	}
	if head.Sequence != h.last+1 {
		return nil, fmt.Errorf("head %d does not follow %d", head.Sequence, h.last)
	}
	if h.last > 0 {
		prev, err := h.head(h.last)
		if err != nil {
			return nil, err
		}
		if err := snapshot.CheckChain(prev, head); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrForked, err)
		}
	}
	if err := durable.WriteFile(filepath.Join(h.dir, headName(head.Sequence)), b, 0o600); err != nil {
		return nil, err
	}
	h.last = head.Sequence
	return head, nil
}

// sync asks every site for its heads, takes over what is new, and compares what is known. A site that does not
// answer is down; one whose heads differ from the others' is a fork. With quick, sites are asked only for the end
// of the chain.
func (h *history) sync(ctx context.Context, sites []*site, need int, quick bool) error {
	lists := make([][]ledger.RecordInfo, len(sites))
	after := uint64(0)
	if quick && h.last > 0 {
		after = h.last - 1
	}
	var all sync.WaitGroup
	for i, s := range sites {
		all.Go(func() {
			list, err := listHeads(ctx, s, h.reg.ID, after)
			if err != nil {
				s.fail(fmt.Errorf("listing heads: %w", err))
			}
			lists[i] = list
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := enough(sites, need); err != nil {
		return err
	}
	for i, s := range sites {
		if !s.up() {
			continue
		}
		if err := h.merge(ctx, s, lists[i]); err != nil {
			return err
		}
	}
	for i, s := range sites {
		if s.up() {
			h.lag[i] = h.lagOf(lists[i], after)
		}
	}
	return nil
}

// lagOf returns the sequence after which a site must be given heads, or the newest when it lacks none.
func (h *history) lagOf(list []ledger.RecordInfo, after uint64) uint64 {
	if len(list) == 0 && after > 0 {
		return 0 // further behind than was asked: from the start, taken slots answer quickly
	}
	for _, r := range list {
		if r.Slot.Sequence != after+1 {
			break
		}
		after++
	}
	return min(after, h.last)
}

// listHeads pages through the heads that a site holds.
func listHeads(ctx context.Context, s *site, register [16]byte, after uint64) ([]ledger.RecordInfo, error) {
	var out []ledger.RecordInfo
	for {
		page, err := s.Records.ListRecords(ctx, ledger.Head, register, after)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return out, nil
		}
		if page[len(page)-1].Slot.Sequence <= after {
			return nil, errors.New("the list of heads does not go forward")
		}
		out = append(out, page...)
		after = page[len(page)-1].Slot.Sequence
	}
}

// merge takes over the heads of one site that are not known yet and compares those that are.
func (h *history) merge(ctx context.Context, s *site, list []ledger.RecordInfo) error {
	for _, r := range list {
		seq := r.Slot.Sequence
		if seq <= h.last {
			b, err := h.bytes(seq)
			if err != nil {
				return err
			}
			if sha256.Sum256(b) != r.Hash {
				return fmt.Errorf("%w: %s holds another head %d of this register", ErrForked, s.Name, seq)
			}
			continue
		}
		if seq != h.last+1 {
			return nil // a hole at this site: another one has what is between
		}
		b, err := s.Records.GetRecord(ctx, r.Slot)
		if err != nil {
			s.fail(fmt.Errorf("reading head %d: %w", seq, err))
			return nil
		}
		if sha256.Sum256(b) != r.Hash {
			s.fail(fmt.Errorf("head %d is not what the list says", seq))
			return nil
		}
		if _, err := h.accept(b); err != nil {
			if errors.Is(err, ErrForked) {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			s.fail(err)
			return nil
		}
	}
	return nil
}

// publish gives every site that is up the heads it lacks, up to the newest.
func (h *history) publish(ctx context.Context, sites []*site) {
	var all sync.WaitGroup
	for i, s := range sites {
		if !s.up() {
			continue
		}
		all.Go(func() {
			for seq := h.lag[i] + 1; seq <= h.last; seq++ {
				b, err := h.bytes(seq)
				if err == nil {
					err = s.Records.PutRecord(ctx, h.slot(seq), b)
				}
				if err != nil {
					s.fail(fmt.Errorf("storing head %d: %w", seq, err))
					return
				}
			}
		})
	}
	all.Wait()
	for i, s := range sites {
		if s.up() {
			h.lag[i] = h.last
		}
	}
}

func (h *history) slot(seq uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.Head, Register: [16]byte(h.reg.ID), Sequence: seq}
}
