package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// restoreFlags are what restore and recover have in common.
type restoreFlags struct {
	to      string
	setID   bool
	devices bool
	partial bool
	target  targetFlags

	stale        bool   // of restore: ledgers are taken as they are
	cut          string // all registers of a moment that they have in common
	spacesBeside bool   // tablespaces that are not named go beside the data directory: the machine is another one
}

func (f *restoreFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.to, "to", "", "folder to restore into; it must not exist or be empty")
	c.Flags().BoolVar(&f.setID, "setid", false, "also restore setuid and setgid bits")
	c.Flags().BoolVar(&f.devices, "devices", false, "also restore devices (as root)")
	c.Flags().BoolVar(&f.partial, "partial", false, "where something is damaged beyond repair, keep what is whole (exit 3)")
	f.target.add(c)
	required(c, "to")
}

func (f *restoreFlags) options(include []string) archive.RestoreOptions {
	return archive.RestoreOptions{
		Target:  filetree.TargetOptions{Owners: os.Geteuid() == 0, SetID: f.setID, Xattrs: true, Devices: f.devices},
		Include: include, Partial: f.partial,
	}
}

// restoreJSON is the answer of restore.
type restoreJSON struct {
	Register string `json:"register"`
	To       string `json:"to"`
	*archive.RestoreReport
	Partial  bool          `json:"partial"`
	Accepted string        `json:"stale_accepted,omitempty"`
	Seconds  float64       `json:"seconds"`
	Cluster  *restoredJSON `json:"cluster,omitempty"`
}

