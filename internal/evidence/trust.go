package evidence

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// trust is what follows from the one charter that the reader believes: who the embassies, witnesses and agents are,
// and by which policy checkpoints count.
type trust struct {
	given    bool               // by the reader, not taken from the file
	root     *charter.Charter   // the one that is believed
	chain    []*charter.Charter // rising, around root, without a gap
	policy   *ledger.Policy     // of the newest; nil where it has none that holds
	members  []member           // everyone who could ever cosign
	forked   []string           // charters of one number that both follow from the one before
	problems []string
}

// member is a cosigner that some charter of the chain names.
type member struct {
	name string
	keys []ledger.WitnessKey
}

// signs tells whether a ledger with this key is the member's own.
func (m *member) signs(key ed25519.PublicKey) bool {
	return slices.ContainsFunc(m.keys, func(k ledger.WitnessKey) bool { return key.Equal(ed25519.PublicKey(k.PublicKey())) })
}

func (m *member) has(k ledger.WitnessKey) bool { return slices.Contains(m.keys, k) }

// newTrust builds the chain. Backward a charter is known by its hash, which the next one names; forward by the
// signatures of its predecessor's quorum.
func newTrust(p *Pack, given *charter.Charter) (*trust, error) {
	t := &trust{given: given != nil, root: given}
	type candidate struct {
		c    *charter.Charter
		sigs []byte
	}
	var all []candidate
	for i := range p.Charters {
		c, err := charter.Parse(p.Charters[i].Document)
		if err == nil && c.State.ID != p.State {
			err = fmt.Errorf("of another state")
		}
		if err == nil {
			err = c.Verify(p.Charters[i].Signatures)
		}
		if err != nil {
			t.problems = append(t.problems, fmt.Sprintf("a charter in the file does not count: %v", err))
			continue
		}
		all = append(all, candidate{c, p.Charters[i].Signatures})
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return int(int64(a.c.Number) - int64(b.c.Number)) })
	if given == nil && len(all) > 0 {
		t.root = all[0].c
	}
	if t.root == nil || t.root.State.ID != p.State {
		return nil, fmt.Errorf("evidence: state %s: %w", p.State, ErrTrust)
	}
	t.chain = []*charter.Charter{t.root}
	for _, x := range slices.Backward(all) { // by falling number
		if first := t.chain[0]; x.c.Number+1 == first.Number && charter.EncodeDigest(x.c.Hash()) == first.Previous {
			t.chain = slices.Insert(t.chain, 0, x.c)
		}
	}
	for {
		last := t.newest()
		var next []*charter.Charter
		for _, x := range all {
			if x.c.Number == last.Number+1 && charter.CheckSuccession(last, x.c, x.sigs) == nil {
				next = append(next, x.c)
			}
		}
		if len(next) > 1 {
			t.forked = append(t.forked, fmt.Sprintf("%d charters of number %d are each signed by the quorum of charter %d", len(next), last.Number+1, last.Number))
		}
		if len(next) != 1 {
			break
		}
		t.chain = append(t.chain, next[0])
	}
	for _, x := range all {
		if t.at(x.c.Number) == nil || t.at(x.c.Number).Hash() != x.c.Hash() {
			t.problems = append(t.problems, fmt.Sprintf("charter %d (%s) does not follow from the charter that is trusted", x.c.Number, charter.EncodeDigest(x.c.Hash())))
		}
	}
	return t, t.gather()
}

// gather collects the policy and everyone who may cosign.
func (t *trust) gather() error {
	for _, c := range t.chain {
		p, err := c.Policy()
		if p == nil {
			continue
		}
		if c == t.newest() && err == nil {
			t.policy = p
		}
		for _, g := range p.Groups {
			for _, m := range g.Members {
				i := slices.IndexFunc(t.members, func(k member) bool { return slices.ContainsFunc(m.Keys, k.has) })
				if i < 0 {
					t.members = append(t.members, member{name: m.Name})
					i = len(t.members) - 1
				}
				for _, k := range m.Keys { // a later charter may give a member its second key
					if !t.members[i].has(k) {
						t.members[i].keys = append(t.members[i].keys, k)
					}
				}
			}
		}
	}
	return nil
}

func (t *trust) newest() *charter.Charter { return t.chain[len(t.chain)-1] }

// at returns the charter of the chain with this number, or nil.
func (t *trust) at(number uint64) *charter.Charter {
	first := t.chain[0].Number
	if number < first || number-first >= uint64(len(t.chain)) {
		return nil
	}
	return t.chain[number-first]
}

// embassy finds an embassy by its key, in the newest charter that has it.
func (t *trust) embassy(key ed25519.PublicKey) (charter.Embassy, bool) {
	for _, c := range slices.Backward(t.chain) {
		for _, e := range c.Embassies {
			if e.PublicKey().Equal(key) {
				return e, true
			}
		}
	}
	return charter.Embassy{}, false
}

// agent finds an agent by its key, in the newest charter that has it.
func (t *trust) agent(key [32]byte) (name string, ok bool) {
	for _, c := range slices.Backward(t.chain) {
		if a, ok := c.AgentByKey(key[:]); ok {
			return a.Name, true
		}
	}
	return "", false
}

// inspector says whether a charter lets the holder of a key audit, and who it is.
func (t *trust) inspector(key [32]byte) (who string, ok bool) {
	for _, c := range t.chain {
		ok = ok || c.Roster().MayInspect(key[:])
	}
	return t.who(key), ok
}

// who names a key for people: the party's name in the charters, or the key's fingerprint.
func (t *trust) who(key [32]byte) string {
	if name, ok := t.agent(key); ok {
		return "agent " + name
	}
	if e, ok := t.embassy(key[:]); ok {
		return "embassy " + e.Name
	}
	for _, c := range slices.Backward(t.chain) {
		r := c.Roster()
		if w, ok := r.WitnessByKey(key[:]); ok {
			return "witness " + w.Name
		}
		if r.IsRecovery(key[:]) {
			return "custodians"
		}
		for _, a := range c.Auditors {
			if a.PublicKey().Equal(ed25519.PublicKey(key[:])) {
				return "auditor " + a.Name
			}
		}
	}
	return charter.Fingerprint(key[:])
}

// says is the sentence on which all else rests.
func (t *trust) says() string {
	how := "the charter that the reader gave"
	if !t.given {
		how = "the first charter in the file, which nobody vouched for: compare its fingerprint with the state's people"
	}
	return fmt.Sprintf("charter %d of %s, SHA-256 %s (%s)", t.root.Number, t.root.State.Name, charter.EncodeDigest(t.root.Hash()), how)
}
