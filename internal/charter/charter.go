package charter

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

const (
	// Version is the version of the charter's layout that this program writes
	// where no embassy has an ML-DSA-44 key. It reads versions 1 and 2 too.
	Version = 3
	// VersionMLDSA is the version in which embassies may have ML-DSA-44 keys; it
	// is written where one has, so that programs which know less lose nothing else.
	VersionMLDSA = 4
	// Suite is the one suite of algorithms that this program knows.
	Suite = "chancery-1"
	// MaxSize is the most bytes a charter may have.
	MaxSize = 1 << 20
)

// ErrInvalid is returned for a charter that breaks a rule of its own.
var ErrInvalid = errors.New("invalid charter")

// Charter is one charter of a state. Its fields follow the document from top to
// bottom; docs/spec/charter.md says what each means.
//
// A Charter from [Parse] or [New] carries the exact bytes it was read from.
// Changing its fields does not change those bytes: take [Charter.Next], change
// that, and make it a charter with [New].
type Charter struct {
	Version int   `yaml:"version"`
	State   State `yaml:"state"`
	// Number counts the charters of the state: 1, 2, 3 …
	Number uint64 `yaml:"number"`
	// Previous is the SHA-256 of the charter before, as [EncodeDigest] writes
	// it, and empty in charter 1.
	Previous string `yaml:"previous"`
	Suite    string `yaml:"suite"`
	// Threshold is how many of Signers must sign a charter. Version 3 has People,
	// Roles and Acts in their place; ask [Charter.Act] and [Charter.Voters].
	Threshold int       `yaml:"threshold"`
	Signers   []Signer  `yaml:"signers"`
	People    []Person  `yaml:"people"`
	Roles     []Role    `yaml:"roles"`
	Acts      []Act     `yaml:"acts"`
	Custody   Custody   `yaml:"custody"`
	Agents    []Agent   `yaml:"agents"`
	Embassies []Embassy `yaml:"embassies"`

	// From here on version 1 has nothing.

	// Freshness is how old, in hours, the newest cosigned checkpoint may be,
	// 1 to 8,760; see [Charter.FreshFor].
	Freshness  int        `yaml:"freshness_hours"`
	Witnesses  []Witness  `yaml:"witnesses"`
	Witnessing Witnessing `yaml:"witnessing"`
	Auditors   []Auditor  `yaml:"auditors"`

	// And from here on version 2 has nothing.

	Houses     []House    `yaml:"houses"`
	Succession Succession `yaml:"succession"`

	doc []byte // exact bytes; nil for a value that was put together by hand
}

// State says whose charter it is.
type State struct {
	ID   StateID `yaml:"id"`
	Name string  `yaml:"name"` // for people, at most 128 bytes
	Code string  `yaml:"code"` // ISO 3166-1 alpha-2 form: two uppercase letters
	// HouseOf is the id of the state of which this is a house, or empty; from
	// version 3 on.
	HouseOf string `yaml:"house_of"`
}

// Signer is a person who may sign charters.
type Signer struct {
	Name string `yaml:"name"`
	// Key is an ssh-ed25519 or sk-ssh-ed25519@openssh.com public key: type and
	// base64, one space between, no comment.
	Key string `yaml:"key"`
}

// Custody says who holds the shares of the opening key.
type Custody struct {
	// Generation is the number of the opening key, from 1, only ever rising.
	Generation uint32 `yaml:"generation"`
	// Threshold is how many custodians open.
	Threshold int `yaml:"threshold"`
	// OpeningKey is the X-Wing public key in base64; see [ParseOpeningKey].
	OpeningKey string `yaml:"opening_key"`
	// RecoveryKey is the Ed25519 public key in base64 that may read everything
	// at embassies and write nothing. Its private half comes from the shares.
	RecoveryKey string      `yaml:"recovery_key"`
	Custodians  []Custodian `yaml:"custodians"`
}

// Custodian holds share X of the opening key. X runs from 1 in list order.
type Custodian struct {
	Name string `yaml:"name"`
	X    uint8  `yaml:"x"`
	// Recipient is the custodian's post-quantum age public key, age1pq1….
	Recipient string `yaml:"recipient"`
	// Commitment is the salted SHA-256 of the share, as [EncodeDigest] writes it.
	Commitment string `yaml:"commitment"`
}

// Agent is a machine that may write and cannot read.
type Agent struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // Ed25519 public key in base64; see [ParseKey]
	// Until is the last day on which it may write; empty: no end. From version 3 on.
	Until Date `yaml:"until"`
}

