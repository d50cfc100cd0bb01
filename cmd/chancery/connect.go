package main

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
)

// The archive knows embassies by two small interfaces, and package embassy knows nothing of archives; here they meet.

// remote is an embassy's client as the archive wants it.
type remote struct {
	*embassy.Client
	name    string
	charter *charter.Charter // the newest that is known
}

// Check asks for what is missing, or has the embassy read its disk.
func (r remote) Check(ctx context.Context, names []shard.Name, read bool) ([]register.Flaw, error) {
	var flaws []register.Flaw
	if read {
		damage, err := r.Scrub(ctx, names)
		for _, d := range damage {
			what := map[string]string{"unknown": "missing", "lost": "missing", "length": "wrong size", "altered": "wrong bytes"}[d.What]
			flaws = append(flaws, register.Flaw{Name: d.Name, What: what})
		}
		return flaws, err
	}
	missing, err := r.Missing(ctx, names)
	for _, n := range missing {
		flaws = append(flaws, register.Flaw{Name: n, What: register.Missing})
	}
	return flaws, err
}

// connection is an open home and what it takes to speak to its embassies.
type connection struct {
	home    *home.Home
	key     ed25519.PrivateKey
	clients map[charter.EmbassyID]*embassy.Client
	clock   func() time.Time // what snapshots claim; nil: the machine's
	stale   bool             // ledgers are taken as they are: --accept-stale
	ends    []func()
}

// later has something done when the connection closes.
func (c *connection) later(f func()) { c.ends = append(c.ends, f) }

// homeFlag gives a command --home.
func homeFlag(c *cobra.Command) *string {
	return c.Flags().String("home", os.Getenv("CHANCERY_HOME"), "home folder (default: $CHANCERY_HOME)")
}

// outFlag gives a command --out, which it requires, for a file that it makes.
func outFlag(c *cobra.Command, what string) *string {
	out := c.Flags().String("out", "", what+"; it must not exist")
	required(c, "out")
	return out
}

// required marks options of a command without which it does nothing.
func required(c *cobra.Command, options ...string) {
	for _, o := range options {
		_ = c.MarkFlagRequired(o) // fails for an option that is not there alone
	}
}

// checkName refuses what the charter would not take for a name.
func checkName(name string) error {
	if !charter.ValidName(name) {
		return fmt.Errorf("%q is not a name: small letters, digits and hyphens, at most 32", name)
	}
	return nil
}

// accredited finds an embassy of a charter by its name.
func accredited(ch *charter.Charter, name string) (charter.Embassy, error) {
	e, ok := ch.EmbassyByName(name)
	if !ok {
		return e, &failure{err: fmt.Errorf("no accredited embassy is named %q", name), code: exitNotFound, hint: "chancery embassy list --home HOME"}
	}
	return e, nil
}

// connect opens a home. With exclusive nobody else may change it meanwhile; work on one register is kept apart by the
// register's own lock.
func connect(dir string, exclusive bool) (*connection, error) {
	if dir == "" {
		return nil, &failure{err: errors.New("which home folder?"), code: exitUsage, hint: "name it with --home HOME or CHANCERY_HOME"}
	}
	h, err := home.Open(dir, exclusive)
	if err != nil {
		return nil, err
	}
	key, err := h.AgentKey()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &connection{home: h, key: key, clients: map[charter.EmbassyID]*embassy.Client{}}, nil
}

func (c *connection) close() {
	for _, x := range c.clients {
		x.Close()
	}
	for _, f := range c.ends {
		f()
	}
	c.home.Close()
}

// rekey takes the agent's key anew, which another charter may have named.
func (c *connection) rekey() (err error) {
	for id, x := range c.clients {
		x.Close()
		delete(c.clients, id)
	}
	c.key, err = c.home.AgentKey()
	return err
}

// listing makes a command list what a home knows: the entries, each a row of a table for people.
func listing[T any](u *ui, c *cobra.Command, title string, entries func(*home.Home) ([]T, error), row func(T) []string) *cobra.Command {
	dir := homeFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		list, err := entries(conn.home)
		if err != nil {
			return err
		}
		return u.answer(append([]T{}, list...), func(w io.Writer) {
			var rows [][]string
			for _, x := range list {
				rows = append(rows, row(x))
			}
			table(w, title, rows)
		})
	}
	return c
}

// client speaks to an accredited embassy.
func (c *connection) client(e charter.Embassy) *embassy.Client {
	if c.clients[e.ID] == nil {
		c.clients[e.ID] = dial(e, c.home.Charter.State.ID, c.key)
	}
	return c.clients[e.ID]
}

func dial(e charter.Embassy, state charter.StateID, key ed25519.PrivateKey) *embassy.Client {
	return embassy.Dial(embassy.ConfigFor(e, state, key))
}

// agent is who signs the heads of this home.
func (c *connection) agent() *register.Agent {
	host, _ := os.Hostname()
	a := agentOf(c.home.Charter, c.key, host)
	a.Clock = c.clock
	return a
}

