package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hide takes from this thread's sight the sockets by which programs of this machine are reached: sockets have names in the
// file system, which no network parts. Whoever is not root cannot, and sees them.
func (s *sandbox) hide() error {
	if s.owner == nil {
		return nil
	}
	const run = "/run"
	real, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return err
	}
	if real == run || strings.HasPrefix(real, run+"/") {
		return fmt.Errorf("%w: %s lies in %s, which is hidden from the server", ErrSandbox, s.dir, run)
	}
	for _, step := range []func() error{
		func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error {
			return unix.Mount("none", run, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, "mode=0755,size=4k")
		},
	} {
		if err := step(); err != nil {
			return fmt.Errorf("%w: %w", ErrSandbox, err)
		}
	}
	sockets, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSandbox, err)
	}
	for _, path := range socketPaths(sockets) {
		if strings.HasPrefix(path, real+"/") || strings.HasPrefix(path, s.dir+"/") {
			continue
		}
		if strings.HasPrefix(path, "/proc/") { // bound through a descriptor, as Supply's is: here it names another file, or none
			continue
		}
		st, err := os.Lstat(path)
		if err != nil || st.Mode()&fs.ModeSocket == 0 { // by that name nobody reaches it
			continue
		}
		err = unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s: %w", ErrSandbox, path, err)
		}
	}
	return nil
}

// socketPaths are the names in a list of the system's sockets that are paths of files.
func socketPaths(list []byte) (paths []string) {
	seen := map[string]bool{}
	for line := range bytes.Lines(list) {
		if _, path, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " /"); ok && !seen[path] {
			seen[path] = true
			paths = append(paths, "/"+path)
		}
	}
	return paths
}
