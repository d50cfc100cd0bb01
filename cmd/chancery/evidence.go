package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
)

func evidenceCommand(u *ui) *cobra.Command {
	return noun("evidence", "Make a file that proves what happened to a third party, and judge one", "  chancery evidence export --out case.evidence --home HOME",
		evidenceExport(u), evidenceVerify(u), evidenceWithhold(u))
}

// evidenceFileJSON is the answer of evidence export and evidence withhold.
type evidenceFileJSON struct {
	File    string               `json:"file"`
	SHA256  string               `json:"sha256"`
	Bytes   int64                `json:"bytes"`
	Ledgers []evidenceLedgerJSON `json:"ledgers"`
	Records int                  `json:"records"`
	Down    []downJSON           `json:"embassies_down,omitempty"`
}

// evidenceLedgerJSON is how much of one ledger a file shows.
type evidenceLedgerJSON struct {
	Embassy     string `json:"embassy"`
	From        uint64 `json:"from"`
	To          uint64 `json:"to"`
	Withheld    int    `json:"withheld"`
	Checkpoints int    `json:"checkpoints"`
}

// kinds of leaves that can be withheld.
var withholdable = []string{"object", "head", "register", "charter", "delivery", "audit", "scrub", "removed", "order", "veto", "result", "agreement", "attestation"}

func kindOfLeaf(l *ledger.Leaf) string {
	switch l.Kind {
	case ledger.ObjectStored:
		return "object"
	case ledger.CharterTaken:
		return "charter"
	case ledger.ObjectRemoved, ledger.RecordRemoved:
		return "removed"
	}
	return l.Slot.Kind.String()
}

func evidenceExport(u *ui) *cobra.Command {
	var since string
	var registers, embassies, withhold []string
	c := &cobra.Command{
		Use: "export", Short: "Write what the embassies' ledgers prove into one file", Args: cobra.NoArgs,
		Long: "Collects leaves, checkpoints, cosignatures, signed documents and charters from the embassies, from what they saw of\n" +
			"one another, and from what home kept, into one file that anyone can judge offline. --register keeps the documents of\n" +
			"other registers out, and withholds their leaves; --withhold leaves out kinds of leaves (object, head, register,\n" +
			"charter, delivery, audit, scrub, removed, order, veto, result, agreement, attestation). What is withheld can be missed and not forged: its hash stays. Exit 3 when an\n" +
			"embassy could not be asked.",
		Example: "  chancery evidence export --since 2026-05-01T00:00:00Z --register land --out case.evidence --home HOME",
	}
	dir := homeFlag(c)
	out := outFlag(c, "the file to write")
	fl := c.Flags()
	fl.StringVar(&since, "since", "", "leave out the leaves before this time (RFC 3339), by the embassies' clocks")
	fl.StringArrayVar(&registers, "register", nil, "only this register's documents; once for each")
	fl.StringArrayVar(&embassies, "embassy", nil, "only this embassy's ledger; once for each")
	fl.StringSliceVar(&withhold, "withhold", nil, "a kind of leaves to withhold; once for each, or with commas")
	c.RunE = func(c *cobra.Command, _ []string) error {
		x := &collector{}
		if since != "" {
			var err error
			if x.since, err = time.Parse(time.RFC3339, since); err != nil {
				return usageError(c, fmt.Errorf("--since %q: want a time like 2026-05-01T00:00:00Z", since))
			}
		}
		for _, k := range withhold {
			if !slices.Contains(withholdable, k) {
				return usageError(c, fmt.Errorf("--withhold %q: want one of %s", k, strings.Join(withholdable, ", ")))
			}
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		x.connection = conn
		for _, name := range embassies {
			if _, err := accredited(conn.home.Charter, name); err != nil {
				return err
			}
		}
		p, down, err := x.collect(c.Context(), registers, embassies)
		if err != nil {
			return err
		}
		p.Withhold(func(_ string, _ uint64, l *ledger.Leaf) bool {
			return slices.Contains(withhold, kindOfLeaf(l)) || x.ofAnother(l)
		})
		return u.evidenceFile(*out, p, down)
	}
	return c
}

// evidenceFile writes a pack and says what is in it.
func (u *ui) evidenceFile(out string, p *evidence.Pack, down []downJSON) error {
	a := evidenceFileJSON{File: out, Records: len(p.Records), Ledgers: []evidenceLedgerJSON{}, Down: down}
	var err error
	if a.SHA256, a.Bytes, err = writeFile(out, func(w io.Writer) error { return evidence.Write(w, p) }); err != nil {
		return err
	}
	for i := range p.Ledgers {
		l := &p.Ledgers[i]
		a.Ledgers = append(a.Ledgers, evidenceLedgerJSON{l.Name, l.From, l.To(), l.Withheld(), len(l.Checkpoints)})
	}
	err = u.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "%s, %s\nSHA-256 %s\n\n", out, size(a.Bytes), a.SHA256)
		var rows [][]string
		for _, l := range a.Ledgers {
			rows = append(rows, []string{l.Embassy, fmt.Sprintf("%d to %d", l.From, l.To), fmt.Sprint(l.Withheld), fmt.Sprint(l.Checkpoints)})
		}
		table(w, "EMBASSY LEAVES WITHHELD CHECKPOINTS", rows)
		for _, d := range a.Down {
			fmt.Fprintf(w, "without %s: %s\n", d.Embassy, printable(d.Why))
		}
	})
	if err == nil && len(down) > 0 {
		err = &failure{err: errPartial, code: exitPartial}
	}
	return err
}

