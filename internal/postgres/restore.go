package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// RestoreOptions say what becomes of a restored cluster.
type RestoreOptions struct {
	To      string // the data directory; it must not exist or be empty
	Target  Target
	Aim     *Aim   // what Log.Aim found for it; nil leaves all to the server
	Program string // the command by which the server fetches its log: the path of this program
	// Tablespaces says where each lies from now on, by where it was or by its number. Without, each must go where it was.
	Tablespaces map[string]string
	// SpacesBelow is a folder for the tablespaces that Tablespaces does not name, each in a folder named by its number;
	// empty leaves them where they were.
	SpacesBelow string
	Owner       *Owner // whom everything is to belong to; nil leaves what was restored
	Files       filetree.TargetOptions
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	*archive.RestoreReport
	Base        Base
	Reach       *Reach
	Tablespaces map[string]string // number -> where it is now
	Config      []string          // files of the configuration that were put into the data directory
}

// Errors of a restore.
var (
	// ErrNotCluster means that a snapshot is not of a PostgreSQL cluster.
	ErrNotCluster = errors.New("not the snapshot of a PostgreSQL cluster")
	// ErrTablespace means that a tablespace cannot go where it was.
	ErrTablespace = errors.New("the tablespace needs a place")
	// ErrProgram means that the server's user cannot run the program by which the server is to fetch its log.
	ErrProgram = errors.New("the server could not fetch its log")
)

// RecoveryFolder stands in a restored data directory until recovery has ended: through it the server fetches its log.
const RecoveryFolder = "chancery_recovery"

// maxText caps the small files of a cluster that are read whole.
const maxText = 64 << 20

// Restore writes a base backup so that a server that starts on it fetches the log and recovers to the target. reach is
// what Reach found for it; whether that is far enough is for the caller to have checked. Whatever fails, the data
// directory is left empty.
func Restore(ctx context.Context, r *archive.Reader, head *snapshot.Head, reach *Reach, base *Base, o RestoreOptions, progress *archive.Progress) (*RestoreReport, error) {
	w := &restoring{ctx: ctx, r: r, head: head, opts: o, progress: progress, rep: &RestoreReport{Base: *base, Reach: reach, Tablespaces: map[string]string{}}}
	err := w.run()
	if err != nil {
		for _, dir := range w.made {
			err = errors.Join(err, archive.Empty(dir))
		}
	}
	return w.rep, err
}

// restoring is a cluster that is being restored.
type restoring struct {
	ctx      context.Context
	r        *archive.Reader
	head     *snapshot.Head
	opts     RestoreOptions
	progress *archive.Progress
	rep      *RestoreReport
	spaces   []wal.Tablespace
	made     []string // folders that something was restored into
	root     *os.Root // the data directory
}

func (w *restoring) run() error {
	if err := w.opts.Owner.canRun(w.ctx, w.opts.Program); err != nil {
		return err
	}
	if err := w.places(); err != nil {
		return err
	}
	var err error
	if len(w.spaces) > 0 && w.opts.SpacesBelow != "" {
		if err := os.MkdirAll(w.opts.SpacesBelow, 0o755); err != nil {
			return err
		}
	}
	if w.rep.RestoreReport, err = w.folder(dataFolder, w.opts.To); err != nil {
		return err
	}
	if w.root, err = os.OpenRoot(w.opts.To); err != nil {
		return err
	}
	defer w.root.Close()
	for _, s := range w.spaces {
		if _, err := w.folder(fmt.Sprintf("%s/%d", spacesFolder, s.OID), s.Location); err != nil {
			return fmt.Errorf("tablespace %d: %w", s.OID, err)
		}
	}
	for _, step := range []func() error{w.link, w.configure, w.settings, w.own} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, dir := range w.made {
		if err := filetree.Sync(dir); err != nil {
			return err
		}
	}
	return nil
}

// folder restores one folder of the snapshot as a folder of this machine.
func (w *restoring) folder(base, to string) (*archive.RestoreReport, error) {
	w.made = append(w.made, to)
	return w.r.Restore(w.ctx, w.head, to, archive.RestoreOptions{Target: w.opts.Files, Base: base}, w.progress)
}

