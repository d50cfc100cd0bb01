package auditor

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"chancery.dev/chancery/internal/ledger"
)

// holdings follow what a log says it holds, and on whose word it let go of what
// it holds no more.
type holdings struct {
	// held has what was ever stored, by a part of its name that nobody can make two
	// objects share: stored, or the order that removed it. A million entries are to
	// be read in little memory.
	held   map[[16]byte]uint64
	orders map[uint64]*orderSeen
	known  map[[16]byte]bool // registers that have a record
	// blind: an entry could not be read, so that what seems to be missing may stand
	// there.
	blind bool
}

// In place of an order's number.
const (
	stored   uint64 = 0
	unstated        = ^uint64(0) // the leaf of a removed record names none
)

// orderSeen is what the log says of one order.
type orderSeen struct {
	register [16]byte // of what it removed
	removed  bool     // something
	vetoed   bool
	through  bool // there is a result
}

func newHoldings() holdings {
	return holdings{held: map[[16]byte]uint64{}, orders: map[uint64]*orderSeen{}, known: map[[16]byte]bool{}}
}

// recordKey stands for a record in its slot. It never meets an object's, which is
// the name's beginning: both are of SHA-256 over different things.
func recordKey(l *ledger.Leaf) [16]byte {
	b := append([]byte{2, byte(l.Slot.Kind)}, l.Slot.Register[:]...)
	b = binary.BigEndian.AppendUint64(b, l.Slot.Sequence)
	sum := sha256.Sum256(append(b, l.Name[:]...))
	return [16]byte(sum[:16])
}

// take looks at one leaf and says what is wrong with it, or nothing.
func (h *holdings) take(l *ledger.Leaf) (why string) {
	switch l.Kind {
	case ledger.ObjectStored:
		h.held[[16]byte(l.Name[:16])] = stored
	case ledger.RecordStored:
		h.record(l)
	case ledger.ObjectRemoved:
		why = h.removed(l)
		h.letGo([16]byte(l.Name[:16]), l.Slot.Sequence, &why)
	case ledger.RecordRemoved:
		if len(h.orders) == 0 {
			why = "a record was removed, and there was no order before"
		}
		h.letGo(recordKey(l), unstated, &why)
	}
	return why
}

func (h *holdings) record(l *ledger.Leaf) {
	h.held[recordKey(l)] = stored
	switch s := l.Slot; s.Kind {
	case ledger.OrderRecord:
		if h.orders[s.Sequence] == nil {
			h.orders[s.Sequence] = &orderSeen{}
		}
	case ledger.VetoRecord, ledger.ResultRecord:
		if o := h.orders[s.Sequence]; o != nil {
			o.vetoed = o.vetoed || s.Kind == ledger.VetoRecord
			o.through = o.through || s.Kind == ledger.ResultRecord
		}
	case ledger.Register, ledger.Head:
		h.known[s.Register] = true
	}
}

// removed holds a removal against the order that it names.
func (h *holdings) removed(l *ledger.Leaf) string {
	n, register := l.Slot.Sequence, l.Slot.Register
	o := h.orders[n]
	switch {
	case o == nil:
		return fmt.Sprintf("an object was removed by order %d, which was not logged before", n)
	case o.vetoed:
		return fmt.Sprintf("an object was removed by order %d, which somebody had stopped", n)
	case o.through:
		return fmt.Sprintf("an object was removed by order %d, which was through already", n)
	case o.removed && o.register != register:
		return fmt.Sprintf("order %d removed from register %x, and here from register %x", n, o.register, register)
	case register != [16]byte{} && !h.known[register]:
		return fmt.Sprintf("an object was removed of register %x, of which there is no record", register)
	}
	o.removed, o.register = true, register
	return ""
}

// letGo takes something off. That one order removed it may be said twice: a leaf
// may be in the log though whoever wrote it was interrupted before hearing so.
func (h *holdings) letGo(key [16]byte, order uint64, why *string) {
	by, ever := h.held[key]
	switch {
	case *why != "":
	case !ever:
		*why = "it says that something was removed which was never stored"
	case by != stored && by != order:
		*why = "it says that something was removed which had been removed before and was not stored again"
	}
	if ever {
		h.held[key] = order
	}
}

// hold looks at one leaf as the log has it; nil for one that cannot be read.
func (a *audit) hold(index uint64, leaf *ledger.Leaf) {
	if leaf == nil {
		a.holdings.blind = true
		return
	}
	if why := a.holdings.take(leaf); why != "" && len(a.odd) < MaxFindings {
		path, _ := filePath(entries, index/tileWidth, a.cp.Size)
		a.odd = append(a.odd, Finding{Kind: BadRemoval, Path: path, Index: index, Why: why})
	}
}