// Embassy is one site of the state in a host state.
type Embassy struct {
	Name    string    `yaml:"name"`
	Country string    `yaml:"country"` // two uppercase letters
	ID      EmbassyID `yaml:"id"`      // always EmbassyIDOf(Key)
	Key     string    `yaml:"key"`     // Ed25519 public key in base64; see [ParseKey]
	// MLDSAKey is as of a [Witness]: the key by which the embassy cosigns beside
	// Key, or empty. From version 4 on.
	MLDSAKey string   `yaml:"mldsa_key"`
	URLs     []string `yaml:"urls"`   // https addresses without a trailing slash, best first
	Origin   string   `yaml:"origin"` // origin line of the state's ledger there
}

// PublicKey returns the agent's key, or nil where Key is not one.
func (a Agent) PublicKey() ed25519.PublicKey {
	k, _ := ParseKey(a.Key)
	return k
}

// PublicKey returns the embassy's key, or nil where Key is not one.
func (e Embassy) PublicKey() ed25519.PublicKey {
	k, _ := ParseKey(e.Key)
	return k
}

// New writes the document of c and parses it again, so that what it returns is
// exactly what others will read. c itself is not kept. Where c does not say how
// fresh a checkpoint must be, it is [DefaultFreshness]; where it has no
// witnessing at all, that is [Charter.DefaultWitnessing]. A version 3 in which an
// embassy has an ML-DSA-44 key becomes [VersionMLDSA].
func New(c Charter) (*Charter, error) {
	if c.Version >= 2 {
		if c.Freshness == 0 {
			c.Freshness = DefaultFreshness
		}
		if w := c.Witnessing; w.Need == 0 && w.Faulty == 0 && len(w.Groups) == 0 {
			c.Witnessing = c.DefaultWitnessing()
		}
	}
	if c.Version >= 3 {
		c.fillRules()
	}
	if c.Version == Version && slices.ContainsFunc(c.Embassies, func(e Embassy) bool { return e.MLDSAKey != "" }) {
		c.Version = VersionMLDSA
	}
	doc, err := c.Marshal()
	if err != nil {
		return nil, err
	}
	return Parse(doc)
}

// Bytes returns a copy of the exact document, or nil for a Charter that came
// from neither [Parse] nor [New].
func (c *Charter) Bytes() []byte { return bytes.Clone(c.doc) }

// Hash returns the SHA-256 of the exact document: the charter's identity.
func (c *Charter) Hash() [32]byte { return sha256.Sum256(c.doc) }

// Next returns a copy of c to be changed into the charter that follows it:
// Number is one higher, Previous is the hash of c, and there is no document yet.
// A version 1 becomes a version 2, and what it does not say is filled with the
// defaults; version 3 comes by [Charter.Upgraded] alone, for it is for people to
// say who may do what. Whoever adds embassies or witnesses to it sets its Witnessing
// anew, to [Charter.GrownWitnessing] or to what the state decided.
func (c *Charter) Next() Charter {
	n := *c
	n.Number++
	n.Previous = EncodeDigest(c.Hash())
	n.Signers = slices.Clone(c.Signers)
	n.Custody.Custodians = slices.Clone(c.Custody.Custodians)
	n.Agents = slices.Clone(c.Agents)
	n.Embassies = slices.Clone(c.Embassies)
	for i := range n.Embassies {
		n.Embassies[i].URLs = slices.Clone(n.Embassies[i].URLs)
	}
	n.Witnesses = slices.Clone(n.Witnesses)
	n.Witnessing.Groups = slices.Clone(n.Witnessing.Groups)
	n.Auditors = slices.Clone(n.Auditors)
	n.People = slices.Clone(c.People)
	for i := range n.People {
		n.People[i].Keys = slices.Clone(n.People[i].Keys)
	}
	n.Roles = slices.Clone(c.Roles)
	for i := range n.Roles {
		n.Roles[i].People = slices.Clone(n.Roles[i].People)
	}
	n.Acts, n.Houses = slices.Clone(c.Acts), slices.Clone(c.Houses)
	if n.Version < 2 {
		n.Version, n.Freshness, n.Witnessing = 2, DefaultFreshness, n.DefaultWitnessing()
	}
	n.doc = nil
	return n
}

// EmbassyByName returns the embassy of that name.
func (c *Charter) EmbassyByName(name string) (Embassy, bool) {
	i := slices.IndexFunc(c.Embassies, func(e Embassy) bool { return e.Name == name })
	if i < 0 {
		return Embassy{}, false
	}
	return c.Embassies[i], true
}

