package auditor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	hashSize   = tlog.HashSize

	maxCheckpoint = 64 << 10
	maxTile       = tileWidth * hashSize
	maxBundle     = tileWidth * (2 + ledger.MaxLeaf)
	readsAtOnce   = 4 // bundles under way, each with its tile: as many as an embassy's client has connections
)

// filePath names the tile of hashes n of a level in a log of size entries, or
// with the level entries the bundle n; and how many hashes or entries it has.
func filePath(level int, n, size uint64) (path string, width int) {
	width = int(min(tileWidth, size>>(tileHeight*max(level, 0))-n*tileWidth))
	// x/mod's paths have the height in them and another word for entries.
	path = tlog.Tile{H: tileHeight, L: level, N: int64(n), W: width}.Path()
	if rest, ok := strings.CutPrefix(path, "tile/8/data/"); ok {
		return "tile/entries/" + rest, width
	}
	return "tile/" + strings.TrimPrefix(path, "tile/8/"), width
}

// entries is the level below the tiles of hashes.
const entries = -1

// Files yields the name of every file of the log at this size, entries first.
// Where a partial one is gone, the whole one has taken its place.
func Files(size uint64) iter.Seq[string] {
	return func(yield func(string) bool) {
		for level := entries; level <= top(size); level++ {
			count := size >> (tileHeight * max(level, 0))
			for n := uint64(0); n*tileWidth < count; n++ {
				path, _ := filePath(level, n, size)
				if !yield(path) {
					return
				}
			}
		}
	}
}

// top is the highest level that has tiles.
func top(size uint64) int {
	level := 0
	for size>>(tileHeight*(level+1)) > 0 {
		level++
	}
	return level
}

// Whole is the name of the whole tile in whose place a partial one stands, or
// empty where path is of a whole one.
func Whole(path string) string {
	whole, _, partial := strings.Cut(path, ".p/")
	if !partial {
		return ""
	}
	return whole
}

// reader reads a source and never waits beyond its context.
type reader struct {
	ctx context.Context
	src Source
}

// within runs f beside and leaves it alone when the context ends.
func (r *reader) within(f func() ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	done := make(chan result, 1)
	go func() {
		data, err := f()
		done <- result{data, err}
	}()
	select {
	case x := <-done:
		return x.data, x.err
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
}

func (r *reader) checkpoint() ([]byte, error) {
	raw, err := r.within(r.src.Checkpoint)
	if err == nil && len(raw) > maxCheckpoint {
		err = ErrUnusable
	}
	return raw, err
}

// file reads a tile or bundle of this size of the log. A partial one may have
// made way for the whole one.
func (r *reader) file(level int, n, size uint64) (data []byte, path string, err error) {
	path, _ = filePath(level, n, size)
	most := maxTile
	if level == entries {
		most = maxBundle
	}
	data, err = r.within(func() ([]byte, error) { return r.src.Tile(path) })
	if whole := Whole(path); whole != "" && errors.Is(err, fs.ErrNotExist) {
		other, otherErr := r.within(func() ([]byte, error) { return r.src.Tile(whole) })
		if !errors.Is(otherErr, fs.ErrNotExist) {
			data, err, path = other, otherErr, whole
		}
	}
	if err == nil && len(data) > most {
		err = ErrUnusable
	}
	return data, path, err
}

// flawed tells an answer that is wrong from one that did not come.
func flawed(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnusable) }

// missing is the flaw of a file that is not there.
const missing = "it is missing"

// flaw puts it in words.
func flaw(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return missing
	}
	return err.Error()
}

// hashes reads a tile of hashes: why says what is wrong with it, err that it
// could not be read.
func (r *reader) hashes(level int, n, size uint64) (tile []tlog.Hash, path, why string, err error) {
	_, width := filePath(level, n, size)
	data, path, err := r.file(level, n, size)
	switch {
	case err != nil && flawed(err):
		return nil, path, flaw(err), nil
	case err != nil:
		return nil, path, "", fmt.Errorf("%s: %w", path, err)
	case len(data) != width*hashSize && len(data) != maxTile:
		return nil, path, fmt.Sprintf("it has %d bytes", len(data)), nil
	}
	tile = make([]tlog.Hash, width)
	for i := range tile {
		tile[i] = tlog.Hash(data[i*hashSize:])
	}
	return tile, path, "", nil
}

// split cuts a bundle into its first width entries, which refer to data. Where it
// does not hold exactly so many, or as many as a whole bundle, why says so; the
// entries before that place are returned.
func split(data []byte, width int) (list [][]byte, why string) {
	list = make([][]byte, 0, tileWidth)
	for len(data) > 0 {
		if len(list) == tileWidth {
			return list[:width], fmt.Sprintf("more than %d entries", tileWidth)
		}
		if len(data) < 2 {
			return list[:min(len(list), width)], "it ends within an entry"
		}
		n := int(binary.BigEndian.Uint16(data))
		switch {
		case n > ledger.MaxLeaf:
			return list[:min(len(list), width)], fmt.Sprintf("an entry of %d bytes, at most %d", n, ledger.MaxLeaf)
		case n > len(data)-2:
			return list[:min(len(list), width)], "it ends within an entry"
		}
		list = append(list, data[2:2+n])
		data = data[2+n:]
	}
	if n := len(list); n != width && n != tileWidth {
		return list[:min(n, width)], fmt.Sprintf("%d entries, not %d", n, width)
	}
	return list[:width], ""
}

// fold is the root of a whole subtree of these hashes, a power of two of them.
func fold(hashes []tlog.Hash) tlog.Hash {
	var row [tileWidth]tlog.Hash
	n := copy(row[:], hashes)
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return row[0]
}

// folder is a Source of files.
type folder struct{ fsys fs.FS }

// Folder is a log's folder: its checkpoint in "checkpoint" and its tiles under
// "tile". What is no regular file is not opened, and no more is read than the
// largest file can have.
func Folder(fsys fs.FS) Source { return folder{fsys} }

func (f folder) Checkpoint() ([]byte, error)      { return f.read("checkpoint", maxCheckpoint) }
func (f folder) Tile(path string) ([]byte, error) { return f.read(path, maxBundle) }

func (f folder) read(path string, most int64) ([]byte, error) {
	info, err := fs.Stat(f.fsys, path)
	if err != nil {
		return nil, fmt.Errorf("auditor: %w", err)
	}
	if !info.Mode().IsRegular() { // a pipe would wait for whoever writes to it
		return nil, fmt.Errorf("auditor: %s is no regular file: %w", path, fs.ErrNotExist)
	}
	file, err := f.fsys.Open(path)
	if err != nil {
		return nil, fmt.Errorf("auditor: %w", err)
	}
	defer func() { _ = file.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, fmt.Errorf("auditor: %w", err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("auditor: %s: %w", path, ErrUnusable)
	}
	return data, nil
}
