package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// verdict is how a pack of the stream stands.
type verdict uint8

const (
	isWhole  verdict = iota + 1 // with every embassy
	isThin                      // with k
	isHidden                    // with k, if those that do not answer have it
	isLost
)

type verdicts map[pack.ID]verdict

func (v verdicts) count(ref *snapshot.PackRef, good, silent int, opens bool) {
	switch k := int(ref.K); {
	case !opens || good+silent < k:
		v[ref.ID] = isLost
	case good < k:
		v[ref.ID] = isHidden
	case good < int(ref.N):
		v[ref.ID] = isThin
	default:
		v[ref.ID] = isWhole
	}
}

// streamCheck goes through a register's stream from its first record. Whether a stretch holds something is certain when a
// later record says what is kept, so only the last few wait; stretches are looked at together with the gathering that
// they stand in, for one of the two packs is enough.
type streamCheck struct {
	v    *verifier
	ctx  context.Context
	view *streamView
	work func(context.Context, []snapshot.PackRef) error

	waiting []*snapshot.Stretch
	kept    uint64
	sure    uint64 // what the newest gathering says is kept
	last    uint64
	unit    []*snapshot.Stretch // that are looked at together
	list    []shown             // gatherings that are not read yet
	next    *snapshot.Gathering // the first that reaches what comes
	alone   map[uint64]bool     // its stretches that have a pack of their own only; nil where its table is none
}

// stream looks at every pack of the register's stream, and tells give of every record that an embassy lacks. Without
// give the first one of each embassy is a fault.
func (v *verifier) stream(ctx context.Context, work func(context.Context, []snapshot.PackRef) error, give func(context.Context, ledger.Slot, []byte, []*site)) error {
	view := newStreamView(v.run.reg, v.run.agent.Trusted, v.run.sites, v.run.faults)
	said := map[*site]bool{}
	view.lacks = func(slot ledger.Slot, b []byte, sites []*site) {
		for _, s := range sites {
			if !said[s] {
				said[s] = true
				v.run.faults.add(Fault{s.Name, recordName(slot), "missing"})
			}
		}
		if give != nil {
			give(ctx, slot, b, sites)
		}
	}
	c := &streamCheck{v: v, ctx: ctx, view: view, work: work}
	var err error
	if c.list, err = view.list(ctx, ledger.GatheringRecord, 0, ^uint64(0)); err != nil {
		return err
	}
	newest, err := view.gatherings(ctx, ^uint64(0))
	if err != nil {
		return err
	}
	for _, g := range newest {
		c.sure = g.Through
	}
	v.of = verdicts{}
	defer func() { v.of = nil }()
	_, _, err = view.walk(ctx, 0, ^uint64(0), nil, nil, c.take)
	if err == nil {
		err = c.end()
	}
	if err == nil {
		err = view.fork()
	}
	if err == nil && view.hole != nil {
		err = view.hole
	}
	return err
}

// take is called for every record in order.
func (c *streamCheck) take(s *snapshot.Stretch, _ []byte) error {
	c.waiting, c.last = append(c.waiting, s), s.Sequence
	c.v.head = ledger.StreamDelivery + s.Sequence
	if s.Kept <= c.kept {
		return nil
	}
	c.kept = s.Kept
	return c.certain(c.kept)
}

// certain looks at those of the stretches that wait, up to a number, that hold something; the others are void.
func (c *streamCheck) certain(through uint64) error {
	if len(c.waiting) == 0 || through < c.waiting[0].Sequence {
		return nil
	}
	n := int(through - c.waiting[0].Sequence + 1)
	replaces := make([]uint64, n)
	for i := range replaces {
		replaces[i] = c.waiting[i].Replaces
	}
	for i, live := range snapshot.Live(c.waiting[0].Sequence, replaces) {
		if !live {
			c.v.rep.Void++
			continue
		}
		if err := c.add(c.waiting[i]); err != nil {
			return err
		}
	}
	c.waiting = c.waiting[n:]
	return nil
}

// end finds out which of the last stretches are durable. What comes behind was never finished.
func (c *streamCheck) end() error {
	if err := c.certain(min(c.sure, c.last)); err != nil {
		return err
	}
	refs, replaces := make([]*snapshot.PackRef, len(c.waiting)), make([]uint64, len(c.waiting))
	for i, s := range c.waiting {
		refs[i], replaces[i] = &s.Pack, s.Replaces
	}
	if len(refs) > 0 {
		good, _, err := c.view.holders(c.ctx, refs)
		if err != nil {
			return err
		}
		first := c.waiting[0].Sequence
		if err := c.certain(reach(first, replaces, first-1, func(i int) bool { return good[i] >= c.v.run.reg.K })); err != nil {
			return err
		}
	}
	c.v.rep.Unfinished = len(c.waiting)
	for c.next != nil || len(c.list) > 0 {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.advance(); err != nil || c.next == nil {
			return err
		}
	}
	return c.flush()
}

