package main

import (
	"context"
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
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
)

// recoverJSON is the answer of recover.
type recoverJSON struct {
	State      string        `json:"state"`
	Custodians []string      `json:"custodians"`
	Charter    uint64        `json:"charter"`
	Registers  []restoreJSON `json:"registers"`
	Empty      []string      `json:"registers_without_snapshot,omitempty"`
	NotYet     []string      `json:"registers_not_yet,omitempty"` // all snapshots are later than --time, and since when
	Down       []string      `json:"embassies_down,omitempty"`
	Problems   []string      `json:"problems,omitempty"` // records at embassies that could not be used
	Freshness  []freshJSON   `json:"freshness"`          // of each embassy that answers
	Accepted   []string      `json:"stale_accepted,omitempty"`
	Seconds    float64       `json:"seconds"`
}

// recoverFlags are how shares are given.
type recoverFlags struct {
	restoreFlags
	kits, identities, shares []string
	request, key             string
	registers, snapshots     []string
	addresses                []string
	acceptStale              bool
	supplies                 []*supply         // of clusters that were recovered
	cuts                     []*snapshot.Cut   // the parts of the cut that were found
	done                     map[[16]byte]bool // registers of the cut that came back
	base                     *charter.Charter  // home's, where custodians meet at home for a refresh
	later                    []func()          // when the command ends
	plan                     *custody.Plan     // what released shares must have been released for; nil: to recover
}

func recoverCommand(u *ui) *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use: "recover", Short: "Bring a state's registers back on an empty machine, with enough custodians", Args: cobra.NoArgs,
		Long: "Needs no home and no cache: kits of enough custodians, their private keys, and the embassies. Every register's\n" +
			"newest snapshot is restored into a folder of its name; with --time PostgreSQL clusters as they were then, and of files the\n" +
			"newest snapshot from then or before. With --register a cluster comes back to --lsn, --xid or --name. Where custodians are\n" +
			"in different places, this machine makes a request (recover request), each custodian releases the own share to it, and the\n" +
			"released shares are given here with --share, --request and --key, beside one kit, whose share is not used. What embassies\n" +
			"show is held against what every witness saw of their ledgers; a register that may not be its newest is refused (exit 7).",
		Example: "  chancery recover --to DIR --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key\n" +
			"  chancery recover --to DIR --kit kits/mari --request request.txt --key node.key --share mari.share --share jaan.share --share anna.share",
	}
	f.restoreFlags.add(c)
	f.spacesBeside = true
	fl := c.Flags()
	fl.StringArrayVar(&f.identities, "identity", nil, "the private key file of each kit's custodian, in any order")
	f.addOpening(c)
	fl.StringArrayVar(&f.registers, "register", nil, "only this register; once for each")
	fl.StringArrayVar(&f.snapshots, "snapshot", nil, "REGISTER@SNAPSHOT: not the newest of this register; once for each")
	fl.StringVar(&f.cut, "cut", "", "the registers of this cut, all of one moment, and no others")
	required(c, "kit")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.suits(); err != nil {
			return usageError(c, err)
		}
		if err := checkTarget(f.to); err != nil {
			return err
		}
		_, missing := os.Stat(f.to)
		start := time.Now()
		defer f.close()
		f.done = map[[16]byte]bool{}
		a, err := f.run(c, u)
		if err != nil && missing != nil {
			_ = os.Remove(f.to) // it is only as it was when nothing is in it
		}
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
		return errors.Join(err, f.serve(c.Context(), u))
	}
	c.AddCommand(recoverRequest(u))
	return c
}

// suits refuses a moment that cannot be meant for what is recovered.
func (f *recoverFlags) suits() error {
	t := &f.target
	if of := t.lsn + t.xid + t.name; of != "" && len(f.registers) != 1 {
		return fmt.Errorf("%q is in the log of one cluster: name it with --register", of)
	}
	return f.restoreFlags.suits()
}

// openingFlags are the options by which custodians open a state, but for --kit and --identity.
var openingFlags = []string{"share", "request", "key", "embassy", "accept-stale"}