func restoreCommand(u *ui) *cobra.Command {
	var f restoreFlags
	var identities, include []string
	c := &cobra.Command{
		Use: "restore REGISTER[@SNAPSHOT]", Short: "Restore a snapshot, or some paths of it, with a reader's key", Args: cobra.MaximumNArgs(1),
		Long: "Restores the newest snapshot, with --time the newest that was taken then or before, or the one named by its number,\n" +
			"from as many embassies as are needed. What an embassy gives wrong is made good from others and named. Where an\n" +
			"embassy's ledger holds a newer snapshot than all embassies show, the newest is refused (exit 7), and so is a time later\n" +
			"than all that they show. Where too much is lost the restore refuses, lists exactly\n" +
			"which files are hit and leaves the folder empty (exit 6), unless --partial keeps the rest (exit 3) and lists what is\n" +
			"missing beside it, in DIR.missing.txt. Owners come back when run as root, and only then.\n\n" +
			"Of a register that is a PostgreSQL cluster the folder becomes the data directory. A server that is started on it\n" +
			"recovers to the moment that was named, and this command hands out its log until then: leave it running. Without a\n" +
			"number it takes the newest base backup before it.\n\n" +
			"With --cut all registers of a cut come back, each with the --identity that opens it. One that none of them opens, or an\n" +
			"identity that opens none, is refused before anything is written.",
		Example: "  chancery restore land@latest --home HOME --identity READER.key --to DIR --include deeds/2024\n" +
			"  chancery restore land --home HOME --identity READER.key --to DIR --time 2026-03-01T12:00:00Z\n" +
			"  chancery restore population --home HOME --identity READER.key --to DIR --time 2026-03-01T12:00:00Z --owner postgres\n" +
			"  chancery restore --cut before-merger --home HOME --identity LAND.key --identity PEOPLE.key --to DIR",
	}
	dir := homeFlag(c)
	f.add(c)
	c.Flags().StringVar(&f.cut, "cut", "", "instead of a register: all registers of this cut, each into a folder of its name")
	c.Flags().StringArrayVar(&identities, "identity", nil, "a reader's private key file; with --cut once for each that its registers take")
	staleFlag(c, &f.stale)
	c.Flags().StringArrayVar(&include, "include", nil, "a path in the snapshot to restore, with all below it; once for each")
	c.RunE = func(c *cobra.Command, args []string) error {
		cleanPaths(include)
		if err := f.asks(args, identities); err != nil {
			return usageError(c, err)
		}
		if err := checkTarget(f.to); err != nil {
			return err
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		conn.stale = f.stale
		if f.cut != "" {
			return f.runCut(c, u, conn, identities)
		}
		identity := strings.Join(identities, "") // one, or none
		register, name := splitName(args[0])
		def, _, err := conn.register(register)
		if err != nil {
			return err
		}
		if err := f.fits(c, def.Definition.Postgres != nil, name, include); err != nil {
			return usageError(c, err)
		}
		if def.Definition.Postgres != nil {
			return f.runCluster(c, u, conn, register, name, identity)
		}
		r, err := openReader(c.Context(), conn, register, identity)
		if err != nil {
			return err
		}
		defer r.Close()
		return f.runFiles(c, u, r, register, name, include)
	}
	return c
}

// asks refuses a command that does not say what is to come back, or with which key.
func (f *restoreFlags) asks(args, identities []string) error {
	switch {
	case (len(args) == 0) == (f.cut == ""):
		return errors.New("name a register, or a cut with --cut")
	case f.cut == "" && len(identities) > 1:
		return errors.New("one reader's --identity is enough; several are for --cut")
	}
	return f.suits()
}

// suits refuses a moment that is none, or that is not the cut's.
func (f *restoreFlags) suits() error {
	t := &f.target
	if f.cut != "" && (t.time != "" || t.lsn != "" || t.xid != "" || t.name != "") {
		return errors.New("--cut is a moment already")
	}
	_, err := t.target()
	return err
}

// errSnapshotOrTime refuses two answers to one question: a snapshot of files is its moment.
var errSnapshotOrTime = errors.New("of a register that is files --time finds the snapshot: name one, or a time")

// runFiles restores a snapshot of files.
func (f *restoreFlags) runFiles(c *cobra.Command, u *ui, r *archive.Reader, register, name string, include []string) error {
	target, err := f.target.target()
	if err != nil {
		return err
	}
	accepted, another := "", register+"@N"
	if f.target.time != "" {
		another += " without --time"
	}
	if newest(name) {
		if accepted, err = checkNewest(c.Context(), r, target.Time, register, another, f.stale); err != nil {
			return err
		}
	}
	head, err := r.Find(name)
	if f.target.time != "" {
		head, err = r.FindUntil(target.Time)
	}
	if err != nil {
		return err
	}
	a, err := f.restore(c, u, r, head, register, f.to, include)
	if a == nil {
		return err
	}
	a.Accepted = accepted
	if aerr := u.answer(a, a.print); aerr != nil {
		return aerr
	}
	a.explain(u)
	return err
}

// cleanPaths has paths in a snapshot begin at its root.
func cleanPaths(list []string) {
	for i := range list {
		list[i] = strings.TrimPrefix(path.Clean("/"+list[i]), "/")
	}
}

// checkTarget refuses a folder that holds something before anything is asked of anybody.
func checkTarget(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = filetree.ErrNotEmpty
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// restore writes one snapshot. It returns an answer whenever there is something to report, also with an error.
func (f *restoreFlags) restore(c *cobra.Command, u *ui, r *archive.Reader, head *snapshot.Head, of, to string, include []string) (*restoreJSON, error) {
	payload, err := r.Payload(head)
	if err != nil {
		return nil, err
	}
	total := int64(payload.Stats.Bytes)
	if len(include) > 0 {
		total = 0
	}
	_, missing := os.Stat(to)
	var p archive.Progress
	done := u.progress("restore of "+of, &p, total)
	start := time.Now()
	rep, err := r.Restore(c.Context(), head, to, f.options(include), &p)
	done()
	if err != nil && missing != nil {
		_ = os.Remove(to) // it is only as it was when nothing is in it
	}
	if rep == nil {
		return nil, err
	}
	a := &restoreJSON{Register: of, To: to, RestoreReport: rep, Seconds: time.Since(start).Seconds()}
	if err == nil && len(rep.Marked) > 0 {
		return a, &failure{err: errPartial, code: exitPartial}
	}
	if f.partial && register.Unreadable(err) {
		a.Partial = true
		if err := a.mark(); err != nil {
			return a, err
		}
		return a, &failure{err: errPartial, code: exitPartial}
	}
	return a, err
}

// mark leaves the list of what is missing beside a partial restore.
func (a *restoreJSON) mark() error {
	var b strings.Builder
	fmt.Fprintf(&b, "Restored in part: snapshot %s of %s, %s.\nMissing:\n", a.Snapshot, a.Register, a.Time.Format(time.RFC3339))
	for _, p := range a.Lost {
		fmt.Fprintf(&b, "%q: %s\n", p.Path, p.What)
	}
	return os.WriteFile(filepath.Clean(a.To)+".missing.txt", []byte(b.String()), 0o644)
}

func (a *restoreJSON) print(w io.Writer) {
	if a.LostSum > 0 && !a.Partial {
		return
	}
	if a.Cluster != nil {
		a.printCluster(w)
		return
	}
	fmt.Fprintf(w, "Snapshot %s of %s, %s, is in %s: %s in %s. %.1f s.\n", a.Snapshot, a.Register,
		a.Time.Local().Format(time.RFC3339), a.To, size(a.Bytes), plural(a.Files, "file"), a.Seconds)
}

// explain says what went wrong on the way, and what is missing.
func (a *restoreJSON) explain(u *ui) {
	if a.Accepted != "" {
		u.note("accepted as it is: %s", printable(a.Accepted))
	}
	for _, d := range a.Down {
		u.note("without %s: %s", d.Embassy, printable(d.Why))
	}
	if n := len(a.Faults); n > 0 {
		u.note("embassies at fault (made good where it could be; chancery repair mends it):")
		var lines []string
		for _, f := range a.Faults {
			lines = append(lines, f.String())
		}
		u.list(lines, n)
	}
	problems := func(head string, list []archive.Problem, n int) {
		if n == 0 {
			return
		}
		u.note("%s", head)
		var lines []string
		for _, p := range list {
			lines = append(lines, p.Path+": "+p.What)
		}
		u.list(lines, n)
	}
	problems("not restored:", a.Lost, a.LostSum)
	problems("incomplete since they were backed up:", a.Marked, len(a.Marked))
	if n := len(a.Warnings); n > 0 {
		u.note("restored without some attributes:")
		var lines []string
		for _, w := range a.Warnings {
			lines = append(lines, w.Path+": "+w.What)
		}
		u.list(lines, n)
	}
	if a.Partial {
		u.note("The list of what is missing is in %s.missing.txt.", filepath.Clean(a.To))
	}
}
