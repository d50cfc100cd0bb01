package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/wal"
)

// BootOptions say how a cluster is proven to come back.
type BootOptions struct {
	Scratch    string    // an empty folder of its own; what is left in it is for the caller to remove
	Programs   string    // the folder of the server's programs; empty: where they are found
	Owner      *Owner    // as whom the server runs; nil where this program is not root
	Program    string    // the command by which the server fetches its log: the path of this program
	Began      time.Time // from when it is measured how long it takes
	Assertions []BootAssertion
	// Limit is how long all of it may take, after which the cluster is not proven; 0 is without end.
	Limit time.Duration
	// Stall is how long recovery may go without a sign of progress; 0 is an hour.
	Stall time.Duration
	Tell  func(format string, args ...any) // what is being done
}

// BootAssertion is SQL of one row and one column that must be true in what came back. It fails when it takes longer than
// its limit; 0 is none.
type BootAssertion struct {
	Name, Database, SQL string
	Limit               time.Duration
}

// Booted is how far a proof came.
type Booted struct {
	Base     Base
	Reach    *Reach
	Position []byte // where what came back ends; empty: it did not come so far
	Version  string
	Took     time.Duration // from Began until the server served; 0: it did not
	Checks   []snapshot.ProofCheck
}

// ErrNotProven means that what came back is not as it should be, or did not come back.
var ErrNotProven = errors.New("the cluster does not come back as it was")

// MaxScratch is how many bytes a scratch folder's path may have: the system allows a socket 107.
const MaxScratch = 107 - len("/socket/.s.PGSQL.5432")

// ServerLog is the file in the scratch folder with what the server said.
const ServerLog = "server.log"

// Boot restores a cluster into a scratch folder, starts a real server on it, shut off from everything, replays the log to
// its proven end, and looks at all of it. It returns how far it came, also with an error: ErrNotProven where a check
// failed, ErrPrograms, ErrProgram or ErrSandbox where this machine cannot do it. Nothing runs any more when it returns.
func Boot(ctx context.Context, r *archive.Reader, head *snapshot.Head, o BootOptions, progress *archive.Progress) (*Booted, error) {
	b := &booting{r: r, head: head, opts: o, progress: progress, out: &Booted{}, box: &sandbox{dir: o.Scratch, owner: o.Owner}}
	b.box.path = "/usr/local/bin:/usr/bin:/bin"
	if o.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Limit, errLimit)
		defer cancel()
	}
	err := b.run(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errLimit) {
		err = fmt.Errorf("%w: %w %s; at last: %s", ErrNotProven, errLimit, o.Limit, b.doing)
	}
	var bad []string
	for _, c := range b.out.Checks {
		if c.Outcome == snapshot.CheckFailed {
			bad = append(bad, c.Name+": "+c.Detail)
		}
	}
	if err == nil && len(bad) > 0 {
		err = fmt.Errorf("%w: %s", ErrNotProven, strings.Join(bad, "; "))
	}
	return b.out, err
}

// errLimit ends a proof that takes too long.
var errLimit = errors.New("it was not done within")

// booting is a proof on its way.
type booting struct {
	r        *archive.Reader
	head     *snapshot.Head
	opts     BootOptions
	progress *archive.Progress
	out      *Booted

	box      *sandbox
	programs *Programs
	log      *Log
	facts    *cluster.Facts // when the backup was taken
	now      *cluster.Facts // of what came back
	restored *RestoreReport
	local    cluster.Local
	database string // one to connect to
	refusal  refusals
	doing    string // what was told last
}

func (b *booting) run(ctx context.Context) error {
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if err := b.restore(ctx); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := b.verifyFiles(ctx); err != nil {
		return err
	}
	if err := b.serve(ctx); err != nil {
		return err
	}
	return b.verifyChecksums(ctx)
}

func (b *booting) tell(format string, args ...any) {
	b.doing = fmt.Sprintf(format, args...)
	if b.opts.Tell != nil {
		b.opts.Tell(format, args...)
	}
}

// check notes what came of a check.
func (b *booting) check(name string, outcome snapshot.CheckOutcome, format string, args ...any) {
	b.out.Checks = append(b.out.Checks, snapshot.ProofCheck{Name: name, Outcome: outcome, Detail: fmt.Sprintf(format, args...)})
}

