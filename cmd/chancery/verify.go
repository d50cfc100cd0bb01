package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
)

// verifyJSON is what verify and repair say of one register.
type verifyJSON struct {
	Register string `json:"register"`
	*archive.VerifyReport
	Whole bool `json:"whole"`
}

func verifyCommand(u *ui) *cobra.Command {
	var opts archive.VerifyOptions
	var boot bootFlags
	var identity string
	c := &cobra.Command{
		Use: "verify [REGISTER...]", Args: cobra.ArbitraryArgs, Short: "Check that the embassies hold what they should",
		Long: "Asks every embassy for every object and head of the registers, and has it read them on its own disk. With --data\n" +
			"every object is fetched and held against its name. Neither needs a key that opens; with a reader's --identity\n" +
			"every pack is opened too, and every chunk held against its id. Exit 3 when something is missing that chancery repair\n" +
			"can make again, 6 when something is lost, 8 when too few embassies answer to tell.\n\n" +
			"With --boot it proves that a cluster comes back: restores it, starts a real server on it with no network, replays its\n" +
			"log to the end, has every table and index read (pg_amcheck) and asks what the register asserts. What came of it is\n" +
			"signed and kept by the embassies, who learn only that it was made. Exit 6 when the cluster does not come back as it was.",
		Example: "  chancery verify --home HOME --data\n" +
			"  chancery verify population --boot --identity READER.key --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().BoolVar(&opts.Data, "data", false, "fetch everything and check it here")
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file: also open everything")
	boot.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := boot.check(c, args, opts.Data, identity); err != nil {
			return usageError(c, err)
		}
		if boot.boot {
			return boot.run(c, u, *dir, args[0], identity)
		}
		return overRegisters(c, u, *dir, args, "verify", func(ctx context.Context, conn *connection, name string, p *archive.Progress) (*archive.VerifyReport, error) {
			r, reg, err := conn.register(name)
			if err != nil {
				return nil, err
			}
			o := opts
			o.Read = true
			if identity != "" {
				if o.Key, err = grantedKey(r, identity); err != nil {
					return nil, err
				}
			}
			rep, err := archive.Verify(ctx, reg, conn.agent(), o, p)
			if rep != nil {
				rep.Faults = append(rep.Faults, conn.recordFault(ctx, r)...)
			}
			return rep, err
		})
	}
	return c
}

// grantedKey opens a register's key with a reader's identity file.
func grantedKey(r *home.Register, identity string) (*seal.PrivateKey, error) {
	file, err := os.ReadFile(identity)
	if err != nil {
		return nil, err
	}
	defer clear(file)
	secrets, err := home.OpenGrant(r.Record, file)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", r.Definition.Name, identity, err)
	}
	defer clear(secrets.Seed[:])
	return seal.NewPrivateKey(secrets.Seed)
}

// registerFor opens a register for the archive, with its key where a reader's identity is named.
func (c *connection) registerFor(name, identity string) (r *home.Register, reg *register.Register, key *seal.PrivateKey, err error) {
	if r, reg, err = c.register(name); err == nil && identity != "" {
		key, err = grantedKey(r, identity)
	}
	return r, reg, key, err
}

func repairCommand(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "repair [REGISTER...]", Args: cobra.ArbitraryArgs, Short: "Make what an embassy lacks out of what others hold",
		Long: "Finds objects that an embassy lacks or holds damaged, makes them again out of others, with no key that opens,\n" +
			"and takes new receipts. Embassies are also given the charters, heads and proofs they lack, and what audits found lost they\n" +
			"are asked to show again. What is listed was wrong before;\n" +
			"the exit code says how things stand now: 0 whole, 3 not yet, 6 lost.",
		Example: "  chancery repair --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return overRegisters(c, u, *dir, args, "repair", func(ctx context.Context, conn *connection, name string, p *archive.Progress) (*archive.VerifyReport, error) {
			r, reg, err := conn.register(name)
			if err != nil {
				return nil, err
			}
			for _, id := range r.Record.Members {
				if e, ok := conn.home.Charter.EmbassyByID(id); ok {
					_ = conn.tellCharter(ctx, e) // one that does not answer is reported by the repair itself
					_ = conn.announceTo(ctx, e, r)
				}
			}
			if proofs, err := r.Proofs(); err == nil && len(proofs) > 0 {
				_, _, _ = archive.PublishProofs(ctx, reg, proofs) // as above
			}
			return archive.Repair(ctx, reg, conn.agent(), p)
		})
	}
	return c
}

