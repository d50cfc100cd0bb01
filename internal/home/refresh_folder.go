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
	"strings"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
)

// What lies in HOME/custody/NNNN, NNNN being a generation of the opening key:
//
//	refresh.yaml      what is left out, and the version of this folder
//	charter.yaml      a draft of the charter, whose custody is what is to come; people sign the one that is proposed
//	shares/NAME.age   each custodian's share
//	records/ID        each surviving register's next record
//	kits/NAME/        what is handed to each custodian, once the charter is signed; kits-of holds that charter's hash
//	published         written when every embassy has the records and the charter
//
// It is made beside its place and renamed, so that a crash leaves all of it or nothing. None of it is secret.
const (
	refreshFile   = "refresh.yaml"
	refreshShares = "shares"
	refreshKits   = "kits-of"
	refreshDone   = "published"
)

// erasedMark stands in the folder of a register that the present generation does not open.
const erasedMark = "erased"

type refreshDoc struct {
	Version    int      `yaml:"version"`
	Generation uint32   `yaml:"generation"`
	Erased     []Erased `yaml:"erased"`
}

func (h *Home) refreshDir(generation uint32) string {
	return filepath.Join(h.Dir, "custody", fmt.Sprintf("%04d", generation))
}

// keepRefresh writes a refresh, which takes the place of one of the same generation that was not adopted.
func (h *Home) keepRefresh(r *Refresh) error {
	parent := filepath.Join(h.Dir, "custody")
	if err := durable.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	leftovers, _ := filepath.Glob(filepath.Join(parent, ".refresh-*")) // the pattern is good
	for _, x := range leftovers {
		if err := os.RemoveAll(x); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(parent, ".refresh-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	doc, err := yaml.Marshal(refreshDoc{Version: 1, Generation: r.Generation(), Erased: r.Erased})
	if err != nil {
		return err
	}
	files := map[string][]byte{refreshFile: doc, "charter.yaml": r.Charter.Bytes()}
	for name, share := range r.shares {
		files[filepath.Join(refreshShares, name+".age")] = share
	}
	for _, rec := range r.Records {
		if files[filepath.Join("records", rec.ID.String())], err = rec.Marshal(); err != nil {
			return err
		}
	}
	for _, folder := range []string{refreshShares, "records"} {
		if err := durable.MkdirAll(filepath.Join(tmp, folder), 0o700); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := durable.WriteFile(filepath.Join(tmp, name), data, 0o600); err != nil {
			return err
		}
	}
	r.dir = h.refreshDir(r.Generation())
	if err := os.RemoveAll(r.dir); err != nil { // a crash after this leaves no refresh under way
		return err
	}
	if err := os.Rename(tmp, r.dir); err != nil {
		return err
	}
	return durable.SyncDir(parent)
}

// Refresh returns the refresh of custody that is under way: prepared and not adopted yet, or adopted and not yet
// published to every embassy. Without one it is ErrNoRefresh.
func (h *Home) Refresh() (*Refresh, error) {
	now := h.Charter.Custody.Generation
	for _, generation := range []uint32{now + 1, now} {
		r, err := h.readRefresh(generation)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.refreshDir(generation), err)
		}
		if generation == now && (!h.Adopted(r) || r.Published()) {
			continue
		}
		return r, h.attach(r)
	}
	return nil, ErrNoRefresh
}

func (h *Home) readRefresh(generation uint32) (*Refresh, error) {
	r := &Refresh{dir: h.refreshDir(generation), shares: map[string][]byte{}}
	file, err := os.ReadFile(filepath.Join(r.dir, refreshFile))
	if err != nil {
		return nil, err
	}
	var doc refreshDoc
	if err := yaml.UnmarshalWithOptions(file, &doc, yaml.Strict()); err != nil {
		return nil, err
	}
	if doc.Version != 1 {
		return nil, ErrNewer
	}
	r.Erased = doc.Erased
	for i := range r.Erased {
		if r.Erased[i].ID, err = charter.ParseRegisterID(r.Erased[i].Text); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "charter.yaml"))
	if err != nil {
		return nil, err
	}
	if r.Charter, err = charter.Parse(text); err != nil {
		return nil, err
	}
	r.custody = r.Charter.Custody
	if r.Generation() != generation || doc.Generation != generation || r.Charter.State.ID != h.Charter.State.ID {
		return nil, fmt.Errorf("%w: generation %d of this state is not what lies there", ErrNone, generation)
	}
	return r, r.readParts()
}

