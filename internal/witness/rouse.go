package witness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/ledger"
)

// Peer is somebody who can say how far a log was seen: another witness of the policy, or the log's own operator.
type Peer struct {
	Name   string  // as a member of the policy
	Remote *Remote // asked for its Seen; and by size, where it tells no more. Nil for the log's own operator.
	// Seen, where it is set, is asked instead: the newest checkpoint of the log that the peer knows, nil where it knows
	// none. It speaks for the peer, so the connection beneath must prove who answers.
	Seen func(ctx context.Context, origin string) ([]byte, error)
}

// heard is what one peer said.
type heard struct {
	peer *Peer
	note []byte // signed by the log; nil where the peer has seen nothing, or tells a size
	size uint64
	err  error // not nil: this peer has not answered
}

// Rouse asks all peers how far they saw a log, takes over the most, and lets the witness cosign the log once those that
// answered are enough of the policy (ledger.Policy.Enough); self is the witness's own name there. fetch gets the proof
// between two trees of the log from the log itself, as it is: of the smaller only Origin and Size are sure to be set.
// Otherwise it fails with ErrFrozen and the names of those who are missing, and may be called again; ErrForked says that
// the log signed two histories, and the witness stays frozen for it.
//
// What comes over plain HTTP teaches, because the log signed it, but may be a recording: it counts as an answer only
// when the peer cosigns the very tree that this witness holds. A cosignature that a member made since this witness
// began frozen is its answer too, whoever shows it: so home answers, which comes by itself and cannot be asked.
func Rouse(ctx context.Context, w *Witness, log ledger.Log, peers []Peer, policy *ledger.Policy, self string,
	fetch func(ctx context.Context, from, to ledger.Checkpoint) ([][32]byte, error),
) error {
	if !w.Frozen(log.Origin) {
		return nil
	}
	_, verifier, err := w.holds(log.Origin)
	if err != nil {
		return err
	}
	if policy == nil {
		return fmt.Errorf("witness: %s: nobody is named who could say how far it was seen: %w", log.Origin, ErrFrozen)
	}
	all := make([]heard, len(peers))
	var wait sync.WaitGroup
	for i := range peers {
		wait.Go(func() { all[i] = hear(ctx, &peers[i], log.Origin, verifier) })
	}
	wait.Wait()
	// The largest first: what the others saw is then covered by one proof.
	slices.SortStableFunc(all, func(a, b heard) int { return cmp.Compare(b.size, a.size) })
	for i := range all {
		if err := w.heed(ctx, log.Origin, &all[i], fetch); err != nil {
			return err
		}
	}
	held, _, err := w.holds(log.Origin)
	if err != nil {
		return err
	}
	for i := range all {
		// The log signed more than this witness can learn of, because nobody proves that it continues what is held. To
		// cosign now could be to sign a second history; only this log waits.
		if h := &all[i]; h.size > held.Size {
			return fmt.Errorf("witness: %s: %w: %s saw %d leaves, and what joins them to the %d held here cannot be had: %w",
				log.Origin, ErrFrozen, h.peer.Name, h.size, held.Size, h.err)
		}
	}
	var answered []string
	why := map[string]error{}
	for i := range all {
		h := &all[i]
		if h.unproven() {
			h.err = w.confirm(ctx, log.Origin, h, fetch)
		}
		if why[h.peer.Name] = h.err; h.err == nil {
			answered = append(answered, h.peer.Name)
			answered = append(answered, w.vouchers(log.Origin, h.note, policy)...)
		}
	}
	if !policy.Enough(self, answered) {
		return fmt.Errorf("witness: %s: %w; answers lack from %s", log.Origin, ErrFrozen, missing(policy, self, answered, why))
	}
	return w.Thaw(log.Origin)
}

// missing says which members have not answered, and why.
func missing(policy *ledger.Policy, self string, answered []string, why map[string]error) string {
	var list []string
	for _, g := range policy.Groups {
		for _, m := range g.Members {
			if m.Name == self || slices.Contains(answered, m.Name) {
				continue
			}
			reason := "cannot be asked; it answers by cosigning"
			if err := why[m.Name]; err != nil {
				reason = err.Error()
			}
			list = append(list, fmt.Sprintf("%s (%s)", m.Name, reason))
		}
	}
	return strings.Join(list, ", ")
}

// hear asks one peer.
func hear(ctx context.Context, p *Peer, origin string, v note.Verifier) heard {
	ctx, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	ask := p.Seen
	if ask == nil {
		if p.Remote == nil {
			return heard{peer: p, err: errors.New("no way to ask")}
		}
		ask = p.Remote.Seen
	}
	raw, err := ask(ctx, origin)
	if err != nil || raw == nil {
		return heard{peer: p, err: err}
	}
	cp, err := signedBy(raw, v)
	return heard{peer: p, note: raw, size: cp.Size, err: err}
}

