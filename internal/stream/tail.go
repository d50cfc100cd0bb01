package stream

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
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
// One whose ledger says more withholds it: that is a doubt, and its proof is kept. Of a chain that ends before what is shown
// nothing has to be asked.
func (v *view) hold(ctx context.Context, x *Index, trees []treeOrNot) error {
	if x.problem != nil {
		return nil
	}
	why := make([]error, len(v.sites))
	var all sync.WaitGroup
	for i, s := range v.sites {
		if s.Ledger != nil && slices.Contains(x.embassy, s.Name) {
			all.Go(func() { why[i] = v.holdSite(ctx, s, x.last, trees[i]) })
		}
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, err := range why {
		if err != nil {
			name := v.sites[i].Name
			x.embassy = slices.DeleteFunc(x.embassy, func(n string) bool { return n == name })
			x.silent = append(x.silent, register.Down{Embassy: name, Why: err.Error()})
		}
	}
	return nil
}

func (v *view) holdSite(ctx context.Context, s *register.Site, last uint64, t treeOrNot) error {
	switch {
	case t.err != nil:
		return fmt.Errorf("its ledger: %w", t.err)
	case t.tree == nil: // it was down when trees were taken
		return fmt.Errorf("its ledger was not asked")
	}
	since, err := v.before(ctx, s, last)
	if err != nil {
		return err
	}
	e, err := t.tree.Beyond(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), since, last)
	if err != nil {
		return fmt.Errorf("its ledger: %w", err)
	}
	if e == nil {
		return nil
	}
	list, err := s.Records.ListRecords(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), last)
	if err != nil {
		return fmt.Errorf("listing records of the stream: %w", err)
	}
	if slices.ContainsFunc(list, func(r ledger.RecordInfo) bool { return r.Slot == e.Slot && r.Hash == e.Hash }) {
		return fmt.Errorf("it shows more of the stream by now")
	}
	v.blame(s, e.Slot, "in its ledger, and withheld")
	err = fmt.Errorf("it withholds stretch %d, which is leaf %d of its ledger", e.Slot.Sequence, e.Leaf)
	where, kerr := t.tree.Keep(ctx, e)
	if kerr != nil {
		return fmt.Errorf("%w; the proof of that could not be kept: %w", err, kerr)
	}
	return fmt.Errorf("%w: the proof is in %s", err, where)
}

// before finds a record that an embassy shows, far enough before the last one that everything behind that one has a
// later leaf: its number, or 0 where there is none, and the whole ledger is to be read.
func (v *view) before(ctx context.Context, s *register.Site, last uint64) (uint64, error) {
	for back := uint64(tailStretches); back < last; back *= 8 {
		list, err := s.Records.ListRecords(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), last-back-1)
		if err != nil {
			return 0, fmt.Errorf("listing records of the stream: %w", err)
		}
		if len(list) > 0 && list[0].Slot.Sequence <= last-tailStretches {
			return list[0].Slot.Sequence, nil
		}
	}
	list, err := s.Records.ListRecords(ctx, ledger.StretchRecord, [16]byte(v.reg.ID), 0)
	if err != nil || len(list) == 0 || list[0].Slot.Sequence != 1 {
		return 0, err
	}
	return 1, nil
}
