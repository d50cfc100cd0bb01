package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/postgres"
)

// scratch is a folder in which a cluster is brought back for a proof. A process that is killed leaves it, with the state's
// data in it; the next proof in the same place removes it.
type scratch struct {
	dir    string
	unlock func()
}

const (
	scratchPrefix = "chancery-boot-"
	scratchLock   = "lock" // held while the folder is in use
)

// newScratch makes a folder that the server's user owns and nobody else enters.
func newScratch(in string, owner *postgres.Owner) (*scratch, error) {
	in = cmp.Or(in, os.TempDir())
	sweepScratch(in, owner)
	dir, err := os.MkdirTemp(in, scratchPrefix)
	if err != nil {
		return nil, err
	}
	s := &scratch{dir: dir, unlock: func() {}}
	if err := s.prepare(owner); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *scratch) prepare(owner *postgres.Owner) (err error) {
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	if len(s.dir) > postgres.MaxScratch {
		return fmt.Errorf("%s: the path is too long for a socket in it", s.dir)
	}
	if s.unlock, err = durable.Lock(filepath.Join(s.dir, scratchLock)); err != nil || owner == nil {
		return err
	}
	return os.Chown(s.dir, owner.UID, owner.GID)
}

// remove removes the folder. Who is killed meanwhile leaves it for the next.
func (s *scratch) remove() {
	_ = os.RemoveAll(s.dir)
	s.unlock()
}

// sweepScratch removes what processes left that were killed: folders of ours, or of the server's user, that nobody uses.
// One that has no lock yet is being made.
func sweepScratch(in string, owner *postgres.Owner) {
	all, _ := filepath.Glob(filepath.Join(in, scratchPrefix+"*"))
	for _, dir := range all {
		lock := filepath.Join(dir, scratchLock)
		if !oursToSweep(dir, owner) || !regular(lock) {
			continue
		}
		unlock, err := durable.Lock(lock)
		if err != nil { // somebody works in it
			continue
		}
		_ = os.RemoveAll(dir)
		unlock()
	}
}

func oursToSweep(dir string, owner *postgres.Owner) bool {
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && (int(sys.Uid) == os.Geteuid() || owner != nil && int(sys.Uid) == owner.UID)
}

func regular(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().IsRegular()
}
