package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// MaxAttachment caps what travels beside an order, in bytes: half a million names.
const MaxAttachment = 16 << 20

// errOrder: an order or veto that does not count here. What it wraps says why.
var errOrder = errors.New("embassy: it does not count here")

func against(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errOrder, fmt.Errorf(format, args...))
}

// judging is the time by which an order that comes is dated: the witnessed one,
// or the own clock where that is later, as it is while witnesses are away. Set
// forward it makes the embassy refuse, which a host can have without a clock;
// how long an order waits, and who counts when it takes effect, it does not touch.
func (b *orders) judging() time.Time {
	now, _ := b.st.clock.now()
	if own := b.st.opts.now().UTC(); own.After(now) {
		return own
	}
	return now
}

// weigh holds an order that comes against the charter in force.
func (b *orders) weigh(rec *order.Record) (*ordered, error) {
	o, err := order.Parse(rec.Document)
	if err != nil {
		return nil, against("%w", err)
	}
	c, barred := b.st.inForce().charter, b.effects.Load().barred()
	a, err := order.Check(c, o, rec.Signatures, b.judging(), barred)
	if err == nil {
		// People whose time has come or gone count by the witnesses' clock too.
		if now, _ := b.st.clock.now(); !now.IsZero() {
			_, err = order.Recheck(c, o, rec.Signatures, now, barred)
		}
	}
	if err != nil {
		if len(a.Votes) > 0 {
			b.log.Warn("an order that people signed is refused", "signatures", len(a.Votes), "err", err)
		}
		return nil, against("%w", err)
	}
	if own := b.name(c); own == "" || !o.For(own) {
		return nil, against("the order is not for this embassy")
	}
	return &ordered{order: o, sigs: rec.Signatures, attached: rec.Attachments, rule: a.Rule}, nil
}

// known finds an order that was taken before. Whoever brings it again with the
// same signatures is told how it stands.
func (b *orders) known(rec *order.Record) *ordered {
	o, err := order.Parse(rec.Document)
	if err != nil {
		return nil
	}
	x := b.byHash(o.Hash())
	if x == nil || !slices.Equal(x.sigs, rec.Signatures) {
		return nil
	}
	return x
}

func (b *orders) byHash(hash [32]byte) *ordered {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, x := range b.all {
		if x.order.Hash() == hash {
			return x
		}
	}
	return nil
}

func (b *orders) bySequence(n uint64) *ordered {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n < 1 || n > uint64(len(b.all)) {
		return nil
	}
	return b.all[n-1]
}

// take checks an order, logs it, and leaves it to run. attachments reads what
// travels with it, and is called only when so many people signed that it counts.
func (b *orders) take(ctx context.Context, rec *order.Record, attachments func() ([][]byte, error)) (x *ordered, created bool, err error) {
	if b.broken != nil {
		return nil, false, failed("order", b.broken)
	}
	if x := b.known(rec); x != nil {
		return x, false, nil
	}
	if x, err = b.weigh(rec); err != nil {
		return nil, false, err
	}
	files, err := attachments()
	if err != nil {
		return nil, false, err
	}
	data, err := rec.Bytes()
	if err != nil {
		return nil, false, against("%w", err)
	}
	names, err := b.attached(x, files)
	if err != nil {
		return nil, false, err
	}
	// What may come between this and its record is looked at when its time has come.
	if err := b.fits(ctx, x, names); err != nil {
		return nil, false, err
	}
	b.deciding.Lock()
	defer b.deciding.Unlock()
	if again := b.byHash(x.order.Hash()); again != nil {
		return again, false, nil
	}
	// Once more, for what was decided while it was read: a charter, a suspension.
	if x, err = b.weigh(rec); err != nil {
		return nil, false, err
	}
	b.mu.RLock()
	hash, used := b.book[x.order.Nonce]
	x.sequence = uint64(len(b.all)) + 1
	b.mu.RUnlock()
	if used {
		return nil, false, against("%w: %s", order.ErrUsed, charter.EncodeDigest(hash))
	}
	if _, err := b.attached(x, files); err != nil { // of the charter and the name that count now
		return nil, false, err
	}
	if err := b.held(x); err != nil {
		return nil, false, err
	}
	if err := b.keepAttachments(x.sequence, files); err != nil {
		return nil, false, err
	}
	x.cooling = b.coolingOf(b.st.inForce().charter, x, x.rule)
	if k := b.st.notary.cosigned(); k.size > 0 {
		if err := b.keepSeen(x, seenBefore, k); err != nil {
			return nil, false, failed("order", err)
		}
	}
	slot := ledger.Slot{Kind: ledger.OrderRecord, Sequence: x.sequence}
	// A crash before this leaves nothing of the order, after it an order that waits.
	if x.leaf, _, err = b.srv.takeRecord(ctx, b.st, slot, data, publicOf(b.srv.key), false); err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	b.all, b.unseen = append(b.all, x), append(b.unseen, x)
	b.book[x.order.Nonce] = x.order.Hash()
	b.mu.Unlock()
	b.log.Info("an order is taken", "order", x.sequence, "kind", string(x.order.Kind))
	b.rouse()
	return x, true, nil
}

