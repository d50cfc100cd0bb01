package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/snapshot"
)

// newest reports whether a snapshot is asked for as the newest, of all or of those until a moment.
func newest(name string) bool { return name == "" || name == "latest" }

// checkNewest refuses a register of which embassies withhold a newer snapshot than they show, unless that is accepted: then
// it returns what is accepted, or nothing where there is nothing to accept. Of a moment before the last that they show nothing can
// be withheld. another is how to name another snapshot.
func checkNewest(ctx context.Context, r *archive.Reader, moment time.Time, register, another string, accept bool) (accepted string, err error) {
	if end, err := r.Reaches(moment); err != nil || !end {
		return "", err
	}
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

// choose finds the snapshot of a register that is to come back; nil where the answer says that there is none, or none that
// old.
func (f *recoverFlags) choose(ctx context.Context, r *archive.Reader, of *charter.RegisterSecrets, wanted string, a *recoverJSON) (*snapshot.Head, error) {
	another, moment := "--snapshot "+of.Name+"@N", time.Time{}
	if of.Kind != charter.KindPostgres && f.target.time != "" {
		target, err := f.target.target()
		if err != nil {
			return nil, err
		}
		another, moment = "--register "+of.Name+" "+another+" without --time", target.Time
	}
	if newest(wanted) {
		accepted, err := checkNewest(ctx, r, moment, of.Name, another, f.acceptStale)
		if err != nil {
			return nil, err
		}
		if accepted != "" {
			a.Accepted = append(a.Accepted, accepted)
		}
	}
	head, skipped, err := r.Newest(wanted, moment)
	for _, why := range skipped {
		a.Problems = append(a.Problems, of.Name+": "+why)
	}
	switch {
	case errors.Is(err, archive.ErrNotYet):
		a.NotYet = append(a.NotYet, of.Name+": "+err.Error())
		return nil, nil
	case errors.Is(err, archive.ErrNoSnapshot) && wanted == "":
		a.Empty = append(a.Empty, of.Name)
		return nil, nil
	}
	return head, err
}

// suitsFiles refuses what cannot be meant for a register of files. Where a cluster has the same name it is meant for that:
// whoever held home last could add the other.
func (f *recoverFlags) suitsFiles(found []foundRegister) error {
	clusters := map[string]bool{}
	for _, r := range found {
		clusters[r.secrets.Name] = clusters[r.secrets.Name] || r.secrets.Kind == charter.KindPostgres
	}
	t := &f.target
	for name, cluster := range clusters {
		if cluster || len(f.registers) > 0 && !slices.Contains(f.registers, name) {
			continue
		}
		if t.lsn+t.xid+t.name != "" {
			return fmt.Errorf("only a PostgreSQL cluster has a log, and register %s is files", name)
		}
		if t.time != "" && f.snapshot(name) != "" {
			return errSnapshotOrTime
		}
	}
	return nil
}
