package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
)

// agentJSON is one round of the agent.
type agentJSON struct {
	Time       time.Time       `json:"time"`
	Ledgers    []witnessedJSON `json:"ledgers"`
	WitnessWhy string          `json:"witness_why,omitempty"` // why home did not witness
	Audits     []auditJSON     `json:"audits"`
	Well       bool            `json:"well"`
	notes      []string        // of what home could not note
}

// agentEvery is between two rounds: often enough for a cosignature to stay fresh, seldom enough to cost nothing.
const agentEvery = 10 * time.Minute

func agentCommand(u *ui) *cobra.Command {
	return noun("agent", "Watch over the embassies from home",
		"  chancery agent run --once --home HOME", agentRun(u))
}

func agentRun(u *ui) *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use: "run", Short: "Cosign the ledgers, audit the embassies and take logs abroad, again and again", Args: cobra.NoArgs,
		Long: "Every ten minutes: as home's witness, holds each embassy's ledger against what home saw before, cosigns it, and\n" +
			"brings the cosignature back; and audits a part of it, so that every object has shown a leaf within 90 days. A late\n" +
			"answer is asked for again, by the same challenge. Findings go to standard error. Beside that it takes the logs of all\n" +
			"registers that are PostgreSQL clusters to the embassies, as pg stream does, unless that runs.\n\n" +
			"With --once, for a timer: one round, and exit 0 when all is well, 3 when something needs a person, 6 when an\n" +
			"embassy lost something or showed wrong bytes, 7 when a ledger was put back or forked.",
		Example: "  chancery agent run --once --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().BoolVar(&once, "once", false, "one round, and say how it went")
	c.RunE = func(c *cobra.Command, _ []string) error {
		told := map[string]bool{}
		streams := &streamKeeper{ui: u, dir: *dir}
		defer streams.end()
		for {
			var streamed error
			if !once { // first, for a round takes its time
				streamed = streams.round(c.Context())
			}
			a, err := agentRound(c.Context(), *dir)
			if err != nil && (once || c.Context().Err() == nil && classifiedUsage(err)) {
				return err
			}
			if c.Context().Err() != nil {
				break
			}
			lines := a.findings()
			if err != nil {
				lines = append(lines, err.Error())
			}
			if streamed != nil {
				lines = append(lines, streamed.Error())
			}
			told = u.tell(lines, told)
			if once {
				return errors.Join(u.answer(a, a.print), a.verdict())
			}
			if err := u.answer(a, a.print); err != nil {
				return err
			}
			select {
			case <-c.Context().Done():
			case <-time.After(agentEvery):
			}
		}
		if once {
			return c.Context().Err()
		}
		return nil // a daemon that was told to end has not failed
	}
	return c
}

// classifiedUsage tells whether a round can never succeed: there is no home.
func classifiedUsage(err error) bool {
	code, _ := classify(err)
	return code == exitUsage || code == exitNotFound
}

// tell says what was not said in the round before.
func (u *ui) tell(lines []string, before map[string]bool) (now map[string]bool) {
	now = map[string]bool{}
	for _, l := range lines {
		if !before[l] && !now[l] {
			u.note("%s", printable(l))
		}
		now[l] = true
	}
	return now
}

// agentRound does everything once. The home is opened each time: the charter may have changed.
func agentRound(ctx context.Context, dir string) (*agentJSON, error) {
	out := &agentJSON{Time: time.Now().UTC(), Ledgers: []witnessedJSON{}, Audits: []auditJSON{}}
	conn, err := connect(dir, false)
	if err != nil {
		return out, err
	}
	defer conn.close()
	round, err := witnessRound(ctx, conn)
	if round != nil {
		out.Ledgers = round
	}
	if err != nil {
		out.WitnessWhy = err.Error()
	}
	names, err := conn.home.Registers()
	if err != nil {
		return out, err
	}
	out.notes = conn.note(ctx, names...)
	a, err := conn.auditing(auditDeadline)
	if err != nil {
		return out, err
	}
	defer a.close()
	out.Audits = make([]auditJSON, len(a.charter.Embassies))
	var all sync.WaitGroup
	for i, e := range a.charter.Embassies {
		all.Go(func() { out.Audits[i] = a.cover(ctx, e) })
	}
	all.Wait()
	out.Well = out.WitnessWhy == "" && len(out.notes) == 0 &&
		!slices.ContainsFunc(out.Ledgers, func(l witnessedJSON) bool { return l.State != ledgerCosigned }) &&
		!slices.ContainsFunc(out.Audits, func(x auditJSON) bool { return x.outcome != audit.OK || x.Lost > 0 })
	return out, a.failed
}

