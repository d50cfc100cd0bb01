package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// backupCluster takes a base backup of a register that is a cluster, and the log that it needs: with the stream that is
// running, or with one of its own for as long as it takes.
func (c *connection) backupCluster(ctx context.Context, u *ui, r *home.Register, reg *register.Register, tags []string) (*backupJSON, error) {
	name := r.Definition.Name
	s := &streaming{conn: c, u: u, r: r, reg: reg}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	var p archive.Progress
	done := u.progress("backup of "+name, &p, 0)
	start := time.Now()
	rep, err := postgres.Backup(ctx, reg, c.agent(), postgres.BaseOptions{
		Conninfo: r.Definition.Postgres.Conninfo, Tags: tags, Fast: true, Stretch: s.before,
		Covered: func(ctx context.Context, tl wal.Timeline, to wal.LSN) error {
			_, err := s.covered(ctx, tl, to)
			return err
		},
		Log: func(format string, args ...any) { u.note("%s: %s", name, printable(fmt.Sprintf(format, args...))) },
	}, &p)
	done()
	if err != nil {
		return nil, errors.Join(err, s.failed())
	}
	a := backupAnswer(name, rep.BackupReport, time.Since(start))
	a.Cluster = &clusterJSON{
		System: rep.Base.System, Version: rep.Base.Version, Timeline: rep.Base.Timeline, Start: rep.Base.Start, End: rep.Base.End,
		Since: rep.Since, Checksums: rep.Checksums, Uncovered: uncovered(&r.Definition, rep.Facts), Warnings: rep.Warnings,
	}
	return a, nil
}

// clusterJSON is what backup says of a cluster.
type clusterJSON struct {
	System    uint64       `json:"system,string"`
	Version   int          `json:"version"`
	Timeline  wal.Timeline `json:"timeline"`
	Start     wal.LSN      `json:"start"`
	End       wal.LSN      `json:"end"`
	Since     wal.LSN      `json:"changes_since,omitzero"` // where the backup began of which this is the changes; all was sent without
	Checksums bool         `json:"data_checksums"`
	Uncovered []string     `json:"uncovered,omitempty"` // what no backup brings back, or no register names
	Warnings  []string     `json:"warnings,omitempty"`
}

// uncovered names what of a cluster is not protected by the register, though somebody may think so.
func uncovered(def *home.Definition, f *cluster.Facts) []string {
	var out []string
	named := map[string]bool{}
	for _, d := range def.Postgres.Databases {
		named[d] = true
	}
	for i := range f.Databases {
		d := &f.Databases[i]
		if len(named) > 0 && !named[d.Name] && !d.Template {
			out = append(out, fmt.Sprintf("database %s: in the cluster and named by no register", d.Name))
		}
		delete(named, d.Name)
		for _, x := range d.Unlogged {
			out = append(out, fmt.Sprintf("database %s: %s %s.%s is unlogged: it comes back empty", d.Name, x.Kind, x.Schema, x.Name))
		}
	}
	for d := range named {
		out = append(out, fmt.Sprintf("database %s: named by the register and not in the cluster", d))
	}
	for _, c := range f.ConfigFiles {
		if c.Unread != "" {
			out = append(out, fmt.Sprintf("configuration %s: not readable: %s", c.Path, c.Unread))
		}
	}
	for _, x := range f.Unread {
		out = append(out, fmt.Sprintf("%s: not readable: %s", x.What, x.Why))
	}
	return out
}

// streaming is a stream beside a base backup: another process's, or our own.
type streaming struct {
	conn   *connection
	u      *ui
	r      *home.Register
	reg    *register.Register
	before uint64 // the newest stretch before the backup

	own   *stream.Stream // nil when another process streams
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of our own, once ended is closed
	up    chan postgres.Event
}

func (s *streaming) begin(ctx context.Context) (err error) {
	newest, err := stream.FindNewest(ctx, s.reg, s.conn.agent())
	if err != nil {
		return err
	}
	s.before = newest.Sequence
	s.own, err = stream.Open(ctx, s.reg, s.conn.agent(), stream.Options{Holders: s.r.Definition.Postgres.Holders})
	if locked(err) {
		s.own = nil
		return nil
	}
	if err != nil {
		return err
	}
	var run context.Context
	run, s.stop = context.WithCancel(ctx)
	s.ended, s.up = make(chan struct{}), make(chan postgres.Event, 1)
	tell := s.conn.teller(s.u, s.r.Definition.Name, s.r.Dir)
	go func() {
		defer close(s.ended)
		s.err = postgres.Stream(run, s.own, postgres.StreamOptions{
			Conninfo: s.r.Definition.Postgres.Conninfo, Slot: s.r.Definition.Postgres.Slot, Interval: 100 * time.Millisecond,
			Tell: func(e postgres.Event) {
				if e.Alarm {
					tell(e)
				}
				if e.What == postgres.Connected {
					select {
					case s.up <- e:
					default:
					}
				}
			},
		})
	}()
	select { // the slot must keep the log before the backup begins
	case <-s.up:
		return nil
	case <-s.ended:
	case <-ctx.Done():
	}
	defer s.end()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.err
}

// end stops our own stream.
func (s *streaming) end() {
	if s.own == nil {
		return
	}
	s.stop()
	<-s.ended
	ctx, cancel := context.WithTimeout(context.Background(), streamClosing)
	defer cancel()
	_ = s.own.Close(ctx) // what was not durable was not acknowledged
	s.own = nil
}

// failed is why our own stream ended before it was told to.
func (s *streaming) failed() error {
	if s.own == nil {
		return nil
	}
	select {
	case <-s.ended:
		return s.err
	default:
		return nil
	}
}

// coverDeadline is how long a base backup waits for the log that it needs.
const coverDeadline = 30 * time.Minute

// covered waits until the embassies hold the log up to a position, and returns until when everything is in it.
func (s *streaming) covered(ctx context.Context, tl wal.Timeline, to wal.LSN) (time.Time, error) {
	deadline := time.Now().Add(coverDeadline)
	for {
		p, err := s.position(ctx)
		switch {
		case err != nil:
			return time.Time{}, err
		case p != nil && p.Kind == postgres.KindLog && p.Timeline == tl && p.End >= to:
			return time.Unix(0, p.Clock), nil
		case p != nil && p.Timeline > tl:
			return time.Time{}, cluster.ErrTimelineSwitched
		case s.failed() != nil:
			return time.Time{}, s.failed()
		case time.Now().After(deadline):
			return time.Time{}, fmt.Errorf("not within %s; is chancery pg stream running well?", coverDeadline)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

// position is that of the newest stretch that the register could be read with; nil while there is none. Where our own stream
// asks for more holders than that, the embassies are asked.
func (s *streaming) position(ctx context.Context) (*postgres.Position, error) {
	var raw []byte
	if s.own != nil && s.r.Definition.Postgres.Holders <= s.reg.K {
		var seq uint64
		var err error
		if raw, seq, err = s.own.Last(); err != nil || seq == 0 {
			return nil, err
		}
	} else {
		newest, err := stream.FindNewest(ctx, s.reg, s.conn.agent())
		if err != nil || newest.Sequence == 0 {
			return nil, err
		}
		raw = newest.Position
	}
	p, err := postgres.ParsePosition(raw)
	return &p, err
}
