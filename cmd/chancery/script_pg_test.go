package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/pgtest"
)

// cmdPG runs a real PostgreSQL server:
//
//	pg make NAME VERSION [SETTING=VALUE...]   a new cluster, with its server; $NAME is how to connect, $NAME_DATA its folder
//	pg on NAME VERSION DIR                    a server for a restored folder; it is not started
//	pg start|kill|stop|promote|fails NAME     start it (fails: it must not come up), kill it, stop it, promote it
//	pg sql NAME SQL                           rows go to standard output
//	pg await NAME VALUE SQL                   wait until a query gives a value
//	pg space NAME TABLESPACE DIR              make a tablespace, which no transaction may
//	pg caught NAME SLOT                       wait until the slot's user has all of the log that was written so far
func cmdPG(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: pg make|on|start|kill|stop|promote|fails|sql|await NAME ...")
	}
	w := worldOf(ts)
	name := args[1]
	version := func() int {
		v, err := strconv.Atoi(args[2])
		ts.Check(err)
		return v
	}
	known := func(s *pgtest.Server) {
		w.servers[name] = s
		ts.Setenv(name, s.Conninfo())
		ts.Setenv(name+"_DATA", s.Data)
	}
	switch args[0] {
	case "make":
		settings := map[string]string{}
		for _, x := range args[3:] {
			key, value, _ := strings.Cut(x, "=")
			settings[key] = value
		}
		known(pgtest.Start(w.t, version(), pgtest.Options{Settings: settings, SegmentSize: 1}))
		return
	case "on":
		known(pgtest.On(w.t, version(), ts.MkAbs(args[3])))
		return
	}
	s := w.servers[name]
	if s == nil {
		ts.Fatalf("no server %s", name)
	}
	switch args[0] {
	case "start":
		ts.Check(s.TryStart())
	case "fails":
		if s.TryStart() == nil {
			ts.Fatalf("the server came up")
		}
	case "kill":
		s.Kill()
	case "stop":
		s.Stop()
	case "promote":
		s.Promote()
	case "sql":
		out, err := s.Try("postgres", args[2])
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), out)
	case "await":
		s.Await(args[3], args[2])
	case "space":
		s.Exec(fmt.Sprintf("create tablespace %s location '%s'", args[2], args[3]))
	case "caught":
		at := s.Exec("select pg_current_wal_insert_lsn()")
		s.Await(fmt.Sprintf("select restart_lsn >= '%s'::pg_lsn from pg_replication_slots where slot_name = '%s'", at, args[2]), "t")
	default:
		ts.Fatalf("pg %s?", args[0])
	}
}

// testOf is the test of a script.
func testOf(env *testscript.Env) testing.TB {
	return env.T().(testing.TB)
}
