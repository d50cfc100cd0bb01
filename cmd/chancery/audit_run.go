package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/ledger"
)

// rangeEntries is how many entries one challenge of a range asks for: at most 64 MiB of answer.
const rangeEntries = 1024

// auditing is an auditor at work.
type auditing struct {
	charter  *charter.Charter
	policy   *ledger.Policy
	key      ed25519.PrivateKey
	deadline time.Duration
	conn     *connection // nil for an auditor who is not home
	client   func(charter.Embassy) *embassy.Client
	ends     []func()

	mu     sync.Mutex // guards what follows: embassies are audited side by side
	slots  map[slotOf]uint64
	down   map[charter.EmbassyID]bool // did not take a report
	failed error                      // of the home folder
}

// slotOf is a row of audit records: about one embassy, kept at another.
type slotOf struct{ at, of charter.EmbassyID }

func (a *auditing) close() {
	for _, f := range a.ends {
		f()
	}
}

// audit asks one embassy what the options say. What it has not answered before comes first, with the same challenge;
// then what was found lost before, so that a repair is seen.
func (a *auditing) audit(ctx context.Context, e charter.Embassy, o *auditOptions) (x auditJSON) {
	x = auditJSON{Embassy: e.Name, outcome: audit.OK}
	defer func() { x.Lost = a.lost(e) }()
	v, ok := a.begin(ctx, e, &x)
	if !ok {
		return x
	}
	if !o.full {
		a.lostAgain(ctx, e, &v, &x)
		a.ask(ctx, e, audit.NewSample(a.charter.State.ID, e.ID, v.Checkpoint.Raw, nonce(), uint32(o.sample)), &x)
		return x
	}
	for from := uint64(0); from < v.Checkpoint.Size && ctx.Err() == nil; from += rangeEntries {
		to := min(v.Checkpoint.Size, from+rangeEntries)
		switch a.ask(ctx, e, audit.NewRange(a.charter.State.ID, e.ID, v.Checkpoint.Raw, nonce(), from, to), &x) {
		case audit.Late, audit.Offline, audit.Unknown:
			return x // it would not answer the rest either
		}
	}
	return x
}

// begin gets the checkpoint to challenge from, and repeats what was not answered. ok is false when there is nothing more
// to ask of the embassy.
func (a *auditing) begin(ctx context.Context, e charter.Embassy, x *auditJSON) (v ledger.Verdict, ok bool) {
	started := time.Now()
	v, err := a.cosigned(ctx, e)
	if pending := a.pending(e, &v); pending != nil {
		x.Repeated = true
		switch a.ask(ctx, e, pending, x) {
		case audit.Late, audit.Offline, audit.Unknown:
			return v, false
		}
	}
	if err != nil {
		took := time.Since(started)
		run := &audit.Run{
			State: a.charter.State.ID, Embassy: e.ID, Started: started, Took: took,
			Outcome: audit.Judge(nil, err, took, a.deadline), Why: err.Error(),
		}
		x.add(run)
		a.report(ctx, e, run, x)
		return v, false
	}
	x.LedgerSize = v.Checkpoint.Size
	return v, true
}

// cosigned is the embassy's newest checkpoint, if enough witnesses stand behind it, and of late.
func (a *auditing) cosigned(ctx context.Context, e charter.Embassy) (ledger.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, a.deadline)
	defer cancel()
	var v ledger.Verdict
	err := onceCosigned(ctx, func() error {
		raw, err := a.client(e).Cosigned(ctx)
		if errors.Is(err, embassy.ErrNotFound) {
			return audit.ErrNotCosigned
		}
		if err != nil {
			return reachError(err)
		}
		v, err = audit.Trusted(raw, e.Log(), a.policy, time.Now(), a.charter.FreshFor())
		return err
	})
	return v, err
}

// reachError tells an embassy that cannot be reached from one that was, and is silent.
func reachError(err error) error {
	if !errors.Is(err, embassy.ErrUnreachable) {
		return err
	}
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() && (!errors.As(err, &op) || op.Op != "dial") {
		return err
	}
	return fmt.Errorf("%w: %w", audit.ErrOffline, err)
}

