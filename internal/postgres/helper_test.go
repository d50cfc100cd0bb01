package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/wal"
)

// TestMain lets the test's own program be the restore_command of a server, as chancery is.
func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "pg" && os.Args[2] == "wal-fetch" {
		os.Exit(fetch(os.Args[3:]))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // tests wait for their servers more than they work
	os.Exit(pgtest.Main(m))
}

// fetch is what cmd/chancery does with --from FOLDER and --end, or FILE PATH.
func fetch(args []string) int {
	if args[2] == "--end" {
		if postgres.End(args[1]) != nil {
			return postgres.FetchUnserved
		}
		return postgres.FetchDone
	}
	code, err := postgres.Fetch(args[1], args[2], args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, args[2], err)
	}
	return code
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what must come: so long that only what never comes fails, however busy the machine is.
const patience = 4 * time.Minute

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// program is the test's own program where the servers' user can run it.
var program = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	in, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer in.Close()
	path := filepath.Join(os.TempDir(), fmt.Sprintf("chancery-fetch-%d", os.Getpid()))
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return path, errors.Join(err, out.Close())
})

// onAll tests a property on every version of the server.
func onAll(t *testing.T, property func(t *testing.T, major int)) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			property(t, major)
		})
	}
}

// rounds is how often something is done over and over on a version: on the oldest and the newest so often, on those
// between once.
func rounds(major, n int) int {
	if major == pgtest.Majors()[0] || major == pgtest.Majors()[len(pgtest.Majors())-1] {
		return n
	}
	return 1
}

// world is a state, a register that is a cluster, and what runs on it.
type world struct {
	testing.TB
	state   *sim.State
	dir     string // of the agent
	holders int    // of what its streams tell the server; 0 is as many as are needed to read
	server  *pgtest.Server
}

// small segments, so that many come; and log that is made fast.
func settings(more ...string) pgtest.Options {
	o := pgtest.Options{SegmentSize: 1, Settings: map[string]string{"wal_keep_size": "0", "autovacuum": "off"}}
	for i := 0; i < len(more); i += 2 {
		o.Settings[more[i]] = more[i+1]
	}
	return o
}

func newWorld(t testing.TB, major int, o pgtest.Options) *world {
	t.Helper()
	return newWorldOf(t, 2, major, o)
}

// newWorldOf is a world of three embassies, of which so many are needed.
func newWorldOf(t testing.TB, k, major int, o pgtest.Options) *world {
	t.Helper()
	s, err := sim.NewState(1, k, 3)
	check(t, err)
	w := &world{TB: t, state: s, dir: sim.FastDir(t), server: pgtest.Start(t, major, o)}
	w.server.Exec("CREATE TABLE numbered (n int PRIMARY KEY, filler text)")
	return w
}

func (w *world) register() *register.Register { return w.state.Register(w.dir) }

// written is how far the server's log is flushed now; what was committed before lies below.
func (w *world) written() wal.LSN {
	w.Helper()
	at, err := wal.ParseLSN(w.server.Exec("SELECT pg_current_wal_flush_lsn()"))
	check(w, err)
	return at
}

// tryBackup takes a base backup beside a stream that runs.
func (w *world) tryBackup(change ...func(*postgres.BaseOptions)) (*postgres.BaseReport, error) {
	newest, err := stream.FindNewest(w.Context(), w.register(), w.state.Agent)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(w.Context(), patience)
	defer stop()
	o := postgres.BaseOptions{Conninfo: w.server.Conninfo(), Fast: true, Stretch: newest.Sequence, Covered: w.covered}
	for _, c := range change {
		c(&o)
	}
	return postgres.Backup(ctx, w.register(), w.state.Agent, o, nil)
}

func (w *world) backup() *postgres.BaseReport {
	w.Helper()
	rep, err := w.tryBackup()
	check(w, err)
	return rep
}

