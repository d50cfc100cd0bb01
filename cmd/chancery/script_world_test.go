package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/pgtest"
)

// patience is how long a script waits for a condition before it fails: so long that only what never comes about fails,
// however busy the machine is.
const patience = 5 * time.Minute

// look is the pause between two looks at a condition. Shorter ones would take the time that is waited for.
const look = 10 * time.Millisecond

type worldKey struct{}

// world is what one script has running.
type world struct {
	dir       string
	processes map[string]*process
	addresses map[string]string // embassy -> where its server listens
	links     map[string]*link
	endings   []func()
	servers   map[string]*pgtest.Server
	t         testing.TB // of the script
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// end stops whatever still runs.
func (w *world) end() {
	for _, p := range w.processes {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	for _, l := range w.links {
		l.close()
	}
	for _, pid := range programsIn(w.dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, f := range w.endings {
		f()
	}
}

// programsIn are the processes whose program lies below a folder.
func programsIn(dir string) (pids []int) {
	list, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is good
	for _, exe := range list {
		path, err := os.Readlink(exe)
		if err != nil || !strings.HasPrefix(path, dir+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(exe))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// process is a command beside the script.
type process struct {
	cmd       *exec.Cmd
	out, errs safeBuffer
	ended     chan struct{} // closed when it is over
	held      map[string]int
}

// safeBuffer is read while a process writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// launch starts a command in the script's environment.
func (w *world) launch(ts *testscript.TestScript, name string, args []string) *process {
	if p := w.processes[name]; p != nil {
		ts.Fatalf("%s runs already", name)
	}
	path := args[0]
	if !strings.Contains(path, "/") {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if _, err := os.Stat(filepath.Join(dir, args[0])); err == nil {
				path = filepath.Join(dir, args[0])
				break
			}
		}
	}
	p := &process{cmd: exec.Command(path, args[1:]...), ended: make(chan struct{}), held: map[string]int{}}
	p.cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "TMPDIR", "CHANCERY_HOME", "GORACE", "XDG_CACHE_HOME"} {
		p.cmd.Env = append(p.cmd.Env, k+"="+ts.Getenv(k))
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	for e := range w.addresses {
		p.held[e] = len(w.objects(ts, e))
	}
	ts.Check(p.cmd.Start())
	w.processes[name] = p
	go func() {
		_ = p.cmd.Wait() // the exit code is in its state
		close(p.ended)
	}()
	return p
}

func (w *world) process(ts *testscript.TestScript, name string) *process {
	p := w.processes[name]
	if p == nil {
		ts.Fatalf("%s was not started", name)
	}
	return p
}

// until waits for a condition; why says what did not come to pass.
func until(ts *testscript.TestScript, p *process, why string, ok func() bool) {
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-p.ended:
			if ok() {
				return
			}
			ts.Fatalf("%s: it ended before (%v): %s%s", why, p.cmd.ProcessState, p.out.String(), p.errs.String())
		case <-deadline:
			ts.Fatalf("%s: not within %v: %s%s", why, patience, p.out.String(), p.errs.String())
		case <-time.After(look):
		}
	}
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 1000, "start NAME COMMAND...")
	worldOf(ts).launch(ts, args[0], args[1:])
}

func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "await NAME EMBASSY N")
	w, n := worldOf(ts), int(number(ts, args[2]))
	p := w.process(ts, args[0])
	until(ts, p, "await "+args[1]+" "+args[2], func() bool { return len(w.objects(ts, args[1]))-p.held[args[1]] >= n })
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "signal NAME INT|TERM|KILL")
	sig, ok := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}[args[1]]
	if !ok {
		ts.Fatalf("no signal %s", args[1])
	}
	w := worldOf(ts)
	p := w.process(ts, args[0])
	select {
	case <-p.ended:
		ts.Fatalf("%s ended by itself: %v: %s%s", args[0], p.cmd.ProcessState, p.out.String(), p.errs.String())
	default:
	}
	ts.Check(p.cmd.Process.Signal(sig))
	if args[1] == "KILL" {
		<-p.ended
		delete(w.processes, args[0])
	}
}

func cmdEnds(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "ends NAME CODE")
	w := worldOf(ts)
	p := w.process(ts, args[0])
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("%s does not end: %s%s", args[0], p.out.String(), p.errs.String())
	}
	delete(w.processes, args[0])
	_, _ = io.WriteString(ts.Stdout(), p.out.String())
	_, _ = io.WriteString(ts.Stderr(), p.errs.String())
	if code := p.cmd.ProcessState.ExitCode(); fmt.Sprint(code) != args[1] {
		ts.Fatalf("%s: exit code %d, want %s: %s%s", args[0], code, args[1], p.out.String(), p.errs.String())
	}
}

