package attack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

// word is a canary of small letters: it may stand where only names may.
func word(r *rand.Rand) []byte {
	b := []byte("q")
	for range 23 {
		b = append(b, byte('a'+r.IntN(26)))
	}
	return b
}

// plant makes a source whose every name and byte is a canary, below a folder that is one too.
func plant(t *testing.T, dir string) (source string, c canaries) {
	t.Helper()
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	c = canaries{}
	for _, what := range strings.Fields("file-name folder-name text symlink-target xattr-name xattr-value register reader " +
		"source-path host-name tag owner legal-basis exclude") {
		c[what] = word(r)
	}
	c["bytes"] = noise(byte(r.IntN(256)), 32)
	c["bytes-of-large-file"] = noise(byte(r.IntN(256)), 33)
	source = filepath.Join(dir, string(c["source-path"]))
	folder := filepath.Join(source, string(c["folder-name"]))
	file := filepath.Join(folder, string(c["file-name"]))
	write(t, file, slices.Concat(bytes.Repeat(append(c["text"], '\n'), 20), c["bytes"]))
	write(t, filepath.Join(folder, "large"), slices.Concat(noise(9, 700<<10), c["bytes-of-large-file"], make([]byte, 100<<10)))
	if err := os.Symlink("../"+string(c["symlink-target"]), filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(file, "user."+string(c["xattr-name"]), c["xattr-value"], 0); err != nil {
		t.Fatalf("the file system of %s keeps no attributes: %v", dir, err)
	}
	return source, c
}

// onHost is a command of the program on a machine of this name.
func onHost(name string, args ...string) *exec.Cmd {
	c := exec.Command("/bin/sh", append([]string{"-c", `echo "$0" >/proc/sys/kernel/hostname && exec "$@"`, name, program}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return c
}

// TestCanariesAreSeenNowhereAbroad is promise P1: it looks at all that a host has (disk, log, memory, traffic in both
// directions) for every name, byte, attribute and key of a register. TestTheDetectorDetects is its control.
func TestCanariesAreSeenNowhereAbroad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source, c := plant(t, dir)
	taps := map[string]*tap{}
	s := foundTapped(t, dir, string(c["reader"]), taps)
	register := string(c["register"])
	must(t, append(s.addArgs(register, source, 2), "--owner", string(c["owner"]), "--legal-basis", string(c["legal-basis"]),
		"--exclude", string(c["exclude"]))...)
	addKeys(t, s, register, c)
	d := c.detector()

	// The agent has in memory what its hosts must not have: that is the control of the search of theirs.
	watchAgent(t, d, onHost(string(c["host-name"]), "backup", register, "--home", s.home, "--tag", string(c["tag"])),
		"file-name", "folder-name", "text", "bytes", "source-path", "register", "host-name", "tag", "id-key", "mask-key")
	write(t, filepath.Join(source, "more"), slices.Concat(noise(11, 5000), c["bytes"]))
	for _, args := range [][]string{{"backup", register, "--tag", string(c["tag"])}, {"verify", "--data"}, {"status"}, {"snapshot", "list", register}} {
		if r := finish(onHost(string(c["host-name"]), append(args, "--home", s.home)...)); r.code != 0 {
			t.Fatalf("%s: %v", args[0], r)
		}
	}
	must(t, "restore", register, "--home", s.home, "--identity", s.reader(), "--to", filepath.Join(dir, "restored"))
	sameTrees(t, source, filepath.Join(dir, "restored"))

	for _, h := range s.hosts {
		seeks(t, d, h, taps[h.listen])
	}
}

// foundTapped makes a state with a tap before each of three embassies, by the address of its server.
func foundTapped(t *testing.T, dir, reader string, taps map[string]*tap) *state {
	t.Helper()
	front := func(address string) string {
		taps[address] = newTap(t, address)
		return taps[address].address()
	}
	return found(t, filepath.Join(dir, "state"), reader, front, "lu", "is", "pt")
}

// addKeys adds all keys of a register to the canaries, also the one that only readers and custodians can open.
func addKeys(t *testing.T, s *state, register string, c canaries) {
	t.Helper()
	h, err := home.Open(s.home, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Register(register)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := os.ReadFile(s.reader())
	if err != nil {
		t.Fatal(err)
	}
	opened, err := home.OpenGrant(r.Record, identity)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range keysOf(opened) {
		c[what] = key
	}
	agent, err := h.AgentKey()
	if err != nil {
		t.Fatal(err)
	}
	c["agent-key"] = agent.Seed()
}

func keysOf(s *charter.RegisterSecrets) map[string][]byte {
	return map[string][]byte{
		"seed": s.Seed[:], "id-key": s.IDKey[:], "gear-key": s.GearKey[:], "index-key": s.IndexKey[:], "mask-key": s.MaskKey[:],
	}
}

// watchAgent runs a command to its end, halts it every few milliseconds and searches its memory: somewhere on its way
// it must have had all of these canaries.
func watchAgent(t *testing.T, d *detector, c *exec.Cmd, want ...string) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	seen := sightings{}
	d = d.only(want...)
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v: %v\n%s", c.Args, err, out.String())
			}
			for _, what := range want {
				if seen[what] == "" {
					t.Errorf("control: the %s is not found in the agent's own memory", what)
				}
			}
			return
		case <-time.After(3 * time.Millisecond):
		}
		if len(seen) == len(want) {
			continue
		}
		_ = c.Process.Signal(syscall.SIGSTOP)
		d.tryMemory(seen, c.Process.Pid)
		_ = c.Process.Signal(syscall.SIGCONT)
	}
}