func nonce() (n [32]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// pending is the challenge that the embassy has not answered, nil when there is none. One for another or a larger
// ledger than the embassy now shows is of before its ledger began anew; nobody can answer it.
func (a *auditing) pending(e charter.Embassy, v *ledger.Verdict) *audit.Challenge {
	if a.conn == nil {
		return nil
	}
	data, err := a.conn.home.PendingAudit(e.Name)
	if err != nil || data == nil {
		a.fail(err)
		return nil
	}
	ch, err := audit.ParseChallenge(data)
	if err == nil {
		var cp ledger.Checkpoint
		cp, err = ch.Opened(e.PublicKey())
		if err == nil && cp.Origin == e.Origin && (v.Checkpoint.Size == 0 || cp.Size <= v.Checkpoint.Size) {
			return ch
		}
	}
	a.fail(a.conn.home.DropPendingAudit(e.Name))
	return nil
}

// fail keeps what went wrong at home.
func (a *auditing) fail(err error) {
	a.mu.Lock()
	a.failed = errors.Join(a.failed, err)
	a.mu.Unlock()
}

// ask puts one challenge to an embassy, judges the answer, and keeps the report. The challenge is kept before it is sent:
// whatever interrupts the answer, the same is asked again.
func (a *auditing) ask(ctx context.Context, e charter.Embassy, ch *audit.Challenge, x *auditJSON) audit.Outcome {
	if a.conn != nil {
		data, err := ch.Bytes()
		if err == nil {
			err = a.conn.home.KeepPendingAudit(e.Name, data)
		}
		a.fail(err)
	}
	run := &audit.Run{State: a.charter.State.ID, Embassy: e.ID, Challenge: ch, Started: time.Now()}
	res, err := a.answer(ctx, e, ch)
	run.Took, run.Result = time.Since(run.Started), res
	run.Outcome = audit.Judge(res, err, run.Took, a.deadline)
	if err != nil {
		run.Why = err.Error()
	}
	if ctx.Err() != nil { // this program was interrupted: it says nothing of the embassy
		run.Outcome, run.Result = audit.Unknown, nil
		x.add(run)
		return audit.Unknown
	}
	x.add(run)
	a.settle(e, run)
	a.report(ctx, e, run, x)
	return run.Outcome
}

func (a *auditing) answer(ctx context.Context, e charter.Embassy, ch *audit.Challenge) (*audit.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, a.deadline)
	defer cancel()
	r, err := a.client(e).Audit(ctx, ch)
	if err != nil {
		return nil, reachError(err)
	}
	defer func() { _ = r.Close() }() // read, or given up
	return audit.Verify(r, ch, e.Log())
}

// settle takes an answer into home's memory of what is covered and what is lost. A crash before leaves the challenge,
// which is asked again.
func (a *auditing) settle(e charter.Embassy, run *audit.Run) {
	if a.conn == nil || run.Result == nil {
		return
	}
	lost := slices.Concat(run.Result.Wrong, run.Result.Missing)
	if run.Outcome != audit.OK && len(lost) == 0 {
		return // not answered
	}
	err := a.conn.coverage(e.Name, func(c *audit.Coverage) {
		ch := run.Challenge
		if whole := run.Result.Checked == ch.To-ch.From; ch.Mode == audit.Range && whole {
			c.Add(ch.From, ch.To, run.Started)
		}
		for _, f := range lost {
			c.Lose(f.Index, f.Index+1, run.Started)
		}
	})
	if err == nil {
		err = a.conn.home.DropPendingAudit(e.Name)
	}
	a.fail(err)
}

