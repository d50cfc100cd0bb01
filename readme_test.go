package chancery_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The convention of README.md: blocks fenced as sh are run, in order, in one session; others are not. A line that
// ends in a backslash goes on. A command exits with 0, or with what a comment behind it says: "# exit 3". What begins
// with "go" or "make" belongs to the module's folder and is known here by name.
var (
	shBlock  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	exitNote = regexp.MustCompile(`\s# exit (\d+)$`)
	listens  = regexp.MustCompile(`--listen (\S+):(\d+)`)
)

func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s := readmeSession{root: root, bin: t.TempDir(), tmp: t.TempDir(), addresses: map[string]string{}}
	commands := readmeCommands(string(text))
	if len(commands) < 40 {
		t.Fatalf("README.md has %d commands: the blocks are not found any more", len(commands))
	}
	var script strings.Builder
	script.WriteString("set -o pipefail\n")
	for _, c := range commands {
		lines, err := s.lines(c)
		if err != nil {
			t.Fatal(err)
		}
		script.WriteString(lines)
	}
	script.WriteString("kill $(jobs -p); wait\n")
	if err := s.run(t.TempDir(), script.String()); err != nil {
		t.Fatal(err)
	}
}

func TestReadmeCommandsGoRedOnAnotherExitCode(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		"true # exit 3": "exit 0, want 3", "false": "exit 1, want 0", "true |\\\n false": "exit 1, want 0",
	} {
		s := readmeSession{root: t.TempDir(), bin: t.TempDir(), tmp: t.TempDir()}
		lines, err := s.lines(readmeCommands("```sh\n" + block + "\n```\n")[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := s.run(t.TempDir(), "set -o pipefail\n"+lines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", block, err, want)
		}
	}
}

type readmeCommand struct {
	text string
	exit string
}

func readmeCommands(text string) (commands []readmeCommand) {
	for _, block := range shBlock.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", "")) {
			c := readmeCommand{text: strings.TrimSpace(line), exit: "0"}
			if m := exitNote.FindStringSubmatch(c.text); m != nil {
				c.text, c.exit = strings.TrimSpace(strings.TrimSuffix(c.text, m[0])), m[1]
			}
			if c.text != "" {
				commands = append(commands, c)
			}
		}
	}
	return commands
}

type readmeSession struct {
	root, bin, tmp string
	addresses      map[string]string // in README.md -> free here
}

// lines is a command as bash runs it, with what checks it.
func (s *readmeSession) lines(c readmeCommand) (string, error) {
	run := c.text
	switch {
	case c.text == "make test":
		run = fmt.Sprintf("grep -q '^test:' %s/Makefile", s.root) // this test is part of it
	case c.text == "go build ./cmd/chancery":
		run = fmt.Sprintf("(cd %s && go build -o %s/chancery ./cmd/chancery)", s.root, s.bin)
	case c.text == "go run ./cmd/chancery quickstart PATH":
		run = fmt.Sprintf(`(cd %s && TMPDIR=%s go run ./cmd/chancery quickstart docs); code=$?
pids=$(cat %s/chancery-*/run/*.pid); %[2]s/chancery-*/stop
for pid in $pids; do while kill -0 $pid 2>/dev/null; do sleep 0.05; done; done
(exit $code)`, s.root, s.tmp, s.tmp)
	case strings.HasPrefix(c.text, "kill %"):
		run = c.text + " && { wait " + strings.TrimPrefix(c.text, "kill ") + "; true; }" // who types is slower than a server that ends
	case strings.HasPrefix(c.text, "go "), strings.HasPrefix(c.text, "make "):
		return "", fmt.Errorf("README.md: how is %q to be tried? Say it in readme_test.go", c.text)
	}
	for in, free := range s.addresses {
		run = strings.ReplaceAll(run, in, free)
	}
	if m := listens.FindStringSubmatch(c.text); m != nil && s.addresses[m[1]+":"+m[2]] == "" {
		// Of a loopback network of its own: no client's port is taken for the server's before it listens.
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(250), rand.N(250), 1+rand.N(250)))
		if err != nil {
			return "", err
		}
		in, free := m[1]+":"+m[2], l.Addr().String()
		l.Close()
		s.addresses[in] = free
		run = strings.ReplaceAll(run, in, free)
	}
	quoted := "'" + strings.ReplaceAll(c.text, "'", `'\''`) + "'"
	lines := fmt.Sprintf("echo \"\\$ \"%s\n%s\ngot=$?\n[ $got = %s ] || { echo \"exit $got, want %s: \"%s; exit 1; }\n", quoted, run, c.exit, c.exit, quoted)
	if m := listens.FindStringSubmatch(run); m != nil && strings.HasSuffix(run, "&") {
		lines += fmt.Sprintf("for i in {1..2400}; do (exec 3<>/dev/tcp/%s/%s) 2>/dev/null && break; sleep 0.05; done\n", m[1], m[2])
	}
	return lines, nil
}

// run ends with everything that the script started ended too.
func (s *readmeSession) run(dir, script string) error {
	file := filepath.Join(s.tmp, "session")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", file)
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), "CHANCERY_HOME=")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Start()
	if err != nil {
		return err
	}
	err = c.Wait()
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // servers that a failed session left
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, out.Bytes())
	}
	return nil
}

var houseRow = regexp.MustCompile("(?m)^\\| [^|]*\\| `([^`]+)` \\|[^|]*\\| ([a-z ]+) \\|$")

// TestDesignShowsTheHouse compares the table in docs/design/README.md with the one that is checked.
func TestDesignShowsTheHouse(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/design/README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, m := range houseRow.FindAllStringSubmatch(string(text), -1) {
		shown[m[1]] = strings.NewReplacer("none", "", "all", everything).Replace(m[2])
	}
	for _, floor := range floors {
		for _, r := range floor {
			if may, there := shown[r.name]; !there || may != r.may {
				t.Errorf("docs/design/README.md shows that %s imports %q, and it may import %q", r.name, may, r.may)
			}
			delete(shown, r.name)
		}
	}
	for name := range shown {
		t.Errorf("docs/design/README.md shows a package %s, which arch_test.go does not know", name)
	}
}
