package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/filetree"
)

var (
	program string // the built binary
	update  = flag.Bool("update", false, "write a compat fixture of this version where there is none yet")
)

// exhaustive asks for every case of the tests that otherwise take a seeded sample.
func exhaustive() bool { return os.Getenv("CHANCERY_EXHAUSTIVE") == "1" }

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "attack-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // servers of databases call the program, and are not root
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "chancery")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "chancery.dev/chancery/cmd/chancery")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// result is how a command ended.
type result struct {
	code     int
	out, err string
}

func (r result) String() string { return fmt.Sprintf("exit %d\n%s%s", r.code, r.out, r.err) }

// commandTime is more than any command of these tests takes on a busy machine.
const commandTime = 10 * time.Minute

// chancery runs one command of the program to its end.
func chancery(args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return finish(exec.CommandContext(ctx, program, args...))
}

func finish(c *exec.Cmd) result {
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	code := 0
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		return result{-1, out.String(), errs.String() + err.Error()}
	}
	return result{code, out.String(), errs.String()}
}

// must runs a command that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	r := chancery(args...)
	if r.code != 0 {
		t.Fatalf("chancery %s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// answer runs a command with --json that ends in one of these ways, and decodes what it says.
func answer(t *testing.T, v any, codes []int, args ...string) int {
	t.Helper()
	r := chancery(append([]string{"--json"}, args...)...)
	for _, c := range codes {
		if r.code == c {
			if err := json.Unmarshal([]byte(r.out), v); err != nil {
				t.Fatalf("chancery %s: %v: %v", strings.Join(args, " "), err, r)
			}
			return c
		}
	}
	t.Fatalf("chancery %s: %v, want exit %v", strings.Join(args, " "), r, codes)
	return 0
}

// host is one embassy and its server.
type host struct {
	name, country string
	dir, log      string
	listen        string // where its server listens
	url           string // where the state finds it: the server itself, or a proxy before it
	fingerprint   string
	proc          *os.Process
	ended         chan struct{}
}

// ownAddress is of a loopback network of the server's own: while it is down no client's port is taken for its.
func ownAddress() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(250), rand.N(250), 1+rand.N(250))
}

// start runs the embassy's server until stop, at the same address as before.
func (h *host) start() error {
	logFile, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	c := exec.Command(program, "--json", "embassy", "serve", "--dir", h.dir, "--listen", h.listen)
	c.Stderr = logFile
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	var line struct{ URL, Fingerprint string }
	err = json.NewDecoder(out).Decode(&line)
	h.proc, h.ended = c.Process, make(chan struct{})
	go func() { _ = c.Wait(); close(h.ended) }()
	if err != nil {
		h.stop(syscall.SIGKILL)
		text, _ := os.ReadFile(h.log)
		return fmt.Errorf("the server of %s does not start: %w\n%s", h.name, err, text)
	}
	h.listen, h.fingerprint = strings.TrimPrefix(line.URL, "https://"), line.Fingerprint
	if h.url == "" {
		h.url = line.URL
	}
	return nil
}

// stop ends the server with a signal and waits until it is gone.
func (h *host) stop(with syscall.Signal) {
	if h.proc == nil {
		return
	}
	_ = h.proc.Signal(with)
	<-h.ended
	h.proc = nil
}

// state is a state with its home, its people's keys and its embassies.
type state struct {
	dir, home string
	hosts     []*host
	people    []string // custodians
	signers   []string // people who all sign for the state; none where home does alone
	recipient string   // of the reader
}

func (s *state) in(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *state) reader() string { return s.in("reader.key") }

// found makes a state in dir with three custodians, two of whom open, and these embassies ("lu", "is", "pt").
// reader is the reader's name. front may put a proxy before an embassy: it is given the server's address and returns
// its own.
func found(t *testing.T, dir, reader string, front func(address string) string, names ...string) *state {
	t.Helper()
	return foundBy(t, dir, reader, nil, front, names...)
}

// foundBy makes a state for which people sign, all of these; their keys are NAME.ssh.
func foundBy(t *testing.T, dir, reader string, signers []string, front func(address string) string, names ...string) *state {
	t.Helper()
	s := &state{dir: dir, home: filepath.Join(dir, "home"), people: []string{"mari", "jaan", "anna"}, signers: signers}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"state", "init", "--home", s.home, "--name", "Republic of Tests", "--code", "TT", "--quorum", "2"}
	for _, n := range s.people {
		r := strings.TrimSpace(must(t, "custodian", "keygen", "--name", n, "--out", s.in(n+".key")))
		args = append(args, "--custodian", n+"="+r)
	}
	for _, n := range s.signers {
		sshKey(t, s.in(n+".ssh"))
		args = append(args, "--representative", n+"="+s.in(n+".ssh.pub"))
	}
	if len(s.signers) > 0 {
		args = append(args, "--need", fmt.Sprint(len(s.signers)), "--cooling", "1s")
	}
	must(t, args...)
	s.adopt(t)
	s.recipient = strings.TrimSpace(must(t, "custodian", "keygen", "--name", reader, "--out", s.reader()))
	for _, n := range names {
		h := &host{
			name: n, country: strings.ToUpper(n[:2]), dir: s.in("hosts", n), log: s.in("hosts", n+".log"), listen: ownAddress(),
		}
		h.fingerprint = strings.TrimSpace(must(t, "embassy", "init", "--dir", h.dir, "--name", n, "--country", h.country))
		s.agree(t, h)
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.stop(syscall.SIGKILL) })
		if front != nil {
			h.url = "https://" + front(h.listen)
		}
		s.accredit(t, n, h.url, h.fingerprint)
		s.adopt(t)
		s.hosts = append(s.hosts, h)
	}
	return s
}

