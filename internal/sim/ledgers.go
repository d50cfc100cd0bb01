package sim

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/ledger"
)

// Witnessed makes an embassy's ledger a member's: for those who hold what it lists against what it signed. As far as
// anybody vouches for the ledger it is whole.
func (e *Embassy) Witnessed(kept func(archive.Entered)) archive.Ledger { return &openBook{e, kept} }

type openBook struct {
	embassy *Embassy
	kept    func(archive.Entered)
}

// Tree is archive.Ledger.
func (o *openBook) Tree(ctx context.Context) (archive.Tree, error) {
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

// Beyond is archive.Tree.
func (t *bookTree) Beyond(_ context.Context, kind ledger.RecordKind, register [16]byte, since, last uint64) (*archive.Entered, error) {
	started := since == 0
	for i, raw := range t.book.leaves {
		leaf, err := ledger.ParseLeaf(raw)
		if err != nil {
			return nil, err
		}
		if leaf.Kind != ledger.RecordStored || leaf.Slot.Kind != kind || leaf.Slot.Register != register {
			continue
		}
		started = started || leaf.Slot.Sequence == since
		if started && leaf.Slot.Sequence > last {
			return &archive.Entered{Slot: leaf.Slot, Hash: leaf.Name, Leaf: uint64(i)}, nil
		}
	}
	if !started {
		return nil, fmt.Errorf("%s %d is in no leaf", kind, since)
	}
	return nil, nil
}

// Keep is archive.Tree.
func (t *bookTree) Keep(_ context.Context, e *archive.Entered) (string, error) {
	if t.kept != nil {
		t.kept(*e)
	}
	return "memory", nil
}