// EmbassyByID returns the embassy with that id.
func (c *Charter) EmbassyByID(id EmbassyID) (Embassy, bool) {
	i := slices.IndexFunc(c.Embassies, func(e Embassy) bool { return e.ID == id })
	if i < 0 {
		return Embassy{}, false
	}
	return c.Embassies[i], true
}

// AgentByKey returns the agent with that Ed25519 public key.
func (c *Charter) AgentByKey(key ed25519.PublicKey) (Agent, bool) {
	text := EncodeKey(key)
	i := slices.IndexFunc(c.Agents, func(a Agent) bool { return a.Key == text })
	if i < 0 {
		return Agent{}, false
	}
	return c.Agents[i], true
}

// Roster answers whose key it is, quickly. It is a snapshot of one charter,
// never changes, and may be used by any number of goroutines.
type Roster struct {
	agents    map[[ed25519.PublicKeySize]byte]Agent
	embassies map[[ed25519.PublicKeySize]byte]Embassy
	witnesses map[[ed25519.PublicKeySize]byte]Witness
	auditors  map[[ed25519.PublicKeySize]byte]Auditor
	recovery  [ed25519.PublicKeySize]byte
}

// Roster returns the lookups for c, which must be valid; keys that cannot be
// read are in no lookup.
func (c *Charter) Roster() *Roster {
	r := &Roster{
		agents:    make(map[[32]byte]Agent, len(c.Agents)),
		embassies: make(map[[32]byte]Embassy, len(c.Embassies)),
		witnesses: make(map[[32]byte]Witness, len(c.Witnesses)),
		auditors:  make(map[[32]byte]Auditor, len(c.Auditors)),
	}
	for _, a := range c.Agents {
		if k, err := ParseKey(a.Key); err == nil {
			r.agents[[32]byte(k)] = a
		}
	}
	for _, e := range c.Embassies {
		if k, err := ParseKey(e.Key); err == nil {
			r.embassies[[32]byte(k)] = e
		}
	}
	for _, w := range c.Witnesses {
		if k, err := ParseKey(w.Key); err == nil {
			r.witnesses[[32]byte(k)] = w
		}
	}
	for _, a := range c.Auditors {
		if k, err := ParseKey(a.Key); err == nil {
			r.auditors[[32]byte(k)] = a
		}
	}
	if k, err := ParseKey(c.Custody.RecoveryKey); err == nil {
		r.recovery = [32]byte(k)
	}
	return r
}

// IsAgent reports whether key is an agent's: it may read and write objects and records.
func (r *Roster) IsAgent(key ed25519.PublicKey) bool {
	_, ok := r.Agent(key)
	return ok
}

// Agent returns the agent with that key.
func (r *Roster) Agent(key ed25519.PublicKey) (Agent, bool) {
	if len(key) != ed25519.PublicKeySize {
		return Agent{}, false
	}
	a, ok := r.agents[[32]byte(key)]
	return a, ok
}

// IsRecovery reports whether key is the recovery key: it may read and never write.
func (r *Roster) IsRecovery(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && r.recovery != [32]byte{} && r.recovery == [32]byte(key)
}

// EmbassyByKey returns the embassy with that key.
func (r *Roster) EmbassyByKey(key ed25519.PublicKey) (Embassy, bool) {
	if len(key) != ed25519.PublicKeySize {
		return Embassy{}, false
	}
	e, ok := r.embassies[[32]byte(key)]
	return e, ok
}

// WitnessByKey returns the witness of the charter's list with that Ed25519 key.
func (r *Roster) WitnessByKey(key ed25519.PublicKey) (Witness, bool) {
	if len(key) != ed25519.PublicKeySize {
		return Witness{}, false
	}
	w, ok := r.witnesses[[32]byte(key)]
	return w, ok
}

// IsWitness reports whether key is a witness's of the charter's list: it may
// read ledgers and cosign. Embassies cosign too and are in a list of their own.
func (r *Roster) IsWitness(key ed25519.PublicKey) bool {
	_, ok := r.WitnessByKey(key)
	return ok
}

// IsAuditor reports whether key is an auditor's: it may read ledgers, have
// embassies audited, and write nothing.
func (r *Roster) IsAuditor(key ed25519.PublicKey) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	_, ok := r.auditors[[32]byte(key)]
	return ok
}

// MayInspect reports whether the holder of key may read ledgers and have an
// embassy audited: agents, recovery, embassies, witnesses and auditors.
func (r *Roster) MayInspect(key ed25519.PublicKey) bool {
	_, embassy := r.EmbassyByKey(key)
	return embassy || r.IsAgent(key) || r.IsRecovery(key) || r.IsWitness(key) || r.IsAuditor(key)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("charter: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
