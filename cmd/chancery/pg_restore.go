package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// targetFlags say which moment is wanted, and where the parts of a cluster go.
type targetFlags struct {
	time, lsn, xid, name string
	latest               bool
	timeline             uint32
	tablespaces          []string
	owner                string
	noWait               bool
}

func (f *targetFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.time, "time", "", "cluster: everything committed until then, such as 2026-03-01T12:00:00Z; files: the newest snapshot from then or before")
	fl.StringVar(&f.lsn, "lsn", "", "cluster: everything up to this position of the log, such as 2/A0000148")
	fl.StringVar(&f.xid, "xid", "", "cluster: up to this transaction")
	fl.StringVar(&f.name, "name", "", "cluster: up to the restore point of this name")
	fl.BoolVar(&f.latest, "latest", false, "cluster: everything that the embassies hold, which is also what happens without a moment")
	fl.Uint32Var(&f.timeline, "timeline", 0, "cluster: the timeline to follow; without, the newest that the backup leads to")
	fl.StringArrayVar(&f.tablespaces, "tablespace", nil, "cluster: WHERE-IT-WAS=FOLDER for a tablespace that goes elsewhere; once for each")
	fl.StringVar(&f.owner, "owner", "", "cluster: the user who will run the server, to whom everything is given (as root)")
	fl.BoolVar(&f.noWait, "no-wait", false, "cluster: do not hand out the log until recovery ends; chancery pg serve does that later")
	c.MarkFlagsMutuallyExclusive("time", "lsn", "xid", "name", "latest")
}

// set tells whether anything that only a cluster has was given.
func (f *targetFlags) set(c *cobra.Command) string {
	for _, n := range []string{"lsn", "xid", "name", "latest", "timeline", "tablespace", "owner", "no-wait"} {
		if c.Flags().Changed(n) {
			return n
		}
	}
	return ""
}

// target reads the moment.
func (f *targetFlags) target() (t postgres.Target, err error) {
	t.XID, t.Name, t.Timeline = f.xid, f.name, wal.Timeline(f.timeline)
	if f.xid != "" {
		if _, err := strconv.ParseUint(f.xid, 10, 64); err != nil {
			return t, fmt.Errorf("--xid %q is no transaction's number", f.xid)
		}
	}
	if len(f.name) > 63 || strings.ContainsAny(f.name, "\n\x00") {
		return t, fmt.Errorf("--name: a restore point has at most 63 bytes in one line")
	}
	if f.lsn != "" {
		if t.LSN, err = wal.ParseLSN(f.lsn); err != nil {
			return t, fmt.Errorf("--lsn: %w", err)
		}
	}
	if f.time != "" {
		if t.Time, err = time.Parse(time.RFC3339Nano, f.time); err != nil {
			return t, fmt.Errorf("--time %q: want a moment such as 2026-03-01T12:00:00Z", f.time)
		}
		if t.Time.IsZero() { // which means none
			return t, fmt.Errorf("--time %q: nothing is that old", f.time)
		}
	}
	return t, nil
}

// options puts the flags together.
func (f *targetFlags) options(to string, files archive.RestoreOptions) (o postgres.RestoreOptions, err error) {
	o = postgres.RestoreOptions{Files: files.Target, Tablespaces: map[string]string{}}
	if o.To, err = filepath.Abs(to); err != nil {
		return o, err
	}
	if o.Target, err = f.target(); err != nil {
		return o, err
	}
	for _, x := range f.tablespaces {
		was, is, ok := strings.Cut(x, "=")
		if !ok || was == "" || is == "" {
			return o, fmt.Errorf("--tablespace %q: want WHERE-IT-WAS=FOLDER", x)
		}
		if o.Tablespaces[was], err = filepath.Abs(is); err != nil {
			return o, err
		}
	}
	if f.owner != "" {
		if o.Owner, err = ownerNamed(f.owner); err != nil {
			return o, fmt.Errorf("--owner: %w", err)
		}
	}
	o.Program, err = os.Executable()
	return o, err
}

func ownerNamed(name string) (*postgres.Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return &postgres.Owner{UID: uid, GID: gid}, err
}

// restoredJSON is what restore says of a cluster.
type restoredJSON struct {
	System      uint64            `json:"system,string"`
	Target      string            `json:"target"`
	Timeline    wal.Timeline      `json:"timeline"`
	Start       wal.LSN           `json:"start"`
	Through     wal.LSN           `json:"through"`            // the log reaches until here
	Until       time.Time         `json:"until"`              // the server's clock there
	LogBytes    uint64            `json:"log_bytes"`          // to replay, at most
	Unproven    string            `json:"unproven,omitempty"` // why there may be more
	Tablespaces map[string]string `json:"tablespaces,omitempty"`
	Config      []string          `json:"configuration,omitempty"` // files that were put into the data directory
	Serving     bool              `json:"serving"`                 // the command hands out the log until recovery has ended
}