// prepare looks at what there is to restore, and whether this machine can.
func (b *booting) prepare(ctx context.Context) error {
	var err error
	if b.log, err = OpenLog(ctx, b.r, b.head); err != nil {
		return err
	}
	b.out.Base = b.log.Base
	if b.programs, err = b.box.find(ctx, b.log.Base.Version/10000, b.opts.Programs); err != nil {
		return err
	}
	b.out.Version = b.programs.Version
	if b.facts, err = readFacts(ctx, b.r, b.head); err != nil {
		return err
	}
	if b.opts.Owner == nil {
		b.check("sandbox", snapshot.CheckWarned, "not started by root: sockets of this machine's servers were in the server's sight")
	}
	reach, err := b.log.Trail.Reach(&b.log.Base, 0)
	if err == nil {
		b.out.Reach = reach
		err = reach.Check(&b.log.Base, &Target{})
	}
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	b.check("log", snapshot.CheckHeld, "without a hole from %s to its proven end, %s of timeline %d", b.log.Base.Start, reach.Through, reach.Timeline)
	return nil
}

func (b *booting) data() string { return filepath.Join(b.opts.Scratch, "data") }

// restore writes the cluster, tablespaces and all, into the scratch folder.
func (b *booting) restore(ctx context.Context) error {
	o := RestoreOptions{To: b.data(), Program: b.opts.Program, Owner: b.opts.Owner, Files: filetree.TargetOptions{}}
	spaces, err := b.spaces(ctx)
	if err != nil {
		return err
	}
	o.Tablespaces = spaces
	b.tell("restoring snapshot %d and %d bytes of log behind it into %s", b.head.Sequence, b.out.Reach.Bytes, b.opts.Scratch)
	b.restored, err = Restore(ctx, b.r, b.head, b.out.Reach, &b.log.Base, o, b.progress)
	if err != nil {
		return err
	}
	if _, err = os.Stat(filepath.Join(b.data(), "postgresql.conf")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.check("configuration", snapshot.CheckWarned, "no postgresql.conf came back: the server ran with what it takes by itself")
	return b.file("data/postgresql.conf", "")
}

// spaces gives each tablespace a place in the scratch folder.
func (b *booting) spaces(ctx context.Context) (map[string]string, error) {
	text, err := b.r.ReadFile(ctx, b.head, dataFolder+"/tablespace_map", maxText)
	if errors.Is(err, archive.ErrNoPath) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	spaces, err := wal.ParseTablespaceMap(text)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, s := range spaces {
		oid := strconv.FormatUint(uint64(s.OID), 10)
		out[oid] = filepath.Join(b.opts.Scratch, "space-"+oid)
	}
	return out, nil
}

// file writes a file of the server's user into the scratch folder.
func (b *booting) file(name, text string) error {
	path := filepath.Join(b.opts.Scratch, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return b.own(path)
}

func (b *booting) own(path string) error {
	if b.opts.Owner == nil {
		return nil
	}
	return os.Lchown(path, b.opts.Owner.UID, b.opts.Owner.GID)
}

const socketPort = 5432 // of a socket's name only: the server listens to no network

// settings stand above all that the cluster was configured with: where it is, whom it lets in, and that it does nothing
// of its own accord but come back. What it is made of, such as libraries that it loads, stays as it was.
func (b *booting) settings() []string {
	in := func(name string) string { return filepath.Join(b.opts.Scratch, name) }
	args := []string{"-D", b.data()}
	for _, s := range [][2]string{
		{"data_directory", b.data()},
		{"hba_file", in("hba.conf")},
		{"ident_file", in("ident.conf")},
		{"external_pid_file", ""},
		{"listen_addresses", ""},
		{"unix_socket_directories", in("socket")},
		{"unix_socket_permissions", "0700"},
		{"unix_socket_group", ""},
		{"port", strconv.Itoa(socketPort)},
		{"ssl", "off"},
		{"hot_standby", "off"}, // it serves nobody before its log ended
		{"archive_mode", "off"},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"lc_messages", "C"},
		{"autovacuum", "off"},
		{"max_logical_replication_workers", "0"}, // subscriptions are the original's
		{"default_transaction_read_only", "off"},
		{"dynamic_shared_memory_type", "mmap"}, // in its own folder, and gone with it
		{"huge_pages", "off"},
		{"shared_buffers", "128MB"}, // this machine is not the one that it was measured for
	} {
		args = append(args, "-c", s[0]+"="+s[1])
	}
	return args
}

// serve starts the server, waits until it has recovered, and looks at what came back.
func (b *booting) serve(ctx context.Context) error {
	socket := filepath.Join(b.opts.Scratch, "socket")
	if err := errors.Join(os.Mkdir(socket, 0o700), b.own(socket), b.file("hba.conf", "local all all trust\n"), b.file("ident.conf", "")); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	supplied, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		supplied <- b.supply(ctx)
	}()
	defer func() { stop(); <-done }()
	if err := b.handing(ctx, done); err != nil {
		return err
	}
	b.tell("starting %s, with no network, on what was restored; it replays its log up to %s", b.programs.Version, b.out.Reach.Through)
	s, err := b.box.launch(ctx, b.programs.Postgres, filepath.Join(b.opts.Scratch, ServerLog), b.settings()...)
	if err != nil {
		return err
	}
	defer s.kill()
	b.local = cluster.Local{Folder: socket, Port: socketPort}
	if err := b.up(ctx, s, supplied); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	b.out.Took = time.Since(b.opts.Began)
	b.tell("the server serves after %s", b.out.Took.Round(time.Millisecond))
	if err := b.look(ctx); err != nil {
		select {
		case <-s.over:
			return fmt.Errorf("server: %w: %s", err, s.last())
		default:
			return err
		}
	}
	b.tell("stopping the server")
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("stopping the server: %w", err)
	}
	return nil
}

