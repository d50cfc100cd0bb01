package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// tail is what decides where an index ends: the stretches at its end of which no record says whether they were ever durable.
// One that k embassies hold was. That one was not, n-k+1 must say, each that it never had its share: of a stretch that was told
// to be durable k had theirs, and that one of these is gone or lost it is no reason to end before it.
type tail struct {
	floor    uint64 // what comes before is settled
	refs     []*snapshot.PackRef
	replaces []uint64
	held     []held
	lost     error // what embassies no longer hold that their ledgers say they stored
}

func (t *tail) add(ref *snapshot.PackRef, replaces uint64) {
	t.refs, t.replaces = append(t.refs, ref), append(t.replaces, replaces)
}

// reach is the newest stretch of which this holds, with all before it that count.
func (t *tail) reach(whole func(*held) bool) uint64 {
	return reach(t.floor+1, t.replaces, t.floor, func(i int) bool { return whole(&t.held[i]) })
}

// undecided tells why stretches that are not settled may have been durable; nil where none may.
func (t *tail) undecided(x *Index, liars int) error {
	most := t.reach(func(h *held) bool { return h.most()+liars >= x.k })
	if most <= x.kept {
		return nil
	}
	err := fmt.Errorf("%w: stretch %d may have been durable: %d of %d hold a share of it, %d are needed, and not enough of the others say that they never had one",
		register.ErrTooFew, most, t.held[most-t.floor-1].good, x.n, x.k)
	for _, d := range x.silent {
		err = fmt.Errorf("%w; %s: %s", err, d.Embassy, d.Why)
	}
	if t.lost != nil {
		err = fmt.Errorf("%w; %w", err, t.lost)
	}
	return err
}

// lacking are the shares that an embassy says it does not hold, and the stretches that they are of.
func (t *tail) lacking(site int) (of []int, names []shard.Name) {
	for i := range t.held {
		if t.held[i].lacks[site] {
			of, names = append(of, i), append(names, t.refs[i].Shares[site])
		}
	}
	return of, names
}

// deny takes back that an embassy never had shares. s is that embassy, and stored says of which its ledger knows better.
func (t *tail) deny(v *view, s *register.Site, of []int, stored []bool) {
	for n, was := range stored {
		if i := of[n]; was {
			t.held[i].lacks[s.Share] = false
			name := t.refs[i].Shares[s.Share]
			v.faults.Add(register.Fault{Embassy: s.Name, Object: name.String(), What: "in its ledger, and missing"})
			t.lost = errors.Join(t.lost, fmt.Errorf("%s stored its share of stretch %d, and holds it no more", s.Name, t.floor+1+uint64(i)))
		}
	}
}

// discount has nothing that an embassy says it lacks count.
func (t *tail) discount(site int) {
	for i := range t.held {
		t.held[i].lacks[site] = false
	}
}

// Unreadable asks the embassies which stretches of an index fewer than k of them hold a share of, in its own pack and in a
// gathering's, and tells why by the place in the list: ErrTooFew where somebody who does not answer may hold it, else
// ErrDamaged. What is not Settled is not asked about. That an embassy says it holds a share does not show that it is whole.
func (r *Reader) Unreadable(ctx context.Context, x *Index) (map[int]error, error) {
	v := r.view()
	together := make([]*snapshot.PackRef, len(x.gathered))
	for i, g := range x.gathered {
		together[i] = &g.Pack
	}
	held, err := v.holders(ctx, together)
	if err != nil {
		return nil, err
	}
	out := map[int]error{}
	var places []int
	var alone []*snapshot.PackRef
	for i := range x.places {
		p := &x.places[i]
		if p.seq > x.kept || p.gathered > 0 && held[p.gathered-1].good >= x.k {
			continue
		}
		ref, err := r.ownPack(ctx, x, p)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			out[i] = fmt.Errorf("stretch %d: %w", p.seq, err)
			continue
		}
		places, alone = append(places, i), append(alone, ref)
	}
	if held, err = v.holders(ctx, alone); err != nil {
		return nil, err
	}
	for n, i := range places {
		if h := &held[n]; h.good < x.k {
			why := register.ErrDamaged
			if h.most() >= x.k {
				why = register.ErrTooFew
			}
			out[i] = fmt.Errorf("stretch %d: %w: %d of the %d shares that it takes are there", x.places[i].seq, why, h.good, x.k)
			if down := downError(v.sites); down != nil {
				out[i] = fmt.Errorf("%w; %w", out[i], down)
			}
		}
	}
	return out, nil
}

// onItsWay is how long after each other embassies are asked again for what may be on its way to them: for shares while others do
// not answer, and for records where later ones are shown. A stream that is written all the time would never be without a doubt.
var onItsWay = [...]time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 450 * time.Millisecond, 0}

// again does something until that has settled what may be on its way, a few times at the most.
func again(ctx context.Context, try func() (settled bool, err error)) error {
	for _, pause := range onItsWay {
		if settled, err := try(); settled || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// settled asks the embassies about the few stretches at the end of which no record says that they are durable.
func (b *indexing) settled(ctx context.Context) (err error) {
	x := b.x
	i := len(x.places)
	for i > 0 && x.places[i-1].seq > x.kept {
		i--
	}
	open := x.places[i:]
	if len(open) == 0 {
		return nil
	}
	t := &tail{floor: x.kept}
	if first := open[0].seq; first > x.kept+1 { // what comes before what was asked for decides too
		_, _, err = b.view.walk(ctx, x.kept, first-1, nil, nil, func(s *snapshot.Stretch, _ []byte) error {
			t.add(&s.Pack, s.Replaces)
			return nil
		})
		if err = b.ends(ctx, err); err != nil || uint64(len(t.refs)) != first-1-x.kept {
			return err // a fork or a hole is said by Complete
		}
	}
	for j := range open {
		t.add(open[j].ref, open[j].replaces)
	}
	return again(ctx, func() (bool, error) {
		if t.held, err = b.view.holders(ctx, t.refs); err != nil {
			return false, err
		}
		x.tail, x.kept = t, t.reach(func(h *held) bool { return h.good >= x.k })
		return t.reach(func(h *held) bool { return h.most() >= x.k }) == x.kept, nil
	})
}
