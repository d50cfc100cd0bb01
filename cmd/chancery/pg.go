package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

func pgCommand(u *ui) *cobra.Command {
	return noun("pg", "Take a PostgreSQL cluster's log abroad, and bring it back", "  chancery pg stream land --home HOME",
		pgStream(u), pgShow(u), pgServe(u), pgFetch(u))
}

// clusterOf opens a register that is a cluster.
func (c *connection) clusterOf(name string) (*home.Register, *register.Register, error) {
	r, reg, err := c.register(name)
	if err != nil {
		return nil, nil, err
	}
	if r.Definition.Postgres == nil {
		return nil, nil, &failure{err: fmt.Errorf("register %s is no PostgreSQL cluster", name), code: exitUsage, hint: "chancery register show " + name + " --home HOME"}
	}
	return r, reg, nil
}

// clusters are the registers named, or all that are clusters.
func (c *connection) clusters(names []string) ([]string, error) {
	if len(names) > 0 {
		return names, nil
	}
	names, err := c.clusterNames()
	if err == nil && len(names) == 0 {
		return nil, &failure{err: errors.New("no register is a PostgreSQL cluster"), code: exitNotFound, hint: "chancery register add NAME --postgres 'host=… user=…' --home HOME …"}
	}
	return names, err
}

// clusterNames are the registers that are clusters.
func (c *connection) clusterNames() (names []string, err error) {
	all, err := c.home.Registers()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		r, err := c.home.Register(n)
		if err != nil {
			return nil, err
		}
		if r.Definition.Postgres != nil {
			names = append(names, n)
		}
	}
	return names, nil
}

func pgStream(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "stream [REGISTER...]", Short: "Take the log of clusters to their embassies, as it is written", Args: cobra.ArbitraryArgs,
		Long: "Receives the write-ahead log through a replication slot and keeps it at the embassies. The server is told that it\n" +
			"may forget only what enough embassies hold. Without a register, all clusters. It reconnects by itself, and ends\n" +
			"when it is told to, or when people must decide: two servers wrote one place of the log, or an older copy of the\n" +
			"server was started (exit 7). Alarms go to standard error and into HOME/registers/NAME/alarms; with --json each\n" +
			"event is a line on standard output.\n\n" +
			"Where the register is synchronous, name it in the server's configuration, and a commit returns when the embassies\n" +
			"hold it: synchronous_standby_names = 'chancery'.",
		Example: "  chancery pg stream land --home HOME",
	}
	var without []string
	dir := homeFlag(c)
	c.Flags().StringSliceVar(&without, "without", nil,
		"an embassy that is gone for good: a machine that does not remember how a log ends waits for every other, once")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		names, err := conn.clusters(args)
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(c.Context())
		defer stop()
		errs := make([]error, len(names))
		var all sync.WaitGroup
		for i, n := range names {
			all.Go(func() {
				if errs[i] = conn.stream(ctx, u, n, without...); errs[i] != nil && len(names) > 1 {
					u.note("%s: %v", n, errs[i]) // the others go on
				}
			})
		}
		all.Wait()
		if c.Context().Err() != nil {
			return nil // a daemon that was told to end has not failed
		}
		return errors.Join(errs...)
	}
	return c
}

// eventJSON is one event of a stream.
type eventJSON struct {
	Register string `json:"register"`
	postgres.Event
}

// gone finds a register's embassies that are gone for good.
func gone(reg *register.Register, names []string) (out []charter.EmbassyID, err error) {
	for _, n := range names {
		i := slices.IndexFunc(reg.Members, func(m register.Member) bool { return m.Name == n })
		if i < 0 {
			return nil, &failure{err: fmt.Errorf("--without %s: it is no embassy of register %s", n, reg.Name), code: exitUsage, hint: "chancery register show " + reg.Name + " --home HOME"}
		}
		out = append(out, reg.Members[i].ID)
	}
	return out, nil
}