func sshKey(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}

// accredit takes an embassy into the charter, or proposes to where people sign.
func (s *state) accredit(t *testing.T, name, url, fingerprint string) {
	t.Helper()
	r := chancery("embassy", "accredit", "--home", s.home, "--name", name, "--url", url, "--key", fingerprint)
	if proposed := len(s.signers) > 0 && r.code == 3; r.code != 0 && !proposed {
		t.Fatalf("accredit %s: %v", name, r)
	}
}

// adopt has people sign the charter that is proposed, where people do.
func (s *state) adopt(t *testing.T) {
	t.Helper()
	for _, n := range s.signers {
		must(t, "charter", "sign", "--home", s.home, "--key", s.in(n+".ssh"))
	}
	if len(s.signers) > 0 {
		must(t, "charter", "adopt", "--home", s.home)
	}
}

// agree has the state and the host of an embassy sign an agreement, which the embassy takes.
func (s *state) agree(t *testing.T, h *host) {
	t.Helper()
	minister, file := s.in("minister"), s.in(h.name+".agreement")
	if _, err := os.Stat(minister); err != nil {
		sshKey(t, minister)
	}
	must(t, "agreement", "draft", "--home", s.home, "--with", h.country, "--host-name", "Host", "--name", h.name, "--embassy-key", h.fingerprint,
		"--signatory", "minister="+minister+".pub", "--quota", "1000000000", "--open-as", "as agreed", "--out", file)
	// It has no last day: a frozen state is served for ever.
	text := regexp.MustCompile(`(?m)^  until: .*$`).ReplaceAll(readFile(t, file), []byte(`  until: ""`))
	text = regexp.MustCompile(`(?m)^  renewal: .*$`).ReplaceAll(text, []byte(`  renewal: "none"`))
	write(t, file, text)
	keys := []string{minister, filepath.Join(s.home, "keys", "signer")}
	for i, n := range s.signers {
		keys = append(keys[:1+i], s.in(n+".ssh"))
	}
	for _, key := range keys {
		must(t, "agreement", "sign", file, "--home", s.home, "--key", key)
	}
	must(t, "embassy", "admit", "--dir", h.dir, "--agreement", file, "--state", filepath.Join(s.home, "charter.yaml"))
}

// add makes a register of a folder, kept at all embassies.
func (s *state) add(t *testing.T, name, files string, need int) {
	t.Helper()
	must(t, s.addArgs(name, files, need)...)
}

func (s *state) addArgs(name, files string, need int) []string {
	var names []string
	for _, h := range s.hosts {
		names = append(names, h.name)
	}
	return []string{
		"register", "add", name, "--home", s.home, "--files", files, "--embassies", strings.Join(names, ","),
		"--need", fmt.Sprint(need), "--reader", s.recipient,
	}
}

// recoverArgs is a recovery by the first two custodians.
func (s *state) recoverArgs(to string) []string {
	args := []string{"recover", "--to", to}
	for _, n := range s.people[:2] {
		args = append(args, "--kit", filepath.Join(s.home, "kits", n), "--identity", s.in(n+".key"))
	}
	return args
}

// same tells where two trees differ.
func same(a, b string) error {
	diffs, err := filetree.Compare(context.Background(), a, b,
		filetree.CompareOptions{Owners: os.Geteuid() == 0, SetID: true, Max: 10})
	if err == nil && len(diffs) > 0 {
		err = fmt.Errorf("%s and %s differ: %v", a, b, diffs)
	}
	return err
}

func sameTrees(t *testing.T, a, b string) {
	t.Helper()
	if err := same(a, b); err != nil {
		t.Fatal(err)
	}
}

// noise is incompressible and the same in every run.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// write makes a file and the folders above it.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// smallTree is a few KiB of files, folders and a link: with its listing it fills packs of the smallest class.
func smallTree(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "deeds", "1"), noise(1, 3000))
	write(t, filepath.Join(dir, "deeds", "2"), noise(2, 500))
	write(t, filepath.Join(dir, "maps", "north"), bytes.Repeat([]byte("north "), 700))
	write(t, filepath.Join(dir, "empty"), nil)
	if err := os.Symlink("deeds/1", filepath.Join(dir, "first")); err != nil {
		t.Fatal(err)
	}
}

// run runs a tool of the system.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
