// Package durable makes names and bytes survive a power cut: write, fsync,
// rename, fsync of the folder. Nothing else in the house calls rename or fsync
// on data that it has promised to keep.
//
// It keeps no format of its own. The only names that it invents are those of
// temporary files (see IsTemp); they hold nothing that anyone was promised and
// may be removed whenever no writer runs. That pattern never changes meaning: a
// later version that picks other names still recognises these.
package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// tempPrefix starts the name of every temporary file of this package.
const tempPrefix = ".tmp-"

// ErrLocked tells that another process holds the lock of a folder.
var ErrLocked = errors.New("locked by another process")

// WriteFile stores data under path so that after a crash at any moment the path
// holds either what it held before or all of data. When it returns nil the bytes
// and the name are on disk. The folder must exist. It does not keep data.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit()
}

// File is a file that appears under its name only when it is committed. It is
// written by one goroutine and must end in Commit or Abort.
type File struct {
	f    *os.File
	temp string
	path string
	cold bool

	group   *Group // nil: it is committed by itself
	written int64  // bytes, for group
	failed  uint64 // failures of group before this file began
	ended   bool   // committed or given up
}

// Create starts a file that Commit will put at path, replacing what is there.
// Until then its bytes live in a temporary file of the same folder.
func Create(path string, perm fs.FileMode) (*File, error) {
	return CreateIn(filepath.Dir(path), path, perm)
}

// CreateIn is Create with the temporary file in another folder of the same file
// system, so that what a crash leaves lies in one place and is easy to clear.
func CreateIn(folder, path string, perm fs.FileMode) (*File, error) {
	var salt [12]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("durable: temporary name: %w", err)
	}
	temp := filepath.Join(folder, tempPrefix+hex.EncodeToString(salt[:]))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, perm)
	if err != nil {
		return nil, fmt.Errorf("durable: create: %w", err)
	}
	return &File{f: f, temp: temp, path: path}, nil
}

// Write appends to the file. An error (a full disk, say) leaves the file to be
// ended by Abort.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.f.Write(p)
	f.written += int64(n)
	if err != nil {
		return n, fmt.Errorf("durable: write: %w", err)
	}
	return n, nil
}

// WriteAt writes at an offset in bytes, for callers that fill a header last.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	f.written += int64(n)
	if err != nil {
		return n, fmt.Errorf("durable: write: %w", err)
	}
	return n, nil
}

// Reserve sets room for size bytes aside, so that a full disk is known before
// the bytes travel. File systems that cannot reserve are not an error.
func (f *File) Reserve(size int64) error {
	if size <= 0 {
		return nil
	}
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE: what is not written is not there
	for {
		err := syscall.Fallocate(int(f.f.Fd()), keepSize, 0, size)
		switch {
		case err == nil, errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		}
		return fmt.Errorf("durable: reserve %d bytes: %w", size, err)
	}
}

// Cold says that nobody will read the file soon: when it is on disk, the system
// need not keep it in memory. Files that only archive would otherwise push out
// what is in use, and fresh memory for them costs more than writing them.
func (f *File) Cold() { f.cold = true }

// Commit puts the bytes on disk, then the name. After nil both survive a crash.
// On error the temporary file is gone and the path holds what it held before,
// except when only the last step, the folder's fsync, failed: then either the
// old or the new bytes are there, whole.
func (f *File) Commit() error {
	defer f.end()
	// A crash before the fsync ends leaves a temporary file of any content.
	if err := f.sync(f.f.Sync); err != nil {
		return errors.Join(fmt.Errorf("durable: fsync: %w", err), f.Abort())
	}
	if f.cold {
		DropCache(f.f)
	}
	if err := f.f.Close(); err != nil {
		return errors.Join(fmt.Errorf("durable: close: %w", err), removeTemp(f.temp))
	}
	// A crash before the rename leaves a whole temporary file that nobody names.
	if err := os.Rename(f.temp, f.path); err != nil {
		return errors.Join(fmt.Errorf("durable: rename: %w", err), removeTemp(f.temp))
	}
	// A crash before the folder's fsync leaves the old name or the new, whole.
	return f.sync(func() error { return SyncDir(filepath.Dir(f.path)) })
}

// sync puts what was just done on disk: by itself, or with others of its group.
func (f *File) sync(alone func() error) error {
	if f.group == nil || f.written > groupMost {
		return alone()
	}
	return f.group.sync(alone, f.failed)
}

// end takes the file out of its group, once.
func (f *File) end() {
	if f.group != nil && !f.ended {
		f.ended = true
		f.group.count(-1)
	}
}

// Abort removes the temporary file. Calling it after Commit is an error that
// changes nothing.
func (f *File) Abort() error {
	defer f.end()
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("durable: abort: %w", err)
	}
	return removeTemp(f.temp)
}

func removeTemp(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("durable: abort: %w", err)
	}
	return nil
}

// SyncDir makes the names of a folder durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("durable: folder: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("durable: fsync of folder: %w", err), d.Close())
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("durable: folder: %w", err)
	}
	return nil
}

// MkdirAll makes a folder and the folders above it, and makes each name that it
// added durable. A folder that is there already keeps its mode.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("durable: make folder %s: a file is there", path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("durable: make folder: %w", err)
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("durable: make folder: %w", err)
	}
	// A crash here leaves the folder there or not; the caller makes it again.
	return SyncDir(parent)
}

// Remove removes one name and makes that durable. A name that is not there is
// not an error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("durable: remove: %w", err)
	}
	// A crash here may bring the name back; whoever removes it again succeeds.
	return SyncDir(filepath.Dir(path))
}

// IsTemp tells whether name (its last element) is a temporary file of this package.
func IsTemp(name string) bool {
	salt, ok := strings.CutPrefix(filepath.Base(name), tempPrefix)
	if !ok || len(salt) != 24 {
		return false
	}
	_, err := hex.DecodeString(salt)
	return err == nil
}

// RemoveTemps removes the temporary files that a crash left directly in folder,
// and tells how many. Call it only while no writer of that folder runs.
func RemoveTemps(folder string) (int, error) {
	d, err := os.Open(folder)
	if err != nil {
		return 0, fmt.Errorf("durable: remove temporary files: %w", err)
	}
	defer func() { _ = d.Close() }() // read only: nothing to lose
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("durable: remove temporary files: %w", err)
	}
	n := 0
	for _, name := range names {
		if !IsTemp(name) {
			continue
		}
		if err := removeTemp(filepath.Join(folder, name)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// DropCache tells the system that f's bytes, which are on disk, need not stay in
// memory. It is advice: nothing depends on it.
func DropCache(f *os.File) {
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	_, _, _ = syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0)
}

// Full tells whether err means that no room is left: a full disk or an
// exhausted quota of the file system.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Lock takes the lock file at path (made when absent) for this process, and
// fails at once with ErrLocked when anyone else, in this process or another,
// holds it. The system frees it when the process ends, however it ends. unlock
// may be called more than once.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("durable: lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("durable: lock %s: %w", path, err), f.Close())
	}
	// The file stays: removing it would let two processes lock two inodes. Closing alone would not do: a process that is
	// being started at this moment has a copy of the descriptor until it becomes another program.
	return sync.OnceFunc(func() {
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		_ = f.Close()
	}), nil
}
