package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// Outcome is what came of an audit. Numbers are never reused; zero is none.
type Outcome uint8

// The outcomes. Only OK says that the embassy has what was asked for.
const (
	OK      Outcome = 1 // everything asked for was shown, in time, and signed
	Wrong   Outcome = 2 // the embassy showed something else than it stored
	Missing Outcome = 3 // the embassy says that it lost something
	Late    Outcome = 4 // no whole answer within the deadline
	Offline Outcome = 5 // the embassy could not be reached, or broke off
	Unknown Outcome = 6 // nothing could be asked, or anything else went wrong
)

// String is the outcome's word.
func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case Wrong:
		return "wrong"
	case Missing:
		return "missing"
	case Late:
		return "late"
	case Offline:
		return "offline"
	}
	return "unknown"
}

// Judge says what came of an audit, from what Verify returned, how long it took,
// and the deadline that it had. A loss once shown counts, whatever went wrong
// after it. Whoever could not reach the embassy wraps ErrOffline. What is not
// known to be anything else is Unknown, and never OK.
func Judge(res *Result, err error, took, deadline time.Duration) Outcome {
	switch {
	case res != nil && len(res.Wrong) > 0, errors.Is(err, ErrAnswer), errors.Is(err, ErrUnsigned):
		return Wrong
	case res != nil && len(res.Missing) > 0:
		return Missing
	case errors.Is(err, ErrOffline):
		return Offline
	case timedOut(err), took > deadline && (err == nil || errors.Is(err, ErrCut)):
		return Late
	case errors.Is(err, context.Canceled):
		return Unknown
	case errors.Is(err, ErrCut):
		return Offline
	case err != nil, res == nil, !res.whole:
		return Unknown
	}
	return OK
}

// timedOut knows the errors of contexts, connections and files alike.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// Trusted returns the checkpoint in raw if it may be challenged from: the log's,
// cosigned as the policy demands, by witnesses whose word is at most fresh old at
// now. Else ErrNotCosigned, ErrStale, or what ledger.Policy.Judge fails with;
// Judge makes Unknown of each. Under a policy that needs nobody but the embassy
// itself there is no word of a witness, and none is asked for.
func Trusted(raw []byte, log ledger.Log, policy *ledger.Policy, now time.Time, fresh time.Duration) (ledger.Verdict, error) {
	v, err := policy.Judge(raw, log)
	if err != nil {
		return ledger.Verdict{}, err
	}
	if !v.Enough {
		return v, fmt.Errorf("audit: %d groups of %d needed: %w", len(v.Groups), policy.Need, ErrNotCosigned)
	}
	if !v.Time.IsZero() && now.Sub(v.Time) > fresh {
		return v, fmt.Errorf("audit: cosigned %s ago: %w", now.Sub(v.Time).Round(time.Second), ErrStale)
	}
	return v, nil
}
