package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// books are what the heads of a register say of the packs that each needs, all of them read.
type books struct {
	heads []bookHead // by sequence, from 1
}

type bookHead struct {
	head       *snapshot.Head
	first, own uint64 // numbers of the packs that it adds
	refs       *snapshot.References
	untold     bool   // its references are lost or none: nobody knows what they say
	order      string // that released the snapshot; empty while it is there
}

// openBooks reads every head and its references. Those that too many embassies lost, or that are none, may have said
// anything: whatever snapshot they tell of is taken to need all that was there then, so that they keep no release from
// what nothing needs that came before. Those that an order removed are not needed by any snapshot that is left.
func (r *run) openBooks(ctx context.Context) (*books, error) {
	b := &books{}
	f := &register.Fetcher{Register: r.reg, Sites: r.sites, Faults: r.faults}
	var buf register.Buffers
	next := uint64(0)
	for seq := uint64(1); seq <= r.history.last; seq++ {
		h, err := r.history.head(seq)
		if err != nil {
			return nil, err
		}
		x := bookHead{head: h, first: next, own: addedBy(h)}
		x.order, _ = r.orders.released(seq)
		if next += x.own; next > snapshot.MaxPacks {
			return nil, fmt.Errorf("%w: snapshot %d: %d packs in all", ErrReferences, seq, next)
		}
		if len(h.References) > 0 && !r.orders.gone(&h.References[0]) {
			x.refs, err = readReferences(ctx, f, &buf, h, x.first)
			if x.untold = errors.Is(err, ErrReferences); err != nil && !x.untold {
				return nil, err
			}
		}
		b.heads = append(b.heads, x)
	}
	return b, nil
}

// packs is how many packs of chunks the heads add.
func (b *books) packs() uint64 {
	last := b.heads[len(b.heads)-1]
	return last.first + last.own
}

func (b *books) at(seq uint64) *bookHead { return &b.heads[seq-1] }

// need is what a snapshot needs: packs by number, and the heads whose references say so.
type need struct {
	packs snapshot.Numbers
	told  []uint64
}

// of returns what one snapshot needs.
func (b *books) of(seq uint64) (n need, err error) {
	base := seq
	for ; base > 0; base-- {
		x := b.at(base)
		if x.head.Version < 2 {
			n.packs.Add(0, x.first+x.own)
			break
		}
		if len(x.head.References) == 0 {
			continue
		}
		if x.untold {
			n.packs.Add(0, x.first+x.own)
			n.told = append(n.told, base)
			break
		}
		if x.refs == nil {
			return n, fmt.Errorf("%w: snapshot %d: an order removed the references of %d", ErrReferences, seq, base)
		}
		n.packs = x.refs.Needs.Clone()
		n.told = append(n.told, base)
		break
	}
	first := uint64(0)
	if base > 0 {
		first = b.at(base).first
	}
	n.packs.Add(first, b.at(seq).first+b.at(seq).own)
	for later := seq + 1; later <= uint64(len(b.heads)); later++ {
		x := b.at(later)
		if x.untold { // it may say that anything moved to any pack that was there
			n.packs.Add(0, x.first+x.own)
			n.told = append(n.told, later)
		}
		if x.refs == nil || !slices.ContainsFunc(x.refs.Moved, func(m snapshot.Move) bool { return n.packs.Has(m.Pack) }) {
			continue
		}
		n.told = append(n.told, later)
		was := n.packs.Clone()
		for i := range x.refs.Moved {
			if m := &x.refs.Moved[i]; was.Has(m.Pack) {
				n.packs.Remove(m.Pack)
			}
		}
		for i := range x.refs.Moved {
			if m := &x.refs.Moved[i]; was.Has(m.Pack) {
				n.packs.Join(&m.To)
			}
		}
	}
	return n, nil
}

// all returns what several snapshots need together.
func (b *books) all(seqs []uint64) (sum need, err error) {
	told := map[uint64]bool{}
	for _, seq := range seqs {
		n, err := b.of(seq)
		if err != nil {
			return sum, err
		}
		sum.packs.Join(&n.packs)
		for _, t := range n.told {
			told[t] = true
		}
	}
	for seq := range b.heads {
		if told[uint64(seq+1)] {
			sum.told = append(sum.told, uint64(seq+1))
		}
	}
	return sum, nil
}

// standing returns the snapshots that no order released and that the list does not hold.
func (b *books) standing(but []uint64) (out []uint64) {
	for i := range b.heads {
		if seq := uint64(i + 1); b.heads[i].order == "" && !slices.Contains(but, seq) {
			out = append(out, seq)
		}
	}
	return out
}