// cover audits what is due of one embassy, as much as keeps pace: as much of the ledger as the time since the last audit
// is of half the period.
func (a *auditing) cover(ctx context.Context, e charter.Embassy) (x auditJSON) {
	x = auditJSON{Embassy: e.Name, outcome: audit.OK, Outcome: audit.OK.String()}
	defer func() { x.Lost = a.lost(e) }()
	v, ok := a.begin(ctx, e, &x)
	if !ok {
		return x
	}
	size := v.Checkpoint.Size
	left := uint64(0)
	for first := true; ctx.Err() == nil; first = false {
		var from, to uint64
		err := a.conn.coverage(e.Name, func(c *audit.Coverage) {
			if first {
				left = pace(size, c.Newest(), time.Now())
			}
			from, to = c.Next(size, time.Now(), auditPeriod, min(left, rangeEntries))
		})
		if err != nil || from >= to {
			a.fail(err)
			return x
		}
		left -= to - from
		switch a.ask(ctx, e, audit.NewRange(a.charter.State.ID, e.ID, v.Checkpoint.Raw, nonce(), from, to), &x) {
		case audit.Late, audit.Offline, audit.Unknown:
			return x
		}
		if x.outcome == audit.Wrong && len(x.Findings) == 0 {
			return x // an answer that is none: the same is asked in the next round
		}
	}
	return x
}

// pace is how many entries a round audits at most.
func pace(size uint64, last, now time.Time) uint64 {
	since := 24 * time.Hour
	if !last.IsZero() {
		since = min(max(0, now.Sub(last)), auditPeriod/2)
	}
	return max(rangeEntries, uint64(float64(size)*float64(since)/float64(auditPeriod/2)))
}

// findings are what a person should read.
func (a *agentJSON) findings() (lines []string) {
	if a.WitnessWhy != "" {
		lines = append(lines, "home did not witness: "+a.WitnessWhy)
	}
	lines = append(lines, a.notes...)
	for _, l := range a.Ledgers {
		switch l.State {
		case ledgerCosigned:
		case ledgerForked:
			lines = append(lines, fmt.Sprintf("%s: ITS LEDGER IS NOT THE ONE THAT HOME KNOWS: %s", l.Embassy, l.Why))
		default:
			lines = append(lines, fmt.Sprintf("%s: ledger not cosigned by home (%s): %s", l.Embassy, l.State, l.Why))
		}
	}
	for _, x := range a.Audits {
		switch x.outcome {
		case audit.OK:
			if x.Lost > 0 {
				lines = append(lines, fmt.Sprintf("%s: audits found %s lost: chancery repair, then chancery audit --embassy %s", x.Embassy, plural(x.Lost, "entry"), x.Embassy))
			}
		case audit.Wrong, audit.Missing:
			lines = append(lines, fmt.Sprintf("%s: audit %s: %d wrong, %d missing %s", x.Embassy, x.Outcome, x.Wrong, x.Missing, x.Why))
		default:
			lines = append(lines, fmt.Sprintf("%s: audit %s: %s", x.Embassy, x.Outcome, x.Why))
		}
	}
	return lines
}

func (a *agentJSON) print(w io.Writer) {
	cosigned, entries, objects := 0, uint64(0), uint64(0)
	for _, l := range a.Ledgers {
		if l.State == ledgerCosigned {
			cosigned++
		}
	}
	for _, x := range a.Audits {
		entries, objects = entries+x.Entries, objects+x.Objects
	}
	how := "all well"
	if !a.Well {
		how = "NOT WELL"
	}
	fmt.Fprintf(w, "%s %s: %d of %s cosigned; %s audited, %s shown or asked for\n", a.Time.Format(time.RFC3339), how,
		cosigned, plural(len(a.Audits), "ledger"), plural(entries, "entry"), plural(objects, "object"))
}

// verdict is the exit code of one round.
func (a *agentJSON) verdict() error {
	forked := slices.ContainsFunc(a.Ledgers, func(l witnessedJSON) bool { return l.State == ledgerForked })
	if forked {
		return &failure{err: errPartial, code: exitForked}
	}
	if err := auditVerdict(a.Audits); err != nil || a.Well {
		return err
	}
	return &failure{err: errPartial, code: exitPartial}
}
