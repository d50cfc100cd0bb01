package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryCommandIsExplained holds each command to what a newcomer needs: a line that says what it does, an example
// to copy, more where it has options, and arguments that are checked.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	root := rootCommand(&ui{out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	all := commandsBelow(root)
	if len(all) < 25 {
		t.Errorf("only %d commands are found", len(all))
	}
	for _, c := range all {
		switch path := c.CommandPath(); {
		case c.Name() == "help" || strings.Contains(path, " completion"): // cobra's own
		case c.Short == "" || strings.HasSuffix(c.Short, "."):
			t.Errorf("%s: its short text is %q", path, c.Short)
		case !strings.Contains(c.Example, path):
			t.Errorf("%s: no example names it: %q", path, c.Example)
		case c.Args == nil:
			t.Errorf("%s: its arguments are not checked", path)
		case c.RunE == nil:
			t.Errorf("%s does nothing", path)
		}
	}
}

// TestEveryCommandHasAPage writes the manual and looks for a page of each command in it.
func TestEveryCommandHasAPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	u := &ui{out: &out, err: &out}
	root := rootCommand(u)
	root.SetArgs([]string{"manual", "--dir", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, c := range commandsBelow(root) {
		if c.Name() == "help" {
			continue
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		for _, section := range []string{".TH ", ".SH NAME\n", ".SH SYNOPSIS\n", ".SH OPTIONS\n", ".SH EXIT STATUS\n"} {
			if !strings.Contains(string(page), section) {
				t.Errorf("%s has no %q", name, section)
			}
		}
		if !strings.Contains(out.String(), name+"\n") {
			t.Errorf("%s is not named", name)
		}
	}
}