// coverage changes home's memory of an embassy's audits. The caller holds the lock of audits.
func (c *connection) coverage(name string, change func(*audit.Coverage)) error {
	data, err := c.home.Audit(name)
	if err != nil {
		return err
	}
	cov, err := audit.ParseCoverage(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	change(cov)
	if data, err = cov.Bytes(); err != nil {
		return err
	}
	return c.home.KeepAudit(name, data)
}

// lost is how many entries audits found lost and have not been shown since.
func (a *auditing) lost(e charter.Embassy) uint64 {
	if a.conn == nil {
		return 0
	}
	n, err := a.conn.lostAt(e.Name)
	a.fail(err)
	return n
}

func (c *connection) lostAt(name string) (uint64, error) {
	data, err := c.home.Audit(name)
	if err != nil {
		return 0, err
	}
	cov, err := audit.ParseCoverage(data)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return cov.Lost(), nil
}

// lostAgain asks for what the last audits found lost.
func (a *auditing) lostAgain(ctx context.Context, e charter.Embassy, v *ledger.Verdict, x *auditJSON) {
	if a.conn == nil {
		return
	}
	// At most as many times as there may be stretches in one look; what is still lost is not asked twice.
	for asked := uint64(0); ctx.Err() == nil; {
		var from, to uint64
		err := a.conn.coverage(e.Name, func(c *audit.Coverage) { from, to = c.LostFrom(asked, rangeEntries) })
		to = min(to, v.Checkpoint.Size)
		if err != nil || from >= to {
			a.fail(err)
			return
		}
		asked = to
		switch a.ask(ctx, e, audit.NewRange(a.charter.State.ID, e.ID, v.Checkpoint.Raw, nonce(), from, to), x) {
		case audit.Late, audit.Offline, audit.Unknown:
			return
		}
	}
}

// shownAgain has every embassy of which audits found something lost show it, after a repair: what it shows is not lost any
// more. An audit at work asks by itself.
func (c *connection) shownAgain(ctx context.Context) error {
	var lost []charter.Embassy
	for _, e := range c.home.Charter.Embassies {
		n, err := c.lostAt(e.Name)
		if err != nil {
			return err
		}
		if n > 0 {
			lost = append(lost, e)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	a, err := c.auditing(auditDeadline)
	if errors.Is(err, durable.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer a.close()
	var all sync.WaitGroup
	for _, e := range lost {
		all.Go(func() {
			x := auditJSON{Embassy: e.Name, outcome: audit.OK} // status tells what is still lost
			if v, ok := a.begin(ctx, e, &x); ok {
				a.lostAgain(ctx, e, &v, &x)
			}
		})
	}
	all.Wait()
	return a.failed
}

// report signs the report and has every embassy that answers keep it as a record, so that it is in their ledgers.
func (a *auditing) report(ctx context.Context, e charter.Embassy, run *audit.Run, x *auditJSON) {
	if a.conn == nil {
		return // the embassies take records from the state's agents only
	}
	r, err := audit.NewReport(run, nonce())
	if err == nil {
		err = r.Sign(a.key)
	}
	var data []byte
	if err == nil {
		data, err = r.Bytes()
	}
	if err != nil {
		a.fail(err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.charter.Embassies {
		if a.down[at.ID] || at.ID == e.ID && (run.Outcome == audit.Offline || run.Outcome == audit.Late) {
			continue
		}
		err := a.put(ctx, at, e.ID, data)
		a.down[at.ID] = errors.Is(err, embassy.ErrUnreachable)
		if err == nil && !slices.Contains(x.ReportedTo, at.Name) {
			x.ReportedTo = append(x.ReportedTo, at.Name)
		}
	}
}

// reportTime is what one embassy may take to keep one report; an embassy that is down must not hold up the others.
const reportTime = 20 * time.Second

// put keeps a report in the next free place. The caller holds the lock.
func (a *auditing) put(ctx context.Context, at charter.Embassy, of charter.EmbassyID, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	x, row := a.client(at), slotOf{at.ID, of}
	next, known := a.slots[row]
	for !known {
		list, err := x.ListRecords(ctx, ledger.Audit, of, next)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			known = true
			continue
		}
		next = list[len(list)-1].Slot.Sequence
	}
	for range 8 { // others may write too
		next++
		a.slots[row] = next
		err := x.PutRecord(ctx, ledger.Slot{Kind: ledger.Audit, Register: of, Sequence: next}, data)
		if !errors.Is(err, embassy.ErrConflict) {
			return err
		}
	}
	return embassy.ErrConflict
}
