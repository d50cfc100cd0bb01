package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/home"
)

func registerCommand(u *ui) *cobra.Command {
	return noun("register", "Add registers, and look at them", "  chancery register list --home HOME",
		registerAdd(u), registerList(u), registerShow(u), registerGrant(u), registerAdopt(u))
}

// addFlags are what a register is.
type addFlags struct {
	def                home.Definition
	postgres           home.Postgres
	embassies, readers []string
	need               int
}

func (a *addFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.def.Files, "files", "", "the folder that is the register; it is only read")
	f.StringVar(&a.postgres.Conninfo, "postgres", "", "the PostgreSQL cluster that is the register, as in 'host=db user=chancery'")
	f.StringVar(&a.postgres.Slot, "slot", "", "cluster: the replication slot (default: chancery_NAME)")
	f.BoolVar(&a.postgres.Synchronous, "synchronous", false, "cluster: a commit may wait until the embassies hold it")
	f.IntVar(&a.postgres.Holders, "holders", 0, "cluster: how many embassies hold a commit before it counts (default: as many as --need)")
	f.StringVar(&a.postgres.Interval, "interval", "", "cluster: how long log waits at home for more, from 10ms (default: 1s)")
	f.StringSliceVar(&a.postgres.Databases, "databases", nil, "cluster: those that belong to the register; others are reported (default: all)")
	f.StringVar(&a.def.StaysHome, "stays-home", "", "why nothing of it may leave home: no keys, no embassies")
	f.StringSliceVar(&a.embassies, "embassies", nil, "the embassies that hold it, by name, in the order of their shares")
	f.IntVar(&a.need, "need", 0, "how many of them are needed to read it")
	f.StringArrayVar(&a.readers, "reader", nil, "RECIPIENT of a reader; once for each")
	f.StringArrayVar(&a.def.Exclude, "exclude", nil, "a rule of what is left out, such as /tmp/ or *.swp; once for each")
	f.BoolVar(&a.def.AllFileSystems, "all-file-systems", false, "also what is mounted below the folder")
	f.StringVar(&a.def.Owner, "owner", "", "whose register it is")
	f.StringVar(&a.def.LegalBasis, "legal-basis", "", "why the state keeps it")
	f.StringVar(&a.def.Criticality, "criticality", "", "what stops without it")
	f.StringVar(&a.def.RPO, "rpo", "", "how much may be lost, such as 24h")
	f.StringVar(&a.def.RTO, "rto", "", "how long it may be gone, such as 72h")
	c.MarkFlagsOneRequired("files", "postgres", "stays-home")
	c.MarkFlagsMutuallyExclusive("files", "postgres")
	c.MarkFlagsMutuallyExclusive("stays-home", "embassies")
	c.MarkFlagsRequiredTogether("embassies", "need")
}

// check completes the definition and refuses what cannot be, before anything is touched.
func (a *addFlags) check(ctx context.Context, name string) error {
	a.def.Name = name
	if a.postgres.Conninfo != "" {
		a.postgres.Slot = cmp.Or(a.postgres.Slot, home.SlotOf(name))
		a.def.Postgres = &a.postgres
	}
	if err := checkDefinition(ctx, &a.def); err != nil {
		return err
	}
	if h := a.postgres.Holders; h != 0 && (h < a.need || h > len(a.embassies)) {
		return fmt.Errorf("--holders %d: want from %d, which --need asks for, to %d, all embassies", h, a.need, len(a.embassies))
	}
	if a.def.StaysHome == "" && len(a.embassies) == 0 {
		return errors.New("which embassies? name them with --embassies and --need")
	}
	for _, r := range a.readers {
		if err := custody.CheckRecipient(r); err != nil {
			return fmt.Errorf("--reader: %w", err)
		}
	}
	return nil
}

