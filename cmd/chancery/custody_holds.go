package main

import (
	"context"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

// leaving is a register that the next generation of the opening key is not to open.
type leaving struct {
	name    string
	members []charter.EmbassyID // by its record
}

// unheld refuses to leave registers out of the next generation while a legal hold of one stands at one of its embassies,
// or waits to: what no key opens any more is erased, whatever the embassies keep. All of its embassies must answer, for a
// hold may stand at one alone; and an embassy's word is not enough either way, so that each order is held against the
// charter under which it was given.
func (c *connection) unheld(ctx context.Context, registers map[charter.RegisterID]leaving) error {
	for _, e := range c.home.Charter.Embassies {
		here := map[charter.RegisterID]leaving{}
		for id, r := range registers {
			if slices.Contains(r.members, e.ID) {
				here[id] = r
			}
		}
		if len(here) == 0 {
			continue
		}
		holds, err := c.holdsAt(ctx, e, here)
		if err != nil {
			return &failure{
				err: fmt.Errorf("%s cannot be asked whether what is to be erased is held: %w", e.Name, err), code: unanswered(err),
				hint: "when it answers, run the same command again; an embassy that is gone for good leaves the charter first",
			}
		}
		for _, h := range holds {
			name := here[h.Content.Register].name
			return &failure{
				err: fmt.Errorf("register %s is under the legal hold %s at %s and is not erased: %s", name, h.Content.Hold, e.Name, h.Reason), code: exitRefused,
				hint: fmt.Sprintf("when it may end: chancery order propose lift %s --name %s --proposer NAME --reason WHY --home HOME", name, h.Content.Hold),
			}
		}
	}
	return nil
}

// unanswered is the exit code where an embassy could not be asked: that of the error, where it has one.
func unanswered(err error) int {
	if code, _ := classify(err); code != exitFailed {
		return code
	}
	return exitTooFew
}

// holdsAt are the orders by which registers are held at an embassy, or are to be, and of which none was lifted.
func (c *connection) holdsAt(ctx context.Context, e charter.Embassy, registers map[charter.RegisterID]leaving) (holds []*order.Order, err error) {
	x := remote{c.client(e), e.Name, c.home.Charter}
	all, err := x.standing(ctx, charter.ActHold, charter.ActLift, true)
	for _, o := range all {
		if _, ok := registers[o.Content.Register]; ok {
			holds = append(holds, o)
		}
	}
	return holds, err
}
