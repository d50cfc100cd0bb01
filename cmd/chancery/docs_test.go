package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/custody"
)

// A command in a text is a line, in a block or indented, that begins with "chancery"; "$ " may stand before it.
var commandLine = regexp.MustCompile(`(?m)^(?:[ \t]*)(?:\$ |ExecStart=/usr/local/bin/)?(chancery [a-z].*)$`)

// TestTextsNameCommandsThatExist holds every command in the documents, the help texts and a kit's page against the
// program: the command is there, and so is each of its options. TestReadmeCommands runs those of the README.
func TestTextsNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"a kit's page": kitPage(t)}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/design/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatal(pattern, names, err)
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			texts[n] = string(b)
		}
	}
	root := rootCommand(&ui{out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	for _, c := range commandsBelow(root) {
		texts[c.CommandPath()+" --help"] = c.Example
	}
	count := 0
	for name, text := range texts {
		for _, line := range commandsIn(text) {
			count++
			if wrong := unknownWord(line); wrong != "" {
				t.Errorf("%s: %s: %s", name, line, wrong)
			}
		}
	}
	if count < 80 {
		t.Errorf("only %d commands found: texts are not read any more", count)
	}
	for _, line := range []string{"chancery custodian release --kit KIT REQUEST", "chancery backup land --hom H", "chancery archive x"} {
		if unknownWord(line) == "" {
			t.Errorf("%q passes", line)
		}
	}
}

func kitPage(t *testing.T) string {
	t.Helper()
	files, err := custody.BuildKit(&custody.Kit{
		State: [16]byte{1}, StateName: "Republic of X", Custodian: "mari", X: 1, Threshold: 3, Total: 5, Generation: 1,
		Charter: []byte("charter"), Signature: []byte("signature"),
		Share: []byte("-----BEGIN AGE ENCRYPTED FILE-----\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(files[custody.KitReadme])
}

func commandsIn(text string) (lines []string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// unknownWord says what of a command line the program does not know. Values are not looked at.
func unknownWord(line string) string {
	for _, end := range []string{" # ", " > ", " 2> ", " 2>> ", " | ", " & ", " && ", "; "} {
		line, _, _ = strings.Cut(line+" ", end)
	}
	words := shellWords(strings.TrimRight(line, " &"))
	root := rootCommand(&ui{out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	root.InitDefaultCompletionCmd("completion")
	c, rest, err := root.Find(words[1:])
	if err != nil {
		return err.Error()
	}
	if c.HasSubCommands() && c.Name() != "recover" && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return "no such verb: " + rest[0]
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err.Error()
	}
	if c.Args != nil && c.Flags().Lookup("help").Value.String() != "true" {
		if err := c.Args(c, c.Flags().Args()); err != nil {
			return err.Error()
		}
	}
	return ""
}

// shellWords splits at spaces outside double quotes and $( ).
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	quoted, depth := false, 0
	for _, r := range line + " " {
		switch {
		case r == '"' && depth == 0:
			quoted = !quoted
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ' ' && !quoted && depth == 0:
			if word.Len() > 0 {
				words = append(words, word.String())
			}
			word.Reset()
			continue
		}
		word.WriteRune(r)
	}
	return words
}

// commandsBelow are a command and all below it.
func commandsBelow(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, commandsBelow(sub)...)
	}
	return all
}
