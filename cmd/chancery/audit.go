package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
)

// auditJSON is what the audits of one embassy came to.
type auditJSON struct {
	Embassy    string        `json:"embassy"`
	Outcome    string        `json:"outcome"` // the worst of its challenges'
	Why        string        `json:"why,omitempty"`
	LedgerSize uint64        `json:"ledger_size"`
	Challenges int           `json:"challenges"`
	Repeated   bool          `json:"repeated,omitempty"` // the first was one that it had not answered before
	Entries    uint64        `json:"entries"`
	Objects    uint64        `json:"objects"`
	Removed    uint64        `json:"removed"` // answered for by a leaf that says that an order had them removed
	Wrong      uint64        `json:"wrong"`
	Missing    uint64        `json:"missing"`
	Findings   []findingJSON `json:"findings,omitempty"`
	Lost       uint64        `json:"entries_lost"` // by this and earlier audits, and not shown since
	ReportedTo []string      `json:"reported_to,omitempty"`
	Seconds    float64       `json:"seconds"`

	outcome audit.Outcome
}

type findingJSON struct {
	Entry  uint64 `json:"entry"`
	Object string `json:"object,omitempty"`
	Leaf   uint32 `json:"leaf"`
	What   string `json:"what"`
}

const (
	// auditSample finds a loss of 1 % with 99 %: 1 - 0.99^460.
	auditSample   = 460
	auditDeadline = 2 * time.Minute
	auditPeriod   = 90 * 24 * time.Hour
)

// auditOptions are what an audit was asked for.
type auditOptions struct {
	embassies         []string
	sample            int
	full              bool
	deadline          time.Duration
	charter, identity string
}

func auditCommand(u *ui) *cobra.Command {
	o := &auditOptions{}
	c := &cobra.Command{
		Use: "audit", Short: "Have embassies show that they still hold what they receipted", Args: cobra.NoArgs,
		Long: "Asks each embassy for random leaves of random objects of its ledger and checks them against their names: no key\n" +
			"is needed, and next to nothing is fetched. What is asked follows from the embassy's cosigned checkpoint and from\n" +
			"chance, so that nobody knows it before; the embassy signs its answer, and the report goes into the ledgers of all.\n" +
			"460 leaves find a loss of 1 % with 99 %. With --full every object shows one leaf.\n\n" +
			"An auditor who is not home takes the state's charter (its signature beside it, CHARTER.sig) and the private key\n" +
			"that the charter names; the reports then stay with the auditor.\n\n" +
			"Exit 0 when all is shown, 6 when an embassy showed wrong bytes or lost something, 3 when one was late or offline,\n" +
			"or when nothing can be said.",
		Example: "  chancery audit --embassy lu --home HOME\n  chancery audit --full --charter charter.yaml --identity auditor.key",
	}
	dir := homeFlag(c)
	c.Flags().StringArrayVar(&o.embassies, "embassy", nil, "audit this embassy only; may be given again")
	c.Flags().IntVar(&o.sample, "sample", auditSample, "how many objects to ask for")
	c.Flags().BoolVar(&o.full, "full", false, "ask for every object")
	c.Flags().DurationVar(&o.deadline, "deadline", auditDeadline, "how long an answer may take")
	c.Flags().StringVar(&o.charter, "charter", "", "instead of a home: the state's charter")
	c.Flags().StringVar(&o.identity, "identity", "", "with --charter: the auditor's private key")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.check(c); err != nil {
			return usageError(c, err)
		}
		a, err := newAuditing(*dir, o)
		if err != nil {
			return err
		}
		defer a.close()
		chosen, err := a.chosen(o.embassies)
		if err != nil {
			return err
		}
		if a.conn != nil {
			ctx, cancel := context.WithTimeout(c.Context(), o.deadline) // of one that is silent the audit tells
			err := a.conn.watch(ctx)
			cancel()
			if err != nil {
				return err
			}
		}
		answers := make([]auditJSON, len(chosen))
		var all sync.WaitGroup
		for i, e := range chosen {
			all.Go(func() { answers[i] = a.audit(c.Context(), e, o) })
		}
		all.Wait()
		if err := c.Context().Err(); err != nil {
			return err
		}
		if err := u.answer(answers, func(w io.Writer) { printAudits(w, u, answers, a.conn == nil) }); err != nil {
			return err
		}
		return errors.Join(auditVerdict(answers), a.failed)
	}
	return c
}