// attached checks that an order came with what its kind needs, and binds, and
// returns the objects that it lists.
func (b *orders) attached(x *ordered, files [][]byte) (names []shard.Name, err error) {
	o := x.order
	switch k, _ := order.KindOf(o.Kind); {
	case k.Destroys:
		list, ok := o.Content.ListFor(b.name(b.st.inForce().charter))
		if !ok || len(files) != 1 {
			return nil, against("want one list of objects for this embassy")
		}
		if err := list.Check(files[0]); err != nil {
			return nil, against("%w", err)
		}
		if names, err = listedNames(files[0]); err != nil {
			return nil, against("%w", err)
		}
		if uint64(len(names)) != list.Count {
			return nil, against("the list has %d objects, the order speaks of %d", len(names), list.Count)
		}
	case o.Kind == charter.ActCharter:
		if len(files) != 2 {
			return nil, against("want the charter and its signatures")
		}
		next, err := charter.Parse(files[0])
		if err != nil {
			return nil, against("%w", err)
		}
		if next.Hash() != o.Content.Hash || next.Number != o.Content.Number {
			return nil, against("%w", order.ErrAttachment)
		}
		if err := b.st.follows(next, files[1]); err != nil {
			return nil, against("%w", err)
		}
	case len(files) != 0:
		return nil, against("nothing travels with an order of kind %s", o.Kind)
	}
	return names, nil
}

// takeVeto stops an order that waits.
func (b *orders) takeVeto(ctx context.Context, x *ordered, rec *order.Record) error {
	if b.broken != nil {
		return failed("order", b.broken)
	}
	v, err := order.ParseVeto(rec.Document)
	if err != nil {
		return against("%w", err)
	}
	data, err := rec.Bytes()
	if err != nil {
		return against("%w", err)
	}
	b.deciding.Lock()
	defer b.deciding.Unlock()
	now, _ := b.st.clock.now()
	c := b.st.inForce().charter
	// Those who may stop it now: by the charter in force, or where that says nothing
	// of it any more, by the one under which it was given.
	rule := x.rule
	if a, err := order.Recheck(c, x.order, x.sigs, now, b.effects.Load().barred()); err == nil {
		rule = a.Rule
	}
	if _, err := order.CheckVeto(c, rule, x.order, v, rec.Signatures, now, b.effects.Load().barred()); err != nil {
		return against("%w", err)
	}
	b.mu.RLock()
	late, again := x.acting || x.result != nil, x.veto != nil
	b.mu.RUnlock()
	switch {
	case again:
		return nil
	case late:
		return against("too late: the order is taking effect or is over")
	}
	slot := ledger.Slot{Kind: ledger.VetoRecord, Sequence: x.sequence}
	if _, _, err := b.srv.takeRecord(ctx, b.st, slot, data, publicOf(b.srv.key), false); err != nil {
		return err
	}
	b.mu.Lock()
	x.veto = v
	b.mu.Unlock()
	b.log.Info("an order is stopped", "order", x.sequence)
	b.rouse()
	return nil
}
