package embassy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

// maxHeld is how many recent checkpoints gather cosignatures at once. One that
// home fetched comes back some seconds later.
const maxHeld = 64

// maxNote caps a checkpoint with its cosignatures, in bytes.
const maxNote = 64 << 10

// recall reads what was kept before the last end.
func (n *notary) recall() {
	raw, err := readFile(n.file, maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		var cp ledger.Checkpoint
		if cp, err = ledger.ParseCheckpoint(raw, n.verifier); err == nil {
			if n.want.Load() < cp.Size {
				n.refuse("this embassy's own file", Refused{Why: "it was put back", Size: cp.Size, Proven: true})
			}
			n.held, n.voted = []ledger.Checkpoint{cp}, cp.Size
			if n.newest, err = n.judge(cp); err == nil {
				n.clock.note(n.newest.size, n.newest.time)
			}
		}
	}
	if err != nil {
		n.log.Warn("the cosigned checkpoint on disk cannot be used; it is collected anew", "err", err)
	}
}

// judge returns what cp is worth by the policy; size 0 means: not enough.
func (n *notary) judge(cp ledger.Checkpoint) (kept, error) {
	if n.policy == nil || n.self.Origin == "" {
		return kept{}, nil
	}
	v, err := n.policy.Judge(cp.Raw, n.self)
	if err != nil || !v.Enough {
		return kept{}, err
	}
	return kept{raw: cp.Raw, size: cp.Size, time: v.Time}, nil
}

// vote gives a checkpoint what this embassy has to say of it.
func (n *notary) vote(cp ledger.Checkpoint) {
	if cp.Raw != nil {
		n.merge(cp, n.ownVote(cp)...)
	}
}

// ownVote is what this embassy says of a checkpoint besides the ledger's own
// signature, which it carries: where the charter names an ML-DSA-44 key of the
// embassy, a cosignature by that key. Of a tree that is smaller than one it said
// that of since its start, or than the newest that is cosigned, it says nothing:
// a cosignature tells of the largest that was seen (C2SP tlog-cosignature).
func (n *notary) ownVote(cp ledger.Checkpoint) [][]byte {
	n.mu.Lock()
	second := n.second
	n.mu.Unlock()
	if second == nil {
		return nil
	}
	n.voting.Lock()
	defer n.voting.Unlock()
	if cp.Size < n.voted {
		return nil
	}
	n.voted = cp.Size
	if now := n.now(); now.After(n.signed) { // a clock that was set back must not make a larger tree look older
		n.signed = now
	}
	line, err := second.Cosign(cp, n.signed)
	if err != nil {
		n.log.Error("notary: this embassy's own ML-DSA-44 cosignature cannot be made", "err", err)
		return nil
	}
	return [][]byte{line}
}

