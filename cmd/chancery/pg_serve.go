package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
)

// serveFlags say whose log is handed out, and who opens it: a reader at home, or custodians where home is lost.
type serveFlags struct {
	to      string
	opening recoverFlags
}

func pgServe(u *ui) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve REGISTER[@SNAPSHOT]", Short: "Hand out the log to a restored cluster until it has recovered", Args: cobra.ExactArgs(1),
		Long: "What restore does after it has written a cluster, once more: for one that was restored with --no-wait, or whose\n" +
			"recovery was interrupted. It knows from which snapshot the cluster was restored, unless an earlier release did that:\n" +
			"then name it, or it is the newest.\n\n" +
			"Where chancery recover brought the cluster back, home is lost: give what recover was given, kits and identities, or\n" +
			"released shares. Of several registers of one name, it is the one whose folder recover named so.",
		Example: "  chancery pg serve land --to DIR --home HOME --identity READER.key\n" +
			"  chancery pg serve land --to DIR/land --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&f.to, "to", "", "the restored data directory")
	c.Flags().StringArrayVar(&f.opening.identities, "identity", nil, "a reader's private key file; with kits, that of each kit's custodian, in any order")
	f.opening.addOpening(c)
	required(c, "to")
	c.RunE = func(c *cobra.Command, args []string) error {
		st, err := os.Stat(filepath.Join(f.to, postgres.RecoveryFolder))
		if err != nil || !st.IsDir() {
			return &failure{err: fmt.Errorf("%s: no cluster that is to recover", f.to), code: exitNotFound, hint: "chancery restore REGISTER --to NEW-FOLDER --home HOME --identity READER.key"}
		}
		if len(f.opening.kits) > 0 {
			return f.withCustodians(c, u, args[0])
		}
		return f.withReader(c, u, *dir, args[0])
	}
	return c
}

// withReader hands out a log that a reader's key opens.
func (f *serveFlags) withReader(c *cobra.Command, u *ui, dir, of string) error {
	for _, n := range openingFlags {
		if n != "accept-stale" && c.Flags().Changed(n) {
			return usageError(c, fmt.Errorf("--%s is for --kit", n))
		}
	}
	if len(f.opening.identities) > 1 {
		return usageError(c, errors.New("one reader's --identity is enough; those of custodians go with --kit"))
	}
	identity := ""
	if len(f.opening.identities) == 1 {
		identity = f.opening.identities[0]
	}
	conn, err := connect(dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	conn.stale = f.opening.acceptStale
	register, name := splitName(of)
	r, err := openOwnReader(c.Context(), conn, register, identity)
	if err != nil {
		return err
	}
	defer r.Close()
	return f.serve(c.Context(), u, r, register, name)
}

// withCustodians hands out a log that custodians open, of a cluster that recover brought back. An older record of the
// register counts where the newest leads to no snapshot, as there.
func (f *serveFlags) withCustodians(c *cobra.Command, u *ui, of string) error {
	o := &f.opening
	o.to = f.to
	defer o.close()
	opened, found, err := o.begin(c)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "chancery-serve-*")
	if err != nil {
		return err
	}
	o.later = append(o.later, func() { os.RemoveAll(work) })
	register, name := splitName(of)
	for _, r := range found {
		if r.secrets.Name != register && r.secrets.Name+"-"+r.record.ID.String() != register {
			continue
		}
		if r.secrets.Kind != charter.KindPostgres {
			return usageError(c, fmt.Errorf("register %s is no PostgreSQL cluster", register))
		}
		err := o.serveFound(c.Context(), f, u, opened, r, work, register, name)
		for errors.Is(err, archive.ErrNoSnapshot) && len(r.older) > 0 {
			r = r.older[0]
			err = o.serveFound(c.Context(), f, u, opened, r, work, register, name)
		}
		return err
	}
	return fmt.Errorf("%w: %q", home.ErrNoRegister, register)
}

// serveFound hands out the log of one register that the opening key opens.
func (f *recoverFlags) serveFound(ctx context.Context, s *serveFlags, u *ui, o *opened, found foundRegister, work, register, name string) error {
	_, r, stale, err := f.openFound(ctx, o, found, work)
	if err != nil {
		return err
	}
	if stale {
		for _, text := range mayBeMissing(o.fresh) {
			u.note("accepted as it is: %s", printable(text))
		}
	}
	return s.serve(ctx, u, r, register, name)
}

func (f *serveFlags) serve(ctx context.Context, u *ui, r *archive.Reader, register, name string) error {
	if name == "" {
		seq, err := postgres.RestoredSnapshot(f.to)
		if err != nil {
			return err
		}
		if seq > 0 {
			name = archive.SnapshotName(seq)
		}
	}
	head, err := r.Find(name)
	if err != nil {
		return err
	}
	l, err := postgres.OpenLog(ctx, r, head)
	if err != nil {
		return err
	}
	return (&supply{l, f.to, register}).serve(ctx, u)
}
