package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
)

// opened is a state whose opening key is in this process's memory.
type opened struct {
	charter    *charter.Charter
	generation uint32 // of the opening key, by the custodians' kits and not by what embassies hold
	opening    *seal.PrivateKey
	access     ed25519.PrivateKey
	custodians []string
	clients    map[charter.EmbassyID]*embassy.Client
	moved      map[string]string
	down       []string
	problems   []string            // records at embassies that could not be used
	seen       map[[16]byte]uint64 // the highest number of a record of each register that an embassy lists
	fresh      []freshJSON
}

// open combines the shares. The seed lives in this function only.
func (f *recoverFlags) open() (*opened, error) {
	lockShares()
	ch, err := f.newestCharter()
	if err != nil {
		return nil, err
	}
	commitments, err := home.Commitments(ch)
	if err != nil {
		return nil, err
	}
	var shares []custody.Share
	if len(f.shares) > 0 {
		shares, err = f.releasedShares(ch)
	} else {
		shares, err = f.kitShares(ch)
	}
	if err != nil {
		return nil, err
	}
	defer clear(shares)
	seed, err := custody.Combine(shares, commitments)
	if len(f.shares) > 0 && errors.Is(err, custody.ErrTooFew) {
		err = hinted(err, "ask more custodians to release theirs to this request: --share FILE")
	}
	if err != nil {
		return nil, err
	}
	defer clear(seed[:])
	opening, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		return nil, err
	}
	if public, err := charter.ParseOpeningKey(ch.Custody.OpeningKey); err != nil || !bytes.Equal(public, opening.Public().Bytes()) {
		return nil, fmt.Errorf("charter %d: %w: its opening key is another's", ch.Number, custody.ErrInconsistent)
	}
	o := &opened{
		charter: ch, generation: ch.Custody.Generation, opening: opening, access: custody.DeriveAccessKey(seed),
		clients: map[charter.EmbassyID]*embassy.Client{}, seen: map[[16]byte]uint64{},
	}
	for _, s := range shares {
		o.custodians = append(o.custodians, s.Holder)
	}
	return o, nil
}

// newestCharter reads every kit named, and returns the newest charter in them, or home's. They must be of one state.
func (f *recoverFlags) newestCharter() (*charter.Charter, error) {
	newest := f.base
	for _, folder := range f.kits {
		_, c, err := readKit(folder)
		if err != nil {
			return nil, err
		}
		if newest != nil && c.State.ID != newest.State.ID {
			return nil, fmt.Errorf("%s: %w: it is of %s, the others are of %s", folder, custody.ErrForeign, c.State.Name, newest.State.Name)
		}
		if newest == nil || c.Number > newest.Number {
			newest = c
		}
	}
	return newest, nil
}

// kitShares opens the share of each kit with whichever identity fits it.
func (f *recoverFlags) kitShares(ch *charter.Charter) ([]custody.Share, error) {
	var shares []custody.Share
	for _, folder := range f.kits {
		k, _, err := readKit(folder)
		if err != nil {
			return nil, err
		}
		var share custody.Share
		err = custody.ErrNotForMe
		for _, id := range f.identities {
			if share, err = openShare(k, ch, id); !errors.Is(err, custody.ErrNotForMe) {
				break
			}
		}
		if errors.Is(err, custody.ErrNotForMe) {
			return nil, &failure{
				err: fmt.Errorf("%s: no identity given opens the share of %s", folder, k.Custodian), code: exitRefused,
				hint: "add the private key file of " + k.Custodian + ": --identity KEY",
			}
		}
		if err != nil {
			return nil, err
		}
		shares = append(shares, share)
	}
	return shares, nil
}

