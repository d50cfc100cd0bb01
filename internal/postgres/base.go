package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/wal"
)

// Where the parts of a cluster stand in its snapshot. Specification: docs/spec/positions.md.
const (
	dataFolder    = "data"        // the data directory, with the server's own backup_manifest
	spacesFolder  = "tablespaces" // a folder for each, named by its number
	configFolder  = "config"      // configuration that lies outside of the data directory, by its whole path
	historyFolder = "history"     // the history of the timeline that the backup is of
	factsFile     = "cluster.json"
	manifestFile  = "backup_manifest"
)

// BaseOptions say how a base backup is taken.
type BaseOptions struct {
	Conninfo string // as libpq reads it
	Tags     []string
	Fast     bool // ask for a checkpoint at once
	// Stretch is the number of the newest stretch before the backup begins, 0 where there is none. Recovery will look
	// for the log from there.
	Stretch uint64
	// Covered returns when the log of a timeline is kept abroad up to a position. The backup is of no use before, and
	// there is no snapshot until then.
	Covered func(context.Context, wal.Timeline, wal.LSN) error
	// Log is told, in a line, why the server sends everything where it could have sent what changed, in part in the
	// server's words; may be nil.
	Log func(format string, args ...any)
}

// BaseReport is what a base backup did.
type BaseReport struct {
	*archive.BackupReport
	Base       Base
	Facts      *cluster.Facts
	Checksums  bool     // whether the cluster's pages bear them: without, damage at home goes into the backup unseen
	Tablespace []string // where tablespaces lie
	Warnings   []string // the server's own
	// Since is where the backup began that this one is the changes to; 0 where the server sent everything.
	Since wal.LSN
}

// ErrUncovered means that a base backup is whole and the log that it needs is not kept abroad.
var ErrUncovered = errors.New("the log that the backup needs is not at the embassies")

// Backup takes a base backup of a running cluster as a snapshot of its register. Nothing is written at home but what the
// archive keeps. A page with a wrong checksum fails it (cluster.ErrChecksum), as do full_page_writes that are off, and
// files of the cluster that the server does not send (ErrNotSent).
//
// A server that keeps summaries of its log is asked for what changed since the last one alone; the snapshot is whole all
// the same. Where that cannot be, it sends everything.
func Backup(ctx context.Context, reg *register.Register, agent *register.Agent, o BaseOptions, progress *archive.Progress) (*BaseReport, error) {
	rep, err := backup(ctx, reg, agent, o, progress, false)
	if errors.Is(err, cluster.ErrUnchanging) || errors.Is(err, archive.ErrNotFed) {
		o.log("the server sends everything: %v", err)
		rep, err = backup(ctx, reg, agent, o, progress, true)
	}
	return rep, err
}

func backup(ctx context.Context, reg *register.Register, agent *register.Agent, o BaseOptions, progress *archive.Progress, whole bool) (*BaseReport, error) {
	b := &baseBackup{reg: reg, agent: agent, opts: o, rep: &BaseReport{}}
	feed := archive.Feed{Path: o.Conninfo, Tags: o.Tags, Forget: whole, Read: b.read}
	rep, err := archive.BackupFeed(ctx, reg, agent, feed, progress)
	if err != nil {
		return nil, err
	}
	b.rep.BackupReport = rep
	return b.rep, nil
}

func (o *BaseOptions) log(format string, args ...any) {
	if o.Log != nil {
		o.Log(format, args...)
	}
}

// baseBackup hands what a server sends to a feeder.
type baseBackup struct {
	reg      *register.Register
	agent    *register.Agent
	opts     BaseOptions
	rep      *BaseReport
	feed     *archive.Feeder
	page     int      // bytes
	remember bool     // the next may be the changes to this one
	changes  *changes // nil while the server sends everything
	awaited  *awaited
}

func (b *baseBackup) read(ctx context.Context, f *archive.Feeder) ([]byte, error) {
	b.feed = f
	conn, err := cluster.Open(ctx, b.opts.Conninfo)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	id, err := conn.Identify(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := cluster.Inspect(ctx, b.opts.Conninfo)
	if err != nil {
		return nil, err
	}
	b.rep.Facts, b.rep.Checksums, b.page = &facts, id.DataChecksums, id.BlockSize
	o := cluster.BackupOptions{Label: "chancery", Fast: b.opts.Fast}
	whole, err := b.since(ctx, conn, &id, &o)
	if err != nil {
		return nil, err
	}
	if b.awaited, err = await(ctx, b.opts.Conninfo); err != nil {
		return nil, err
	}
	res, err := conn.BaseBackup(ctx, o, b)
	if err == nil {
		err = b.awaited.check(ctx, b.opts.Conninfo)
	}
	if err != nil {
		return nil, err
	}
	b.rep.Warnings = res.Warnings
	if b.remember {
		f.Remember((&basis{id.System, uint32(id.Version), res.Timeline, id.DataChecksums, res.Start, res.End, whole.UnixNano()}).bytes())
	}
	// What was committed until then is in the log up to what the server has written after it.
	clock, err := cluster.Clock(ctx, b.opts.Conninfo)
	if err != nil {
		return nil, err
	}
	after, err := b.around(ctx, conn, &res)
	if err != nil {
		return nil, err
	}
	through := max(res.End, after.WriteLSN)
	if err := b.opts.Covered(ctx, res.Timeline, through); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUncovered, err)
	}
	b.rep.Base = Base{
		System: id.System, Version: id.Version, Timeline: res.Timeline, Segment: id.SegmentSize,
		Start: res.Start, End: res.End, Clock: clock.UnixNano(), Stretch: max(1, b.opts.Stretch),
	}
	if err := Holds(ctx, b.reg, b.agent, &b.rep.Base, b.rep.Base.Timeline, through); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUncovered, err)
	}
	return b.rep.Base.Bytes()
}

