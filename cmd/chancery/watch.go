package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/witness"
)

// Home remembers how far it saw each embassy's ledger. A ledger that is shorter, or as long and different, was put
// back or forked: what the embassy says is not taken as if nothing had happened.

// errRolledBack is a ledger that home saw longer, or with another content.
var errRolledBack = errors.New("its ledger is not the one that home knows: put back, or started anew")

// watchTime is how long an embassy may take to show how far its ledger is, compareTime how long it may take after that
// to learn what others saw of it, and to prove that it continues it. One that answered is not given up early: what
// nobody tells in time counts as not seen.
const (
	watchTime   = 30 * time.Second
	compareTime = 2 * time.Minute
)

// watch compares the ledger of every embassy that answers with what home remembers, and remembers how far it is now.
func (c *connection) watch(ctx context.Context) error {
	errs := make([]error, len(c.home.Charter.Embassies))
	for _, e := range c.home.Charter.Embassies {
		c.client(e) // made before they are used from several sides
	}
	var all sync.WaitGroup
	for i, e := range c.home.Charter.Embassies {
		all.Go(func() { errs[i] = c.watchOne(ctx, e) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *connection) watchOne(ctx context.Context, e charter.Embassy) error {
	first, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	now, err := c.client(e).Checkpoint(first)
	if err != nil {
		return nil // whether it answers is for others to say
	}
	ctx, cancel = context.WithTimeout(ctx, compareTime)
	defer cancel()
	if err := c.unknown(ctx, e); err != nil {
		return err
	}
	return c.remember(ctx, e, now)
}

// unknown asks the witnesses about a ledger of which this home knows nothing yet, as a new agent's, and refuses one that
// is not what they saw. That nobody has vouched for it lately is no reason not to write to it.
func (c *connection) unknown(ctx context.Context, e charter.Embassy) error {
	raw, err := c.home.Ledger(e.Name)
	if raw != nil || err != nil {
		return err
	}
	policy, err := c.home.Charter.Policy()
	if err != nil {
		return err
	}
	f := (&vantage{charter: c.home.Charter, client: c.client, key: c.key}).one(ctx, e, policy)
	if f == nil || f.Outcome == witness.Fresh.String() || f.Outcome == witness.Uncosigned.String() || f.Outcome == witness.Stale.String() {
		return nil
	}
	return &failure{
		err: fmt.Errorf("%w: %s: %w: %s", register.ErrForked, e.Name, errStale, f.Why), code: exitForked,
		hint: "ask the embassy's people; if they know why (a disk was replaced): chancery embassy renewed --name " + e.Name,
	}
}

// remember holds a checkpoint against the one before, of which it must be the continuation, and keeps it.
func (c *connection) remember(ctx context.Context, e charter.Embassy, now ledger.Checkpoint) error {
	raw, err := c.home.Ledger(e.Name)
	if err != nil {
		return err
	}
	if raw != nil {
		v, err := ledger.NewVerifier(e.Origin, e.PublicKey())
		if err != nil {
			return err
		}
		before, err := ledger.ParseCheckpoint(raw, v)
		if err != nil {
			return fmt.Errorf("%s: checkpoint kept at home: %w", e.Name, err)
		}
		if now.Size < before.Size { // another command of this home may have kept a newer one since
			if now, err = c.client(e).Checkpoint(ctx); err != nil {
				return nil // it answered a moment ago; whether it does now is for others to say
			}
		}
		_, err = c.client(e).Consistency(ctx, before, now)
		if err != nil && !errors.Is(err, ledger.ErrForked) && !errors.Is(err, ledger.ErrShorter) {
			return nil // no proof could be had: what is kept stays, and is asked about again
		}
		if err != nil {
			return &failure{
				err:  fmt.Errorf("%w: %s: %w (it had %d entries and has %d)", register.ErrForked, e.Name, errRolledBack, before.Size, now.Size),
				code: exitForked, hint: "keep " + c.home.LedgerFile(e.Name) + " as evidence; if you know why (a disk was replaced): chancery embassy renewed --name " + e.Name,
			}
		}
	}
	return c.home.KeepLedger(e.Name, now.Raw)
}

func embassyRenewed(u *ui) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "renewed", Short: "Order an embassy to begin a new ledger", Args: cobra.NoArgs,
		Long: "After an embassy's disk was lost or put back its ledger cannot go on: home and every witness know a longer one. This\n" +
			"names the embassy's next ledger in a new charter, and keeps what home knew of the old one as evidence. The embassy\n" +
			"begins it at its next start, and enters what it still holds. Then chancery repair gives it back what it lost.",
		Example: "  chancery embassy renewed --name pt --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "the embassy's name")
	required(c, "name")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		e, err := accredited(conn.home.Charter, name)
		if err != nil {
			return err
		}
		next, err := conn.home.Next()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(next.Embassies, func(x charter.Embassy) bool { return x.ID == e.ID })
		next.Embassies[i].Origin = ledger.NextOrigin(e.Origin)
		if err := conn.home.Adopt(next); err != nil {
			return err
		}
		kept, err := conn.home.ForgetLedger(name)
		if err != nil {
			return err
		}
		// What audits covered was of the ledger before.
		if err := errors.Join(conn.home.KeepAudit(name, nil), conn.home.DropPendingAudit(name)); err != nil {
			return err
		}
		conn.tellAll(c.Context(), u)
		return u.answer(map[string]string{"name": name, "kept": kept, "origin": next.Embassies[i].Origin}, func(w io.Writer) {
			fmt.Fprintf(w, "%s begins a new ledger at its next start, under charter %d. What home knew of the old one is kept in %s.\n",
				name, conn.home.Charter.Number, kept)
		})
	}
	return c
}

// recordFault says that an embassy lacks a register's record, without which nobody recovers the register from there.
func (c *connection) recordFault(ctx context.Context, r *home.Register) []register.Fault {
	var faults []register.Fault
	for _, id := range r.Record.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		list, err := c.client(e).ListRecords(ctx, ledger.Register, r.Record.ID, r.Record.Sequence-1)
		if err == nil && len(list) == 0 {
			faults = append(faults, register.Fault{Embassy: e.Name, Object: fmt.Sprintf("record %d", r.Record.Sequence), What: "missing"})
		}
	}
	return faults
}
