package snapshot

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// CheckOutcome is what came of one check of a proof.
type CheckOutcome uint8

// The outcomes. The numbers are part of the format and never reused.
const (
	CheckHeld    CheckOutcome = 1
	CheckFailed  CheckOutcome = 2
	CheckWarned  CheckOutcome = 3 // it found what people must look at, and what came back is there
	CheckNotDone CheckOutcome = 4 // for a reason that the detail tells; a proof may do without
)

// String is the outcome's word.
func (o CheckOutcome) String() string {
	switch o {
	case CheckHeld:
		return "held"
	case CheckFailed:
		return "failed"
	case CheckWarned:
		return "warned"
	case CheckNotDone:
		return "not done"
	}
	return "unknown"
}

// ProofCheck is one thing that was looked at.
type ProofCheck struct {
	Name    string
	Outcome CheckOutcome
	Detail  string
}

// ProofResult is what came of a proof. Times are nanoseconds since 1970, durations nanoseconds.
type ProofResult struct {
	Snapshot uint64 // that it began with; 0: it did not come so far
	Position []byte // how far what came back reaches, in its source's own form; empty: it did not come so far
	Moment   int64  // the source's clock there; 0 where it is not known

	Began, Ended int64 // by the clock of the machine that tried it

	Lost   int64  // how much the source would have lost when it began, as a duration: RPO as measured; -1: not known
	Behind int64  // bytes that the source had and the embassies did not; -1: the source was not asked, or did not answer
	Took   int64  // from the beginning until what came back served: RTO as measured; 0: it never did
	Failed string // why it is no proof; empty: the register came back
	Server string // the program that it came back in, in its own words

	Checks []ProofCheck
	More   uint64 // checks that held and are left out of the list, which is full
}

// Proven tells whether the register came back.
func (r *ProofResult) Proven() bool { return r.Failed == "" }

const (
	maxCheckName   = 80
	maxCheckDetail = 1 << 10
	maxPosition    = MaxPosition
)

// Check tells whether the result's fields fit together.
func (r *ProofResult) Check() error {
	what := ""
	switch {
	case r.Ended < r.Began:
		what = "ended before it began"
	case r.Lost < -1 || r.Behind < -1 || r.Took < 0:
		what = "a negative measure"
	case len(r.Position) > maxPosition || len(r.Failed) > maxCheckDetail || len(r.Server) > maxCheckDetail:
		what = "a field too long"
	case r.Proven() && (r.Snapshot == 0 || len(r.Position) == 0 || r.Took == 0 || r.Lost < 0):
		what = "proven, and without what a proof shows"
	case !utf8.ValidString(r.Failed) || !utf8.ValidString(r.Server):
		what = "a text that is none"
	}
	for _, c := range r.Checks {
		switch {
		case c.Name == "" || len(c.Name) > maxCheckName || len(c.Detail) > maxCheckDetail:
			what = "a check without a name, or too long"
		case c.Outcome < CheckHeld || c.Outcome > CheckNotDone:
			what = "a check with an unknown outcome"
		case c.Outcome == CheckFailed && r.Proven():
			what = "proven, and a check failed"
		case !utf8.ValidString(c.Name) || !utf8.ValidString(c.Detail):
			what = "a text that is none"
		}
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("result of a proof: %s: %w", what, ErrProof)
}

type wireResult struct {
	Version  uint64      `cbor:"1,keyasint"`
	Snapshot uint64      `cbor:"2,keyasint"`
	Position []byte      `cbor:"3,keyasint"`
	Moment   int64       `cbor:"4,keyasint"`
	Began    int64       `cbor:"5,keyasint"`
	Ended    int64       `cbor:"6,keyasint"`
	Lost     int64       `cbor:"7,keyasint"`
	Behind   int64       `cbor:"8,keyasint"`
	Took     int64       `cbor:"9,keyasint"`
	Failed   string      `cbor:"10,keyasint"`
	Server   string      `cbor:"11,keyasint"`
	Checks   []wireCheck `cbor:"12,keyasint"`
	More     uint64      `cbor:"13,keyasint"`
}

type wireCheck struct {
	Name    string `cbor:"1,keyasint"`
	Outcome uint8  `cbor:"2,keyasint"`
	Detail  string `cbor:"3,keyasint"`
}

func (r *ProofResult) encode() ([]byte, error) {
	w := wireResult{
		Version: 1, Snapshot: r.Snapshot, Position: r.Position, Moment: r.Moment, Began: r.Began, Ended: r.Ended,
		Lost: r.Lost, Behind: r.Behind, Took: r.Took, Failed: r.Failed, Server: r.Server, More: r.More,
	}
	for _, c := range r.Checks {
		w.Checks = append(w.Checks, wireCheck{c.Name, uint8(c.Outcome), c.Detail})
	}
	return form.Encode(&w)
}

// Bytes returns the result's one encoding, deterministic CBOR of at most MaxProofResult bytes. Errors wrap ErrProof.
func (r *ProofResult) Bytes() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	b, err := r.encode()
	if err == nil && len(b) > MaxProofResult {
		err = fmt.Errorf("result of a proof: %d bytes: %w", len(b), ErrProof)
	}
	return b, err
}

// Trim makes texts valid and shorter, and leaves out checks that held, until Bytes takes the result. What failed stays.
func (r *ProofResult) Trim() {
	r.Failed, r.Server = cut(r.Failed, 300), cut(r.Server, 100)
	for i := range r.Checks {
		c := &r.Checks[i]
		c.Name, c.Detail = cut(c.Name, maxCheckName), cut(c.Detail, 400)
	}
	for limit := 200; limit > 10 && r.long(); limit /= 2 {
		for i := range r.Checks {
			r.Checks[i].Detail = cut(r.Checks[i].Detail, limit)
		}
	}
	for _, held := range []bool{true, false} { // those that failed go last, when there are hundreds
		for i := len(r.Checks) - 1; i >= 0 && r.long(); i-- {
			if held && r.Checks[i].Outcome != CheckHeld {
				continue
			}
			if held {
				r.More++
			}
			r.Checks = append(r.Checks[:i:i], r.Checks[i+1:]...)
		}
	}
}

func (r *ProofResult) long() bool {
	b, err := r.encode()
	return err != nil || len(b) > MaxProofResult
}

// cut makes a text valid and at most n bytes long.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n -= len("…"); n > 0 && !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + "…"
}

// ParseProofResult reads what Bytes wrote. Errors wrap ErrProof.
func ParseProofResult(b []byte) (*ProofResult, error) {
	var w wireResult
	if err := form.Decode(b, MaxProofResult, &w); err != nil {
		return nil, fmt.Errorf("result of a proof: %w: %w", err, ErrProof)
	}
	if w.Version != 1 {
		return nil, fmt.Errorf("result of a proof: version %d is unknown: %w", w.Version, ErrProof)
	}
	r := &ProofResult{
		Snapshot: w.Snapshot, Position: w.Position, Moment: w.Moment, Began: w.Began, Ended: w.Ended,
		Lost: w.Lost, Behind: w.Behind, Took: w.Took, Failed: w.Failed, Server: w.Server, More: w.More,
	}
	for _, c := range w.Checks {
		r.Checks = append(r.Checks, ProofCheck{c.Name, CheckOutcome(c.Outcome), c.Detail})
	}
	return r, r.Check()
}
