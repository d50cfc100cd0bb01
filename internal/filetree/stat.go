package filetree

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// What callers must tell apart. Other failures wrap the system's error number, so that
// errors.Is(err, fs.ErrPermission) and the like work.
var (
	// ErrNotDir: the root of a tree is something else than a folder.
	ErrNotDir = errors.New("not a folder")
	// ErrVanished: an entry was listed and is gone.
	ErrVanished = errors.New("vanished while being read")
	// ErrChanged: under the same name is now something else than before.
	ErrChanged = errors.New("replaced by something else meanwhile")
	// ErrNotEmpty: the target of a restore holds something already.
	ErrNotEmpty = errors.New("the folder is not empty")
	// ErrName: empty, ".", "..", longer than 255 bytes, or with a slash or a zero byte.
	ErrName = errors.New("not a possible file name")
)

// maxName is the longest name that Linux file systems take, in bytes.
const maxName = 255

// Kind is what an entry of a folder is. The numbers are those of the snapshot format.
type Kind uint8

// The kinds, from 1; 0 is none of them.
const (
	File Kind = 1 + iota
	Dir
	Symlink
	FIFO
	CharDevice
	BlockDevice
	Socket
)

// String gives the kind in words.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Dir:
		return "folder"
	case Symlink:
		return "symlink"
	case FIFO:
		return "FIFO"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	case Socket:
		return "socket"
	}
	return "unknown kind"
}

// Stat is what lstat tells about an entry.
type Stat struct {
	Kind       Kind
	Mode       uint32 // the 07777 bits
	UID, GID   uint32
	ModNsec    uint32
	ChangeNsec uint32
	Size       int64 // bytes
	ModSec     int64 // seconds since 1970, negative before
	ChangeSec  int64 // of the inode's last change, which no program can set
	Dev, Inode uint64
	Links      uint64 // names of this inode, inside the tree or not
	Device     uint64 // number of a device, for the two device kinds
	Blocks     int64  // allocated, in units of 512 bytes
}

// SameContent tells whether o can only be the same inode with the same bytes: number, size,
// modification time and change time are equal.
func (s Stat) SameContent(o Stat) bool {
	return s.Kind == o.Kind && s.Dev == o.Dev && s.Inode == o.Inode && s.Size == o.Size &&
		s.ModSec == o.ModSec && s.ModNsec == o.ModNsec &&
		s.ChangeSec == o.ChangeSec && s.ChangeNsec == o.ChangeNsec
}

// sameInode tells whether o is the same inode and still of the same kind.
func (s *Stat) sameInode(o *Stat) bool {
	return s.Kind == o.Kind && s.Dev == o.Dev && s.Inode == o.Inode
}

// Item is one entry of a folder.
type Item struct {
	Name string // any bytes but "/" and zero
	Stat Stat   // all zero when Err is set
	Err  error  // why the entry could not be examined; wraps ErrVanished when it is gone
}

// Xattr is an extended attribute. An ACL is one too, in the kernel's own encoding.
type Xattr struct {
	Name  string
	Value []byte
}

// Range is a stretch of a file, in bytes.
type Range struct{ Off, Len int64 }

// kindOf translates the type bits of a mode.
func kindOf(mode uint32) Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFCHR:
		return CharDevice
	case unix.S_IFBLK:
		return BlockDevice
	case unix.S_IFSOCK:
		return Socket
	}
	return 0
}

// fromSystem fills s from the system's structure.
func (s *Stat) fromSystem(st *unix.Stat_t) {
	s.Kind = kindOf(st.Mode)
	s.Mode = st.Mode & 0o7777
	s.UID, s.GID = st.Uid, st.Gid
	s.Size = st.Size
	s.ModSec, s.ModNsec = int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	s.ChangeSec, s.ChangeNsec = int64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	s.Dev, s.Inode, s.Links = uint64(st.Dev), st.Ino, uint64(st.Nlink)
	s.Device = 0
	if s.Kind == CharDevice || s.Kind == BlockDevice {
		s.Device = uint64(st.Rdev)
	}
	s.Blocks = st.Blocks
}

// statFD is fstat.
func statFD(fd int) (Stat, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstat(fd, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Stat{}, err
		}
		var s Stat
		s.fromSystem(&st)
		return s, nil
	}
}

// statAt is lstat of a name in an open folder.
func statAt(dirfd int, name string) (Stat, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Stat{}, err
		}
		var s Stat
		s.fromSystem(&st)
		return s, nil
	}
}

// checkName refuses what could lead out of a folder or cannot be created.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName ||
		strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("name %q: %w", name, ErrName)
	}
	return nil
}

// gone turns the errors that mean "another program was here meanwhile" into ErrVanished and
// ErrChanged, and leaves the rest.
func gone(err error) error {
	switch err {
	case unix.ENOENT, unix.ESTALE:
		return ErrVanished
	case unix.ELOOP, unix.ENOTDIR, unix.ENXIO:
		return ErrChanged
	}
	return err
}
