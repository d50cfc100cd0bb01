package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// ErrUnfinished means that a stretch at the end of the stream is not with k embassies, and that no record says it ever
// was: whoever wrote it ended before it was durable. Nobody was told that it is.
var ErrUnfinished = errors.New("the stretch was never completed")

// Place is one stretch of an index.
type Place struct {
	Sequence uint64
	Position []byte
	Settled  bool // k embassies hold it, and all before: a later record says so, or they do
}

// Index lists the stretches of a register's stream that hold something, from a number on, as the embassies
// show them together. About a hundred bytes of memory a stretch.
type Index struct {
	places   []indexed
	last     uint64 // the newest record of the chain, live or not
	kept     uint64
	embassy  []string // that showed all their records
	silent   []register.Down
	n, k     int
	problem  error // why the chain ends before what is shown, or is not one
	tail     *tail // nil where a record says of each stretch that it was durable
	gathered []*snapshot.Gathering
}

// indexed is where one stretch stands.
type indexed struct {
	seq      uint64
	position []byte
	replaces uint64
	time     int64             // of its record, or of the gathering
	ref      *snapshot.PackRef // its own pack; nil where only a gathering is known yet
	gathered int32             // 1 + number of the gathering; 0 for none
	chunk    int32             // of the gathering's pack
}

// Len returns how many stretches are listed.
func (x *Index) Len() int { return len(x.places) }

// At returns a stretch by its place in the list, from 0.
func (x *Index) At(i int) Place {
	p := &x.places[i]
	return Place{p.seq, p.position, p.seq <= x.kept}
}

// Complete tells whether the end of the index is the end of the stream: the chain is unbroken, nothing is forked, and
// at least n-k+1 embassies showed all their records, so that of the k that hold any durable stretch one was asked; and of
// no stretch that is shown and not Settled it is left open whether it ever was, which as many must deny. Where their
// ledgers are at hand (Member.Ledger), those say so too: what an embassy entered and does not show, or does not hold any
// more, is found. For embassies that hide what no ledger says, see CompleteDespite.
func (x *Index) Complete() error { return x.CompleteDespite(0) }

// CompleteDespite is Complete though so many of the embassies that answered may hide what they hold.
func (x *Index) CompleteDespite(liars int) error {
	if x.problem != nil {
		return x.problem
	}
	if x.tail != nil {
		if err := x.tail.undecided(x, liars); err != nil {
			return err
		}
	}
	need := x.n - x.k + 1 + liars
	if len(x.embassy) >= need {
		return nil
	}
	err := fmt.Errorf("%w: %d of %d embassies showed what they hold of the stream, and only %d together can show that nothing follows stretch %d",
		register.ErrTooFew, len(x.embassy), x.n, need, x.last)
	for _, d := range x.silent {
		err = fmt.Errorf("%w; %s: %s", err, d.Embassy, d.Why)
	}
	return err
}

// Stretches lists the register's stretches from this number on. Chain and signatures are verified; where a gathering
// says what the stretches say, their own records are not read. Of a forked or broken stream it lists what was before,
// and Complete says what is wrong. k embassies must answer. The embassies' ledgers are read from shortly before the last
// stretch on.
func (r *Reader) Stretches(ctx context.Context, from uint64) (*Index, error) {
	v := r.view()
	trees := v.trees(ctx)
	x, err := v.index(ctx, max(from, 1))
	if err != nil {
		return nil, err
	}
	return x, v.hold(ctx, x, trees)
}

// Newest is the newest stretch of a register's stream that k embassies hold, with all before it.
type Newest struct {
	Sequence uint64 // 0: none
	Position []byte
	Time     time.Time // as the agent claimed
	Records  uint64    // the newest record, whether or not its stretch is durable
	Unproven error     // what Complete says
	Faults   []register.Fault
	Down     []register.Down
}

// FindNewest tells how far a register's stream reaches, with no key that opens. It asks for its end only.
func FindNewest(ctx context.Context, reg *register.Register, agent *register.Agent) (*Newest, error) {
	v := newView(reg, agent.Trusted, reg.Sites(), &register.Faults{})
	x, err := v.index(ctx, ^uint64(0))
	if err != nil {
		return nil, err
	}
	out := &Newest{Records: x.last, Unproven: x.Complete()}
	for i := len(x.places) - 1; i >= 0; i-- {
		if p := &x.places[i]; p.seq <= x.kept {
			out.Sequence, out.Position, out.Time = p.seq, p.position, time.Unix(0, p.time)
			break
		}
	}
	out.Faults, out.Down = v.faults.All(), v.sites.Down()
	return out, nil
}

// List lists the stretches of a register's stream from a number on, as [Reader.Stretches] does, with no key that opens. It
// does not look into the embassies' ledgers.
func List(ctx context.Context, reg *register.Register, agent *register.Agent, from uint64) (*Index, error) {
	return newView(reg, agent.Trusted, reg.Sites(), &register.Faults{}).index(ctx, max(from, 1))
}