// addOpening adds them to a command, with --kit.
func (f *recoverFlags) addOpening(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.kits, "kit", nil, "a custodian's kit; once for each")
	fl.StringArrayVar(&f.shares, "share", nil, "a share released to this machine; once for each")
	fl.StringVar(&f.request, "request", "", "the request that the shares were released for")
	fl.StringVar(&f.key, "key", "", "the key that recover request made")
	fl.StringArrayVar(&f.addresses, "embassy", nil, "NAME=URL where an embassy has moved")
	fl.BoolVar(&f.acceptStale, "accept-stale", false, "take what embassies show although witnesses saw more, or nobody vouches for it")
}

func recoverRequest(u *ui) *cobra.Command {
	var f requestFlags
	var kit, purpose string
	c := &cobra.Command{
		Use: "request", Short: "Ask custodians elsewhere to release their shares to this machine", Args: cobra.NoArgs,
		Long: "Makes a one-time key for this machine, and a request that names it. Send the request to custodians, and read its\n" +
			"fingerprint to each by telephone. What they send back opens with the key alone: it stays on this machine, and is\n" +
			"yours to remove after the recovery.",
		Example: "  chancery recover request --kit kits/mari --node vault-3 --purpose \"home lost on 3 May\" --out request.txt --key node.key",
	}
	c.Flags().StringVar(&kit, "kit", "", "any custodian's kit")
	f.add(c, "recovery")
	c.Flags().StringVar(&purpose, "purpose", "", "why, in one line for custodians to read")
	required(c, "kit", "purpose")
	c.RunE = func(*cobra.Command, []string) error {
		_, ch, err := readKit(kit)
		if err != nil {
			return err
		}
		return f.giveRequest(u, ch, purpose)
	}
	return c
}

// requestFlags are how a machine asks custodians to release their shares to it.
type requestFlags struct {
	out       *string
	key, node string
	life      time.Duration
}

func (f *requestFlags) add(c *cobra.Command, after string) {
	f.out = outFlag(c, "file for the request")
	c.Flags().StringVar(&f.key, "key", "", "file for the one-time key; it must not exist; remove it after the "+after)
	c.Flags().StringVar(&f.node, "node", "", "a name for this machine: small letters, digits, hyphens")
	c.Flags().DurationVar(&f.life, "expires", 24*time.Hour, "how long the request is valid, at most 168h")
	required(c, "key", "node")
}

// giveRequest makes a request and its one-time key, writes both, and says what to do with them.
func (f *requestFlags) giveRequest(u *ui, ch *charter.Charter, purpose string) error {
	lockMemory()
	req, identity, err := custody.NewRequest(rand.Reader, ch.State.ID, ch.State.Name, ch.Custody.Generation, f.node, purpose, time.Now(), f.life)
	if err != nil {
		return err
	}
	if err := writeNew(f.key, []byte(identity), 0o600); err != nil {
		return err
	}
	if err := writeNew(*f.out, req.Marshal(), 0o644); err != nil {
		return err
	}
	a := map[string]any{"request": *f.out, "fingerprint": req.Fingerprint(), "expires": req.Expires}
	return u.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "Send %s to each custodian, and read them this fingerprint by telephone:\n%s\n", *f.out, req.Fingerprint())
	})
}

// begin opens the state, and finds its registers and how fresh what embassies show is.
func (f *recoverFlags) begin(c *cobra.Command) (*opened, []foundRegister, error) {
	moved, err := parseAddresses(f.addresses)
	if err != nil {
		return nil, nil, usageError(c, err)
	}
	o, err := f.open()
	if err != nil {
		return nil, nil, err
	}
	f.later = append(f.later, o.close)
	o.moved = moved
	if err := o.newestCharter(c.Context()); err != nil {
		return nil, nil, err
	}
	found, err := o.registers(c.Context())
	if err != nil {
		return nil, nil, err
	}
	o.fresh, err = (&vantage{charter: o.charter, client: o.client, key: o.access}).view(c.Context())
	return o, found, err
}

