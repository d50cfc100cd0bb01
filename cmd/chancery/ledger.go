package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

func ledgerCommand(u *ui) *cobra.Command {
	return noun("ledger", "Check, copy and follow the embassies' ledgers", "  chancery ledger verify --home HOME",
		ledgerVerify(u), ledgerFollow(u), ledgerShow(u), ledgerCopy(u))
}

// ledgerJSON is what is found of one ledger.
type ledgerJSON struct {
	Embassy     string              `json:"embassy"`
	Origin      string              `json:"origin"`
	Size        uint64              `json:"size"`
	Root        string              `json:"root,omitempty"`
	Checked     uint64              `json:"entries_checked"`
	Tiles       uint64              `json:"tiles_checked"`
	Acts        map[string]uint64   `json:"acts"`
	Cosigned    *cosignedJSON       `json:"cosigned,omitempty"`
	Held        []heldJSON          `json:"held_against"`
	Silent      []string            `json:"witnesses_silent,omitempty"`
	Findings    []ledgerFindingJSON `json:"findings"`
	More        int                 `json:"findings_more,omitempty"`
	Complete    bool                `json:"complete"`
	Why         string              `json:"why,omitempty"`
	Whole       bool                `json:"whole"`
	Seconds     float64             `json:"seconds"`
	verdict     error
	unwitnessed bool // the charter asks for no witness
}

type cosignedJSON struct {
	Size   uint64     `json:"size"`
	Enough bool       `json:"enough"`
	Groups []string   `json:"groups"`
	Time   *time.Time `json:"time,omitempty"`
}

type heldJSON struct {
	From   string `json:"from"`
	Size   uint64 `json:"size"`
	Joined bool   `json:"joined"`
}

type ledgerFindingJSON struct {
	Kind   string `json:"kind"`
	Path   string `json:"file,omitempty"`
	Index  uint64 `json:"entry"`
	Why    string `json:"why"`
	Blame  string `json:"blame"`
	Proven bool   `json:"proven"`
}

func ledgerVerify(u *ui) *cobra.Command {
	var f ledgerFlags
	c := &cobra.Command{
		Use: "verify", Short: "Recompute ledgers from every entry and tile, and hold them against what others saw", Args: cobra.NoArgs,
		Long: "Reads every entry and tile of the ledgers, recomputes all hashes, and holds the result against the signed\n" +
			"checkpoint, its cosignatures, and every checkpoint that home, other embassies and witnesses have seen. It needs no\n" +
			"key that opens. With --from it reads a copy (chancery ledger copy), or an embassy's own ledger folder, without a\n" +
			"network. Each finding names the first bad file or entry and who is to blame. Exit 6 when something is damaged or\n" +
			"forged, 7 when a ledger is shorter than it was or has two histories, 3 when it is not cosigned or could not be\n" +
			"read to its end.",
		Example: "  chancery ledger verify --home HOME\n  chancery ledger verify --from COPY --charter charter.yaml",
	}
	f.declare(c, "the embassy whose ledger it is; default: all")
	c.Flags().StringVar(&f.from, "from", "", "a folder of ledger files, or of one such folder for each embassy")
	deadline := c.Flags().Duration("deadline", 10*time.Minute, "how long it may take, whatever embassies do")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *deadline <= 0 {
			return usageError(c, errors.New("--deadline: no time at all"))
		}
		l, err := f.open(u)
		if err != nil {
			return err
		}
		defer l.close()
		ctx, cancel := context.WithTimeout(c.Context(), *deadline)
		defer cancel()
		list, err := l.verify(ctx, u)
		if err != nil {
			return err
		}
		if c.Context().Err() != nil {
			return c.Context().Err()
		}
		return u.ledgerAnswer(list, list)
	}
	return c
}

// ledgerAnswer prints what was found and turns the worst of it into the exit code.
func (u *ui) ledgerAnswer(v any, list []*ledgerJSON) error {
	err := u.answer(v, func(w io.Writer) {
		for i, r := range list {
			if i > 0 {
				fmt.Fprintln(w)
			}
			r.print(w)
		}
	})
	if err != nil {
		return err
	}
	return worst(list)
}

// worst turns the worst of what was found into the exit code.
func worst(list []*ledgerJSON) error {
	for _, worst := range []error{ledger.ErrForked, ledger.ErrShorter, auditor.ErrDamaged, auditor.ErrIncomplete} {
		if slices.ContainsFunc(list, func(r *ledgerJSON) bool { return errors.Is(r.verdict, worst) }) {
			code, _ := classify(worst)
			return &failure{err: errPartial, code: code}
		}
	}
	return nil
}

