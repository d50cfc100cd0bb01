package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manualCommand writes the man pages, from the same source as --help.
func manualCommand(u *ui) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "manual", Short: "Write the manual pages into a folder", Args: cobra.NoArgs,
		Long:    "Writes one page for each command, from the same text as --help.",
		Example: "  chancery manual --dir /usr/local/share/man/man1",
	}
	c.Flags().StringVar(&dir, "dir", "", "folder for the pages")
	required(c, "dir")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return writePages(c.Root(), dir, u)
	}
	return c
}

func writePages(c *cobra.Command, dir string, u *ui) error {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
	if err := os.WriteFile(dir+"/"+name, []byte(page(c)), 0o644); err != nil {
		return err
	}
	fmt.Fprintln(u.out, name)
	for _, sub := range c.Commands() {
		if err := writePages(sub, dir, u); err != nil {
			return err
		}
	}
	return nil
}

// page is one manual page in roff.
func page(c *cobra.Command) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	title := strings.ReplaceAll(c.CommandPath(), " ", "-")
	line(".TH %q 1 \"\" \"chancery %s\" \"Chancery\"", strings.ToUpper(title), version)
	line(".SH NAME\n%s \\- %s", roff(title), roff(c.Short))
	line(".SH SYNOPSIS\n.B %s", roff(c.UseLine()))
	if c.Long != "" {
		line(".SH DESCRIPTION\n%s", roff(c.Long))
	}
	if subs := c.Commands(); len(subs) > 0 {
		line(".SH COMMANDS")
		for _, s := range subs {
			if !s.Hidden {
				line(".TP\n.B %s\n%s", roff(s.Name()), roff(s.Short))
			}
		}
	}
	options := func(f *pflag.Flag) { line(".TP\n.B \\-\\-%s\n%s", roff(f.Name), roff(f.Usage)) }
	line(".SH OPTIONS")
	c.LocalFlags().VisitAll(options)
	c.InheritedFlags().VisitAll(options)
	if c.Example != "" {
		line(".SH EXAMPLE\n.nf\n%s\n.fi", roff(c.Example))
	}
	line(".SH EXIT STATUS\n0 done, 1 failed, 2 usage, 3 done in part, 4 not found, 5 refused, 6 damaged or forged data, 7 stale or forked history, 8 too few embassies or custodians, 130 interrupted.")
	return b.String()
}

// roff protects what roff would take as its own.
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
