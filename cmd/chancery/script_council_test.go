package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/home"
)

// cmdCouncil makes a state whose charter two of the people ana and jo and the custodians sign, with N embassies that
// serve. Their SSH keys are ana, jo and NAME.ssh of each custodian.
func cmdCouncil(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 1, 1, "council N")
	keys, err := holders()
	ts.Check(err)
	dir := ts.MkAbs("home")
	ts.Check(os.MkdirAll(ts.MkAbs("keys"), 0o755))
	for n, k := range keys {
		ts.Check(os.WriteFile(ts.MkAbs("keys/"+n+".key"), []byte(k[0]), 0o600))
	}
	ts.Setenv("READER", keys["reader"][1])
	ts.Setenv("CHANCERY_HOME", dir)
	init := []string{"state", "init", "--home", dir, "--cooling", "1s", "--name", "Republic of X", "--code", "XX", "--quorum", "3", "--need", "2"}
	people := map[string]string{"ana": "ana", "jo": "jo"}
	for _, n := range custodians() {
		people[n] = n + ".ssh"
		init = append(init, "--custodian", n+"="+keys[n][1])
	}
	for _, n := range append([]string{"ana", "jo"}, custodians()...) {
		file := ts.MkAbs(people[n])
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", n, "-f", file).CombinedOutput()
		if err != nil {
			ts.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		init = append(init, "--representative", n+"="+file+".pub")
	}
	tell(ts, init...)
	adopt := func() {
		tell(ts, "charter", "sign", "--home", dir, "--key", ts.MkAbs("ana"))
		tell(ts, "charter", "sign", "--home", dir, "--key", ts.MkAbs("jo"))
		tell(ts, "charter", "adopt", "--home", dir)
	}
	adopt()
	w := worldOf(ts)
	for _, h := range hosts[:number(ts, args[0])] {
		made := tell(ts, "embassy", "init", "--dir", ts.MkAbs(h[0]), "--name", h[0], "--country", h[1])
		agree(ts, ts.MkAbs(h[0]), h[0], h[1], made, "ana", "jo")
		w.addresses[h[0]] = address(ts)
		w.serve(ts, h[0], nil)
		url := "https://" + w.addresses[h[0]]
		ts.Setenv(h[0]+"_url", url)
		accredit := []string{"embassy", "accredit", "--home", dir, "--name", h[0], "--url", url, "--key", strings.TrimSpace(made)}
		root := rootCommand(&ui{out: io.Discard, err: io.Discard})
		root.SetArgs(accredit)
		if err := root.ExecuteContext(context.Background()); !errors.Is(err, home.ErrProposed) {
			ts.Fatalf("accredit %s: %v, want a proposal", h[0], err)
		}
		adopt()
		tell(ts, accredit...)
	}
}
