package cluster

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// An Entry is a folder, a file or a symbolic link of a base backup.
type Entry struct {
	Name     string      // below its tablespace's folder, with slashes, clean; "." is the folder itself
	Mode     fs.FileMode // type and permissions
	UID, GID int         // of the server's user
	ModTime  time.Time
	Size     int64  // of a file
	Link     string // where a link leads
}

// controlFile is the last that the server sends of a cluster's own folder.
const controlFile = "global/pg_control"

// unpack hands the entries of one archive on.
func unpack(archive io.Reader, s Space, r Receiver) error {
	in := tar.NewReader(archive)
	for last := ""; ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			if s.OID == 0 && last != controlFile {
				return fmt.Errorf("%w: archive: ends with %.200q", ErrProtocol, last)
			}
			break
		}
		if err != nil {
			return archiveError(err)
		}
		e, err := entryOf(h)
		if err != nil {
			return err
		}
		if err := r.Entry(s, e, in); err != nil {
			return err
		}
		last = e.Name
	}
	// What follows the end of the archive is padding, up to where the server begins the next.
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return err
	}
	return nil
}

// archiveError tells a damaged archive from a connection that broke while it was read.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrConnection) {
		return fmt.Errorf("%w: archive: %w", ErrProtocol, err)
	}
	return err
}

func entryOf(h *tar.Header) (e Entry, err error) {
	if len(h.PAXRecords) != 0 { // no server writes any; they can make a file of a few bytes endless
		return e, fmt.Errorf("%w: archive: %.200q has extended headers", ErrProtocol, h.Name)
	}
	name := strings.TrimSuffix(h.Name, "/")
	if !fs.ValidPath(path.Clean(name)) || strings.TrimPrefix(name, "./") != path.Clean(name) || h.Size < 0 {
		return e, fmt.Errorf("%w: archive: name %.200q", ErrProtocol, h.Name)
	}
	e = Entry{
		Name: path.Clean(name), Mode: fs.FileMode(h.Mode) & fs.ModePerm, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime,
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
		e.Link = h.Linkname
	default:
		return e, fmt.Errorf("%w: archive: %.200q is of type %q", ErrProtocol, h.Name, h.Typeflag)
	}
	return e, nil
}
