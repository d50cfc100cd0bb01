package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Errors of what a proof needs on the machine that makes it: without, there is no proof and none that failed.
var (
	// ErrPrograms means that the server's programs of the right version are not on this machine.
	ErrPrograms = errors.New("no PostgreSQL of the version on this machine")
	// ErrSandbox means that this machine does not let the program shut a server off.
	ErrSandbox = errors.New("no sandbox can be made here")
)

// Programs are a server's programs of one major version. Those that are not there are empty.
type Programs struct {
	Major        int
	Postgres     string
	Amcheck      string
	VerifyBackup string
	Checksums    string
	Version      string // the server's own words
}

// sandbox runs programs apart from everything: with no network but a loopback that is down, no process of others and no
// memory shared with them, not as root, and not longer than this program lives. Started by root, they also find no socket
// of a server of this machine: who may be the original.
type sandbox struct {
	dir   string // the working directory, and HOME
	owner *Owner // nil: this program's own user
	path  string // of programs
}

// command prepares a program. What it starts dies with it: it is the first process of a namespace of its own.
func (s *sandbox) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = s.dir
	c.Env = []string{"PATH=" + s.path, "HOME=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // an interrupt of the terminal is for this program alone, which ends the other
	}
	if s.owner != nil {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.owner.UID), Gid: uint32(s.owner.GID)}
		return c
	}
	uid, gid := os.Geteuid(), os.Getegid()
	c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	return c
}

// start starts a program. The system kills it when the thread ends that started it, so that thread waits for it, and ends
// with it: what the thread sees of the file system is the program's.
func (s *sandbox) start(c *exec.Cmd) (over <-chan struct{}, err error) {
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := s.hide()
		if err == nil {
			err = c.Start()
		}
		started <- err
		if err == nil {
			_ = c.Wait() // how it ended is in c.ProcessState
		}
		close(ended)
	}()
	err = <-started
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		err = fmt.Errorf("%w: %w", ErrSandbox, err)
	}
	return ended, err
}

// maxOutput caps what is kept of a program's words.
const maxOutput = 1 << 20

// run runs a program to its end, and returns its exit code and the beginning of what it said.
func (s *sandbox) run(ctx context.Context, program string, args ...string) (code int, said string, err error) {
	out := &limited{left: maxOutput}
	c := s.command(ctx, program, args...)
	c.Stdout, c.Stderr = out, out
	over, err := s.start(c)
	if err != nil {
		return 0, "", err
	}
	<-over
	if ctx.Err() != nil {
		return 0, "", context.Cause(ctx)
	}
	return c.ProcessState.ExitCode(), out.String(), nil
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.Buffer.Write(p[:n])
	return len(p), nil
}

// versionWords are what a server says of its version.
var versionWords = regexp.MustCompile(`\(PostgreSQL\) (\d+)(\S*)`)

// find finds the programs of a major version: in a folder, or where systems put them.
func (s *sandbox) find(ctx context.Context, major int, folder string) (*Programs, error) {
	folders := []string{
		fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), // Debian
		fmt.Sprintf("/usr/pgsql-%d/bin", major),          // the project's own packages for Red Hat
	}
	folders = append(folders, filepath.SplitList(os.Getenv("PATH"))...)
	if folder != "" {
		folders = []string{folder}
	}
	for _, f := range folders {
		server := filepath.Join(f, "postgres")
		if !filepath.IsAbs(f) || !executable(server) {
			continue
		}
		_, said, err := s.run(ctx, server, "--version")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server, err)
		}
		if m := versionWords.FindStringSubmatch(said); m == nil || m[1] != fmt.Sprint(major) {
			continue
		}
		p := &Programs{Major: major, Postgres: server, Version: strings.TrimSpace(said)}
		for name, at := range map[string]*string{"pg_amcheck": &p.Amcheck, "pg_verifybackup": &p.VerifyBackup, "pg_checksums": &p.Checksums} {
			if path := filepath.Join(f, name); executable(path) {
				*at = path
			}
		}
		return p, nil
	}
	return nil, fmt.Errorf("%w: %d in %s", ErrPrograms, major, strings.Join(folders, ", "))
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// server is a server that runs in a sandbox.
type server struct {
	cmd  *exec.Cmd
	over <-chan struct{}
	log  string // its log, a file
}

// launch starts a server. It is killed when ctx ends.
func (s *sandbox) launch(ctx context.Context, program, log string, args ...string) (*server, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &server{cmd: s.command(ctx, program, args...), log: log}
	r.cmd.Stdout, r.cmd.Stderr = f, f
	r.over, err = s.start(r.cmd)
	return r, err
}

// kill ends a server with all its processes.
func (r *server) kill() {
	_ = r.cmd.Process.Kill()
	<-r.over
}

// stopPatience is how long a server may take to write what it has in memory.
const stopPatience = 30 * time.Minute

// stop shuts a server down in order.
func (r *server) stop(ctx context.Context) error {
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-r.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(stopPatience):
		return fmt.Errorf("it does not stop within %s", stopPatience)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("it ended with %s: %s", r.cmd.ProcessState, r.last())
	}
	return nil
}

// last is the last line of the server's log that tells why it ended.
func (r *server) last() string {
	b, err := tail(r.log, 64<<10)
	if err != nil {
		return err.Error()
	}
	worst := ""
	for line := range strings.Lines(string(b)) {
		for _, word := range []string{"PANIC:", "FATAL:"} {
			if _, text, ok := strings.Cut(line, word); ok && !strings.Contains(text, "the database system is ") {
				worst = word + " " + strings.TrimSpace(text)
			}
		}
	}
	if worst == "" {
		worst = "its log does not say why"
	}
	return worst
}

// tail returns the end of a file.
func tail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(max(0, st.Size()-most), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, most))
}