// stream takes one cluster's log until ctx ends or people must decide. without are embassies that are gone for good.
func (c *connection) stream(ctx context.Context, u *ui, name string, without ...string) error {
	r, reg, err := c.clusterOf(name)
	if err != nil {
		return err
	}
	wait, err := r.Definition.Postgres.Wait()
	if err != nil {
		return err
	}
	lost, err := gone(reg, without)
	if err != nil {
		return err
	}
	opts := stream.Options{Holders: r.Definition.Postgres.Holders, Without: lost, Mend: c.mender(u, reg)}
	to, err := openStream(ctx, reg, c.agent(), opts, func(err error) {
		u.note("%s: %v; trying again", name, err)
		if errors.Is(err, stream.ErrNoMemory) {
			u.note("hint: where that embassy is gone for good: chancery pg stream %s --without EMBASSY", name)
		}
	})
	if err != nil {
		return err
	}
	err = postgres.Stream(ctx, to, postgres.StreamOptions{
		Conninfo: r.Definition.Postgres.Conninfo, Slot: r.Definition.Postgres.Slot,
		Synchronous: r.Definition.Postgres.Synchronous, Interval: wait, Tell: c.teller(u, name, r.Dir),
		Keep: keepConflict(r.Dir),
	})
	if ctx.Err() != nil {
		err = nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), streamClosing)
	defer cancel()
	if cerr := to.Close(last); err == nil && !errors.Is(cerr, stream.ErrClosed) && !errors.Is(cerr, context.DeadlineExceeded) {
		err = cerr // what was not durable was not acknowledged: the server sends it again
	}
	return err
}

// mender gives embassies that were away what they missed of a stream, and says so.
func (c *connection) mender(u *ui, reg *register.Register) stream.Mender {
	return func(ctx context.Context, what stream.Lack) error {
		made, err := archive.MendStream(ctx, reg, c.agent(), what)
		if made > 0 && !u.quiet {
			u.note("%s: %s made for embassies that were away", reg.Name, plural(made, "object"))
		}
		if err != nil && ctx.Err() == nil {
			u.note("%s: not all that embassies missed could be made for them: %s", reg.Name, printable(err.Error()))
		}
		return err
	}
}

// streamClosing is how long a stream that ends waits for what is on its way.
const streamClosing = 10 * time.Second

// openStream opens a register's stream, and tries again while too few embassies answer.
func openStream(ctx context.Context, reg *register.Register, agent *register.Agent, opts stream.Options, tell func(error)) (*stream.Stream, error) {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		s, err := stream.Open(ctx, reg, agent, opts)
		if err == nil || !errors.Is(err, register.ErrTooFew) || ctx.Err() != nil {
			return s, err
		}
		tell(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// teller says events to people, and keeps alarms in a file that status reads.
func (c *connection) teller(u *ui, name, dir string) func(postgres.Event) {
	seen := time.Time{}
	return func(e postgres.Event) {
		if e.Alarm {
			if err := keepAlarm(dir, e); err != nil {
				u.note("%s: the alarm that follows could not be kept: %v", name, err)
			}
		}
		if u.json {
			b, _ := json.Marshal(eventJSON{name, e})
			fmt.Fprintf(u.out, "%s\n", b)
			return
		}
		switch {
		case e.Alarm:
			u.note("%s: ALARM: %s: %s", name, e.What, printable(e.Text))
		case e.What == postgres.Durable:
			if time.Since(seen) > 10*time.Second && !u.quiet {
				seen = time.Now()
				u.note("%s: at the embassies up to %s of timeline %d", name, e.LSN, e.Line)
			}
		default:
			u.note("%s: %s: %s", name, e.What, printable(e.Text))
		}
	}
}

// conflictsDir holds what servers wrote that does not go on from what the embassies hold.
const conflictsDir = "conflicts"

// keepConflict writes evidence into a register's folder. A crash leaves a file of log that no JSON speaks of.
func keepConflict(dir string) func(postgres.Evidence, func(io.Writer) error) error {
	return func(e postgres.Evidence, write func(io.Writer) error) error {
		dir := filepath.Join(dir, conflictsDir)
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		segment := wal.Segment{Timeline: e.Timeline, Number: e.Segment.Number(e.Start)}
		name := filepath.Join(dir, segment.Name(e.Segment)+"-"+e.Time.Format("20060102T150405.000000000Z"))
		f, err := os.OpenFile(name+".log", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
			return err
		}
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return durable.WriteFile(name+".json", append(line, '\n'), 0o600)
	}
}

// alarmsFile holds what a stream raised, a line of JSON each. It is there for people, who may empty it.
const alarmsFile = "alarms"

// maxAlarms caps the file: a server that is away for a year must not fill the disk.
const maxAlarms = 1 << 20

// keepAlarm appends an alarm. A crash leaves it out, or a line cut short, which readers pass over.
func keepAlarm(dir string, e postgres.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, alarmsFile)
	if st, err := os.Stat(path); err == nil && st.Size() > maxAlarms {
		if err := os.Rename(path, path+".old"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// locked reports that another process has the register's stream open.
func locked(err error) bool { return errors.Is(err, durable.ErrLocked) }
