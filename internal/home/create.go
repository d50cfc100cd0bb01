package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/peer"
	"chancery.dev/chancery/internal/seal"
)

// Holder is a custodian as named when a state is made.
type Holder struct {
	Name      string
	Recipient string // age1pq1…
}

// Founding is what a state is made from.
type Founding struct {
	Name, Code string
	Quorum     int // custodians who open
	Custodians []Holder
	// Representatives sign charters, agreements and orders, Need of them together. Without any, home has a key of its
	// own that signs charters alone, and nobody may order anything.
	Representatives []charter.Signer
	Need            int
	// Cooling is how long an order that removes something waits; empty: 72 hours.
	Cooling charter.Span
	// HouseOf is the id of the state of which this is a house; empty for a state.
	HouseOf string
}

// Create makes a state: its opening key in shares only, its first charter, a kit for each custodian, and the keys of
// this home. The folder must not exist or be empty. It is made beside its place and renamed, so a crash leaves
// nothing that looks like a home. With representatives the first charter is a proposal that they have yet to sign, and
// the Home returned can only tell of it: see [AdoptFirst].
func Create(dir string, f Founding) (*Home, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s: %w and is not empty", dir, ErrExists)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".home-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := found(tmp, f); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(tmp, "version"), fmt.Appendf(nil, "%d\n", Version), 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	// Not os.Rename, which refuses to take the place of an empty folder. The system refuses one that is no longer empty.
	if err := syscall.Rename(tmp, dir); err != nil {
		return nil, &os.LinkError{Op: "rename", Old: tmp, New: dir, Err: err}
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	if len(f.Representatives) > 0 {
		p, err := ReadProposal(dir, 0)
		if err != nil {
			return nil, err
		}
		return &Home{Dir: dir, Charter: p.Charter}, nil
	}
	return Open(dir, false)
}

// found fills a new home folder. The opening seed lives in this function only.
func found(dir string, f Founding) error {
	id, err := charter.NewStateID(rand.Reader)
	if err != nil {
		return err
	}
	var seed [32]byte
	defer clear(seed[:])
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	names := make([]string, len(f.Custodians))
	for i, c := range f.Custodians {
		names[i] = c.Name
	}
	shares, commitments, err := custody.Split(rand.Reader, &seed, id, 1, f.Quorum, names)
	if err != nil {
		return err
	}
	defer clear(shares)
	keys, err := foundKeys(dir, len(f.Representatives) == 0)
	if err != nil {
		return err
	}
	c, err := firstCharter(id, f, &seed, commitments, keys)
	if err != nil {
		return err
	}
	files := make([][]byte, len(shares))
	for i, s := range shares {
		if files[i], err = custody.SealShare(s, f.Custodians[i].Recipient); err != nil {
			return err
		}
	}
	if len(f.Representatives) > 0 {
		err = foundProposal(dir, c, files)
	} else {
		err = foundSigned(dir, c, keys.signer, files)
	}
	if err != nil {
		return err
	}
	return durable.MkdirAll(filepath.Join(dir, "registers"), 0o700)
}

// foundSigned puts the first charter in force with home's own signature. files are the sealed shares.
func foundSigned(dir string, c *charter.Charter, signer ed25519.PrivateKey, files [][]byte) error {
	sig, err := charter.Sign(c.Bytes(), signer)
	if err != nil {
		return err
	}
	if err := writeCharter(dir, c, sig); err != nil {
		return err
	}
	for i, file := range files {
		if err := writeKit(dir, c, sig, &c.Custody.Custodians[i], file); err != nil {
			return err
		}
	}
	return nil
}

// foundProposal leaves the first charter for the representatives to sign, and the sealed shares where kits are made of
// them when it is in force.
func foundProposal(dir string, c *charter.Charter, files [][]byte) error {
	for i, file := range files {
		folder := filepath.Join(dir, "kits", c.Custody.Custodians[i].Name)
		if err := durable.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(folder, custody.KitShare), file, 0o644); err != nil {
			return err
		}
	}
	_, err := propose(dir, c)
	return err
}