// around gives what belongs to a backup beside the server's files, and returns what the server is after it.
func (b *baseBackup) around(ctx context.Context, conn *cluster.Conn, res *cluster.BackupResult) (after cluster.Identity, err error) {
	if after, err = conn.Identify(ctx); err != nil {
		return after, err
	}
	if after.Timeline != res.Timeline {
		return after, fmt.Errorf("%w: it was %d and is %d", cluster.ErrTimelineSwitched, res.Timeline, after.Timeline)
	}
	if res.Timeline > 1 { // its beginning may lie before the log that recovery looks at
		name, text, err := conn.TimelineHistory(ctx, res.Timeline)
		if err == nil {
			err = b.put(historyFolder+"/"+name, text)
		}
		if err != nil {
			return after, err
		}
	}
	return after, b.facts()
}

// Begin is cluster.Receiver.
func (b *baseBackup) Begin(s cluster.BackupStart) error {
	for _, x := range s.Tablespaces {
		if x.OID != 0 && !path.IsAbs(x.Location) { // from version 16 on it tells of those; 15 sends nothing of them
			return fmt.Errorf("%w: not tablespace %d, which lies in the data directory (allow_in_place_tablespaces, a setting for tests)", ErrNotSent, x.OID)
		}
		if x.OID != 0 {
			b.rep.Tablespace = append(b.rep.Tablespace, x.Location)
		}
	}
	return nil
}

// Entry is cluster.Receiver.
func (b *baseBackup) Entry(s cluster.Space, e cluster.Entry, r io.Reader) error {
	in, below := dataFolder, ""
	if s.OID != 0 {
		in, below = fmt.Sprintf("%s/%d", spacesFolder, s.OID), fmt.Sprintf("pg_tblspc/%d", s.OID)
	}
	name := path.Join(in, e.Name)
	a := archive.Attributes{Mode: uint32(e.Mode.Perm()), UID: uint32(e.UID), GID: uint32(e.GID), Modified: e.ModTime}
	if e.Mode.Type() != fs.ModeSymlink {
		b.awaited.came(path.Join(below, e.Name))
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		return b.feed.Folder(name, a)
	case fs.ModeSymlink:
		return b.feed.Link(name, e.Link, a)
	}
	if b.changes != nil {
		if of, ok := cluster.ChangedName(name); ok {
			b.awaited.came(path.Join(below, strings.TrimPrefix(of, in+"/")))
			return b.changed(of, a, e.Size, r)
		}
		if name == labelFile {
			return b.label(a, e.Size, r)
		}
	}
	if b.remember && b.paged(name, e.Size) {
		pages := &pageReader{r: r, page: b.page}
		return b.feed.Noted(name, a, e.Size, pages, func() []byte { return pages.sums })
	}
	return b.feed.File(name, a, e.Size, r)
}

// maxManifest caps the server's manifest: about 200 bytes a file, of ten million files.
const maxManifest = 2 << 30

// Manifest is cluster.Receiver. The server does not say how long it is, so it is gathered first.
func (b *baseBackup) Manifest(r io.Reader) error {
	var text bytes.Buffer
	if _, err := io.Copy(&text, io.LimitReader(r, maxManifest)); err != nil {
		return err
	}
	out := text.Bytes()
	if b.changes != nil {
		var err error
		if out, err = b.changes.manifest(out); err != nil {
			return err
		}
	}
	return b.put(dataFolder+"/"+manifestFile, out)
}

// put gives a file that the backup itself makes.
func (b *baseBackup) put(name string, data []byte) error {
	return b.feed.File(name, archive.Attributes{Mode: 0o600, Modified: time.Now()}, int64(len(data)), bytes.NewReader(data))
}

// facts gives what is known of the cluster beyond its files, and the configuration that lies elsewhere.
func (b *baseBackup) facts() error {
	facts := *b.rep.Facts
	facts.ConfigFiles = nil
	seen := map[string]bool{}
	for _, c := range b.rep.Facts.ConfigFiles {
		name := strings.TrimPrefix(path.Clean("/"+c.Path), "/")
		if c.Unread == "" && name != "" && !seen[name] {
			seen[name] = true
			if err := b.put(configFolder+"/"+name, c.Content); err != nil {
				return err
			}
			c.Content = nil
		}
		facts.ConfigFiles = append(facts.ConfigFiles, c)
	}
	text, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return err
	}
	return b.put(factsFile, append(text, '\n'))
}
