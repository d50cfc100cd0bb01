package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrPolicy: a witness policy that could not keep its promise.
var ErrPolicy = errors.New("the witness policy does not hold")

// Member is one witness of a group. It counts when each of its keys has
// cosigned, so a member with an Ed25519 and an ML-DSA key must show both.
type Member struct {
	Name string
	Keys []WitnessKey
}

// Group is the witnesses of one state. It has cosigned when Need of them have.
// Need is more than half of them: else two members, each honest, who were shown
// two histories would make one group vouch for both.
type Group struct {
	Name    string
	Need    int
	Members []Member
}

// Policy says which cosignatures make a checkpoint count: those of Need groups,
// while up to Faulty groups may lie. Any two sets of Need groups then share one
// that does not lie, and need never wait for one that does.
type Policy struct {
	Groups       []Group
	Need, Faulty int
}

// Log is a log as a policy sees it. Group and Member say where its operator
// stands in the policy: its own signature is its group's vote, and where the
// member with the log's key has others too, a cosignature by each of these must
// stand beside it. Both may be "".
type Log struct {
	Origin        string
	Key           ed25519.PublicKey
	Group, Member string
}

// Verdict is what a policy makes of a checkpoint.
type Verdict struct {
	Checkpoint Checkpoint
	Groups     []string // that vouch for it, the log's own among them, in the policy's order
	// Time is the moment at which all the other groups that are needed had still
	// seen no larger tree: so many of them cosigned then or later. Zero where none
	// is needed or there are not enough.
	Time   time.Time
	Enough bool
}

// Check refuses with ErrPolicy a policy with which two contradicting checkpoints
// could both be enough, or with which the faulty could keep any from being so.
func (p *Policy) Check() error {
	if p == nil {
		return fmt.Errorf("ledger: no policy: %w", ErrPolicy)
	}
	n := len(p.Groups)
	if n > maxSignatures {
		return fmt.Errorf("ledger: policy: %d groups, at most %d: %w", n, maxSignatures, ErrPolicy)
	}
	if p.Faulty < 0 || p.Need < 1 || p.Need > n || p.Faulty > n-p.Need {
		return fmt.Errorf("ledger: policy: need %d of %d groups with %d faulty: must be at least 1 and at most n-f: %w",
			p.Need, n, p.Faulty, ErrPolicy)
	}
	if 2*p.Need <= n+p.Faulty {
		return fmt.Errorf("ledger: policy: need %d of %d groups with %d faulty: must be more than (n+f)/2: %w",
			p.Need, n, p.Faulty, ErrPolicy)
	}
	return p.checkGroups()
}

// checkGroups sees that nobody counts twice and that all can sign one note.
func (p *Policy) checkGroups() error {
	groups, members, keys := map[string]bool{}, map[string]bool{}, map[string]bool{}
	room := maxCheckpoint - 1024 // the text and the log's own line have less than 1 KiB
	for _, g := range p.Groups {
		if g.Name == "" || groups[g.Name] {
			return fmt.Errorf("ledger: policy: group %q twice or without a name: %w", g.Name, ErrPolicy)
		}
		groups[g.Name] = true
		if g.Need > len(g.Members) || 2*g.Need <= len(g.Members) {
			return fmt.Errorf("ledger: policy: group %q needs %d of %d members: must be more than half: %w",
				g.Name, g.Need, len(g.Members), ErrPolicy)
		}
		for _, m := range g.Members {
			if m.Name == "" || members[m.Name] || len(m.Keys) == 0 {
				return fmt.Errorf("ledger: policy: member %q twice, or without a name or key: %w", m.Name, ErrPolicy)
			}
			members[m.Name] = true
			for _, k := range m.Keys {
				if k.alg == 0 || keys[k.key] {
					return fmt.Errorf("ledger: policy: member %q: a key twice or none: %w", m.Name, ErrPolicy)
				}
				keys[k.key] = true
				room -= k.lineSize()
			}
		}
	}
	if len(keys) >= maxSignatures || room < 0 {
		return fmt.Errorf("ledger: policy: the signatures of %d keys do not fit a note: %w", len(keys), ErrPolicy)
	}
	return nil
}

// keys lists the keys of all members.
func (p *Policy) keys() []WitnessKey {
	var keys []WitnessKey
	for _, g := range p.Groups {
		for _, m := range g.Members {
			keys = append(keys, m.Keys...)
		}
	}
	return keys
}