// run recovers. It returns an answer whenever some register was worked on. What is wrong with one register does not
// keep another from being restored: whoever held home last may have left anything at the embassies.
func (f *recoverFlags) run(c *cobra.Command, u *ui) (*recoverJSON, error) {
	o, found, err := f.begin(c)
	if err != nil {
		return nil, err
	}
	if err := f.suitsFiles(found); err != nil {
		return nil, usageError(c, err)
	}
	if err := os.MkdirAll(f.to, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "chancery-recover-*")
	if err != nil {
		return nil, err
	}
	f.later = append(f.later, func() { os.RemoveAll(work) })
	a := &recoverJSON{
		State: o.charter.State.Name, Custodians: o.custodians, Charter: o.charter.Number,
		Registers: []restoreJSON{}, Down: o.down, Problems: o.problems, Freshness: o.fresh,
	}
	var worst []error
	names := map[string]bool{}
	for _, r := range found {
		if len(f.registers) > 0 && !slices.Contains(f.registers, r.secrets.Name) {
			continue
		}
		names[r.secrets.Name] = true
		err := f.register(c, u, o, r, work, a)
		for err != nil && len(r.older) > 0 && !errors.Is(err, errPartial) && c.Context().Err() == nil {
			a.Problems = append(a.Problems, fmt.Sprintf("record %d of register %s: %v", r.record.Sequence, r.record.ID, err))
			r = r.older[0]
			err = f.register(c, u, o, r, work, a)
		}
		if err != nil {
			if c.Context().Err() != nil {
				return a, err
			}
			worst = append(worst, fmt.Errorf("register %s: %w", r.secrets.Name, err))
		}
	}
	for _, want := range f.registers {
		if !names[want] {
			worst = append(worst, fmt.Errorf("%w: %q", home.ErrNoRegister, want))
		}
	}
	if f.cut != "" {
		worst = append(worst, f.cutVerdict()...)
	}
	return a, a.verdict(worst)
}

// verdict is what a recovery ends with.
func (a *recoverJSON) verdict(worst []error) error {
	grave := slices.DeleteFunc(slices.Clone(worst), func(err error) bool { return errors.Is(err, errPartial) })
	if len(a.Registers) == 0 && len(a.NotYet) > 0 { // nothing that would be answered
		grave = append(grave, &failure{
			err: errors.New(strings.Join(a.NotYet, "; ")), code: exitNotFound, hint: "take a later --time; without it every register comes back to its newest",
		})
	}
	switch {
	case len(grave) > 0:
		return errors.Join(grave...)
	case len(a.Registers)+len(a.Empty) == 0:
		return &failure{
			err: fmt.Errorf("%w: no register could be opened", register.ErrDamaged), code: exitDamaged,
			hint: "ask the embassies that did not answer; where one has moved: --embassy NAME=URL",
		}
	case len(worst) > 0 || len(a.Problems) > 0 || len(a.NotYet) > 0:
		return &failure{err: errPartial, code: exitPartial}
	}
	return nil
}

// openFound opens a register for reading until the command ends, with local files of its own. Stale tells that what
// embassies show of it may not be the newest, which was accepted.
func (f *recoverFlags) openFound(ctx context.Context, o *opened, found foundRegister, work string) (reg *register.Register, r *archive.Reader, stale bool, err error) {
	dir, err := os.MkdirTemp(work, "")
	if err != nil {
		return nil, nil, false, err
	}
	key, err := seal.NewPrivateKey(found.secrets.Seed)
	if err != nil {
		return nil, nil, false, err
	}
	if err := staleRegister(found.record, o.charter, o.fresh); err != nil {
		if !f.acceptStale {
			return nil, nil, false, err
		}
		stale = true
	}
	if reg, err = archiveRegister(o.charter, found.record, found.secrets, dir, o.client); err != nil {
		return nil, nil, stale, err
	}
	holdLedgers(reg, o.charter, o.client, o.access, f.acceptStale, f.to+"."+withheldFolder)
	if r, err = archive.OpenReader(ctx, reg, agentOf(o.charter, nil, ""), key); err != nil {
		return nil, nil, stale, err
	}
	f.later = append(f.later, r.Close) // a cluster's log is read until it has recovered
	return reg, r, stale, nil
}

