package filetree

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Output is a regular file that is being written. WriteAt may be called by several goroutines at
// once; then comes one Finish or Discard.
type Output struct {
	p    *Place
	name string
	fd   int
	size int64        // what it shall be
	end  atomic.Int64 // behind the last byte written
}

// CreateFile makes a new file of the given size in bytes, closed to others until Finish. What is
// never written reads as zeros and takes no room.
func (p *Place) CreateFile(name string, size int64) (*Output, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, p.fail("create", name, unix.EINVAL)
	}
	dirfd, temp, err := p.h.acquire()
	if err != nil {
		return nil, p.fail("create", name, err)
	}
	defer p.h.release(dirfd, temp)
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := openAt(dirfd, name, flags, 0o600)
	if err != nil {
		return nil, p.fail("create", name, err)
	}
	return &Output{p: p, name: name, fd: fd, size: size}, nil
}

// WriteAt is io.WriterAt. It never writes past the size given at creation.
func (o *Output) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > o.size || int64(len(b)) > o.size-off {
		return 0, o.p.fail("write", o.name, errors.New("past the end of the file"))
	}
	done := 0
	for done < len(b) {
		n, err := unix.Pwrite(o.fd, b[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			return done, o.p.fail("write", o.name, err)
		}
		done += n
	}
	for end := off + int64(done); ; {
		old := o.end.Load()
		if old >= end || o.end.CompareAndSwap(old, end) {
			return done, nil
		}
	}
}

// Truncate gives the file another size than that of its creation: bytes behind it are dropped,
// and missing ones read as zeros.
func (o *Output) Truncate(size int64) error {
	if size < 0 {
		return o.p.fail("truncate", o.name, unix.EINVAL)
	}
	if size < o.end.Load() {
		if err := ftruncate(o.fd, size); err != nil {
			return o.p.fail("truncate", o.name, err)
		}
		o.end.Store(size)
	}
	o.size = size
	return nil
}

// Finish brings the file to its size, gives it its owner, attributes, mode and times, in this
// order, and closes it, also when it fails.
func (o *Output) Finish(meta Meta) error {
	if o.fd < 0 {
		return o.p.fail("finish", o.name, fs.ErrClosed)
	}
	err := o.finish(meta)
	cerr := unix.Close(o.fd)
	o.fd = -1
	if err == nil && cerr != unix.EINTR { // Linux has closed it even then
		err = cerr
	}
	if err != nil {
		return o.p.fail("finish", o.name, err)
	}
	return nil
}

func (o *Output) finish(meta Meta) error {
	if o.end.Load() < o.size {
		if err := ftruncate(o.fd, o.size); err != nil {
			return err
		}
	}
	st, err := statFD(o.fd)
	if err != nil {
		return err
	}
	n := node{t: o.p.t, h: o.p.h, name: o.name, fd: o.fd, st: st}
	return n.apply(meta)
}

// Discard closes the file and removes it, if it is still under its name. After Finish it does
// nothing.
func (o *Output) Discard() error {
	if o.fd < 0 {
		return nil
	}
	mine, err := statFD(o.fd)
	_ = unix.Close(o.fd)
	o.fd = -1
	if err != nil {
		return o.p.fail("remove", o.name, err)
	}
	dirfd, temp, err := o.p.h.acquire()
	if err != nil {
		return o.p.fail("remove", o.name, err)
	}
	defer o.p.h.release(dirfd, temp)
	now, err := statAt(dirfd, o.name)
	if err == nil && now.sameInode(&mine) {
		err = unix.Unlinkat(dirfd, o.name, 0)
	}
	if err != nil && err != unix.ENOENT {
		return o.p.fail("remove", o.name, err)
	}
	return nil
}

func ftruncate(fd int, size int64) error {
	for {
		err := unix.Ftruncate(fd, size)
		if err != unix.EINTR {
			return err
		}
	}
}

// LinkRef remembers an entry that further hard links will lead to. It holds no descriptor.
type LinkRef struct {
	h    *handle
	name string
	st   Stat
}

// Ref refers to an entry of this place, anything but a folder, finished or not.
func (p *Place) Ref(name string) (LinkRef, error) {
	if err := checkName(name); err != nil {
		return LinkRef{}, err
	}
	dirfd, temp, err := p.h.acquire()
	if err != nil {
		return LinkRef{}, p.fail("refer to", name, err)
	}
	defer p.h.release(dirfd, temp)
	st, err := statAt(dirfd, name)
	if err == nil && st.Kind == Dir {
		err = unix.EISDIR
	}
	if err != nil {
		return LinkRef{}, p.fail("refer to", name, err)
	}
	return LinkRef{h: p.h, name: name, st: st}, nil
}

// Link makes name a further hard link of first, wherever below the same target that was made and
// whether its place is finished or not. ErrChanged when first is not there any more. Where the
// file system has a limit of links the error wraps syscall.EMLINK, and the caller makes a copy.
func (p *Place) Link(name string, first LinkRef) error {
	if err := checkName(name); err != nil {
		return err
	}
	if first.h == nil {
		return p.fail("link", name, errors.New("without a first"))
	}
	from, err := first.h.dup()
	if err != nil {
		return p.fail("link", name, err)
	}
	defer unix.Close(from)
	dirfd, temp, err := p.h.acquire()
	if err != nil {
		return p.fail("link", name, err)
	}
	defer p.h.release(dirfd, temp)
	if err := unix.Linkat(from, first.name, dirfd, name, 0); err != nil {
		if err == unix.ENOENT {
			err = ErrChanged
		}
		return p.fail("link", name, err)
	}
	st, err := statAt(dirfd, name)
	if err == nil && !st.sameInode(&first.st) {
		_ = unix.Unlinkat(dirfd, name, 0)
		err = ErrChanged
	}
	if err != nil {
		return p.fail("link", name, err)
	}
	return nil
}

// Sync makes what was written to the file system that holds path durable, all of it.
func Sync(path string) error {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("sync %q: open: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync %q: %w", path, err)
	}
	return nil
}
