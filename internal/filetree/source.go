package filetree

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Source is a tree that is being read. Nothing in it is changed; even access times are left
// alone where the system lets us.
type Source struct {
	root    *Folder
	euid    int
	scratch sync.Pool // *scratch, for List and Xattrs
}

// scratch is memory that is used again and again.
type scratch struct {
	buf   []byte // 128 KiB
	names []byte // all names of a folder, each followed by a zero
	spans []span // where they are
}

// bufSize is enough for about 4,000 names in one getdents64, and for any attribute (64 KiB).
const bufSize = 128 << 10

// OpenSource opens the tree at path. A symlink in path, also a last one, is followed: the user
// named it. A path that is not a folder gives ErrNotDir.
func OpenSource(path string) (*Source, error) {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.ENOTDIR {
		return nil, fmt.Errorf("tree %q: %w", path, ErrNotDir)
	}
	if err != nil {
		return nil, fmt.Errorf("tree %q: open: %w", path, err)
	}
	st, err := statFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("tree %q: stat: %w", path, err)
	}
	s := &Source{euid: os.Geteuid()}
	s.scratch.New = func() any { return &scratch{buf: make([]byte, bufSize)} }
	s.root = &Folder{src: s, h: &handle{dev: st.Dev, ino: st.Inode, fd: fd}}
	return s, nil
}

// Root is the folder at the top. It is open until Close of the source.
func (s *Source) Root() *Folder { return s.root }

// Close ends the use of the tree; every folder and file below must be closed already.
func (s *Source) Close() error { return s.root.h.close() }

// Folder is an open folder of a Source. Its methods may be called by several goroutines at once,
// except List. Of one path, few folders hold a descriptor at a time, however deep it is.
type Folder struct {
	src *Source
	h   *handle
}

// Stat examines the folder itself.
func (f *Folder) Stat() (Stat, error) {
	fd, temp, err := f.h.acquire()
	if err != nil {
		return Stat{}, f.fail("stat", "", err)
	}
	defer f.h.release(fd, temp)
	st, err := statFD(fd)
	if err != nil {
		return Stat{}, f.fail("stat", "", err)
	}
	return st, nil
}

// OpenFolder opens the folder called name. ErrChanged when it is not the inode that expect, from
// List, describes; ErrVanished when it is gone.
func (f *Folder) OpenFolder(name string, expect Stat) (*Folder, error) {
	if err := readName(name); err != nil {
		return nil, err
	}
	h, _, err := f.h.child(name, &expect)
	if err != nil {
		return nil, f.fail("open folder", name, err)
	}
	return &Folder{src: f.src, h: h}, nil
}

// Close ends the use of the folder; folders below it are closed first. It may be called twice.
// The root is closed by Close of the source.
func (f *Folder) Close() error {
	if f.h.parent == nil {
		return nil
	}
	return f.h.close()
}

// OpenFile opens the regular file called name, with a reader's rights only and without waiting
// for anybody. ErrChanged when it is not the inode that expect, from List, describes; its size and
// times may be others by now: Opened and Stat tell.
func (f *Folder) OpenFile(name string, expect Stat) (*OpenedFile, error) {
	if err := readName(name); err != nil {
		return nil, err
	}
	if expect.Kind != File {
		return nil, f.fail("open", name, ErrChanged)
	}
	dirfd, temp, err := f.h.acquire()
	if err != nil {
		return nil, f.fail("open", name, err)
	}
	defer f.h.release(dirfd, temp)
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	quiet := 0
	if f.src.euid == 0 || int(expect.UID) == f.src.euid {
		quiet = unix.O_NOATIME
	}
	fd, err := openAt(dirfd, name, flags|quiet, 0)
	if err == unix.EPERM && quiet != 0 {
		fd, err = openAt(dirfd, name, flags, 0)
	}
	if err != nil {
		return nil, f.fail("open", name, gone(err))
	}
	st, err := statFD(fd)
	if err == nil && !st.sameInode(&expect) {
		err = ErrChanged
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, f.fail("open", name, err)
	}
	o := &OpenedFile{src: f.src, fd: fd, opened: st}
	if st.Size >= bigFile {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_SEQUENTIAL)
	}
	return o, nil
}

// ReadLink gives the target of the symlink called name: any bytes. ErrChanged when it is no
// symlink any more.
func (f *Folder) ReadLink(name string) (string, error) {
	if err := readName(name); err != nil {
		return "", err
	}
	dirfd, temp, err := f.h.acquire()
	if err != nil {
		return "", f.fail("read link", name, err)
	}
	defer f.h.release(dirfd, temp)
	target, err := readLinkAt(dirfd, name)
	if err == unix.EINVAL {
		err = ErrChanged
	}
	if err != nil {
		return "", f.fail("read link", name, gone(err))
	}
	return target, nil
}

// readLinkAt is readlinkat for a target of any length.
func readLinkAt(dirfd int, name string) (string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
		buf = make([]byte, 8*len(buf))
	}
}

// readName refuses names that List cannot have given.
func readName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("name %q: %w", name, ErrName)
	}
	return nil
}

// fail words an error about an entry; name "" means the folder itself.
func (f *Folder) fail(what, name string, err error) error {
	path := f.h.path(name)
	if path == "" {
		path = "."
	}
	if errors.Is(err, ErrChanged) || errors.Is(err, ErrVanished) {
		return fmt.Errorf("%q: %w", path, err)
	}
	return fmt.Errorf("%q: %s: %w", path, what, err)
}
