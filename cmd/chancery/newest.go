package main

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/archive"
)

// newest reports whether a snapshot is asked for as the newest.
func newest(name string) bool { return name == "" || name == "latest" }

// checkNewest refuses a register of which embassies withhold a newer snapshot than they show, unless that is accepted: then
// it returns what is accepted, or nothing where there is nothing to accept. another is how to name another snapshot.
func checkNewest(ctx context.Context, r *archive.Reader, register, another string, accept bool) (accepted string, err error) {
	err = r.CheckNewest(ctx)
	if err == nil || ctx.Err() != nil {
		return "", err
	}
	if accept {
		return register + ": " + err.Error(), nil
	}
	return "", &failure{
		err: fmt.Errorf("%w: %w", errStale, err), code: exitForked,
		hint: "bring more of its embassies back, or name a snapshot: " + another + "; to take what is shown: --accept-stale",
	}
}
