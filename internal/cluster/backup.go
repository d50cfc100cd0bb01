package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/wal"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	checkpointTimeout = 30 * time.Minute // until a fast checkpoint is done
	backupTimeout     = 10 * time.Minute // of silence amid a base backup
)

// BackupOptions say how a base backup is taken.
type BackupOptions struct {
	// Label is written into the backup; at most 512 bytes without line breaks.
	Label string
	// Fast asks for a checkpoint at once. Otherwise the backup waits for one at the server's own pace.
	Fast bool
	// Since, when set, writes the manifest of an earlier backup of this system. Of files that it names the server then
	// sends only what changed since, as entries for which [ChangedName] and [ReadChanges] are, and lists in its own
	// manifest what it sent. It fails with [ErrUnchanging] where the server refuses that before it sends anything.
	Since func(io.Writer) error
	// Progress, when set, is told bytes received and the server's estimate of all, from the goroutine of the backup.
	Progress func(done, total int64)
}

// BackupStart is what the server says before it sends anything.
type BackupStart struct {
	LSN         wal.LSN // recovery needs the log from here
	Timeline    wal.Timeline
	Tablespaces []Space // in the order in which they come; the cluster's own folder is last
}

// BackupResult is what a whole base backup comes to: with the log from Start to End it is consistent.
type BackupResult struct {
	Start    wal.LSN
	End      wal.LSN
	Timeline wal.Timeline
	Bytes    int64 // received, with the archives' own headers
	Warnings []string
}

// A Space is a tablespace of a base backup, or the cluster's own folder, which has OID 0 and no location.
type Space struct {
	OID      uint32
	Location string // where the server has it
	Size     int64  // the server's estimate, in bytes
}

// A Receiver takes a base backup as it comes. What it returns ends the backup and is returned by it; so is nothing kept
// by the connection. Readers are valid during the call and need not be read to the end.
type Receiver interface {
	// Begin comes first, when the server has begun the backup.
	Begin(BackupStart) error
	// Entry is handed each folder, file and link of a tablespace, in the server's order: a folder before what is in it,
	// the cluster's backup_label first of its own folder and its pg_control last.
	Entry(Space, Entry, io.Reader) error
	// Manifest is handed the server's backup manifest when everything else has come.
	Manifest(io.Reader) error
}

// BaseBackup takes a base backup: all files of the cluster and its tablespaces but what recovery makes anew (unlogged
// tables, temporary files, the log). The server verifies the checksum of every page that it reads, lists all files with
// CRC-32C in a manifest, and writes a tablespace_map in place of links. The log is not included: the caller streams it
// from the start's position, through a slot that was there before.
//
// It fails with [ErrChecksum] when a page was damaged, after everything has been sent; with [ErrFullPageWrites],
// [ErrSystemChanged] and [ErrTimelineSwitched]. Of a backup that failed nothing may be used. After a failure amid the
// transfer the connection is closed.
func (c *Conn) BaseBackup(ctx context.Context, o BackupOptions, r Receiver) (BackupResult, error) {
	result, err := c.baseBackup(ctx, o, r)
	if err != nil {
		return BackupResult{}, fmt.Errorf("base backup: %w", err)
	}
	return result, nil
}

func (c *Conn) baseBackup(ctx context.Context, o BackupOptions, r Receiver) (result BackupResult, err error) {
	if len(o.Label) > 512 || strings.ContainsAny(o.Label, "\r\n\x00") {
		return result, errors.New("the label is longer than 512 bytes or has line breaks")
	}
	before, err := c.Identify(ctx)
	if err != nil {
		return result, err
	}
	if !before.FullPageWrites {
		return result, ErrFullPageWrites
	}
	start, err := c.beginBackup(ctx, o)
	if err != nil {
		return result, err
	}
	t := &transfer{conn: c, ctx: ctx, progress: o.Progress, spaces: start.Tablespaces}
	for _, s := range start.Tablespaces {
		t.total += s.Size
	}
	if err := r.Begin(start); err != nil {
		return result, c.fail(err)
	}
	err = t.run(r)
	var end backupEnd
	if err == nil {
		end, err = c.endBackup(ctx)
	}
	if err != nil {
		return result, c.spoilt(ctx, start, err)
	}
	if end.Timeline != start.Timeline || end.LSN < start.LSN {
		return result, fmt.Errorf("%w: from %d at %s to %d at %s", ErrTimelineSwitched, start.Timeline, start.LSN, end.Timeline, end.LSN)
	}
	if _, err := c.Identify(ctx); err != nil {
		return result, err
	}
	return BackupResult{start.LSN, end.LSN, start.Timeline, t.done, end.warnings}, nil
}