// index lists the stretches from a number on; from beyond the end, those that no gathering has, and the last one that
// one has.
func (v *view) index(ctx context.Context, from uint64) (*Index, error) {
	b := &indexing{view: v, x: &Index{n: len(v.sites), k: v.reg.K}}
	list, err := v.gatherings(ctx, from)
	if err == nil || errors.Is(err, register.ErrForked) {
		err = b.all(ctx, list, from)
	}
	if err == nil {
		err = b.settled(ctx)
	}
	if err == nil {
		err = v.sites.Enough(v.reg.K)
	}
	if err != nil {
		return nil, err
	}
	if from == ^uint64(0) {
		from = 0
	}
	b.finish(from)
	return b.x, nil
}

// indexing is an index on its way.
type indexing struct {
	view *view
	x    *Index
	prev *[32]byte // hash of the record before
}

// all goes through gatherings and, where none is, through the stretches' own records.
func (b *indexing) all(ctx context.Context, list []*snapshot.Gathering, at uint64) error {
	switch {
	case len(list) > 0 && at > list[len(list)-1].Through:
		at = list[len(list)-1].Through // its hash binds what follows
	case at == ^uint64(0):
		at = 1
	}
	for _, g := range list {
		if at > g.Through {
			continue
		}
		if at < g.First {
			var err error
			if at, err = b.records(ctx, at, g.First-1); err != nil || at != g.First {
				return b.ends(ctx, err)
			}
		}
		if b.prev != nil && *b.prev != g.Before {
			_ = b.view.dispute(b.view.slot(ledger.GatheringRecord, g.Sequence), "an embassy", g.Bytes())
			return nil
		}
		if err := b.gathering(g, at); err != nil {
			return err
		}
		at, b.prev = g.Through+1, &g.ThroughHash
	}
	_, err := b.records(ctx, at, ^uint64(0))
	return b.ends(ctx, err)
}

// ends sorts why the records ended: a fork and a hole are said by Complete.
func (b *indexing) ends(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, register.ErrForked) {
		return nil
	}
	return err
}

// records takes the stretches of these numbers from their own records, and returns the number behind the last.
func (b *indexing) records(ctx context.Context, at, through uint64) (uint64, error) {
	last, prev, err := b.view.walk(ctx, at-1, through, b.prev, nil, func(s *snapshot.Stretch, _ []byte) error {
		position, err := openPosition(b.view.reg, s)
		if err != nil {
			return err
		}
		b.x.places = append(b.x.places, indexed{
			seq: s.Sequence, position: position, replaces: s.Replaces, time: s.Time, ref: &s.Pack,
		})
		b.x.last, b.x.kept = s.Sequence, max(b.x.kept, s.Kept)
		return nil
	})
	b.prev = prev
	if errors.Is(err, register.ErrDamaged) && b.view.hole == nil {
		b.view.hole, err = err, nil
	}
	return last + 1, err
}

// gathering takes the stretches of a gathering, from a number on.
func (b *indexing) gathering(g *snapshot.Gathering, from uint64) error {
	table, err := openTable(b.view.reg, g)
	if err != nil {
		return err
	}
	b.x.gathered = append(b.x.gathered, g)
	chunk := int32(0)
	for i := range table {
		t := &table[i]
		p := indexed{seq: g.First + uint64(i), position: t.Position, replaces: t.Replaces, time: g.Time}
		if t.Alone != nil {
			p.ref = t.Alone
		} else {
			p.gathered, p.chunk = int32(len(b.x.gathered)), chunk
			chunk++
		}
		if p.seq >= from {
			b.x.places = append(b.x.places, p)
		}
	}
	b.x.last, b.x.kept = g.Through, max(b.x.kept, g.Through)
	return nil
}

// finish leaves out what was replaced, and notes who was asked.
func (b *indexing) finish(from uint64) {
	x, v := b.x, b.view
	if n := len(x.places); n > 0 {
		replaces := make([]uint64, n)
		for i := range x.places {
			replaces[i] = x.places[i].replaces
		}
		live := snapshot.Live(x.places[0].seq, replaces)
		kept := x.places[:0]
		for i, p := range x.places {
			if live[i] && p.seq >= from {
				kept = append(kept, p)
			}
		}
		x.places = kept
	}
	for _, s := range v.sites {
		switch {
		case !s.Up():
			x.silent = append(x.silent, register.Down{Embassy: s.Name, Why: s.Reason().Error()})
		case v.liars[s]:
			x.silent = append(x.silent, register.Down{Embassy: s.Name, Why: "showed a record that is none"})
		default:
			x.embassy = append(x.embassy, s.Name)
		}
	}
	if x.problem = v.fork(); x.problem == nil {
		x.problem = v.hole
	}
}
