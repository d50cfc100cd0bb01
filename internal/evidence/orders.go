package evidence

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// An order, a veto and a result are signed by people or by nobody: what they are worth is found where they are judged,
// under the charter that they name.

// orderDoc is an order in the file, as an embassy kept it.
type orderDoc struct {
	*order.Order
	sigs []byte
	hash [32]byte // of the record
}

// vetoDoc is a veto in the file.
type vetoDoc struct {
	*order.Veto
	sigs []byte
}

// orderDocs are the documents about orders, by the hash of their records.
type orderDocs struct {
	orders  map[[32]byte]orderDoc
	vetoes  map[[32]byte]vetoDoc
	results map[[32]byte]*order.Result
	none    map[[32]byte]string // what stands in an order's place and is none, and why; empty: of a later version
	lists   map[[32]byte][]byte // attachments, by their hash
}

func (d *orderDocs) init(p *Pack) {
	*d = orderDocs{map[[32]byte]orderDoc{}, map[[32]byte]vetoDoc{}, map[[32]byte]*order.Result{}, map[[32]byte]string{}, map[[32]byte][]byte{}}
	for _, a := range p.Attachments {
		d.lists[sha256.Sum256(a)] = a
	}
}

// later tells whether a record or its document is of a version that this program does not know: then nothing is said
// of whoever kept it.
func later(record []byte, err error) bool {
	if errors.Is(err, order.ErrKind) {
		return true
	}
	r, perr := order.ParseRecord(record)
	if perr != nil {
		return len(record) > 1 && record[0] == 0x84 && record[1] != order.Version
	}
	_, rest, ok := bytes.Cut(r.Document, []byte("\nversion: "))
	return ok && !bytes.HasPrefix(rest, fmt.Appendf(nil, "%d\n", order.Version))
}

func (j *judge) readOrder(data []byte, hash [32]byte) (why string) {
	r, err := order.ParseRecord(data)
	var o *order.Order
	if err == nil {
		o, err = order.Parse(r.Document)
	}
	switch {
	case err == nil && o.State != j.p.State:
		why = "it is of another state"
	case err == nil:
		j.docs.orders[hash] = orderDoc{o, r.Signatures, hash}
		return ""
	case later(data, err):
		j.docs.none[hash] = ""
		return "it is of a kind or version that this program does not know"
	default:
		why = err.Error()
	}
	j.docs.none[hash] = why
	return why
}

func (j *judge) readVeto(data []byte, hash [32]byte) (why string) {
	r, err := order.ParseRecord(data)
	if err == nil {
		var v *order.Veto
		if v, err = order.ParseVeto(r.Document); err == nil {
			j.docs.vetoes[hash] = vetoDoc{v, r.Signatures}
			return ""
		}
	}
	return err.Error()
}

func (j *judge) readResult(data []byte, hash [32]byte) (why string) {
	r, err := order.ParseResult(data)
	if err != nil {
		return err.Error()
	}
	j.docs.results[hash] = r
	return ""
}

// removal is a leaf that says that something was removed.
type removal struct {
	index uint64
	leaf  ledger.Leaf
}

// readRemoval keeps what a leaf says of a removal, in the order of the ledger.
func (h *history) readRemoval(index uint64, leaf *ledger.Leaf) {
	at, found := slices.BinarySearchFunc(h.removals, index, func(r removal, i uint64) int {
		switch {
		case r.index < i:
			return -1
		case r.index > i:
			return 1
		}
		return 0
	})
	if !found {
		h.removals = slices.Insert(h.removals, at, removal{index, *leaf})
	}
}

// wholeBelow tells whether every leaf before an index is shown and can be read: then what is not there is not there.
func (h *history) wholeBelow(index uint64) bool { return h.From == 0 && index <= h.blind }

// orderSlot is where an embassy's n-th order is, or what belongs to it.
func orderSlot(kind ledger.RecordKind, n uint64) ledger.Slot {
	return ledger.Slot{Kind: kind, Sequence: n}
}

// sequences are the places of an order in a ledger: mostly one.
func (j *judge) sequences(h *history, hash [32]byte) (list []uint64) {
	for slot, at := range h.slots {
		if o, ok := j.docs.orders[at.name]; ok && slot.Kind == ledger.OrderRecord && o.Hash() == hash {
			list = append(list, slot.Sequence)
		}
	}
	slices.Sort(list)
	return list
}

// ordersOf are the distinct orders in the file, by their hash.
func (j *judge) ordersOf() (list []orderDoc) {
	for _, o := range j.docs.orders {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b orderDoc) int {
		x, y := a.Hash(), b.Hash()
		if c := bytes.Compare(x[:], y[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.hash[:], b.hash[:])
	})
	return list
}

// orderOf returns an order by its own hash; of several records of it, the one of which the most people count.
func (j *judge) orderOf(hash [32]byte) (best orderDoc, ok bool) {
	most := -1
	for _, o := range j.ordersOf() {
		if o.Hash() != hash {
			continue
		}
		n := 0
		if c := j.t.at(o.Charter); c != nil {
			a, _ := order.Recheck(c, o.Order, o.sigs, whenever, nil)
			n = len(a.Votes)
		}
		if n > most {
			best, ok, most = o, true, n
		}
	}
	return best, ok
}

// bound are the hashes of the lists that a document binds.
func bound(r *Record) (hashes [][32]byte) {
	if r.Kind != ledger.OrderRecord {
		return nil
	}
	rec, err := order.ParseRecord(r.Data)
	if err != nil {
		return nil
	}
	o, err := order.Parse(rec.Document)
	if err != nil {
		return nil
	}
	for _, l := range o.Content.Lists {
		hashes = append(hashes, l.Hash)
	}
	return hashes
}
