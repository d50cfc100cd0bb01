package charter

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Most entries of the lists that version 3 brought.
const (
	MaxPeople = 256
	MaxRoles  = 32
	MaxActs   = 64
	MaxHouses = 64
	maxKeys   = 8 // of one person
)

// Person is someone who acts for the state with keys of their own.
type Person struct {
	Name      string `yaml:"name"`
	Office    string `yaml:"office"`    // for people, at most 128 bytes
	Clearance string `yaml:"clearance"` // for people, at most 64 bytes; may be empty
	From      Date   `yaml:"from"`      // the first day on which the person's signature counts
	Until     Date   `yaml:"until"`     // the last day; empty: no end
	// Keys are SSH public keys as [Signer.Key] has them. One person may have
	// several, and counts once.
	Keys []string `yaml:"keys"`
}

// ServesAt reports whether the person's signature counts at a time. The zero
// time stands for "whenever": a signature on its own bears no time.
func (p *Person) ServesAt(at time.Time) bool {
	if at.IsZero() {
		return true
	}
	return !at.Before(p.From.Start()) && !p.Until.Over(at)
}

// Role is a group of people.
type Role struct {
	Name   string   `yaml:"name"`
	People []string `yaml:"people"` // names of people of this charter
}

// ActName is what may be done by a quorum, such as "erase". The acts of orders
// are the kinds of orders.
type ActName string

// The acts that this program knows. A charter may name others, of later programs.
const (
	ActCharter   ActName = "charter"   // a new charter
	ActAgreement ActName = "agreement" // an agreement with a host
	ActErase     ActName = "erase"     // remove a register or snapshots for good
	ActRelease   ActName = "release"   // let go of snapshots that no rule keeps
	ActHold      ActName = "hold"      // forbid erasing and releasing
	ActLift      ActName = "lift"      // end a hold
	ActSuspend   ActName = "suspend"   // a person's or agent's key counts no more
	ActRestore   ActName = "restore"   // it counts again
	ActGrant     ActName = "grant"     // give a reader a register's key
	ActRotate    ActName = "rotate"    // new keys of registers
)

// Act says who may do something, and how. An act that a charter does not name,
// nobody may do.
type Act struct {
	Act  ActName `yaml:"act"`
	Role string  `yaml:"role"` // whose signatures count
	Need int     `yaml:"need"` // how many distinct people
	// Cooling is how long an order waits, in witnessed time, between being
	// logged and taking effect.
	Cooling Span `yaml:"cooling"`
	// Valid is the longest that an order may be open for signatures.
	Valid Span `yaml:"valid"`
	// Touch is "yes" where only hardware keys that were touched count.
	Touch string `yaml:"touch"`
	// Veto is the role of which any one person stops an order while it waits;
	// empty: nobody can.
	Veto string `yaml:"veto"`
}

// House is an agency of the state that owns registers. It has a charter of its
// own, with its own id, keys and people.
type House struct {
	Name string  `yaml:"name"`
	ID   StateID `yaml:"id"`
}

// Succession says who may give the state its next charter when those who
// usually do cannot.
type Succession struct {
	Role string `yaml:"role"` // empty: nobody
	Need int    `yaml:"need"`
	// After is how long, in witnessed time, embassies wait after the order.
	After Span `yaml:"after"`
	// StoppedBy is the role of which any one person stops it in that time.
	StoppedBy string `yaml:"stopped_by"`
}

// Span is a length of time as text: "0", or a number from 1 to 99999 without
// leading zeros and s, m, h or d, such as "72h".
type Span string

var spanPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,4}[smhd])$`)

// Valid reports whether s is a span in its form.
func (s Span) Valid() bool { return spanPattern.MatchString(string(s)) }

// Duration is the span's length, and 0 for text that is none.
func (s Span) Duration() time.Duration {
	if !s.Valid() || s == "0" {
		return 0
	}
	n, err := strconv.Atoi(string(s[:len(s)-1]))
	if err != nil {
		return 0
	}
	unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[len(s)-1]]
	return time.Duration(n) * unit
}

// Date is a day in UTC as text, such as "2026-01-31", or empty.
type Date string

const dateLayout = "2006-01-02"

// DateOf is the day of a time, in UTC.
func DateOf(t time.Time) Date { return Date(t.UTC().Format(dateLayout)) }

// FirstDay is the day from which somebody serves who takes office now: clocks may differ by an hour, and what is signed right
// after midnight by one clock is of the day before by another.
func FirstDay(now time.Time) Date { return DateOf(now.Add(-time.Hour)) }

// Valid reports whether d is a day in its form; empty is none.
func (d Date) Valid() bool {
	t, err := time.Parse(dateLayout, string(d))
	return err == nil && t.Format(dateLayout) == string(d) && t.Year() >= 1970 && t.Year() < 2262
}

// Start is the day's first moment, and the zero time for text that is no day.
func (d Date) Start() time.Time {
	t, err := time.Parse(dateLayout, string(d))
	if err != nil {
		return time.Time{}
	}
	return t
}

// Over reports whether the whole day is over at a time. An empty date is never.
func (d Date) Over(at time.Time) bool {
	return d.Valid() && !at.Before(d.Start().AddDate(0, 0, 1))
}

// rules are the parts of a charter that say who decides.
type rules struct {
	people []Person
	roles  []Role
	acts   []Act
}

// formerRole is the one role of a charter that knows no roles.
const formerRole = "representative"

// DefaultValid is how long an order is open for signatures unless the charter says otherwise.
const DefaultValid Span = "30d"

// rules returns what version 3 says. In versions 1 and 2 every signer is a
// person of one role, who may give charters and make agreements and nothing else.
func (c *Charter) rules() rules {
	if c.Version >= 3 {
		return rules{c.People, c.Roles, c.Acts}
	}
	role := Role{Name: formerRole}
	var people []Person
	for _, s := range c.Signers {
		people = append(people, Person{Name: s.Name, Office: s.Name, From: "1970-01-01", Keys: []string{s.Key}})
		role.People = append(role.People, s.Name)
	}
	act := Act{Role: formerRole, Need: c.Threshold, Cooling: "0", Valid: DefaultValid, Touch: "no"}
	charter, agreement := act, act
	charter.Act, agreement.Act = ActCharter, ActAgreement
	return rules{people, []Role{role}, []Act{charter, agreement}}
}

func (r *rules) role(name string) Role {
	for _, x := range r.roles {
		if x.Name == name {
			return x
		}
	}
	return Role{}
}

// Upgraded returns a copy of c in version 3 at least, without a document: its
// signers as people of one role, who may do what they could.
func (c *Charter) Upgraded() Charter {
	n := *c
	if c.Version < 2 {
		n.Freshness, n.Witnessing = DefaultFreshness, c.DefaultWitnessing()
	}
	r := c.rules()
	n.Version, n.Threshold, n.Signers, n.doc = max(c.Version, Version), 0, nil, nil
	n.People, n.Roles, n.Acts = slices.Clone(r.people), slices.Clone(r.roles), slices.Clone(r.acts)
	if c.Version < 3 {
		n.Succession = Succession{After: "0"}
	}
	return n
}

// Act returns the rule for an act; false where nobody may do it.
func (c *Charter) Act(name ActName) (Act, bool) {
	acts := c.rules().acts
	i := slices.IndexFunc(acts, func(a Act) bool { return a.Act == name })
	if i < 0 {
		return Act{}, false
	}
	return acts[i], true
}

// PersonByName returns the person of that name.
func (c *Charter) PersonByName(name string) (Person, bool) {
	people := c.rules().people
	i := slices.IndexFunc(people, func(p Person) bool { return p.Name == name })
	if i < 0 {
		return Person{}, false
	}
	return people[i], true
}

// Everyone lists the people of the charter, in its order.
func (c *Charter) Everyone() []Person { return slices.Clone(c.rules().people) }

// Voters lists the people of a role whose signatures count at a time (the zero
// time: whenever), but for those who are barred.
func (c *Charter) Voters(role string, at time.Time, barred ...string) []Voter {
	r := c.rules()
	var voters []Voter
	for _, name := range r.role(role).People {
		p, ok := c.PersonByName(name)
		if ok && p.ServesAt(at) && !slices.Contains(barred, name) {
			voters = append(voters, Voter{Name: p.Name, Keys: p.Keys})
		}
	}
	return voters
}

// Quorum checks that as many people as an act needs signed doc in a namespace
// and returns their votes. at is the time of judging (the zero time: whenever);
// the barred count for nothing. It fails with [ErrNoAct], [ErrQuorum] or [ErrSignature].
func (c *Charter) Quorum(name ActName, namespace string, doc, sigs []byte, at time.Time, barred ...string) ([]Vote, error) {
	act, ok := c.Act(name)
	if !ok {
		return nil, fmt.Errorf("charter %d: %w: %s", c.Number, ErrNoAct, name)
	}
	votes, err := Tally(doc, sigs, namespace, c.Voters(act.Role, at, barred...), act.Touch == "yes")
	if err != nil {
		return nil, err
	}
	if act.Need < 1 {
		return nil, fmt.Errorf("charter %d: %s: %w: %d", c.Number, name, ErrThreshold, act.Need)
	}
	if len(votes) < act.Need {
		return votes, fmt.Errorf("charter %d: %s: %w: %d of the %d needed", c.Number, name, ErrQuorum, len(votes), act.Need)
	}
	return votes, nil
}
