package evidence

import (
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// Outcome is what becomes of a claim.
type Outcome string

// The outcomes. Broken means that the claim is contradicted; by whom, if someone's own signature tells, stands beside
// it. Unknown means that something withheld or absent could decide either way.
const (
	Held    Outcome = "held"
	Broken  Outcome = "broken"
	Unknown Outcome = "unknown"
)

// Verdict is what a file proves.
type Verdict struct {
	State     string     `json:"state"` // id
	StateName string     `json:"state_name"`
	Made      time.Time  `json:"made"`        // as whoever made the file says
	Trust     string     `json:"trust"`       // what all of it rests on
	Given     bool       `json:"trust_given"` // by the reader; else the file's own first charter
	Charters  []uint64   `json:"charters"`    // numbers of those that follow from it
	Ledgers   []Shown    `json:"ledgers"`
	Findings  []Finding  `json:"findings"`
	Problems  []string   `json:"problems"` // of the file: parts that count for nothing
	Orders    []Ordering `json:"orders,omitempty"`
	Attested  []Attested `json:"attestations,omitempty"`
	Signed    []Signed   `json:"checkpoints"`
	Acts      []Act      `json:"acts"`          // in the order of each ledger
	ActsLeft  uint64     `json:"acts_left_out"` // leaves beyond those that Acts tells of
}

// Shown says how much of a ledger the file shows.
type Shown struct {
	Embassy     string     `json:"embassy"`
	Country     string     `json:"country"`
	Key         string     `json:"key"` // fingerprint
	From        uint64     `json:"from"`
	To          uint64     `json:"to"`
	Proven      uint64     `json:"proven"`   // leaves below are in a tree that the embassy signed
	Withheld    int        `json:"withheld"` // of them, those of which only the hash is shown
	Checkpoints int        `json:"checkpoints"`
	Cosigned    uint64     `json:"cosigned_size"`           // the largest tree that enough witnesses saw; 0 for none
	Groups      []string   `json:"cosigned_by,omitempty"`   // whose, by country
	Time        *time.Time `json:"cosigned_time,omitempty"` // by the witnesses' clocks
}

// Finding is the verdict on one claim.
type Finding struct {
	Claim   string   `json:"claim"`
	Says    string   `json:"says"` // the claim in words
	Outcome Outcome  `json:"outcome"`
	By      []Party  `json:"by,omitempty"` // whose own signatures show a wrong
	Because []string `json:"because"`      // what was found
	Rests   []Place  `json:"rests_on,omitempty"`
	Open    []string `json:"not_known,omitempty"` // what could decide otherwise
}

// Party is someone who signs.
type Party struct {
	Kind string `json:"kind"` // embassy, witness, agent, state
	Name string `json:"name"`
}

// String is the party in words.
func (p Party) String() string { return p.Kind + " " + p.Name }

// Place is a leaf.
type Place struct {
	Embassy string `json:"embassy"`
	Leaf    uint64 `json:"leaf"`
}

// maxRests is how many leaves a finding names at most.
const maxRests = 100

func (f *Finding) because(format string, args ...any) {
	f.Because = append(f.Because, fmt.Sprintf(format, args...))
}

func (f *Finding) open(format string, args ...any) {
	f.Open = append(f.Open, fmt.Sprintf(format, args...))
}

func (f *Finding) rest(embassy string, leaf uint64) {
	if p := (Place{embassy, leaf}); len(f.Rests) < maxRests && !slices.Contains(f.Rests, p) {
		f.Rests = append(f.Rests, p)
	}
}

func (f *Finding) blame(kind, name string) {
	if p := (Party{kind, name}); !slices.Contains(f.By, p) {
		f.By = append(f.By, p)
	}
}

// judge holds what is known while claims are judged.
type judge struct {
	p         *Pack
	t         *trust
	histories []*history
	docs      documents
	problems  []string
}

// maxDefaults caps the claims that are judged when none are named.
const maxDefaults = 2000

// Judge says what the file proves of each claim, or, where there are none, of those that its content suggests. trusted
// is the charter that the reader believes, any of the state's; nil takes the first of the file, and the verdict says
// so. It fails only with ErrTrust. The pack is not changed.
func Judge(p *Pack, claims []Claim, trusted *charter.Charter) (*Verdict, error) {
	j, err := newJudge(p, trusted)
	if err != nil {
		return nil, err
	}
	v := &Verdict{
		State: p.State.String(), StateName: j.t.root.State.Name, Made: p.Made.UTC(), Trust: j.t.says(), Given: j.t.given,
		Ledgers: []Shown{}, Findings: []Finding{}, Problems: []string{}, Signed: []Signed{}, Acts: []Act{},
	}
	for _, c := range j.t.chain {
		v.Charters = append(v.Charters, c.Number)
	}
	for _, h := range j.histories {
		v.Ledgers = append(v.Ledgers, h.shown())
		v.Signed = append(v.Signed, h.signed(j.t)...)
		j.acts(v, h)
	}
	v.Orders, v.Attested = j.orderings(), j.attested()
	if len(claims) == 0 {
		claims = j.defaults()
	}
	for _, c := range claims {
		v.Findings = append(v.Findings, j.judge(c))
	}
	v.Problems = append(v.Problems, j.problems...)
	return v, nil
}

func newJudge(p *Pack, trusted *charter.Charter) (*judge, error) {
	t, err := newTrust(p, trusted)
	if err != nil {
		return nil, err
	}
	j := &judge{p: p, t: t, problems: slices.Clone(t.problems)}
	for i := range p.Ledgers {
		h, ok := newHistory(t, p, &p.Ledgers[i])
		if ok {
			j.histories = append(j.histories, h)
		}
		j.problems = append(j.problems, h.problems...)
	}
	j.readDocuments()
	return j, nil
}

func (h *history) shown() Shown {
	s := Shown{
		Embassy: h.name, Country: h.embassy.Country, Key: charter.Fingerprint(h.Key), From: h.From, To: h.To(),
		Proven: h.anchored, Withheld: h.Withheld(), Checkpoints: len(h.says),
	}
	if best := h.best(); best != nil {
		s.Cosigned, s.Groups = best.size, best.verdict.Groups
		if at := best.verdict.Time; !at.IsZero() {
			s.Time = &at
		}
	}
	return s
}

func (j *judge) history(name string) *history {
	for _, h := range j.histories {
		if h.name == name {
			return h
		}
	}
	return nil
}

func (j *judge) judge(c Claim) Finding {
	f := Finding{Claim: c.String(), Says: c.says(), Outcome: Unknown, Because: []string{}}
	h := j.history(c.Party)
	switch c.Kind {
	case Charters:
		j.charters(&f)
	case Ordered, NeverOrdered:
		j.ordered(&f, c)
	case Heads:
		j.heads(&f, c)
	case Witness:
		j.witness(&f, c)
	case Possession:
		j.possession(&f, c)
	case Destroyed:
		j.destroyed(&f, uint32(c.Snapshot))
	case Erased:
		j.erased(&f, c)
	default:
		if h == nil {
			f.open("no ledger of embassy %s is in the file", c.Party)
			return f
		}
		switch c.Kind {
		case OneHistory:
			j.oneHistory(&f, h)
		case Fresh:
			j.fresh(&f, h)
		case Stored:
			j.stored(&f, h, c)
		case Delivered, NeverStored:
			j.delivered(&f, h, c)
		case Lost:
			j.lost(&f, h, c)
		case Executed:
			j.execution(&f, h, c)
		case Waited:
			j.waited(&f, h, c)
		case Kept:
			j.kept(&f, h, c)
		case Removals:
			j.removals(&f, h)
		default:
			f.open("this program knows no such claim")
		}
	}
	return f
}

// defaults are the claims that the file's content suggests.
func (j *judge) defaults() []Claim {
	claims := []Claim{{Kind: Charters}}
	for _, h := range j.histories {
		claims = append(claims, Claim{Kind: OneHistory, Party: h.name}, Claim{Kind: Fresh, Party: h.name})
		if slices.ContainsFunc(j.docs.reports, func(r report) bool { return r.Embassy == [16]byte(h.embassy.ID) }) {
			claims = append(claims, Claim{Kind: Possession, Party: h.name})
		}
		lost := j.unmended(h)
		if more := len(lost) - maxAdmitted; more > 0 {
			j.problems = append(j.problems, fmt.Sprintf("embassy %s says that it lost %d more objects, which are not judged; name them as claims", h.name, more))
		}
		for _, n := range lost[:min(len(lost), maxAdmitted)] {
			claims = append(claims, Claim{Kind: Lost, Party: h.name, Object: n})
		}
	}
	for i := range j.t.members {
		c := Claim{Kind: Witness, Party: j.t.members[i].name}
		if f := j.judge(c); f.Outcome == Broken {
			claims = append(claims, c)
		}
	}
	claims = append(claims, j.orderDefaults()...)
	claims = append(claims, j.erasureDefaults()...)
	for _, register := range j.docs.registers {
		claims = append(claims, Claim{Kind: Heads, Register: register})
	}
	for i, place := range j.docs.places {
		if len(claims) > maxDefaults {
			j.problems = append(j.problems, fmt.Sprintf("%d more snapshots are not judged; name them as claims", len(j.docs.places)-i))
			break
		}
		claims = append(claims, Claim{Kind: Ordered, Register: place.Register, Snapshot: place.Sequence})
		for _, h := range j.histories {
			if slices.ContainsFunc(j.docs.heads[place], func(d headDoc) bool { return slices.Contains(d.Members, [16]byte(h.embassy.ID)) }) {
				claims = append(claims, Claim{Kind: Stored, Register: place.Register, Snapshot: place.Sequence, Party: h.name})
			}
		}
	}
	return claims
}

// Count says how many findings have this outcome.
func (v *Verdict) Count(o Outcome) (n int) {
	for i := range v.Findings {
		if v.Findings[i].Outcome == o {
			n++
		}
	}
	return n
}

// headSlot is where a head's leaf is.
func headSlot(register [16]byte, n uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.Head, Register: register, Sequence: n}
}
