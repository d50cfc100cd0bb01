package sim

import (
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
)

// Witnessed makes an embassy's ledger a member's: for those who hold what it lists against what it signed. As far as
// anybody vouches for the ledger it is whole.
func (e *Embassy) Witnessed(kept func(register.Entered)) register.Ledger { return &openBook{e, kept} }

type openBook struct {
	embassy *Embassy
	kept    func(register.Entered)
}

// Tree is register.Ledger.
func (o *openBook) Tree(ctx context.Context) (register.Tree, error) {
	c := &Call{Op: Receipts}
	if err := o.embassy.enter(ctx, c); err != nil {
		return nil, err
	}
	o.embassy.mu.Lock()
	b := o.embassy.book.until(o.embassy.book.size())
	o.embassy.mu.Unlock()
	return &bookTree{o, b}, o.embassy.leave(ctx, c)
}

type bookTree struct {
	*openBook
	book book
}

// Beyond is register.Tree.
func (t *bookTree) Beyond(_ context.Context, look register.Look) (*register.Seen, error) {
	started := look.Since == ledger.Slot{}
	seen := &register.Seen{Stored: make([]bool, len(look.Objects))}
	for i, raw := range t.book.leaves {
		leaf, err := ledger.ParseLeaf(raw)
		if err != nil {
			return nil, err
		}
		started = started || leaf.Kind == ledger.RecordStored && leaf.Slot == look.Since
		switch {
		case !started:
		case leaf.Kind == ledger.ObjectStored:
			if n := slices.Index(look.Objects, shard.Name(leaf.Name)); n >= 0 {
				seen.Stored[n] = true
			}
		case leaf.Kind == ledger.RecordStored && leaf.Slot.Kind == look.Kind && leaf.Slot.Register == look.Of && leaf.Slot.Sequence > look.Last:
			seen.Record = &register.Entered{Slot: leaf.Slot, Hash: leaf.Name, Leaf: uint64(i)}
			return seen, nil
		}
	}
	if !started {
		return nil, fmt.Errorf("%s %d is in no leaf", look.Since.Kind, look.Since.Sequence)
	}
	return seen, nil
}

// Keep is register.Tree.
func (t *bookTree) Keep(_ context.Context, e *register.Entered) (string, error) {
	if t.kept != nil {
		t.kept(*e)
	}
	return "memory", nil
}
