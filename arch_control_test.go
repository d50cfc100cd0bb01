package chancery_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// sound is a small house that keeps every rule. Each control changes one thing about it.
var sound = map[string]string{
	"cmd/chancery/main.go":        "// Chancery runs data embassies.\npackage main\n\nimport \"os\"\n\nfunc main() { os.Exit(0) }\n",
	"internal/shard/shard.go":     "// Package shard splits.\npackage shard\n\nimport (\n\t\"net/url\"\n\t\"time\"\n)\n\n// A Wait is a URL and a time.\ntype Wait struct {\n\turl.URL\n\ttime.Duration\n}\n\n// Limits.\nconst (\n\tMin = 1\n\tMax = 2 // most\n)\n\ntype set map[int]bool\n\nfunc (s set) Len() int { return len(s) }\n",
	"internal/embassy/embassy.go": "// Package embassy serves.\npackage embassy\n\nimport (\n\t\"chancery.dev/chancery/internal/shard\"\n\t\"time\"\n)\n\nvar at, W = time.Now(), shard.Wait{} // W is the wait\n",
	"internal/shard/shard_test.go": "package shard\n\nimport \"testing\"\n\nfunc TestJoin(t *testing.T) {\n" +
		"\trapid.Check(t, func(t *rapid.T) { t.Skip() })\n\tvar r reader\n\tr.Skip(4)\n}\n",
	"bench/tree.go": "//go:build ignore\n\npackage main\n\nfunc main() { panic(\"a program of its own\") }\n",
}

func TestRulesAcceptASoundHouse(t *testing.T) {
	h := parse(t, sound)
	for _, r := range rules {
		if found := r.check(h); len(found) > 0 {
			t.Errorf("%s refuses the sound house: %s", r.name, strings.Join(found, "; "))
		}
	}
}

// controls are houses with one fault each, and what its rule must say.
var controls = []struct {
	rule, path, text, want string
}{
	{"imports go down", "internal/shard/up.go", `package shard; import _ "chancery.dev/chancery/internal/embassy"`, "shard may not import embassy: embassies import shard"},
	{"imports go down", "internal/embassy/open.go", `package embassy; import _ "chancery.dev/chancery/internal/seal"`, "a host must hold nothing that opens"},
	{"imports go down", "internal/archive/a.go", `package archive; import _ "chancery.dev/chancery/internal/home"`, "archive may not import home"},
	{"imports go down", "internal/attic/a.go", `package attic`, `package "attic" is not in the table`},
	{"imports go down", "internal/pack/sim.go", `package pack; import _ "chancery.dev/chancery/sim"`, "pack may not import sim"},
	{"imports go down", "internal/charter/sub/a.go", `package sub`, `"charter/sub" is not in the table`},
	{"walls hold", "internal/shard/key.go", `package shard; import _ "chancery.dev/chancery/internal/pack"`, "embassy -> shard -> pack"},
	{"walls hold", "internal/shard/key.go", `package shard; import _ "crypto/hpke"`, "embassy reaches crypto/hpke"},
	{"walls hold", "internal/shard/key.go", `package shard; import _ "filippo.io/age/armor"`, "embassy reaches filippo.io/age/armor"},
	{"walls hold", "internal/archive/a.go", `package archive; import _ "chancery.dev/chancery/internal/embassy"`, "archive reaches embassy"},
	{"formats are pure", "internal/shard/f.go", `package shard; import _ "os"`, `shard is pure and may not import "os"`},
	{"formats are pure", "internal/seal/f.go", `package seal; import _ "os/exec"`, `"os/exec"`},
	{"formats are pure", "internal/ledger/f.go", `package ledger; import _ "net/http"`, `"net/http"`},
	{"formats are pure", "internal/pack/f.go", `package pack; import _ "crypto/rand"`, `"crypto/rand"`},
	{"formats are pure", "internal/chunk/f.go", `package chunk; import _ "math/rand/v2"`, `"math/rand/v2"`},
	{"formats are pure", "internal/custody/f.go", `package custody; import "time"; var _ = time.Now()`, "may not use time.Now"},
	{"formats are pure", "internal/charter/f.go", `package charter; import clock "time"; var f = clock.Sleep`, "may not use time.Sleep"},
	{"formats are pure", "internal/snapshot/f.go", `package snapshot; import . "time"; var _ = Now()`, `"time" in this way`},
	{"formats are pure", "internal/ledger/f.go", `package ledger; import "log/slog"; func f() { slog.Info("") }`, "may not use slog.Info"},
	{"formats are pure", "internal/ledger/f.go", `package ledger; import "log"; func f() { log.Print("") }`, `"log"`},
	{"no init", "internal/shard/i.go", `package shard; func init() {}`, "func init"},
	{"no init", "internal/shard/i_test.go", `package shard; func init() {}`, "func init"},
	{"errors are returned", "internal/embassy/x.go", `package embassy; import "os"; func f() { os.Exit(1) }`, "os.Exit below cmd"},
	{"errors are returned", "internal/embassy/x.go", `package embassy; import "log"; func f() { log.Fatalf("") }`, "log.Fatalf below cmd"},
	{"errors are returned", "internal/embassy/x.go", `package embassy; func f() { panic(1) }`, "panic below cmd"},
	{"packages have nouns", "internal/util/u.go", `package util`, "names a drawer"},
	{"packages have nouns", "internal/embassy/types/u.go", `package types`, "names a drawer"},
	{"packages have nouns", "internal/helpers/u_test.go", `package helpers_test`, "names a drawer"},
	{"one package comment", "internal/shard/two.go", "// Package shard splits again.\npackage shard", "2 package comments"},
	{"one package comment", "internal/seal/none.go", "// A licence.\n\npackage seal", "0 package comments"},
	{"one package comment", "internal/seal/odd.go", "// Seals things.\npackage seal", "does not begin"},
	{"exported names are explained", "internal/shard/e.go", `package shard; func Split() {}`, "Split has no comment"},
	{"exported names are explained", "internal/shard/e.go", `package shard; func (w *Wait) String() string { return "" }`, "String has no comment"},
	{"exported names are explained", "internal/shard/e.go", "package shard\n// Two types.\ntype (\n\tA int\n)", "A has no comment"},
	{"exported names are explained", "internal/shard/e.go", "package shard\nvar ErrX error", "ErrX has no comment"},
	{"files are short", "internal/shard/long.go", "package shard\n" + strings.Repeat("\n", 500), "501 lines"},
	{"files are short", "internal/shard/long_test.go", "package shard\n" + strings.Repeat("\n", 600), "601 lines"},
	{"functions are short", "internal/shard/long.go", "package shard\nfunc f() {\n" + strings.Repeat("\n", 69) + "}", "f has 71 lines"},
	{"tests do not skip", "internal/shard/s_test.go", `package shard; import "testing"; func TestA(t *testing.T) { t.Skip("later") }`, "t.Skip"},
	{"tests do not skip", "internal/shard/s_test.go", `package shard; import "testing"; func help(tb testing.TB) { func() { tb.SkipNow() }() }`, "tb.SkipNow"},
	{"tests do not skip", "internal/shard/s_test.go", `package shard; import "testing"; func TestA(t *testing.T) { t.Run("", func(u *testing.T) { u.Skipf("") }) }`, "u.Skipf"},
	{"tests do not skip", "internal/shard/s_test.go", "//go:build integration\n\npackage shard", `"integration" leaves these tests out`},
}

