package stream

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Report is what an inspection of a register's stream found. A stretch stands in its own pack and often in a gathering's,
// and is whole when one of both is. After a repair, Thin and Gone count what is still so.
type Report struct {
	Stretches  int // that hold something
	Gatherings int // of them
	Void       int // stretches replaced by later ones: not looked at
	Unfinished int // stretches at the end, and never with k embassies: no loss
	Thin       int // packs that k embassies hold, and not all; not a stretch's own where all hold its gathering's
	Hidden     int // stretches of which fewer than k embassies show a share, and the others do not answer
	Replaced   int // packs that are lost, and that nothing needs
	Leaving    int // packs that an order removes or removed: not looked at
	Gone       int // stretches of which neither their own pack nor a gathering's is left
}

// inspection goes through a register's stream from its first record. Whether a stretch holds something is certain when a
// later record says what is kept, so only the last few wait; stretches are looked at together with the gathering that
// they stand in, for one of the two packs is enough.
type inspection struct {
	in     *register.Inspector
	ctx    context.Context
	view   *view
	work   func(context.Context, []snapshot.PackRef) error
	leaves func(*snapshot.PackRef) bool
	spares bool // nothing is done for the own packs of stretches that a gathering holds for k embassies
	unseen int  // gatherings whose pack fewer than k embassies show, and others do not answer
	rep    *Report
	of     map[pack.ID]register.Verdict // how packs stand that were looked at

	waiting []*snapshot.Stretch
	kept    uint64
	sure    uint64 // what the newest gathering says is kept, or this machine told
	last    uint64
	unit    []*snapshot.Stretch // that are looked at together
	list    []shown             // gatherings that are not read yet
	next    *snapshot.Gathering // the first that reaches what comes
	alone   map[uint64]bool     // its stretches that have a pack of their own only; nil where its table is none
}

// inspectBatch is how many packs are looked at together.
const inspectBatch = 512

// Inspect looks at every pack of a register's stream but those that leaves says an order removes, as deep as the
// inspector is told to, and holds the records against each other. An embassy that lacks records is at fault, once. With
// repair it makes good what embassies lack of packs, and gives them the records; what it has signed for stands under the
// numbers of stretches (Inspector.Head). The report is there also with an error:
// ErrForked, or ErrDamaged or ErrTooFew where the chain of records ends before what is shown.
func Inspect(ctx context.Context, in *register.Inspector, repair bool, leaves func(*snapshot.PackRef) bool) (*Report, error) {
	c := newInspection(ctx, in, repair, leaves)
	defer c.listen()()
	return c.rep, c.all()
}

// Mend gives embassies what they lack: records, and of each stretch a share, of the gathering that holds it where there is one.
// It is for embassies that were away for a while; what it does grows with that. A site of the inspector's that is up when it
// returns, without an error, lacks nothing that can be made. It fails as Inspect does, and with ErrTooFew where what is needed to
// make a share is not there just now.
func Mend(ctx context.Context, in *register.Inspector, what Lack, leaves func(*snapshot.PackRef) bool) (*Report, error) {
	c := newInspection(ctx, in, true, leaves)
	c.spares, c.sure = true, what.Through
	defer c.listen()()
	err := c.between(what)
	if n := c.rep.Hidden + c.unseen; err == nil && n > 0 {
		err = fmt.Errorf("%w for %d of the stretches and gatherings behind %d", register.ErrTooFew, n, what.After)
	}
	return c.rep, err
}

func newInspection(ctx context.Context, in *register.Inspector, repair bool, leaves func(*snapshot.PackRef) bool) *inspection {
	view := newView(in.Register, in.Agent.Trusted, in.Sites, in.Faults)
	c := &inspection{in: in, ctx: ctx, view: view, work: in.Check, leaves: leaves, rep: &Report{}, of: map[pack.ID]register.Verdict{}}
	if repair {
		c.work = in.Repair
	}
	said := map[*register.Site]bool{}
	view.lacks = func(slot ledger.Slot, b []byte, sites register.Sites) {
		for _, s := range sites {
			if !said[s] {
				said[s] = true
				in.Faults.Add(register.Fault{Embassy: s.Name, Object: register.RecordName(slot), What: register.Missing})
			}
		}
		if repair {
			giveRecord(ctx, slot, b, sites)
		}
	}
	return c
}

