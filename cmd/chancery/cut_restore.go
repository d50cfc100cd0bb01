package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/snapshot"
)

// cutPart is one register of a cut.
type cutPart struct {
	name     string
	register *home.Register
	cut      *snapshot.Cut
	flags    restoreFlags    // with the cut's moment
	reader   *archive.Reader // it stays open while a cluster's log is handed out
	head     *snapshot.Head
}

// runCut restores all registers of a cut, each into a folder of its name, and hands out the logs of the clusters. All of
// them are found and opened before anything is written: a part of a moment is little use.
func (f *restoreFlags) runCut(c *cobra.Command, u *ui, conn *connection, identities []string) error {
	parts, err := conn.findCut(c.Context(), f.cut)
	if err != nil {
		return err
	}
	keys, err := cutKeys(c, parts, identities)
	if err != nil {
		return err
	}
	for i, p := range parts {
		err := p.open(c.Context(), conn, f, keys[i])
		if p.reader != nil {
			defer p.reader.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if err := os.MkdirAll(f.to, 0o755); err != nil {
		return err
	}
	answers, supplies, failed := restoreParts(c, u, parts)
	if err := c.Context().Err(); err != nil {
		return err
	}
	if err := u.answer(answers, func(w io.Writer) {
		for i := range answers {
			answers[i].print(w)
		}
	}); err != nil {
		return err
	}
	for i := range answers {
		answers[i].explain(u)
	}
	if !f.target.noWait {
		failed = errors.Join(failed, serveAll(c.Context(), u, supplies))
	}
	return failed
}

// restoreParts writes the registers of a cut. What is wrong with one keeps no other from coming back.
func restoreParts(c *cobra.Command, u *ui, parts []*cutPart) (answers []restoreJSON, supplies []*supply, failed error) {
	done := map[[16]byte]bool{}
	answers = []restoreJSON{}
	var partial error
	for _, p := range parts {
		a, s, err := p.restore(c, u)
		if a != nil {
			answers = append(answers, *a)
		}
		if errors.Is(err, errPartial) {
			partial = err
		} else if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		done[[16]byte(p.register.Record.ID)] = true
		if s != nil {
			supplies = append(supplies, s)
		}
	}
	if failed == nil {
		failed = cmp.Or(wholeCut(parts[0].cut, done), partial)
	}
	return answers, supplies, failed
}

// findCut finds which registers of this home are of a cut.
func (c *connection) findCut(ctx context.Context, name string) (parts []*cutPart, err error) {
	names, err := c.home.Registers()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		r, reg, err := c.register(n)
		if err != nil {
			return nil, err
		}
		cut, err := cutNamed(ctx, reg, c.agent(), name)
		if err != nil {
			return nil, err
		}
		if cut != nil && (len(parts) == 0 || cut.ID == parts[0].cut.ID) {
			parts = append(parts, &cutPart{name: n, register: r, cut: cut})
		}
	}
	if len(parts) == 0 {
		return nil, &failure{err: fmt.Errorf("%w: %s", errNoCut, name), code: exitNotFound, hint: "chancery snapshot cut REGISTER,REGISTER --name NAME --home HOME makes one"}
	}
	return parts, nil
}

// cutKeys finds for each register of a cut the identity file that opens it. One that opens none is a mistake: whoever named
// it expects something back that would not come.
func cutKeys(c *cobra.Command, parts []*cutPart, identities []string) ([]string, error) {
	if len(identities) == 0 || slices.Contains(identities, "") {
		return nil, errWhichKey
	}
	keys := make([]string, len(parts))
	for _, file := range identities {
		opens := false
		for i, p := range parts {
			_, err := grantedKey(p.register, file)
			if errors.Is(err, home.ErrNotReader) {
				continue
			}
			if err != nil {
				return nil, err
			}
			keys[i], opens = file, true
		}
		if !opens {
			return nil, usageError(c, fmt.Errorf("--identity %s opens no register of cut %s", file, parts[0].cut.Name))
		}
	}
	if i := slices.Index(keys, ""); i >= 0 {
		return nil, &failure{
			err: fmt.Errorf("%s with %s: %w", parts[i].name, strings.Join(identities, ", "), home.ErrNotReader), code: exitRefused,
			hint: "name an identity file of one of its readers too: --identity READER.key, once for each",
		}
	}
	return keys, nil
}

// open opens a register and finds the snapshot that the cut names.
func (p *cutPart) open(ctx context.Context, conn *connection, f *restoreFlags, identity string) error {
	p.flags = *f
	which, err := p.flags.applyCut(p.cut)
	if err != nil {
		return err
	}
	if p.reader, err = openOwnReader(ctx, conn, p.name, identity); err == nil {
		p.head, err = p.reader.Find(which)
	}
	return err
}

// restore writes one register of a cut.
func (p *cutPart) restore(c *cobra.Command, u *ui) (*restoreJSON, *supply, error) {
	to := filepath.Join(p.flags.to, p.name)
	if len(p.cut.Position) > 0 {
		return p.flags.restoreCluster(c, u, p.reader, p.head, p.name, to)
	}
	a, err := p.flags.restore(c, u, p.reader, p.head, p.name, to, nil)
	return a, nil, err
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