// homeKeys are the keys of a home.
type homeKeys struct {
	signer, agent, witness ed25519.PrivateKey
	seed                   *[32]byte // of the witness's ML-DSA-44 key
}

// foundKeys makes them; that which signs charters only where no representatives do.
func foundKeys(dir string, signs bool) (k homeKeys, err error) {
	keys := filepath.Join(dir, "keys")
	if err := durable.MkdirAll(keys, 0o700); err != nil {
		return homeKeys{}, err
	}
	var file []byte
	if signs {
		if k.signer, err = charter.GenerateSSHKey(rand.Reader); err != nil {
			return homeKeys{}, err
		}
		if file, err = charter.MarshalSSHKey(k.signer, "chancery charter signer"); err != nil {
			return homeKeys{}, err
		}
		if err := durable.WriteFile(filepath.Join(keys, "signer"), file, 0o600); err != nil {
			return homeKeys{}, err
		}
	}
	if _, k.agent, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return homeKeys{}, err
	}
	if file, err = peer.EncodeKey(k.agent); err != nil {
		return homeKeys{}, err
	}
	if err := durable.WriteFile(filepath.Join(keys, "agent.key"), file, peer.KeyPerm); err != nil {
		return homeKeys{}, err
	}
	if k.witness, err = makeWitnessKey(dir); err != nil {
		return homeKeys{}, err
	}
	k.seed, err = makeWitnessSeed(dir)
	return k, err
}

func firstCharter(id charter.StateID, f Founding, seed *[32]byte, commitments []custody.Commitment, keys homeKeys) (*charter.Charter, error) {
	opening, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		return nil, err
	}
	access := custody.DeriveAccessKey(seed)
	c := charter.Charter{
		Version: charter.Version, State: charter.State{ID: id, Name: f.Name, Code: f.Code, HouseOf: f.HouseOf}, Number: 1, Suite: charter.Suite,
		Custody: charter.Custody{
			Generation: 1, Threshold: f.Quorum,
			OpeningKey:  base64.StdEncoding.EncodeToString(opening.Public().Bytes()),
			RecoveryKey: charter.EncodeKey(access.Public().(ed25519.PublicKey)),
		},
		Agents:    []charter.Agent{{Name: "home", Key: charter.EncodeKey(keys.agent.Public().(ed25519.PublicKey))}},
		Embassies: []charter.Embassy{}, Freshness: charter.DefaultFreshness,
	}
	self, err := homeWitness(&c, keys.witness.Public().(ed25519.PublicKey), keys.seed)
	if err != nil {
		return nil, err
	}
	c.Witnesses = []charter.Witness{self}
	c.Witnessing = c.DefaultWitnessing()
	for i, k := range commitments {
		c.Custody.Custodians = append(c.Custody.Custodians, charter.Custodian{
			Name: f.Custodians[i].Name, X: k.X, Recipient: f.Custodians[i].Recipient, Commitment: charter.EncodeDigest(k.Hash),
		})
	}
	if err := foundRules(&c, f, keys.signer); err != nil {
		return nil, err
	}
	return charter.New(c)
}

