package main

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/charter"
)

// cmdAgree has the state of a home, for which KEY signs (home's own by default), and the host of an embassy come to an
// agreement, and admits it there. The files are NAME.agreement (HOME-NAME.agreement where that is there already), its
// signatures and minister, the host's key. $QUOTA is how much the state may store.
func cmdAgree(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 4, 6, "agree DIR NAME COUNTRY FINGERPRINT [KEY...]")
	agree(ts, ts.MkAbs(args[0]), args[1], args[2], args[3], args[4:]...)
}

func agree(ts *testscript.TestScript, dir, name, country, fingerprint string, keys ...string) {
	minister := ts.MkAbs("minister")
	if _, err := os.Stat(minister); err != nil {
		key, err := charter.GenerateSSHKey(rand.Reader)
		ts.Check(err)
		file, err := charter.MarshalSSHKey(key, "minister")
		ts.Check(err)
		ts.Check(os.WriteFile(minister, file, 0o600))
		line, err := charter.SSHPublicKey(key.Public().(ed25519.PublicKey))
		ts.Check(err)
		ts.Check(os.WriteFile(minister+".pub", []byte(line+"\n"), 0o644))
	}
	home := ts.Getenv("CHANCERY_HOME")
	if len(keys) == 0 {
		keys = []string{filepath.Join(home, "keys", "signer")}
	}
	file := ts.MkAbs(name + ".agreement")
	if _, err := os.Stat(file); err == nil {
		file = ts.MkAbs(filepath.Base(home) + "-" + name + ".agreement")
	}
	quota := cmp.Or(ts.Getenv("QUOTA"), "1000000000")
	tell(ts, "agreement", "draft", "--home", home, "--with", country, "--host-name", "Host "+country, "--name", name,
		"--embassy-key", strings.TrimSpace(fingerprint), "--signatory", "minister="+minister+".pub", "--quota", quota, "--open-as", "as agreed", "--out", file)
	// Nothing here is kept so long that a test could not see it go; package embassy tests what must be kept.
	doc, err := os.ReadFile(file)
	ts.Check(err)
	for _, line := range []string{"  minimum: ", "  cooling_off: "} {
		doc = regexp.MustCompile("(?m)^"+line+".*$").ReplaceAll(doc, []byte(line+`"0"`))
	}
	ts.Check(os.WriteFile(file, doc, 0o644))
	for _, key := range append([]string{minister}, keys...) {
		tell(ts, "agreement", "sign", file, "--home", home, "--key", ts.MkAbs(key))
	}
	tell(ts, "embassy", "admit", "--dir", dir, "--agreement", file, "--state", filepath.Join(home, "charter.yaml"))
}
