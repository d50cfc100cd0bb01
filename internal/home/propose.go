package home

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// Errors of charters that several people sign.
var (
	// ErrProposed means that the next charter was written down, and people must sign it before it is in force.
	ErrProposed = errors.New("proposed, not in force yet")
	// ErrNoProposal means that no charter is proposed.
	ErrNoProposal = errors.New("no charter is proposed")
	// ErrUnsigned means that a state's first charter is not in force, because too few have signed it.
	ErrUnsigned = errors.New("the first charter is not signed yet")
)

// Proposal is a charter that is not in force yet, with the signatures that it has.
type Proposal struct {
	Path    string // of the document; the signatures are beside it, in Path.sig
	Charter *charter.Charter
	Sig     []byte
}

func proposalPath(dir string, number uint64) string {
	return filepath.Join(dir, "proposals", charterFile(number))
}

// ReadProposal reads the charter that is proposed after charter number in a home folder, which may be one whose first
// charter is not in force yet: number is 0 then.
func ReadProposal(dir string, number uint64) (*Proposal, error) {
	path := proposalPath(dir, number+1)
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoProposal)
	}
	if err != nil {
		return nil, err
	}
	c, err := charter.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sig, err := os.ReadFile(path + ".sig")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Proposal{Path: path, Charter: c, Sig: sig}, nil
}

// Proposal returns the charter that is proposed after the one in force, or [ErrNoProposal].
func (h *Home) Proposal() (*Proposal, error) { return ReadProposal(h.Dir, h.Charter.Number) }

// Next is what a change of the charter begins from: the charter that is proposed already, so that several changes are
// signed together, and otherwise the one that would follow.
func (h *Home) Next() (charter.Charter, error) {
	p, err := h.Proposal()
	if errors.Is(err, ErrNoProposal) {
		return h.Charter.Next(), nil
	}
	if err != nil {
		return charter.Charter{}, err
	}
	if p.Charter.Previous != charter.EncodeDigest(h.Charter.Hash()) {
		return charter.Charter{}, fmt.Errorf("%s: follows another charter %d than the one in force: %w", p.Path, h.Charter.Number, charter.ErrSuccession)
	}
	// As Next of the charter in force, whose number and previous the proposal bears.
	next := p.Charter.Next()
	next.Number, next.Previous = p.Charter.Number, p.Charter.Previous
	return next, nil
}

// Propose writes the next charter down for people to sign. The signatures that a proposal of other bytes had are gone
// with it. A crash leaves the proposal before, this one without signatures, or this one; never signatures of another,
// which would be refused anyway.
func (h *Home) Propose(next charter.Charter) (*Proposal, error) {
	c, err := charter.New(next)
	if err != nil {
		return nil, err
	}
	if err := h.preparedCustody(c); err != nil {
		return nil, err
	}
	if c.Number != h.Charter.Number+1 || c.Previous != charter.EncodeDigest(h.Charter.Hash()) {
		return nil, fmt.Errorf("charter %d: %w: it does not follow charter %d", c.Number, charter.ErrSuccession, h.Charter.Number)
	}
	return propose(h.Dir, c)
}

func propose(dir string, c *charter.Charter) (*Proposal, error) {
	path := proposalPath(dir, c.Number)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, c.Bytes()) {
		return ReadProposal(dir, c.Number-1)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path + ".sig"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := durable.WriteFile(path, c.Bytes(), 0o644); err != nil {
		return nil, err
	}
	return &Proposal{Path: path, Charter: c}, nil
}

// Withdraw takes the proposal back. A crash leaves it, without its signatures or whole.
func (h *Home) Withdraw() error {
	p, err := h.Proposal()
	if err != nil {
		return err
	}
	return remove(p.Path)
}

