package main

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/pgtest"
)

// The commands are tested by the scripts in testdata/script, each in an empty folder, with the real program as
// processes of its own and real embassies on loopback. What the scripts may say besides testscript's own words:
//
//	embassies [-home DIR] [-via NAME] N   a state with five custodians (any three open it) and N embassies that serve
//	council N                             the same, where two of the people ana, jo and the custodians sign for the state
//	serve NAME [FLAG...]                  start the server of the embassy in $WORK/NAME again, at its address
//	start NAME COMMAND...                 start any command beside the script
//	await NAME EMBASSY N                  wait until the embassy has N more objects than when NAME was started
//	signal NAME INT|TERM|KILL             to a server or a command that was started
//	ends NAME CODE                        wait for it; its output is then matched by stdout and stderr
//	exit CODE COMMAND...                  run a command that must end with exactly this code
//	link NAME whole|slow|crawl|cut|cut-once|stall [N [down]]  what happens to an embassy's connections (-via), after N
//	                                      more bytes of the agent, or of the embassy (down)
//	json FILE PATH OP VALUE               a field of a JSON document: = != < <= > >= ~ (regular expression)
//	jsonenv VARIABLE FILE PATH            a field into a variable
//	fileenv VARIABLE FILE                 a file's text into a variable
//	same A B                              every byte, mode, owner, time, link and attribute of two trees
//	oddtree DIR                           a tree with everything that a file system has
//	random FILE SIZE                      a file that does not compress
//	churn FILE                            write to a file without end
//	flip FILE OFFSET                      change one byte; a negative offset counts from the end
//	edit FILE OLD NEW                     replace text in a file
//	objects EMBASSY FILE                  list the objects on its disk
//	count VARIABLE EMBASSY FILE           how many objects on its disk are not in the list FILE
//	is A OP B                             compare two values, as json does
//	harm HOW EMBASSY [FILE [SIZE]]        flip, truncate, delete or swap objects on its disk: all, or those that are not
//	                                      in the list FILE, of at least SIZE bytes; $HARMED is the last one's name
//	touchlike FROM TO                     give a folder the times of another
//	fill FILE                             until the disk is full
//	typed FILE                            type what quickstart said to type
//	ended SANDBOX                         wait until none of its programs runs
//	smalldisk DIR SIZE                    mount a file system of its own
//	says NAME PATTERN                     wait until a command that was started has written something
//	becomes CODE COMMAND...               run a command until it ends with this code
//	shows PATH OP VALUE COMMAND...        run a command until a field of its JSON answer is so, as json compares
//	address VARIABLE                      a loopback address where nobody listens
//	ledgerof VARIABLE EMBASSY             where an embassy keeps the ledger of its first state
//	tile VARIABLE LEDGER TEXT             the largest file of a ledger with TEXT in its path
//	people FROM TO NEED NAME=PUBLIC...    a charter of which so many of these people make agreements
//	agree DIR NAME COUNTRY FINGERPRINT [KEY...]  the state and a host agree about an embassy, which admits it; $QUOTA bytes
//	backdate DAYS REGISTER                what chancery backup does, by a clock that many days back
//	claim EMBASSY A B                     with the agent's key: a delivery to the embassy that gives all of register A to B
//	pg WHAT NAME ...                      a real PostgreSQL server (script_pg_test.go)
//	liar NAME OTHER                       an embassy's server that hides of streams what another embassy does not hold
//	forge KIT IDENTITY OTHER-KIT           put the share of another kit, opened with IDENTITY, into a kit

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "chancery" {
		flag.Parse()
		_ = flag.Set("test.parallel", "5") // scripts wait more than they work
	}
	testscript.Main(m, map[string]func(){"chancery": main})
}

