package cluster

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Clock asks the server behind a connection string what time it is, by a connection of its own: one for replication
// answers no query.
func Clock(ctx context.Context, conninfo string) (time.Time, error) {
	config, err := parse(conninfo)
	if err != nil {
		return time.Time{}, err
	}
	c, err := dial(ctx, config, false)
	if err != nil {
		return time.Time{}, fmt.Errorf("the server's clock: %w", err)
	}
	defer c.Close()
	const micros = "micros"
	r, err := c.queryOne(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS "+micros, micros)
	if err != nil {
		return time.Time{}, fmt.Errorf("the server's clock: %w", err)
	}
	n, err := strconv.ParseInt(r[micros], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: the server's clock: %q", ErrProtocol, r[micros])
	}
	return time.UnixMicro(n), nil
}