func readEvidence(path string) (*evidence.Pack, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err := evidence.Read(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func evidenceVerify(u *ui) *cobra.Command {
	var path, page string
	var texts []string
	c := &cobra.Command{
		Use: "verify FILE", Short: "Judge an evidence file, offline and without a key", Args: cobra.ExactArgs(1),
		Long: "Checks everything in the file and says of each claim whether it is held, broken and by whom, or unknown. Without\n" +
			"--claim it judges what the file's content suggests; docs/spec/evidence.md lists the claims that can be put. Without\n" +
			"--charter it trusts the first charter in the file, and says so: compare the fingerprint with the state's people.\n" +
			"Exit 0 when all claims are held, 3 when one is unknown, 6 when one is broken, 7 when that is a ledger's history.",
		Example: "  chancery evidence verify case.evidence --charter charter.yaml --html case.html\n" +
			"  chancery evidence verify case.evidence --claim one-history:lu",
	}
	fl := c.Flags()
	fl.StringVar(&path, "charter", "", "a charter of the state that you trust")
	fl.StringArrayVar(&texts, "claim", nil, "a claim to judge; once for each")
	fl.StringVar(&page, "html", "", "also write a page for people into this file; it must not exist")
	c.RunE = func(c *cobra.Command, args []string) error {
		var claims []evidence.Claim
		for _, t := range texts {
			claim, err := evidence.ParseClaim(t)
			if err != nil {
				return usageError(c, err)
			}
			claims = append(claims, claim)
		}
		var trusted *charter.Charter
		if path != "" {
			var err error
			if trusted, err = readCharter(path, u); err != nil {
				return err
			}
		}
		p, err := readEvidence(args[0])
		if err != nil {
			return err
		}
		v, err := evidence.Judge(p, claims, trusted)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if page != "" {
			if _, _, err := writeFile(page, func(w io.Writer) error { return evidence.HTML(w, v) }); err != nil {
				return err
			}
		}
		if err := u.answer(v, func(w io.Writer) { printVerdict(w, v) }); err != nil {
			return err
		}
		return verdictCode(v)
	}
	return c
}

func verdictCode(v *evidence.Verdict) error {
	code := exitDone
	for _, f := range v.Findings {
		switch {
		case f.Outcome == evidence.Broken && strings.HasPrefix(f.Claim, string(evidence.OneHistory)+":"):
			return &failure{err: errPartial, code: exitForked}
		case f.Outcome == evidence.Broken:
			code = exitDamaged
		case f.Outcome == evidence.Unknown && code == exitDone:
			code = exitPartial
		}
	}
	if code == exitDone {
		return nil
	}
	return &failure{err: errPartial, code: code}
}

func printVerdict(w io.Writer, v *evidence.Verdict) {
	fmt.Fprintf(w, "%s; the file says it was made %s\ntrust rests on %s\n\n", printable(v.StateName), v.Made.Format(time.RFC3339), printable(v.Trust))
	var rows [][]string
	for _, l := range v.Ledgers {
		cosigned := "not by enough"
		if len(l.Groups) > 0 {
			cosigned = fmt.Sprintf("%d by %s", l.Cosigned, strings.Join(l.Groups, ","))
		}
		rows = append(rows, []string{l.Embassy, fmt.Sprintf("%d to %d", l.From, l.To), fmt.Sprint(l.Withheld), fmt.Sprint(l.Proven), cosigned})
	}
	table(w, "EMBASSY LEAVES WITHHELD SIGNED COSIGNED", rows)
	fmt.Fprintln(w)
	for _, f := range v.Findings {
		by := ""
		for _, p := range f.By {
			by += " by " + p.String()
		}
		fmt.Fprintf(w, "%-8s%s%s\n", f.Outcome, f.Claim, printable(by))
		for _, line := range f.Because {
			fmt.Fprintf(w, "        %s\n", printable(line))
		}
		for _, line := range f.Open {
			fmt.Fprintf(w, "        not known: %s\n", printable(line))
		}
	}
	for _, line := range v.Problems {
		fmt.Fprintf(w, "counts for nothing: %s\n", printable(line))
	}
}

func evidenceWithhold(u *ui) *cobra.Command {
	var name string
	var indexes []uint
	c := &cobra.Command{
		Use: "withhold FILE", Short: "Write an evidence file again without some leaves", Args: cobra.ExactArgs(1),
		Long: "Writes the file again with the hash alone of the leaves named, and without the documents that only they name. All\n" +
			"other proofs hold as before, and whoever judges the file is told how many leaves are withheld.",
		Example: "  chancery evidence withhold case.evidence --ledger lu --index 17 --index 18 --out public.evidence",
	}
	out := outFlag(c, "the file to write")
	fl := c.Flags()
	fl.StringVar(&name, "ledger", "", "the embassy whose leaves are withheld")
	fl.UintSliceVar(&indexes, "index", nil, "a leaf's index; once for each, or with commas")
	required(c, "ledger", "index")
	c.RunE = func(_ *cobra.Command, args []string) error {
		p, err := readEvidence(args[0])
		if err != nil {
			return err
		}
		done := map[uint]bool{}
		p.Withhold(func(l string, index uint64, _ *ledger.Leaf) bool {
			yes := l == name && slices.Contains(indexes, uint(index))
			done[uint(index)] = done[uint(index)] || yes
			return yes
		})
		for _, i := range indexes {
			if !done[i] {
				return &failure{err: fmt.Errorf("%s shows no leaf %d of %s", args[0], i, printable(name)), code: exitNotFound, hint: "chancery evidence verify " + args[0]}
			}
		}
		return u.evidenceFile(*out, p, nil)
	}
	return c
}
