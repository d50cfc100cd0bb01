package postgres

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/wal"
)

// A basis is the base backup that a later one may be the changes to. It is the note that is kept at home with where the
// content of each of its files lies. Specification: docs/spec/home.md.
type basis struct {
	System    uint64
	Version   uint32
	Timeline  wal.Timeline
	Checksums bool
	Start     wal.LSN // what changed from here on is not in the backup
	End       wal.LSN
	Whole     int64 // when the last whole backup began, nanoseconds since 1970 by home's clock
}

const basisSize = 1 + 8 + 4 + 4 + 1 + 8 + 8 + 8

func (b *basis) bytes() []byte {
	out := []byte{1}
	out = binary.BigEndian.AppendUint64(out, b.System)
	out = binary.BigEndian.AppendUint32(out, b.Version)
	out = binary.BigEndian.AppendUint32(out, uint32(b.Timeline))
	sums := byte(0)
	if b.Checksums {
		sums = 1
	}
	out = append(out, sums)
	out = binary.BigEndian.AppendUint64(out, uint64(b.Start))
	out = binary.BigEndian.AppendUint64(out, uint64(b.End))
	return binary.BigEndian.AppendUint64(out, uint64(b.Whole))
}

func parseBasis(raw []byte) (b basis, ok bool) {
	if len(raw) != basisSize || raw[0] != 1 || raw[17] > 1 {
		return b, false
	}
	return basis{
		System: binary.BigEndian.Uint64(raw[1:]), Version: binary.BigEndian.Uint32(raw[9:]),
		Timeline: wal.Timeline(binary.BigEndian.Uint32(raw[13:])), Checksums: raw[17] == 1,
		Start: wal.LSN(binary.BigEndian.Uint64(raw[18:])), End: wal.LSN(binary.BigEndian.Uint64(raw[26:])),
		Whole: int64(binary.BigEndian.Uint64(raw[34:])),
	}, true
}

// wholeEvery is how old the last whole backup may be. A whole one reads every page of the server, and so finds what is
// damaged there; and it ends whatever a server forgot to say of its changes.
const wholeEvery = 7 * 24 * time.Hour

// fits says why changes to an earlier backup cannot be what the server has now; nil where they can.
func (b *basis) fits(id *cluster.Identity, now time.Time) error {
	switch since := now.Sub(time.Unix(0, b.Whole)); {
	case b.System != id.System || b.Version/10000 != uint32(id.Major()):
		return errors.New("the last backup was of another server")
	case b.Timeline != id.Timeline:
		return errors.New("the server is on another timeline since") // where they parted may lie before the backup's end
	case b.Checksums != id.DataChecksums:
		return errors.New("the pages bear checksums, or do no more, since") // they were changed without log
	case since < 0 || since > wholeEvery:
		return fmt.Errorf("the last whole backup is not of the last %d days", wholeEvery/(24*time.Hour))
	}
	return nil
}

// manifest writes the basis as the server reads it: of each file the name and the length, and the log that was needed. A
// file that is not named comes whole.
func (b *basis) manifest(w io.Writer, files iter.Seq[archive.Fed]) error {
	m := newManifestWriter(w, manifestVersion, b.System)
	for f := range files {
		if name, ok := serverName(f.Path); ok {
			m.file(&manifestFileEntry{Path: name, Size: f.Size})
		}
	}
	return m.end([]manifestRange{{Timeline: b.Timeline, Start: b.Start, End: b.End}})
}

// serverName is a file's name in a manifest, from its path in the snapshot.
func serverName(path string) (string, bool) {
	if name, ok := strings.CutPrefix(path, dataFolder+"/"); ok {
		return name, true
	}
	name, ok := strings.CutPrefix(path, spacesFolder+"/")
	return "pg_tblspc/" + name, ok
}

// serverManifest is a server's backup_manifest.
type serverManifest struct {
	Version  int                 `json:"PostgreSQL-Backup-Manifest-Version"`
	System   uint64              `json:"System-Identifier"`
	Files    []manifestFileEntry `json:"Files"`
	Ranges   []manifestRange     `json:"WAL-Ranges"`
	Checksum string              `json:"Manifest-Checksum"`
}

type manifestFileEntry struct {
	Path      string `json:"Path,omitempty"`
	Encoded   string `json:"Encoded-Path,omitempty"` // in hexadecimal, of a name that is not UTF-8
	Size      int64  `json:"Size"`
	Modified  string `json:"Last-Modified,omitempty"`
	Algorithm string `json:"Checksum-Algorithm,omitempty"`
	Checksum  string `json:"Checksum,omitempty"`
}

type manifestRange struct {
	Timeline wal.Timeline `json:"Timeline"`
	Start    wal.LSN      `json:"Start-LSN"`
	End      wal.LSN      `json:"End-LSN"`
}

// manifestWriter writes a manifest in the server's form. Its last line is the hash of those before.
type manifestWriter struct {
	to   io.Writer
	w    *bufio.Writer
	sum  hash.Hash
	some bool
	err  error
}

// manifestVersion is that of the servers that can send changes.
const manifestVersion = 2

func newManifestWriter(to io.Writer, version int, system uint64) *manifestWriter {
	m := &manifestWriter{to: to, sum: sha256.New()}
	m.w = bufio.NewWriterSize(io.MultiWriter(to, m.sum), 64<<10)
	fmt.Fprintf(m.w, "{ \"PostgreSQL-Backup-Manifest-Version\": %d,\n\"System-Identifier\": %d,\n\"Files\": [", version, system)
	return m
}

func (m *manifestWriter) line(v any) {
	text, err := json.Marshal(v)
	if m.err == nil {
		m.err = err
	}
	if m.some {
		_ = m.w.WriteByte(',')
	}
	m.some = true
	fmt.Fprintf(m.w, "\n%s", text)
}

func (m *manifestWriter) file(f *manifestFileEntry) { m.line(f) }

func (m *manifestWriter) end(ranges []manifestRange) error {
	fmt.Fprint(m.w, "\n],\n\"WAL-Ranges\": [")
	m.some = false
	for i := range ranges {
		m.line(&ranges[i])
	}
	fmt.Fprint(m.w, "\n],\n")
	if err := errors.Join(m.err, m.w.Flush()); err != nil {
		return err
	}
	_, err := fmt.Fprintf(m.to, "\"Manifest-Checksum\": \"%x\"}\n", m.sum.Sum(nil))
	return err
}