// supply hands out the log.
func (b *booting) supply(ctx context.Context) error {
	l := b.log
	x := &Supply{
		View: l.View(),
		Renew: func(ctx context.Context) (View, error) {
			next, err := l.Renew(ctx)
			if err != nil {
				return View{}, err
			}
			l = next
			return l.View(), nil
		},
		Log: b.refusal.note,
	}
	return x.Serve(ctx, b.data())
}

// handing waits until the log is handed out: a server that asks before would give up.
func (b *booting) handing(ctx context.Context, done <-chan struct{}) error {
	for {
		if _, err := os.Lstat(filepath.Join(b.data(), RecoveryFolder, socketName)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-done:
			return nil // why is told where the server is waited for
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// up waits until the server serves, or has ended.
func (b *booting) up(ctx context.Context, s *server, supplied <-chan error) error {
	told, tried := time.Now(), time.Now()
	going := progress{since: time.Now()}
	for {
		select {
		case <-s.over:
			return fmt.Errorf("it did not come up: %s%s", s.last(), b.refusal.why())
		case err := <-supplied:
			if err != nil {
				return fmt.Errorf("handing out the log: %w", err)
			}
			supplied = nil // recovery has ended
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		switch err := b.enter(ctx); {
		case err == nil:
			return b.reached(ctx)
		case errors.Is(err, cluster.ErrConnection): // it does not serve yet
			tried = time.Now()
		case time.Since(tried) > loginPatience:
			return err
		}
		if limit := cmp.Or(b.opts.Stall, stallLimit); going.still(b.refusal.where(), s.log) > limit {
			return fmt.Errorf("recovery makes no progress for %s; at last: %s%s", limit, cmp.Or(going.last, "it asked for no log yet"), b.refusal.why())
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			b.tell("replaying the log: %s", b.refusal.where())
		}
	}
}

// stallLimit is how long recovery may go without a sign of progress: flushing a large cluster at its end gives none.
const stallLimit = time.Hour

// progress is the last sign that a recovery goes on.
type progress struct {
	last   string
	since  time.Time // when it was first seen
	looked time.Time
}

// still is how long the signs have not changed: which file of the log was handed out last, and what the server says every
// ten seconds of how far it is.
func (p *progress) still(handed, log string) time.Duration {
	if time.Since(p.looked) > time.Second {
		p.looked = time.Now()
		if now := handed + said(log); now != p.last {
			p.last, p.since = now, time.Now()
		}
	}
	return time.Since(p.since)
}

// said is where the server's log at last said that a recovery is, or nothing.
func said(log string) string {
	const words = "elapsed time: "
	b, _ := tail(log, 64<<10)
	at := bytes.LastIndex(b, []byte(words))
	if at < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(b[at+len(words):], []byte("\n"))
	_, where, _ := bytes.Cut(line, []byte(",")) // behind the time, which passes by itself
	return string(where)
}

// loginPatience is how long a server that serves is asked for a user who may do everything.
const loginPatience = 10 * time.Second

// enter finds a user who may do everything, and a database, once the server serves: among those who own databases.
func (b *booting) enter(ctx context.Context) error {
	users, databases := []string{"postgres"}, []string{"postgres"}
	for _, d := range b.facts.Databases {
		users = append(users, d.Owner)
		if d.Connectable {
			databases = append(databases, d.Name)
		}
	}
	var last error
	for _, u := range users {
		for _, d := range databases {
			l := b.local
			l.User = u
			a, err := l.Ask(ctx, d, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user", true)
			if err == nil && a.True() {
				b.local, b.database = l, d
				return nil
			}
			if last = err; errors.Is(err, cluster.ErrConnection) {
				return err
			}
		}
	}
	return fmt.Errorf("nobody who owns a database is a superuser and may log in (last: %w)", cmp.Or(last, errors.New("no superuser")))
}
