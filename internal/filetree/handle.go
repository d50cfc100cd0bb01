package filetree

import (
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// maxOpen bounds how many folders of one path are held open. Folders further up than this are
// parked: closed, and opened again when needed, with the inode checked.
const maxOpen = 128

// handle is a folder below a root. It is reached through its parent only, never by a long path,
// and no step of the way follows a symlink.
type handle struct {
	parent   *handle // nil for the root
	name     string
	depth    int
	dev, ino uint64

	mu     sync.RWMutex // held for reading while fd is in use
	fd     int          // -1 when parked or closed
	closed bool
}

// openDir opens a folder for reading, without following a symlink and, where the owner is us,
// without touching its access time.
func openDir(dirfd int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := openAt(dirfd, name, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = openAt(dirfd, name, flags, 0)
	}
	return fd, err
}

// openAt is openat, begun again when a signal interrupts it.
func openAt(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// child opens the folder called name in h. The inode must be the one expected; nil expects
// nothing.
func (h *handle) child(name string, expect *Stat) (*handle, Stat, error) {
	dirfd, temp, err := h.acquire()
	if err != nil {
		return nil, Stat{}, err
	}
	fd, err := openDir(dirfd, name)
	h.release(dirfd, temp)
	if err != nil {
		return nil, Stat{}, gone(err)
	}
	st, err := statFD(fd)
	if err == nil && expect != nil && !st.sameInode(expect) {
		err = ErrChanged
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, Stat{}, err
	}
	c := &handle{parent: h, name: name, depth: h.depth + 1, dev: st.Dev, ino: st.Inode, fd: fd}
	c.parkAncestor()
	return c, st, nil
}

// parkAncestor closes the folder maxOpen levels up, unless it is in use at this moment.
func (h *handle) parkAncestor() {
	if h.depth <= maxOpen {
		return
	}
	a := h
	for range maxOpen {
		a = a.parent
	}
	if a.parent == nil || !a.mu.TryLock() {
		return
	}
	if a.fd >= 0 {
		_ = unix.Close(a.fd)
		a.fd = -1
	}
	a.mu.Unlock()
}

// acquire gives a descriptor of the folder until release. For a parked or closed folder it is a
// temporary one.
func (h *handle) acquire() (fd int, temp bool, err error) {
	h.mu.RLock()
	if h.fd >= 0 {
		return h.fd, false, nil
	}
	h.mu.RUnlock()
	fd, err = h.walk()
	return fd, true, err
}

func (h *handle) release(fd int, temp bool) {
	if temp {
		_ = unix.Close(fd)
		return
	}
	h.mu.RUnlock()
}

// walk opens the folder anew, from the nearest ancestor that is open, by names, and checks each
// inode on the way.
func (h *handle) walk() (int, error) {
	var way []*handle
	a := h
	for {
		a.mu.RLock()
		if a.fd >= 0 {
			break
		}
		a.mu.RUnlock()
		if a.parent == nil {
			return -1, fmt.Errorf("root of the tree: %w", fs.ErrClosed)
		}
		way = append(way, a)
		a = a.parent
	}
	fd, owned := a.fd, false
	for i := len(way) - 1; i >= 0; i-- {
		next, err := way[i].openIn(fd, way[i].name)
		if owned {
			_ = unix.Close(fd)
		}
		if i == len(way)-1 {
			a.mu.RUnlock()
		}
		if err != nil {
			return -1, err
		}
		fd, owned = next, true
	}
	if len(way) == 0 { // opened by another goroutine meanwhile
		defer a.mu.RUnlock()
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	return fd, nil
}

// openIn opens name in dirfd and demands that it is this folder.
func (h *handle) openIn(dirfd int, name string) (int, error) {
	fd, err := openDir(dirfd, name)
	if err != nil {
		return -1, gone(err)
	}
	st, err := statFD(fd)
	if err == nil && (st.Dev != h.dev || st.Inode != h.ino) {
		err = ErrChanged
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// unparkParent opens a parked parent again by one step up from here. Where that leads elsewhere,
// because somebody moved the folder, the parent stays parked and is walked to when needed.
func (h *handle) unparkParent() {
	p := h.parent
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 || p.closed {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.fd < 0 {
		return
	}
	if fd, err := p.openIn(h.fd, ".."); err == nil {
		p.fd = fd
	}
}

// close ends the use of the folder. It may be called twice.
func (h *handle) close() error {
	h.unparkParent()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.fd < 0 {
		return nil
	}
	err := unix.Close(h.fd)
	h.fd = -1
	return err
}

// path gives the way from the root, for messages only: "" for the root itself.
func (h *handle) path(name string) string {
	n := len(name)
	for a := h; a.parent != nil; a = a.parent {
		n += len(a.name) + 1
	}
	if n == 0 {
		return ""
	}
	b := make([]byte, n)
	n -= copy(b[n-len(name):], name)
	for a := h; a.parent != nil; a = a.parent {
		if n < len(b) {
			n--
			b[n] = '/'
		}
		n -= len(a.name)
		copy(b[n:], a.name)
	}
	return string(b[n:])
}

// dup gives a descriptor of the folder that the caller closes. Unlike acquire it holds no lock,
// so that another folder can be acquired meanwhile.
func (h *handle) dup() (int, error) {
	fd, temp, err := h.acquire()
	if err != nil || temp {
		return fd, err
	}
	defer h.release(fd, temp)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}