func TestRulesRefuse(t *testing.T) {
	seen := map[string]bool{}
	for i, c := range controls {
		seen[c.rule] = true
		t.Run(fmt.Sprintf("%02d-%s", i, strings.ReplaceAll(c.rule, " ", "-")), func(t *testing.T) {
			texts := maps.Clone(sound)
			texts[c.path] = c.text
			h := parse(t, texts)
			for _, r := range rules {
				if r.name != c.rule {
					continue
				}
				found := r.check(h)
				if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, c.want) }) {
					t.Errorf("%s: found %q, want one that says %q", c.path, found, c.want)
				}
			}
		})
	}
	for _, r := range rules {
		if !seen[r.name] {
			t.Errorf("the rule %q has no control", r.name)
		}
	}
}

func TestModuleRulesRefuse(t *testing.T) {
	const head = "module chancery.dev/chancery\n\ngo 1.26.0\n\n"
	const good = head + "require filippo.io/age v1.3.2\n"
	if found := moduleIsPinned([]byte(good)); len(found) > 0 {
		t.Errorf("refuses a good go.mod: %q", found)
	}
	for text, want := range map[string]string{
		head:                                     "filippo.io/age is not required",
		head + "require filippo.io/age v1.2.1\n": "not the pinned v1.3.2",
		good + "replace golang.org/x/sys => ../sys\n":            "replaces golang.org/x/sys",
		good + "require honnef.co/go/tools v0.8.2 // indirect\n": "is a tool",
		"nonsense": "nonsense",
	} {
		found := moduleIsPinned([]byte(text))
		if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
			t.Errorf("%q: found %q, want %q", text, found, want)
		}
	}
}

func TestTableMustGoDown(t *testing.T) {
	for want, bad := range map[string][][]room{
		"low import high":   {{{name: "high"}}, {{name: "low", may: "high"}}},
		"left import right": {{{name: "left", may: "right"}, {name: "right"}}},
		"self import self":  {{{name: "self", may: "self"}}},
	} {
		found := tableGoesDown(bad)
		if len(found) != 1 || !strings.Contains(found[0], want) {
			t.Errorf("found %q, want one that says %q", found, want)
		}
	}
}

func TestThreatModelRulesRefuse(t *testing.T) {
	h := parse(t, sound)
	if found := namesRealTests(h, "| T1 | `shard.TestJoin` |\n| T2 |"); len(found) > 0 {
		t.Errorf("refuses a true document: %q", found)
	}
	for doc, want := range map[string]string{
		"`shard.TestSplit`": "there is no test shard.TestSplit",
		"`seal.FuzzOpen`":   "there is no test seal.FuzzOpen",
		"| T1 |\n| T3 |":    "T3 stands where T2 should",
	} {
		if found := namesRealTests(h, doc); len(found) != 1 || found[0] != want {
			t.Errorf("%q: found %q, want %q", doc, found, want)
		}
	}
}
