package home

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/retention"
	"chancery.dev/chancery/internal/seal"
)

// Definition is how a register is read at home. It is a file that people may edit.
type Definition struct {
	Version        int      `yaml:"version"`
	Name           string   `yaml:"name"`
	Files          string   `yaml:"files"`            // the folder that is the register; empty for a cluster
	Exclude        []string `yaml:"exclude"`          // rules of what is left out
	AllFileSystems bool     `yaml:"all_file_systems"` // also what is mounted below
	Owner          string   `yaml:"owner"`            // whose register it is
	LegalBasis     string   `yaml:"legal_basis"`      // why the state keeps it
	Criticality    string   `yaml:"criticality"`      // what stops without it
	RPO            string   `yaml:"rpo"`              // how much may be lost, as a duration
	RTO            string   `yaml:"rto"`              // how long it may be gone, as a duration

	Retention retention.Rules `yaml:"retention,omitempty"` // what is kept; from version 2 on

	// From version 3 on.
	Postgres  *Postgres `yaml:"postgres,omitempty"`   // the cluster that is the register
	StaysHome string    `yaml:"stays_home,omitempty"` // why nothing of it may ever leave home; then it has no keys and no embassies
}

// definitionVersion is what is written. Version 1 knows no retention, version 2 no clusters.
const definitionVersion = 3

// parseDefinition reads the file that people edit, and nothing that it does not know.
func parseDefinition(data []byte) (d Definition, err error) {
	if err := yaml.UnmarshalWithOptions(data, &d, yaml.Strict()); err != nil {
		return d, err
	}
	switch {
	case d.Version < 1 || d.Version > definitionVersion:
		return d, ErrNewer
	case d.Version == 1 && d.Retention.Set():
		return d, fmt.Errorf("retention is not in version 1: write version: %d", definitionVersion)
	case d.Version < 3 && (d.Postgres != nil || d.StaysHome != ""):
		return d, fmt.Errorf("postgres and stays_home are not in version %d: write version: %d", d.Version, definitionVersion)
	case d.Postgres != nil && d.Files != "":
		return d, errors.New("a register is files or a cluster, not both")
	}
	if d.Postgres != nil {
		if err := d.Postgres.Check(); err != nil {
			return d, err
		}
	}
	return d, d.Retention.Check()
}

// Register is a register as home knows it: no key in it opens anything.
type Register struct {
	Definition Definition
	Record     *charter.Register
	Secrets    *charter.RegisterSecrets // without seed
	Dir        string                   // for the archive's local files
}

// wrapInfo is the HPKE info under which a register's secrets are sealed to the opening key.
func wrapInfo(state charter.StateID, register charter.RegisterID, generation uint32) []byte {
	return fmt.Appendf(nil, "chancery register secrets v1\x00%s\x00%s\x00%d", state, register, generation)
}

// NewRegister makes a register with fresh keys; Save keeps it. readers are age recipients.
func (h *Home) NewRegister(def Definition, members []charter.EmbassyID, k int, readers []string) (*Register, error) {
	if !charter.ValidName(def.Name) {
		return nil, fmt.Errorf("register: %q is not a name (small letters, digits and hyphens, at most 32)", def.Name)
	}
	if _, err := os.Stat(h.registerDir(def.Name)); err == nil {
		return nil, fmt.Errorf("register %s: %w", def.Name, ErrExists)
	}
	secrets := &charter.RegisterSecrets{Name: def.Name, Owner: def.Owner, Kind: charter.KindFiles, Path: def.Files}
	if def.Postgres != nil {
		secrets.Kind, secrets.Path = charter.KindPostgres, def.Postgres.Conninfo
	}
	if secrets.Owner == "" {
		secrets.Owner = h.Charter.State.Name
	}
	for _, key := range []*[32]byte{&secrets.Seed, &secrets.IDKey, &secrets.GearKey, &secrets.IndexKey, &secrets.MaskKey} {
		if _, err := rand.Read(key[:]); err != nil {
			return nil, err
		}
	}
	private, err := seal.NewPrivateKey(secrets.Seed)
	if err != nil {
		return nil, err
	}
	id, err := charter.NewRegisterID(rand.Reader)
	if err != nil {
		return nil, err
	}
	rec := &charter.Register{
		Version: charter.RegisterVersion, ID: id, State: h.Charter.State.ID, Sequence: 1,
		PublicKey: private.Public().Bytes(), Epoch: 1, Members: members, K: uint8(k), Time: time.Now().UnixNano(),
	}
	if err := h.sealSecrets(rec, secrets, readers); err != nil {
		return nil, err
	}
	agent, err := h.AgentKey()
	if err != nil {
		return nil, err
	}
	if err := rec.Sign(agent); err != nil {
		return nil, err
	}
	def.Version = definitionVersion
	return &Register{Definition: def, Record: rec, Secrets: secrets.WithoutSeed(), Dir: h.registerDir(def.Name)}, nil
}

