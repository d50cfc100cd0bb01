package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
)

func registerCommand(u *ui) *cobra.Command {
	return noun("register", "Add registers, and look at them", "  chancery register list --home HOME",
		registerAdd(u), registerList(u), registerShow(u))
}

func registerAdd(u *ui) *cobra.Command {
	var def home.Definition
	var embassies, readers []string
	var need int
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a register: a folder that is to be kept abroad", Args: cobra.ExactArgs(1),
		Long: "Makes the register's keys. Its private key is sealed to the state's opening key, and to each reader named, and\n" +
			"is then gone from this machine, which can write the register and not read it. All its embassies must answer. What\n" +
			"is said here is kept in HOME/registers/NAME/register.yaml; embassies, need and readers cannot be changed later.",
		Example: "  chancery register add land --home HOME --files /srv/land --embassies lu,is,pt --need 2 --reader age1pq…",
	}
	dir := homeFlag(c)
	f := c.Flags()
	f.StringVar(&def.Files, "files", "", "the folder that is the register; it is only read")
	f.StringSliceVar(&embassies, "embassies", nil, "the embassies that hold it, by name, in the order of their shares")
	f.IntVar(&need, "need", 0, "how many of them are needed to read it")
	f.StringArrayVar(&readers, "reader", nil, "RECIPIENT of a reader; once for each")
	f.StringArrayVar(&def.Exclude, "exclude", nil, "a rule of what is left out, such as /tmp/ or *.swp; once for each")
	f.BoolVar(&def.AllFileSystems, "all-file-systems", false, "also what is mounted below the folder")
	f.StringVar(&def.Owner, "owner", "", "whose register it is")
	f.StringVar(&def.LegalBasis, "legal-basis", "", "why the state keeps it")
	f.StringVar(&def.Criticality, "criticality", "", "what stops without it")
	f.StringVar(&def.RPO, "rpo", "", "how much may be lost, such as 24h")
	f.StringVar(&def.RTO, "rto", "", "how long it may be gone, such as 72h")
	for _, n := range []string{"files", "embassies", "need"} {
		_ = c.MarkFlagRequired(n)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		def.Name = args[0]
		if err := checkDefinition(&def); err != nil {
			return usageError(c, err)
		}
		for _, r := range readers {
			if err := custody.CheckRecipient(r); err != nil {
				return usageError(c, fmt.Errorf("--reader: %w", err))
			}
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		members, err := conn.members(embassies, need)
		if err != nil {
			return usageError(c, err)
		}
		r, err := conn.home.NewRegister(def, members, need, readers)
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
				def.Name, strings.Join(embassies, ", "), need, def.Name)
		})
	}
	return c
}

// checkDefinition checks what a person wrote, before anything is touched.
func checkDefinition(def *home.Definition) error {
	if !charter.ValidName(def.Name) {
		return fmt.Errorf("%q is not a name: small letters, digits and hyphens, at most 32", def.Name)
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
	raw, err := r.Record.Marshal()
	if err != nil {
		return err
	}
	slot := ledger.Slot{Kind: ledger.Register, Register: r.Record.ID, Sequence: r.Record.Sequence}
	if err := c.client(e).PutRecord(ctx, slot, raw); err != nil {
		return err
	}
	_, err = c.client(e).Receipts(ctx, nil, []ledger.Slot{slot})
	return err
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
}

func registerAnswer(c *charter.Charter, r *home.Register) registerJSON {
	hash := charter.RecipientHash(string(r.Record.PublicKey))
	a := registerJSON{
		Name: r.Definition.Name, ID: r.Record.ID.String(), Files: r.Definition.Files, Exclude: r.Definition.Exclude,
		Need: int(r.Record.K), Readers: len(r.Record.Grants), Owner: r.Definition.Owner, LegalBasis: r.Definition.LegalBasis,
		RPO: r.Definition.RPO, RTO: r.Definition.RTO, PublicKey: hex.EncodeToString(hash[:]),
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
	dir := homeFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		names, err := conn.home.Registers()
		if err != nil {
			return err
		}
		list := []registerJSON{}
		for _, n := range names {
			r, err := conn.home.Register(n)
			if err != nil {
				return err
			}
			list = append(list, registerAnswer(conn.home.Charter, r))
		}
		return u.answer(list, func(w io.Writer) {
			var rows [][]string
			for _, r := range list {
				rows = append(rows, []string{r.Name, fmt.Sprintf("%d of %s", r.Need, strings.Join(r.Embassies, ",")), plural(r.Readers, "reader"), r.Files})
			}
			table(w, "NAME KEPT READERS FILES", rows)
		})
	}
	return c
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
			fmt.Fprintf(w, "%s: %s\nid         %s\nkept at    %s; any %d are needed\nreaders    %d\nexcluded   %s\ndefinition %s\n",
				a.Name, printable(a.Files), a.ID, strings.Join(a.Embassies, ", "), a.Need, a.Readers,
				strings.Join(a.Exclude, " "), filepath.Join(r.Dir, "register.yaml"))
		})
	}
	return c
}
