package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/wal"
)

// A Copy is a base backup written to a folder as it comes; it is a [cluster.Receiver]. Tablespaces go to folders beside
// the data directory, and the tablespace_map leads there.
type Copy struct {
	Dir   string // everything is below
	Data  string // the data directory
	Begun cluster.BackupStart
	// Entries are the names as they came, each below its tablespace's OID.
	Entries []string
	Label   wal.Label

	t testing.TB
}

// NewCopy prepares a folder for a base backup.
func NewCopy(t testing.TB) *Copy {
	t.Helper()
	dir := Folder(t)
	c := &Copy{Dir: dir, Data: filepath.Join(dir, "backup"), t: t}
	if err := os.Mkdir(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

// Space is where a tablespace goes.
func (c *Copy) Space(oid uint32) string {
	if oid == 0 {
		return c.Data
	}
	return filepath.Join(c.Dir, fmt.Sprintf("space-%d", oid))
}

// Begin makes the folders of the tablespaces.
func (c *Copy) Begin(s cluster.BackupStart) error {
	c.Begun = s
	for _, space := range s.Tablespaces {
		if err := os.MkdirAll(c.Space(space.OID), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Entry writes one folder or file.
func (c *Copy) Entry(s cluster.Space, e cluster.Entry, r io.Reader) error {
	c.Entries = append(c.Entries, fmt.Sprintf("%d/%s", s.OID, e.Name))
	path := filepath.Join(c.Space(s.OID), e.Name)
	switch {
	case e.Mode.IsDir():
		return os.MkdirAll(path, e.Mode.Perm())
	case e.Mode.IsRegular():
		return c.file(path, s, e, r)
	}
	return fmt.Errorf("%s: a link, though the server was asked for a tablespace_map", e.Name)
}

func (c *Copy) file(path string, s cluster.Space, e cluster.Entry, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(b)) != e.Size {
		return fmt.Errorf("%s: %d bytes, not %d", e.Name, len(b), e.Size)
	}
	if s.OID == 0 && e.Name == "backup_label" {
		if c.Label, err = wal.ParseLabel(b); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b, e.Mode.Perm())
}

// Manifest writes the manifest.
func (c *Copy) Manifest(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Data, "backup_manifest"), b, 0o600)
}

// Remap rewrites the tablespace_map so that it leads to the copy's own folders. The manifest no longer fits then.
func (c *Copy) Remap() {
	c.t.Helper()
	path := filepath.Join(c.Data, "tablespace_map")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		c.t.Fatal(err)
	}
	spaces, err := wal.ParseTablespaceMap(text)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range spaces {
		spaces[i].Location = c.Space(spaces[i].OID)
		Give(c.t, spaces[i].Location)
	}
	if err := os.WriteFile(path, wal.FormatTablespaceMap(spaces), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// A Log is the log of a server as a stream brings it, put together in segments in memory.
type Log struct {
	Size     wal.SegmentSize
	Segments map[wal.Segment][]byte
	End      wal.LSN
}

// Add takes what a stream received on a timeline.
func (l *Log) Add(t wal.Timeline, m cluster.Message) {
	if l.Segments == nil {
		l.Segments = map[wal.Segment][]byte{}
	}
	for at, data := m.Start, m.Data; len(data) > 0; {
		s := wal.Segment{Timeline: t, Number: l.Size.Number(at)}
		offset := int(l.Size.Offset(at))
		b := l.Segments[s]
		if missing := offset - len(b); missing > 0 {
			b = append(b, make([]byte, missing)...)
		}
		n := min(len(data), int(l.Size)-offset)
		l.Segments[s] = append(b[:offset], data[:n]...)
		at, data = at+wal.LSN(n), data[n:]
	}
	l.End = max(l.End, m.Start+wal.LSN(len(m.Data)))
}

// Check holds every segment against what it is said to be, and each timeline's segments against a hole.
func (l *Log) Check(t testing.TB, id cluster.Identity, histories map[wal.Timeline]*wal.History) {
	t.Helper()
	var before wal.Segment
	for _, s := range l.sorted() {
		claim := wal.Claim{Version: id.Major(), System: id.System, Segment: s, Size: l.Size, History: histories[s.Timeline]}
		if err := claim.Check(l.Segments[s]); err != nil {
			t.Error(err)
		}
		if s.Timeline == before.Timeline && s.Number != before.Number+1 {
			t.Errorf("segment %s does not follow on %s", s.Name(l.Size), before.Name(l.Size))
		}
		before = s
	}
}

func (l *Log) sorted() []wal.Segment {
	var all []wal.Segment
	for s := range l.Segments {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b wal.Segment) int {
		if a.Timeline != b.Timeline {
			return int(a.Timeline) - int(b.Timeline)
		}
		return int(a.Number) - int(b.Number)
	})
	return all
}

// Write puts the segments into a folder, filled up with zeros.
func (l *Log) Write(t testing.TB, dir string) {
	t.Helper()
	for s, b := range l.Segments {
		whole := make([]byte, l.Size)
		copy(whole, b)
		if err := os.WriteFile(filepath.Join(dir, s.Name(l.Size)), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
