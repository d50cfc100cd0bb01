package postgres

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/wal"
)

// Supply hands a recovering server its log, file by file, through a socket in the restored data directory. It holds the
// keys, which so are never on the disk of the machine; the server's restore_command asks it (Fetch).
//
//	server ── restore_command ── Fetch ──socket──> Supply ──> embassies
//	   ^                           │                  └──> DIR/chancery_recovery/FILE, some ahead
//	   └────────── pg_wal ─────────┘ renames
type Supply struct {
	View View
	// Renew lists the log anew where its end is in doubt: an embassy may answer by now. May be nil.
	Renew func(context.Context) (View, error)
	// Log is told each file that was handed out or refused; may be nil.
	Log func(format string, args ...any)
	// Ready is told when a server may be started: it would stop if it asked before. May be nil.
	Ready func()

	root     *os.Root // chancery_recovery: its owner, whom we may not trust, can put anything there
	busy     chan struct{}
	ended    chan struct{}
	endOnce  sync.Once
	servings sync.WaitGroup
	line     wal.Timeline // as in View
	enough   wal.LSN

	mu   sync.Mutex // guards View and what follows
	work map[string]*fetching
}

// View is a log as it is known at one moment.
type View struct {
	Trail *Trail
	// Read returns the bytes of a stretch by its place in the trail. It is called by several goroutines.
	Read func(context.Context, int) ([]byte, error)

	line   wal.Timeline
	enough wal.LSN // so much of line is enough for the server, whatever follows; 0 where that is not said
}

// fetching is one file of the log on its way.
type fetching struct {
	done chan struct{}
	err  error
}

const (
	// ahead is how many segments are fetched before the server asks for them, and fetchers how many at a time: each is
	// in memory as a whole.
	ahead    = 8
	fetchers = 3
	// requestLimit caps a request and its answer, in bytes.
	requestLimit = 4096
	socketName   = "socket"
)

// CheckSystem refuses a restored data directory that is not of this database system: a server takes log of another one for
// the end of its own.
func CheckSystem(dataDirectory string, system uint64) error {
	f, err := os.Open(filepath.Join(dataDirectory, "global", "pg_control"))
	if err != nil {
		return err
	}
	defer f.Close()
	first := make([]byte, 8) // the system's identifier, as the machine writes numbers
	if _, err := io.ReadFull(f, first); err != nil {
		return err
	}
	if has := binary.NativeEndian.Uint64(first); has != system {
		return fmt.Errorf("%s is a cluster of system %d, and the register's is %d", dataDirectory, has, system)
	}
	return nil
}

// Serve answers until the server says that recovery has ended, or ctx does. dataDirectory is the restored one.
func (s *Supply) Serve(ctx context.Context, dataDirectory string) error {
	data, err := os.OpenRoot(dataDirectory)
	if err != nil {
		return err
	}
	defer data.Close()
	if s.root, err = data.OpenRoot(RecoveryFolder); err != nil {
		return err
	}
	defer s.root.Close()
	s.work, s.ended = map[string]*fetching{}, make(chan struct{})
	s.busy = make(chan struct{}, fetchers)
	if text, err := s.root.ReadFile(enoughFile); err == nil {
		s.line, s.enough = parseEnough(text)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l, err := s.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	if s.Ready != nil {
		s.Ready()
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-s.ended:
		}
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		s.servings.Go(func() { s.answer(ctx, conn) })
	}
	stop()
	s.servings.Wait()
	select {
	case <-s.ended:
		return data.RemoveAll(RecoveryFolder) // what of it a crash leaves, nobody reads
	default:
		return context.Cause(ctx)
	}
}

// listen opens the socket, which only the folder's owner can use. The path goes through the folder's descriptor: the
// system allows sockets no more than 107 bytes of path.
func (s *Supply) listen() (net.Listener, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := s.root.Remove(socketName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(s.root.Chmod(socketName, 0o600), s.give(socketName)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// give makes a file in the folder the folder owner's.
func (s *Supply) give(name string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	st, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the folder's owner cannot be told")
	}
	return s.root.Lchown(name, int(owner.Uid), int(owner.Gid))
}

// answer serves one request: "get FILE" or "end".
func (s *Supply) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(io.LimitReader(conn, requestLimit)).ReadString('\n')
	if err != nil {
		return
	}
	var reply string
	switch verb, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); verb {
	case "get":
		reply = s.reply(s.get(ctx, name), name)
	case "end":
		reply = "ok\n"
		defer s.endOnce.Do(func() { close(s.ended) })
	default:
		reply = fmt.Sprintf("no %d an unknown request\n", FetchRefused)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, reply)
}

