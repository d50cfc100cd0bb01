package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/seal"
)

// recoverJSON is the answer of recover.
type recoverJSON struct {
	State      string        `json:"state"`
	Custodians []string      `json:"custodians"`
	Charter    uint64        `json:"charter"`
	Registers  []restoreJSON `json:"registers"`
	Empty      []string      `json:"registers_without_snapshot,omitempty"`
	Down       []string      `json:"embassies_down,omitempty"`
	Seconds    float64       `json:"seconds"`
}

// recoverFlags are how shares are given.
type recoverFlags struct {
	restoreFlags
	kits, identities, shares []string
	request, key             string
	registers                []string
	addresses                []string
}

func recoverCommand(u *ui) *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use: "recover", Short: "Bring a state's registers back on an empty machine, with enough custodians", Args: cobra.NoArgs,
		Long: "Needs no home and no cache: kits of enough custodians, their private keys, and the embassies. Every register's\n" +
			"newest snapshot is restored into a folder of its name. Where custodians are in different places, this machine\n" +
			"makes a request (recover request), each custodian releases the own share to it, and the released shares are\n" +
			"given here with --share, --request and --key, beside one kit, whose share is not used.",
		Example: "  chancery recover --to DIR --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key\n" +
			"  chancery recover --to DIR --kit kits/mari --request request.txt --key node.key --share mari.share --share jaan.share --share anna.share",
	}
	f.restoreFlags.add(c)
	fl := c.Flags()
	fl.StringArrayVar(&f.kits, "kit", nil, "a custodian's kit; once for each")
	fl.StringArrayVar(&f.identities, "identity", nil, "the private key file of each kit's custodian, in any order")
	fl.StringArrayVar(&f.shares, "share", nil, "a share released to this machine; once for each")
	fl.StringVar(&f.request, "request", "", "the request that the shares were released for")
	fl.StringVar(&f.key, "key", "", "the key that recover request made")
	fl.StringArrayVar(&f.registers, "register", nil, "only this register; once for each")
	fl.StringArrayVar(&f.addresses, "embassy", nil, "NAME=URL where an embassy has moved")
	_ = c.MarkFlagRequired("kit")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkTarget(f.to); err != nil {
			return err
		}
		start := time.Now()
		a, err := f.run(c, u)
		if a == nil || err != nil && len(a.Registers) == 0 {
			return err
		}
		a.Seconds = time.Since(start).Seconds()
		if aerr := u.answer(a, a.print); aerr != nil {
			return aerr
		}
		for i := range a.Registers {
			a.Registers[i].explain(u)
		}
		return err
	}
	c.AddCommand(recoverRequest(u))
	return c
}

func recoverRequest(u *ui) *cobra.Command {
	var kit, out, key, node, purpose string
	var life time.Duration
	c := &cobra.Command{
		Use: "request", Short: "Ask custodians elsewhere to release their shares to this machine", Args: cobra.NoArgs,
		Long: "Makes a one-time key for this machine, and a request that names it. Send the request to custodians, and read its\n" +
			"fingerprint to each by telephone. What they send back opens with the key alone: it stays on this machine, and is\n" +
			"yours to remove after the recovery.",
		Example: "  chancery recover request --kit kits/mari --node vault-3 --purpose \"home lost on 3 May\" --out request.txt --key node.key",
	}
	c.Flags().StringVar(&kit, "kit", "", "any custodian's kit")
	c.Flags().StringVar(&out, "out", "", "file for the request; it must not exist")
	c.Flags().StringVar(&key, "key", "", "file for the one-time key; it must not exist; remove it after the recovery")
	c.Flags().StringVar(&node, "node", "", "a name for this machine: small letters, digits, hyphens")
	c.Flags().StringVar(&purpose, "purpose", "", "why, in one line for custodians to read")
	c.Flags().DurationVar(&life, "expires", 24*time.Hour, "how long the request is valid, at most 168h")
	for _, n := range []string{"kit", "out", "key", "node", "purpose"} {
		_ = c.MarkFlagRequired(n)
	}
	c.RunE = func(*cobra.Command, []string) error {
		_, ch, err := readKit(kit)
		if err != nil {
			return err
		}
		lockMemory()
		req, identity, err := custody.NewRequest(rand.Reader, ch.State.ID, ch.State.Name, ch.Custody.Generation, node, purpose, time.Now(), life)
		if err != nil {
			return err
		}
		if err := writeNew(key, []byte(identity), 0o600); err != nil {
			return err
		}
		if err := writeNew(out, req.Marshal(), 0o644); err != nil {
			return err
		}
		a := map[string]any{"request": out, "fingerprint": req.Fingerprint(), "expires": req.Expires}
		return u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "Send %s to each custodian, and read them this fingerprint by telephone:\n%s\n", out, req.Fingerprint())
		})
	}
	return c
}

// opened is a state whose opening key is in this process's memory.
type opened struct {
	charter    *charter.Charter
	opening    *seal.PrivateKey
	access     ed25519.PrivateKey
	custodians []string
	clients    map[charter.EmbassyID]*embassy.Client
	moved      map[string]string
	down       []string
}

