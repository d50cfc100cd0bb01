package main

import (
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/snapshot"
)

// TestAClusterIsProtectedByARecentProofOnly: never proven, not proven the last time, proven too long ago, or too little
// abroad for what its owner accepts.
func TestAClusterIsProtectedByARecentProofOnly(t *testing.T) {
	now := time.Now()
	ended := func(ago time.Duration, failed string) *snapshot.ProofResult {
		return &snapshot.ProofResult{Ended: now.Add(-ago).UnixNano(), Failed: failed}
	}
	for _, c := range []struct {
		last      *snapshot.ProofResult
		rpoMissed bool
		want      string // a part of why not; empty: protected
	}{
		{nil, false, "never proven"},
		{ended(time.Hour, ""), false, ""},
		{ended(provenFor-time.Minute, ""), false, ""},
		{ended(provenFor+time.Minute, ""), false, "last proven 90d ago"},
		{ended(time.Hour, "amcheck: damaged"), false, "proof 4 failed: amcheck: damaged"},
		{ended(time.Hour, ""), true, "older than its RPO"},
	} {
		a := &registerStatusJSON{Name: "land", RPOMissed: c.rpoMissed, Proof: &registerProvenJSON{Result: &bootJSON{Proof: 4}}}
		got := unproven(c.last, a, now)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.last, got, c.want)
		}
	}
}

// TestWhatAProofMeasuredIsHeldAgainstTheDemands: a demand that is not there is not missed.
func TestWhatAProofMeasuredIsHeldAgainstTheDemands(t *testing.T) {
	r := &snapshot.ProofResult{Lost: int64(2 * time.Minute), Took: int64(2 * time.Hour)}
	for _, c := range []struct{ rpo, rto, want string }{
		{"", "", ""},
		{"1m", "3h", "rpo"},
		{"3m", "1h", "rto"},
		{"1m", "1h", "rpo rto"},
		{"2m", "2h", ""},
	} {
		if got := strings.Join(missed(r, &home.Definition{RPO: c.rpo, RTO: c.rto}), " "); got != c.want {
			t.Errorf("rpo %s, rto %s: %q, want %q", c.rpo, c.rto, got, c.want)
		}
	}
}

// TestOnlyTheClustersOwnServerSaysWhatIsMissing: another system, another timeline or silence says nothing.
func TestOnlyTheClustersOwnServerSaysWhatIsMissing(t *testing.T) {
	p := &postgres.Position{System: 7, Timeline: 2, End: 1000}
	own := cluster.Identity{System: 7, Timeline: 2, WriteLSN: 1500}
	before, other, line := own, own, own
	before.WriteLSN, other.System, line.Timeline = 900, 8, 3
	for what, c := range map[string]struct {
		s    sourceStand
		want int64
	}{
		"ahead": {sourceStand{own, true}, 500}, "asked before": {sourceStand{before, true}, 0}, "silent": {sourceStand{own, false}, -1},
		"another system": {sourceStand{other, true}, -1}, "another timeline": {sourceStand{line, true}, -1},
	} {
		if got := c.s.behind(p); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}