// reply says how a file came out. Only a proven end is "end".
func (s *Supply) reply(err error, name string) string {
	if err == nil {
		s.log("%s: handed over", name)
		return "ok\n"
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, err.Error())
	s.log("%s: %s", name, text)
	if errors.Is(err, ErrEnd) {
		return fmt.Sprintf("end %.2000s\n", text)
	}
	return fmt.Sprintf("no %d %.2000s\n", fetchCode(err), text)
}

func (s *Supply) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(format, args...)
	}
}

// get brings a file of the log into the folder.
func (s *Supply) get(ctx context.Context, file string) error {
	view := s.view(ctx)
	trail := view.Trail
	n, err := wal.ParseName(file, trail.Segment)
	if err != nil {
		return err
	}
	switch n.Kind {
	case wal.KindHistory:
		text, err := trail.HistoryOf(n.Segment.Timeline)
		if errors.Is(err, ErrUnproven) && s.enough != 0 && n.Segment.Timeline > s.line {
			// The server has stopped at its target and looks for a number that its own timeline may take. Which it takes is
			// no part of what it brings back.
			return endError(file + ": no such timeline is known, and a restore to an earlier moment needs to know of none")
		}
		if err != nil {
			return err
		}
		return s.keep(file, text)
	case wal.KindSegment:
		f, early := s.fetch(ctx, view, n.Segment)
		for i := range uint64(ahead) {
			next := wal.Segment{Timeline: n.Segment.Timeline, Number: n.Segment.Number + 1 + i}
			if next.End(trail.Segment) <= trail.End(next.Timeline) { // whole ones only: a later answer may be longer
				s.fetch(ctx, view, next)
			}
		}
		err := s.await(ctx, f, file)
		if early && err != nil && ctx.Err() == nil { // what went wrong ahead of time may be over
			f, _ = s.fetch(ctx, view, n.Segment)
			err = s.await(ctx, f, file)
		}
		return err
	}
	return fmt.Errorf("%s: %w", file, ErrEnd) // partial segments and backup labels are kept nowhere, and recovery needs none
}

// await waits for a file. Asked for again, it is made again: the server took it.
func (s *Supply) await(ctx context.Context, f *fetching, file string) error {
	select {
	case <-f.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.work, file)
	return f.err
}

// view is the log, listed anew while its end is in doubt.
func (s *Supply) view(ctx context.Context) View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.View.Trail.Doubt() == nil || s.Renew == nil {
		return s.View
	}
	v, err := s.Renew(ctx)
	if err != nil {
		s.log("the log could not be listed anew: %v", err)
		return s.View // what is known stays known, and its doubt too
	}
	s.View = v
	return v
}

// fetch starts to bring a segment, unless it is on its way or there already, which it tells.
func (s *Supply) fetch(ctx context.Context, v View, seg wal.Segment) (f *fetching, early bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := seg.Name(v.Trail.Segment)
	if f := s.work[name]; f != nil {
		return f, true
	}
	v.line, v.enough = s.line, s.enough
	f = &fetching{done: make(chan struct{})}
	s.work[name] = f
	s.servings.Go(func() {
		defer close(f.done)
		s.busy <- struct{}{}
		defer func() { <-s.busy }()
		var data []byte
		if data, f.err = v.assemble(ctx, seg); f.err == nil {
			f.err = s.keep(name, data)
		}
	})
	return f, false
}

// assemble puts a segment's file together and holds what it says of itself against its name. The one that reaches into a
// hole, into what cannot be read, or to where the end is in doubt, is cut short there for a server that was told to stop
// before, and refuses to open otherwise.
func (v View) assemble(ctx context.Context, seg wal.Segment) ([]byte, error) {
	t := v.Trail
	var data []byte
	parts, _, err := t.Find(seg)
	if err == nil {
		data, err = v.join(ctx, parts, int(t.Segment))
	}
	if err != nil && seg.Timeline == v.line && seg.Start(t.Segment) < v.enough {
		if parts, err = t.Cover(v.line, seg.Start(t.Segment), min(v.enough, seg.End(t.Segment))); err == nil {
			data, err = v.join(ctx, parts, int(t.Segment))
		}
	}
	if err != nil {
		return nil, err
	}
	data = data[:t.Segment] // zeros behind the end, as in the server's own file
	claim := wal.Claim{System: t.System, Segment: seg, Size: t.Segment}
	if err := claim.Check(data); err != nil {
		return nil, fmt.Errorf("%w: %w", register.ErrDamaged, err)
	}
	return data, nil
}

// keep puts a file where Fetch takes it. Nothing is fsynced: after a crash the server asks again.
func (s *Supply) keep(name string, data []byte) error {
	part := name + ".part"
	if err := s.root.WriteFile(part, data, 0o600); err != nil {
		return err
	}
	if err := s.give(part); err != nil {
		return err
	}
	return s.root.Rename(part, name)
}