func (h *Home) sealSecrets(rec *charter.Register, s *charter.RegisterSecrets, readers []string) error {
	plain, err := s.Marshal()
	if err != nil {
		return err
	}
	defer clear(plain)
	raw, err := charter.ParseOpeningKey(h.Charter.Custody.OpeningKey)
	if err != nil {
		return err
	}
	opening, err := seal.ParsePublicKey(raw)
	if err != nil {
		return err
	}
	if rec.Sealed, err = seal.Wrap(opening, wrapInfo(rec.State, rec.ID, h.Charter.Custody.Generation), plain); err != nil {
		return err
	}
	for _, r := range readers {
		sealed, err := custody.SealTo(r, plain)
		if err != nil {
			return err
		}
		rec.Grants = append(rec.Grants, charter.Grant{Recipient: charter.RecipientHash(r), Sealed: sealed})
	}
	return nil
}

// OpenSecrets opens a register's record with the opening key.
func OpenSecrets(rec *charter.Register, opening *seal.PrivateKey, generation uint32) (*charter.RegisterSecrets, error) {
	plain, err := seal.Unwrap(opening, wrapInfo(rec.State, rec.ID, generation), rec.Sealed)
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", rec.ID, err)
	}
	defer clear(plain)
	return charter.ParseRegisterSecrets(plain)
}

// ErrNotReader means that the register's key was not granted to this identity.
var ErrNotReader = errors.New("not a reader of this register")

// OpenGrant opens a register's record with a reader's identity file.
func OpenGrant(rec *charter.Register, identity []byte) (*charter.RegisterSecrets, error) {
	id, err := custody.ParseIdentity(identity)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rec.Grants, func(g charter.Grant) bool { return g.Recipient == charter.RecipientHash(id.Recipient) })
	if i < 0 {
		return nil, ErrNotReader
	}
	plain, err := custody.OpenWith(identity, rec.Grants[i].Sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return charter.ParseRegisterSecrets(plain)
}

func (h *Home) registerDir(name string) string { return filepath.Join(h.Dir, "registers", name) }

// Save keeps a new register. The record goes last: a folder without one is no register, and is made again.
func (h *Home) Save(r *Register) error {
	if err := durable.MkdirAll(r.Dir, 0o700); err != nil {
		return err
	}
	def, err := yaml.Marshal(r.Definition)
	if err != nil {
		return err
	}
	secrets, err := r.Secrets.Marshal()
	if err != nil {
		return err
	}
	rec, err := r.Record.Marshal()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		perm fs.FileMode
	}{{"register.yaml", def, 0o644}, {"keys", secrets, 0o600}, {"record", rec, 0o600}} {
		if err := durable.WriteFile(filepath.Join(r.Dir, f.name), f.data, f.perm); err != nil {
			return err
		}
	}
	return nil
}

// Registers returns the names of all registers, in order. One that is erased is no longer among them.
func (h *Home) Registers() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.Dir, "registers"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		r := Register{Dir: h.registerDir(e.Name())}
		if _, err := os.Stat(filepath.Join(r.Dir, "record")); err == nil && !r.IsErased() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Register reads one register.
func (h *Home) Register(name string) (*Register, error) {
	if !charter.ValidName(name) {
		return nil, fmt.Errorf("%w: %q", ErrNoRegister, name)
	}
	r := &Register{Dir: h.registerDir(name)}
	raw, err := os.ReadFile(filepath.Join(r.Dir, "record"))
	if errors.Is(err, fs.ErrNotExist) {
		if def, err := h.staying(name); err == nil {
			return nil, fmt.Errorf("register %s %w: %s", name, ErrStaysHome, def.StaysHome)
		}
		return nil, fmt.Errorf("%w: %q", ErrNoRegister, name)
	}
	if err != nil {
		return nil, err
	}
	if r.Record, err = charter.ParseRegister(raw); err != nil {
		return nil, err
	}
	if err := r.Record.Verify(); err != nil {
		return nil, err
	}
	keys, err := os.ReadFile(filepath.Join(r.Dir, "keys"))
	if err != nil {
		return nil, err
	}
	if r.Secrets, err = charter.ParseRegisterSecrets(keys); err != nil {
		return nil, err
	}
	def, err := os.ReadFile(filepath.Join(r.Dir, "register.yaml"))
	if err != nil {
		return nil, err
	}
	if r.Definition, err = parseDefinition(def); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(r.Dir, "register.yaml"), err)
	}
	if why := r.Definition.StaysHome; why != "" {
		return nil, fmt.Errorf("register %s %w: %s", name, ErrStaysHome, why)
	}
	return r, nil
}
