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
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// history is the chain of a register's heads: a local copy of each, checked when it came, in files named by
// sequence. What it knows of a head that it does not hold in memory is on disk, so it does not grow with the chain.
type history struct {
	reg     *register.Register
	trusted []ed25519.PublicKey
	dir     string
	last    uint64
	lag     map[int]uint64   // share -> the sequence after which this site lacks heads
	faults  *register.Faults // heads that are not what they should be
	fork    uint64           // the first number that two heads claim; 0 while there is none
	forked  error            // who holds the other
}

// openHistory reads what is kept locally; sync brings it up to date. The local copy counts as far as it is without a
// gap and its newest head is whole: what lies behind comes from the embassies again.
func openHistory(reg *register.Register, trusted []ed25519.PublicKey) (*history, error) {
	h := &history{reg: reg, trusted: trusted, dir: filepath.Join(reg.Dir, "heads"), lag: map[int]uint64{}, faults: &register.Faults{}}
	if err := durable.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // by name, which is by number
		if e.Name() == headName(h.last+1) {
			h.last++
		}
	}
	for h.last > 0 {
		if _, err := h.head(h.last); err == nil {
			break
		}
		h.last--
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
		return nil, fmt.Errorf("%w: head %d does not follow %d", snapshot.ErrBroken, head.Sequence, h.last)
	}
	if h.last > 0 {
		prev, err := h.head(h.last)
		if err != nil {
			return nil, err
		}
		if err := snapshot.CheckChain(prev, head); err != nil {
			return nil, fmt.Errorf("%w: %w", register.ErrForked, err)
		}
	}
	if err := durable.WriteFile(filepath.Join(h.dir, headName(head.Sequence)), b, 0o600); err != nil {
		return nil, err
	}
	h.last = head.Sequence
	return head, nil
}

