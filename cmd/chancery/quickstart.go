package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/filetree"
)

// quickstart runs the very commands that a state would, each as a process of its own, and prints them as it goes.
type quickstart struct {
	u     *ui
	path  string
	dir   string
	bin   string
	story bool // print what is done
	out   quickstartJSON

	notTaken map[string]bool // names that the backup could not take, and listed
}

// quickstartJSON is the answer of quickstart. Seconds are wall time of the commands.
type quickstartJSON struct {
	Identical           bool             `json:"identical"`
	SourceBytes         uint64           `json:"source_bytes"`
	SourceFiles         uint64           `json:"source_files"`
	StoredBytes         uint64           `json:"stored_bytes"`
	SecondStoredBytes   uint64           `json:"second_stored_bytes"`
	BackupSeconds       float64          `json:"backup_seconds"`
	SecondBackupSeconds float64          `json:"second_backup_seconds"`
	RecoverSeconds      float64          `json:"recover_seconds"`
	Differences         []string         `json:"differences,omitempty"`
	Incomplete          []string         `json:"incomplete,omitempty"` // what the backup could not take
	Embassy             embassySightJSON `json:"embassy_sees"`
	Sandbox             string           `json:"sandbox"`
	HomeKept            bool             `json:"home_kept"`
}

func quickstartCommand(u *ui) *cobra.Command {
	q := quickstart{u: u, notTaken: map[string]bool{}}
	var keep bool
	c := &cobra.Command{
		Use: "quickstart PATH", Short: "A state, three embassies, five custodians, on this machine", Args: cobra.ExactArgs(1),
		Long: "Makes a state with five custodians (three open) and three embassies as separate servers on loopback (two are\n" +
			"needed), protects PATH, backs it up again unchanged, destroys home and one embassy, recovers into an empty folder\n" +
			"from three custodians' kits, and compares everything with PATH, which is only read. The sandbox stays.",
		Example: "  chancery quickstart /srv/land",
	}
	c.Flags().StringVar(&q.dir, "dir", "", "folder of the sandbox; it must not exist or be empty (default: a new temporary folder)")
	c.Flags().BoolVar(&keep, "keep-home", false, "stop before the destruction")
	c.RunE = func(c *cobra.Command, args []string) error {
		q.story = !u.json && !u.quiet
		if err := q.prepare(args[0]); err != nil {
			return err
		}
		err := q.run(c.Context(), keep)
		if err != nil {
			q.stopAll()
			return hinted(err, "the sandbox is left for you to look at: "+q.dir)
		}
		q.out.HomeKept = keep
		if err := u.answer(q.out, func(w io.Writer) { q.end(w, keep) }); err != nil {
			return err
		}
		switch {
		case len(q.out.Differences) > 0:
			return &failure{err: errPartial, code: exitDamaged}
		case len(q.out.Incomplete) > 0:
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// prepare checks the arguments and makes the sandbox.
func (q *quickstart) prepare(path string) error {
	src, err := filetree.OpenSource(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	src.Close()
	if q.path, err = filepath.Abs(path); err != nil {
		return err
	}
	place := q.dir
	if place == "" {
		place = os.TempDir()
	}
	if place, err = filepath.Abs(place); err != nil {
		return err
	}
	if inside(resolved(place), resolved(q.path)) {
		return &failure{err: fmt.Errorf("the sandbox would lie in %s: %s", q.path, place), code: exitUsage, hint: "another place: --dir FOLDER"}
	}
	if q.dir == "" {
		q.dir, err = os.MkdirTemp(place, "chancery-")
	} else if err = checkTarget(place); err == nil {
		q.dir, err = place, os.MkdirAll(place, 0o755)
	}
	if err != nil {
		return err
	}
	q.out.Sandbox = q.dir
	for _, d := range []string{"keys", "bin", "run"} {
		if err := os.MkdirAll(filepath.Join(q.dir, d), 0o700); err != nil {
			return err
		}
	}
	return q.copyProgram()
}

// resolved follows links, as far as the path exists.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil || path == "/" {
		return p
	}
	return filepath.Join(resolved(filepath.Dir(path)), filepath.Base(path))
}

func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// copyProgram puts this program into the sandbox: go run removes its own when it ends.
func (q *quickstart) copyProgram() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	q.bin = filepath.Join(q.dir, "bin", "chancery")
	return os.WriteFile(q.bin, data, 0o755)
}

func (q *quickstart) in(parts ...string) string {
	return filepath.Join(append([]string{q.dir}, parts...)...)
}

func (q *quickstart) tell(format string, args ...any) {
	if q.story {
		fmt.Fprintf(q.u.out, format+"\n", args...)
	}
}

// chancery runs one command, shows it, and decodes its answer. Exit 3 is an answer too.
func (q *quickstart) chancery(ctx context.Context, answer any, args ...string) (time.Duration, error) {
	q.tell("  $ chancery %s", q.shown(args))
	c := exec.CommandContext(ctx, q.bin, append([]string{"--json", "--quiet"}, args...)...)
	c.Env = append(os.Environ(), "CHANCERY_HOME="+q.in("home"))
	var errs strings.Builder
	c.Stderr = &errs
	start := time.Now()
	out, err := c.Output()
	took := time.Since(start)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitPartial {
		err = nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return took, ctx.Err()
		}
		code := exitFailed
		if exit != nil {
			code = exit.ExitCode()
		}
		what, _, _ := strings.Cut(strings.TrimPrefix(errs.String(), "chancery: "), "\n")
		return took, &failure{err: fmt.Errorf("%s: %s", args[0], what), code: code}
	}
	if answer != nil {
		err = json.Unmarshal(out, answer)
	}
	return took, err
}