// TestTheDetectorDetects is the control: all canaries are seen in an embassy that does not seal, on its disk in each
// form, in traffic without TLS, in the memory of a process that has them; and in the source.
func TestTheDetectorDetects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source, c := plant(t, dir)
	all := canaries{}
	for what, b := range c {
		all[what] = b
	}
	d := all.detector()
	want := sightings{}
	for what := range all {
		want[what] = ""
	}
	check := func(where string, seen sightings, but ...string) {
		t.Helper()
		for _, what := range want.names() {
			if seen[what] == "" && !slices.Contains(but, what) {
				t.Errorf("%s: the %s is not found", where, what)
			}
		}
	}
	seen := sightings{}
	d.folder(t, seen, filepath.Dir(source))
	check("source", seen, "register", "reader", "host-name", "tag", "owner", "legal-basis", "exclude")

	text, err := json.Marshal(all) // in base64
	if err != nil {
		t.Fatal(err)
	}
	var plain []byte
	for _, b := range all {
		plain = append(plain, b...)
	}
	forms := map[string][]byte{"raw": plain, "hex": fmt.Appendf(nil, "%x", plain), "HEX": fmt.Appendf(nil, "%X", plain), "base64": text}
	for form, data := range forms {
		unsealed := filepath.Join(dir, "unsealed-"+form)
		write(t, filepath.Join(unsealed, "objects", "ab", "object"), data)
		seen := sightings{}
		d.folder(t, seen, unsealed)
		check("disk, "+form, seen)
	}
	check("traffic", throughTap(t, d, plain))
	seen = sightings{}
	d.memory(t, seen, os.Getpid())
	check("memory", seen)
}

// throughTap sends data through a tap to someone who sends it back, without TLS.
func throughTap(t *testing.T, d *detector, data []byte) sightings {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	p := newTap(t, ln.Addr().String())
	c, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(data))); err != nil {
		t.Fatal(err)
	}
	seen := sightings{}
	up, down := p.recorded()
	d.search(seen, "up", up)
	if back := (sightings{}); len(seen) > 0 {
		d.search(back, "down", down)
		for what := range seen {
			if back[what] == "" {
				delete(seen, what)
			}
		}
	}
	return seen
}
