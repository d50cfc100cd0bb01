package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/stream"
)

// provenFor is how long a proof protects: as long as audits take to have asked for every object, so that what a proof
// found is a season old at most.
const provenFor = 90 * 24 * time.Hour

// stayingJSON is a register that never leaves home.
type stayingJSON struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// streamStatusJSON is how far a cluster's log is abroad.
type streamStatusJSON struct {
	Through  string      `json:"through,omitempty"` // empty: no log is abroad
	Behind   *int64      `json:"behind_bytes,omitempty"`
	Unproven string      `json:"unproven,omitempty"` // why there may be more, or its end is in doubt
	Alarms   []alarmJSON `json:"alarms"`             // since the last proof or backup, whichever is newer
}

// alarmJSON is what a stream raised.
type alarmJSON struct {
	Time time.Time `json:"time"`
	What string    `json:"what"`
	Text string    `json:"text"`
}

// registerProvenJSON is the last proof of a register.
type registerProvenJSON struct {
	Result *bootJSON  `json:"result"`
	Age    float64    `json:"age_seconds"`
	Since  *time.Time `json:"last_proven,omitempty"` // when the last one that succeeded ended
}

// staying lists the registers that never leave home.
func (c *connection) staying() ([]stayingJSON, error) {
	all, err := c.home.Staying()
	out := []stayingJSON{}
	for _, d := range all {
		out = append(out, stayingJSON{d.Name, d.StaysHome})
	}
	return out, err
}

// calm tells whether nothing of a register's log and proofs asks for a person.
func (a *registerStatusJSON) calm() bool {
	return (a.Stream == nil || len(a.Stream.Alarms) == 0 && a.Stream.Unproven == "") && (a.Proof == nil || len(a.Proof.Result.Missed) == 0)
}

// restorable fills in to which moment a register can be brought back, whether it was tried, and what follows for it.
func (c *connection) restorable(ctx context.Context, a *registerStatusJSON, r *home.Register, reg *register.Register, now time.Time) error {
	a.RPO, a.RTO = r.Definition.RPO, r.Definition.RTO
	if a.Newest != nil {
		t := a.Newest.Time
		a.Restorable, a.RestorableAge = &t, now.Sub(t).Seconds()
	}
	var last *snapshot.ProofResult
	var err error
	if r.Definition.Postgres != nil {
		if last, err = c.clusterStatus(ctx, a, r, reg, now); err != nil {
			return err
		}
	}
	if rpo, err := time.ParseDuration(a.RPO); err == nil && rpo > 0 {
		a.RPOMissed = a.Restorable == nil || a.RestorableAge > rpo.Seconds()
	}
	if r.Definition.Postgres != nil && a.Protected != "no" {
		if why := unproven(last, a, now); why != "" {
			a.Protected, a.unproven, a.Why = "no", true, "NOT PROTECTED: "+why
		}
	}
	return nil
}

// unproven is why nobody knows that a cluster comes back; empty where a recent proof says so.
func unproven(last *snapshot.ProofResult, a *registerStatusJSON, now time.Time) string {
	prove := fmt.Sprintf("chancery verify %s --boot", a.Name)
	switch {
	case last == nil:
		return "never proven to come back: " + prove
	case !last.Proven():
		return fmt.Sprintf("proof %d failed: %s", a.Proof.Result.Proof, last.Failed)
	case now.Sub(time.Unix(0, last.Ended)) > provenFor:
		return fmt.Sprintf("last proven %s ago: %s", age(now.Sub(time.Unix(0, last.Ended))), prove)
	case a.RPOMissed:
		return "what is abroad is older than its RPO"
	}
	return ""
}

// clusterStatus fills in how far a cluster's log is abroad, and its proofs. It returns what the last proof says.
func (c *connection) clusterStatus(ctx context.Context, a *registerStatusJSON, r *home.Register, reg *register.Register, now time.Time) (*snapshot.ProofResult, error) {
	a.Stream = &streamStatusJSON{Alarms: []alarmJSON{}}
	newest, err := stream.FindNewest(ctx, reg, c.agent())
	switch {
	case errors.Is(err, register.ErrTooFew):
		a.Stream.Unproven = err.Error()
	case err != nil:
		return nil, fmt.Errorf("%s: its log: %w", a.Name, err)
	default:
		a.stream(ctx, newest, r.Definition.Postgres.Conninfo, now)
		lag := stream.Lag(ctx, reg, newest.Records)
		for i := range a.Sites {
			a.Sites[i].Stream = lag[a.Sites[i].Embassy]
		}
	}
	last, err := c.lastProof(ctx, a, r, reg, now)
	if err != nil {
		return nil, err
	}
	since := time.Time{}
	if a.Newest != nil {
		since = a.Newest.Time
	}
	if last != nil && last.Proven() && time.Unix(0, last.Began).After(since) {
		since = time.Unix(0, last.Began)
	}
	a.Stream.Alarms, err = alarmsSince(r.Dir, since)
	return last, err
}