// shown is a command as a person would type it, long keys cut short.
func (q *quickstart) shown(args []string) string {
	var words []string
	for _, a := range args {
		a = strings.ReplaceAll(a, q.dir+"/", "")
		if i := strings.Index(a, "age1pq1"); i >= 0 {
			a = a[:i+10] + "…"
		}
		if strings.ContainsAny(a, " '") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// run is the story.
func (q *quickstart) run(ctx context.Context, keep bool) error {
	if err := q.found(ctx); err != nil {
		return err
	}
	if err := q.protect(ctx); err != nil {
		return err
	}
	var err error
	if q.out.Embassy, err = q.sight("lu"); err != nil {
		return err
	}
	q.tellSight()
	if err := q.writeStop(); err != nil || keep {
		return err
	}
	return q.loseAndRecover(ctx)
}

// found makes the state and its embassies.
func (q *quickstart) found(ctx context.Context) error {
	q.tell("A state with five custodians, any three of whom open it; its key exists in shares only:")
	args := []string{"state", "init", "--name", "Republic of Quickstart", "--code", "QS", "--quorum", "3"}
	for _, n := range custodians() {
		var k struct{ Recipient string }
		if _, err := q.chancery(ctx, &k, "custodian", "keygen", "--name", n, "--out", q.in("keys", n+".key")); err != nil {
			return err
		}
		args = append(args, "--custodian", n+"="+k.Recipient)
	}
	if _, err := q.chancery(ctx, nil, append(args, "--home", q.in("home"))...); err != nil {
		return err
	}
	q.tell("\nThree embassies, each a server with a key of its own, in three host states:")
	for _, e := range embassies() {
		if err := q.embassy(ctx, e[0], e[1]); err != nil {
			return err
		}
	}
	return nil
}

func custodians() []string { return []string{"mari", "jaan", "anna", "olev", "eva"} }

func embassies() [][2]string { return [][2]string{{"lu", "LU"}, {"is", "IS"}, {"pt", "PT"}} }

// embassy makes one embassy, starts its server, and accredits it.
func (q *quickstart) embassy(ctx context.Context, name, country string) error {
	var made struct{ Fingerprint string }
	if _, err := q.chancery(ctx, &made, "embassy", "init", "--dir", q.in(name), "--name", name, "--country", country); err != nil {
		return err
	}
	if err := q.agree(ctx, name, country, made.Fingerprint); err != nil {
		return err
	}
	url, err := q.serve(ctx, name)
	if err != nil {
		return err
	}
	_, err = q.chancery(ctx, nil, "embassy", "accredit", "--name", name, "--url", url, "--key", made.Fingerprint)
	return err
}

// agree has the state and the host sign an agreement about the embassy, and the embassy take it. One key stands for the
// people of all hosts here.
func (q *quickstart) agree(ctx context.Context, name, country, fingerprint string) error {
	minister := q.in("minister")
	if _, err := os.Stat(minister); err != nil {
		if err := writeSSHKey(minister); err != nil {
			return err
		}
	}
	file := q.in(name + ".agreement.yaml")
	var disk syscall.Statfs_t
	if err := syscall.Statfs(q.in(), &disk); err != nil {
		return err
	}
	quota := disk.Blocks * uint64(disk.Bsize) / 2
	for _, command := range [][]string{
		{
			"agreement", "draft", "--with", country, "--host-name", "Host " + country, "--name", name, "--embassy-key", fingerprint,
			"--signatory", "minister=" + minister + ".pub", "--quota", fmt.Sprint(quota), "--open-as", "as agreed", "--out", file,
		},
		{"agreement", "sign", file, "--key", q.in("home", "keys", "signer")},
		{"agreement", "sign", file, "--key", minister},
		{"embassy", "admit", "--dir", q.in(name), "--agreement", file, "--state", q.in("home", "charter.yaml")},
	} {
		if _, err := q.chancery(ctx, nil, command...); err != nil {
			return err
		}
	}
	return nil
}

// writeSSHKey makes a key file as ssh-keygen does, and its public half beside it.
func writeSSHKey(path string) error {
	key, err := charter.GenerateSSHKey(rand.Reader)
	if err != nil {
		return err
	}
	defer clear(key)
	file, err := charter.MarshalSSHKey(key, filepath.Base(path))
	if err != nil {
		return err
	}
	line, err := charter.SSHPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, file, 0o600), os.WriteFile(path+".pub", []byte(line+"\n"), 0o644))
}

