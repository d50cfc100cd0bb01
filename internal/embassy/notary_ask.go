package embassy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// target is one witness that is asked for cosignatures, and what is known of it.
type target struct {
	name    string
	address string // changes with the charter
	keys    []ledger.WitnessKey
	remotes []*witness.Remote // the same witness at several addresses, best first
	close   func()

	busy  bool
	at    int       // which remote
	size  uint64    // of the tree that it cosigned last, as far as known
	done  uint64    // the checkpoint of ours that it cosigned last
	time  time.Time // when
	retry time.Time // not before
	pause time.Duration
}

// due tells whether the target is to be asked, and from when on.
func (t *target) due(current ledger.Checkpoint, refresh time.Duration) (bool, time.Time) {
	if t.busy || current.Raw == nil {
		return false, time.Time{}
	}
	at := time.Time{}
	if t.done == current.Size {
		at = t.time.Add(refresh)
	}
	if t.retry.After(at) {
		at = t.retry
	}
	return true, at
}

// result is how one question ended.
type result struct {
	from  *target
	cp    ledger.Checkpoint
	lines [][]byte
	size  uint64 // of the tree that the witness has
	not   *Refused
	err   error
}

// submit asks a target in a goroutine of its own, which ends with a result.
func (n *notary) submit(ctx context.Context, t *target) {
	t.busy = true
	cp, remote, keys, guess := n.current, t.remotes[t.at], t.keys, t.size
	go func() {
		r := n.ask(ctx, remote, keys, cp, guess)
		r.from, r.cp = t, cp
		n.results <- r // run receives until no target is busy
	}()
}

// ask has one witness cosign cp.
func (n *notary) ask(ctx context.Context, remote *witness.Remote, keys []ledger.WitnessKey, cp ledger.Checkpoint, guess uint64) result {
	ctx, cancel := context.WithTimeout(ctx, n.pace.ask)
	defer cancel()
	answer, err := remote.Submit(ctx, cp.Raw, guess, func(ctx context.Context, old uint64) ([][32]byte, error) {
		prover, err := ledger.NewProver(cp.Size, n.journal.tile(ctx))
		if err != nil {
			return nil, err
		}
		return prover.Consistency(old)
	})
	if err != nil {
		return n.understand(ctx, remote, cp, err)
	}
	both, err := ledger.AddSignatures(ledger.OwnSignatures(cp.Raw), answer)
	if err != nil {
		return result{err: err}
	}
	lines, err := verified(cp, both, keys)
	if err == nil && len(lines) != len(keys) {
		err = fmt.Errorf("%d of %d cosignatures", len(lines), len(keys))
	}
	return result{lines: lines, size: cp.Size, err: err}
}

// understand tells a witness that saw another history of this ledger from one
// that fails. What it says is its word; a checkpoint that this embassy's own key
// signed is proof.
func (n *notary) understand(ctx context.Context, remote *witness.Remote, cp ledger.Checkpoint, err error) result {
	r := result{err: err}
	var old *witness.OldSize
	switch {
	case errors.As(err, &old) && old.Size > cp.Size:
		size, serr := n.journal.size(ctx)
		if serr != nil || old.Size <= size {
			return r // somebody brought it a newer checkpoint than cp
		}
		r.not = &Refused{Why: "it saw more leaves than this ledger has", Size: old.Size}
	case errors.Is(err, witness.ErrForked):
		r.not = &Refused{Why: "it saw another tree of this size", Size: cp.Size}
	case errors.Is(err, witness.ErrProof):
		r.not = &Refused{Why: "what it saw is no part of this ledger", Size: cp.Size}
	case !errors.Is(err, witness.ErrFrozen):
		return r
	}
	raw, err := remote.Seen(ctx, n.origin)
	if err != nil || raw == nil {
		return r
	}
	seen, err := ledger.ParseCheckpoint(raw, n.verifier)
	if err != nil {
		return r
	}
	foreign := !n.mine(ctx, seen)
	if foreign && r.not == nil {
		// Frozen, it may stay so: only this ledger could prove to it what it heard.
		r.not = &Refused{Why: "it holds a checkpoint that this ledger does not continue"}
	}
	if r.not != nil {
		r.not.Proven, r.not.Size = foreign, seen.Size
	}
	return r
}