// heed takes over what a peer told, where it is more than is held, and otherwise sees that what is held continues it.
// Only two trees of one size are an error of all; a proof that does not hold may be the fault of whoever gave it.
func (w *Witness) heed(ctx context.Context, origin string, h *heard, fetch func(ctx context.Context, from, to ledger.Checkpoint) ([][32]byte, error)) error {
	l, err := w.find(origin)
	if err != nil {
		return err
	}
	held, verifier, err := w.holds(origin)
	if err != nil || h.err != nil || h.note == nil {
		return err
	}
	cp, err := signedBy(h.note, verifier)
	if err != nil {
		return err
	}
	from, to := held, cp
	if cp.Size < held.Size {
		from, to = cp, held
	}
	var proof [][32]byte
	if from.Size > 0 && from.Size < to.Size {
		if proof, h.err = fetch(ctx, from, to); h.err != nil {
			return nil
		}
	}
	if cp.Size < held.Size {
		if err := ledger.VerifyConsistency(from, to, proof); err != nil {
			h.err = fmt.Errorf("witness: %s: %w: %w", origin, ErrProof, err)
		}
	} else {
		h.err = w.Learn(origin, h.note, nil, proof)
	}
	if errors.Is(h.err, ErrProof) {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.err = errors.Join(h.err, w.keep(l, cp))
	}
	if errors.Is(h.err, ErrForked) {
		return h.err
	}
	return nil
}

// unproven tells whether a peer's word needs its signature beside it: it tells no more than signatures, or the
// connection does not prove who answers.
func (h *heard) unproven() bool {
	if h.peer.Seen != nil {
		return false
	}
	return errors.Is(h.err, ErrNoSeen) || h.err == nil && !h.peer.Remote.authentic()
}

// confirm has a peer cosign what this witness holds: an honest one does so only if it saw nothing larger.
func (w *Witness) confirm(ctx context.Context, origin string, h *heard, fetch func(ctx context.Context, from, to ledger.Checkpoint) ([][32]byte, error)) error {
	held, _, err := w.holds(origin)
	if err != nil {
		return err
	}
	if held.Raw == nil {
		return errors.New("nothing is held that it could cosign as proof")
	}
	lines, err := h.peer.Remote.Submit(ctx, held.Raw, held.Size, func(ctx context.Context, old uint64) ([][32]byte, error) {
		from := ledger.Checkpoint{Origin: origin, Size: old}
		if h.note != nil && h.size == old {
			if cp, err := unverified(h.note); err == nil {
				from = cp
			}
		}
		return fetch(ctx, from, held)
	})
	if err != nil {
		return err
	}
	if !w.cosignedSince(held, lines, h.peer.Remote.Key) {
		return errors.New("its cosignature is an old one")
	}
	return nil
}

// since is the first second of which a cosignature is from after the log began frozen.
func (w *Witness) since(origin string) (time.Time, bool) {
	l, err := w.find(origin)
	if err != nil {
		return time.Time{}, false
	}
	return l.since, true
}

// cosignedSince tells whether one of these keys made one of the lines for cp since the log began frozen.
func (w *Witness) cosignedSince(cp ledger.Checkpoint, lines []byte, keys []ledger.WitnessKey) bool {
	since, ok := w.since(cp.Origin)
	raw, err := ledger.AddSignatures(ledger.OwnSignatures(cp.Raw), lines)
	if err != nil || !ok {
		return false
	}
	cp.Raw = raw
	found, err := ledger.Cosignatures(cp, keys)
	return err == nil && slices.ContainsFunc(found, func(c ledger.Cosignature) bool { return !c.Time.Before(since) })
}

// vouchers are the members with all of whose keys a note was cosigned since the log began frozen. What it shows is
// covered by what is held; one false line and nobody is believed.
func (w *Witness) vouchers(origin string, raw []byte, policy *ledger.Policy) (names []string) {
	since, ok := w.since(origin)
	cp, err := unverified(raw)
	if err != nil || !ok {
		return nil
	}
	for _, g := range policy.Groups {
		for _, m := range g.Members {
			found, err := ledger.Cosignatures(cp, m.Keys)
			if err != nil {
				return nil
			}
			late := func(c ledger.Cosignature) bool { return c.Time.Before(since) }
			if len(found) == len(m.Keys) && len(found) > 0 && !slices.ContainsFunc(found, late) {
				names = append(names, m.Name)
			}
		}
	}
	return names
}
