package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The most that is read of a base backup's small files.
const (
	MaxLabel         = 16 << 10
	MaxTablespaceMap = 1 << 20
)

// A Label is a base backup's backup_label: from where recovery must start.
type Label struct {
	Start      LSN    // recovery needs the log from here
	StartFile  string // the segment that holds it
	Checkpoint LSN
	Standby    bool   // taken from a standby
	StartTime  string // by the server's clock, in its words
	Label      string
	Timeline   Timeline
}

// ParseLabel reads the backup_label of a whole (not incremental) backup over the replication protocol.
func ParseLabel(text []byte) (l Label, err error) {
	if len(text) > MaxLabel {
		return l, fmt.Errorf("backup_label: more than 16 KiB: %w", ErrFormat)
	}
	lines := strings.SplitAfter(string(text), "\n")
	heads := []string{"START WAL LOCATION: ", "CHECKPOINT LOCATION: ", "BACKUP METHOD: ", "BACKUP FROM: ", "START TIME: ", "LABEL: ", "START TIMELINE: "}
	if len(lines) != len(heads)+1 || lines[len(heads)] != "" {
		return l, fmt.Errorf("backup_label: want %d lines: %w", len(heads), ErrFormat)
	}
	values := make([]string, len(heads))
	for i, head := range heads {
		v, ok := strings.CutPrefix(strings.TrimSuffix(lines[i], "\n"), head)
		if !ok {
			return l, fmt.Errorf("backup_label: line %d: want %q: %w", i+1, head, ErrFormat)
		}
		values[i] = v
	}
	if err := l.set(values); err != nil {
		return Label{}, fmt.Errorf("backup_label: %w", err)
	}
	return l, nil
}

func (l *Label) set(v []string) (err error) {
	at, file, ok := strings.Cut(v[0], " (file ")
	file, closed := strings.CutSuffix(file, ")")
	if !ok || !closed {
		return fmt.Errorf("line 1: want a position and a file: %w", ErrFormat)
	}
	if l.Start, err = ParseLSN(at); err != nil {
		return err
	}
	if l.Checkpoint, err = ParseLSN(v[1]); err != nil {
		return err
	}
	if l.Timeline, err = ParseTimeline(v[6]); err != nil {
		return err
	}
	if l.Start == 0 || l.Checkpoint < l.Start {
		return fmt.Errorf("checkpoint %s, start %s: %w", l.Checkpoint, l.Start, ErrFormat)
	}
	if v[2] != "streamed" || v[3] != "primary" && v[3] != "standby" {
		return fmt.Errorf("backup %q from %q: %w", v[2], v[3], ErrFormat)
	}
	l.StartFile, l.Standby, l.StartTime, l.Label = file, v[3] == "standby", v[4], v[5]
	return l.checkFile()
}

// checkFile holds the file's name against start and timeline, under whichever segment size it was given.
func (l *Label) checkFile() error {
	for size := MinSegmentSize; size <= MaxSegmentSize; size *= 2 {
		if (Segment{l.Timeline, size.Number(l.Start)}).Name(size) == l.StartFile {
			return nil
		}
	}
	return fmt.Errorf("file %.60q does not hold %s on timeline %d: %w", l.StartFile, l.Start, l.Timeline, ErrFormat)
}

// A Tablespace is a line of a base backup's tablespace_map.
type Tablespace struct {
	OID      uint32
	Location string // absolute
}

// ParseTablespaceMap reads a tablespace_map: lines of oid, blank, location, where a backslash stands before each
// newline, carriage return and backslash of a location.
func ParseTablespaceMap(text []byte) (spaces []Tablespace, err error) {
	if len(text) > MaxTablespaceMap {
		return nil, fmt.Errorf("tablespace_map: more than 1 MiB: %w", ErrFormat)
	}
	for rest := string(text); rest != ""; {
		var s Tablespace
		if s, rest, err = parseTablespace(rest); err != nil {
			return nil, fmt.Errorf("tablespace_map: tablespace %d: %w: %w", len(spaces)+1, err, ErrFormat)
		}
		spaces = append(spaces, s)
	}
	return spaces, nil
}

func parseTablespace(text string) (s Tablespace, rest string, err error) {
	digits, text, ok := strings.Cut(text, " ")
	oid, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || oid == 0 || strconv.FormatUint(oid, 10) != digits {
		return s, "", errors.New("want an oid and a blank")
	}
	var location strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			s = Tablespace{OID: uint32(oid), Location: location.String()}
			if !strings.HasPrefix(s.Location, "/") || strings.Contains(s.Location, "\x00") {
				return s, "", errors.New("want an absolute path")
			}
			return s, text[i+1:], nil
		case c == '\r':
			return s, "", errors.New("a bare carriage return")
		case c == '\\':
			if i++; i == len(text) || !strings.ContainsRune("\n\r\\", rune(text[i])) {
				return s, "", errors.New("a bare backslash")
			}
			location.WriteByte(text[i])
		default:
			location.WriteByte(c)
		}
	}
	return s, "", errors.New("the last line is cut off")
}

// FormatTablespaceMap writes what [ParseTablespaceMap] reads.
func FormatTablespaceMap(spaces []Tablespace) []byte {
	escape := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r")
	var b []byte
	for _, s := range spaces {
		b = fmt.Appendf(b, "%d %s\n", s.OID, escape.Replace(s.Location))
	}
	return b
}