// foundRules says who decides: the representatives about everything, with time to object before anything goes; or home
// alone, about charters and agreements.
func foundRules(c *charter.Charter, f Founding, signer ed25519.PrivateKey) error {
	if len(f.Representatives) == 0 {
		line, err := charter.SSHPublicKey(signer.Public().(ed25519.PublicKey))
		c.Threshold, c.Signers = 1, []charter.Signer{{Name: "home", Key: line}}
		return err
	}
	cooling := f.Cooling
	if cooling == "" {
		cooling = DefaultCooling
	}
	const role = "representative"
	r := charter.Role{Name: role}
	for _, s := range f.Representatives {
		c.People = append(c.People, charter.Person{Name: s.Name, Office: role, From: charter.FirstDay(time.Now()), Keys: []string{s.Key}})
		r.People = append(r.People, s.Name)
	}
	c.Roles = []charter.Role{r}
	act := func(name charter.ActName, need int, cooling charter.Span) {
		c.Acts = append(c.Acts, charter.Act{
			Act: name, Role: role, Need: need, Cooling: cooling, Valid: charter.DefaultValid, Touch: "no", Veto: role,
		})
	}
	act(charter.ActCharter, f.Need, "0")
	act(charter.ActAgreement, f.Need, "0")
	if len(r.People) > 1 { // no single hand removes anything
		act(charter.ActErase, max(2, f.Need), cooling)
		act(charter.ActRelease, max(2, f.Need), cooling)
	}
	for _, name := range []charter.ActName{charter.ActHold, charter.ActLift, charter.ActSuspend, charter.ActRestore, charter.ActGrant, charter.ActRotate} {
		act(name, f.Need, "0")
	}
	return nil
}

// DefaultCooling is how long an order that removes something waits unless a state says otherwise.
const DefaultCooling charter.Span = "72h"

// Commitments are what the shares of a charter's opening key must match.
func Commitments(c *charter.Charter) ([]custody.Commitment, error) {
	var out []custody.Commitment
	for _, k := range c.Custody.Custodians {
		hash, err := charter.ParseDigest(k.Commitment)
		if err != nil {
			return nil, err
		}
		out = append(out, custody.Commitment{
			State: c.State.ID, Generation: c.Custody.Generation, X: k.X, Threshold: uint8(c.Custody.Threshold),
			Total: uint8(len(c.Custody.Custodians)), Holder: k.Name, Hash: hash,
		})
	}
	return out, nil
}

// writeKit writes a custodian's kit with what the charter says now.
func writeKit(dir string, c *charter.Charter, sig []byte, k *charter.Custodian, share []byte) error {
	kit := &custody.Kit{
		State: c.State.ID, StateName: c.State.Name, Custodian: k.Name, X: k.X,
		Threshold: uint8(c.Custody.Threshold), Total: uint8(len(c.Custody.Custodians)), Generation: c.Custody.Generation,
		Charter: c.Bytes(), Signature: sig, Share: share,
	}
	for _, e := range c.Embassies {
		kit.Embassies = append(kit.Embassies, custody.KitEmbassy{
			Name: e.Name, Country: e.Country, Key: [32]byte(e.PublicKey()), URLs: e.URLs,
		})
	}
	files, err := custody.BuildKit(kit)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "kits", k.Name)
	if err := durable.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := durable.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// renewKits writes every kit that is still here again, after the charter changed. A crash leaves some kits with the
// older charter: they work, and know fewer embassies.
func (h *Home) renewKits(sig []byte) error {
	for i := range h.Charter.Custody.Custodians {
		k := &h.Charter.Custody.Custodians[i]
		share, err := os.ReadFile(filepath.Join(h.Dir, "kits", k.Name, custody.KitShare))
		if os.IsNotExist(err) {
			continue // handed over and removed here
		}
		if err != nil {
			return err
		}
		if old, err := ReadKit(filepath.Join(h.Dir, "kits", k.Name)); err == nil && old.Generation != h.Charter.Custody.Generation {
			continue // the share of another generation: its refresh puts the right one here, when it is finished
		}
		if err := writeKit(h.Dir, h.Charter, sig, k, share); err != nil {
			return err
		}
	}
	return nil
}

// ReadKit reads a kit from its folder.
func ReadKit(folder string) (*custody.Kit, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if len(files) > 16 || !e.Type().IsRegular() {
			return nil, fmt.Errorf("%s: %w", folder, custody.ErrKit)
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if info.Size() > 1<<20 {
			return nil, fmt.Errorf("%s: %w: %s is too large", folder, custody.ErrKit, e.Name())
		}
		if files[e.Name()], err = os.ReadFile(filepath.Join(folder, e.Name())); err != nil {
			return nil, err
		}
	}
	kit, err := custody.ParseKit(files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	return kit, nil
}
