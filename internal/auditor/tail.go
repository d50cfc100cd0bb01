package auditor

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/ledger"
)

// Tail calls act for the entries of a log from number since on, up to a checkpoint that the caller verified, in order. Each
// is proven to be in that checkpoint before act sees it; leaf is nil where it is of an unknown version. before is a
// checkpoint that this one must continue; one of no entries asks nothing. Memory is bounded whatever the source answers;
// time is by ctx. Errors: those of act, ErrDamaged, ledger.ErrShorter, ledger.ErrForked, and what the source says.
func Tail(ctx context.Context, src Source, cp, before ledger.Checkpoint, since uint64, act func(index uint64, leaf *ledger.Leaf, raw []byte) error) error {
	ctx, cancel := context.WithCancel(ctx) // what still reads when this returns is told to stop
	defer cancel()
	f := &follower{reader: reader{ctx: ctx, src: src}, opts: FollowOptions{Act: act}, since: since}
	if before.Size > 0 {
		if err := f.continues(before, cp); err != nil {
			return err
		}
	}
	if since > cp.Size {
		return fmt.Errorf("auditor: from entry %d of %d: %w", since, cp.Size, ledger.ErrShorter)
	}
	tree, err := f.first(since, cp)
	if err != nil {
		return err
	}
	f.tree = tree
	for f.tree.Size() < cp.Size {
		if err := f.some(cp); err != nil {
			return err
		}
	}
	if f.tree.Root() != cp.Root {
		return fmt.Errorf("auditor: two roots of %d entries: %w", cp.Size, ledger.ErrForked)
	}
	return nil
}
