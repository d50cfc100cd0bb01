package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
)

// trustJSON is what home knows of an embassy's word without taking its word: who cosigns its ledger, and what audits of
// it found. What the embassy says of itself stands beside it.
type trustJSON struct {
	Embassy      string     `json:"embassy"`
	Cosigned     bool       `json:"cosigned"` // enough witnesses, and of late
	CosignedSize uint64     `json:"cosigned_size"`
	CosignedTime *time.Time `json:"cosigned_time,omitempty"`
	Coverage     float64    `json:"audit_coverage"` // of the last 90 days, 0 to 1
	Audited      *time.Time `json:"audited,omitempty"`
	Behind       uint64     `json:"entries_behind"`
	Lost         uint64     `json:"entries_lost"`
	Unanswered   bool       `json:"audit_unanswered"`
	Scrubbed     *time.Time `json:"scrubbed,omitempty"`
	ScrubChecked uint64     `json:"scrub_checked"`
	ScrubDamaged uint64     `json:"scrub_damaged"`
	Frozen       []string   `json:"frozen,omitempty"`     // ledgers that it does not cosign, by embassy
	RefusedBy    []string   `json:"refused_by,omitempty"` // witnesses that refuse its ledger
	Why          []string   `json:"why,omitempty"`        // what asks for a person
}