type verifyWork func(ctx context.Context, conn *connection, name string, p *archive.Progress) (*archive.VerifyReport, error)

// overRegisters does the same to each register and answers for all. The worst finding is the exit code.
func overRegisters(c *cobra.Command, u *ui, dir string, args []string, what string, work verifyWork) error {
	conn, err := connect(dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	if err := conn.watch(c.Context()); err != nil {
		return err
	}
	names, err := conn.registers(args)
	if err != nil {
		return err
	}
	list := []verifyJSON{}
	var worst error
	for _, name := range names {
		var p archive.Progress
		done := u.progress(what+" of "+name, &p, 0)
		rep, err := work(c.Context(), conn, name, &p)
		done()
		if rep == nil {
			return fmt.Errorf("%s of %s: %w", what, name, err)
		}
		left := len(rep.Faults) > 0 && what == "verify" || rep.Thin > 0 || len(rep.Down) > 0
		a := verifyJSON{Register: name, VerifyReport: rep, Whole: err == nil && !left}
		list = append(list, a)
		switch {
		case err != nil:
			worst = errors.Join(worst, fmt.Errorf("%s: %w", name, err))
		case !a.Whole && worst == nil:
			worst = &failure{err: errPartial, code: exitPartial}
		}
	}
	if err := u.answer(list, func(w io.Writer) {
		for _, a := range list {
			a.print(w)
		}
	}); err != nil {
		return err
	}
	for _, a := range list {
		a.explain(u)
	}
	if what == "repair" {
		return errors.Join(worst, conn.vouch(c.Context()), conn.shownAgain(c.Context()))
	}
	return worst
}

func (a verifyJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s, %s, %s held", a.Register, plural(a.Snapshots, "snapshot"), plural(a.Packs, "pack"), plural(a.Objects, "object"))
	if a.Bytes > 0 {
		fmt.Fprintf(w, ", %s fetched", size(a.Bytes))
	}
	if a.Chunks > 0 {
		fmt.Fprintf(w, ", %s opened", plural(a.Chunks, "chunk"))
	}
	if a.Repaired > 0 {
		fmt.Fprintf(w, ", %s repaired", plural(a.Repaired, "object"))
	}
	if a.Replaced > 0 {
		fmt.Fprintf(w, ", %s lost and stored again since", plural(a.Replaced, "pack"))
	}
	switch {
	case a.Lost > 0:
		fmt.Fprintf(w, "; %s LOST\n", plural(a.Lost, "pack"))
	case a.Whole:
		fmt.Fprintln(w, "; whole")
	case a.Thin > 0:
		fmt.Fprintf(w, "; %s with less redundancy than asked for\n", plural(a.Thin, "pack"))
	default:
		fmt.Fprintln(w, "; not whole")
	}
}

func (a verifyJSON) explain(u *ui) {
	for _, d := range a.Down {
		u.note("%s: without %s: %s", a.Register, d.Embassy, printable(d.Why))
	}
	if len(a.Faults) > 0 {
		u.note("%s: found at embassies:", a.Register)
		var lines []string
		for _, f := range a.Faults {
			lines = append(lines, f.String())
		}
		u.list(lines, len(a.Faults))
	}
	if !a.Whole && a.Lost == 0 {
		u.note("hint: chancery repair %s, once every embassy answers", a.Register)
	}
}
