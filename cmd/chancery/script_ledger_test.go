package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/ledger"
)

// cmdSays waits until a command that was started has written something.
func cmdSays(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "says NAME PATTERN")
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	p := worldOf(ts).process(ts, args[0])
	until(ts, p, "says "+args[0]+" "+args[1], func() bool { return re.MatchString(p.out.String() + p.errs.String()) })
}

// cmdBecomes runs a command until it ends with a code, for what embassies do in the background.
func cmdBecomes(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 1000, "becomes CODE COMMAND...")
	again(ts, args[1:], func(code int) string {
		if fmt.Sprint(code) == args[0] {
			return ""
		}
		return fmt.Sprintf("still exit code %d, want %s", code, args[0])
	})
}

// cmdShows runs a command until a field of its JSON answer is as it should be. With what code it ends does not matter.
func cmdShows(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 4, 1000, "shows PATH OP VALUE COMMAND...")
	again(ts, args[3:], func(int) string {
		got, err := field(ts.ReadFile("stdout"), args[0])
		if err == nil && holds(ts, got, args[1], args[2]) {
			return ""
		}
		return fmt.Sprintf("still %s is %q, want %s %s: %v", args[0], got, args[1], args[2], err)
	})
}

// again runs a command until nothing is wrong with how it ended.
func again(ts *testscript.TestScript, command []string, wrong func(code int) string) {
	for deadline := time.After(patience); ; {
		code := 0
		err := ts.Exec(command[0], command[1:]...)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			ts.Fatalf("%v", err)
		}
		why := wrong(code)
		if why == "" {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s", why)
		case <-time.After(10 * look):
		}
	}
}

// cmdLedgerOf puts into a variable where an embassy keeps the ledger of its first state.
func cmdLedgerOf(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "ledgerof VARIABLE EMBASSY")
	list, err := filepath.Glob(filepath.Join(worldOf(ts).dir, args[1], "states", "*", "ledger"))
	ts.Check(err)
	if len(list) == 0 {
		ts.Fatalf("%s has no ledger", args[1])
	}
	ts.Setenv(args[0], list[0])
}

// cmdTile puts into a variable the largest file of a ledger's folder whose path holds a text.
func cmdTile(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "tile VARIABLE LEDGER TEXT")
	best, most := "", int64(-1)
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, args[2]) {
			return err
		}
		info, err := os.Stat(path)
		if err == nil && info.Size() > most {
			best, most = path, info.Size()
		}
		return err
	}))
	if best == "" {
		ts.Fatalf("no file of %s is in a path with %s", args[1], args[2])
	}
	rel, err := filepath.Rel(ts.MkAbs(args[1]), best)
	ts.Check(err)
	ts.Setenv(args[0], filepath.ToSlash(rel))
}

// cmdAddress puts a loopback address that is free into a variable.
func cmdAddress(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "address VARIABLE")
	ts.Setenv(args[0], address(ts))
}

func cmdBackdate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, 2, "backdate DAYS REGISTER")
	days := int(number(ts, args[0]))
	conn, err := connect(ts.Getenv("CHANCERY_HOME"), false)
	ts.Check(err)
	defer conn.close()
	conn.clock = func() time.Time { return time.Now().AddDate(0, 0, -days) }
	ts.Check(conn.backups(context.Background(), &ui{out: io.Discard, err: io.Discard}, args[1:], nil))
}

func cmdClaim(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 3, 3, "claim EMBASSY A B")
	ctx := context.Background()
	conn, err := connect(ts.Getenv("CHANCERY_HOME"), false)
	ts.Check(err)
	defer conn.close()
	e, err := accredited(conn.home.Charter, args[0])
	ts.Check(err)
	from, err := conn.home.Register(args[1])
	ts.Check(err)
	to, err := conn.home.Register(args[2])
	ts.Check(err)
	d := ledger.NewDelivery()
	d.State, d.Register, d.Head, d.Parts, d.Embassy = [16]byte(conn.home.Charter.State.ID), to.Record.ID, 1000, 1, [16]byte(e.ID)
	ts.Check(eachDelivery(ctx, conn.client(e), from.Record.ID, func(x *ledger.Delivery) {
		if x.Head < 1000 { // not what was claimed before
			d.Objects = append(d.Objects, x.Objects...)
		}
	}))
	slices.SortFunc(d.Objects, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	d.Objects = slices.Compact(d.Objects)
	ts.Check(d.Sign(conn.key))
	data, err := d.Bytes()
	ts.Check(err)
	ts.Check(conn.client(e).PutRecord(ctx, d.Slot(), data))
}
