package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

// Home remembers how far it saw each embassy's ledger. A ledger that is shorter, or as long and different, was put
// back or forked: what the embassy says is not taken as if nothing had happened.

// errRolledBack is a ledger that home saw longer, or with another content.
var errRolledBack = errors.New("its ledger is not the one that home knows: put back, or started anew")

// watch compares the ledger of every embassy that answers with what home remembers, and remembers how far it is now.
func (c *connection) watch(ctx context.Context) error {
	errs := make([]error, len(c.home.Charter.Embassies))
	var all sync.WaitGroup
	for i, e := range c.home.Charter.Embassies {
		client := c.client(e)
		all.Go(func() {
			now, err := client.Checkpoint(ctx)
			if err != nil {
				return // whether it answers is for others to say
			}
			errs[i] = c.remember(e, now)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// remember holds a checkpoint against the one before, and keeps it.
func (c *connection) remember(e charter.Embassy, now ledger.Checkpoint) error {
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
		if now.Size < before.Size || now.Size == before.Size && now.Root != before.Root {
			return &failure{
				err:  fmt.Errorf("%w: %s: %w (it had %d entries and has %d)", archive.ErrForked, e.Name, errRolledBack, before.Size, now.Size),
				code: exitForked, hint: "keep " + c.home.LedgerFile(e.Name) + " as evidence; if you know why (a disk was replaced): chancery embassy renewed --name " + e.Name,
			}
		}
	}
	return c.home.KeepLedger(e.Name, now.Raw)
}

func embassyRenewed(u *ui) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "renewed", Short: "Accept that an embassy's ledger started anew", Args: cobra.NoArgs,
		Long: "After an embassy's disk was replaced its ledger begins again, and home refuses it because it knows a longer one.\n" +
			"This forgets what home knew of that ledger, keeping the last checkpoint beside it as evidence. Then chancery\n" +
			"repair gives the embassy back what it lost.",
		Example: "  chancery embassy renewed --name pt --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&name, "name", "", "the embassy's name")
	_ = c.MarkFlagRequired("name")
	c.RunE = func(*cobra.Command, []string) error {
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		if _, ok := conn.home.Charter.EmbassyByName(name); !ok {
			return &failure{err: fmt.Errorf("no accredited embassy is named %q", name), code: exitNotFound, hint: "chancery embassy list --home HOME"}
		}
		kept, err := conn.home.ForgetLedger(name)
		if err != nil {
			return err
		}
		return u.answer(map[string]string{"name": name, "kept": kept}, func(w io.Writer) {
			fmt.Fprintf(w, "The next ledger that %s shows is taken as its own. What home knew is kept in %s.\n", name, kept)
		})
	}
	return c
}

// recordFault says that an embassy lacks a register's record, without which nobody recovers the register from there.
func (c *connection) recordFault(ctx context.Context, r *home.Register) []archive.Fault {
	var faults []archive.Fault
	for _, id := range r.Record.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		list, err := c.client(e).ListRecords(ctx, ledger.Register, r.Record.ID, r.Record.Sequence-1)
		if err == nil && len(list) == 0 {
			faults = append(faults, archive.Fault{Embassy: e.Name, Object: fmt.Sprintf("record %d", r.Record.Sequence), What: "missing"})
		}
	}
	return faults
}