// trust asks all embassies at once. The answer is in the charter's order.
func (c *connection) trust(ctx context.Context) ([]trustJSON, error) {
	policy, policyErr := c.home.Charter.Policy()
	out := make([]trustJSON, len(c.home.Charter.Embassies))
	var all sync.WaitGroup
	for i, e := range c.home.Charter.Embassies {
		out[i].Embassy = e.Name
		client := c.client(e)
		all.Go(func() {
			out[i].own(ctx, client, c.home.Charter)
			if policyErr != nil {
				out[i].Why = append(out[i].Why, policyErr.Error())
				return
			}
			out[i].cosigned(ctx, client, e.Log(), policy, c.home.Charter.FreshFor())
		})
	}
	all.Wait()
	now := time.Now()
	for i, e := range c.home.Charter.Embassies {
		if err := c.audited(&out[i], e, now); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// own takes what the embassy says of itself. That it is down is said elsewhere.
func (t *trustJSON) own(ctx context.Context, x *embassy.Client, ch *charter.Charter) {
	st, err := x.Status(ctx)
	if err != nil {
		return
	}
	if s := st.Scrub; s != nil {
		t.ScrubChecked, t.ScrubDamaged = s.Checked, s.Damaged
		if !s.Ended.IsZero() {
			t.Scrubbed = &s.Ended
		}
		if s.Damaged > 0 {
			t.Why = append(t.Why, fmt.Sprintf("its own scrub finds %s damaged: chancery repair", plural(s.Damaged, "object")))
		}
	}
	if st.Witness == nil {
		return
	}
	for _, origin := range st.Witness.Frozen {
		i := slices.IndexFunc(ch.Embassies, func(e charter.Embassy) bool { return e.Origin == origin })
		if i >= 0 {
			t.Frozen = append(t.Frozen, ch.Embassies[i].Name)
		}
	}
	if st.Witness.LacksKey {
		t.Why = append(t.Why, "the charter names an ML-DSA-44 key that it does not have, so nothing that it cosigns counts: "+
			"its operator puts mldsa.seed back, or chancery embassy accredit takes the key that it has")
	}
	for _, r := range st.Witness.RefusedBy {
		t.RefusedBy = append(t.RefusedBy, r.By)
		t.Why = append(t.Why, fmt.Sprintf("%s does not cosign its ledger, having seen %s: %s", r.By, plural(r.Size, "entry"), r.Why))
	}
}

// cosigning is how long a ledger that is new, or has new witnesses, is given to be cosigned. It takes about a second, on
// machines that are busy many.
const cosigning = 30 * time.Second

// cosigned judges the newest cosigned checkpoint that it shows.
func (t *trustJSON) cosigned(ctx context.Context, x *embassy.Client, l ledger.Log, policy *ledger.Policy, fresh time.Duration) {
	err := onceCosigned(ctx, func() error { return t.newestCosigned(ctx, x, l, policy, fresh) })
	if errors.Is(err, embassy.ErrUnreachable) {
		return
	}
	if t.Cosigned = err == nil; !t.Cosigned {
		t.Why = append(t.Why, err.Error()+": chancery agent run --once")
	}
}

// onceCosigned asks for a cosigned checkpoint, and again while there is none, for as long as one may take to come about.
func onceCosigned(ctx context.Context, ask func() error) error {
	end := time.Now().Add(cosigning)
	for {
		err := ask()
		if !errors.Is(err, audit.ErrNotCosigned) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (t *trustJSON) newestCosigned(ctx context.Context, x *embassy.Client, l ledger.Log, policy *ledger.Policy, fresh time.Duration) error {
	raw, err := x.Cosigned(ctx)
	if errors.Is(err, embassy.ErrNotFound) {
		return audit.ErrNotCosigned
	}
	if err != nil {
		return err
	}
	v, err := audit.Trusted(raw, l, policy, time.Now(), fresh)
	t.CosignedSize = v.Checkpoint.Size
	if !v.Time.IsZero() {
		t.CosignedTime = &v.Time
	}
	return err
}

// audited takes what home knows of its audits.
func (c *connection) audited(t *trustJSON, e charter.Embassy, now time.Time) error {
	data, err := c.home.Audit(e.Name)
	if err != nil {
		return err
	}
	cov, err := audit.ParseCoverage(data)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	pending, err := c.home.PendingAudit(e.Name)
	if err != nil {
		return err
	}
	if len(data) == 0 && t.CosignedSize > 0 {
		c.beginCoverage(e.Name, t.CosignedSize, now)
	}
	t.Coverage = cov.Share(max(t.CosignedSize, cov.Size()), now, auditPeriod)
	t.Behind, t.Lost, t.Unanswered = cov.Behind(now, auditPeriod), cov.Lost(), pending != nil && !c.auditsBusy()
	if at := cov.Newest(); !at.IsZero() {
		t.Audited = &at
	}
	if t.Lost > 0 {
		t.Why = append(t.Why, fmt.Sprintf("audits found %s lost: chancery repair, then chancery audit --embassy %s", plural(t.Lost, "entry"), e.Name))
	}
	if t.Behind > 0 {
		t.Why = append(t.Why, fmt.Sprintf("%s not audited for 90 days: chancery agent run", plural(t.Behind, "entry")))
	}
	if t.Unanswered {
		t.Why = append(t.Why, "it has not answered an audit: chancery audit --embassy "+e.Name)
	}
	return nil
}

// beginCoverage lets the 90 days begin, although no audit has been made yet. If an audit is at work, that does it.
func (c *connection) beginCoverage(name string, size uint64, now time.Time) {
	unlock, err := c.lockAudits()
	if err != nil {
		return
	}
	defer unlock()
	_ = c.coverage(name, func(cov *audit.Coverage) { cov.Grow(size, now) }) // the next look does it otherwise
}

// auditsBusy tells whether an audit is at work, whose challenges are not unanswered yet.
func (c *connection) auditsBusy() bool {
	unlock, err := c.lockAudits()
	if err != nil {
		return errors.Is(err, durable.ErrLocked)
	}
	unlock()
	return false
}

// printTrust writes a table beside that of status.
func printTrust(w io.Writer, list []trustJSON) {
	var rows [][]string
	for _, t := range list {
		cosigned, audited, scrub := "no", "never", "none yet"
		if t.Cosigned {
			cosigned = fmt.Sprint(t.CosignedSize)
		}
		if t.CosignedTime != nil {
			cosigned += ", " + age(time.Since(*t.CosignedTime)) + " ago"
		}
		if t.Audited != nil {
			audited = fmt.Sprintf("%.0f%%, %s ago", 100*t.Coverage, age(time.Since(*t.Audited)))
		}
		if t.ScrubChecked > 0 {
			scrub = fmt.Sprintf("%d of %d damaged", t.ScrubDamaged, t.ScrubChecked)
		}
		state := strings.Join(t.Why, "; ")
		if state == "" {
			state = "well"
		}
		rows = append(rows, []string{t.Embassy, cosigned, audited, scrub, state})
	}
	table(w, "EMBASSY COSIGNED AUDITED SCRUBBED TRUST", rows)
	fmt.Fprintln(w)
}