// mine tells whether a checkpoint is of this ledger's own history. What cannot
// be told counts as its own.
func (n *notary) mine(ctx context.Context, cp ledger.Checkpoint) bool {
	size, err := n.journal.size(ctx)
	if err != nil || cp.Size > size {
		return err != nil
	}
	prover, err := ledger.NewProver(cp.Size, n.journal.tile(ctx))
	if err != nil {
		return true
	}
	root, err := prover.Root()
	return err != nil || root == cp.Root
}

// took learns from the end of a question.
func (n *notary) took(r result) {
	t, now := r.from, n.now()
	t.busy = false
	if !slices.Contains(n.targets, t) {
		t.close() // the charter dropped it meanwhile
		return
	}
	if len(r.lines) > 0 {
		n.merge(r.cp, r.lines...)
	}
	if r.err == nil {
		t.size, t.done, t.time, t.retry, t.pause = r.size, r.cp.Size, now, time.Time{}, 0
		n.mu.Lock()
		delete(n.refused, t.name)
		n.mu.Unlock()
		return
	}
	if t.pause == 0 {
		n.log.Info("a witness does not cosign", "witness", t.name, "err", r.err)
	}
	if r.not != nil {
		n.refuse(t.name, *r.not)
	}
	t.size, t.at = 0, (t.at+1)%len(t.remotes)
	t.pause = min(max(2*t.pause, n.pace.first), n.pace.last)
	t.retry = now.Add(t.pause + rand.N(t.pause/4+1))
}

// retarget makes the list of those who are asked: the other embassies, and the
// witnesses that have an address.
func (n *notary) retarget(ch *charter.Charter) {
	old := n.targets
	n.targets = nil
	n.mu.Lock()
	known := n.self.Origin != "" && n.policy != nil
	n.mu.Unlock()
	if known {
		for _, e := range ch.Embassies {
			if !e.PublicKey().Equal(publicOf(n.key)) {
				n.targets = append(n.targets, n.embassyTarget(e))
			}
		}
		for _, w := range ch.Witnesses {
			if t := n.witnessTarget(w); t != nil {
				n.targets = append(n.targets, t)
			}
		}
	}
	for _, was := range old {
		i := slices.IndexFunc(n.targets, func(t *target) bool {
			return t.name == was.name && t.address == was.address && slices.Equal(t.keys, was.keys)
		})
		switch {
		case i >= 0: // it knows what it knew
			n.targets[i].close()
			n.targets[i] = was
		case !was.busy:
			was.close()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for by := range n.refused {
		gone := func(t *target) bool { return t.name == by }
		if slices.ContainsFunc(old, gone) && !slices.ContainsFunc(n.targets, gone) {
			delete(n.refused, by)
		}
	}
}

func (n *notary) embassyTarget(e charter.Embassy) *target {
	t := &target{name: e.Name}
	var clients []*Client
	for _, u := range e.URLs {
		cfg := ConfigFor(e, n.state, n.key)
		cfg.URL, cfg.Timeout, cfg.Conns = u, n.pace.ask, 2
		c := Dial(cfg)
		clients = append(clients, c)
		remote := c.WitnessRemote()
		t.remotes, t.keys = append(t.remotes, remote), remote.Key
		t.address += u + "\n"
	}
	t.close = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	return t
}

// witnessTarget is nil for a witness that comes by itself.
func (n *notary) witnessTarget(w charter.Witness) *target {
	keys, err := w.Keys()
	if err != nil || w.URL == "" {
		return nil
	}
	client, err := witness.NewClient(w.PublicKey(), n.key)
	if err != nil {
		return nil
	}
	return &target{
		name: w.Name, address: w.URL, keys: keys, close: client.CloseIdleConnections,
		remotes: []*witness.Remote{{Prefix: w.URL, HTTP: client, Key: keys}},
	}
}