// hosts are the embassies that a script may have.
var hosts = [][2]string{{"lu", "LU"}, {"is", "IS"}, {"pt", "PT"}, {"mt", "MT"}, {"no", "NO"}}

// holders are the keys of the five custodians and a reader, made once for all scripts.
var holders = sync.OnceValues(func() (map[string][2]string, error) {
	keys := map[string][2]string{}
	for _, n := range append(custodians(), "reader") {
		secret, recipient, err := custody.GenerateIdentity(n)
		if err != nil {
			return nil, err
		}
		keys[n] = [2]string{secret, recipient}
	}
	return keys, nil
})

func cmdEmbassies(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "embassies [-home DIR] [-via NAME] N"
	dir, via := "home", ""
	for len(args) > 2 {
		switch args[0] {
		case "-home":
			dir = args[1]
		case "-via":
			via = args[1]
		default:
			ts.Fatalf("usage: %s", usage)
		}
		args = args[2:]
	}
	want(ts, neg, args, 1, 1, usage)
	dir = ts.MkAbs(dir)
	found(ts, dir)
	ts.Setenv("CHANCERY_HOME", dir)
	w := worldOf(ts)
	for _, h := range hosts[:number(ts, args[0])] {
		made := tell(ts, "embassy", "init", "--dir", ts.MkAbs(h[0]), "--name", h[0], "--country", h[1])
		agree(ts, ts.MkAbs(h[0]), h[0], h[1], made)
		w.addresses[h[0]] = address(ts)
		at := w.addresses[h[0]]
		if via == h[0] {
			at = address(ts)
			w.links[via] = newLink(ts, at, w.addresses[via])
		}
		w.serve(ts, h[0], nil)
		ts.Setenv(h[0]+"_key", strings.TrimSpace(made))
		ts.Setenv(h[0]+"_url", "https://"+at)
		tell(ts, "embassy", "accredit", "--home", dir, "--name", h[0], "--url", "https://"+at, "--key", strings.TrimSpace(made))
	}
}

// found makes a state with the common keys, which go to $WORK/keys.
func found(ts *testscript.TestScript, dir string) {
	keys, err := holders()
	ts.Check(err)
	ts.Check(os.MkdirAll(ts.MkAbs("keys"), 0o755))
	f := home.Founding{Name: "Republic of X", Code: "XX", Quorum: 3}
	for n, k := range keys {
		ts.Check(os.WriteFile(ts.MkAbs("keys/"+n+".key"), []byte(k[0]), 0o600))
	}
	for _, n := range custodians() {
		f.Custodians = append(f.Custodians, home.Holder{Name: n, Recipient: keys[n][1]})
	}
	ts.Setenv("READER", keys["reader"][1])
	h, err := home.Create(dir, f)
	ts.Check(err)
	h.Close()
}

// tell runs a command of the program within the test, which is enough where a script only needs its effect.
func tell(ts *testscript.TestScript, args ...string) string {
	var out, errs bytes.Buffer
	root := rootCommand(&ui{out: &out, err: &errs})
	root.SetArgs(args)
	if err := root.ExecuteContext(context.Background()); err != nil {
		ts.Fatalf("chancery %s: %v", strings.Join(args, " "), err)
	}
	return out.String()
}

// address finds a loopback address that nobody else uses: outside 127.0.0.1, so that no client's port is ever taken
// for it while its server is down.
func address(ts *testscript.TestScript) string {
	for {
		var b [3]byte
		_, _ = rand.Read(b[:])
		at := fmt.Sprintf("127.%d.%d.%d:7401", 1+b[0]%250, b[1], 1+b[2]%250)
		ln, err := net.Listen("tcp", at)
		if err == nil {
			ts.Check(ln.Close())
			return at
		}
	}
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 100, "serve NAME [FLAG...]")
	worldOf(ts).serve(ts, args[0], args[1:])
}

// serve starts an embassy's server and waits until it says that it listens. Its URL is then in $NAME_url.
func (w *world) serve(ts *testscript.TestScript, name string, flags []string) {
	at := w.addresses[name]
	if at == "" {
		at = address(ts)
		w.addresses[name] = at
		ts.Setenv(name+"_url", "https://"+at)
	}
	p := w.launch(ts, name, append([]string{"chancery", "--json", "embassy", "serve", "--dir", filepath.Join(w.dir, name), "--listen", at}, flags...))
	until(ts, p, "serve "+name, func() bool {
		var line struct{ URL string }
		return json.Unmarshal([]byte(p.out.String()), &line) == nil && line.URL != ""
	})
}

// objects are the paths of an embassy's objects.
func (w *world) objects(ts *testscript.TestScript, name string) []string {
	list, err := filepath.Glob(filepath.Join(w.dir, name, "states", "*", "objects", "*", "*"))
	ts.Check(err)
	return list
}
