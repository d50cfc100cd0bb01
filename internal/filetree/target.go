package filetree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// TargetOptions says what of the metadata is set. Whatever the data asks for and is not set, by an
// option or because the system refuses, is told to Warn.
type TargetOptions struct {
	Owners  bool // owner and group of everything: for root
	SetID   bool // setuid and setgid bits, and the rights of programs in security.capability
	Xattrs  bool // extended attributes and ACLs
	Devices bool // device nodes: for root
	// Warn is called once for each thing left out, by the goroutine that meets it. May be nil.
	Warn func(Warning)
}

// Warning is one thing that a restored entry lacks.
type Warning struct {
	Path string `json:"path"` // below the target, with "/" between names; "." is the target itself
	What string `json:"what"`
}

// Meta is what an entry gets when its content is complete. Access times are not kept.
type Meta struct {
	Mode     uint32 // the 07777 bits; symlinks have none of their own
	UID, GID uint32
	ModNsec  uint32 // 0 to 999,999,999
	ModSec   int64  // seconds since 1970, negative before
	Xattrs   []Xattr
}

// Target is a folder into which a tree is written. Nothing written through it lands outside,
// whatever the names are and whatever other programs do in the folder meanwhile.
type Target struct {
	opts  TargetOptions
	owner [2]uint32 // of what is made here: this process, or whom the file system names for all
	root  *Place

	mu    sync.Mutex
	later []laterMode
}

// laterMode is the mode of a folder that would have been closed to its owner: a hard link to a
// file in it could not be made any more. It is set by Close of the target.
type laterMode struct {
	h    *handle
	mode uint32
}

// CreateTarget makes the folder at path, whose parent must exist, or takes it as it is when it is
// there and empty; otherwise ErrNotEmpty, or ErrNotDir. Nothing is changed in these two cases.
func CreateTarget(path string, opts TargetOptions) (*Target, error) {
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("target %q: create: %w", path, err)
	}
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR {
		return nil, fmt.Errorf("target %q: %w", path, ErrNotDir)
	}
	if err != nil {
		return nil, fmt.Errorf("target %q: open: %w", path, err)
	}
	st, err := statFD(fd)
	t := &Target{opts: opts, owner: [2]uint32{uint32(os.Geteuid()), st.UID}}
	if err == nil {
		err = t.takeOver(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("target %q: %w", path, err)
	}
	t.root = &Place{t: t, h: &handle{dev: st.Dev, ino: st.Inode, fd: fd}}
	return t, nil
}

// takeOver demands an empty folder and, where ACLs are restored, stops it from handing an ACL of
// its own to everything that is made below.
func (t *Target) takeOver(fd int) error {
	s := scratch{buf: make([]byte, 4096)}
	if err := s.readNames(fd); err != nil {
		return err
	}
	if len(s.spans) > 0 {
		return ErrNotEmpty
	}
	if !t.opts.Xattrs {
		return nil
	}
	err := unix.Fremovexattr(fd, attrDefaultACL)
	if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
		return fmt.Errorf("default ACL: %w", err)
	}
	return nil
}

// Root is the place at the top of the target. Its Finish sets the folder's own metadata, and the
// folder stays usable until Close of the target.
func (t *Target) Root() *Place { return t.root }

// Close ends the use of the target after all its places, and sets the modes that had to wait. It
// may be called twice.
func (t *Target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first error
	for _, l := range t.later { // children came before their parents
		if err := l.set(); err != nil && first == nil {
			first = fmt.Errorf("%q: mode: %w", l.h.path(""), err)
		}
	}
	t.later = nil
	if err := t.root.h.close(); first == nil && err != nil {
		first = fmt.Errorf("target: close: %w", err)
	}
	return first
}

func (l laterMode) set() error {
	fd, temp, err := l.h.acquire()
	if err != nil {
		return err
	}
	defer l.h.release(fd, temp)
	return unix.Fchmod(fd, l.mode)
}

// warn tells of one thing that is left out.
func (t *Target) warn(h *handle, name, what string) {
	if t.opts.Warn == nil {
		return
	}
	path := h.path(name)
	if path == "" {
		path = "."
	}
	t.opts.Warn(Warning{Path: path, What: what})
}

// Place is a folder of a Target that is being filled. Several goroutines may create in it; Finish
// or Close come last. Everything is made new: a name that exists already is an error
// (fs.ErrExist), never overwritten and never followed.
type Place struct {
	t *Target
	h *handle
}

