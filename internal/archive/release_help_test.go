package archive_test

import (
	"context"

	"chancery.dev/chancery/internal/sim"
)

func onPut(do func()) func(context.Context, *sim.Call) error {
	return func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Put {
			do()
		}
		return nil
	}
}