func (r *Refresh) readParts() error {
	for _, k := range r.Charter.Custody.Custodians {
		share, err := os.ReadFile(filepath.Join(r.dir, refreshShares, k.Name+".age"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed once the kits are made and adopted
			return err
		}
		if err == nil {
			r.shares[k.Name] = share
		}
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, "records"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(r.dir, "records", e.Name()))
		if err != nil {
			return err
		}
		rec, err := charter.ParseRegister(raw)
		if err != nil {
			return err
		}
		if err := rec.Verify(); err != nil {
			return err
		}
		r.Records = append(r.Records, rec)
	}
	return nil
}

// CharterFile is where the charter lies that people are to sign; its signatures are beside it, with .sig.
func (r *Refresh) CharterFile() string { return r.path }

// Kits is the folder with a kit for each custodian.
func (r *Refresh) Kits() string { return filepath.Join(r.dir, "kits") }

// Adopted reports whether the charter of the refresh is in force.
func (h *Home) Adopted(r *Refresh) bool {
	return h.Charter.Custody.Generation == r.Generation() && h.Charter.Custody.OpeningKey == r.custody.OpeningKey
}

// Published reports whether every embassy has been told; see MarkPublished.
func (r *Refresh) Published() bool {
	_, err := os.Stat(filepath.Join(r.dir, refreshDone))
	return err == nil
}

// MarkPublished remembers that every embassy has the records and the charter: old kits open nothing any more there.
func (r *Refresh) MarkPublished() error {
	return durable.WriteFile(filepath.Join(r.dir, refreshDone), []byte("1\n"), 0o600)
}

// attach finds the charter of a refresh: the one in force, or the one that is proposed if it has this custody.
func (h *Home) attach(r *Refresh) error {
	if h.Adopted(r) {
		var err error
		r.Charter = h.Charter
		_, r.Sig, err = h.CharterAt(h.Charter.Number)
		return err
	}
	p, err := h.Proposal()
	if errors.Is(err, ErrNoProposal) {
		return nil
	}
	if err != nil {
		return err
	}
	if reflect.DeepEqual(p.Charter.Custody, r.custody) {
		r.Charter, r.Sig, r.path = p.Charter, p.Sig, p.Path
	}
	return nil
}

// ProposeRefresh puts the custody of the refresh into the charter that is proposed, where it is not yet, and tells
// whether it did: the signatures that the proposal had are then gone, and the kits made of it. Home signs what it may.
func (h *Home) ProposeRefresh(r *Refresh) (bool, error) {
	if err := h.attach(r); err != nil || h.Adopted(r) || r.path != "" {
		return false, err
	}
	next, err := h.Next()
	if err != nil {
		return false, err
	}
	next.Custody = r.custody
	if err := os.RemoveAll(r.Kits()); err != nil {
		return false, err
	}
	p, err := h.Propose(next)
	if err != nil {
		return false, err
	}
	r.Charter, r.Sig, r.path = p.Charter, p.Sig, p.Path
	own, err := h.ownSignature(p.Charter)
	if err != nil || len(own) == 0 {
		return true, err
	}
	return true, h.Sign(r, own)
}

// Sign adds signatures of people to those of the proposed charter. Whether they are enough is for Signed to say; one
// that does not verify is refused.
func (h *Home) Sign(r *Refresh, files ...[]byte) error {
	p, err := h.Proposal()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f = bytes.TrimSpace(f); len(f) == 0 || bytes.Contains(p.Sig, f) {
			continue
		}
		if err := p.Add(append(bytes.Clone(f), '\n')); err != nil {
			return err
		}
	}
	r.Sig = p.Sig
	return nil
}

// Signed checks that enough people signed, and that no register was added or changed since the custodians met.
func (h *Home) Signed(r *Refresh) error {
	if err := h.unmoved(r); err != nil {
		return err
	}
	if r.path == "" {
		return fmt.Errorf("generation %d: %w", r.Generation(), ErrNoProposal)
	}
	return charter.CheckSuccession(h.Charter, r.Charter, r.Sig)
}

