package filetree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes with a meaning of their own.
const (
	attrAccessACL  = "system.posix_acl_access"
	attrDefaultACL = "system.posix_acl_default"
	attrCapability = "security.capability" // rights of a program, like setuid
)

// attrs is where attributes are read: an open file or a name in an open folder.
type attrs interface {
	list(buf []byte) (int, error)
	get(name string, buf []byte) (int, error)
}

// fdAttrs are the attributes of an open file or folder.
type fdAttrs int

func (fd fdAttrs) list(buf []byte) (int, error) { return unix.Flistxattr(int(fd), buf) }

func (fd fdAttrs) get(name string, buf []byte) (int, error) {
	return unix.Fgetxattr(int(fd), name, buf)
}

// pathAttrs are the attributes of what a short path of ours names; a last symlink is not
// followed.
type pathAttrs string

func (p pathAttrs) list(buf []byte) (int, error) { return unix.Llistxattr(string(p), buf) }

func (p pathAttrs) get(name string, buf []byte) (int, error) {
	return unix.Lgetxattr(string(p), name, buf)
}

// procPath names an entry of an open folder, or with name "" whatever fd is open on, even a
// symlink, in a way that calls without a descriptor argument understand.
func procPath(fd int, name string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if name != "" {
		p += "/" + name
	}
	return p
}

// Xattrs reads the extended attributes of the entry called name, of the given kind, sorted by
// name; "." is the folder itself. Kept are user., security. and trusted. attributes (the last are
// shown to root only) and POSIX ACLs; what a file system computes is not. Links are not followed.
func (f *Folder) Xattrs(name string, kind Kind) ([]Xattr, error) {
	if name != "." {
		if err := readName(name); err != nil {
			return nil, err
		}
	}
	dirfd, temp, err := f.h.acquire()
	if err != nil {
		return nil, f.fail("extended attributes", name, err)
	}
	defer f.h.release(dirfd, temp)
	s := f.src.scratch.Get().(*scratch)
	defer f.src.scratch.Put(s)
	if name == "." {
		x, err := readXattrs(s.buf, fdAttrs(dirfd))
		if err != nil {
			return nil, f.fail("extended attributes", "", err)
		}
		return x, nil
	}
	x, err := readXattrs(s.buf, pathAttrs(procPath(dirfd, name)))
	switch {
	case err == nil:
		return x, nil
	case errors.Is(err, unix.EPERM) && kind != File && kind != Dir:
		return nil, nil // some file systems refuse instead of saying that there are none
	case errors.Is(err, unix.ENOENT):
		if _, err := statAt(dirfd, name); err == nil {
			return nil, f.fail("extended attributes", name, fmt.Errorf("/proc is not mounted: %w", unix.ENOENT))
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = ErrVanished
	}
	return nil, f.fail("extended attributes", name, err)
}

// readXattrs reads all attributes that are kept. buf is scratch memory of at least 64 KiB, and
// nothing of it is given out.
func readXattrs(buf []byte, from attrs) ([]Xattr, error) {
	n, err := from.list(buf)
	if err == unix.EOPNOTSUPP || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var all []Xattr
	for _, name := range names {
		if !keptXattr(name) {
			continue
		}
		n, err := from.get(name, buf)
		if err == unix.ENODATA || err == unix.EOPNOTSUPP {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		all = append(all, Xattr{Name: name, Value: bytes.Clone(buf[:n])})
	}
	return all, nil
}

// keptXattr tells whether an attribute belongs to the file rather than to its file system.
func keptXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "security.") ||
		strings.HasPrefix(name, "trusted.") || name == attrAccessACL || name == attrDefaultACL
}
