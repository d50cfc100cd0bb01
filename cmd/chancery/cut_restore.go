package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/snapshot"
)

// runCut restores all registers of a cut, each into a folder of its name, and hands out the logs of the clusters.
func (f *restoreFlags) runCut(c *cobra.Command, u *ui, conn *connection, identity string) error {
	names, err := conn.home.Registers()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.to, 0o755); err != nil {
		return err
	}
	var found *snapshot.Cut
	done := map[[16]byte]bool{}
	answers := []restoreJSON{}
	var supplies []*supply
	for _, n := range names {
		r, reg, err := conn.register(n)
		if err != nil {
			return err
		}
		cut, err := cutNamed(c.Context(), reg, conn.agent(), f.cut)
		if err != nil {
			return err
		}
		if cut == nil || found != nil && cut.ID != found.ID {
			continue
		}
		found = cut
		a, s, reader, err := f.restorePart(c, u, conn, n, identity, cut)
		if reader != nil {
			defer reader.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		answers, done[[16]byte(r.Record.ID)] = append(answers, *a), true
		if s != nil {
			supplies = append(supplies, s)
		}
	}
	if found == nil {
		return &failure{err: fmt.Errorf("%w: %s", errNoCut, f.cut), code: exitNotFound, hint: "chancery snapshot cut REGISTER,REGISTER --name NAME --home HOME makes one"}
	}
	if err := u.answer(answers, func(w io.Writer) {
		for i := range answers {
			answers[i].print(w)
		}
	}); err != nil {
		return err
	}
	errs := []error{wholeCut(found, done)}
	if !f.target.noWait {
		errs = append(errs, serveAll(c.Context(), u, supplies))
	}
	return errors.Join(errs...)
}

// restorePart restores one register of a cut. The reader stays open for the supply.
func (f *restoreFlags) restorePart(c *cobra.Command, u *ui, conn *connection, name, identity string, cut *snapshot.Cut) (*restoreJSON, *supply, *archive.Reader, error) {
	one := *f
	which, err := one.applyCut(cut)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := openOwnReader(c.Context(), conn, name, identity)
	if err != nil {
		return nil, nil, nil, err
	}
	head, err := r.Find(which)
	if err != nil {
		return nil, nil, r, err
	}
	to := filepath.Join(f.to, name)
	if len(cut.Position) > 0 {
		a, s, err := one.restoreCluster(c, u, r, head, name, to)
		return a, s, r, err
	}
	a, err := one.restore(c, u, r, head, name, to, nil)
	return a, nil, r, err
}

// serveAll hands out the logs of clusters, each until its server has caught up.
func serveAll(ctx context.Context, u *ui, supplies []*supply) error {
	errs := make([]error, len(supplies))
	var all sync.WaitGroup
	for i, s := range supplies {
		all.Go(func() { errs[i] = s.serve(ctx, u) })
	}
	all.Wait()
	return errors.Join(errs...)
}
