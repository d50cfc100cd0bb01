package register

import (
	"context"

	"chancery.dev/chancery/internal/ledger"
)

// Ledger is what an embassy's ledger is asked, where what an embassy lists is to be held against what it signed.
// Implementations are safe for concurrent use and put a deadline on every call.
type Ledger interface {
	// Tree is the newest state of the ledger that others vouch for, as the charter asks of one that nobody remembers. It
	// fails where the ledger is not that, or where this cannot be told now.
	Tree(ctx context.Context) (Tree, error)
}

// Tree is one state of an embassy's ledger.
type Tree interface {
	// Beyond returns the first leaf that says that a record of this kind and register with a number above last was
	// stored, of those behind the leaf of record number since, or, where that is 0, of all; nil where there is none. Each
	// leaf is proven. It fails where a leaf is not what the tree signs, and where there are too many to read.
	Beyond(ctx context.Context, kind ledger.RecordKind, register [16]byte, since, last uint64) (*Entered, error)
	// Keep keeps the proof that a leaf is there, because the embassy does not show what it names, and says where.
	Keep(ctx context.Context, e *Entered) (string, error)
}

// Entered is a leaf that says that a record was stored.
type Entered struct {
	Slot ledger.Slot
	Hash [32]byte // of the record
	Leaf uint64   // its number
}