func (w *world) covered(ctx context.Context, tl wal.Timeline, to wal.LSN) error {
	for {
		newest, err := stream.FindNewest(ctx, w.register(), w.state.Agent)
		if err != nil {
			return err
		}
		if newest.Sequence > 0 {
			p, err := postgres.ParsePosition(newest.Position)
			if err != nil {
				return err
			}
			if p.Kind == postgres.KindLog && p.Timeline == tl && p.End >= to {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// recovery is a cluster that was restored on a machine that has nothing, and what hands out its log.
type recovery struct {
	*pgtest.Server
	log    *postgres.Log
	reach  *postgres.Reach
	report *postgres.RestoreReport
	supply *postgres.Supply
	view   func(postgres.View) postgres.View // what is handed out of what there is; nil changes nothing
	stop   context.CancelFunc
	over   chan error // what Serve returned

	mu   sync.Mutex
	said []string
}

// reader opens the register on a machine that has nothing.
func (w *world) reader() *archive.Reader {
	w.Helper()
	r, err := archive.OpenReader(w.Context(), w.state.Register(sim.FastDir(w)), w.state.Agent, w.state.Key)
	check(w, err)
	w.Cleanup(r.Close)
	return r
}

// plan finds how far a snapshot reaches.
func (w *world) plan(snap string, target *postgres.Target) (*archive.Reader, *snapshot.Head, *postgres.Log, *postgres.Reach, error) {
	w.Helper()
	r := w.reader()
	head, err := r.Find(snap)
	check(w, err)
	l, err := postgres.OpenLog(w.Context(), r, head)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	reach, err := l.Trail.Reach(&l.Base, target.Timeline)
	if err == nil {
		err = reach.Check(&l.Base, target)
	}
	return r, head, l, reach, err
}

// restore writes a cluster and hands out its log; the server is not started.
func (w *world) restore(target postgres.Target, change ...func(*postgres.RestoreOptions)) *recovery {
	w.Helper()
	return w.restoreOf("latest", target, change...)
}

// restoreOf restores from a snapshot, or where its name is empty from the one that suits the target.
func (w *world) restoreOf(snap string, target postgres.Target, change ...func(*postgres.RestoreOptions)) *recovery {
	w.Helper()
	r := w.reader()
	var head *snapshot.Head
	var err error
	if snap != "" {
		head, err = r.Find(snap)
		check(w, err)
	}
	plan, err := postgres.NewPlan(w.Context(), r, head, target, nil)
	check(w, err)
	head, l, reach := plan.Head, plan.Log, plan.Reach
	self, err := program()
	check(w, err)
	dir := pgtest.Folder(w)
	o := postgres.RestoreOptions{
		To: filepath.Join(dir, "data"), Target: plan.Target, Aim: plan.Aim, Program: self, Owner: owner(w),
		Files: filetree.TargetOptions{Owners: true},
	}
	for _, c := range change {
		c(&o)
	}
	rep, err := postgres.Restore(w.Context(), r, head, reach, &l.Base, o, nil)
	check(w, err)
	c := &recovery{Server: pgtest.On(w, w.server.Major, o.To), log: l, reach: reach, report: rep}
	w.Cleanup(func() {
		c.unserve()
		c.Kill()
		if w.Failed() {
			w.Logf("handed out: %q", c.said)
		}
	})
	c.serve(w.Context())
	return c
}

// serve hands out the log from now on.
func (c *recovery) serve(ctx context.Context) {
	c.supply = &postgres.Supply{
		View: c.log.View(),
		Renew: func(ctx context.Context) (postgres.View, error) {
			next, err := c.log.Renew(ctx)
			if err != nil {
				return postgres.View{}, err
			}
			c.log = next
			return next.View(), nil
		},
		Log: func(format string, args ...any) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.said = append(c.said, fmt.Sprintf(format, args...))
		},
	}
	if c.view != nil {
		c.supply.View, c.supply.Renew = c.view(c.supply.View), nil
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.over = make(chan error, 1)
	ready := make(chan struct{})
	c.supply.Ready = func() { close(ready) }
	go func(s *postgres.Supply, over chan error) { over <- s.Serve(ctx, c.Data) }(c.supply, c.over)
	select {
	case <-ready:
	case err := <-c.over: // it cannot be handed out, which is for the test to find
		c.over <- err
	}
}

func (c *recovery) unserve() {
	if c.stop != nil {
		c.stop()
		<-c.over
		c.stop = nil
	}
}

// recovers starts the server and waits until it is a primary.
func (c *recovery) recovers() *recovery {
	c.StartAgain()
	c.Await("SELECT pg_is_in_recovery()", "f")
	return c
}

// holds wants the rows 1 to n and no others, n between the two.
func (c *recovery) holds(t testing.TB, least, most int) int {
	t.Helper()
	n, err := strconv.Atoi(c.Exec("SELECT count(*) FROM numbered"))
	check(t, err)
	if bad := c.Exec("SELECT count(*) FROM (SELECT n, row_number() OVER (ORDER BY n) AS i FROM numbered) x WHERE n <> i"); bad != "0" {
		t.Errorf("%d rows with %s out of their row: a hole, or a row twice", n, bad)
	}
	if n < least || n > most {
		t.Errorf("%d rows; want %d to %d", n, least, most)
	}
	return n
}

// owner is the user whom servers run as.
func owner(t testing.TB) *postgres.Owner {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	o, err := ownerNamed("postgres")
	check(t, err)
	return o
}

func ownerNamed(name string) (*postgres.Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return &postgres.Owner{UID: uid, GID: gid}, err
}