// spoilt closes the connection unless the server itself ended the backup. A standby that was promoted amid a backup
// refuses it with a code that other refusals share; so its timeline is asked for.
func (c *Conn) spoilt(ctx context.Context, start BackupStart, err error) error {
	if c.busy {
		return c.fail(err)
	}
	if stateOf(err) == statePrerequisite {
		if id, e := c.position(ctx); e == nil && id.Timeline != start.Timeline {
			return fmt.Errorf("%w: from %d to %d: %w", ErrTimelineSwitched, start.Timeline, id.Timeline, err)
		}
	}
	return err
}

func (c *Conn) beginBackup(ctx context.Context, o BackupOptions) (start BackupStart, err error) {
	label := o.Label
	if label == "" {
		label = "chancery"
	}
	checkpoint, limit := "spread", time.Duration(0)
	if o.Fast {
		checkpoint, limit = "fast", checkpointTimeout
	}
	more := ""
	if o.Since != nil {
		if err := c.uploadManifest(ctx, o.Since); err != nil {
			return start, err
		}
		more = ", INCREMENTAL"
	}
	// CRC-32C: SHA-256 would cost the server nearly as much again as all the rest, and what is kept is sealed and has keyed ids.
	// WAIT 0: whether the server's own archiving is done is of no matter, for the log comes through the stream.
	err = c.send(ctx, fmt.Sprintf("BASE_BACKUP (LABEL %s, PROGRESS 1, CHECKPOINT '%s', WAL 0, WAIT 0, TABLESPACE_MAP 1, "+
		"VERIFY_CHECKSUMS 1, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TARGET 'client'%s)", quoteLiteral(label), checkpoint, more))
	if err != nil {
		return start, err
	}
	rows, err := c.result(ctx, limit)
	if err != nil {
		if o.Since != nil {
			err = c.unchanging(err)
		}
		return start, err
	}
	if start.LSN, start.Timeline, err = place(rows); err != nil {
		return start, c.fail(err)
	}
	if rows, err = c.result(ctx, backupTimeout); err != nil {
		return start, err
	}
	for _, r := range rows {
		s, err := parseSpace(r)
		if err != nil {
			return start, c.fail(err)
		}
		start.Tablespaces = append(start.Tablespaces, s)
	}
	return start, nil
}

