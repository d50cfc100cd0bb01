package main

// The rules of the interface:
//
//   - What was asked for goes to standard output, everything else to standard error.
//   - With --json the answer is one JSON document; its fields are documented in docs/json.md and only ever added to.
//   - Long work shows one line of progress on a terminal, and a line every ten seconds elsewhere.
//   - An error is one line, "chancery: what: why", and a line "hint:" with the command that helps.
//   - No question is asked. Colour is never the only carrier of a meaning, so there is none.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"chancery.dev/chancery/internal/archive"
)

// ui is how a command speaks.
type ui struct {
	out, err io.Writer
	json     bool
	quiet    bool
	terminal bool // standard error is one
}

func newUI(out, errs *os.File) *ui {
	return &ui{out: out, err: errs, terminal: term.IsTerminal(int(errs.Fd()))}
}

// answer prints what was asked for: v with --json, otherwise what text writes.
func (u *ui) answer(v any, text func(w io.Writer)) error {
	if !u.json {
		text(u.out)
		return nil
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(u.out, "%s\n", b)
	return err
}

// note says something beside the answer.
func (u *ui) note(format string, args ...any) { fmt.Fprintf(u.err, format+"\n", args...) }

// fail prints an error and returns the exit code.
func (u *ui) fail(err error) int {
	if err == nil {
		return exitDone
	}
	code, hint := classify(err)
	var f *failure
	if errors.As(err, &f) && f.err == errPartial {
		return code // the command said itself what is missing
	}
	fmt.Fprintf(u.err, "chancery: %s\n", printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
	if hint != "" {
		fmt.Fprintf(u.err, "hint: %s\n", hint)
	}
	return code
}

// printable keeps names in any bytes from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '�'
		}
		return r
	}, s)
}

// table prints rows under a header, in columns.
func table(w io.Writer, header string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, " ", "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = printable(r[i])
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// progress shows how a run goes until the returned function is called. total is the bytes expected, 0 if unknown.
func (u *ui) progress(what string, p *archive.Progress, total int64) (done func()) {
	return u.shown(func(took time.Duration) string { return progressLine(what, p, total, took) })
}

// shown shows a line, as it is from time to time, until the returned function is called.
func (u *ui) shown(line func(took time.Duration) string) (done func()) {
	if u.quiet {
		return func() {}
	}
	every := 10 * time.Second
	if u.terminal {
		every = 200 * time.Millisecond
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		start := time.Now()
		for {
			select {
			case <-stop:
				if u.terminal {
					fmt.Fprint(u.err, "\r\x1b[K")
				}
				return
			case <-tick.C:
				text := line(time.Since(start))
				if u.terminal {
					fmt.Fprintf(u.err, "\r\x1b[K%s", text)
				} else {
					u.note("%s", text)
				}
			}
		}
	}()
	return func() { close(stop); <-ended }
}

func progressLine(what string, p *archive.Progress, total int64, took time.Duration) string {
	bytes, files := p.Bytes.Load(), p.Files.Load()
	rate := float64(bytes) / max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%s: %s in %d files, %s/s, %s at embassies", what, size(bytes), files, size(int64(rate)), size(p.Stored.Load()))
	if total > bytes && rate > 0 {
		left := time.Duration(float64(total-bytes) / rate * float64(time.Second))
		line += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	return line
}

// size writes bytes for people, in powers of 1000.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f /= 1000; f < 999.5 {
			break
		}
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// age writes how long ago something was.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dmin", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// plural counts things.
func plural[N int | int64 | uint64](n N, one string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	if strings.HasSuffix(one, "y") && !strings.HasSuffix(one, "ey") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	if strings.HasSuffix(one, "sh") || strings.HasSuffix(one, "ch") {
		return fmt.Sprintf("%d %ses", n, one)
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// list prints at most this many lines of a kind, and how many more there are.
const listed = 20

func (u *ui) list(lines []string, more int) {
	for i, l := range lines {
		if i == listed {
			break
		}
		u.note("  %s", printable(l))
	}
	if n := more - min(len(lines), listed); n > 0 {
		u.note("  … and %d more (--json lists them)", n)
	}
}