func registerAdd(u *ui) *cobra.Command {
	var a addFlags
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a register: a folder or a PostgreSQL cluster that is to be kept abroad", Args: cobra.ExactArgs(1),
		Long: "Makes the register's keys. Its private key is sealed to the state's opening key, and to each reader named, and\n" +
			"is then gone from this machine, which can write the register and not read it. All its embassies must answer. What\n" +
			"is said here is kept in HOME/registers/NAME/register.yaml; embassies and need cannot be changed later, and a reader\n" +
			"is added by an order (register grant).\n\n" +
			"A cluster is reached as its own tools reach it, by a user who may replicate; the password stands in ~/.pgpass or a\n" +
			"file that passfile= names, and never here. What must never leave home is named with --stays-home and the reason: it\n" +
			"gets no keys, and every command refuses to work on it.",
		Example: "  chancery register add land --home HOME --files /srv/land --embassies lu,is,pt --need 2 --reader age1pq…\n" +
			"  chancery register add population --home HOME --postgres \"host=db user=chancery\" --embassies lu,is,pt --need 2 --reader age1pq…\n" +
			"  chancery register add agents --home HOME --stays-home \"names of sources, law on secrets, section 4\"",
	}
	dir := homeFlag(c)
	a.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := a.check(c.Context(), args[0]); err != nil {
			return usageError(c, err)
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		if a.def.StaysHome != "" {
			return conn.addStaying(u, a.def)
		}
		members, err := conn.members(a.embassies, a.need)
		if err != nil {
			return usageError(c, err)
		}
		r, err := conn.home.NewRegister(a.def, members, a.need, a.readers)
		if err != nil {
			return err
		}
		if err := conn.announce(c.Context(), r); err != nil {
			return err
		}
		if err := conn.home.Save(r); err != nil {
			return err
		}
		return u.answer(registerAnswer(conn.home.Charter, r), func(w io.Writer) {
			fmt.Fprintf(w, "Register %s is known at %s; any %d bring it back. Next: chancery backup %s\n",
				a.def.Name, strings.Join(a.embassies, ", "), a.need, a.def.Name)
		})
	}
	return c
}

// checkDefinition checks what a person wrote, before anything is touched.
func checkDefinition(ctx context.Context, def *home.Definition) error {
	if err := checkName(def.Name); err != nil {
		return err
	}
	if def.Postgres != nil {
		if err := def.Postgres.Check(); err != nil || def.StaysHome != "" {
			return err
		}
		return checkCluster(ctx, def.Postgres)
	}
	if def.Files == "" {
		return nil
	}
	if _, err := filetree.ParseRules(def.Exclude); err != nil {
		return fmt.Errorf("--exclude: %w", err)
	}
	src, err := filetree.OpenSource(def.Files)
	if err != nil {
		return fmt.Errorf("--files: %w", err)
	}
	src.Close()
	def.Files, err = filepath.Abs(def.Files)
	return err
}

// checkCluster asks the server what a backup will ask it.
func checkCluster(ctx context.Context, p *home.Postgres) error {
	conn, err := cluster.Open(ctx, p.Conninfo)
	if err != nil {
		return err
	}
	defer conn.Close()
	id, err := conn.Identify(ctx)
	if err == nil && !id.FullPageWrites {
		err = cluster.ErrFullPageWrites
	}
	if err == nil && id.WALLevel == "minimal" {
		err = errors.New("wal_level is minimal: it must be replica or logical")
	}
	return err
}

// addStaying adds a register that is never to leave home.
func (c *connection) addStaying(u *ui, def home.Definition) error {
	if err := c.home.SaveStaying(def); err != nil {
		return err
	}
	return u.answer(registerJSON{Name: def.Name, Files: def.Files, Embassies: []string{}, StaysHome: def.StaysHome}, func(w io.Writer) {
		fmt.Fprintf(w, "Register %s stays at home: %s. Every command refuses to work on it.\n", def.Name, printable(def.StaysHome))
	})
}

// members finds embassies by name.
func (c *connection) members(names []string, need int) ([]charter.EmbassyID, error) {
	if need < 1 || need > len(names) {
		return nil, fmt.Errorf("--need %d of %s is not possible", need, plural(len(names), "embassy"))
	}
	countries := map[string]string{}
	var out []charter.EmbassyID
	for _, n := range names {
		e, ok := c.home.Charter.EmbassyByName(n)
		if !ok {
			return nil, fmt.Errorf("no accredited embassy is named %q", n)
		}
		if other, taken := countries[e.Country]; taken {
			return nil, fmt.Errorf("%s and %s are in one host state (%s): shares go to different ones", other, n, e.Country)
		}
		countries[e.Country] = n
		out = append(out, e.ID)
	}
	return out, nil
}

