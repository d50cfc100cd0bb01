package home

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/seal"
)

var (
	// ErrNoRefresh means that no refresh of custody is under way.
	ErrNoRefresh = errors.New("no refresh of custody is under way")
	// ErrMoved means that a register was added or changed after the custodians met: what they prepared would not open it.
	ErrMoved = errors.New("changed after the custodians met")
	// ErrByRefresh means that a charter has another generation of the opening key, and comes into force with the records
	// and kits that belong to it or not at all.
	ErrByRefresh = errors.New("a new generation of the opening key comes into force by its refresh alone")
)

// Refresh is the next generation of the opening key: all that it takes, sealed. Nothing of it counts until the charter
// that names it is adopted; until then, and if that never comes, the generation before works as it did.
type Refresh struct {
	Charter *charter.Charter    // the one that is proposed, with the new keys and commitments
	Sig     []byte              // its signatures so far
	Records []*charter.Register // of every register that survives, sealed to the new opening key, in order of id
	Erased  []Erased            // the registers that were left out
	custody charter.Custody     // what the charter is to say of custody, whatever else it says when it is adopted
	path    string              // of the proposed charter
	shares  map[string][]byte   // of each custodian, an age file
	dir     string
}

// Erased is a register that the next generation does not open.
type Erased struct {
	Name    string             `yaml:"name"`
	ID      charter.RegisterID `yaml:"-"`
	Text    string             `yaml:"id"`
	Readers int                `yaml:"readers"` // whose own keys open what hosts kept, until they are destroyed too
}

// Survey is one register as home and embassies know it: the record that counts, and the highest number of a record
// that was seen of it anywhere, which the next record must exceed.
type Survey struct {
	Record *charter.Register
	Seen   uint64
}

// Generation returns the number of the opening key that the refresh makes.
func (r *Refresh) Generation() uint32 { return r.custody.Generation }

// Prepare makes the next generation of the opening key, for the custodians given, of whom quorum open. Every register
// surveyed is opened with opening and sealed to the new key, unless its name is in erase. The new seed lives in this
// function only, and what is left of it are shares that custodians alone open. It lies in the home folder, whole or not
// at all, and takes the place of a refresh that was not adopted.
func (h *Home) Prepare(opening *seal.PrivateKey, surveys []Survey, quorum int, holders []Holder, erase []string) (*Refresh, error) {
	r := &Refresh{shares: map[string][]byte{}}
	now := h.Charter.Custody.Generation
	secrets, kept, err := r.open(opening, now, surveys, erase)
	defer func() {
		for _, s := range secrets {
			*s = charter.RegisterSecrets{}
		}
	}()
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	defer clear(seed[:])
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	if r.custody, err = r.split(&seed, h.Charter.State.ID, now+1, quorum, holders); err != nil {
		return nil, err
	}
	next := h.Charter.Next()
	next.Custody = r.custody
	if r.Charter, err = charter.New(next); err != nil { // a draft: it says whether the plan is possible, and keeps the keys
		return nil, err
	}
	fresh, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(&seed))
	if err != nil {
		return nil, err
	}
	agent, err := h.AgentKey()
	if err != nil {
		return nil, err
	}
	for i, s := range kept {
		rec, err := reseal(s, secrets[i], fresh, now+1, agent)
		if err != nil {
			return nil, err
		}
		r.Records = append(r.Records, rec)
	}
	if err := h.keepRefresh(r); err != nil {
		return nil, err
	}
	_, err = h.ProposeRefresh(r)
	return r, err
}