func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount file systems, make devices and become other users: run them as root")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", Setup: setUp, RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"council": cmdCouncil, "embassies": cmdEmbassies, "serve": cmdServe, "start": cmdStart, "await": cmdAwait, "signal": cmdSignal,
			"ends": cmdEnds, "exit": cmdExit, "link": cmdLink, "json": cmdJSON, "jsonenv": cmdJSONEnv, "fileenv": cmdFileEnv,
			"same": cmdSame, "oddtree": cmdOddTree, "random": cmdRandom, "churn": cmdChurn, "flip": cmdFlip, "edit": cmdEdit,
			"objects": cmdObjects, "harm": cmdHarm, "smalldisk": cmdSmallDisk, "forge": cmdForge,
			"typed": cmdTyped, "ended": cmdEnded, "touchlike": cmdTouchLike, "fill": cmdFill, "count": cmdCount, "is": cmdIs,
			"says": cmdSays, "becomes": cmdBecomes, "ledgerof": cmdLedgerOf, "tile": cmdTile, "agree": cmdAgree, "shows": cmdShows,
			"address": cmdAddress, "backdate": cmdBackdate, "claim": cmdClaim, "people": cmdPeople, "pg": cmdPG, "liar": cmdLiar,
		},
	})
}

// setUp prepares the folder and environment of one script.
func setUp(env *testscript.Env) error {
	w := &world{dir: env.WorkDir, processes: map[string]*process{}, addresses: map[string]string{}, links: map[string]*link{}, servers: map[string]*pgtest.Server{}, t: testOf(env)}
	env.Values[worldKey{}] = w
	env.Defer(w.end)
	env.Setenv("MONTH", time.Now().UTC().Format("2006-01"))
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("XDG_CACHE_HOME", "/no-cache")
	// Scripts also run the program as other users, who must reach the folder and the program.
	bin := filepath.Dir(strings.SplitN(env.Getenv("PATH"), ":", 2)[0])
	for _, dir := range []string{filepath.Dir(env.WorkDir), env.WorkDir, bin} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// TestFIPS holds that the tests' program runs as the real one does, on the FIPS 140-3 module.
func TestFIPS(t *testing.T) {
	if !fips140.Enabled() {
		t.Error("FIPS 140-3 mode is off")
	}
}

// want ends the script when the number of arguments is wrong.
func want(ts *testscript.TestScript, neg bool, args []string, least, most int, usage string) {
	if neg || len(args) < least || len(args) > most {
		ts.Fatalf("usage: %s", usage)
	}
}

func number(ts *testscript.TestScript, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	ts.Check(err)
	return n
}

func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 1000, "exit CODE COMMAND...")
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
	if code == exitFailed || code == exitUsage || code >= exitNotFound && code != exitInterrupted {
		oneClearLine(ts, ts.ReadFile("stderr"))
	}
}

// oneClearLine holds an error to the rule of the interface: one line, and a hint.
func oneClearLine(ts *testscript.TestScript, text string) {
	var lines, hints int
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "chancery: "):
			lines++
		case strings.HasPrefix(line, "hint: "):
			hints++
		}
	}
	if lines > 1 || lines == 1 && hints != 1 {
		ts.Fatalf("%d lines of error and %d of hints, want one of each", lines, hints)
	}
}

func cmdFileEnv(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "fileenv VARIABLE FILE")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

func cmdEdit(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "edit FILE OLD NEW")
	path := ts.MkAbs(args[0])
	old, err := os.ReadFile(path)
	ts.Check(err)
	if !bytes.Contains(old, []byte(args[1])) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(path, bytes.ReplaceAll(old, []byte(args[1]), []byte(args[2])), 0o644))
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "flip FILE OFFSET")
	ts.Check(flip(ts.MkAbs(args[0]), number(ts, args[1])))
}

func flip(path string, offset int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if offset < 0 {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		offset += info.Size()
	}
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, offset); err != nil {
		return err
	}
	one[0] ^= 0x10
	_, err = f.WriteAt(one, offset) // in its place: a server that reads meanwhile finds it whole but for this
	return err
}