// Mkdir makes a folder, closed to others until its Finish.
func (p *Place) Mkdir(name string) (*Place, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dirfd, temp, err := p.h.acquire()
	if err != nil {
		return nil, p.fail("make folder", name, err)
	}
	err = unix.Mkdirat(dirfd, name, 0o700)
	p.h.release(dirfd, temp)
	if err != nil {
		return nil, p.fail("make folder", name, err)
	}
	h, st, err := p.h.child(name, nil)
	if err != nil {
		return nil, p.fail("make folder", name, err)
	}
	if st.UID != p.t.owner[0] && st.UID != p.t.owner[1] { // somebody put another folder there
		_ = h.close()
		return nil, p.fail("make folder", name, ErrChanged)
	}
	return &Place{t: p.t, h: h}, nil
}

// Finish gives the folder its owner, attributes, mode and times, in this order, and closes it.
// Everything below must be finished: it would change the time again.
func (p *Place) Finish(meta Meta) error {
	p.h.unparkParent() // while the mode still lets us
	fd, temp, err := p.h.acquire()
	if err != nil {
		return p.fail("finish", "", err)
	}
	err = p.finishFD(fd, meta)
	p.h.release(fd, temp)
	if err != nil {
		err = p.fail("finish", "", err)
	}
	if cerr := p.Close(); err == nil && cerr != nil {
		err = p.fail("close", "", cerr)
	}
	return err
}

func (p *Place) finishFD(fd int, meta Meta) error {
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	n := node{t: p.t, h: p.h, fd: fd, st: st}
	if p.h.parent == nil && p.t.opts.Xattrs && !hasXattr(meta.Xattrs, attrAccessACL) {
		_ = unix.Fremovexattr(fd, attrAccessACL) // the folder may have been there before
	}
	if meta.Mode&0o500 == 0o500 {
		return n.apply(meta)
	}
	n.keepMode = 0o700
	if err := n.apply(meta); err != nil {
		return err
	}
	p.t.mu.Lock()
	p.t.later = append(p.t.later, laterMode{h: p.h, mode: n.allowed(meta)})
	p.t.mu.Unlock()
	return nil
}

// Close abandons the folder, which keeps mode 0700. After Finish it does nothing. The root is
// closed by Close of the target.
func (p *Place) Close() error {
	if p.h.parent == nil {
		return nil
	}
	return p.h.close()
}

// Symlink makes a symlink to target, which is any text and is not looked at.
func (p *Place) Symlink(name, target string, meta Meta) error {
	return p.makeNode(name, Symlink, meta, func(dirfd int) error {
		return unix.Symlinkat(target, dirfd, name)
	})
}

// Fifo makes a FIFO.
func (p *Place) Fifo(name string, meta Meta) error {
	return p.makeNode(name, FIFO, meta, func(dirfd int) error {
		return unix.Mknodat(dirfd, name, unix.S_IFIFO|0o600, 0)
	})
}

// Device makes a device node. Without TargetOptions.Devices, or when the system refuses, it only
// warns.
func (p *Place) Device(name string, kind Kind, device uint64, meta Meta) error {
	if err := checkName(name); err != nil {
		return err
	}
	mode := uint32(unix.S_IFCHR | 0o600)
	switch kind {
	case CharDevice:
	case BlockDevice:
		mode = unix.S_IFBLK | 0o600
	default:
		return p.fail("make device", name, errors.New("its kind is no device"))
	}
	if !p.t.opts.Devices {
		p.t.warn(p.h, name, kind.String()+" not made: devices were not asked for")
		return nil
	}
	refused := false
	err := p.makeNode(name, kind, meta, func(dirfd int) error {
		err := unix.Mknodat(dirfd, name, mode, int(device))
		refused = err == unix.EPERM
		return err
	})
	if refused {
		p.t.warn(p.h, name, kind.String()+" not made: operation not permitted")
		return nil
	}
	return err
}

// Socket only warns: a socket is nothing without the program that listens on it, which makes its
// own.
func (p *Place) Socket(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	p.t.warn(p.h, name, "socket not made: the program that listens on it makes its own")
	return nil
}

// makeNode makes an entry that cannot be opened and gives it its metadata.
func (p *Place) makeNode(name string, kind Kind, meta Meta, create func(dirfd int) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	what := "make " + kind.String()
	dirfd, temp, err := p.h.acquire()
	if err != nil {
		return p.fail(what, name, err)
	}
	defer p.h.release(dirfd, temp)
	if err := create(dirfd); err != nil {
		return p.fail(what, name, err)
	}
	fd, err := openAt(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return p.fail(what, name, gone(err))
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err == nil && (st.Kind != kind || st.Links != 1) {
		err = ErrChanged // what is there now is not what we made
	}
	if err == nil {
		n := node{t: p.t, h: p.h, name: name, fd: fd, st: st, pathOnly: true}
		err = n.apply(meta)
	}
	if err != nil {
		return p.fail(what, name, err)
	}
	return nil
}

// fail words an error about an entry; name "" means the folder itself.
func (p *Place) fail(what, name string, err error) error {
	path := p.h.path(name)
	if path == "" {
		path = "."
	}
	return fmt.Errorf("%q: %s: %w", path, what, err)
}