// open opens the registers that survive, and lists the others.
func (r *Refresh) open(opening *seal.PrivateKey, generation uint32, surveys []Survey, erase []string) (secrets []*charter.RegisterSecrets, kept []Survey, err error) {
	surveys = slices.Clone(surveys)
	slices.SortFunc(surveys, func(a, b Survey) int { return bytes.Compare(a.Record.ID[:], b.Record.ID[:]) })
	left := slices.Clone(erase)
	for _, s := range surveys {
		plain, err := OpenSecrets(s.Record, opening, generation)
		if err == nil {
			err = fits(s.Record, plain)
		}
		if err != nil {
			return secrets, nil, err
		}
		if slices.Contains(erase, plain.Name) {
			r.Erased = append(r.Erased, Erased{Name: plain.Name, ID: s.Record.ID, Text: s.Record.ID.String(), Readers: len(s.Record.Grants)})
			left = slices.DeleteFunc(left, func(n string) bool { return n == plain.Name })
			*plain = charter.RegisterSecrets{}
			continue
		}
		secrets, kept = append(secrets, plain), append(kept, s)
	}
	if len(left) > 0 {
		return secrets, nil, fmt.Errorf("%w: %q", ErrNoRegister, left[0])
	}
	return secrets, kept, nil
}

// fits checks that secrets are those of the record's own key: what is carried into the next generation must be what
// opens the register, and not something that was sealed to the opening key by somebody else.
func fits(rec *charter.Register, s *charter.RegisterSecrets) error {
	key, err := seal.NewPrivateKey(s.Seed)
	if err != nil {
		return err
	}
	if !bytes.Equal(key.Public().Bytes(), rec.PublicKey) {
		return fmt.Errorf("register %s: %w: its record holds another register's key", rec.ID, charter.ErrRegister)
	}
	return nil
}

// split makes the shares, seals each to its custodian, and says what the charter says of them.
func (r *Refresh) split(seed *[32]byte, state charter.StateID, generation uint32, quorum int, holders []Holder) (charter.Custody, error) {
	names := make([]string, len(holders))
	for i, k := range holders {
		names[i] = k.Name
	}
	shares, commitments, err := custody.Split(rand.Reader, seed, state, generation, quorum, names)
	if err != nil {
		return charter.Custody{}, err
	}
	defer clear(shares)
	// What cannot be brought back must not be sealed to: combined once, before anything rests on it.
	again, err := custody.Combine(shares, commitments)
	if err != nil {
		return charter.Custody{}, err
	}
	defer clear(again[:])
	if *again != *seed {
		return charter.Custody{}, fmt.Errorf("custody: generation %d: %w", generation, custody.ErrInconsistent)
	}
	opening, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		return charter.Custody{}, err
	}
	access := custody.DeriveAccessKey(seed)
	defer clear(access)
	c := charter.Custody{
		Generation: generation, Threshold: quorum,
		OpeningKey:  base64.StdEncoding.EncodeToString(opening.Public().Bytes()),
		RecoveryKey: charter.EncodeKey(access.Public().(ed25519.PublicKey)),
	}
	for i, k := range commitments {
		c.Custodians = append(c.Custodians, charter.Custodian{
			Name: names[i], X: k.X, Recipient: holders[i].Recipient, Commitment: charter.EncodeDigest(k.Hash),
		})
		if r.shares[names[i]], err = custody.SealShare(shares[i], holders[i].Recipient); err != nil {
			return charter.Custody{}, err
		}
	}
	return c, nil
}

// reseal makes the record that follows s, with the same secrets sealed to another opening key and nothing else changed.
func reseal(s Survey, secrets *charter.RegisterSecrets, opening *seal.PrivateKey, generation uint32, agent ed25519.PrivateKey) (*charter.Register, error) {
	rec := *s.Record
	rec.Sequence, rec.Time = max(s.Seen, rec.Sequence)+1, time.Now().UnixNano()
	plain, err := secrets.Marshal()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if rec.Sealed, err = seal.Wrap(opening.Public(), wrapInfo(rec.State, rec.ID, generation), plain); err != nil {
		return nil, err
	}
	if err := rec.Sign(agent); err != nil {
		return nil, err
	}
	again, err := OpenSecrets(&rec, opening, generation)
	if err != nil {
		return nil, err
	}
	same := *again == *secrets
	*again = charter.RegisterSecrets{}
	if !same {
		return nil, fmt.Errorf("register %s: %w: not what was sealed", rec.ID, charter.ErrRegister)
	}
	return &rec, nil
}
