package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
)

// labelFile is the beginning of a backup, in which a server says that it is of changes.
const labelFile = dataFolder + "/backup_label"

// changes is a base backup of which the server sends what changed since an earlier one. What comes of it is what
// pg_combinebackup would make of the two.
type changes struct {
	files map[string]changedFile // by the server's name
	label changedFile
	join  *pageJoiner
	zeros uint32 // sum of a page of zeros
}

// changedFile is what the manifest has to say of a file that was put together.
type changedFile struct {
	size int64
	sum  uint32
	sent uint32 // sum of what the server sent in its place,
	in   int64  // of so many bytes
}

// since decides whether the server is asked for changes alone, and returns when the last whole backup began.
func (b *baseBackup) since(ctx context.Context, conn *cluster.Conn, id *cluster.Identity, o *cluster.BackupOptions) (whole time.Time, err error) {
	now := time.Now()
	if b.remember, err = conn.Summarizes(ctx); err != nil {
		return now, err
	}
	before, known := parseBasis(b.feed.Before())
	switch {
	case !known:
		return now, nil
	case !b.remember:
		b.opts.log("the server sends everything: summarize_wal is off")
		return now, nil
	}
	if err := before.fits(id, now); err != nil {
		b.opts.log("the server sends everything: %v", err)
		return now, nil
	}
	b.changes = &changes{
		files: map[string]changedFile{}, join: newPageJoiner(b.page), zeros: crc32.Checksum(make([]byte, b.page), castagnoli),
	}
	b.rep.Since = before.Start
	o.Since = func(w io.Writer) error { return before.manifest(w, b.feed.Fed()) }
	return time.Unix(0, before.Whole), nil
}

// paged tells whether a file is of those that servers send changes of: its name is of a relation's, and it is of pages.
func (b *baseBackup) paged(name string, size int64) bool {
	in, of := path.Split(name)
	return size > 0 && size%int64(b.page) == 0 && of[0] >= '0' && of[0] <= '9' &&
		(strings.HasPrefix(in, dataFolder+"/base/") || in == dataFolder+"/global/" || strings.HasPrefix(in, spacesFolder+"/"))
}

// changed gives a file of which the server sent what changed.
func (b *baseBackup) changed(name string, a archive.Attributes, size int64, r io.Reader) error {
	sent := crc32.New(castagnoli)
	c, err := cluster.ReadChanges(io.TeeReader(r, sent), size, b.page)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	server, ok := serverName(name)
	if _, twice := b.changes.files[server]; twice || !ok {
		return fmt.Errorf("%w: changes to %q, or twice", cluster.ErrProtocol, name)
	}
	pages := &pageReader{r: r, page: b.page}
	f := changedFile{size: int64(c.Length) * int64(b.page), in: size}
	err = b.feed.Changed(name, a, archive.Change{
		Size: f.size, Block: int64(b.page), Blocks: c.Blocks,
		Note: func(before []byte) []byte {
			sums := b.changes.sums(before, &c, pages.sums)
			f.sum, f.sent = b.changes.join.join(0, sums), b.changes.join.join(sent.Sum32(), pages.sums)
			return sums
		},
	}, pages)
	b.changes.files[server] = f
	return err
}

// sums are those of a file's pages, from those before and of the pages that changed.
func (c *changes) sums(before []byte, to *cluster.Changes, fresh []byte) []byte {
	out := make([]byte, 4*int(to.Length))
	for at := copy(out, before) / 4 * 4; at < len(out); at += 4 {
		binary.LittleEndian.PutUint32(out[at:], c.zeros)
	}
	for i, n := range to.Blocks {
		copy(out[4*int(n):], fresh[4*i:4*i+4])
	}
	return out
}

// label gives the beginning of the backup without the lines for which a server would refuse to start on it.
func (b *baseBackup) label(a archive.Attributes, size int64, r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return err
	}
	if len(text) > maxText || int64(len(text)) != size {
		return fmt.Errorf("%w: a label of %d bytes", cluster.ErrProtocol, size)
	}
	var out strings.Builder
	left := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "INCREMENTAL FROM ") {
			left++
			continue
		}
		out.WriteString(line)
	}
	if left != 2 {
		return fmt.Errorf("%w: the label has %d lines of an earlier backup", cluster.ErrUnchanging, left)
	}
	f := changedFile{size: int64(out.Len()), in: size, sent: crc32.Checksum(text, castagnoli)}
	f.sum = crc32.Checksum([]byte(out.String()), castagnoli)
	b.changes.label = f
	return b.feed.File(labelFile, a, f.size, strings.NewReader(out.String()))
}

// manifest makes of the server's manifest, which is of what it sent, that of the files as they are put together. What
// came of a changed file is held against the server's sum here, for nobody can do so later.
func (c *changes) manifest(text []byte) ([]byte, error) {
	var m serverManifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", cluster.ErrProtocol, err)
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("%w: a manifest of version %d", cluster.ErrUnchanging, m.Version)
	}
	var out bytes.Buffer
	w, met := newManifestWriter(&out, m.Version, m.System), 0
	for i := range m.Files {
		e := &m.Files[i]
		of, part := cluster.ChangedName(e.Path)
		f := c.label
		if part {
			f = c.files[of]
		}
		if part || e.Path == path.Base(labelFile) {
			if e.Size != f.in || e.Algorithm != "CRC32C" || e.Checksum != sumText(f.sent) {
				return nil, fmt.Errorf("%w: %s is not as it was sent", cluster.ErrUnchanging, e.Path)
			}
			met++
			e.Size, e.Checksum = f.size, sumText(f.sum)
			if part {
				e.Path = of
			}
		}
		w.file(e)
	}
	if met != len(c.files)+1 {
		return nil, fmt.Errorf("%w: the manifest has %d of %d files", cluster.ErrUnchanging, met-1, len(c.files))
	}
	err := w.end(m.Ranges)
	return out.Bytes(), err
}
