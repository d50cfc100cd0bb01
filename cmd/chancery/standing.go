package main

import (
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

// standing are the orders of a kind that are in effect at an embassy: done, or with waiting also under way, and not ended
// by a later one of another kind about the same. Each is held against the charter under which it was given.
func (r remote) standing(ctx context.Context, begins, ends charter.ActName, waiting bool) (list []*order.Order, err error) {
	all, err := r.Orders(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		kind, done := charter.ActName(s.Kind), s.Status == order.Done.String()
		if kind != begins && kind != ends || !done && (kind == ends || !waiting || !underWay(s.Status)) {
			continue
		}
		o, err := r.signedOrder(ctx, s.Hash)
		if err != nil {
			return nil, fmt.Errorf("order %d: %w", s.Sequence, err)
		}
		list = slices.DeleteFunc(list, func(x *order.Order) bool {
			a, b := &x.Content, &o.Content
			return a.Register == b.Register && a.Hold == b.Hold && a.Who == b.Who
		})
		if kind == begins {
			list = append(list, o)
		}
	}
	return list, nil
}

// suspended are the people whose signatures count for nothing at some embassy that answers.
func (c *connection) suspended(ctx context.Context) (names []string) {
	for _, e := range c.home.Charter.Embassies {
		list, err := remote{c.client(e), e.Name, c.home.Charter}.standing(ctx, charter.ActSuspend, charter.ActRestore, false)
		if err != nil {
			continue // who is down, or shows what does not follow, is told of elsewhere
		}
		for _, o := range list {
			if who := o.Content.Who; !who.Agent && !slices.Contains(names, who.Name) {
				names = append(names, who.Name)
			}
		}
	}
	return names
}
