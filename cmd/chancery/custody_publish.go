package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

// publish brings the next generation into force. The order is what keeps a register from being lost when home is, at
// any moment: first so many embassies hold the new records that those which may vanish cannot take all of one, then
// home adopts the charter, then embassies are told. What old kits open at an embassy they open until it is told, and
// what new kits open they open from then on.
func (f *refreshFlags) publish(c *cobra.Command, r *home.Refresh, a *refreshJSON) error {
	a.Stage = stagePublishing
	if !f.conn.home.Adopted(r) {
		// A hold that came after the custodians met stops it too.
		if err := f.conn.unheld(c.Context(), f.conn.leavingBy(r)); err != nil {
			return err
		}
		if err := f.conn.spread(c.Context(), r); err != nil {
			return err
		}
	}
	if err := f.conn.home.AdoptRefresh(r); err != nil {
		return err
	}
	for _, e := range f.conn.home.Charter.Embassies {
		err := f.conn.putRecords(c.Context(), e, r.Records, nil)
		if err == nil {
			err = f.conn.tellCharter(c.Context(), e)
		}
		if c.Context().Err() != nil {
			return context.Cause(c.Context())
		}
		if err != nil {
			a.Down = append(a.Down, downJSON{e.Name, err.Error()})
		}
	}
	if len(a.Down) > 0 {
		return &failure{err: errPartial, code: exitPartial}
	}
	a.Stage = stagePublished
	return r.MarkPublished()
}

// leavingBy are the registers that a refresh leaves out. One that home does not know is asked for everywhere.
func (c *connection) leavingBy(r *home.Refresh) map[charter.RegisterID]leaving {
	out := map[charter.RegisterID]leaving{}
	for _, x := range r.Erased {
		l := leaving{name: x.Name}
		for _, e := range c.home.Charter.Embassies {
			l.members = append(l.members, e.ID)
		}
		if reg, err := c.home.Register(x.Name); err == nil && reg.Record.ID == x.ID {
			l.members = reg.Record.Members
		}
		out[x.ID] = l
	}
	return out
}

// spread puts every new record at its register's embassies: at so many that those which may vanish are not all.
func (c *connection) spread(ctx context.Context, r *home.Refresh) error {
	held := map[charter.RegisterID]int{}
	var why error
	for _, e := range c.home.Charter.Embassies {
		err := c.putRecords(ctx, e, r.Records, held)
		if errors.Is(err, embassy.ErrConflict) {
			return &failure{
				err: fmt.Errorf("%s: somebody with the agent's key wrote a record there after the custodians met: %w", e.Name, err), code: exitForked,
				hint: "find out who; then the custodians must meet again: chancery custody refresh --home HOME --kit KIT --identity KEY",
			}
		}
		if errors.Is(err, embassy.ErrRefused) {
			return &failure{
				err: fmt.Errorf("%s does not take the new records: %w", e.Name, err), code: exitRefused,
				hint: "embassies take other keys by an order that names these records: chancery order propose rotate --home HOME",
			}
		}
		if err != nil {
			why = errors.Join(why, fmt.Errorf("%s: %w", e.Name, err))
		}
	}
	for _, rec := range r.Records {
		if need := len(rec.Members) - int(rec.K) + 1; held[rec.ID] < need {
			return fmt.Errorf("register %s: %w: %d hold its new record and %d must, and nothing was adopted: %w", rec.ID, register.ErrTooFew, held[rec.ID], need, why)
		}
	}
	return nil
}

// putRecords stores those records of which an embassy is a member, takes the receipts, and counts them.
func (c *connection) putRecords(ctx context.Context, e charter.Embassy, records []*charter.Register, held map[charter.RegisterID]int) error {
	for _, rec := range records {
		if !slices.Contains(rec.Members, e.ID) {
			continue
		}
		if err := c.putRecord(ctx, e, rec); err != nil {
			return err
		}
		if held != nil {
			held[rec.ID]++
		}
	}
	return nil
}

func (c *connection) putRecord(ctx context.Context, e charter.Embassy, rec *charter.Register) error {
	raw, err := rec.Marshal()
	if err != nil {
		return err
	}
	slot := ledger.Slot{Kind: ledger.Register, Register: rec.ID, Sequence: rec.Sequence}
	if err := c.client(e).PutRecord(ctx, slot, raw); err != nil {
		return err
	}
	_, err = c.client(e).Receipts(ctx, nil, []ledger.Slot{slot})
	return err
}

// beforeGeneration gives an embassy the records of all registers before it is told a charter with another generation
// of the opening key: from then on it lets those custodians in who open these records and no older ones.
func (c *connection) beforeGeneration(ctx context.Context, e charter.Embassy, n uint64) error {
	var generation [2]uint32
	for i := range generation {
		doc, _, err := c.home.CharterAt(n - 1 + uint64(i))
		if err != nil {
			return err
		}
		ch, err := charter.Parse(doc)
		if err != nil {
			return err
		}
		generation[i] = ch.Custody.Generation
	}
	if generation[0] == generation[1] {
		return nil
	}
	names, err := c.home.Registers()
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := c.home.Register(name)
		if err != nil {
			return err
		}
		if err := c.putRecords(ctx, e, []*charter.Register{r.Record}, nil); err != nil {
			return err
		}
	}
	return nil
}