// check refuses options that do not go together.
func (o *auditOptions) check(c *cobra.Command) error {
	switch set := c.Flags().Changed; {
	case o.sample < 1 || o.sample > audit.MaxEntries:
		return fmt.Errorf("--sample: %d is not 1 to %d", o.sample, audit.MaxEntries)
	case o.deadline <= 0:
		return errors.New("--deadline: must be more than nothing")
	case o.full && set("sample"):
		return errors.New("either --full or --sample")
	case (o.charter == "") != (o.identity == ""):
		return errors.New("--charter and --identity go together")
	case o.charter != "" && set("home"):
		return errors.New("either --home or --charter")
	}
	return nil
}

// chosen are the embassies named, or all.
func (a *auditing) chosen(names []string) ([]charter.Embassy, error) {
	if len(names) == 0 {
		if len(a.charter.Embassies) == 0 {
			return nil, &failure{err: errors.New("the charter has no embassy"), code: exitNotFound, hint: "chancery embassy accredit --help"}
		}
		return a.charter.Embassies, nil
	}
	var out []charter.Embassy
	for _, n := range names {
		e, err := accredited(a.charter, n)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// auditVerdict is the exit code: what was lost before what is not known.
func auditVerdict(answers []auditJSON) error {
	worst := audit.OK
	for _, x := range answers {
		worst = worse(worst, x.outcome)
		if x.Lost > 0 {
			worst = worse(worst, audit.Missing)
		}
	}
	switch worst {
	case audit.OK:
		return nil
	case audit.Wrong, audit.Missing:
		return &failure{err: errPartial, code: exitDamaged}
	}
	return &failure{err: errPartial, code: exitPartial}
}

// worse is the outcome that weighs more.
func worse(a, b audit.Outcome) audit.Outcome {
	weight := func(o audit.Outcome) int {
		switch o {
		case audit.OK:
			return 0
		case audit.Wrong:
			return 5
		case audit.Missing:
			return 4
		case audit.Late:
			return 3
		case audit.Offline:
			return 2
		}
		return 1
	}
	if weight(b) > weight(a) {
		return b
	}
	return a
}

func printAudits(w io.Writer, u *ui, answers []auditJSON, outside bool) {
	var rows [][]string
	for _, x := range answers {
		lost := "none"
		if x.Wrong+x.Missing > 0 {
			lost = fmt.Sprintf("%d wrong, %d missing", x.Wrong, x.Missing)
		}
		rows = append(rows, []string{x.Embassy, x.Outcome, fmt.Sprint(x.Objects), lost, fmt.Sprint(x.LedgerSize), fmt.Sprintf("%.1fs", x.Seconds), x.Why})
	}
	table(w, "EMBASSY OUTCOME ASKED LOST LEDGER TOOK WHY", rows)
	for _, x := range answers {
		if len(x.Findings) == 0 {
			continue
		}
		u.note("%s did not show:", x.Embassy)
		var lines []string
		for _, f := range x.Findings {
			lines = append(lines, fmt.Sprintf("entry %d: object %s, leaf %d: %s", f.Entry, f.Object, f.Leaf, f.What))
		}
		u.list(lines, int(x.Wrong+x.Missing))
	}
	if hint := auditHint(answers, outside); hint != "" {
		u.note("hint: %s", hint)
	}
}

// auditHint is the command that helps with the worst outcome. outside is for an auditor who is not home.
func auditHint(answers []auditJSON, outside bool) string {
	worst, at := audit.OK, ""
	for _, x := range answers {
		if w := worse(worst, x.outcome); w != worst {
			worst, at = w, x.Embassy
		}
	}
	switch {
	case worst == audit.OK:
		return ""
	case outside && worst == audit.Unknown:
		return "take the newest charter, and the private key of an auditor that it names: --charter CHARTER --identity KEY"
	case outside && (worst == audit.Wrong || worst == audit.Missing):
		return "tell the state: it repairs, and keeps reports of its own as evidence (chancery audit --home HOME)"
	}
	switch worst {
	case audit.Wrong, audit.Missing:
		return "chancery repair, then audit again; the report is evidence, and stays in the ledgers: see docs/operating.md"
	case audit.Unknown:
		return "chancery agent run --once, so that home cosigns; then audit again"
	}
	return "chancery audit --embassy " + at + ", which asks the same again"
}

// newAuditing opens a home, or a charter with an auditor's key.
func newAuditing(dir string, o *auditOptions) (*auditing, error) {
	if o.charter == "" {
		conn, err := connect(dir, false)
		if err != nil {
			return nil, err
		}
		a, err := conn.auditing(o.deadline)
		if err != nil {
			conn.close()
			return nil, err
		}
		a.ends = append(a.ends, conn.close)
		return a, nil
	}
	doc, err := os.ReadFile(o.charter)
	if err != nil {
		return nil, err
	}
	sig, err := os.ReadFile(o.charter + ".sig")
	if err != nil {
		return nil, hinted(err, "the charter's signature belongs beside it: "+o.charter+".sig")
	}
	ch, err := charter.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.charter, err)
	}
	if err := ch.Verify(sig); err != nil {
		return nil, fmt.Errorf("%s: %w", o.charter, err)
	}
	key, err := readIdentity(o.identity)
	if err != nil {
		return nil, err
	}
	policy, err := ch.Policy()
	if err != nil {
		return nil, err
	}
	a := &auditing{charter: ch, policy: policy, key: key, deadline: o.deadline, slots: map[slotOf]uint64{}, down: map[charter.EmbassyID]bool{}}
	clients := map[charter.EmbassyID]*embassy.Client{}
	for _, e := range ch.Embassies {
		x := dial(e, ch.State.ID, key)
		clients[e.ID] = x
		a.ends = append(a.ends, x.Close)
	}
	a.client = func(e charter.Embassy) *embassy.Client { return clients[e.ID] }
	return a, nil
}

