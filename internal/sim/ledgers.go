package sim

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
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
func (t *bookTree) Beyond(_ context.Context, kind ledger.RecordKind, of [16]byte, since, last uint64) (*register.Entered, error) {
	started := since == 0
	for i, raw := range t.book.leaves {
		leaf, err := ledger.ParseLeaf(raw)
		if err != nil {
			return nil, err
		}
		if leaf.Kind != ledger.RecordStored || leaf.Slot.Kind != kind || leaf.Slot.Register != of {
			continue
		}
		started = started || leaf.Slot.Sequence == since
		if started && leaf.Slot.Sequence > last {
			return &register.Entered{Slot: leaf.Slot, Hash: leaf.Name, Leaf: uint64(i)}, nil
		}
	}
	if !started {
		return nil, fmt.Errorf("%s %d is in no leaf", kind, since)
	}
	return nil, nil
}

// Keep is register.Tree.
func (t *bookTree) Keep(_ context.Context, e *register.Entered) (string, error) {
	if t.kept != nil {
		t.kept(*e)
	}
	return "memory", nil
}
