package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery.dev/chancery/internal/charter"
)

// cmdPeople writes a charter like another one, of which NEED of the people named make agreements and nobody else does.
func cmdPeople(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "people FROM TO NEED NAME=PUBLIC[,PUBLIC...]..."
	want(ts, neg, args, 4, 100, usage)
	doc, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	c, err := charter.Parse(doc)
	ts.Check(err)
	need, err := strconv.Atoi(args[2])
	ts.Check(err)
	role := charter.Role{Name: "diplomats"}
	for _, arg := range args[3:] {
		name, files, ok := strings.Cut(arg, "=")
		if !ok {
			ts.Fatalf("usage: %s", usage)
		}
		p := charter.Person{Name: name, Office: "office of " + name, From: "2020-01-01"}
		for file := range strings.SplitSeq(files, ",") {
			key, err := charter.ParseSSHPublicKey([]byte(ts.ReadFile(file)))
			ts.Check(err)
			p.Keys = append(p.Keys, key)
		}
		c.People, role.People = append(c.People, p), append(role.People, name)
	}
	c.Roles = append(c.Roles, role)
	for i := range c.Acts {
		if c.Acts[i].Act == charter.ActAgreement {
			c.Acts[i].Role, c.Acts[i].Need = role.Name, need
		}
	}
	changed, err := charter.New(*c)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), changed.Bytes(), 0o644))
}
