package agreement

import "time"

// Phase is where an agreement stands at a time.
type Phase string

// The phases, in their order. In the return period the state may read and take everything back, and write nothing.
const (
	NotYet    Phase = "not yet in force"
	InForce   Phase = "in force"
	Returning Phase = "return period"
	Ended     Phase = "ended"
)

// PhaseAt says where the agreement stands at a time: in force from the first moment of the day From to the last of the
// day Until, both in UTC, then in its return period, then ended.
func (a *Agreement) PhaseAt(at time.Time) Phase {
	switch {
	case at.Before(a.InForce.From.Start()):
		return NotYet
	case !a.InForce.Until.Over(at):
		return InForce
	case at.Before(a.ReturnEnds()):
		return Returning
	}
	return Ended
}

// ReturnEnds is the first moment after the return period, and the zero time for an agreement without an end.
func (a *Agreement) ReturnEnds() time.Time {
	if a.InForce.Until == "" {
		return time.Time{}
	}
	return a.InForce.Until.Start().AddDate(0, 0, 1).Add(a.Termination.Return.Duration())
}

// Governing returns the agreement by which an embassy acts at a time, out of a chain in which each amends the one
// before it: the last whose day From has come, and nil where none has. An amendment that is signed early waits for its day.
func Governing(chain []*Agreement, at time.Time) *Agreement {
	for i := len(chain) - 1; i >= 0; i-- {
		if chain[i].PhaseAt(at) != NotYet {
			return chain[i]
		}
	}
	return nil
}
