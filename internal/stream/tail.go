package stream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
)

// tailStretches is how many records before the last one the look into a ledger begins. Records reach an embassy side by
// side, and one that was away takes new ones while it is given what it missed; so an older one may come later.
const tailStretches = 4096

// trees takes the state of each ledger, before the records are listed: what is in it then, the embassy has to show.
func (v *view) trees(ctx context.Context) []treeOrNot {
	out := make([]treeOrNot, len(v.sites))
	var all sync.WaitGroup
	for i, s := range v.sites {
		if s.Ledger == nil || !s.Up() {
			continue
		}
		all.Go(func() { out[i].tree, out[i].err = s.Ledger.Tree(ctx) })
	}
	all.Wait()
	return out
}

// treeOrNot is the state of a ledger, or why there is none; neither where nobody was asked.
type treeOrNot struct {
	tree register.Tree
	err  error
}

// hold lets an embassy count for the end of an index only where its ledger says no more of the stream than was shown.
// One whose ledger says more withholds it: that is a doubt, and its proof is kept. What it stored of stretches that are not
// settled and holds no more may have made them durable. Of a chain that ends before what is shown nothing has to be asked.
func (v *view) hold(ctx context.Context, x *Index, trees []treeOrNot) error {
	if x.problem != nil {
		return nil
	}
	why, seen := make([]error, len(v.sites)), make([]*register.Seen, len(v.sites))
	unsettled := cmp.Or(x.tail, &tail{})
	var all sync.WaitGroup
	for i, s := range v.sites {
		if s.Ledger != nil && slices.Contains(x.embassy, s.Name) {
			_, names := unsettled.lacking(i)
			all.Go(func() { seen[i], why[i] = v.holdSite(ctx, s, x.last, names, trees[i]) })
		}
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, err := range why {
		if seen[i] != nil {
			of, _ := unsettled.lacking(i)
			unsettled.deny(v, v.sites[i], of, seen[i].Stored)
		}
		if err != nil {
			unsettled.discount(i)
			name := v.sites[i].Name
			x.embassy = slices.DeleteFunc(x.embassy, func(n string) bool { return n == name })
			x.silent = append(x.silent, register.Down{Embassy: name, Why: err.Error()})
		}
	}
	return nil
}

func (v *view) holdSite(ctx context.Context, s *register.Site, last uint64, lacking []shard.Name, t treeOrNot) (*register.Seen, error) {
	switch {
	case t.err != nil:
		return nil, fmt.Errorf("its ledger: %w", t.err)
	case t.tree == nil: // it was down when trees were taken
		return nil, fmt.Errorf("its ledger was not asked")
	}
	since, err := v.before(ctx, s, last)
	if err != nil {
		return nil, err
	}
	seen, err := t.tree.Beyond(ctx, register.Look{
		Since: since, Kind: ledger.StretchRecord, Of: [16]byte(v.reg.ID), Last: last, Objects: lacking,
	})
	if err != nil {
		return nil, fmt.Errorf("its ledger: %w", err)
	}
	if seen.Record == nil {
		return seen, nil
	}
	return nil, s.Withholds(ctx, t.tree, seen.Record, last, v.faults)
}

// before finds a record that an embassy shows, far enough before the last one that everything behind that one, and every
// share of it, has a later leaf. In a short stream that is the register's own, which came before all else of it. The zero slot
// where there is none, and the whole ledger is to be read.
func (v *view) before(ctx context.Context, s *register.Site, last uint64) (since ledger.Slot, err error) {
	for back := uint64(tailStretches); back < last; back *= 8 {
		list, err := s.Records.ListRecords(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), last-back-1)
		if err != nil {
			return since, fmt.Errorf("listing records of the stream: %w", err)
		}
		if len(list) > 0 && list[0].Slot.Sequence <= last-tailStretches {
			return list[0].Slot, nil
		}
	}
	list, err := s.Records.ListRecords(ctx, ledger.Register, [16]byte(v.reg.ID), 0)
	if err != nil || len(list) == 0 || list[0].Slot.Sequence != 1 {
		return since, err
	}
	return list[0].Slot, nil
}
