package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdTyped types, into a shell, the commands that quickstart's last words name.
func cmdTyped(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "typed FILE")
	_, last, ok := strings.Cut(ts.ReadFile(args[0]), "To look around in it:\n")
	if !ok {
		ts.Fatalf("%s tells nothing to type", args[0])
	}
	script, n := "set -e\n", 0
	for line := range strings.Lines(last) {
		if command, ok := strings.CutPrefix(line, "  "); ok {
			script, n = script+command, n+1
		}
	}
	if n < 4 {
		ts.Fatalf("only %d commands: %s", n, script)
	}
	if err := ts.Exec("bash", "-c", script); err != nil {
		ts.Fatalf("%v of:\n%s", err, script)
	}
}

// cmdEnded waits until no process uses the programs of a sandbox.
func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "ended SANDBOX")
	until(ts, &process{}, "ended "+args[0], func() bool { return len(programsIn(ts.MkAbs(args[0]))) == 0 })
}

// cmdTouchLike gives folders of one tree the times of another's, where a file was taken out of it.
func cmdTouchLike(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "touchlike FROM TO")
	var st unix.Stat_t
	ts.Check(unix.Lstat(ts.MkAbs(args[0]), &st))
	ts.Check(unix.UtimesNanoAt(unix.AT_FDCWD, ts.MkAbs(args[1]), []unix.Timespec{st.Atim, st.Mtim}, 0))
}

// cmdFill fills a file system to its last byte.
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "fill FILE")
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); err != nil {
			fmt.Fprintln(ts.Stderr(), err)
			return
		}
	}
}