// auditing makes an auditor of home. It holds the folder of audits until close, so that two audits do not forget what
// the other found: durable.ErrLocked.
func (c *connection) auditing(deadline time.Duration) (*auditing, error) {
	policy, err := c.home.Charter.Policy()
	if err != nil {
		return nil, err
	}
	unlock, err := c.lockAudits()
	if err != nil {
		return nil, err
	}
	for _, e := range c.home.Charter.Embassies {
		c.client(e) // made here, so that they are only read later
	}
	return &auditing{
		charter: c.home.Charter, policy: policy, key: c.key, deadline: deadline, conn: c, client: c.client,
		slots: map[slotOf]uint64{}, down: map[charter.EmbassyID]bool{}, ends: []func(){unlock},
	}, nil
}

func (c *connection) lockAudits() (unlock func(), err error) {
	dir := filepath.Join(c.home.Dir, "audits")
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return durable.Lock(filepath.Join(dir, ".lock"))
}

// add takes the findings of one challenge into the answer.
func (x *auditJSON) add(run *audit.Run) {
	x.Challenges++
	x.Seconds += run.Took.Seconds()
	if w := worse(x.outcome, run.Outcome); w != x.outcome || x.Challenges == 1 {
		x.outcome, x.Why = w, run.Why
	}
	x.Outcome = x.outcome.String()
	if run.Result == nil {
		return
	}
	x.Entries += run.Result.Checked
	x.Objects += run.Result.Objects
	x.Removed += run.Result.Removed
	x.Wrong += uint64(len(run.Result.Wrong))
	x.Missing += uint64(len(run.Result.Missing))
	for _, list := range [][]audit.Finding{run.Result.Wrong, run.Result.Missing} {
		for _, f := range list[:min(len(list), max(0, audit.MaxFindings-len(x.Findings)))] {
			j := findingJSON{Entry: f.Index, Leaf: f.Leaf, What: f.What.String()}
			if f.Name != [32]byte{} {
				j.Object = hex.EncodeToString(f.Name[:])
			}
			x.Findings = append(x.Findings, j)
		}
	}
}
