package main

import (
	"context"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

// noteTime is how long a command waits, when its work is done, for witnesses to have vouched for it. What they have not by
// then is noted by whatever runs next.
const noteTime = 5 * time.Second

// note notes, when something was stored, what witnesses have vouched for: rules of retention count by the time that was
// noted first, and snapshots that are noted together cannot be told apart. That it fails takes nothing from what was done,
// and is said in lines for people.
func (c *connection) note(ctx context.Context, names ...string) (lines []string) {
	waiting, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	for _, name := range names {
		r, err := c.home.Register(name)
		if err == nil {
			var last uint64
			if last, err = r.LastHead(); err == nil {
				_, err = c.noteWitnessed(waiting, r, last)
			}
		}
		if err != nil && ctx.Err() == nil {
			lines = append(lines, name+": when witnesses saw its snapshots is not noted: "+err.Error())
		}
	}
	return lines
}

// noteWitnessed brings home's notes up to date of when witnesses first vouched for each head, and returns them. What no
// embassy shows cosigned has none. Heads that are noted together get one time, the latest of them.
func (c *connection) noteWitnessed(ctx context.Context, r *home.Register, last uint64) (map[uint64]time.Time, error) {
	times, err := r.Witnessed()
	if err != nil {
		return nil, err
	}
	var slots []ledger.Slot
	for seq := uint64(1); seq <= last; seq++ {
		if times[seq].IsZero() {
			slots = append(slots, ledger.Slot{Kind: ledger.Head, Register: [16]byte(r.Record.ID), Sequence: seq})
		}
	}
	policy, err := c.home.Charter.Policy()
	if err != nil || len(slots) == 0 {
		return times, nil // without a policy nothing is cosigned, and everything is kept
	}
	var mu sync.Mutex
	fresh := map[uint64]time.Time{}
	var all sync.WaitGroup
	for _, id := range r.Record.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		c.client(e) // made before they are used from several sides
		all.Go(func() {
			seen := c.witnessedAt(ctx, e, policy, slots)
			mu.Lock()
			defer mu.Unlock()
			for seq, at := range seen {
				if t := fresh[seq]; t.IsZero() || at.Before(t) {
					fresh[seq] = at
				}
			}
		})
	}
	all.Wait()
	var latest time.Time
	for _, at := range fresh {
		if at.After(latest) {
			latest = at
		}
	}
	for seq := range fresh {
		fresh[seq] = latest
	}
	return r.NoteWitnessed(fresh)
}

// witnessedAt asks one embassy for heads under its cosigned checkpoint, and when that was cosigned. It may lack some, which
// others may have, and those after them.
func (c *connection) witnessedAt(ctx context.Context, e charter.Embassy, policy *ledger.Policy, slots []ledger.Slot) map[uint64]time.Time {
	seen := map[uint64]time.Time{}
	take := func(slots []ledger.Slot) bool {
		receipts, err := c.client(e).CosignedReceipts(ctx, nil, slots)
		if err != nil {
			return false
		}
		for i := range receipts {
			verdict, err := policy.Judge(receipts[i].Checkpoint, e.Log())
			if err != nil || !verdict.Enough {
				return false
			}
			seen[slots[i].Sequence] = verdict.Time
		}
		return true
	}
	if take(slots) {
		return seen
	}
	for i := range slots {
		if len(slots) == 1 || !take(slots[i:i+1]) {
			break
		}
	}
	return seen
}