// Judge reads a checkpoint of the log and counts its cosignatures. It fails only
// for what is not the log's checkpoint (ErrFormat, ErrSignature), carries a false
// cosignature of a member (ErrSignature), or is judged by a policy that Check
// refuses (ErrPolicy). Too few cosignatures are no error: Enough is false.
func (p *Policy) Judge(raw []byte, log Log) (Verdict, error) {
	if err := p.Check(); err != nil {
		return Verdict{}, err
	}
	v, err := NewVerifier(log.Origin, log.Key)
	if err != nil {
		return Verdict{}, err
	}
	cp, err := ParseCheckpoint(raw, v)
	if err != nil {
		return Verdict{}, err
	}
	cosigned, err := Cosignatures(cp, p.keys())
	if err != nil {
		return Verdict{}, err
	}
	times := make(map[WitnessKey]time.Time, len(cosigned))
	for _, c := range cosigned {
		times[c.Key] = c.Time
	}
	own := log.Group
	if !p.signedWhole(log, times) {
		own = "" // the group may vouch by its other members
	}
	out := p.count(times, own)
	out.Checkpoint = cp
	return out, nil
}

// signedWhole tells whether a log's operator signed with all that the policy
// knows it by: the log's signature is that of one of its keys, and the others
// have cosigned.
func (p *Policy) signedWhole(log Log, times map[WitnessKey]time.Time) bool {
	own := func(k WitnessKey) bool { return k.alg == algCosigner && k.key == string(log.Key) }
	for _, g := range p.Groups {
		for _, m := range g.Members {
			if !slices.ContainsFunc(m.Keys, own) {
				continue
			}
			for _, k := range m.Keys {
				if _, ok := times[k]; !ok && !own(k) {
					return false
				}
			}
		}
	}
	return true
}

// count says which groups vouch for a checkpoint with these cosignatures of a
// log whose operator stands in the group own.
func (p *Policy) count(times map[WitnessKey]time.Time, own string) Verdict {
	var v Verdict
	var others []time.Time
	need := p.Need
	for i := range p.Groups {
		g := &p.Groups[i]
		if g.Name == own {
			v.Groups = append(v.Groups, g.Name)
			need--
			continue
		}
		if at, ok := g.cosigned(times); ok {
			v.Groups, others = append(v.Groups, g.Name), append(others, at)
		}
	}
	v.Enough = len(others) >= need
	if v.Enough && need > 0 {
		v.Time = newestTimes(others)[need-1]
	}
	return v
}

// cosigned is the latest moment at which Need members had cosigned.
func (g *Group) cosigned(times map[WitnessKey]time.Time) (time.Time, bool) {
	var at []time.Time
	for _, m := range g.Members {
		if t, ok := m.cosigned(times); ok {
			at = append(at, t)
		}
	}
	if len(at) < g.Need {
		return time.Time{}, false
	}
	return newestTimes(at)[g.Need-1], true
}

// cosigned is the earliest time of the member's keys, of which none may lack.
func (m *Member) cosigned(times map[WitnessKey]time.Time) (time.Time, bool) {
	var first time.Time
	for i, k := range m.Keys {
		t, ok := times[k]
		if !ok {
			return time.Time{}, false
		}
		if i == 0 || t.Before(first) {
			first = t
		}
	}
	return first, true
}

func newestTimes(at []time.Time) []time.Time {
	slices.SortFunc(at, func(a, b time.Time) int { return b.Compare(a) })
	return at
}

// Enough tells whether a witness that may have been put back knows all that it
// must, once these members (by name, itself left out) have told it what they had
// seen: whether those that are silent, together with its own group and with
// Faulty-1 groups that answered and lied, are too few to have made a checkpoint
// count behind its back. A witness put back is itself one of the faulty, which is
// why only Faulty-1 others lie; one that is no member counts on all Faulty.
// Where Need is 1 (one group alone), it is enough that all others answered:
// there is nobody left to ask.
func (p *Policy) Enough(self string, answered []string) bool {
	if p.Check() != nil {
		return false
	}
	could, rest, liars, silent := 0, 0, p.Faulty, 0
	for i := range p.Groups {
		own, quiet := false, 0
		for _, m := range p.Groups[i].Members {
			switch {
			case m.Name == self:
				own = true
			case !slices.Contains(answered, m.Name):
				quiet++
			}
		}
		silent += quiet
		switch {
		case own:
			liars = max(0, p.Faulty-1)
			could++
		case quiet >= p.Groups[i].Need:
			could++
		default:
			rest++
		}
	}
	if p.Need == 1 {
		return silent == 0
	}
	return could+min(rest, liars) < p.Need
}
