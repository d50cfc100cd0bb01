package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
)

// grantJSON is the answer of register grant.
type grantJSON struct {
	Register  string `json:"register"`
	ID        string `json:"id"`
	Recipient string `json:"recipient"`
	Sequence  uint64 `json:"sequence"` // of the record
	Readers   int    `json:"readers"`  // that it has, with this one
	Record    string `json:"record"`   // the file
	Hash      string `json:"hash"`     // SHA-256 of it, which an order names
}

func registerGrant(u *ui) *cobra.Command {
	var f recoverFlags
	var recipient string
	c := &cobra.Command{
		Use: "grant REGISTER", Short: "Make the record that gives a register's key to one reader more", Args: cobra.ExactArgs(1),
		Long: "Nothing at home opens a register, so that its key comes from where it is: from a reader, with --identity alone; or\n" +
			"from custodians who meet, with --kit and --identity of each; or who released their shares to this machine (recover\n" +
			"request), with --share, --request and --key. The record changes nothing else and counts nowhere yet: people order\n" +
			"it (order propose grant), and then register adopt brings it to the embassies. What a reader has read cannot be\n" +
			"taken back.",
		Example: "  chancery register grant land --recipient age1pq… --identity READER.key --out land.record --home HOME\n" +
			"  chancery register grant land --recipient age1pq… --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --out land.record --home HOME",
	}
	dir := homeFlag(c)
	out := outFlag(c, "file for the record")
	fl := c.Flags()
	fl.StringVar(&recipient, "recipient", "", "RECIPIENT of the reader")
	fl.StringArrayVar(&f.kits, "kit", nil, "a custodian's kit; once for each")
	fl.StringArrayVar(&f.identities, "identity", nil, "a reader's private key file, or that of each kit's custodian")
	fl.StringArrayVar(&f.shares, "share", nil, "a share released to this machine; once for each")
	fl.StringVar(&f.request, "request", "", "the request that the shares were released for (chancery recover request)")
	fl.StringVar(&f.key, "key", "", "the key that chancery recover request made")
	required(c, "recipient")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := custody.CheckRecipient(recipient); err != nil {
			return usageError(c, fmt.Errorf("--recipient: %w", err))
		}
		if len(f.kits)+len(f.shares) == 0 && len(f.identities) != 1 {
			return usageError(c, errors.New("the register's key comes from a reader, with one --identity, or from custodians, with --kit or --share"))
		}
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		r, err := conn.home.Register(args[0])
		if err != nil {
			return err
		}
		rec, err := conn.grant(c.Context(), r, &f, recipient)
		if err != nil {
			return err
		}
		raw, err := rec.Marshal()
		if err != nil {
			return err
		}
		if err := writeNew(*out, raw, 0o644); err != nil {
			return err
		}
		_, hash, err := readRegisterRecord(*out)
		if err != nil {
			return err
		}
		a := grantJSON{args[0], rec.ID.String(), recipient, rec.Sequence, len(rec.Grants), *out, charter.EncodeDigest(hash)}
		return u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "Record %d of %s, for %s, is in %s. It counts nowhere yet. Next:\n  chancery order propose grant %s --recipient %s --record %s --proposer NAME --reason WHY\nand when the embassies did the order:\n  chancery register adopt %s %s\n",
				a.Sequence, a.Register, plural(a.Readers, "reader"), a.Record, a.Register, a.Recipient, a.Record, a.Register, a.Record)
		})
	}
	return c
}

// grant opens the register's secrets, and clears them when the record is made.
func (c *connection) grant(ctx context.Context, r *home.Register, f *recoverFlags, recipient string) (*charter.Register, error) {
	lockMemory()
	secrets, err := c.secretsOf(r, f)
	if err != nil {
		return nil, err
	}
	defer func() { *secrets = charter.RegisterSecrets{} }()
	seen := uint64(0)
	for _, id := range r.Record.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		list, err := c.client(e).ListRecords(ctx, ledger.Register, [16]byte(r.Record.ID), r.Record.Sequence)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		for _, x := range list {
			seen = max(seen, x.Slot.Sequence)
		}
	}
	return c.home.Grant(r, secrets, recipient, seen)
}