func remove(path string) error {
	for _, f := range []string{path + ".sig", path} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

// Adopt makes the next charter the newest, here and in the kits, if home's own signature is enough for it. Otherwise
// the charter is proposed, with home's signature where it counts for one, and the error is [ErrProposed]. Embassies are
// told by the caller.
//
// A crash after the numbered file leaves the old charter in force, and the next Adopt writes the number again; a
// crash between charter.yaml and its signature is mended by Adopt too, because the numbered pair is whole by then.
func (h *Home) Adopt(next charter.Charter) error {
	c, err := charter.New(next)
	if err != nil {
		return err
	}
	if err := h.preparedCustody(c); err != nil {
		return err
	}
	sig, err := h.ownSignature(c)
	if err != nil {
		return err
	}
	_, pending := h.Proposal()
	if err = charter.CheckSuccession(h.Charter, c, sig); err == nil && errors.Is(pending, ErrNoProposal) {
		return h.enact(c, sig)
	}
	if err != nil && !errors.Is(err, charter.ErrQuorum) {
		return err
	}
	p, err := h.Propose(*c)
	if err != nil {
		return err
	}
	if len(sig) > 0 {
		if err := p.Add(sig); err != nil {
			return err
		}
	}
	return fmt.Errorf("charter %d: %w", c.Number, ErrProposed)
}

// sameGeneration refuses a charter with another opening key: AdoptRefresh puts it in force, together with the records
// and kits without which all would be lost.
func (h *Home) sameGeneration(c *charter.Charter) error {
	if h.Charter != nil && c.Custody.Generation != h.Charter.Custody.Generation {
		return fmt.Errorf("charter %d: %w", c.Number, ErrByRefresh)
	}
	return nil
}

// preparedCustody refuses a proposal with another opening key than one that custodians prepared.
func (h *Home) preparedCustody(c *charter.Charter) error {
	if h.sameGeneration(c) == nil {
		return nil
	}
	r, err := h.readRefresh(c.Custody.Generation)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !reflect.DeepEqual(r.custody, c.Custody) {
		return fmt.Errorf("charter %d: %w of its opening key", c.Number, ErrNoRefresh)
	}
	return err
}

// ownSignature is home's signature of a charter, or none where home has no key that signs charters.
func (h *Home) ownSignature(c *charter.Charter) ([]byte, error) {
	key, err := h.signer()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return charter.Sign(c.Bytes(), key)
}

// Add puts signatures beside a proposal, if all of them can be read. Those of people whom no charter names do no harm.
func (p *Proposal) Add(sig []byte) error {
	all := append(bytes.Clone(p.Sig), sig...)
	if _, err := charter.Tally(p.Charter.Bytes(), all, charter.Namespace, everyone(p.Charter), false); err != nil {
		return err
	}
	// A crash before this leaves the signatures that were there.
	if err := durable.WriteFile(p.Path+".sig", all, 0o644); err != nil {
		return err
	}
	p.Sig = all
	return nil
}

func everyone(c *charter.Charter) []charter.Voter {
	var all []charter.Voter
	for _, p := range c.Everyone() {
		all = append(all, charter.Voter{Name: p.Name, Keys: p.Keys})
	}
	return all
}

// Standing is how far a proposal is signed, under one charter.
type Standing struct {
	Have, Missing []string // names of those who signed, and of those who still may
	Need          int
}

// Enough reports whether as many as are needed have signed.
func (s *Standing) Enough() bool { return s.Need > 0 && len(s.Have) >= s.Need }

// Signed tells how far the proposal is signed by those whom the charter in force asks (nil for a first charter), and by
// those whom it asks itself. Both must be enough.
func (p *Proposal) Signed(force *charter.Charter, now time.Time) (before, own Standing, err error) {
	if own, err = p.standing(p.Charter, now); err != nil || force == nil {
		return own, own, err
	}
	before, err = p.standing(force, now)
	return before, own, err
}

func (p *Proposal) standing(c *charter.Charter, now time.Time) (Standing, error) {
	act, _ := c.Act(charter.ActCharter)
	voters := c.Voters(act.Role, now)
	votes, err := charter.Tally(p.Charter.Bytes(), p.Sig, charter.Namespace, voters, act.Touch == "yes")
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Need: act.Need}
	for _, v := range voters {
		if slices.ContainsFunc(votes, func(x charter.Vote) bool { return x.Name == v.Name }) {
			s.Have = append(s.Have, v.Name)
		} else {
			s.Missing = append(s.Missing, v.Name)
		}
	}
	return s, nil
}

// AdoptProposal puts the proposed charter in force, here and in the kits, if enough have signed it. Where embassies
// take a charter by an order alone, it is for the caller to see that they did.
func (h *Home) AdoptProposal() error {
	p, err := h.Proposal()
	if err != nil {
		return err
	}
	if err := h.sameGeneration(p.Charter); err != nil {
		return err
	}
	if err := charter.CheckSuccession(h.Charter, p.Charter, p.Sig); err != nil {
		return err
	}
	if err := h.enact(p.Charter, p.Sig); err != nil {
		return err
	}
	return remove(p.Path) // a crash before leaves a proposal of a number that is past, which nothing reads
}

// AdoptFirst puts the first charter of a new home in force.
func AdoptFirst(dir string) (*Home, error) {
	unlock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	p, err := ReadProposal(dir, 0)
	if err == nil {
		err = p.Charter.Verify(p.Sig)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	h := &Home{Dir: dir, unlock: unlock}
	if err = h.enact(p.Charter, p.Sig); err == nil {
		err = remove(p.Path)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Home) enact(c *charter.Charter, sig []byte) error {
	if err := h.sameGeneration(c); err != nil {
		return err
	}
	if err := writeCharter(h.Dir, c, sig); err != nil {
		return err
	}
	h.Charter = c
	return h.renewKits(sig)
}
