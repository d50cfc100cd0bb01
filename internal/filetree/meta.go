package filetree

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

const setIDBits = unix.S_ISUID | unix.S_ISGID

// node is an entry that is being given its metadata.
type node struct {
	t        *Target
	h        *handle // the folder it lies in, or itself when name is ""
	name     string
	fd       int
	st       Stat   // as it is; kept up to date by the methods
	pathOnly bool   // fd is O_PATH: a symlink, FIFO or device
	keepMode uint32 // not 0: this mode for now, and no warning, as another comes later
}

// apply sets owner, attributes, mode and times. The order matters: a change of owner takes away
// setuid bits and capabilities, an ACL changes the mode, and both change nothing of the time.
func (n *node) apply(meta Meta) error {
	if err := n.setOwner(meta); err != nil {
		return err
	}
	if err := n.setXattrs(meta.Xattrs); err != nil {
		return err
	}
	if err := n.setMode(meta); err != nil {
		return err
	}
	return n.setTimes(meta)
}

func (n *node) setOwner(meta Meta) error {
	if !n.t.opts.Owners || (n.st.UID == meta.UID && n.st.GID == meta.GID) {
		return nil
	}
	err := unix.Fchownat(n.fd, "", int(meta.UID), int(meta.GID), unix.AT_EMPTY_PATH)
	switch err {
	case nil:
		n.st.UID, n.st.GID = meta.UID, meta.GID
		n.st.Mode = unknownMode
	case unix.EPERM, unix.EINVAL, unix.EOPNOTSUPP:
		n.t.warn(n.h, n.name, "owner not set: "+err.Error())
	default:
		return err
	}
	return nil
}

// unknownMode is unequal to every mode.
const unknownMode = ^uint32(0)

func (n *node) setXattrs(all []Xattr) error {
	if !n.t.opts.Xattrs {
		if len(all) > 0 {
			n.t.warn(n.h, n.name, "extended attributes not set: not asked for")
		}
		return nil
	}
	for i := range all {
		x := &all[i]
		if x.Name == attrCapability && !n.mayHaveSetID() {
			n.t.warn(n.h, n.name, "rights of the program (security.capability) not set")
			continue
		}
		var err error
		if n.pathOnly {
			err = unix.Setxattr(procPath(n.fd, ""), x.Name, x.Value, 0)
		} else {
			err = unix.Fsetxattr(n.fd, x.Name, x.Value, 0)
		}
		if err == unix.EIO || err == unix.EROFS {
			return err
		}
		if err != nil {
			n.t.warn(n.h, n.name, "extended attribute "+x.Name+" not set: "+err.Error())
			continue
		}
		if x.Name == attrAccessACL {
			n.st.Mode = unknownMode
		}
	}
	return nil
}

// mayHaveSetID: only on request, and never for a file whose owner is not the one it was given to.
func (n *node) mayHaveSetID() bool { return n.t.opts.SetID && n.t.opts.Owners }

// allowed is the mode of meta without what is not to be set, about which it warns.
func (n *node) allowed(meta Meta) uint32 {
	mode := meta.Mode & 0o7777
	drop := uint32(0)
	if !n.t.opts.SetID {
		drop = mode & setIDBits
	} else {
		if n.st.UID != meta.UID {
			drop |= mode & unix.S_ISUID
		}
		if n.st.GID != meta.GID {
			drop |= mode & unix.S_ISGID
		}
	}
	switch {
	case drop == 0:
		return mode
	case n.t.opts.SetID:
		n.t.warn(n.h, n.name, "setuid or setgid bit not set: the owner is another")
	default:
		n.t.warn(n.h, n.name, "setuid or setgid bit not set: not asked for")
	}
	return mode &^ drop
}

func (n *node) setMode(meta Meta) error {
	if n.st.Kind == Symlink {
		return nil
	}
	mode := n.keepMode
	if mode == 0 {
		mode = n.allowed(meta)
	}
	if mode == n.st.Mode {
		return nil
	}
	var err error
	if n.pathOnly {
		err = unix.Chmod(procPath(n.fd, ""), mode)
	} else {
		err = unix.Fchmod(n.fd, mode)
	}
	return n.refused("mode", err)
}

// refused turns the system's refusal to set something into a warning.
func (n *node) refused(what string, err error) error {
	if err == unix.EPERM || err == unix.EOPNOTSUPP {
		n.t.warn(n.h, n.name, what+" not set: "+err.Error())
		return nil
	}
	return err
}

// setTimes sets the modification time and leaves the access time.
func (n *node) setTimes(meta Meta) error {
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {}}
	ts[1].Sec, ts[1].Nsec = meta.ModSec, int64(meta.ModNsec)
	if meta.ModNsec >= 1e9 {
		return unix.EINVAL
	}
	if n.pathOnly {
		return n.refused("time", unix.UtimesNanoAt(n.fd, "", ts[:], unix.AT_EMPTY_PATH))
	}
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(n.fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if e != 0 {
		return n.refused("time", e)
	}
	return nil
}

func hasXattr(all []Xattr, name string) bool {
	return slices.ContainsFunc(all, func(x Xattr) bool { return x.Name == name })
}
