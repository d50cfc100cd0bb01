package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/wal"
)

// The major versions that are known.
const (
	MinVersion = 15
	MaxVersion = 18
)

// An Identity is which database system a server runs, where it stands, and how it writes.
type Identity struct {
	System         uint64          `json:"system,string"` // made once, when the cluster is
	Timeline       wal.Timeline    `json:"timeline"`
	WriteLSN       wal.LSN         `json:"write_lsn"` // flushed at a primary, replayed or received at a standby
	Standby        bool            `json:"standby"`
	Version        int             `json:"version"` // as in 180004
	VersionText    string          `json:"version_text"`
	SegmentSize    wal.SegmentSize `json:"segment_size"`
	BlockSize      int             `json:"block_size"` // of data files
	WALBlockSize   int             `json:"wal_block_size"`
	DataChecksums  bool            `json:"data_checksums"`
	FullPageWrites bool            `json:"full_page_writes"`
	WALLevel       string          `json:"wal_level"`
	ArchiveMode    string          `json:"archive_mode"`

	host string
}

// Major is the major version.
func (i Identity) Major() int { return i.Version / 10000 }

// Identify asks the server who it is and where it stands. It fails with [ErrVersion] for a server that is not known, and
// with [ErrSystemChanged] when this connection saw or required another system.
func (c *Conn) Identify(ctx context.Context) (Identity, error) {
	id, err := c.position(ctx)
	if err != nil {
		return Identity{}, fmt.Errorf("identify: %w", err)
	}
	if err := c.settings(ctx, &id); err != nil {
		return Identity{}, fmt.Errorf("identify: %w", err)
	}
	if !id.Standby { // it may have been promoted since it was asked: then its place was the standby's
		now, err := c.position(ctx)
		if err != nil {
			return Identity{}, fmt.Errorf("identify: %w", err)
		}
		id.System, id.Timeline, id.WriteLSN = now.System, now.Timeline, now.WriteLSN
	}
	if err := c.remember(id); err != nil {
		return id, fmt.Errorf("identify: %w", err)
	}
	return id, nil
}

// Require is [Conn.Identify] and fails with [ErrSystemChanged] unless the server runs that system. What comes later on
// this connection is held against it.
func (c *Conn) Require(ctx context.Context, system uint64) (Identity, error) {
	c.known.System = system
	return c.Identify(ctx)
}

// position asks for what changes: timeline and position, and the system with it.
func (c *Conn) position(ctx context.Context) (id Identity, err error) {
	r, err := c.queryOne(ctx, "IDENTIFY_SYSTEM", "systemid", "timeline", "xlogpos")
	if err != nil {
		return id, err
	}
	if id.System, err = strconv.ParseUint(r["systemid"], 10, 64); err != nil {
		return id, fmt.Errorf("%w: system %q", ErrProtocol, r["systemid"])
	}
	if id.Timeline, err = wal.ParseTimeline(r["timeline"]); err != nil {
		return id, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if id.WriteLSN, err = wal.ParseLSN(r["xlogpos"]); err != nil {
		return id, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return id, nil
}

func (c *Conn) remember(id Identity) error {
	if c.known.System != 0 && c.known.System != id.System {
		return fmt.Errorf("%s: %w: %d, not %d", c.known.host, ErrSystemChanged, id.System, c.known.System)
	}
	id.host = c.known.host
	c.known = id
	return nil
}

func (c *Conn) settings(ctx context.Context, id *Identity) (err error) {
	show := func(name string) (value string) {
		if err != nil {
			return ""
		}
		var r row
		r, err = c.queryOne(ctx, "SHOW "+name, name)
		return r[name]
	}
	number := func(name string) (n int) {
		text := show(name)
		if err == nil {
			if n, err = strconv.Atoi(text); err != nil {
				err = fmt.Errorf("%w: %s is %q", ErrProtocol, name, text)
			}
		}
		return n
	}
	if id.Version = number("server_version_num"); err == nil && (id.Major() < MinVersion || id.Major() > MaxVersion) {
		return fmt.Errorf("%w: %d, not %d to %d", ErrVersion, id.Major(), MinVersion, MaxVersion)
	}
	id.VersionText = show("server_version")
	id.BlockSize, id.WALBlockSize = number("block_size"), number("wal_block_size")
	size := show("wal_segment_size")
	id.DataChecksums, id.FullPageWrites = show("data_checksums") == "on", show("full_page_writes") == "on"
	id.Standby = show("in_hot_standby") == "on"
	id.WALLevel, id.ArchiveMode = show("wal_level"), show("archive_mode")
	if err == nil {
		id.SegmentSize, err = parseSize(size)
	}
	if err == nil && id.WALBlockSize != wal.PageSize {
		err = fmt.Errorf("%w: pages of the log of %d bytes", ErrVersion, id.WALBlockSize)
	}
	return err
}

// parseSize reads 16MB and the like.
func parseSize(text string) (wal.SegmentSize, error) {
	for _, unit := range []struct {
		name  string
		shift int
	}{{"MB", 20}, {"GB", 30}} {
		if digits, ok := strings.CutSuffix(text, unit.name); ok {
			n, err := strconv.ParseUint(digits, 10, 11)
			size := wal.SegmentSize(n << unit.shift)
			if err == nil && size.Check() == nil {
				return size, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: segments of %q", ErrProtocol, text)
}

// TimelineHistory fetches the history of a timeline, by its file's name and its bytes as the server has them. It fails
// with [ErrWALRemoved] when the server has none, and for timeline 1, which never has.
func (c *Conn) TimelineHistory(ctx context.Context, t wal.Timeline) (name string, content []byte, err error) {
	r, err := c.queryOne(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", t), "filename", "content")
	if err != nil {
		return "", nil, fmt.Errorf("history of timeline %d: %w", t, err)
	}
	if name = r["filename"]; name != wal.HistoryName(t) {
		return "", nil, fmt.Errorf("history of timeline %d: %w: %q", t, ErrProtocol, name)
	}
	return name, []byte(r["content"]), nil
}