// secretsOf opens a register's secrets with a reader's key, or with the opening key that custodians make.
func (c *connection) secretsOf(r *home.Register, f *recoverFlags) (*charter.RegisterSecrets, error) {
	if len(f.kits)+len(f.shares) == 0 {
		file, err := os.ReadFile(f.identities[0])
		if err != nil {
			return nil, err
		}
		defer clear(file)
		s, err := home.OpenGrant(r.Record, file)
		if err != nil {
			return nil, fmt.Errorf("%s with %s: %w", r.Definition.Name, f.identities[0], err)
		}
		return s, nil
	}
	f.base = c.home.Charter
	o, err := f.open()
	if err != nil {
		return nil, err
	}
	defer o.close()
	return home.OpenSecrets(r.Record, o.opening, o.generation)
}

// adoptedJSON is the answer of register adopt.
type adoptedJSON struct {
	Register  string     `json:"register"`
	Sequence  uint64     `json:"sequence"` // of the record
	Readers   int        `json:"readers"`
	Embassies []string   `json:"embassies"` // that have it
	Down      []downJSON `json:"embassies_down,omitempty"`
	Adopted   bool       `json:"adopted"` // it is home's record now
}

func registerAdopt(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "adopt REGISTER FILE", Short: "Bring a register's ordered record to the embassies, and keep it at home", Args: cobra.ExactArgs(2),
		Long: "Stores a record that register grant made at the register's embassies, which take it once they did the order that\n" +
			"names it, and then keeps it at home: when so many have it that those which may vanish are not all. Exit 5 where no\n" +
			"such order is done, 3 when an embassy is still to be told: run it again.",
		Example: "  chancery register adopt land land.record --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		r, err := conn.home.Register(args[0])
		if err != nil {
			return err
		}
		rec, _, err := readRegisterRecord(args[1])
		if err != nil {
			return err
		}
		a, err := conn.adoptRecord(c.Context(), r, rec)
		if err != nil {
			return err
		}
		if err := u.answer(a, a.print); err != nil {
			return err
		}
		if len(a.Down) > 0 {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// adoptRecord brings a record to a register's embassies, and then home. Home comes last: a crash before leaves embassies ahead
// of home, and the same command goes on.
func (c *connection) adoptRecord(ctx context.Context, r *home.Register, rec *charter.Register) (*adoptedJSON, error) {
	again := rec.Signature == r.Record.Signature
	if !again {
		if err := r.CheckNext(rec); err != nil {
			return nil, err
		}
	}
	a := &adoptedJSON{Register: r.Definition.Name, Sequence: rec.Sequence, Readers: len(rec.Grants), Embassies: []string{}, Adopted: again}
	for _, id := range rec.Members {
		e, ok := c.home.Charter.EmbassyByID(id)
		if !ok {
			continue
		}
		err := c.putRecord(ctx, e, rec)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, embassy.ErrRefused):
			return nil, &failure{
				err: fmt.Errorf("%s does not take the record: %w", e.Name, err), code: exitRefused,
				hint: "it takes what a done order names: chancery order list --home HOME",
			}
		case err != nil:
			a.Down = append(a.Down, downJSON{e.Name, err.Error()})
		default:
			a.Embassies = append(a.Embassies, e.Name)
		}
	}
	if need := len(rec.Members) - int(rec.K) + 1; !again && len(a.Embassies) < need {
		return nil, fmt.Errorf("register %s: %w: %d hold its new record and %d must, and it was not adopted", r.Definition.Name, register.ErrTooFew, len(a.Embassies), need)
	}
	if !again {
		if err := r.Adopt(rec); err != nil {
			return nil, err
		}
	}
	a.Adopted = true
	return a, nil
}

func (a *adoptedJSON) print(w io.Writer) {
	fmt.Fprintf(w, "Record %d of %s, with %s, is home's, and at %d of its embassies.\n", a.Sequence, a.Register, plural(a.Readers, "reader"), len(a.Embassies))
	for _, d := range a.Down {
		fmt.Fprintf(w, "%s is still to be told: %s.\n", d.Embassy, printable(d.Why))
	}
}
