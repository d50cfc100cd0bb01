package order

import "time"

// Status is where an order stands at one embassy.
type Status uint8

// The statuses of an order, in the order of its life.
const (
	Open      Status = iota + 1 // not logged yet: people may sign and submit it
	Waiting                     // logged; takes effect later unless stopped
	Effective                   // its time has come, and the embassy is to act
	Done                        // the result says so
	Partial                     // done in part
	Vetoed                      // stopped
	Expired                     // not logged, or not witnessed, in time
	Refused                     // when its time came, it did not count or could not be done
)

// String is the status's word.
func (s Status) String() string {
	words := [...]string{"unknown", "open", "waiting", "effective", "done", "partly done", "vetoed", "expired", "refused"}
	if int(s) >= len(words) {
		return words[0]
	}
	return words[s]
}

// Over reports whether nothing more will come of the order there.
func (s Status) Over() bool { return s >= Done }

// Facts are what an embassy's ledger says of an order.
type Facts struct {
	// Logged: the order is in the ledger.
	Logged bool
	// Witnessed is the time of the first cosigned checkpoint that covers it; zero: there is none yet.
	Witnessed time.Time
	// Vetoed: a veto that counts stands in the ledger, before the first thing that the order did.
	Vetoed bool
	Result *Result
	// Cooling is how long it waits: the longer of what the charter under which it was given and the one in force say.
	Cooling time.Duration
}

// Standing is a status, and until when an order waits: zero where that is not known, for no witness has seen it.
type Standing struct {
	Status Status
	Until  time.Time
}

// Judge says where an order stands. now is the newest witnessed time; for an order that is not logged the asker's own
// clock does. Embassy, home and court come to the same answer from the same ledger.
//
// An order waits from the moment that witnesses have seen it, and not from what the embassy's clock said: a clock that
// is put forward must not shorten the time in which someone can object. One that witnesses saw after its expiry never
// takes effect. Where the charter asks for no waiting and nothing is destroyed, it takes effect as soon as it is
// logged: to suspend a thief must not depend on witnesses.
func Judge(o *Order, f Facts, now time.Time) Standing {
	k, _ := KindOf(o.Kind)
	until := f.Witnessed.Add(f.Cooling)
	switch {
	case f.Result != nil:
		return Standing{Status: f.Result.status()}
	case f.Vetoed:
		return Standing{Status: Vetoed}
	case !f.Logged && now.After(o.Expires), f.Logged && f.Witnessed.After(o.Expires):
		return Standing{Status: Expired}
	case !f.Logged:
		return Standing{Status: Open}
	case f.Cooling == 0 && !k.Destroys:
		return Standing{Status: Effective}
	case f.Witnessed.IsZero():
		return Standing{Status: Waiting}
	case now.Before(until):
		return Standing{Status: Waiting, Until: until}
	}
	return Standing{Status: Effective, Until: until}
}

func (r *Result) status() Status {
	switch r.Outcome {
	case OutcomeDone:
		return Done
	case OutcomeVetoed:
		return Vetoed
	case OutcomeExpired:
		return Expired
	case OutcomePartial:
		return Partial
	}
	return Refused
}