// places decides where each tablespace goes, before anything is written.
func (w *restoring) places() error {
	text, err := w.r.ReadFile(w.ctx, w.head, dataFolder+"/tablespace_map", maxText)
	if errors.Is(err, archive.ErrNoPath) {
		return nil
	}
	if err != nil {
		return err
	}
	spaces, err := wal.ParseTablespaceMap(text)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, s := range spaces {
		was := s.Location
		for _, key := range []string{was, strconv.FormatUint(uint64(s.OID), 10)} {
			if to, ok := w.opts.Tablespaces[key]; ok {
				s.Location, used[key] = to, true
			}
		}
		if number := strconv.FormatUint(uint64(s.OID), 10); w.opts.SpacesBelow != "" && !used[number] && !used[was] {
			s.Location = filepath.Join(w.opts.SpacesBelow, number)
		}
		if !filepath.IsAbs(s.Location) {
			return fmt.Errorf("%w: %d: %q is not an absolute path", ErrTablespace, s.OID, s.Location)
		}
		entries, err := os.ReadDir(s.Location)
		if err == nil && len(entries) > 0 {
			err = filetree.ErrNotEmpty
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, err = os.Stat(filepath.Dir(s.Location)); errors.Is(err, fs.ErrNotExist) && filepath.Dir(s.Location) == w.opts.SpacesBelow {
				err = nil // it is made
			}
		}
		if err != nil {
			return fmt.Errorf("%w: %d in %s: %w", ErrTablespace, s.OID, s.Location, err)
		}
		w.spaces = append(w.spaces, s)
		w.rep.Tablespaces[strconv.FormatUint(uint64(s.OID), 10)] = s.Location
	}
	for key := range w.opts.Tablespaces {
		if !used[key] {
			return fmt.Errorf("%w: there is none at %q", ErrTablespace, key)
		}
	}
	return nil
}

// link writes the tablespaces' places: into the map by which the server makes its links when it starts, and as links
// for whoever reads the folder before.
func (w *restoring) link() error {
	if len(w.spaces) == 0 {
		return nil
	}
	for _, s := range w.spaces {
		name := fmt.Sprintf("pg_tblspc/%d", s.OID)
		if err := w.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := w.root.Symlink(s.Location, name); err != nil {
			return err
		}
	}
	if len(w.opts.Tablespaces) == 0 && w.opts.SpacesBelow == "" {
		return nil // the map is as it was
	}
	return w.write("tablespace_map", wal.FormatTablespaceMap(w.spaces))
}

// write replaces a file of the data directory. A crash leaves a restore that did not end.
func (w *restoring) write(name string, data []byte) error { return w.root.WriteFile(name, data, 0o600) }

// configure puts configuration that lay elsewhere into the data directory, where there is none.
func (w *restoring) configure() error {
	if _, err := w.root.Stat("postgresql.conf"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	facts, err := readFacts(w.ctx, w.r, w.head)
	if err != nil {
		return err
	}
	main := ""
	for _, c := range facts.ConfigFiles {
		if path.Base(c.Path) == "postgresql.conf" && c.Unread == "" {
			main = path.Dir(c.Path)
		}
	}
	for _, c := range facts.ConfigFiles {
		name := strings.TrimPrefix(path.Clean(c.Path), main+"/")
		if main == "" || c.Unread != "" || name == path.Clean(c.Path) {
			continue
		}
		data, err := w.r.ReadFile(w.ctx, w.head, configFolder+path.Clean(c.Path), maxText)
		if err != nil {
			return err
		}
		if name == "postgresql.conf" {
			data = append(data, w.moved()...)
		}
		if err := w.root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if err := w.write(name, data); err != nil {
			return err
		}
		w.rep.Config = append(w.rep.Config, name)
	}
	return nil
}

// moved says in the configuration that it lies in the data directory now.
func (w *restoring) moved() string {
	to, err := filepath.Abs(w.opts.To)
	if err != nil {
		to = w.opts.To
	}
	return fmt.Sprintf("\n# Added by chancery restore: the configuration was moved into the data directory.\n"+
		"data_directory = %s\nhba_file = %s\nident_file = %s\nexternal_pid_file = ''\n",
		quote(to), quote(filepath.Join(to, "pg_hba.conf")), quote(filepath.Join(to, "pg_ident.conf")))
}

// quote writes a value as the server's configuration wants it.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(s) + "'"
}

// shell quotes a word for the shell that runs the server's commands, and for the server, which replaces what follows %.
func shell(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "%", "%%").Replace(s) + "'"
}