// restoreCluster restores a cluster, from the base backup that suits the moment where head is nil, and returns what hands
// out its log.
func (f *restoreFlags) restoreCluster(c *cobra.Command, u *ui, r *archive.Reader, head *snapshot.Head, register, to string) (*restoreJSON, *supply, error) {
	o, err := f.target.options(to, f.options(nil))
	if err != nil {
		return nil, nil, usageError(c, err)
	}
	plan, err := postgres.NewPlan(c.Context(), r, head, o.Target, func(bytes uint64) {
		u.note("%s: looking for %s in %s of its log", register, o.Target.String(), size(int64(bytes)))
	})
	if err != nil {
		return nil, nil, err
	}
	for _, why := range plan.Passed {
		u.note("%s: not from the base backup that is nearest: %s", register, printable(why.Error()))
	}
	head, l, reach := plan.Head, plan.Log, plan.Reach
	o.Target, o.Aim = plan.Target, plan.Aim
	if f.spacesBeside {
		o.SpacesBelow = o.To + "-tablespaces"
	}
	_, missing := os.Stat(to)
	var p archive.Progress
	done := u.progress("restore of "+register, &p, 0)
	start := time.Now()
	rep, err := postgres.Restore(c.Context(), r, head, reach, &l.Base, o, &p)
	done()
	if err != nil {
		if missing != nil {
			_ = os.Remove(to)
		}
		if rep == nil || rep.RestoreReport == nil {
			return nil, nil, err
		}
	}
	a := &restoreJSON{Register: register, To: to, RestoreReport: rep.RestoreReport, Seconds: time.Since(start).Seconds()}
	a.Cluster = &restoredJSON{
		System: l.Base.System, Target: o.Target.String(), Timeline: reach.Timeline, Start: l.Base.Start, Through: reach.Through,
		Until: reach.Clock.UTC(), LogBytes: reach.Bytes, Tablespaces: rep.Tablespaces, Config: rep.Config, Serving: !f.target.noWait,
	}
	if reach.Gap != nil {
		a.Cluster.Unproven = reach.Gap.Error()
	}
	return a, &supply{log: l, to: o.To, register: register}, err
}

// fits refuses options that mean nothing for the register's kind, or for the snapshot that is named.
func (f *restoreFlags) fits(c *cobra.Command, cluster bool, snapshot string, include []string) error {
	if n := f.target.set(c); !cluster && n != "" {
		return fmt.Errorf("--%s is for a PostgreSQL cluster, and this register is files", n)
	}
	if !cluster && snapshot != "" && f.target.time != "" {
		return errSnapshotOrTime
	}
	if cluster && (len(include) > 0 || f.partial) {
		return errors.New("of a cluster nothing is restored in part: take --include and --partial away")
	}
	return nil
}

// runCluster restores a cluster with a reader's key, and hands out its log.
func (f *restoreFlags) runCluster(c *cobra.Command, u *ui, conn *connection, register, name, identity string) error {
	r, err := openOwnReader(c.Context(), conn, register, identity)
	if err != nil {
		return err
	}
	defer r.Close()
	var head *snapshot.Head
	if name != "" {
		if head, err = r.Find(name); err != nil {
			return err
		}
	}
	a, s, err := f.restoreCluster(c, u, r, head, register, f.to)
	if err != nil {
		return err
	}
	if err := u.answer(a, a.print); err != nil {
		return err
	}
	a.explain(u)
	if f.target.noWait {
		return nil
	}
	return s.serve(c.Context(), u)
}

// supply hands out the log of one restored cluster.
type supply struct {
	log      *postgres.Log
	to       string
	register string
}

// serve hands out the log until recovery has ended.
func (s *supply) serve(ctx context.Context, u *ui) error {
	l := s.log
	if err := postgres.CheckSystem(s.to, l.Base.System); err != nil {
		return &failure{err: err, code: exitUsage, hint: "name the register that was restored into " + s.to}
	}
	x := &postgres.Supply{
		View: l.View(),
		Renew: func(ctx context.Context) (postgres.View, error) {
			next, err := l.Renew(ctx)
			if err != nil {
				return postgres.View{}, err
			}
			l = next
			return l.View(), nil
		},
		Log: func(format string, args ...any) {
			if !u.quiet {
				u.note(s.register+": "+format, args...)
			}
		},
	}
	x.Ready = func() {
		u.note("%s: start the server on %s now; its log is handed out here until it has recovered", s.register, s.to)
	}
	if err := x.Serve(ctx, s.to); err != nil {
		return err
	}
	u.note("%s: recovered", s.register)
	return nil
}

