package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

// tailHeads is how many heads before the newest the look into a ledger begins: one that an embassy was given late has a late
// leaf.
const tailHeads = 16

// CheckNewest holds the embassies against their ledgers (Member.Ledger). Where one entered a newer head than any shows, the
// newest snapshot that is known may not be the newest: ErrTooFew, with what is withheld, and the proof is kept. It is the
// newest all the same where n-k+1 embassies, whose ledgers hold no newer head, were asked: of the k that hold a whole snapshot
// that is one. Nil also where no ledger says anything, for they do not answer or nobody vouches for them.
func (r *Reader) CheckNewest(ctx context.Context) error {
	sites := r.run.sites
	why, denies := make([]error, len(sites)), make([]bool, len(sites))
	var all sync.WaitGroup
	for i, s := range sites {
		if s.Ledger != nil && s.Up() {
			all.Go(func() {
				why[i] = r.newerAt(ctx, s)
				denies[i] = why[i] == nil
			})
		}
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	deny := 0
	var withheld error
	for i, s := range sites {
		if denies[i] {
			deny++
		}
		if errors.Is(why[i], register.ErrWithheld) {
			withheld = errors.Join(withheld, fmt.Errorf("%s: %w", s.Name, why[i]))
		}
	}
	if withheld == nil || deny > len(sites)-r.run.reg.K {
		return nil
	}
	return fmt.Errorf("%w to tell whether snapshot %d is the newest: %w", register.ErrTooFew, r.run.history.last, withheld)
}

// newerAt tells why an embassy may hold a newer head than is known; nil where its ledger shows that it does not.
func (r *Reader) newerAt(ctx context.Context, s *register.Site) error {
	tree, err := s.Ledger.Tree(ctx)
	if err != nil {
		return fmt.Errorf("its ledger: %w", err)
	}
	last, id := r.run.history.last, [16]byte(r.run.reg.ID)
	var since ledger.Slot // the register's own record came before all else of it
	for _, from := range []struct {
		kind  ledger.RecordKind
		after uint64
	}{{ledger.Head, max(last, tailHeads) - tailHeads}, {ledger.Register, 0}} {
		list, err := s.Records.ListRecords(ctx, from.kind, id, from.after)
		if err != nil {
			return fmt.Errorf("listing records of kind %s: %w", from.kind, err)
		}
		if len(list) > 0 {
			since = list[0].Slot
			break
		}
	}
	seen, err := tree.Beyond(ctx, register.Look{Since: since, Kind: ledger.Head, Of: id, Last: last})
	if err != nil {
		return fmt.Errorf("its ledger: %w", err)
	}
	if seen.Record == nil {
		return nil
	}
	return s.Withholds(ctx, tree, seen.Record, last, r.run.faults)
}