// releasedShares opens the shares that custodians released to this machine.
func (f *recoverFlags) releasedShares(ch *charter.Charter) ([]custody.Share, error) {
	if f.request == "" || f.key == "" {
		return nil, &failure{err: errors.New("released shares need the request and its key"), code: exitUsage, hint: "--request request.txt --key node.key"}
	}
	text, err := os.ReadFile(f.request)
	if err != nil {
		return nil, err
	}
	req, err := custody.ParseRequest(text)
	if err != nil {
		return nil, err
	}
	if req.State != ch.State.ID {
		return nil, fmt.Errorf("%s: %w", f.request, custody.ErrForeign)
	}
	if f.plan != nil {
		err = req.For(f.plan)
	} else if req.IsRefresh() {
		err = fmt.Errorf("%w: it is for a refresh of custody", custody.ErrOtherRequest)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.request, err)
	}
	key, err := os.ReadFile(f.key)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	var shares []custody.Share
	for _, path := range f.shares {
		file, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		rel, err := custody.OpenRelease(key, file, req, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		shares = append(shares, rel.Share)
	}
	return shares, nil
}

func (o *opened) close() {
	for _, c := range o.clients {
		c.Close()
	}
	clear(o.access)
}

func (o *opened) client(e charter.Embassy) *embassy.Client {
	if url, ok := o.moved[e.Name]; ok {
		e.URLs = []string{url}
	}
	if o.clients[e.ID] == nil {
		o.clients[e.ID] = dial(e, o.charter.State.ID, o.access)
	}
	return o.clients[e.ID]
}

// newestCharter follows the charters that embassies hold, each signed by the one before, from the kit's to the newest.
func (o *opened) newestCharter(ctx context.Context) error {
	for {
		next, err := o.nextCharter(ctx)
		if err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		if g := next.Custody.Generation; g != o.generation { // its embassies are as they were; its registers open with other kits
			o.problems = append(o.problems, fmt.Sprintf("charter %d has generation %d of the opening key, and the kits of %s are of generation %d",
				next.Number, g, strings.Join(o.custodians, ", "), o.generation))
			return nil
		}
		o.charter = next
	}
}

// nextCharter returns the charter that follows the present one, if any embassy holds it.
func (o *opened) nextCharter(ctx context.Context) (*charter.Charter, error) {
	var why error
	answered, refused := 0, 0
	o.down = nil
	for _, e := range o.charter.Embassies {
		rec, err := o.client(e).GetRecord(ctx, charterSlot(o.charter.Number+1))
		if errors.Is(err, embassy.ErrNotFound) {
			answered++
			continue
		}
		if err != nil {
			o.down = append(o.down, e.Name)
			why = errors.Join(why, fmt.Errorf("%s: %w", e.Name, err))
			if errors.Is(err, embassy.ErrRefused) {
				refused++
			}
			continue
		}
		c, sig, err := parseCharterRecord(rec)
		if err == nil {
			err = charter.CheckSuccession(o.charter, c, sig)
		}
		if err != nil { // one embassy's word must not keep the others' from being heard
			o.problems = append(o.problems, fmt.Sprintf("charter %d at %s: %v", o.charter.Number+1, e.Name, err))
			continue
		}
		return c, nil
	}
	if answered == 0 {
		if len(o.charter.Embassies) == 0 {
			return nil, &failure{err: errors.New("the kits know of no embassy: they are from before the first was accredited"), code: exitTooFew, hint: "take kits that were renewed later, or name where one is: ask the host states"}
		}
		if refused == len(o.charter.Embassies) {
			return nil, &failure{
				err: fmt.Errorf("every embassy refuses the key of generation %d, which is what the kits of %s open: %w",
					o.generation, strings.Join(o.custodians, ", "), why), code: exitRefused,
				hint: "where custody was refreshed since these kits were made, take the kits of the newest generation",
			}
		}
		return nil, fmt.Errorf("%w: none of %s answers: %w", register.ErrTooFew, plural(len(o.charter.Embassies), "embassy"), why)
	}
	return nil, nil
}

// foundRegister is a register that the opening key opens.
type foundRegister struct {
	record  *charter.Register
	secrets *charter.RegisterSecrets
	older   []foundRegister // what an older record says, should this one not lead to a snapshot
}

