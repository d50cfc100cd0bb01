package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

func proposeRelease(u *ui) *cobra.Command {
	var snapshots []uint
	c := &cobra.Command{Use: "release REGISTER", Short: "Let go of snapshots that no rule keeps", Args: cobra.ExactArgs(1)}
	d := proposing(u, c, charter.ActRelease, "release land")
	c.Flags().UintSliceVar(&snapshots, "snapshot", nil, "number of a snapshot to let go (default: those that the register's rules do)")
	c.RunE = func(c *cobra.Command, args []string) error {
		return d.removal(c.Context(), args[0], charter.ActRelease, func(conn *connection) ([]uint64, []bound, error) {
			var rel *archive.Release
			var err error
			if len(snapshots) > 0 {
				rel, err = conn.leaving(c.Context(), args[0], snapshots)
			} else {
				var a *retentionJSON
				if a, err = conn.retention(c.Context(), args[0], archive.ProposeRelease); err == nil {
					rel = a.Release
				}
			}
			if err != nil {
				return nil, nil, err
			}
			if rel == nil || rel.Packs == 0 && len(rel.Snapshots) == 0 {
				return nil, nil, &failure{err: errors.New("there is nothing to release"), code: exitNotFound, hint: "chancery retention show " + args[0] + " --home HOME"}
			}
			return rel.Snapshots, boundOf(rel), nil
		})
	}
	return c
}

func proposeErase(u *ui) *cobra.Command {
	var snapshots []uint
	c := &cobra.Command{Use: "erase REGISTER", Short: "Remove a register or snapshots of it for good", Args: cobra.ExactArgs(1)}
	d := proposing(u, c, charter.ActErase, "erase land --snapshot 3")
	c.Flags().UintSliceVar(&snapshots, "snapshot", nil, "number of a snapshot (default: the whole register)")
	c.RunE = func(c *cobra.Command, args []string) error {
		return d.removal(c.Context(), args[0], charter.ActErase, func(conn *connection) ([]uint64, []bound, error) {
			if len(snapshots) == 0 {
				lists, err := conn.everything(c.Context(), args[0])
				return nil, lists, err
			}
			rel, err := conn.leaving(c.Context(), args[0], snapshots)
			if err != nil {
				return nil, nil, err
			}
			return rel.Snapshots, boundOf(rel), nil
		})
	}
	return c
}

// removal writes an order with the lists that find computes, for all embassies that hold the register.
func (d *draft) removal(ctx context.Context, name string, kind charter.ActName, find func(*connection) ([]uint64, []bound, error)) error {
	if len(d.embassies) > 0 {
		return &failure{err: errors.New("what one embassy alone removes, the others still hold"), code: exitUsage, hint: "leave out --embassies"}
	}
	conn, err := connect(*d.dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	r, err := conn.home.Register(name)
	if err != nil {
		return err
	}
	snapshots, lists, err := find(conn)
	if err != nil {
		return err
	}
	content := order.Content{Register: r.Record.ID, Label: name, Snapshots: snapshots}
	beside := map[string][]byte{}
	slices.SortFunc(lists, func(a, b bound) int { return strings.Compare(a.embassy, b.embassy) })
	for _, l := range lists {
		data, err := l.list.Bytes()
		if err != nil {
			return fmt.Errorf("%s: %w", l.embassy, err)
		}
		content.Lists = append(content.Lists, order.List{Embassy: l.embassy, Hash: sha256.Sum256(data), Count: uint64(len(l.list)), Bytes: l.bytes})
		beside[listFile("", l.embassy)] = data
	}
	if err := d.write(conn.home, kind, content, d.of(conn.home.Charter, r.Record), beside); err != nil {
		return err
	}
	if slices.ContainsFunc(lists, func(l bound) bool { return l.more }) {
		again := "release" // of snapshots this order lets go; what only they needed goes by any release then
		if kind == charter.ActErase && len(snapshots) == 0 {
			again = "erase"
		}
		d.u.note("That is not all of it: one order lists %d objects at most. When it is done at every embassy, propose the rest.\nhint: chancery order propose %s %s --proposer %s --reason … --home HOME",
			archive.MaxListed, again, name, d.proposer)
	}
	return nil
}

// leaving computes what removing these snapshots lets go of.
func (c *connection) leaving(ctx context.Context, name string, snapshots []uint) (*archive.Release, error) {
	_, reg, err := c.register(name)
	if err != nil {
		return nil, err
	}
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	numbers := make([]uint64, len(snapshots))
	for i, n := range snapshots {
		numbers[i] = uint64(n)
	}
	slices.Sort(numbers)
	return archive.ProposeRelease(ctx, reg, c.agent(), slices.Compact(numbers))
}

// checkObjects finds out from the embassies alone whether the lists of an order take what a snapshot needs that stays, or
// what is none of the register's: whoever signs need not believe who proposed it. With a reader's identity the snapshots
// that stay are read, too.
func checkObjects(ctx context.Context, dir, identity, path string, o *order.Order) error {
	if len(o.Content.Lists) == 0 {
		return &failure{err: errors.New("this order has no lists"), code: exitUsage, hint: "chancery order check " + path}
	}
	conn, err := connect(dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	r, reg, key, err := conn.registerFor(o.Content.Label, identity)
	if err != nil {
		return err
	}
	if r.Record.ID != o.Content.Register {
		return fmt.Errorf("order: %w: the register that it calls %s is another here: %s", order.ErrContent, o.Content.Label, r.Record.ID)
	}
	lists, err := readLists(reg, func(embassy string) string { return listFile(path, embassy) })
	if err != nil {
		return err
	}
	if o.Kind == charter.ActErase && len(o.Content.Snapshots) == 0 {
		return conn.checkErase(ctx, r, reg, lists)
	}
	return checkRelease(ctx, reg, conn.agent(), key, o.Content.Snapshots, lists)
}