// settings tells the server to recover, and to leave alone what belongs to the cluster that it is a copy of.
func (w *restoring) settings() error {
	before, err := w.root.ReadFile("postgresql.auto.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.root.Remove("standby.signal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.write("postgresql.auto.conf", append(without(before), w.recovery()...)); err != nil {
		return err
	}
	if err := w.root.Mkdir(RecoveryFolder, 0o700); err != nil {
		return err
	}
	if err := w.write(RecoveryFolder+"/"+snapshotFile, fmt.Appendf(nil, "%d\n", w.head.Sequence)); err != nil {
		return err
	}
	if a := w.opts.Aim; a != nil && a.Enough != 0 {
		if err := w.write(RecoveryFolder+"/"+enoughFile, a.enough()); err != nil {
			return err
		}
	}
	return w.write("recovery.signal", nil)
}

// snapshotFile says from which snapshot a cluster was restored: its number. It stands in the recovery folder.
const snapshotFile = "snapshot"

// RestoredSnapshot tells from which snapshot a cluster was restored that has not recovered yet; 0 where that is not known.
// Whoever owns the folder may have written something else: it decides where the log is looked for, and proves nothing.
func RestoredSnapshot(dataDirectory string) (uint64, error) {
	root, err := os.OpenRoot(filepath.Join(dataDirectory, RecoveryFolder))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	f, err := root.OpenFile(snapshotFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) { // an earlier release wrote none
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s/%s says no number of a snapshot", RecoveryFolder, snapshotFile)
	}
	return n, nil
}

// without drops the settings of an earlier recovery. A target set to nothing would not do: in some versions whichever
// target the server reads last decides, and nothing means all.
func without(conf []byte) []byte {
	var out []byte
	for line := range bytes.Lines(conf) {
		key, _, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !strings.HasPrefix(key, "recovery_") && key != "restore_command" && key != "archive_cleanup_command" {
			out = append(out, line...)
		}
	}
	return out
}

// onlyAnEnd turns whatever a program may exit with by accident into a code by which the server stops: a runtime that
// breaks down exits with 2, which the server would take for the end of the log.
const onlyAnEnd = "{ c=$?; [ $c -eq 1 ] || [ $c -gt 125 ] || c=154; exit $c; }"

func (w *restoring) recovery() string {
	fetch := shell(w.opts.Program) + " pg wal-fetch --from " + RecoveryFolder
	lines := []string{
		"",
		"# Written by chancery restore. What follows up to the next comment may go once the server has recovered.",
		"restore_command = " + quote(fetch+" %f %p || "+onlyAnEnd),
		"recovery_end_command = " + quote(fetch+" --end"),
		"recovery_target_timeline = " + quote(w.rep.Reach.Timeline.String()),
		"recovery_target_inclusive = on",
		"recovery_target_action = 'promote'",
	}
	aim := cmp.Or(w.opts.Aim, &Aim{})
	switch t := &w.opts.Target; {
	case aim.Record != 0:
		lines = append(lines, "recovery_target_lsn = "+quote(aim.Record.String()))
	case !t.Time.IsZero():
		lines = append(lines, "recovery_target_time = "+quote(t.Time.UTC().Format("2006-01-02 15:04:05.999999-07")))
	case t.LSN != 0:
		lines = append(lines, "recovery_target_lsn = "+quote(t.LSN.String()))
	case t.XID != "":
		lines = append(lines, "recovery_target_xid = "+quote(t.XID))
	case t.Name != "":
		lines = append(lines, "recovery_target_name = "+quote(t.Name))
	}
	if aim.Enough != 0 { // reading ahead would meet the hole
		lines = append(lines, "recovery_prefetch = off")
	}
	lines = append(lines,
		"# This is a copy: it must not wait for the standbys of the cluster that it was made of, nor archive over its log.",
		"synchronous_standby_names = ''", "primary_conninfo = ''", "primary_slot_name = ''", "archive_mode = off", "")
	return strings.Join(lines, "\n")
}

// own gives everything to the user who is to run the server.
func (w *restoring) own() error {
	if w.opts.Owner == nil {
		return nil
	}
	for _, dir := range w.made {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		err = fs.WalkDir(root.FS(), ".", func(p string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = root.Lchown(p, w.opts.Owner.UID, w.opts.Owner.GID)
			}
			return err
		})
		root.Close()
		if err != nil {
			return fmt.Errorf("owner of %s: %w", dir, err)
		}
	}
	return nil
}

// String says the target for people.
func (t *Target) String() string {
	switch {
	case !t.Time.IsZero():
		return t.Time.UTC().Format(time.RFC3339Nano)
	case t.LSN != 0:
		return t.LSN.String()
	case t.XID != "":
		return "transaction " + t.XID
	case t.Name != "":
		return "restore point " + t.Name
	}
	return "the latest moment"
}