// verify checks all ledgers at once: one that stalls keeps no other from being read.
func (l *ledgers) verify(ctx context.Context, u *ui) ([]*ledgerJSON, error) {
	list := make([]*ledgerJSON, len(l.list))
	errs := make([]error, len(l.list))
	var done, size atomic.Int64
	ended := u.shown(func(took time.Duration) string {
		return fmt.Sprintf("ledger verify: %d of %s, %.0f s", done.Load(), plural(size.Load(), "entry"), took.Seconds())
	})
	var all sync.WaitGroup
	for i, e := range l.list {
		all.Go(func() {
			var own, total int64
			list[i], errs[i] = l.verifyOne(ctx, e, func(n, of uint64) {
				done.Add(int64(n) - own)
				size.Add(int64(of) - total)
				own, total = int64(n), int64(of)
			}, nil)
		})
	}
	all.Wait()
	ended()
	return list, errors.Join(errs...)
}

func (l *ledgers) verifyOne(ctx context.Context, e charter.Embassy, progress func(done, size uint64), act func(uint64, *ledger.Leaf)) (*ledgerJSON, error) {
	began := time.Now()
	src, err := l.source(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	defer src.close()
	opts := auditor.Options{Policy: l.policy, Charters: l.charters, Direct: l.from == "", Progress: progress, Act: act}
	if opts.Direct {
		opts.Now, opts.Fresh = began, l.charter.FreshFor()
	}
	var silent []string
	opts.Known, silent = l.seen(ctx, e)
	opts.Cosigned = src.cosigned()
	r, err := auditor.Verify(ctx, src, e.Log(), opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	a := ledgerFound(e, r)
	a.Silent, a.Seconds, a.unwitnessed = silent, time.Since(began).Seconds(), l.policy == nil
	return a, nil
}

func ledgerFound(e charter.Embassy, r *auditor.Report) *ledgerJSON {
	a := &ledgerJSON{
		Embassy: e.Name, Origin: e.Origin, Size: r.Checkpoint.Size, Checked: r.Entries, Tiles: r.Tiles, Acts: r.Acts,
		Held: []heldJSON{}, Findings: []ledgerFindingJSON{}, More: r.More, Complete: r.Complete, Why: r.Why, verdict: r.Verdict(),
	}
	a.Whole = a.verdict == nil
	if r.Checkpoint.Raw != nil {
		a.Root = fmt.Sprintf("%x", r.Checkpoint.Root)
	}
	if v := r.Cosigned; v.Checkpoint.Raw != nil {
		a.Cosigned = &cosignedJSON{Size: v.Checkpoint.Size, Enough: v.Enough, Groups: v.Groups}
		if !v.Time.IsZero() {
			t := v.Time.UTC()
			a.Cosigned.Time = &t
		}
	}
	for _, h := range r.Held {
		a.Held = append(a.Held, heldJSON{h.From, h.Size, h.Joined})
	}
	for _, f := range r.Findings {
		a.Findings = append(a.Findings, ledgerFindingJSON{string(f.Kind), f.Path, f.Index, f.Why, string(f.Blame), f.Proven})
	}
	return a
}

func (a *ledgerJSON) print(w io.Writer) {
	state := "whole"
	switch {
	case errors.Is(a.verdict, ledger.ErrForked):
		state = "TWO HISTORIES"
	case errors.Is(a.verdict, ledger.ErrShorter):
		state = "SHORTER THAN IT WAS"
	case errors.Is(a.verdict, auditor.ErrDamaged):
		state = "DAMAGED OR FORGED"
	case !a.Complete:
		state = "NOT WHOLLY CHECKED: " + a.Why
	case a.verdict != nil:
		state = "whole, but " + a.Findings[0].Kind
	}
	fmt.Fprintf(w, "%s: %s, %s: %s\n", a.Embassy, plural(a.Size, "entry"), tookText(a.Seconds), printable(state))
	if c := a.Cosigned; c != nil && c.Enough {
		line := fmt.Sprintf("  cosigned: %s, by %s", plural(c.Size, "entry"), strings.Join(c.Groups, ", "))
		if c.Time != nil {
			line += ", " + c.Time.Local().Format("2006-01-02 15:04:05")
		}
		fmt.Fprintln(w, line)
	} else if a.unwitnessed {
		fmt.Fprintln(w, "  cosigned: the charter asks for no witness")
	}
	var joined []string
	for _, h := range a.Held {
		if h.Joined && h.From != "cosigned" {
			joined = append(joined, fmt.Sprintf("%s (%d)", h.From, h.Size))
		}
	}
	if len(joined) > 0 {
		fmt.Fprintf(w, "  continues what was seen by %s\n", strings.Join(joined, ", "))
	}
	if len(a.Silent) > 0 {
		fmt.Fprintf(w, "  did not tell what they saw: %s\n", strings.Join(a.Silent, ", "))
	}
	for i, f := range a.Findings {
		if i == listed {
			fmt.Fprintf(w, "  … and %d more (--json lists them)\n", len(a.Findings)-listed+a.More)
			break
		}
		proof := ""
		if f.Proven {
			proof = ", proven by signatures"
		}
		fmt.Fprintf(w, "  %s: %s: entry %d: %s; to blame: %s%s\n", f.Kind, f.Path, f.Index, printable(f.Why), f.Blame, proof)
	}
}

func tookText(seconds float64) string { return fmt.Sprintf("%.1f s", seconds) }