// run recovers. It returns an answer whenever some register was worked on.
func (f *recoverFlags) run(c *cobra.Command, u *ui) (*recoverJSON, error) {
	moved, err := parseAddresses(f.addresses)
	if err != nil {
		return nil, usageError(c, err)
	}
	o, err := f.open()
	if err != nil {
		return nil, err
	}
	defer o.close()
	o.moved = moved
	if err := o.newestCharter(c.Context()); err != nil {
		return nil, err
	}
	records, err := o.registers(c.Context())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.to, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "chancery-recover-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	a := &recoverJSON{State: o.charter.State.Name, Custodians: o.custodians, Charter: o.charter.Number, Registers: []restoreJSON{}, Down: o.down}
	var worst error
	found := map[string]bool{}
	for _, rec := range records {
		s, err := home.OpenSecrets(rec, o.opening, o.charter.Custody.Generation)
		if err != nil {
			return a, err
		}
		if len(f.registers) > 0 && !slices.Contains(f.registers, s.Name) {
			continue
		}
		found[s.Name] = true
		if err := f.register(c, u, o, rec, s, filepath.Join(work, s.Name), a); err != nil {
			if !errors.Is(err, errPartial) {
				return a, fmt.Errorf("register %s: %w", s.Name, err)
			}
			worst = err
		}
	}
	for _, want := range f.registers {
		if !found[want] {
			return a, fmt.Errorf("%w: %q", home.ErrNoRegister, want)
		}
	}
	return a, worst
}

// register restores one register's newest snapshot.
func (f *recoverFlags) register(c *cobra.Command, u *ui, o *opened, rec *charter.Register, s *charter.RegisterSecrets, dir string, a *recoverJSON) error {
	defer clear(s.Seed[:])
	key, err := seal.NewPrivateKey(s.Seed)
	if err != nil {
		return err
	}
	reg, err := archiveRegister(o.charter, rec, s, dir, o.client)
	if err != nil {
		return err
	}
	r, err := archive.OpenReader(c.Context(), reg, agentOf(o.charter, nil, ""), key)
	if err != nil {
		return err
	}
	defer r.Close()
	head, err := r.Find("latest")
	if errors.Is(err, archive.ErrNoSnapshot) {
		a.Empty = append(a.Empty, s.Name)
		return nil
	}
	if err != nil {
		return err
	}
	rep, err := f.restore(c, u, r, head, s.Name, filepath.Join(f.to, s.Name), nil)
	if rep != nil {
		a.Registers = append(a.Registers, *rep)
	}
	return err
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
	if err != nil {
		return nil, err
	}
	defer clear(seed[:])
	opening, err := seal.NewPrivateKey(custody.DeriveOpeningSeed(seed))
	if err != nil {
		return nil, err
	}
	o := &opened{charter: ch, opening: opening, access: custody.DeriveAccessKey(seed), clients: map[charter.EmbassyID]*embassy.Client{}}
	for _, s := range shares {
		o.custodians = append(o.custodians, s.Holder)
	}
	return o, nil
}

// newestCharter reads every kit named, and returns the newest charter in them. They must be of one state.
func (f *recoverFlags) newestCharter() (*charter.Charter, error) {
	var newest *charter.Charter
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
		o.charter = next
	}
}

// nextCharter returns the charter that follows the present one, if any embassy holds it.
func (o *opened) nextCharter(ctx context.Context) (*charter.Charter, error) {
	var why error
	answered := 0
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
			continue
		}
		answered++
		c, sig, err := parseCharterRecord(rec)
		if err == nil {
			err = charter.CheckSuccession(o.charter, c, sig)
		}
		if err != nil {
			return nil, fmt.Errorf("%s gave a charter that does not follow charter %d: %w", e.Name, o.charter.Number, err)
		}
		return c, nil
	}
	if answered == 0 {
		if len(o.charter.Embassies) == 0 {
			return nil, &failure{err: errors.New("the kits know of no embassy: they are from before the first was accredited"), code: exitTooFew, hint: "take kits that were renewed later, or name where one is: ask the host states"}
		}
		return nil, fmt.Errorf("%w: none of %s answers: %w", archive.ErrTooFew, plural(len(o.charter.Embassies), "embassy"), why)
	}
	return nil, nil
}

// registers collects the newest record of every register that any embassy knows.
func (o *opened) registers(ctx context.Context) ([]*charter.Register, error) {
	newest := map[charter.RegisterID]*charter.Register{}
	for _, e := range o.charter.Embassies {
		if slices.Contains(o.down, e.Name) {
			continue
		}
		x := o.client(e)
		ids, err := x.ListRegisters(ctx, ledger.Register)
		if err != nil {
			o.down = append(o.down, e.Name)
			continue
		}
		for _, id := range ids {
			rec, err := o.record(ctx, x, id)
			if err != nil {
				return nil, fmt.Errorf("%s: register %x: %w", e.Name, id, err)
			}
			if old := newest[rec.ID]; old == nil || rec.Sequence > old.Sequence {
				newest[rec.ID] = rec
			}
		}
	}
	var out []*charter.Register
	for _, r := range newest {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *charter.Register) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return out, nil
}

// record reads and checks the newest record of a register at one embassy.
func (o *opened) record(ctx context.Context, x *embassy.Client, id [16]byte) (*charter.Register, error) {
	list, err := x.ListRecords(ctx, ledger.Register, id, 0)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, embassy.ErrForged
	}
	raw, err := x.GetRecord(ctx, list[len(list)-1].Slot)
	if err != nil {
		return nil, err
	}
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

func (a *recoverJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s: opened by %s; charter %d.\n", a.State, strings.Join(a.Custodians, ", "), a.Charter)
	for i := range a.Registers {
		a.Registers[i].print(w)
	}
	for _, n := range a.Empty {
		fmt.Fprintf(w, "Register %s has no snapshot.\n", n)
	}
	for _, n := range a.Down {
		fmt.Fprintf(w, "%s did not answer.\n", n)
	}
}

// parseAddresses reads NAME=URL.
func parseAddresses(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, x := range list {
		name, url, ok := strings.Cut(x, "=")
		if !ok {
			return nil, fmt.Errorf("--embassy %q: want NAME=URL", x)
		}
		if err := checkAddress(url); err != nil {
			return nil, fmt.Errorf("--embassy: %w", err)
		}
		out[name] = url
	}
	return out, nil
}
