package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// Removals tells of the orders that remove objects of a register. An embassy's word is not enough: each order is held
// against the charter that it names, which the newest one leads back to.
func (r remote) Removals(ctx context.Context, register [16]byte) ([]archive.Removal, error) {
	list, err := r.Orders(ctx)
	if err != nil {
		return nil, err
	}
	var out []archive.Removal
	for _, s := range list {
		removes := s.Kind == string(charter.ActRelease) || s.Kind == string(charter.ActErase)
		if !removes || s.Status == order.Vetoed.String() || s.Status == order.Expired.String() || s.Status == order.Refused.String() {
			continue
		}
		o, err := r.signedOrder(ctx, s.Hash)
		if err != nil {
			return nil, fmt.Errorf("order %d: %w", s.Sequence, err)
		}
		if o.Content.Register != charter.RegisterID(register) {
			continue
		}
		hash := o.Hash()
		out = append(out, archive.Removal{
			ID: hash, Order: fmt.Sprintf("order %x", hash[:4]), Done: s.Status == order.Done.String(), Snapshots: o.Content.Snapshots,
		})
	}
	return out, nil
}

// Removed returns the list that such an order binds for this embassy.
func (r remote) Removed(ctx context.Context, id [32]byte) (ledger.ObjectList, error) {
	name := hex.EncodeToString(id[:])
	o, err := r.signedOrder(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range o.Content.Lists {
		l := &o.Content.Lists[i]
		if l.Embassy != r.name {
			continue
		}
		data, err := r.OrderAttachment(ctx, name, hex.EncodeToString(l.Hash[:]))
		if err != nil {
			return nil, err
		}
		if err := l.Check(data); err != nil {
			return nil, err
		}
		return ledger.ParseObjectList(data)
	}
	return nil, nil
}

// signedOrder fetches an order and checks that the quorum signed it which its charter asks for.
func (r remote) signedOrder(ctx context.Context, hash string) (*order.Order, error) {
	s, err := r.Order(ctx, hash)
	if err != nil {
		return nil, err
	}
	o, err := order.Parse(s.Document)
	if err != nil {
		return nil, err
	}
	if h := o.Hash(); hex.EncodeToString(h[:]) != hash {
		return nil, fmt.Errorf("%w: another order than was asked for", embassy.ErrForged)
	}
	c, err := r.charterAt(ctx, o.Charter)
	if err != nil {
		return nil, err
	}
	if _, err := order.Check(c, o, s.Signatures, o.Created, nil); err != nil {
		return nil, errors.Join(embassy.ErrForged, err)
	}
	return o, nil
}

// charterAt walks back from the newest charter to an older one, each named by the hash in the one after it.
func (r remote) charterAt(ctx context.Context, n uint64) (*charter.Charter, error) {
	c := r.charter
	if n > c.Number {
		return nil, fmt.Errorf("charter %d is not known here: the newest is %d", n, c.Number)
	}
	for c.Number > n {
		rec, err := r.GetRecord(ctx, charterSlot(c.Number-1))
		if err != nil {
			return nil, err
		}
		before, _, err := parseCharterRecord(rec)
		if err != nil {
			return nil, err
		}
		if charter.EncodeDigest(before.Hash()) != c.Previous {
			return nil, fmt.Errorf("%w: charter %d is not the one that %d follows", embassy.ErrForged, before.Number, c.Number)
		}
		c = before
	}
	return c, nil
}
