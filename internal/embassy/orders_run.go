package embassy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

const (
	orderRetry = time.Second     // after a failure that says nothing of the order
	orderLeast = time.Second     // a tree is cosigned again no sooner for those who wait
	maxBecause = 500             // bytes of a result's reason
	orderLook  = 5 * time.Second // of what waits for nothing but witnesses
)

// run does what is due until ctx ends.
func (b *orders) run(ctx context.Context) {
	for ctx.Err() == nil {
		_, grown := b.st.clock.now()
		err := b.step(ctx)
		wait := orderLook
		if err != nil {
			if ctx.Err() == nil {
				b.log.Error("an order waits for this to be mended", "err", err)
			}
			wait = orderRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-b.wake:
		case <-grown:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// open lists the orders of which nothing has come yet, in their sequence.
func (b *orders) open() (list []*ordered) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, x := range b.all {
		if x.result == nil {
			list = append(list, x)
		}
	}
	return list
}

// step looks at every open order once. One that fails does not keep the others.
func (b *orders) step(ctx context.Context) error {
	if b.broken != nil {
		return nil
	}
	var hurry time.Duration
	failed := b.lookSeen()
	for _, x := range b.open() {
		standing, err := b.advance(ctx, x)
		failed = errors.Join(failed, err)
		if standing.Status != order.Waiting {
			continue
		}
		left := orderLeast
		if now, _ := b.st.clock.now(); !standing.Until.IsZero() {
			left = max(orderLeast, standing.Until.Sub(now))
		}
		if hurry == 0 || left < hurry {
			hurry = left
		}
	}
	b.st.notary.hurries(hurry)
	return failed
}

// standing says where an order stands.
func (b *orders) standing(x *ordered) order.Standing {
	b.mu.RLock()
	facts := order.Facts{Logged: true, Vetoed: x.veto != nil && !x.acting, Result: x.result, Cooling: b.waits(x)}
	at, ok := b.st.clock.covered(x.leaf)
	if ok {
		facts.Witnessed = at
	}
	if ok && facts.Cooling > 0 {
		facts.Cooling += x.spread(at)
	}
	b.mu.RUnlock()
	now, _ := b.st.clock.now()
	return order.Judge(x.order, facts, now)
}

// waits is the longest of what the charter says under which an order was given,
// the charter in force, and, where something is removed, the agreement.
func (b *orders) waits(x *ordered) time.Duration {
	wait := x.cooling
	c := b.st.inForce().charter
	if act, ok := c.Act(x.order.Kind); ok {
		if x.order.Kind != charter.ActCharter {
			wait = max(wait, act.Cooling.Duration())
		}
	}
	if k, _ := order.KindOf(x.order.Kind); k.Destroys {
		wait = max(wait, b.st.terms().cooling)
	}
	return wait
}

// advance takes one order as far as it goes now.
func (b *orders) advance(ctx context.Context, x *ordered) (order.Standing, error) {
	if x.acting {
		return order.Standing{Status: order.Effective}, b.act(ctx, x)
	}
	standing := b.standing(x)
	switch standing.Status {
	case order.Vetoed:
		return standing, b.finish(ctx, x, order.OutcomeVetoed, x.veto.Name+": "+x.veto.Reason, removed{})
	case order.Expired:
		return standing, b.finish(ctx, x, order.OutcomeExpired, "witnesses saw it logged after it had expired", removed{})
	case order.Effective:
		if k, _ := order.KindOf(x.order.Kind); k.Destroys {
			if err := b.stillAllowed(x); errors.Is(err, errOrder) { // which needs no proof: nothing is removed
				return standing, b.refuseOr(ctx, x, err)
			}
			if ok, err := b.waited(x, standing.Until); !ok || err != nil {
				standing.Status = order.Waiting // until witnesses have been heard again
				return standing, err
			}
		}
		return standing, b.effect(ctx, x)
	}
	return standing, nil
}

// effect is where an order whose time has come is asked once more whether it
// counts, and then begins to act.
func (b *orders) effect(ctx context.Context, x *ordered) error {
	var names []shard.Name
	if k, _ := order.KindOf(x.order.Kind); k.Destroys {
		var err error
		if names, err = b.names(x); err != nil {
			return err
		}
	}
	seen := b.effects.Load()
	if err := b.fits(ctx, x, names); err != nil {
		return b.refuseOr(ctx, x, err)
	}
	b.deciding.Lock()
	if x.veto != nil || b.effects.Load() != seen { // something was decided while that was read
		b.deciding.Unlock()
		b.rouse()
		return nil
	}
	err := b.allowed(x)
	if err == nil {
		err = b.begin(x)
	}
	b.deciding.Unlock()
	if err != nil {
		return b.refuseOr(ctx, x, err)
	}
	return b.act(ctx, x)
}

// refuseOr ends an order that does not count when its time has come, and passes
// on what only went wrong.
func (b *orders) refuseOr(ctx context.Context, x *ordered, err error) error {
	if !errors.Is(err, errOrder) {
		return err
	}
	return b.finish(ctx, x, order.OutcomeRefused, err.Error(), removed{})
}

// stillAllowed is allowed for who decides nothing.
func (b *orders) stillAllowed(x *ordered) error {
	b.deciding.Lock()
	defer b.deciding.Unlock()
	return b.allowed(x)
}

// allowed checks what may have changed since the order was taken: the charter,
// who left it, who is suspended, what is held.
func (b *orders) allowed(x *ordered) error {
	c, e := b.st.inForce().charter, b.effects.Load()
	now, _ := b.st.clock.now()
	if x.order.Kind == charter.ActCharter && c.Hash() == x.order.Content.Hash {
		return nil // put in force already, by a crash ago
	}
	if _, err := order.Recheck(c, x.order, x.sigs, now, e.barred()); err != nil {
		return against("%w", err)
	}
	if own := b.name(c); own == "" || !x.order.For(own) {
		return against("the order is not for this embassy any more")
	}
	return b.held(x)
}

// held fails where a hold stands against an order, or one that it would lift does not.
func (b *orders) held(x *ordered) error {
	e, o := b.effects.Load(), x.order
	k, _ := order.KindOf(o.Kind)
	switch {
	case k.Destroys:
		for name := range e.holds[o.Content.Register] {
			return against("the register is held: %s", name)
		}
	case o.Kind == charter.ActLift && !e.holds[o.Content.Register][o.Content.Hold]:
		return against("there is no hold %s of this register", o.Content.Hold)
	}
	return nil
}

// begin makes it durable that an order acts. A crash before this leaves one that
// is asked again, after it one that is carried through.
func (b *orders) begin(x *ordered) error {
	now, _ := b.st.clock.now()
	begun := max(0, now.Unix())
	if now.IsZero() {
		begun = 0
	}
	k, _ := order.KindOf(x.order.Kind)
	if k.Destroys || x.order.Kind == charter.ActCharter {
		if err := durable.MkdirAll(b.folder(x.sequence), folderPerm); err != nil {
			return err
		}
		if err := durable.WriteFile(b.actingFile(x.sequence), []byte(strconv.FormatInt(begun, 10)), filePerm); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	x.acting, x.begun = true, begun
	return nil
}

// act does what an order says; called again after a crash or a failure it goes on.
func (b *orders) act(ctx context.Context, x *ordered) error {
	var did removed
	o, actor := x.order, publicOf(b.srv.key)
	k, _ := order.KindOf(o.Kind)
	switch {
	case k.Destroys:
		r := &removal{st: b.st, actor: actor, register: o.Content.Register, order: x.sequence}
		names, err := b.names(x)
		if err != nil {
			return err
		}
		if o.Kind == charter.ActErase && len(o.Content.Snapshots) == 0 {
			if err := r.registerRecords(ctx); err != nil {
				return err
			}
		}
		if did, err = r.objects(ctx, names); err != nil {
			return err
		}
	case o.Kind == charter.ActCharter:
		next, sigs, err := b.charterOf(x)
		if err != nil {
			return err
		}
		if err := b.st.adoptOrdered(next, sigs, actor); err != nil {
			return b.refuseOr(ctx, x, err)
		}
	}
	return b.finish(ctx, x, order.OutcomeDone, "", did)
}

// finish records what came of an order, which ends it. A crash before this leaves
// an order that does the same again and finds it done.
func (b *orders) finish(ctx context.Context, x *ordered, outcome order.Outcome, why string, did removed) error {
	b.deciding.Lock()
	defer b.deciding.Unlock()
	r := order.NewResult(x.order.Hash(), outcome)
	r.Objects, r.Freed, r.Why = did.objects, did.bytes, line(why)
	now, _ := b.st.clock.now()
	if !now.IsZero() {
		r.Ended = now.Unix()
	}
	r.Ended = max(r.Ended, x.begun, b.ended)
	if r.Ended == b.ended && x.sequence < b.last { // results have an order, by which effects are read again
		r.Ended++
	}
	r.Begun = x.begun
	if !x.acting {
		r.Begun = r.Ended
	}
	data, err := r.Bytes()
	if err != nil {
		return err
	}
	slot := ledger.Slot{Kind: ledger.ResultRecord, Sequence: x.sequence}
	leaf, _, err := b.srv.takeRecord(ctx, b.st, slot, data, publicOf(b.srv.key), false)
	if err != nil {
		return err
	}
	b.mu.Lock()
	x.result, x.ended, b.ended, b.last = r, leaf, r.Ended, x.sequence
	b.mu.Unlock()
	if outcome == order.OutcomeDone {
		b.effects.Store(b.effects.Load().with(x.order))
	}
	b.log.Info("an order is over", "order", x.sequence, "kind", string(x.order.Kind), "outcome", outcome.String(), "removed", did.objects)
	return nil
}

// line makes one line of text that a result may hold.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '"', r == '\\', r == '`':
			return '\''
		case !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, strings.TrimPrefix(s, errOrder.Error()+": "))
	for len(s) > maxBecause {
		s = s[:maxBecause]
	}
	return strings.TrimSpace(strings.ToValidUTF8(s, ""))
}

// names reads the list of an order that removes.
func (b *orders) names(x *ordered) ([]shard.Name, error) {
	data, err := b.attachment(x, 0)
	if err != nil {
		return nil, err
	}
	return listedNames(data)
}

// listedNames are those of an order's list.
func listedNames(data []byte) ([]shard.Name, error) {
	list, err := ledger.ParseObjectList(data)
	if err != nil {
		return nil, err
	}
	names := make([]shard.Name, len(list))
	for i := range list {
		names[i] = list[i]
	}
	return names, nil
}

// loadCharterNumber reads a charter that was once in force here.
func loadCharterNumber(dir string, number uint64) (*charter.Charter, error) {
	doc, err := readFile(filepath.Join(dir, charterFile(number)), maxCharter)
	if err != nil {
		return nil, err
	}
	c, err := charter.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("embassy: charter %d: %w", number, err)
	}
	return c, nil
}