// listen takes what the inspector finds, until the function that it returns is called.
func (c *inspection) listen() (end func()) {
	found := c.in.Found
	c.in.Found = func(ref *snapshot.PackRef, v register.Verdict) { c.of[ref.ID] = v }
	return func() { c.in.Found = found }
}

func (c *inspection) all() (err error) {
	if c.list, err = c.view.list(c.ctx, ledger.GatheringRecord, 0, ^uint64(0)); err != nil {
		return err
	}
	newest, err := c.view.gatherings(c.ctx, ^uint64(0))
	if err != nil {
		return err
	}
	c.sure = readStreamState(filepath.Join(c.in.Register.Dir, dirName, "state")).kept // where this machine wrote it
	for _, g := range newest {
		c.sure = max(c.sure, g.Through)
	}
	return c.walk(Lack{Through: ^uint64(0)})
}

// between is all for a part of the stream of which everything is durable.
func (c *inspection) between(what Lack) (err error) {
	if c.list, err = c.view.list(c.ctx, ledger.GatheringRecord, 0, ^uint64(0)); err != nil {
		return err
	}
	first := sort.Search(len(c.list), func(i int) bool {
		_, g, err := c.gathering(&c.list[i])
		return err != nil || g.Through > what.After // what nobody gives is met again
	})
	c.list = c.list[first:]
	return c.walk(what)
}

func (c *inspection) walk(what Lack) error {
	_, _, err := c.view.walk(c.ctx, what.After, what.Through, nil, what.records, c.take)
	if err == nil {
		err = c.end()
	}
	if err == nil {
		err = c.view.fork()
	}
	if err == nil && c.view.hole != nil {
		err = c.view.hole
	}
	return err
}

// take is called for every record in order.
func (c *inspection) take(s *snapshot.Stretch, _ []byte) error {
	c.waiting, c.last = append(c.waiting, s), s.Sequence
	c.in.Head = ledger.StreamDelivery + s.Sequence
	if s.Kept <= c.kept {
		return nil
	}
	c.kept = s.Kept
	return c.certain(c.kept)
}

// certain looks at those of the stretches that wait, up to a number, that hold something; the others are void.
func (c *inspection) certain(through uint64) error {
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
			c.rep.Void++
			continue
		}
		if err := c.add(c.waiting[i]); err != nil {
			return err
		}
	}
	c.waiting = c.waiting[n:]
	return nil
}

