package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
)

func orderPropose(u *ui) *cobra.Command {
	return noun("propose", "Write an order down for people to sign", "  chancery order propose hold land --name court-3-19 --proposer mari --reason \"Case 3-19\" --home HOME",
		proposeHold(u, charter.ActHold, "Forbid to erase or release anything of a register", "hold land --name court-3-19"),
		proposeHold(u, charter.ActLift, "End a hold", "lift land --name court-3-19"),
		proposeWho(u, charter.ActSuspend, "Suspend a person, whose signature then counts for nothing, or an agent", "suspend person jaan"),
		proposeWho(u, charter.ActRestore, "End a suspension", "restore agent home"),
		proposeGrant(u), proposeRotate(u), proposeCharter(u), proposeRelease(u), proposeErase(u))
}

// draft is what every order is made of.
type draft struct {
	u         *ui
	dir       *string
	reason    string
	proposer  string
	valid     string
	embassies []string
}

// proposing gives a command the options of every order, and its help.
func proposing(u *ui, c *cobra.Command, kind charter.ActName, example string) *draft {
	d := &draft{u: u, dir: homeFlag(c)}
	f := c.Flags()
	f.StringVar(&d.reason, "reason", "", "why, in one line that everybody who signs reads")
	f.StringVar(&d.proposer, "proposer", "", "name of whoever proposes it, who also signs it")
	f.StringVar(&d.valid, "valid", "", "how long it is open for signatures, such as 72h (default: as long as the charter allows)")
	f.StringSliceVar(&d.embassies, "embassies", nil, "which embassies it is for (default: all that it concerns)")
	required(c, "reason", "proposer")
	c.Example = "  chancery order propose " + example + " --proposer mari --reason \"Case 3-19\" --home HOME"
	k, _ := order.KindOf(kind)
	c.Long = "Writes HOME/orders/NAME.yaml, which binds this charter, this content and these embassies, and prints how to sign it.\n"
	for _, line := range k.Does {
		c.Long += line + "\n"
	}
	c.Long += "It does nothing until enough people have signed it and it was submitted to embassies."
	return d
}

// write makes the order and keeps it at home, with what it binds beside it: first that, so that no order lies there
// without it.
func (d *draft) write(h *home.Home, kind charter.ActName, content order.Content, concerned []string, beside map[string][]byte) error {
	act, ok := h.Charter.Act(kind)
	if !ok {
		return &failure{
			err: fmt.Errorf("charter %d: %w: %s", h.Charter.Number, charter.ErrNoAct, kind), code: exitRefused,
			hint: "give the act to a role in the next charter: chancery charter propose --home HOME",
		}
	}
	valid := charter.Span(d.valid)
	if d.valid == "" {
		valid = act.Valid
	}
	if !valid.Valid() || valid.Duration() == 0 {
		return &failure{err: fmt.Errorf("--valid %q: want a time such as 72h", d.valid), code: exitUsage, hint: "--valid 72h"}
	}
	now := time.Now().UTC().Truncate(time.Second)
	o := order.Order{
		Kind: kind, State: h.Charter.State.ID, Charter: h.Charter.Number, CharterHash: h.Charter.Hash(), Proposer: d.proposer,
		Created: now, Expires: now.Add(valid.Duration()), Reason: d.reason, Content: content,
	}
	for _, name := range concerned {
		if _, err := accredited(h.Charter, name); err != nil {
			return err
		}
	}
	o.Embassies = slices.Sorted(slices.Values(concerned))
	if _, err := rand.Read(o.Nonce[:]); err != nil {
		return err
	}
	made, err := order.New(o)
	if err != nil {
		return err
	}
	path := filepath.Join(ordersDir(h), fmt.Sprintf("%s-%x.yaml", kind, o.Nonce[:4]))
	if _, why := orderAnswer(path, made, nil, h.Charter, now); why != nil && !errors.Is(why, charter.ErrQuorum) {
		return hinted(why, "chancery charter show --home HOME")
	}
	if err := durable.MkdirAll(ordersDir(h), 0o755); err != nil {
		return err
	}
	for _, end := range slices.Sorted(maps.Keys(beside)) {
		if err := durable.WriteFile(path+end, beside[end], 0o644); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(path, made.Bytes(), 0o644); err != nil {
		return err
	}
	x, _ := orderAnswer(path, made, nil, h.Charter, now)
	return d.u.answer(x, func(w io.Writer) {
		x.print(w)
		fmt.Fprintf(w, "Written to %s. Whoever is to sign reads it, and then:\n  chancery order sign %s --key KEY\nor, with any key and without this program:\n  %s\n",
			path, path, orderLine(path))
	})
}

// all are the embassies that an order is for which concerns every one of the state.
func (d *draft) all(c *charter.Charter) []string {
	if len(d.embassies) > 0 {
		return d.embassies
	}
	var names []string
	for _, e := range c.Embassies {
		names = append(names, e.Name)
	}
	return names
}

// of are the embassies that an order about a register is for: those that hold it.
func (d *draft) of(c *charter.Charter, rec *charter.Register) []string {
	if len(d.embassies) > 0 {
		return d.embassies
	}
	var names []string
	for _, id := range rec.Members {
		if e, ok := c.EmbassyByID(id); ok {
			names = append(names, e.Name)
		}
	}
	return names
}

// open opens the home.
func (d *draft) open() (*home.Home, error) {
	if *d.dir == "" {
		return nil, &failure{err: errors.New("which home folder?"), code: exitUsage, hint: "name it with --home HOME or CHANCERY_HOME"}
	}
	return home.Open(*d.dir, false)
}

func proposeHold(u *ui, kind charter.ActName, short, example string) *cobra.Command {
	c := &cobra.Command{Use: string(kind) + " REGISTER", Short: short, Args: cobra.ExactArgs(1)}
	d := proposing(u, c, kind, example)
	name := c.Flags().String("name", "", "name of the hold")
	required(c, "name")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkName(*name); err != nil {
			return usageError(c, fmt.Errorf("--name: %w", err))
		}
		h, err := d.open()
		if err != nil {
			return err
		}
		defer h.Close()
		r, err := h.Register(args[0])
		if err != nil {
			return err
		}
		return d.write(h, kind, order.Content{Register: r.Record.ID, Label: args[0], Hold: *name}, d.of(h.Charter, r.Record), nil)
	}
	return c
}