func agentOf(c *charter.Charter, key ed25519.PrivateKey, host string) *register.Agent {
	a := &register.Agent{Key: key, CharterNumber: c.Number, CharterHash: c.Hash(), Host: host}
	for _, x := range c.Agents {
		a.Trusted = append(a.Trusted, x.PublicKey())
	}
	return a
}

// register opens a register for the archive.
func (c *connection) register(name string) (*home.Register, *register.Register, error) {
	r, err := c.home.Register(name)
	if err != nil {
		return nil, nil, err
	}
	reg, err := archiveRegister(c.home.Charter, r.Record, r.Secrets, r.Dir, c.client)
	if err == nil {
		holdLedgers(reg, c.home.Charter, c.client, c.key, c.stale, filepath.Join(r.Dir, withheldFolder))
	}
	return r, reg, err
}

// registers are all registers, or those named.
func (c *connection) registers(names []string) ([]string, error) {
	if len(names) > 0 {
		return names, nil
	}
	return c.home.Registers()
}

// archiveRegister puts a register together for the archive.
func archiveRegister(c *charter.Charter, rec *charter.Register, s *charter.RegisterSecrets, dir string, client func(charter.Embassy) *embassy.Client) (*register.Register, error) {
	public, err := seal.ParsePublicKey(rec.PublicKey)
	if err != nil {
		return nil, err
	}
	reg := &register.Register{
		State: rec.State, ID: rec.ID, Name: s.Name, Epoch: rec.Epoch, Public: public,
		IDKey: chunk.IDKey(s.IDKey), GearKey: s.GearKey, IndexKey: seal.Key(s.IndexKey), MaskKey: shard.MaskKey(s.MaskKey),
		K: int(rec.K), Dir: dir,
	}
	if s.Kind == charter.KindPostgres {
		reg.StreamFrom = postgres.NeedsFrom(reg)
	}
	for _, id := range rec.Members {
		e, ok := c.EmbassyByID(id)
		if !ok {
			return nil, fmt.Errorf("register %s: embassy %s is not in the charter", s.Name, id)
		}
		x := remote{client(e), e.Name, c}
		reg.Members = append(reg.Members, register.Member{ID: id, Name: e.Name, Objects: x, Records: x})
	}
	return reg, nil
}

// tellCharter brings an embassy up to the newest charter, one step at a time, and gives it every charter there was,
// so that a kit of any age can be followed to the newest from any embassy.
func (c *connection) tellCharter(ctx context.Context, e charter.Embassy) error {
	x := c.client(e)
	err := c.putCharters(ctx, e, x)
	if errors.Is(err, embassy.ErrRefused) { // it may know the agent by the key before alone
		if other, kerr := c.home.OtherAgentKey(); kerr == nil && other != nil {
			before := dial(e, c.home.Charter.State.ID, other)
			_ = c.putCharters(ctx, e, before) // what is still missing the next try says
			before.Close()
			err = c.putCharters(ctx, e, x)
		}
	}
	if err != nil {
		return err
	}
	known, err := x.ListRecords(ctx, ledger.Charter, [16]byte{}, 0)
	if err != nil {
		return err
	}
	for n := uint64(len(known)) + 1; n <= c.home.Charter.Number; n++ {
		doc, sig, err := c.home.CharterAt(n)
		if err != nil {
			return err
		}
		if err := x.PutRecord(ctx, charterSlot(n), charterRecord(doc, sig)); err != nil {
			return fmt.Errorf("%s: charter %d: %w", e.Name, n, err)
		}
	}
	return nil
}

// putCharters hands an embassy the charters that it has yet to put in force.
func (c *connection) putCharters(ctx context.Context, e charter.Embassy, x *embassy.Client) error {
	st, err := x.Status(ctx)
	if err != nil {
		return err
	}
	for n := st.CharterNumber + 1; n <= c.home.Charter.Number; n++ {
		doc, sig, err := c.home.CharterAt(n)
		if err != nil {
			return err
		}
		if err := c.beforeGeneration(ctx, e, n); err != nil {
			return fmt.Errorf("%s: before charter %d: %w", e.Name, n, err)
		}
		if err := x.PutCharter(ctx, doc, sig); err != nil {
			return fmt.Errorf("%s: charter %d: %w", e.Name, n, err)
		}
	}
	return nil
}

func charterSlot(n uint64) ledger.Slot { return ledger.Slot{Kind: ledger.Charter, Sequence: n} }

// charterRecord is a charter with its signatures as embassies keep it for recovery: the length of the document in
// four bytes, the document, the signatures.
func charterRecord(doc, sig []byte) []byte {
	rec := binary.BigEndian.AppendUint32(nil, uint32(len(doc)))
	return append(append(rec, doc...), sig...)
}

// parseCharterRecord takes one apart; the signatures are for the caller to check.
func parseCharterRecord(rec []byte) (c *charter.Charter, sig []byte, err error) {
	if len(rec) < 4 || uint64(binary.BigEndian.Uint32(rec)) > uint64(len(rec)-4) {
		return nil, nil, fmt.Errorf("%w: a charter record is cut short", embassy.ErrForged)
	}
	n := 4 + binary.BigEndian.Uint32(rec)
	c, err = charter.Parse(rec[4:n])
	return c, rec[n:], err
}
