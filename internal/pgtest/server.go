package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

const (
	superuser = "postgres"
	port      = 5432 // of the socket's name only: servers of tests listen to no network, but those that are told to
	patience  = 4 * time.Minute
)

// Options say how a cluster is made and run.
type Options struct {
	Settings    map[string]string // of postgresql.conf
	SegmentSize int               // MiB; 0 is 16
	Checksums   bool              // that are left out; data checksums are on otherwise
	InitDB      []string          // more arguments
}

// A Server is a cluster of one test, and the server that runs it.
type Server struct {
	Major int
	Bin   string
	Dir   string // everything of the cluster is below
	Data  string // the data directory

	t    testing.TB
	run  *process
	host string
	port int
	tcp  string // the address that it listens to beside its socket; empty is none
}

// A process is a running server.
type process struct {
	cmd  *exec.Cmd
	over chan struct{} // closed when it has ended
}

// Start makes a cluster and starts its server; both are gone when the test ends.
func Start(t testing.TB, major int, o Options) *Server {
	t.Helper()
	s := create(t, major)
	args := append([]string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"}, o.InitDB...)
	if !o.Checksums {
		args = append(args, "--data-checksums")
	}
	if o.SegmentSize != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(o.SegmentSize))
	}
	s.initialize(args)
	s.Set(o.Settings)
	s.StartAgain()
	return s
}

// Adopt prepares a server for a data directory that was written by a restore: the folder is handed to the servers'
// user, and moved below the server's own. It is not started.
func Adopt(t testing.TB, major int, data string) *Server {
	t.Helper()
	s := create(t, major)
	if err := os.Rename(data, s.Data); err != nil {
		t.Fatal(err)
	}
	Give(t, s.Data)
	return s
}

func create(t testing.TB, major int) *Server {
	t.Helper()
	dir := Folder(t)
	s := &Server{Major: major, Bin: Bin(t, major), Dir: dir, Data: filepath.Join(dir, "data"), t: t, host: dir, port: port}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.logTail())
		}
	})
	return s
}

func (s *Server) logTail() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b[max(0, len(b)-4000):])
}

// Set adds settings to postgresql.conf; a running server takes most of them after [Server.Reload].
func (s *Server) Set(settings map[string]string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range settings {
		fmt.Fprintf(f, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// Reload makes the running server read its configuration.
func (s *Server) Reload() {
	s.t.Helper()
	s.Exec("SELECT pg_reload_conf()")
}

// StartAgain starts the server and waits until it answers.
func (s *Server) StartAgain() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatalf("PostgreSQL %d does not start: %v\n%s", s.Major, err, s.logTail())
	}
}

// TryStart starts the server and waits until it answers, or has ended.
func (s *Server) TryStart() error {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	// A process of the server's dies with that of the test; none is spared for what it would write to disk.
	cmd := command(s.t, s.Dir, filepath.Join(s.Bin, "postgres"), "-D", s.Data, "-k", s.host, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses="+s.tcp, "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=30",
		"-c", "logging_collector=off", "-c", "dynamic_shared_memory_type=mmap", "-c", "unix_socket_permissions=0777")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	s.run = &process{cmd: cmd, over: make(chan struct{})}
	started := make(chan error)
	go func(p *process) {
		runtime.LockOSThread() // the signal comes when the thread that started the process ends
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
		close(p.over)
	}(s.run)
	if err := <-started; err != nil {
		return err
	}
	return s.answers()
}

// Listen has the server, started again, listen to the loopback as well, and returns the port.
func (s *Server) Listen() int {
	s.t.Helper()
	s.Stop()
	for range 10 { // another may take the port first
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.tcp, s.port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
		l.Close()
		if err = s.TryStart(); err == nil {
			return s.port
		}
		s.t.Logf("port %d: %v", s.port, err)
		s.run = nil
	}
	s.t.Fatalf("the server does not start\n%s", s.logTail())
	return 0
}

// Ends waits until the server has ended by itself, and returns what it logged since it was started last.
func (s *Server) Ends() string {
	s.t.Helper()
	select {
	case <-s.run.over:
	case <-time.After(patience):
		s.t.Fatalf("the server does not end\n%s", s.logTail())
	}
	s.run = nil

	b, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b[bytes.LastIndex(b, []byte("starting PostgreSQL")):])
}

// answers waits until the server does.
func (s *Server) answers() error {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-s.run.over:
			return errors.New("it has ended")
		default:
		}
		if _, err := s.Try("postgres", "SELECT 1"); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("it does not answer")
}

// Kill kills the server with all its processes, as a crash of the machine would, but for what is in the page cache.
func (s *Server) Kill() {
	if s.run == nil {
		return
	}
	_ = s.run.cmd.Process.Kill()
	<-s.run.over
	s.run = nil
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		left := s.processes()
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			s.t.Errorf("processes of the killed server stay in %s", s.Data)
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	s.forget()
}

// processes finds those that work in the data directory, as only the server's do.
func (s *Server) processes() (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, l := range links {
		if at, err := os.Readlink(l); err == nil && at == s.Data {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(l))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// forget removes the shared memory of a killed server, which would stay as long as the machine runs. Its number stands
// in the seventh line of the server's pid file.
func (s *Server) forget() {
	b, _ := os.ReadFile(filepath.Join(s.Data, "postmaster.pid"))
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	if numbers := strings.Fields(lines[6]); len(numbers) == 2 {
		if id, err := strconv.Atoi(numbers[1]); err == nil {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		}
	}
}

// Stop shuts the server down in order; it waits for the standbys to have everything.
func (s *Server) Stop() {
	s.t.Helper()
	p := s.run
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-p.over:
		s.run = nil
	case <-time.After(patience):
		s.t.Fatal("the server does not stop")
	}
}

// Promote makes a standby the primary of the next timeline, and waits until it is.
func (s *Server) Promote() {
	s.t.Helper()
	s.Exec("SELECT pg_promote(true, 60)")
}

// Conninfo is how to connect to a database of the server as superuser.
func (s *Server) Conninfo() string {
	return fmt.Sprintf("host=%s port=%d user=%s sslmode=disable", s.host, s.port, superuser)
}

// Exec runs SQL in the database postgres, and returns the rows of the last statement: columns parted by "|", rows by
// line breaks.
func (s *Server) Exec(sql string) string {
	s.t.Helper()
	return s.ExecIn("postgres", sql)
}

// ExecIn is [Server.Exec] in another database.
func (s *Server) ExecIn(database, sql string) string {
	s.t.Helper()
	out, err := s.Try(database, sql)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// Try is [Server.ExecIn] and returns the error. It may be called beside the test's goroutine.
func (s *Server) Try(database, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	c, err := pgconn.Connect(ctx, s.Conninfo()+" dbname="+database)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	var lines []string
	if len(results) > 0 {
		for _, row := range results[len(results)-1].Rows {
			columns := make([]string, len(row))
			for i, v := range row {
				columns[i] = string(v)
			}
			lines = append(lines, strings.Join(columns, "|"))
		}
	}
	return strings.Join(lines, "\n"), nil
}

// Await waits until a query gives the answer.
func (s *Server) Await(sql, want string) {
	s.t.Helper()
	got := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = s.Exec(sql); got == want {
			return
		}
	}
	s.t.Fatalf("%s: %q, not %q", sql, got, want)
}

// On prepares a server for a data directory that stays where it is. It is not started.
func On(t testing.TB, major int, data string) *Server {
	t.Helper()
	s := create(t, major)
	s.Data = data
	return s
}