// sync asks every site for its heads, takes over what is new, and compares what is known. A site that does not
// answer is down; one that shows something else than a head of this register is at fault and is passed over; two
// heads for one place, both signed by an agent, are a fork, which is noted and left to whoever asked. With quick, sites
// are asked only for the end of the chain.
func (h *history) sync(ctx context.Context, sites register.Sites, need int, quick bool) error {
	lists := make([][]ledger.RecordInfo, len(sites))
	from := make([]uint64, len(sites))
	var all sync.WaitGroup
	for i, s := range sites {
		if quick && h.last > 0 {
			from[i] = h.last - 1
		}
		all.Go(func() {
			list, err := listHeads(ctx, s, h.reg.ID, from[i])
			if err == nil && len(list) == 0 && from[i] > 0 { // further behind than was asked
				from[i] = 0
				list, err = listHeads(ctx, s, h.reg.ID, 0)
			}
			if err != nil {
				s.Fail(fmt.Errorf("listing heads: %w", err))
			}
			lists[i] = list
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := sites.Enough(need); err != nil {
		return err
	}
	if err := h.mergeAll(ctx, sites, lists); err != nil {
		return err
	}
	for i, s := range sites {
		if s.Up() {
			h.lag[i] = h.lagOf(lists[i], from[i])
		}
	}
	return nil
}

// mergeAll goes through the lists until none brings the chain further: what one site lacks in the middle, another
// may have.
func (h *history) mergeAll(ctx context.Context, sites register.Sites, lists [][]ledger.RecordInfo) error {
	rest := slices.Clone(lists)
	for {
		before := h.last
		for i, s := range sites {
			if !s.Up() {
				continue
			}
			var err error
			if rest[i], err = h.merge(ctx, s, rest[i]); err != nil {
				return err
			}
		}
		if h.last == before {
			return nil
		}
	}
}

// lagOf returns the sequence after which a site must be given heads, or the newest when it lacks none.
func (h *history) lagOf(list []ledger.RecordInfo, after uint64) uint64 {
	for _, r := range list {
		if r.Slot.Sequence != after+1 {
			break
		}
		after++
	}
	return min(after, h.last)
}

// listHeads pages through the heads that a site holds.
func listHeads(ctx context.Context, s *register.Site, of [16]byte, after uint64) ([]ledger.RecordInfo, error) {
	var out []ledger.RecordInfo
	for {
		page, err := s.Records.ListRecords(ctx, ledger.Head, of, after)
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

// merge takes over the heads of one site that are not known yet, compares those that are, and returns the part of
// the list behind a gap.
func (h *history) merge(ctx context.Context, s *register.Site, list []ledger.RecordInfo) ([]ledger.RecordInfo, error) {
	for i, r := range list {
		seq := r.Slot.Sequence
		if seq > h.last+1 {
			return list[i:], nil
		}
		if seq <= h.last {
			same, err := h.holdsAt(seq, r.Hash)
			if err != nil {
				return nil, err
			}
			if same {
				continue
			}
		}
		if err := h.take(ctx, s, r); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// holdsAt reports whether the head of this number has this hash. A local copy that is damaged is dropped together
// with what follows it.
func (h *history) holdsAt(seq uint64, hash [32]byte) (bool, error) {
	b, err := h.bytes(seq)
	if err != nil && !errors.Is(err, ErrNoSnapshot) {
		return false, err
	}
	if err == nil && sha256.Sum256(b) == hash {
		return true, nil
	}
	if err == nil {
		if _, err = h.parse(b); err == nil {
			return false, nil
		}
	}
	h.last = seq - 1
	return false, nil
}

// take fetches a head that is new or differs from the one that is known.
func (h *history) take(ctx context.Context, s *register.Site, r ledger.RecordInfo) error {
	seq := r.Slot.Sequence
	blame := func(what string) {
		h.faults.Add(register.Fault{Embassy: s.Name, Object: fmt.Sprintf("head %d", seq), What: what})
	}
	b, err := s.Records.GetRecord(ctx, r.Slot)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		blame(err.Error())
		s.Strike(fmt.Errorf("reading head %d: %w", seq, err))
		return nil
	}
	s.Answered()
	if sha256.Sum256(b) != r.Hash {
		blame("wrong bytes")
		return nil
	}
	head, err := h.parse(b)
	if err != nil {
		blame(err.Error())
		return nil
	}
	if head.Sequence != seq {
		blame(fmt.Sprintf("is head %d", head.Sequence))
		return nil
	}
	switch {
	case seq <= h.last:
		h.dispute(seq, fmt.Errorf("%w: %s holds another head %d of this register, signed by an agent", register.ErrForked, s.Name, seq))
		return nil
	case seq > h.last+1:
		return nil // what was before it turned out wrong
	}
	_, err = h.accept(b)
	if errors.Is(err, register.ErrForked) { // it follows another head than the one before it here
		h.dispute(seq-1, fmt.Errorf("%s: %w", s.Name, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// dispute notes a fork. The lowest number counts.
func (h *history) dispute(seq uint64, why error) {
	if h.fork == 0 || seq < h.fork {
		h.fork, h.forked = seq, why
	}
}

// undisputed leaves of the chain what was before the fork, if there is one: no agent has signed anything else of it.
func (h *history) undisputed() {
	if h.fork > 0 {
		h.last = min(h.last, h.fork-1)
	}
}

// publish gives every site that is up the heads it lacks, up to the newest.
func (h *history) publish(ctx context.Context, sites register.Sites) {
	var all sync.WaitGroup
	for i, s := range sites {
		if !s.Up() {
			continue
		}
		all.Go(func() {
			for seq := h.lag[i] + 1; seq <= h.last; seq++ {
				b, err := h.bytes(seq)
				if err == nil {
					err = s.Records.PutRecord(ctx, h.slot(seq), b)
				}
				if err != nil {
					s.Fail(fmt.Errorf("storing head %d: %w", seq, err))
					return
				}
			}
		})
	}
	all.Wait()
	for i, s := range sites {
		if s.Up() {
			h.lag[i] = h.last
		}
	}
}

func (h *history) slot(seq uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.Head, Register: [16]byte(h.reg.ID), Sequence: seq}
}