// unmoved checks that the prepared records are of all registers of home, as they are now.
func (h *Home) unmoved(r *Refresh) error {
	names, err := h.Registers()
	if err != nil {
		return err
	}
	for _, name := range names {
		reg, err := h.Register(name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(r.Erased, func(e Erased) bool { return e.ID == reg.Record.ID }) {
			continue
		}
		i := slices.IndexFunc(r.Records, func(x *charter.Register) bool { return x.ID == reg.Record.ID })
		if i < 0 {
			return fmt.Errorf("register %s: %w: it was added", name, ErrMoved)
		}
		if next := r.Records[i]; next.Sequence <= reg.Record.Sequence || !SameRegister(next, reg.Record) {
			return fmt.Errorf("register %s: %w", name, ErrMoved)
		}
	}
	return nil
}

// SameRegister tells whether two records differ in nothing but whom their secrets are sealed to, number, time and
// signature.
func SameRegister(a, b *charter.Register) bool {
	return a.ID == b.ID && a.State == b.State && bytes.Equal(a.PublicKey, b.PublicKey) && a.Epoch == b.Epoch && slices.Equal(a.Members, b.Members) &&
		a.K == b.K && (len(a.Grants)+len(b.Grants) == 0 || reflect.DeepEqual(a.Grants, b.Grants))
}

// MakeKits writes a kit for each custodian, with the signed charter. They are handed over before the charter is
// adopted: embassies that know it answer to no older kit, so that home may burn the hour after.
func (h *Home) MakeKits(r *Refresh) error {
	if err := h.Signed(r); err != nil {
		return err
	}
	for i := range r.Charter.Custody.Custodians {
		k := &r.Charter.Custody.Custodians[i]
		if err := writeKit(r.dir, r.Charter, r.Sig, k, r.shares[k.Name]); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(r.dir, refreshKits), []byte(charter.EncodeDigest(r.Charter.Hash())+"\n"), 0o600)
}

// KitsMade reports whether kits were made with the charter as it is proposed now: others must not be adopted on.
func (h *Home) KitsMade(r *Refresh) bool {
	of, err := os.ReadFile(filepath.Join(r.dir, refreshKits))
	return err == nil && strings.TrimSpace(string(of)) == charter.EncodeDigest(r.Charter.Hash())
}

// AdoptRefresh makes the charter of the refresh the newest, and what was prepared with it count. Called again after a
// crash it finishes what is left. Embassies are told by the caller.
func (h *Home) AdoptRefresh(r *Refresh) error {
	if !h.Adopted(r) {
		if err := h.Signed(r); err != nil {
			return err
		}
		if err := writeCharter(h.Dir, r.Charter, r.Sig); err != nil {
			return err
		}
		h.Charter = r.Charter
		if err := remove(r.path); err != nil { // a crash before leaves a proposal of a number that is past
			return err
		}
	}
	if err := h.keepRecords(r); err != nil {
		return err
	}
	return h.takeKits(r)
}

// keepRecords puts the new records in the place of the old ones and marks registers that are erased. A crash leaves
// some done; they are done again.
func (h *Home) keepRecords(r *Refresh) error {
	names, err := h.Registers()
	if err != nil {
		return err
	}
	for _, name := range names {
		reg, err := h.Register(name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(r.Erased, func(e Erased) bool { return e.ID == reg.Record.ID }) {
			if err := durable.WriteFile(filepath.Join(reg.Dir, erasedMark), fmt.Appendf(nil, "%d\n", r.Generation()), 0o600); err != nil {
				return err
			}
			continue
		}
		i := slices.IndexFunc(r.Records, func(x *charter.Register) bool { return x.ID == reg.Record.ID })
		if i < 0 || r.Records[i].Sequence <= reg.Record.Sequence {
			continue
		}
		if err := reg.replaceRecord(r.Records[i]); err != nil {
			return err
		}
	}
	return nil
}

// takeKits puts the new kits where home's kits are, for later charters to renew; those that were handed over and
// removed stay away. Old kits and the loose shares go: home keeps no share of a generation that is over.
func (h *Home) takeKits(r *Refresh) error {
	old, err := filepath.Glob(filepath.Join(h.Dir, "kits", "*"))
	if err != nil {
		return err
	}
	for _, folder := range old {
		k, err := ReadKit(folder)
		if err == nil && k.Generation >= r.Generation() {
			continue
		}
		if err == nil || errors.Is(err, custody.ErrKit) || errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(folder); err != nil {
				return err
			}
		}
	}
	for i := range r.Charter.Custody.Custodians {
		k := &r.Charter.Custody.Custodians[i]
		if _, err := os.Stat(filepath.Join(r.Kits(), k.Name)); err != nil || r.shares[k.Name] == nil {
			continue
		}
		if err := writeKit(h.Dir, r.Charter, r.Sig, k, r.shares[k.Name]); err != nil {
			return err
		}
	}
	for _, folder := range []string{r.Kits(), filepath.Join(r.dir, refreshShares)} {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return durable.SyncDir(r.dir)
}

// IsErased tells whether the present generation of the opening key does not open a register any more.
func (r *Register) IsErased() bool {
	_, err := os.Stat(filepath.Join(r.Dir, erasedMark))
	return err == nil
}

// ErasedBy lists the registers that a generation of the opening key left out, as home remembers it.
func (h *Home) ErasedBy(generation uint32) ([]Erased, error) {
	r, err := h.readRefresh(generation)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.refreshDir(generation), err)
	}
	return r.Erased, nil
}
