package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/home"
)

// backupJSON is the answer of backup.
type backupJSON struct {
	Register string `json:"register"`
	*archive.BackupReport
	Files         uint64  `json:"files"`
	Folders       uint64  `json:"folders"`
	Bytes         uint64  `json:"bytes"`
	Unchanged     uint64  `json:"unchanged_files"`
	NewBytes      uint64  `json:"new_bytes"`
	ExcludedCount uint64  `json:"excluded_count"`
	ExcludedBytes uint64  `json:"excluded_bytes"`
	Complete      bool    `json:"complete"`
	Seconds       float64 `json:"seconds"`

	Cluster *clusterJSON `json:"cluster,omitempty"`
}

func backupCommand(u *ui) *cobra.Command {
	var tags []string
	c := &cobra.Command{
		Use: "backup REGISTER...", Short: "Make a snapshot of a register at its embassies", Args: cobra.MinimumNArgs(1),
		Long: "Stores what is new of a register at its embassies. The snapshot counts once every share is receipted. An\n" +
			"interrupted backup goes on where it was when it is run again. With an embassy down it completes at a lower\n" +
			"redundancy (exit 3) until chancery repair has filled the gap; with fewer than needed it refuses (exit 8). A file\n" +
			"that could not be read, or changed meanwhile, is listed (exit 3); everything else is in the snapshot.",
		Example: "  chancery backup land --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringArrayVar(&tags, "tag", nil, "a word to find the snapshot by; once for each")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		return conn.backups(c.Context(), u, args, tags)
	}
	return c
}

// backups makes a snapshot of each register, says so, and has it witnessed.
func (c *connection) backups(ctx context.Context, u *ui, names, tags []string) error {
	if err := c.watch(ctx); err != nil {
		return err
	}
	var answers []backupJSON
	var partial error
	for _, name := range names {
		a, err := c.backup(ctx, u, name, tags)
		if err != nil {
			return fmt.Errorf("backup of %s: %w", name, err)
		}
		answers = append(answers, *a)
		if !a.Complete {
			partial = &failure{err: errPartial, code: exitPartial}
		}
	}
	var v any = answers
	if len(answers) == 1 {
		v = answers[0]
	}
	if err := u.answer(v, func(w io.Writer) {
		for i := range answers {
			answers[i].print(w)
		}
	}); err != nil {
		return err
	}
	for i := range answers {
		answers[i].explain(u)
	}
	err := c.vouch(ctx)
	u.tell(c.note(ctx, names...), nil)
	return errors.Join(partial, err)
}

func (c *connection) backup(ctx context.Context, u *ui, name string, tags []string) (*backupJSON, error) {
	r, reg, err := c.register(name)
	if err != nil {
		return nil, err
	}
	if r.IsErased() {
		return nil, &failure{err: fmt.Errorf("register %s is erased: nobody could open what is added to it", name), code: exitRefused, hint: "add it anew under another name: chancery register add NAME --home HOME …"}
	}
	if r.Definition.Postgres != nil {
		if err := checkCluster(ctx, r.Definition.Postgres); err != nil { // a stream would try it again without end
			return nil, err
		}
		return c.backupCluster(ctx, u, r, reg, tags)
	}
	src, err := source(&r.Definition, tags)
	if err != nil {
		return nil, err
	}
	var p archive.Progress
	done := u.progress("backup of "+name, &p, 0)
	start := time.Now()
	rep, err := archive.Backup(ctx, reg, c.agent(), src, &p)
	done()
	if err != nil {
		return nil, err
	}
	return backupAnswer(name, rep, time.Since(start)), nil
}

func backupAnswer(name string, rep *archive.BackupReport, took time.Duration) *backupJSON {
	return &backupJSON{
		Register: name, BackupReport: rep, Files: rep.Stats.Files, Folders: rep.Stats.Folders, Bytes: rep.Stats.Bytes,
		Unchanged: rep.Stats.Unchanged, NewBytes: rep.Stats.NewBytes,
		ExcludedCount: rep.Excluded.Count, ExcludedBytes: rep.Excluded.Bytes,
		Complete: rep.ProblemSum == 0 && len(rep.Down) == 0 && rep.Gaps == 0, Seconds: took.Seconds(),
	}
}

// source is what a definition says to read.
func source(def *home.Definition, tags []string) (archive.Source, error) {
	rules, err := filetree.ParseRules(def.Exclude)
	if err != nil {
		return archive.Source{}, fmt.Errorf("register %s: exclude: %w", def.Name, err)
	}
	return archive.Source{Path: def.Files, Rules: rules, AllFileSystems: def.AllFileSystems, Tags: tags}, nil
}

func (a *backupJSON) print(w io.Writer) {
	fmt.Fprintf(w, "Snapshot %s of %s: %s in %s, %s of it new; %s stored in %s at embassies. %.1f s.\n",
		a.Snapshot, a.Register, size(int64(a.Bytes)), plural(a.Files, "file"), size(int64(a.NewBytes)),
		size(int64(a.StoredBytes)), plural(a.Objects, "object"), a.Seconds)
	if c := a.Cluster; c != nil {
		fmt.Fprintf(w, "The log from %s to %s of timeline %d is at the embassies with it: it can be recovered.\n", c.Start, c.End, c.Timeline)
	}
	if a.ExcludedCount > 0 {
		fmt.Fprintf(w, "Left out by rules: %s, %s.\n", plural(a.ExcludedCount, "name"), size(int64(a.ExcludedBytes)))
	}
	if len(a.OtherFS) > 0 {
		fmt.Fprintf(w, "Left out, on other file systems: %s.\n", plural(len(a.OtherFS), "folder"))
		for _, p := range a.OtherFS {
			fmt.Fprintf(w, "  %s\n", printable(p))
		}
	}
}

// explain says what is missing from a snapshot that is not complete.
func (a *backupJSON) explain(u *ui) {
	if a.ProblemSum > 0 {
		u.note("%s could not be taken as they should:", plural(a.ProblemSum, "name"))
		var lines []string
		for _, p := range a.Problems {
			lines = append(lines, p.Path+": "+p.What)
		}
		u.list(lines, int(a.ProblemSum))
	}
	if c := a.Cluster; c != nil {
		if !c.Checksums {
			u.note("The cluster has no data checksums: damage at home goes into its backups unseen.\nhint: pg_checksums --enable, while the server is stopped")
		}
		if len(c.Uncovered) > 0 {
			u.note("not protected:")
			u.list(c.Uncovered, len(c.Uncovered))
		}
		u.list(c.Warnings, len(c.Warnings))
	}
	for _, d := range a.Down {
		u.note("without %s: %s", d.Embassy, printable(d.Why))
	}
	if len(a.Down) > 0 || a.Gaps > 0 {
		u.note("The snapshot has less redundancy than the register asks for.\nhint: chancery repair, once the embassy answers")
	}
}