func proposeWho(u *ui, kind charter.ActName, short, example string) *cobra.Command {
	c := &cobra.Command{Use: string(kind) + " person|agent NAME", Short: short, Args: cobra.ExactArgs(2)}
	d := proposing(u, c, kind, example)
	c.RunE = func(c *cobra.Command, args []string) error {
		if args[0] != "person" && args[0] != "agent" {
			return usageError(c, fmt.Errorf("%q: want person or agent", args[0]))
		}
		if err := checkName(args[1]); err != nil {
			return usageError(c, err)
		}
		h, err := d.open()
		if err != nil {
			return err
		}
		defer h.Close()
		return d.write(h, kind, order.Content{Who: order.Who{Agent: args[0] == "agent", Name: args[1]}}, d.all(h.Charter), nil)
	}
	return c
}

func proposeGrant(u *ui) *cobra.Command {
	var recipient, file string
	c := &cobra.Command{Use: "grant REGISTER", Short: "Give a reader the key of a register", Args: cobra.ExactArgs(1)}
	d := proposing(u, c, charter.ActGrant, "grant land --recipient age1pq… --record land.record")
	c.Flags().StringVar(&recipient, "recipient", "", "RECIPIENT of the reader")
	c.Flags().StringVar(&file, "record", "", "the new record of the register, which grants it")
	required(c, "recipient", "record")
	c.RunE = func(c *cobra.Command, args []string) error {
		h, err := d.open()
		if err != nil {
			return err
		}
		defer h.Close()
		r, err := h.Register(args[0])
		if err != nil {
			return err
		}
		rec, hash, err := readRegisterRecord(file)
		if err != nil {
			return err
		}
		reader := charter.RecipientHash(recipient)
		if rec.ID != r.Record.ID || !slices.ContainsFunc(rec.Grants, func(g charter.Grant) bool { return g.Recipient == reader }) {
			return &failure{err: fmt.Errorf("%s: is not a record of %s that grants it to that reader", file, args[0]), code: exitUsage, hint: "make it: chancery register grant " + args[0] + " --recipient AGE1PQ… --identity READER.key --out FILE"}
		}
		return d.write(h, charter.ActGrant, order.Content{Register: rec.ID, Label: args[0], Recipient: reader, Record: hash}, d.of(h.Charter, rec), nil)
	}
	return c
}

// readRegisterRecord reads a register's record, which its agent signed.
func readRegisterRecord(file string) (*charter.Register, [32]byte, error) {
	data, err := readCapped(file, 1<<20)
	if err != nil {
		return nil, [32]byte{}, err
	}
	rec, err := charter.ParseRegister(data)
	if err == nil {
		err = rec.Verify()
	}
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("%s: %w", file, err)
	}
	return rec, sha256.Sum256(data), nil
}

func proposeRotate(u *ui) *cobra.Command {
	var files []string
	var generation uint32
	c := &cobra.Command{Use: "rotate", Short: "Have embassies take registers' records under new keys", Args: cobra.NoArgs}
	d := proposing(u, c, charter.ActRotate, "rotate --generation 2 --record land.record")
	c.Flags().StringArrayVar(&files, "record", nil, "the new record of a register; once for each")
	c.Flags().Uint32Var(&generation, "generation", 0, "of the opening key to which they are sealed")
	required(c, "record", "generation")
	c.RunE = func(*cobra.Command, []string) error {
		h, err := d.open()
		if err != nil {
			return err
		}
		defer h.Close()
		content := order.Content{Generation: generation}
		concerned := map[string]bool{}
		for _, f := range files {
			rec, hash, err := readRegisterRecord(f)
			if err != nil {
				return err
			}
			content.Records = append(content.Records, order.RecordRef{Register: rec.ID, Hash: hash})
			for _, name := range d.of(h.Charter, rec) {
				concerned[name] = true
			}
		}
		slices.SortFunc(content.Records, func(a, b order.RecordRef) int { return slices.Compare(a.Register[:], b.Register[:]) })
		return d.write(h, charter.ActRotate, content, slices.Collect(maps.Keys(concerned)), nil)
	}
	return c
}

func proposeCharter(u *ui) *cobra.Command {
	c := &cobra.Command{Use: "charter", Short: "Have embassies put the charter in force that is proposed at home", Args: cobra.NoArgs}
	d := proposing(u, c, charter.ActCharter, "charter")
	c.RunE = func(*cobra.Command, []string) error {
		h, err := d.open()
		if err != nil {
			return err
		}
		defer h.Close()
		p, err := h.Proposal()
		if err != nil {
			return err
		}
		content := order.Content{Number: p.Charter.Number, Hash: p.Charter.Hash()}
		return d.write(h, charter.ActCharter, content, d.all(h.Charter), map[string][]byte{".charter": p.Charter.Bytes(), ".charter.sig": p.Sig})
	}
	return c
}