// registers opens every register that any embassy knows: of each the newest record that is what an agent of the
// charter signed and that the opening key opens. Records that are not are told, and passed over.
func (o *opened) registers(ctx context.Context) ([]foundRegister, error) {
	records := map[[16]byte][]*charter.Register{}
	heads := map[[16]byte]bool{}
	for _, e := range o.charter.Embassies {
		if slices.Contains(o.down, e.Name) {
			continue
		}
		if err := o.collect(ctx, e, records, heads); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			o.down = append(o.down, e.Name)
		}
	}
	var out []foundRegister
	for id, list := range records {
		slices.SortStableFunc(list, func(a, b *charter.Register) int {
			return cmp.Or(cmp.Compare(b.Sequence, a.Sequence), bytes.Compare(a.Signature[:], b.Signature[:]))
		})
		if r, ok := o.openNewest(list); ok {
			out = append(out, r)
			delete(heads, id)
		}
	}
	for id := range heads {
		o.problems = append(o.problems, fmt.Sprintf("register %x has snapshots, but no record of it that this key opens", id))
	}
	slices.SortFunc(out, func(a, b foundRegister) int { return slices.Compare(a.record.ID[:], b.record.ID[:]) })
	slices.Sort(o.problems)
	o.problems = slices.Compact(o.problems)
	return out, nil
}

// openNewest opens the records of one register, newest first, and chains them. A thief of home's
// key can sign a record that opens and leads nowhere; then an older one counts. A record that does not open is told,
// unless another says the same of the register and opens: that one was sealed to another generation of the opening key.
func (o *opened) openNewest(list []*charter.Register) (foundRegister, bool) {
	var good []foundRegister
	var closed []*charter.Register
	for i, rec := range list {
		if i > 0 && rec.Signature == list[i-1].Signature {
			continue // the same record from another embassy
		}
		s, err := home.OpenSecrets(rec, o.opening, o.generation)
		if err != nil {
			closed = append(closed, rec)
			continue
		}
		good = append(good, foundRegister{record: rec, secrets: s})
	}
	for _, rec := range closed {
		if !slices.ContainsFunc(good, func(g foundRegister) bool { return home.SameRegister(g.record, rec) }) {
			o.problems = append(o.problems, fmt.Sprintf("record %d of register %s does not open", rec.Sequence, rec.ID))
		}
	}
	for i := len(good) - 1; i > 0; i-- {
		good[i-1].older = []foundRegister{good[i]}
	}
	if len(good) == 0 {
		return foundRegister{}, false
	}
	return good[0], true
}

// collect reads every record of every register at one embassy, and notes which registers have heads there.
func (o *opened) collect(ctx context.Context, e charter.Embassy, records map[[16]byte][]*charter.Register, heads map[[16]byte]bool) error {
	x := o.client(e)
	withHeads, err := x.ListRegisters(ctx, ledger.Head)
	if err != nil {
		return err
	}
	for _, id := range withHeads {
		heads[id] = true
	}
	ids, err := x.ListRegisters(ctx, ledger.Register)
	if err != nil {
		return err
	}
	for _, id := range ids {
		list, err := x.ListRecords(ctx, ledger.Register, id, 0)
		if err != nil {
			return err
		}
		for _, info := range list[max(0, len(list)-maxRecords):] {
			o.seen[id] = max(o.seen[id], info.Slot.Sequence)
			raw, err := x.GetRecord(ctx, info.Slot)
			if err != nil {
				return err
			}
			rec, err := o.checkRecord(raw, id)
			if err != nil {
				o.problems = append(o.problems, fmt.Sprintf("record %d of register %x at %s: %v", info.Slot.Sequence, id, e.Name, err))
				continue
			}
			records[id] = append(records[id], rec)
		}
	}
	return nil
}

// maxRecords is how many records of one register, the newest, a recovery looks at.
const maxRecords = 64

// checkRecord reads a register's record and checks who signed it.
func (o *opened) checkRecord(raw []byte, id [16]byte) (*charter.Register, error) {
	rec, err := charter.ParseRegister(raw)
	if err != nil {
		return nil, err
	}
	if err := rec.Verify(); err != nil {
		return nil, err
	}
	if _, ok := o.charter.AgentByKey(rec.Agent[:]); !ok || rec.ID != charter.RegisterID(id) || rec.State != o.charter.State.ID {
		return nil, charter.ErrRegisterSignature
	}
	return rec, nil
}