// add takes a stretch that holds something.
func (c *streamCheck) add(s *snapshot.Stretch) error {
	c.v.rep.Stretches++
	for c.next == nil && len(c.list) > 0 || c.next != nil && s.Sequence > c.next.Through {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.advance(); err != nil {
			return err
		}
	}
	full := len(c.unit) >= verifyBatch && (c.next == nil || s.Sequence <= c.next.First)
	if full || c.next != nil && s.Sequence == c.next.First {
		if err := c.flushPart(nil); err != nil {
			return err
		}
	}
	c.unit = append(c.unit, s)
	return nil
}

// advance reads the next gathering. One that nobody gives is passed over: its stretches have packs of their own.
func (c *streamCheck) advance() error {
	c.next = nil
	for len(c.list) > 0 && c.next == nil {
		x := &c.list[0]
		c.list = c.list[1:]
		b, err := c.view.read(c.ctx, x, nil, func(b []byte) error {
			_, err := c.view.gathering(b, x.slot.Sequence)
			return err
		})
		if errors.Is(err, ErrTooFew) {
			continue
		}
		if err != nil {
			return err
		}
		c.view.tellLacking(x, b)
		if c.next, err = c.view.gathering(b, x.slot.Sequence); err != nil {
			return err
		}
		c.v.rep.Gatherings++
		c.alone = nil
		if table, err := c.v.run.reg.table(c.next); err == nil {
			c.alone = alones(c.next, table)
		}
	}
	return nil
}

// alones returns which stretches of a gathering have a pack of their own only.
func alones(g *snapshot.Gathering, table []snapshot.Gathered) map[uint64]bool {
	out := map[uint64]bool{}
	for i := range table {
		if table[i].Alone != nil {
			out[g.First+uint64(i)] = true
		}
	}
	return out
}

// flush looks at the unit and the gathering that it stands in.
func (c *streamCheck) flush() error { return c.flushPart(c.next) }

func (c *streamCheck) flushPart(g *snapshot.Gathering) error {
	var refs []snapshot.PackRef
	add := func(ref *snapshot.PackRef) {
		if c.v.run.orders.gone(ref) || c.v.run.orders.parting(ref) {
			c.v.rep.Leaving++
			return
		}
		refs = append(refs, *ref)
	}
	for _, s := range c.unit {
		add(&s.Pack)
	}
	if g != nil {
		add(&g.Pack)
	}
	for at := 0; at < len(refs); at += verifyBatch {
		if err := c.work(c.ctx, refs[at:min(len(refs), at+verifyBatch)]); err != nil {
			return err
		}
	}
	c.judge(g)
	c.unit = nil
	clear(c.v.of)
	return nil
}

// judge counts what the packs of a unit say of its stretches.
func (c *streamCheck) judge(g *snapshot.Gathering) {
	rep, of := c.v.rep, c.v.of
	together, apart := verdict(0), verdict(isWhole)
	if g != nil {
		together = of[g.Pack.ID]
	}
	names := map[string]bool{} // of objects that nothing needs
	for _, s := range c.unit {
		own, other := of[s.Pack.ID], together
		if g == nil || s.Sequence < g.First || c.alone == nil || c.alone[s.Sequence] {
			other = 0
		} else if apart = max(apart, own); own == 0 { // an order took the own pack, because the gathering holds it
			apart = isLost
		}
		switch {
		case own == 0 && other < isHidden:
		case own == 0 && other == isHidden:
			rep.Hidden++
		case other == isLost && (own == isLost || own == 0), own == isLost && other == 0:
			rep.Gone++
			c.v.run.faults.add(Fault{"", fmt.Sprintf("stretch %d", s.Sequence), "lost"})
		case own == isLost && other == isHidden, own == isHidden && (other == 0 || other >= isHidden):
			rep.Hidden++
		case own == isLost:
			rep.Replaced++
			unneeded(names, &s.Pack)
		case own == isThin:
			rep.Thin++
		}
	}
	switch {
	case together == isLost && apart < isLost:
		rep.Replaced++
		unneeded(names, &g.Pack)
	case together == isThin:
		rep.Thin++
	}
	c.v.run.faults.drop(names)
}

func unneeded(names map[string]bool, ref *snapshot.PackRef) {
	names[ref.ID.String()] = true
	for _, n := range ref.Shares {
		names[n.String()] = true
	}
}

// giveRecord stores a record with embassies that lack it.
func (v *verifier) giveRecord(ctx context.Context, slot ledger.Slot, b []byte, sites []*site) {
	var all sync.WaitGroup
	for _, s := range sites {
		all.Go(func() {
			if err := s.Records.PutRecord(ctx, slot, b); err != nil && ctx.Err() == nil {
				s.fail(fmt.Errorf("storing %s: %w", recordName(slot), err))
			}
		})
	}
	all.Wait()
}