// merge adds lines, which the caller has verified, to a checkpoint of this
// ledger, and keeps the newest that has enough. It is safe for concurrent use.
func (n *notary) merge(cp ledger.Checkpoint, lines ...[]byte) {
	n.keeping.Lock()
	defer n.keeping.Unlock()
	n.mu.Lock()
	at := slices.IndexFunc(n.held, func(h ledger.Checkpoint) bool { return h.Size == cp.Size && h.Root == cp.Root })
	if at < 0 {
		n.held = append(n.held, ledger.Checkpoint{Origin: cp.Origin, Size: cp.Size, Root: cp.Root, Raw: ledger.OwnSignatures(cp.Raw)})
		slices.SortFunc(n.held, func(a, b ledger.Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
		n.held = n.held[max(0, len(n.held)-maxHeld):]
		at = slices.IndexFunc(n.held, func(h ledger.Checkpoint) bool { return h.Size == cp.Size && h.Root == cp.Root })
	}
	if at < 0 { // older than all that are held
		n.mu.Unlock()
		return
	}
	raw, err := ledger.AddSignatures(n.held[at].Raw, lines...)
	var best kept
	old := n.newest
	if err == nil {
		n.held[at].Raw = raw
		best, err = n.judge(n.held[at])
	}
	n.mu.Unlock()
	if err != nil {
		n.log.Error("notary: cosignatures cannot be kept", "err", err)
		return
	}
	if best.size < old.size || best.size == 0 || (best.size == old.size && bytes.Equal(best.raw, old.raw)) {
		return
	}
	n.keep(best)
}

// keep makes a checkpoint the newest that is cosigned. It is called with keeping
// held.
func (n *notary) keep(best kept) {
	// A crash leaves the old note or the new one. Each is a true one, and after
	// the start the newest is collected again.
	if err := durable.WriteFile(n.file, best.raw, filePerm); err != nil {
		n.log.Error("notary: the cosigned checkpoint is not on disk", "err", err)
	}
	n.mu.Lock()
	n.newest = best
	close(n.grown)
	n.grown = make(chan struct{})
	n.mu.Unlock()
	// Not before: whoever goes by the time finds the checkpoint that bears it.
	n.clock.note(best.size, best.time)
}

// reconsider judges what is held by a policy that has changed.
func (n *notary) reconsider() {
	n.keeping.Lock()
	defer n.keeping.Unlock()
	n.mu.Lock()
	var best kept
	for _, cp := range n.held {
		if k, err := n.judge(cp); err == nil && k.size > best.size {
			best = k
		}
	}
	changed := !bytes.Equal(best.raw, n.newest.raw)
	n.newest = best
	n.mu.Unlock()
	if changed && best.size > 0 {
		n.keep(best)
	}
}

// cosigned is the newest cosigned checkpoint; raw is nil when there is none.
func (n *notary) cosigned() kept {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.newest
}

// covering waits for a cosigned checkpoint of at least size leaves.
func (n *notary) covering(ctx context.Context, size uint64) (ledger.Checkpoint, error) {
	for {
		n.mu.Lock()
		newest, grown := n.newest, n.grown
		n.mu.Unlock()
		if newest.size >= size && newest.size > 0 {
			return ledger.ParseCheckpoint(newest.raw, n.verifier)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ledger.Checkpoint{}, fmt.Errorf("embassy: no cosigned checkpoint of %d leaves yet: %w", size, ctx.Err())
		}
	}
}

// bring takes cosignatures that somebody brought: a note of this ledger. It
// returns how many of its lines were of members, all of them verified.
func (n *notary) bring(ctx context.Context, raw []byte) (lines int, err error) {
	cp, err := ledger.ParseCheckpoint(raw, n.verifier)
	if err != nil {
		return 0, invalid("checkpoint", "not one of this ledger")
	}
	size, err := n.journal.size(ctx)
	if err != nil {
		return 0, err
	}
	if cp.Size > size {
		n.refuse("who brought a checkpoint", Refused{Why: "it was put back", Size: cp.Size, Proven: true, At: n.now().UTC()})
		return 0, invalid("checkpoint", "of more leaves than this ledger has")
	}
	prover, err := ledger.NewProver(cp.Size, n.journal.tile(ctx))
	if err != nil {
		return 0, err
	}
	if root, err := prover.Root(); err != nil || root != cp.Root {
		if err == nil {
			n.refuse("who brought a checkpoint", Refused{Why: "another history was signed", Size: cp.Size, Proven: true, At: n.now().UTC()})
			err = invalid("checkpoint", "of another tree than this ledger's")
		}
		return 0, err
	}
	n.mu.Lock()
	policy := n.policy
	n.mu.Unlock()
	good, err := verified(cp, raw, keysOf(policy))
	if err != nil {
		return 0, invalid("cosignature", "one of a member does not verify")
	}
	if len(good) > 0 {
		// run may never come to this checkpoint, if the next is published first. Where whoever brought it is
		// needed, and brings no other for long, it would count nowhere without this embassy's own vote.
		n.merge(cp, append(good, n.ownVote(cp)...)...)
	}
	return len(good), nil
}

// keysOf lists the keys of a policy's members.
func keysOf(p *ledger.Policy) (keys []ledger.WitnessKey) {
	if p == nil {
		return nil
	}
	for _, g := range p.Groups {
		for _, m := range g.Members {
			keys = append(keys, m.Keys...)
		}
	}
	return keys
}

// verified returns those lines of a note of cp that are cosignatures of these
// keys. One that is not what it should be fails all.
func verified(cp ledger.Checkpoint, raw []byte, keys []ledger.WitnessKey) ([][]byte, error) {
	_, lines, err := ledger.SplitSignatures(raw)
	if err != nil {
		return nil, err
	}
	own := ledger.OwnSignatures(raw)
	var good [][]byte
	for _, l := range lines {
		one, err := ledger.AddSignatures(own, l)
		if err != nil {
			return nil, err
		}
		cp.Raw = one
		found, err := ledger.Cosignatures(cp, keys)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			good = append(good, l)
		}
	}
	return good, nil
}

// refuse remembers that somebody knows more of this ledger than it holds itself.
func (n *notary) refuse(by string, r Refused) {
	if r.At.IsZero() {
		r.At = n.now().UTC().Truncate(time.Second)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if was, ok := n.refused[by]; !ok || was.Why != r.Why {
		n.log.Error("this ledger is refused: its folder may have been put back", "by", by, "why", r.Why, "size", r.Size, "proven", r.Proven)
	}
	r.By = by
	n.refused[by] = r
}

// refusedBy lists the refusals, oldest first.
func (n *notary) refusedBy() []Refused {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Refused, 0, len(n.refused))
	for _, r := range n.refused {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Refused) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.By, b.By)) })
	return list
}
