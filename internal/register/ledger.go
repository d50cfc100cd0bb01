package register

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
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
	// Beyond reads the leaves that a look asks for, each of them proven. It fails where a leaf is not what the tree signs,
	// and where there are too many to read.
	Beyond(ctx context.Context, look Look) (*Seen, error)
	// Keep keeps the proof that a leaf is there, because the embassy does not show what it names, and says where.
	Keep(ctx context.Context, e *Entered) (string, error)
}

// Look is what a ledger is asked: whether it holds a record of a kind and register with a number above Last, and which of
// some objects it says were ever stored.
type Look struct {
	Since   ledger.Slot // leaves from that of this record on are read; all where it is zero
	Kind    ledger.RecordKind
	Of      [16]byte // the register
	Last    uint64
	Objects []shard.Name
}

// Seen is what a ledger answers.
type Seen struct {
	Record *Entered // the first record above Last, and then nothing behind it was read; nil where there is none
	Stored []bool   // by object of the look
}

// Entered is a leaf that says that a record was stored.
type Entered struct {
	Slot ledger.Slot
	Hash [32]byte // of the record
	Leaf uint64   // its number
}

// ErrWithheld means that an embassy does not show a record that its ledger holds.
var ErrWithheld = errors.New("withheld")

// Withholds says why an embassy's word that there is nothing behind record number after does not count, where its ledger holds e:
// ErrWithheld unless it shows e by now. It is at fault then, and the proof is kept.
func (s *Site) Withholds(ctx context.Context, t Tree, e *Entered, after uint64, faults *Faults) error {
	list, err := s.Records.ListRecords(ctx, e.Slot.Kind, e.Slot.Register, after)
	if err != nil {
		return fmt.Errorf("listing records of kind %s: %w", e.Slot.Kind, err)
	}
	if slices.ContainsFunc(list, func(r ledger.RecordInfo) bool { return r.Slot == e.Slot && r.Hash == e.Hash }) {
		return fmt.Errorf("it shows %s by now", RecordName(e.Slot))
	}
	faults.Add(Fault{Embassy: s.Name, Object: RecordName(e.Slot), What: "in its ledger, and withheld"})
	err = fmt.Errorf("it withholds %s, which is leaf %d of its ledger", RecordName(e.Slot), e.Leaf)
	where, kerr := t.Keep(ctx, e)
	if kerr != nil {
		return withheldError{fmt.Errorf("%w; the proof of that could not be kept: %w", err, kerr)}
	}
	return withheldError{fmt.Errorf("%w: the proof is in %s", err, where)}
}

// withheldError is ErrWithheld in words of its own.
type withheldError struct{ error }

func (withheldError) Is(target error) bool { return target == ErrWithheld }

func (e withheldError) Unwrap() error { return e.error }