// serve starts an embassy's server, which outlives this command, and waits until it says where it listens.
func (q *quickstart) serve(ctx context.Context, name string) (string, error) {
	q.tell("  $ chancery embassy serve --dir %s --listen 127.0.0.1:0 &", name)
	out, err := os.Create(q.in("run", name+".out"))
	if err != nil {
		return "", err
	}
	defer out.Close()
	log, err := os.Create(q.in("run", name+".log"))
	if err != nil {
		return "", err
	}
	defer log.Close()
	c := exec.Command(q.bin, "--json", "embassy", "serve", "--dir", q.in(name), "--listen", "127.0.0.1:0")
	c.Stdout, c.Stderr = out, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return "", err
	}
	if err := os.WriteFile(q.in("run", name+".pid"), fmt.Appendf(nil, "%d\n", c.Process.Pid), 0o644); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for {
		var line struct{ URL string }
		if data, err := os.ReadFile(out.Name()); err == nil && json.Unmarshal(data, &line) == nil && line.URL != "" {
			return line.URL, nil
		}
		select {
		case <-ended:
			data, _ := os.ReadFile(log.Name())
			return "", fmt.Errorf("the server of %s ended: %s", name, data)
		case <-deadline.C:
			return "", fmt.Errorf("the server of %s does not start", name)
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// protect backs the folder up twice.
func (q *quickstart) protect(ctx context.Context) error {
	q.tell("\nThe folder becomes a register, kept so that any two embassies bring it back:")
	var reader struct{ Recipient string }
	if _, err := q.chancery(ctx, &reader, "custodian", "keygen", "--name", "reader", "--out", q.in("keys", "reader.key")); err != nil {
		return err
	}
	if _, err := q.chancery(ctx, nil, "register", "add", "land", "--files", q.path, "--embassies", "lu,is,pt", "--need", "2", "--reader", reader.Recipient); err != nil {
		return err
	}
	var first, second backupJSON
	took, err := q.chancery(ctx, &first, "backup", "land")
	if err != nil {
		return err
	}
	q.out.BackupSeconds = took.Seconds()
	q.out.SourceBytes, q.out.SourceFiles, q.out.StoredBytes = first.Bytes, first.Files, first.StoredBytes
	for _, p := range first.Problems {
		q.out.Incomplete = append(q.out.Incomplete, p.Path+": "+p.What)
		q.notTaken[p.Path] = true
	}
	q.tell("    %s in %s, %s at three embassies, %.1f s", size(int64(first.Bytes)), plural(first.Files, "file"), size(int64(first.StoredBytes)), took.Seconds())
	if took, err = q.chancery(ctx, &second, "backup", "land"); err != nil {
		return err
	}
	q.out.SecondBackupSeconds, q.out.SecondStoredBytes = took.Seconds(), second.StoredBytes
	q.tell("    unchanged: %s more, %.1f s", size(int64(second.StoredBytes)), took.Seconds())
	return nil
}

// loseAndRecover destroys home and one embassy, and brings everything back.
func (q *quickstart) loseAndRecover(ctx context.Context) error {
	q.tell("\nHome is lost, and one embassy with it:\n  $ rm -r home; kill the server of lu; rm -r lu")
	for _, n := range custodians() { // custodians took their kits with them
		if err := os.MkdirAll(q.in("kits"), 0o755); err != nil {
			return err
		}
		if err := os.Rename(q.in("home", "kits", n), q.in("kits", n)); err != nil {
			return err
		}
	}
	q.stop("lu")
	for _, d := range []string{"home", "lu"} {
		if err := os.RemoveAll(q.in(d)); err != nil {
			return err
		}
	}
	q.tell("\nOn an empty machine, three custodians meet:")
	args := []string{"recover", "--to", q.in("recovered"), "--setid", "--devices"}
	for _, n := range custodians()[1:4] {
		args = append(args, "--kit", q.in("kits", n), "--identity", q.in("keys", n+".key"))
	}
	took, err := q.chancery(ctx, nil, args...)
	if err != nil {
		return err
	}
	q.out.RecoverSeconds = took.Seconds()
	diffs, err := filetree.Compare(ctx, q.path, q.in("recovered", "land"), filetree.CompareOptions{
		Owners: os.Geteuid() == 0, SetID: true, Max: 100,
		ExcludeFn: func(rel string, _ bool) bool { return q.notTaken[rel] },
	})
	if err != nil {
		return err
	}
	for _, d := range diffs {
		q.out.Differences = append(q.out.Differences, d.Path+": "+d.What)
	}
	q.out.Identical = len(diffs) == 0 && len(q.out.Incomplete) == 0
	q.tell("    %.1f s", took.Seconds())
	return nil
}

// end says what came out, and how to go on.
func (q *quickstart) end(w io.Writer, keep bool) {
	fmt.Fprintln(w)
	switch {
	case keep:
		fmt.Fprintf(w, "Home stands. Nothing was destroyed.\n")
	case q.out.Identical:
		fmt.Fprintf(w, "Everything is back: every byte, mode, time, link and attribute of %s is as it was.\n", plural(q.out.SourceFiles, "file"))
	case len(q.out.Differences) == 0:
		fmt.Fprintf(w, "What the backup could take is back: every byte, mode, time, link and attribute of it is as it was.\n")
	default:
		fmt.Fprintf(w, "NOT IDENTICAL:\n")
		for _, d := range q.out.Differences {
			fmt.Fprintf(w, "  %s\n", printable(d))
		}
	}
	if n := len(q.out.Incomplete); n > 0 {
		fmt.Fprintf(w, "Not taken whole by the backup: %s\n", plural(n, "name"))
		for _, p := range q.out.Incomplete[:min(n, listed)] {
			fmt.Fprintf(w, "  %s\n", printable(p))
		}
	}
	fmt.Fprintf(w, "\nThe sandbox is %s. To look around in it:\n\n  cd %s; export PATH=$PWD/bin:$PATH CHANCERY_HOME=$PWD/home\n", q.dir, q.dir)
	if keep {
		fmt.Fprintf(w, "  chancery status\n  chancery snapshot show land --identity keys/reader.key --files\n  chancery restore land --identity keys/reader.key --to out\n")
	} else {
		fmt.Fprintf(w, "  diff -r --no-dereference %s recovered/land\n  chancery custodian kit --kit kits/mari --identity keys/mari.key\n"+
			"  chancery recover --to again --kit kits/mari --identity keys/mari.key --kit kits/jaan --identity keys/jaan.key --kit kits/eva --identity keys/eva.key\n", q.path)
	}
	fmt.Fprintf(w, "\nTo stop its servers: %s/stop. To remove it afterwards: rm -r %s\n", q.dir, q.dir)
}
