package archive

import (
	"context"
	"sync/atomic"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// MendStream gives embassies that were away what they lack of a register's stream (stream.Mend), with no key that opens, and
// signs for it. What an order removes, or will, nobody is given again. It returns how many objects were made, also with an error.
func MendStream(ctx context.Context, reg *register.Register, agent *register.Agent, what stream.Lack) (made int, err error) {
	orders, err := gatherRemovals(ctx, reg, what.Sites)
	if err != nil {
		return 0, err
	}
	for i := range orders.orders {
		if o := &orders.orders[i]; !o.gone { // of what is gone too little is left to make anything of
			if err := o.load(ctx, what.Sites); err != nil {
				return 0, err
			}
		}
	}
	in := &register.Inspector{
		Register: reg, Agent: agent, Sites: what.Sites, Faults: &register.Faults{}, Moved: &atomic.Int64{},
		Found: func(*snapshot.PackRef, register.Verdict) {},
	}
	_, err = stream.Mend(ctx, in, what, orders.parting)
	in.Deliver(ctx)
	return in.Tally().Repaired, err
}
