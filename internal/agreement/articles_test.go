package agreement

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/vectest"
)

// Every part of the document belongs to exactly one article, in the order of the document.
func TestArticlesCoverTheDocument(t *testing.T) {
	var keys, parts []string
	for i, x := range Articles() {
		if x.Number != i+1 {
			t.Errorf("article %d stands in place %d", x.Number, i+1)
		}
		keys = append(keys, x.Keys...)
	}
	typ := reflect.TypeFor[Agreement]()
	for i := range typ.NumField() {
		if key := typ.Field(i).Tag.Get("yaml"); key != "" {
			parts = append(parts, key)
		}
	}
	if want := parts[3:]; !slices.Equal(keys, want) { // version, number and previous are of the document
		t.Errorf("articles have %v, the document %v", keys, want)
	}
}

// What an article says about itself must be whole: what is enforced is shown by a test, and what is not says so.
func TestArticlesAreWhole(t *testing.T) {
	for _, x := range Articles() {
		if x.Enforced != "" && len(x.Tests) == 0 {
			t.Errorf("article %d: enforced, and no test shows it", x.Number)
		}
		if x.Recorded == "" || x.Beyond == "" || x.Title == "" {
			t.Errorf("article %d: something is left out", x.Number)
		}
	}
}

// docs/agreement.md holds the same table.
func TestArticlesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/agreement.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows, want []string
	for line := range strings.Lines(string(b)) {
		if regexp.MustCompile(`^\| [0-9]+ \|`).MatchString(line) {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	for _, x := range Articles() {
		want = append(want, row(x))
	}
	if vectest.Update() {
		text := strings.Replace(string(b), strings.Join(rows, "\n"), strings.Join(want, "\n"), 1)
		if err := os.WriteFile("../../docs/agreement.md", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for i := range max(len(rows), len(want)) {
		switch {
		case i >= len(rows):
			t.Errorf("docs/agreement.md lacks %s", want[i])
		case i >= len(want):
			t.Errorf("docs/agreement.md has too much: %s", rows[i])
		case rows[i] != want[i]:
			t.Errorf("docs/agreement.md has\n%s\nand the program\n%s", rows[i], want[i])
		}
	}
}

func row(x Article) string {
	enforced := x.Enforced
	if enforced == "" {
		enforced = "nothing"
	}
	tests := make([]string, len(x.Tests))
	for i, name := range x.Tests {
		tests[i] = "`" + name + "`"
	}
	return fmt.Sprintf("| %d | %s: `%s` | %s | %s | %s | %s |", x.Number, x.Title, strings.Join(x.Keys, "`, `"),
		enforced, x.Recorded, x.Beyond, strings.Join(tests, ", "))
}

// The specification shows the layout: the same keys in the same order.
func TestTheSpecificationShowsTheLayout(t *testing.T) {
	b, err := os.ReadFile("../../docs/spec/agreement.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "```\nversion: 1\n")
	block, _, ended := strings.Cut(rest, "```")
	if !ok || !ended {
		t.Fatal("docs/spec/agreement.md has no layout")
	}
	keyOf := regexp.MustCompile(`(?m)^( *(?:- )?[a-z_]+):`)
	got := keyOf.FindAllString("version: 1\n"+block, -1)
	one := sample(t)
	one.Host.Signatories, one.Entry.Exceptions, one.Notices = one.Host.Signatories[:1], one.Entry.Exceptions[:1], one.Notices[:1]
	one.Host.Need = 1
	want := keyOf.FindAllString(string(withoutComments(mustNew(t, one).Bytes())), -1)
	if !slices.Equal(got, want) {
		t.Errorf("the specification has\n%q\nthe program\n%q", got, want)
	}
}

func TestTermsAreAnArticlesLines(t *testing.T) {
	a := mustNew(t, sample(t))
	var all []string
	for _, x := range Articles() {
		all = append(all, a.Terms(x)...)
	}
	doc := string(withoutComments(a.Bytes()))
	if _, rest, _ := strings.Cut(doc, "previous: \"\"\n"); strings.Join(all, "\n")+"\n" != rest {
		t.Error("the terms of all articles are not the document")
	}
}
