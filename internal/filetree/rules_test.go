package filetree

import (
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule    string
		yes, no string // paths between spaces; folders end in "/"
	}{
		{"core", "core a/core a/b/core core/", "core2 a/score cores/x"},
		{"/core", "core core/", "a/core"},
		{"cache/", "cache/ a/cache/", "cache a/cache cache2/"},
		{"/a/b", "a/b a/b/", "x/a/b a/b/c a"},
		{"a/b", "a/b x/a/b", "a/x/b xa/b a/bc"},
		{"*.o", "x.o a/x.o .o", "x.oo x.o/y o"},
		{"/*.o", "x.o", "a/x.o"},
		{"*", "a a/b", ""},
		{"a*z", "az abz x/abcz", "a/z azb"},
		{"/a/*", "a/b a/bc", "a a/b/c"},
		{"/a/**", "a/b a/b/c", "a b/a/c"},
		{"/a/**/z", "a/z a/b/z a/b/c/z", "a/bz az x/a/z"},
		{"**/z", "z a/z a/b/z", "az a/bz"},
		{"/**.log", "x.log a/b.log", "x.log/y"},
		{"a**z", "az a/b/z x/a-z", "xa/z/b"},
		{"a?c", "abc x/a.c", "ac a/c abbc"},
		{"*a*b*", "ab xaybz q/ab", "ba a/b"},
		{"/*/b", "a/b", "b a/c/b"},
		{`\#x`, "#x", `\#x`},
		{`\!x`, "!x", "x"},
		{`a\*`, "a*", "ab"},
		{`a\ b`, "", "a"},
		{"[ab]", "[ab]", "a b"},
		{"x\xff", "x\xff", "x"},
		{".*", ".a a/.b", "a a/b."},
		{"*/tmp/", "a/tmp/ x/a/tmp/", "tmp/ a/tmp"},
	} {
		r, err := ParseRules([]string{"# a remark", "", c.rule + "\r"})
		check(t, err)
		for paths, want := range map[string]bool{c.yes: true, c.no: false} {
			for _, p := range strings.Fields(paths) {
				rel, dir := strings.CutSuffix(p, "/")
				if r.Excluded(rel, dir) != want {
					t.Errorf("%q and %q: %v expected", c.rule, p, want)
				}
			}
		}
	}
	var none *Rules
	if none.Excluded("x", false) || none.Excluded("", true) {
		t.Error("no rules exclude something")
	}
	if r := must(ParseRules([]string{"*"}))(t); r.Excluded("", true) {
		t.Error("the root was excluded")
	}
}

func TestBadRulesNameTheLine(t *testing.T) {
	for _, bad := range []string{"!x", "/", "//", "a//b", `a\`, "a\x00", "..", "a/../b", "./a", `a\/b`} {
		_, err := ParseRules([]string{"good", bad})
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// slowMatch tries everything.
func slowMatch(p []token, s string) bool {
	if len(p) == 0 {
		return s == ""
	}
	switch p[0].sign {
	case literal:
		return s != "" && s[0] == p[0].lit && slowMatch(p[1:], s[1:])
	case oneByte:
		return s != "" && s[0] != '/' && slowMatch(p[1:], s[1:])
	case star:
		return slowMatch(p[1:], s) || (s != "" && s[0] != '/' && slowMatch(p, s[1:]))
	case all:
		return slowMatch(p[1:], s) || (s != "" && slowMatch(p, s[1:]))
	}
	if slowMatch(p[1:], s) {
		return true
	}
	i := strings.IndexByte(s, '/')
	return i >= 0 && slowMatch(p, s[i+1:])
}

// Every pattern of up to five signs agrees with the plain definition on every short path.
func TestMatchAgreesWithDefinition(t *testing.T) {
	var texts []string
	grow := func(alphabet []string, n int) []string {
		all, last := []string{}, []string{""}
		for range n {
			var next []string
			for _, s := range last {
				for _, a := range alphabet {
					next = append(next, s+a)
				}
			}
			all, last = append(all, next...), next
		}
		return all
	}
	texts = grow([]string{"a", "b", "/"}, 6)
	count := 0
	for _, p := range grow([]string{"a", "b", "/", "*", "**", "**/"}, 5) {
		tokens, err := tokenize(p)
		if err != nil {
			continue
		}
		for i := count % 7; i < len(texts); i += 7 {
			if match(tokens, texts[i]) != slowMatch(tokens, texts[i]) {
				t.Fatalf("%q and %q: %v", p, texts[i], match(tokens, texts[i]))
			}
		}
		count++
	}
	if count < 1000 {
		t.Errorf("only %d patterns", count)
	}
}

func FuzzRules(f *testing.F) {
	f.Add("/a/**/b*?c/", "a/x/bzzc")
	f.Add(`**\***`, "a*b")
	f.Fuzz(func(t *testing.T, rule, path string) {
		r, err := ParseRules([]string{rule})
		if err != nil || len(rule) > 50 || len(path) > 50 {
			return
		}
		r.Excluded(path, true)
		if tokens, err := tokenize(rule); err == nil && strings.Count(rule, "*") < 5 {
			if match(tokens, path) != slowMatch(tokens, path) {
				t.Errorf("%q and %q", rule, path)
			}
		}
	})
}