// end finds out which of the last stretches are durable, or may be. What comes behind was never finished.
func (c *inspection) end() error {
	if err := c.certain(min(c.sure, c.last)); err != nil {
		return err
	}
	refs, replaces := make([]*snapshot.PackRef, len(c.waiting)), make([]uint64, len(c.waiting))
	for i, s := range c.waiting {
		refs[i], replaces[i] = &s.Pack, s.Replaces
	}
	if len(refs) > 0 {
		held, err := c.view.holders(c.ctx, refs)
		if err != nil {
			return err
		}
		first := c.waiting[0].Sequence
		if err := c.certain(reach(first, replaces, first-1, func(i int) bool { return held[i].most() >= c.in.Register.K })); err != nil {
			return err
		}
	}
	c.rep.Unfinished = len(c.waiting)
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
func (c *inspection) add(s *snapshot.Stretch) error {
	c.rep.Stretches++
	for c.next == nil && len(c.list) > 0 || c.next != nil && s.Sequence > c.next.Through {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.advance(); err != nil {
			return err
		}
	}
	full := len(c.unit) >= inspectBatch && (c.next == nil || s.Sequence <= c.next.First)
	if full || c.next != nil && s.Sequence == c.next.First {
		if err := c.flushPart(nil); err != nil {
			return err
		}
	}
	c.unit = append(c.unit, s)
	return nil
}

// advance reads the next gathering. One that nobody gives is passed over: its stretches have packs of their own.
func (c *inspection) advance() error {
	c.next = nil
	for len(c.list) > 0 && c.next == nil {
		x := &c.list[0]
		c.list = c.list[1:]
		b, g, err := c.gathering(x)
		if errors.Is(err, register.ErrTooFew) {
			continue
		}
		if err != nil {
			return err
		}
		c.view.tellLacking(x, b)
		c.next = g
		c.rep.Gatherings++
		c.alone = nil
		if table, err := openTable(c.in.Register, c.next); err == nil {
			c.alone = alones(c.next, table)
		}
	}
	return nil
}

// gathering reads the record of a gathering.
func (c *inspection) gathering(x *shown) (b []byte, g *snapshot.Gathering, err error) {
	b, err = c.view.read(c.ctx, x, nil, func(b []byte) error {
		g, err = c.view.gathering(b, x.slot.Sequence)
		return err
	})
	return b, g, err
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
func (c *inspection) flush() error { return c.flushPart(c.next) }

func (c *inspection) flushPart(g *snapshot.Gathering) error {
	var refs []snapshot.PackRef
	add := func(ref *snapshot.PackRef) {
		if c.leaves(ref) {
			c.rep.Leaving++
			return
		}
		refs = append(refs, *ref)
	}
	look := func() error {
		for at := 0; at < len(refs); at += inspectBatch {
			if err := c.work(c.ctx, refs[at:min(len(refs), at+inspectBatch)]); err != nil {
				return err
			}
		}
		refs = refs[:0]
		return nil
	}
	if g != nil {
		add(&g.Pack)
	}
	if c.spares { // how the gathering's stands decides what of the others is needed
		if err := look(); err != nil {
			return err
		}
	}
	for _, s := range c.unit {
		if c.spares && c.gathered(g, s) && (c.of[g.Pack.ID] == register.Whole || c.of[g.Pack.ID] == register.Thin) {
			continue
		}
		add(&s.Pack)
	}
	if err := look(); err != nil {
		return err
	}
	c.judge(g)
	c.unit = nil
	clear(c.of)
	return nil
}

// gathered tells whether a stretch stands in the pack of a gathering too; nil is none.
func (c *inspection) gathered(g *snapshot.Gathering, s *snapshot.Stretch) bool {
	return g != nil && s.Sequence >= g.First && c.alone != nil && !c.alone[s.Sequence]
}

// judge counts what the packs of a unit say of its stretches.
func (c *inspection) judge(g *snapshot.Gathering) {
	rep, of := c.rep, c.of
	together, apart := register.Verdict(0), register.Whole
	if g != nil {
		together = of[g.Pack.ID]
	}
	names, spared := map[string]bool{}, map[string]bool{} // of objects that nothing needs, and that a gathering's stand for
	for _, s := range c.unit {
		own, other := of[s.Pack.ID], together
		if !c.gathered(g, s) {
			other = 0
		} else if apart = max(apart, own); own == 0 { // an order took the own pack, because the gathering holds it
			apart = register.Lost
		}
		switch {
		case own == 0 && other < register.Hidden:
		case own == 0 && other == register.Hidden:
			rep.Hidden++
		case other == register.Lost && (own == register.Lost || own == 0), own == register.Lost && other == 0:
			rep.Gone++
			c.in.Faults.Add(register.Fault{Object: fmt.Sprintf("stretch %d", s.Sequence), What: "lost"})
		case own == register.Lost && other == register.Hidden, own == register.Hidden && (other == 0 || other >= register.Hidden):
			rep.Hidden++
		case own == register.Lost:
			rep.Replaced++
			unneeded(names, &s.Pack)
		case own == register.Thin && other == register.Whole:
			unneeded(spared, &s.Pack)
		case own == register.Thin:
			rep.Thin++
		}
	}
	switch {
	case together == register.Lost && apart < register.Lost:
		rep.Replaced++
		unneeded(names, &g.Pack)
	case together == register.Thin:
		rep.Thin++
	case together == register.Hidden:
		c.unseen++
	}
	c.in.Faults.Drop(names)
	c.in.Faults.DropMissing(spared)
}

func unneeded(names map[string]bool, ref *snapshot.PackRef) {
	names[ref.ID.String()] = true
	for _, n := range ref.Shares {
		names[n.String()] = true
	}
}

// giveRecord stores a record with embassies that lack it.
func giveRecord(ctx context.Context, slot ledger.Slot, b []byte, sites register.Sites) {
	var all sync.WaitGroup
	for _, s := range sites {
		all.Go(func() {
			if err := s.Records.PutRecord(ctx, slot, b); err != nil && ctx.Err() == nil {
				s.Fail(fmt.Errorf("storing %s: %w", register.RecordName(slot), err))
			}
		})
	}
	all.Wait()
}