func place(rows []row) (l wal.LSN, t wal.Timeline, err error) {
	if len(rows) != 1 {
		return 0, 0, fmt.Errorf("%w: %d positions of a backup", ErrProtocol, len(rows))
	}
	l, err = wal.ParseLSN(rows[0]["recptr"])
	if err == nil {
		t, err = wal.ParseTimeline(rows[0]["tli"])
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return l, t, nil
}

func parseSpace(r row) (s Space, err error) {
	if text, ok := r["spcoid"]; ok {
		oid, err := strconv.ParseUint(text, 10, 32)
		if err != nil || oid == 0 || r["spclocation"] == "" {
			return s, fmt.Errorf("%w: tablespace %q at %q", ErrProtocol, text, r["spclocation"])
		}
		s.OID, s.Location = uint32(oid), r["spclocation"]
	}
	if text, ok := r["size"]; ok {
		kib, err := strconv.ParseInt(text, 10, 64)
		if err != nil || kib < 0 || kib > 1<<50 {
			return s, fmt.Errorf("%w: tablespace of %q KiB", ErrProtocol, text)
		}
		s.Size = kib << 10
	}
	return s, nil
}

type backupEnd struct {
	LSN      wal.LSN
	Timeline wal.Timeline
	warnings []string
}

// endBackup reads what follows the transfer. Only here does the server say that checksums failed.
func (c *Conn) endBackup(ctx context.Context) (end backupEnd, err error) {
	var rows []row
	if rows, err = c.result(ctx, backupTimeout); err == nil {
		if end.LSN, end.Timeline, err = place(rows); err != nil {
			return end, c.fail(err)
		}
		err = c.ready(ctx)
	}
	end.warnings = c.notices
	if errors.Is(err, ErrChecksum) && len(c.notices) > 0 {
		return end, fmt.Errorf("%w (%s)", err, strings.Join(c.notices[:min(len(c.notices), 5)], "; "))
	}
	return end, err
}

// A transfer is the one COPY stream of a base backup. Its messages begin with a letter:
//
//	n  name, 0, location, 0: a tar archive of a tablespace begins
//	m  the manifest begins
//	d  bytes of either
//	p  int64: bytes done, for progress
type transfer struct {
	conn     *Conn
	ctx      context.Context
	progress func(done, total int64)
	spaces   []Space
	done     int64
	total    int64

	data   []byte // of the last message, not yet read; the connection's
	next   []byte // an n or m message that ended what was read before
	copied bool   // the server ended the stream
}

func (t *transfer) run(r Receiver) error {
	m, err := t.conn.next(t.ctx, backupTimeout)
	if err != nil {
		return err
	}
	if _, ok := m.(*pgproto3.CopyOutResponse); !ok {
		return t.conn.nonsense(m, "the beginning of a transfer")
	}
	if err := t.advance(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, s := range t.spaces {
		if err := t.open('n', s); err != nil {
			return err
		}
		if err := unpack(t, s, r); err != nil {
			return err
		}
	}
	if err := t.open('m', Space{}); err != nil {
		return err
	}
	if err := r.Manifest(t); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, t); err != nil {
		return err
	}
	if !t.copied {
		return fmt.Errorf("%w: more than tablespaces and a manifest", ErrProtocol)
	}
	return nil
}

// open begins the archive of a tablespace, or the manifest: it must be what the server began.
func (t *transfer) open(kind byte, s Space) error {
	m := t.next
	if t.next = nil; len(m) == 0 || m[0] != kind {
		return fmt.Errorf("%w: not an archive where %q is due", ErrProtocol, kind)
	}
	if kind == 'm' {
		return nil
	}
	parts := strings.Split(string(m[1:]), "\x00")
	name := "base.tar"
	if s.OID != 0 {
		name = fmt.Sprintf("%d.tar", s.OID)
	}
	if len(parts) != 3 || parts[0] != name || parts[1] != s.Location || parts[2] != "" {
		return fmt.Errorf("%w: archive %.200q, not %q of %q", ErrProtocol, m[1:], name, s.Location)
	}
	return nil
}

// Read reads what has been opened, up to its end.
func (t *transfer) Read(p []byte) (int, error) {
	for len(t.data) == 0 {
		if t.next != nil || t.copied {
			return 0, io.EOF
		}
		if err := t.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.data)
	t.data = t.data[n:]
	return n, nil
}

// advance takes the next message.
func (t *transfer) advance() error {
	m, err := t.conn.next(t.ctx, backupTimeout)
	if err != nil {
		return err
	}
	if _, ok := m.(*pgproto3.CopyDone); ok {
		t.copied = true
		return io.EOF
	}
	d, ok := m.(*pgproto3.CopyData)
	if !ok {
		return t.conn.nonsense(m, "a transfer")
	}
	if len(d.Data) == 0 {
		return fmt.Errorf("%w: an empty message in a transfer", ErrProtocol)
	}
	switch d.Data[0] {
	case 'd':
		t.data = d.Data[1:]
		t.count(int64(len(t.data)))
	case 'n', 'm':
		t.next = append([]byte(nil), d.Data...)
	case 'p': // the server's count; ours is of what came
	default:
		return fmt.Errorf("%w: message %q in a transfer", ErrProtocol, d.Data[0])
	}
	return nil
}

func (t *transfer) count(n int64) {
	t.done += n
	if t.progress != nil {
		t.progress(t.done, max(t.done, t.total))
	}
}