// register restores one register's newest snapshot that opens, or the one asked for.
func (f *recoverFlags) register(c *cobra.Command, u *ui, o *opened, found foundRegister, work string, a *recoverJSON) error {
	name := found.secrets.Name
	reg, r, stale, err := f.openFound(c.Context(), o, found, work)
	if stale {
		a.Accepted = mayBeMissing(o.fresh)
	}
	if err != nil {
		return err
	}
	wanted, one := f.snapshot(name), f.restoreFlags
	if f.cut != "" {
		cut, err := cutNamed(c.Context(), reg, agentOf(o.charter, nil, ""), f.cut)
		if err != nil || cut == nil {
			return err // it is none of the cut's registers
		}
		f.cuts = append(f.cuts, cut)
		if wanted, err = one.applyCut(cut); err != nil {
			return err
		}
	}
	head, err := f.choose(c.Context(), r, found.secrets, wanted, a)
	if head == nil || err != nil {
		return err
	}
	to := filepath.Join(f.to, name)
	if slices.ContainsFunc(a.Registers, func(x restoreJSON) bool { return x.To == to }) {
		to += "-" + found.record.ID.String() // two registers of one name: an older one, or one that a thief added
	}
	var rep *restoreJSON
	if found.secrets.Kind == charter.KindPostgres {
		var s *supply
		if wanted == "" {
			head = nil // the one that suits the moment
		}
		if rep, s, err = one.restoreCluster(c, u, r, head, name, to); err == nil {
			f.supplies = append(f.supplies, s)
		}
	} else {
		rep, err = f.restore(c, u, r, head, name, to, nil)
	}
	if err == nil && f.cut != "" {
		f.done[[16]byte(found.record.ID)] = true
	}
	if rep != nil && (err == nil || errors.Is(err, errPartial) || len(found.older) == 0) {
		a.Registers = append(a.Registers, *rep)
	}
	return err
}

// cutVerdict tells what of the cut is missing.
func (f *recoverFlags) cutVerdict() []error {
	if len(f.cuts) == 0 {
		return []error{&failure{err: fmt.Errorf("%w: %s", errNoCut, f.cut), code: exitNotFound, hint: "without --cut every register is brought back to its newest"}}
	}
	if err := wholeCut(f.cuts[0], f.done); err != nil {
		return []error{err}
	}
	return nil
}

// serve hands out the logs of the clusters that were recovered, each until its server has caught up.
func (f *recoverFlags) serve(ctx context.Context, u *ui) error {
	if f.target.noWait {
		return nil
	}
	return serveAll(ctx, u, f.supplies)
}

// close ends what a recovery had open, the last first.
func (f *recoverFlags) close() {
	for _, end := range slices.Backward(f.later) {
		end()
	}
	f.later = nil
}

// snapshot is the snapshot asked for of a register; empty is the newest.
func (f *recoverFlags) snapshot(register string) string {
	for _, x := range f.snapshots {
		if name, snapshot := splitName(x); name == register {
			return snapshot
		}
	}
	return ""
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

func (a *recoverJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s: opened by %s; charter %d.\n", a.State, strings.Join(a.Custodians, ", "), a.Charter)
	for i := range a.Registers {
		a.Registers[i].print(w)
	}
	for _, n := range a.Empty {
		fmt.Fprintf(w, "Register %s has no snapshot.\n", n)
	}
	for _, why := range a.NotYet {
		fmt.Fprintf(w, "Not brought back: %s.\n", printable(why))
	}
	for _, p := range a.Problems {
		fmt.Fprintf(w, "Found at embassies: %s.\n", printable(p))
	}
	for _, n := range a.Down {
		fmt.Fprintf(w, "%s did not answer.\n", n)
	}
	for _, f := range a.Freshness {
		if f.Why != "" && len(a.Accepted) == 0 {
			fmt.Fprintf(w, "%s was not relied on: %s.\n", f.Embassy, printable(f.Why))
		}
	}
	for _, text := range a.Accepted {
		fmt.Fprintf(w, "Accepted as it is: %s.\n", printable(text))
	}
}
