package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
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
}

// Create makes a state: its opening key in shares only, its first charter, a kit for each custodian, and the keys of
// this home. The folder must not exist or be empty. It is made beside its place and renamed, so a crash leaves
// nothing that looks like a home.
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
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
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
	signer, agent, err := foundKeys(dir)
	if err != nil {
		return err
	}
	c, err := firstCharter(id, f, &seed, commitments, signer, agent)
	if err != nil {
		return err
	}
	sig, err := charter.Sign(c.Bytes(), signer)
	if err != nil {
		return err
	}
	if err := writeCharter(dir, c, sig); err != nil {
		return err
	}
	for i, s := range shares {
		file, err := custody.SealShare(s, f.Custodians[i].Recipient)
		if err != nil {
			return err
		}
		if err := writeKit(dir, c, sig, &c.Custody.Custodians[i], file); err != nil {
			return err
		}
	}
	return durable.MkdirAll(filepath.Join(dir, "registers"), 0o700)
}

func foundKeys(dir string) (signer, agent ed25519.PrivateKey, err error) {
	keys := filepath.Join(dir, "keys")
	if err := durable.MkdirAll(keys, 0o700); err != nil {
		return nil, nil, err
	}
	if signer, err = charter.GenerateSSHKey(rand.Reader); err != nil {
		return nil, nil, err
	}
	file, err := charter.MarshalSSHKey(signer, "chancery charter signer")
	if err != nil {
		return nil, nil, err
	}
	if err := durable.WriteFile(filepath.Join(keys, "signer"), file, 0o600); err != nil {
		return nil, nil, err
	}
	if _, agent, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, nil, err
	}
	if file, err = encodeKey(agent); err != nil {
		return nil, nil, err
	}
	return signer, agent, durable.WriteFile(filepath.Join(keys, "agent.key"), file, 0o600)
}

func firstCharter(id charter.StateID, f Founding, seed *[32]byte, commitments []custody.Commitment, signer, agent ed25519.PrivateKey) (*charter.Charter, error) {
	opening, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		return nil, err
	}
	signerLine, err := charter.SSHPublicKey(signer.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	access := custody.DeriveAccessKey(seed)
	c := charter.Charter{
		Version: charter.Version, State: charter.State{ID: id, Name: f.Name, Code: f.Code}, Number: 1, Suite: charter.Suite,
		Threshold: 1, Signers: []charter.Signer{{Name: "home", Key: signerLine}},
		Custody: charter.Custody{
			Generation: 1, Threshold: f.Quorum,
			OpeningKey:  base64.StdEncoding.EncodeToString(opening.Public().Bytes()),
			RecoveryKey: charter.EncodeKey(access.Public().(ed25519.PublicKey)),
		},
		Agents:    []charter.Agent{{Name: "home", Key: charter.EncodeKey(agent.Public().(ed25519.PublicKey))}},
		Embassies: []charter.Embassy{},
	}
	for i, k := range commitments {
		c.Custody.Custodians = append(c.Custody.Custodians, charter.Custodian{
			Name: f.Custodians[i].Name, X: k.X, Recipient: f.Custodians[i].Recipient, Commitment: charter.EncodeDigest(k.Hash),
		})
	}
	return charter.New(c)
}

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
