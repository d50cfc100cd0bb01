package filetree

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// span is where one name lies in scratch.names.
type span struct{ start, end int32 }

// direntName is where the name begins in a linux_dirent64: after inode, offset, length and type.
const direntName = 8 + 8 + 2 + 1

// maxNames bounds the names of one folder, in bytes together, so that a span can say where.
const maxNames = 1<<31 - 1 - bufSize

// List examines every entry of the folder and gives them sorted by the bytes of the name. It
// writes over buf, which may be nil and is grown where needed; the names share one allocation.
// An entry that cannot be examined has Err set. It must not run twice at once on one folder.
func (f *Folder) List(buf []Item) ([]Item, error) {
	dirfd, temp, err := f.h.acquire()
	if err != nil {
		return nil, f.fail("list", "", err)
	}
	defer f.h.release(dirfd, temp)
	s := f.src.scratch.Get().(*scratch)
	defer f.src.scratch.Put(s)
	if err := s.readNames(dirfd); err != nil {
		return nil, f.fail("list", "", err)
	}
	return f.examine(dirfd, s, buf), nil
}

// examine sorts the names in s and calls lstat for each.
func (f *Folder) examine(dirfd int, s *scratch, buf []Item) []Item {
	names := s.names
	slices.SortFunc(s.spans, func(a, b span) int {
		return bytes.Compare(names[a.start:a.end], names[b.start:b.end])
	})
	all := string(names)
	items := slices.Grow(buf[:0], len(s.spans))
	var st unix.Stat_t
	for i, at := range s.spans {
		name := all[at.start:at.end]
		if i > 0 && len(items) > 0 && items[len(items)-1].Name == name {
			continue // a folder that changes while it is listed may show a name twice
		}
		items = items[:len(items)+1]
		it := &items[len(items)-1]
		it.Name, it.Err = name, nil
		if err := readName(name); err != nil {
			it.Stat, it.Err = Stat{}, f.fail("list", "", err)
			continue
		}
		if err := lstatRaw(dirfd, &names[at.start], &st); err != nil {
			it.Stat, it.Err = Stat{}, f.fail("stat", name, gone(err))
			continue
		}
		it.Stat.fromSystem(&st)
	}
	return items
}

// readNames fills s.names and s.spans with the entries of the folder but "." and "..".
func (s *scratch) readNames(dirfd int) error {
	s.names, s.spans = s.names[:0], s.spans[:0]
	if _, err := unix.Seek(dirfd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	for {
		n, err := unix.Getdents(dirfd, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		if len(s.names) > maxNames {
			return unix.EFBIG
		}
		s.parse(s.buf[:n])
	}
}

// parse takes the names out of what one getdents64 gave.
func (s *scratch) parse(b []byte) {
	for len(b) > direntName {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= direntName || size > len(b) {
			return
		}
		name := b[direntName:size]
		b = b[size:]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if string(name) == "." || string(name) == ".." {
			continue
		}
		start := len(s.names)
		s.names = append(s.names, name...)
		s.spans = append(s.spans, span{int32(start), int32(len(s.names))})
		s.names = append(s.names, 0)
	}
}

// lstatRaw is lstat of a zero-terminated name in an open folder, without copying the name.
func lstatRaw(dirfd int, name *byte, st *unix.Stat_t) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
			uintptr(unsafe.Pointer(st)), unix.AT_SYMLINK_NOFOLLOW, 0, 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}