// announce stores a register's record at every member and takes the receipts. All must answer: a register starts whole.
func (c *connection) announce(ctx context.Context, r *home.Register) error {
	for _, id := range r.Record.Members {
		e, _ := c.home.Charter.EmbassyByID(id)
		if err := c.tellCharter(ctx, e); err != nil {
			return err
		}
		if err := c.announceTo(ctx, e, r); err != nil {
			return err
		}
	}
	return nil
}

// announceTo stores a register's record at one member, where it is not yet, and takes the receipt.
func (c *connection) announceTo(ctx context.Context, e charter.Embassy, r *home.Register) error {
	return c.putRecord(ctx, e, r.Record)
}

type registerJSON struct {
	Name       string   `json:"name"`
	ID         string   `json:"id"`
	Files      string   `json:"files"`
	Exclude    []string `json:"exclude,omitempty"`
	Embassies  []string `json:"embassies"`
	Need       int      `json:"need"`
	Readers    int      `json:"readers"`
	Owner      string   `json:"owner,omitempty"`
	LegalBasis string   `json:"legal_basis,omitempty"`
	RPO        string   `json:"rpo,omitempty"`
	RTO        string   `json:"rto,omitempty"`
	PublicKey  string   `json:"public_key_sha256"`
	Postgres   string   `json:"postgres,omitempty"`
	Slot       string   `json:"slot,omitempty"`
	Sync       bool     `json:"synchronous,omitempty"`
	Holders    int      `json:"holders,omitempty"`
	StaysHome  string   `json:"stays_home,omitempty"`
}

func registerAnswer(c *charter.Charter, r *home.Register) registerJSON {
	hash := charter.RecipientHash(string(r.Record.PublicKey))
	a := registerJSON{
		Name: r.Definition.Name, ID: r.Record.ID.String(), Files: r.Definition.Files, Exclude: r.Definition.Exclude,
		Need: int(r.Record.K), Readers: len(r.Record.Grants), Owner: r.Definition.Owner, LegalBasis: r.Definition.LegalBasis,
		RPO: r.Definition.RPO, RTO: r.Definition.RTO, PublicKey: hex.EncodeToString(hash[:]),
	}
	if p := r.Definition.Postgres; p != nil {
		a.Postgres, a.Slot, a.Sync, a.Holders = p.Conninfo, p.Slot, p.Synchronous, cmp.Or(p.Holders, a.Need)
	}
	for _, id := range r.Record.Members {
		if e, ok := c.EmbassyByID(id); ok {
			a.Embassies = append(a.Embassies, e.Name)
		}
	}
	return a
}

func registerList(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the registers", Args: cobra.NoArgs,
		Example: "  chancery register list --home HOME",
	}
	return listing(u, c, "NAME KEPT READERS SOURCE", func(h *home.Home) (list []registerJSON, err error) {
		names, err := h.Registers()
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			r, err := h.Register(n)
			if errors.Is(err, home.ErrStaysHome) { // it was kept abroad before: it is listed below
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, registerAnswer(h.Charter, r))
		}
		staying, err := h.Staying()
		for _, d := range staying {
			list = append(list, registerJSON{Name: d.Name, Files: d.Files, Embassies: []string{}, StaysHome: d.StaysHome})
		}
		return list, err
	}, func(r registerJSON) []string {
		if r.StaysHome != "" {
			return []string{r.Name, "stays at home", "-", r.StaysHome}
		}
		return []string{r.Name, fmt.Sprintf("%d of %s", r.Need, strings.Join(r.Embassies, ",")), plural(r.Readers, "reader"), cmp.Or(r.Files, r.Postgres)}
	})
}

// holding says how many embassies are to hold a cluster's log, where that is more than are needed to read it.
func holding(a *registerJSON) string {
	if a.Holders <= a.Need {
		return ""
	}
	return fmt.Sprintf("; %d are to hold its log", a.Holders)
}

func registerShow(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one register", Args: cobra.ExactArgs(1),
		Example: "  chancery register show land --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		r, err := conn.home.Register(args[0])
		if err != nil {
			return err
		}
		a := registerAnswer(conn.home.Charter, r)
		return u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s\nid         %s\nkept at    %s; any %d are needed%s\nreaders    %d\nexcluded   %s\ndefinition %s\n",
				a.Name, printable(cmp.Or(a.Files, a.Postgres)), a.ID, strings.Join(a.Embassies, ", "), a.Need, holding(&a), a.Readers,
				strings.Join(a.Exclude, " "), filepath.Join(r.Dir, "register.yaml"))
		})
	}
	return c
}