// printCluster says what was restored.
func (a *restoreJSON) printCluster(w io.Writer) {
	c := a.Cluster
	fmt.Fprintf(w, "Cluster %s of snapshot %s is in %s: %s in %s. %.1f s.\n", a.Register, a.Snapshot, a.To, size(a.Bytes), plural(a.Files, "file"), a.Seconds)
	fmt.Fprintf(w, "A server that starts on it recovers to %s, on timeline %d: at most %s of log, which reaches until %s, %s.\n",
		c.Target, c.Timeline, size(int64(c.LogBytes)), c.Through, c.Until.Format(time.RFC3339))
	for n, where := range c.Tablespaces {
		fmt.Fprintf(w, "Tablespace %s is in %s.\n", n, printable(where))
	}
	fmt.Fprint(w, "It archives nothing and waits for no standby: when it is to take over, look at the end of its postgresql.auto.conf.\n")
}

// openOwnReader opens a reader with local files of its own, for work that takes long: a backup must not wait for it.
func openOwnReader(ctx context.Context, conn *connection, register, identity string) (*archive.Reader, error) {
	work, err := os.MkdirTemp("", "chancery-read-*")
	if err != nil {
		return nil, err
	}
	conn.later(func() { os.RemoveAll(work) })
	return openReaderIn(ctx, conn, register, identity, work)
}

// gapJSON is a place where the log of a cluster does not go on.
type gapJSON struct {
	After uint64 `json:"after_snapshot"`
	Why   string `json:"why"`
}

// pgShowJSON is how far the snapshots of a cluster can be recovered.
type pgShowJSON struct {
	Register  string      `json:"register"`
	Snapshots []reachJSON `json:"snapshots"`
	Gaps      []gapJSON   `json:"gaps"`
}

// reachJSON is one base backup.
type reachJSON struct {
	Snapshot uint64       `json:"snapshot"`
	Timeline wal.Timeline `json:"timeline"`
	Start    wal.LSN      `json:"start"`
	End      wal.LSN      `json:"end"`
	Follows  wal.Timeline `json:"follows"`
	Through  wal.LSN      `json:"through"`
	From     time.Time    `json:"from"`
	Until    time.Time    `json:"until"`
	LogBytes uint64       `json:"log_bytes"`
	Why      string       `json:"why,omitempty"` // it cannot be recovered, or whether there is more is not proven
	Useless  bool         `json:"useless,omitempty"`
}

func pgShow(u *ui) *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "show REGISTER", Short: "Show to which moments a cluster can be brought back", Args: cobra.ExactArgs(1),
		Long:    "For each snapshot: from which moment to which the log reaches, on which timeline, and where it has a hole.",
		Example: "  chancery pg show land --home HOME --identity READER.key",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&identity, "identity", "", "a reader's private key file")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		r, err := openReader(c.Context(), conn, args[0], identity)
		if err != nil {
			return err
		}
		defer r.Close()
		a, err := showCluster(c.Context(), r, args[0])
		if err != nil {
			return err
		}
		return u.answer(a, a.print)
	}
	return c
}

func showCluster(ctx context.Context, r *archive.Reader, register string) (*pgShowJSON, error) {
	a := &pgShowJSON{Register: register, Snapshots: []reachJSON{}, Gaps: []gapJSON{}}
	newest, err := r.Find("latest")
	if err != nil {
		return nil, err
	}
	for seq := uint64(1); seq <= newest.Sequence; seq++ {
		head, err := r.Find(archive.SnapshotName(seq))
		if errors.Is(err, archive.ErrReleased) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := postgres.OpenLog(ctx, r, head)
		if err != nil {
			return nil, err
		}
		x := reachJSON{Snapshot: seq, Timeline: l.Base.Timeline, Start: l.Base.Start, End: l.Base.End, From: time.Unix(0, l.Base.Clock).UTC()}
		reach, err := l.Trail.Reach(&l.Base, 0)
		switch {
		case err != nil:
			x.Why, x.Useless = err.Error(), true
		default:
			x.Follows, x.Through, x.Until, x.LogBytes = reach.Timeline, reach.Through, reach.Clock.UTC(), reach.Bytes
			if reach.Gap != nil {
				x.Why = reach.Gap.Error()
			}
		}
		if errors.Is(err, postgres.ErrHole) || reach != nil && errors.Is(reach.Gap, postgres.ErrHole) {
			a.Gaps = append(a.Gaps, gapJSON{seq, x.Why})
		}
		a.Snapshots = append(a.Snapshots, x)
	}
	return a, nil
}

func (a *pgShowJSON) print(w io.Writer) {
	var rows [][]string
	for _, x := range a.Snapshots {
		until := x.Until.Format(time.RFC3339)
		if x.Useless {
			until = "-"
		}
		rows = append(rows, []string{
			fmt.Sprint(x.Snapshot), x.From.Format(time.RFC3339), until, fmt.Sprint(x.Follows), x.Through.String(), size(int64(x.LogBytes)),
		})
	}
	table(w, "SNAPSHOT FROM UNTIL TIMELINE POSITION LOG", rows)
	for _, g := range a.Snapshots {
		if g.Why != "" {
			fmt.Fprintf(w, "Snapshot %d: %s.\n", g.Snapshot, printable(g.Why))
		}
	}
}
