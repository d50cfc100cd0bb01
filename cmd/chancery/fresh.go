package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// A machine that has only the charter remembers nothing of the ledgers. It asks every witness how far each ledger was
// seen, and takes from no embassy what is shorter than that, forked, or too old. One embassy that was put back costs
// nothing while others hold what it lost; when so many are refused that a snapshot could be hidden, the work is.

// errStale means that what the embassies show is not, or may not be, the newest state.
var errStale = errors.New("this may not be the newest state")

// freshJSON is what is thought of one embassy's ledger.
type freshJSON struct {
	Embassy  string     `json:"embassy"`
	Outcome  string     `json:"outcome"` // "fresh", "uncosigned", "stale", "doubtful", "shorter", "forked"
	Entries  uint64     `json:"entries"`
	Seen     uint64     `json:"entries_seen"` // the most that any witness saw
	By       string     `json:"seen_by,omitempty"`
	Cosigned *time.Time `json:"cosigned,omitempty"`
	Why      string     `json:"why,omitempty"`
}

// vantage asks the witnesses of a charter about its ledgers.
type vantage struct {
	charter *charter.Charter
	client  func(charter.Embassy) *embassy.Client
	key     ed25519.PrivateKey // shown to witnesses, as it is to embassies
}

// view asks about every embassy that answers.
func (v *vantage) view(ctx context.Context) ([]freshJSON, error) {
	policy, err := v.charter.Policy()
	if err != nil {
		return nil, err
	}
	list := make([]*freshJSON, len(v.charter.Embassies))
	for _, e := range v.charter.Embassies {
		v.client(e) // made before they are used from several sides
	}
	var all sync.WaitGroup
	for i, e := range v.charter.Embassies {
		all.Go(func() { list[i] = v.one(ctx, e, policy) })
	}
	all.Wait()
	var out []freshJSON
	for _, f := range list {
		if f != nil {
			out = append(out, *f)
		}
	}
	return out, ctx.Err()
}

// one asks about one embassy; nil when it does not answer.
func (v *vantage) one(ctx context.Context, e charter.Embassy, policy *ledger.Policy) *freshJSON {
	f, _, err := v.look(ctx, e, policy)
	if err != nil {
		return nil
	}
	a := &freshJSON{Embassy: e.Name, Outcome: f.Outcome.String(), Entries: f.Size, Seen: f.Seen, By: f.By, Why: f.Why}
	if !f.Time.IsZero() {
		a.Cosigned = &f.Time
	}
	return a
}

// look asks about one embassy, and returns what is to be thought of its ledger and the checkpoint that this is about. It
// fails where the embassy does not answer.
func (v *vantage) look(ctx context.Context, e charter.Embassy, policy *ledger.Policy) (f witness.Freshness, cp ledger.Checkpoint, err error) {
	x := v.client(e)
	first, err := x.Checkpoint(ctx)
	if err != nil {
		return f, cp, err
	}
	// What the embassy shows is asked for after what others saw: a ledger that grows meanwhile is not shorter than that.
	seen := v.sightings(ctx, e, first)
	shown := witness.Newest{Prove: x.Consistency}
	if shown.Checkpoint, err = x.Checkpoint(ctx); err != nil {
		return f, cp, err
	}
	if shown.Cosigned, err = x.Cosigned(ctx); err != nil && !errors.Is(err, embassy.ErrNotFound) {
		return f, cp, err
	}
	f = witness.Compare(ctx, e.Log(), policy, shown, seen, time.Now(), v.charter.FreshFor())
	if f.Size == shown.Checkpoint.Size {
		return f, shown.Checkpoint, nil
	}
	verifier, err := ledger.NewVerifier(e.Origin, e.PublicKey()) // the cosigned one was larger by then
	if err != nil {
		return f, cp, err
	}
	cp, err = ledger.ParseCheckpoint(shown.Cosigned, verifier)
	return f, cp, err
}

// sightings asks everybody else how far they saw an embassy's ledger. Who does not answer has not seen it.
func (v *vantage) sightings(ctx context.Context, e charter.Embassy, now ledger.Checkpoint) []witness.Sighting {
	var mu sync.Mutex
	var out []witness.Sighting
	add := func(s witness.Sighting) {
		mu.Lock()
		out = append(out, s)
		mu.Unlock()
	}
	var all sync.WaitGroup
	for _, other := range v.charter.Embassies {
		if other.ID == e.ID {
			continue
		}
		all.Go(func() {
			if note, err := v.client(other).Seen(ctx, e.Origin); err == nil && note != nil {
				add(witness.Sighting{By: other.Name, Note: note})
			}
		})
	}
	for _, w := range v.charter.Witnesses {
		if w.URL == "" {
			continue
		}
		keys, err := w.Keys()
		if err != nil {
			continue
		}
		all.Go(func() {
			r := &witness.Remote{Prefix: w.URL, Key: keys}
			if r.HTTP, err = witness.NewClient(w.PublicKey(), v.key); err != nil {
				return
			}
			defer r.HTTP.CloseIdleConnections()
			if note, err := r.Seen(ctx, e.Origin); err == nil && note != nil {
				add(witness.Sighting{By: w.Name, Note: note})
			} else if n, err := r.SizeOf(ctx, now.Raw); err == nil {
				add(witness.Sighting{By: w.Name, Size: n})
			}
		})
	}
	all.Wait()
	return out
}

// refused are the embassies whose state is not taken. Under a charter of version 1, which names no witnesses, nobody had to
// vouch for anything.
func refused(ch *charter.Charter, list []freshJSON) map[string]string {
	out := map[string]string{}
	for _, f := range list {
		unvouched := f.Outcome == witness.Uncosigned.String() || f.Outcome == witness.Stale.String()
		if f.Outcome != witness.Fresh.String() && !(unvouched && ch.Version < 2) {
			out[f.Embassy] = f.Why
		}
	}
	return out
}

// staleRegister says why a register may not be taken from embassies of which some are refused: as many are as hold a
// snapshot at least, or too few are left. Nil when what is left must hold every snapshot.
func staleRegister(rec *charter.Register, ch *charter.Charter, list []freshJSON) error {
	bad := refused(ch, list)
	var err error
	n := 0
	for _, id := range rec.Members {
		e, ok := ch.EmbassyByID(id)
		if why, is := bad[e.Name]; ok && is {
			n++
			err = errors.Join(err, fmt.Errorf("%s: %s", e.Name, why))
		}
	}
	if n < int(rec.K) && len(rec.Members)-n >= int(rec.K) {
		return nil
	}
	return &failure{
		err: fmt.Errorf("%w: %w", errStale, err), code: exitForked,
		hint: "ask the embassies' people, and the witnesses' (" + fmt.Sprint(len(ch.Witnesses)) + " in the charter); to take it all the same: --accept-stale",
	}
}

// mayBeMissing says in words what --accept-stale accepts.
func mayBeMissing(list []freshJSON) []string {
	var out []string
	for _, f := range list {
		if f.Outcome == witness.Fresh.String() {
			continue
		}
		text := f.Embassy + ": " + f.Why
		if f.Seen > f.Entries {
			text += fmt.Sprintf("; up to %d acts are missing, snapshots among them", f.Seen-f.Entries)
		} else if f.Cosigned != nil {
			text += "; what was stored after " + f.Cosigned.UTC().Format(time.RFC3339) + " may be missing"
		}
		out = append(out, text)
	}
	return out
}
