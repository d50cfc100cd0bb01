package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesOfAgreementsAreExplained runs explain on each example: every article with its terms, and for each what is
// enforced, recorded and out of reach.
func TestExamplesOfAgreementsAreExplained(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../examples/agreements/*.yaml")
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		var out, errs bytes.Buffer
		u := &ui{out: &out, err: &errs}
		root := rootCommand(u)
		root.SetArgs([]string{"agreement", "explain", name})
		if err := root.Execute(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := out.String()
		for label, want := range map[string]int{"\nArticle ": 16, "  enforced: ": 17, "  recorded: ": 17, "  it cannot: ": 17} {
			if got := strings.Count(text, label); got != want {
				t.Errorf("%s: %d times %q, want %d", name, got, label, want)
			}
		}
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "    ") && len(line) > 101 {
				t.Errorf("%s: a line of %d characters: %s", name, len(line), line)
			}
		}
	}
}
