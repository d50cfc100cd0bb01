package custody

import (
	"fmt"
	"strings"
)

// A Plan says how one generation of the opening key gives way to the next. Custodians who release their shares for it
// read it in the request's purpose, and a share that was released for one plan serves no other.
type Plan struct {
	Generation uint32   // that gives way
	Threshold  int      // of the next
	Holders    []string // custodians of the next, in order of X
	Erase      []string // registers that the next does not open, in the order in which they were named
}

// planLabel begins the purpose of every request for a refresh, and of no other.
const planLabel = "custody refresh: "

// Purpose returns the plan as the purpose of a [Request]: at most 512 bytes, or it is [ErrParameters].
func (p *Plan) Purpose() (string, error) {
	if err := checkPlan(p.Generation, p.Threshold, p.Holders); err != nil {
		return "", err
	}
	erase := "nothing"
	if len(p.Erase) > 0 {
		erase = strings.Join(p.Erase, " ")
	}
	s := fmt.Sprintf("%sgeneration %d gives way to %d; custodians %s, of whom %d open; erased: %s", planLabel,
		p.Generation, p.Generation+1, strings.Join(p.Holders, " "), p.Threshold, erase)
	if !validText(s, 512) {
		return "", fmt.Errorf("custody: %w: a plan of %d bytes cannot stand in a request, which takes 512: the custodians must meet",
			ErrParameters, len(s))
	}
	return s, nil
}

// IsRefresh reports whether the request is for a refresh. Such a request recovers nothing.
func (r *Request) IsRefresh() bool { return strings.HasPrefix(r.Purpose, planLabel) }

// For returns [ErrOtherRequest] unless the request is for exactly this plan.
func (r *Request) For(p *Plan) error {
	want, err := p.Purpose()
	if err != nil {
		return err
	}
	if r.Purpose != want || r.Generation != p.Generation {
		return fmt.Errorf("request: %w: it says %q, and this is %q", ErrOtherRequest, r.Purpose, want)
	}
	return nil
}