// stream fills in how far the log is abroad, by the server's clock, and what the server has beyond it.
func (a *registerStatusJSON) stream(ctx context.Context, newest *stream.Newest, conninfo string, now time.Time) {
	if newest.Unproven != nil {
		a.Stream.Unproven = newest.Unproven.Error()
	}
	p, err := postgres.ParsePosition(newest.Position)
	if newest.Sequence == 0 || err != nil || p.Kind != postgres.KindLog {
		return
	}
	a.Stream.Through = fmt.Sprintf("%s of timeline %d", p.End, p.Timeline)
	clock := time.Unix(0, p.Clock).UTC()
	if a.Newest == nil { // log without a base backup brings nothing back
		return
	}
	if p.Clock != 0 {
		a.Restorable, a.RestorableAge = &clock, max(0, now.Sub(clock).Seconds())
	}
	source := askSource(ctx, conninfo)
	if n := source.behind(&p); n >= 0 {
		a.Stream.Behind = &n
		if n == 0 { // the server has written nothing since: what it has is what is abroad
			a.RestorableAge = 0
		}
	}
}

// lastProof is what the last proof of a register that can be read says, and fills it in.
func (c *connection) lastProof(ctx context.Context, a *registerStatusJSON, r *home.Register, reg *register.Register, now time.Time) (last *snapshot.ProofResult, err error) {
	known, err := c.proofs(ctx, r, reg)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for n := range known.records {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range slices.Backward(numbers) {
		_, result, err := archive.OpenProof(reg, c.agent(), n, known.records[n])
		if err != nil {
			continue // a file that was changed at home; the embassies' own are read where home has none
		}
		if last == nil {
			last = result
			a.Proof = &registerProvenJSON{Result: bootAnswer(a.Name, n, result, &r.Definition), Age: now.Sub(time.Unix(0, result.Ended)).Seconds()}
		}
		if result.Proven() {
			t := time.Unix(0, result.Ended).UTC()
			a.Proof.Since = &t
			break
		}
	}
	return last, nil
}

// alarmsSince reads what a register's stream raised since a moment.
func alarmsSince(dir string, since time.Time) ([]alarmJSON, error) {
	out := []alarmJSON{}
	text, err := os.ReadFile(filepath.Join(dir, alarmsFile))
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	for line := range bytes.Lines(text) {
		var e postgres.Event
		if json.Unmarshal(line, &e) == nil && e.Time.After(since) { // not one that a crash cut short
			out = append(out, alarmJSON{e.Time.UTC(), string(e.What), e.Text})
		}
	}
	return out, err
}

// printRestorable says to which moment each register comes back, and when it last did.
func printRestorable(w io.Writer, list []registerStatusJSON, staying []stayingJSON) {
	var rows [][]string
	seconds := func(s float64) string { return age(time.Duration(s * float64(time.Second))) }
	for i := range list {
		a := &list[i]
		until, lag, proven, rpo, rto := "nothing", "-", "-", cmp.Or(a.RPO, "-"), cmp.Or(a.RTO, "-")
		if a.Restorable != nil {
			until = seconds(a.RestorableAge) + " ago"
		}
		if s := a.Stream; s != nil {
			proven = "never"
			if s.Behind != nil {
				lag = size(*s.Behind)
			}
		}
		if p := a.Proof; p != nil {
			proven = seconds(p.Age) + " ago"
			if !p.Result.Proven {
				proven = "FAILED " + proven
			}
			if p.Result.Lost != nil {
				rpo = brieflySeconds(*p.Result.Lost) + " of " + rpo
			}
			if p.Result.Took != nil {
				rto = brieflySeconds(*p.Result.Took) + " of " + rto
			}
			for _, m := range p.Result.Missed {
				proven += " (OVER ITS " + strings.ToUpper(m) + ")"
			}
		}
		rows = append(rows, []string{a.Name, until, lag, proven, rpo, rto})
	}
	for _, s := range staying {
		rows = append(rows, []string{s.Name, "stays at home: " + s.Why, "-", "-", "-", "-"})
	}
	table(w, "REGISTER COMES-BACK-TO LAG PROVEN RPO RTO", rows)
	for i := range list {
		a := &list[i]
		if a.Stream == nil {
			continue
		}
		if a.Stream.Unproven != "" {
			fmt.Fprintf(w, "%s: the end of its log is in doubt: %s\n", a.Name, printable(a.Stream.Unproven))
		}
		if n := len(a.Stream.Alarms); n > 0 {
			x := a.Stream.Alarms[n-1]
			fmt.Fprintf(w, "%s: %s since it was backed up or proven; the last, at %s: %s: %s\n", a.Name, plural(n, "ALARM"), x.Time.Format(time.RFC3339), x.What, printable(x.Text))
		}
	}
}
