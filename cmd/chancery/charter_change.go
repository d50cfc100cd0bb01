package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

// peopleChange is what the options of charter propose ask for.
type peopleChange struct {
	from                       string
	add, office, until, remove string
	roles, keys                []string
	addKeys, dropKeys          []string
	dropAgent, renewAgent      string
	house, leave               string
	drop                       bool
}

func charterPropose(u *ui) *cobra.Command {
	var x peopleChange
	c := &cobra.Command{
		Use: "propose", Short: "Write the next charter down for people to sign", Args: cobra.NoArgs,
		Long: "Changes go into the proposal that is there already, so that several are signed together; it loses the signatures that\n" +
			"it had. Other commands that change the charter (embassy accredit, witness add, auditor add) propose too, wherever more\n" +
			"than home's own signature is asked for. For anything that has no option, edit the document and hand it in:\n" +
			"chancery charter show --proposed --document > next.yaml, then --from next.yaml.",
		Example: "  chancery charter propose --add anna --office \"State Archive\" --role representative --key anna.pub --home HOME\n" +
			"  chancery charter propose --remove olev --home HOME\n" +
			"  chancery charter propose --from next.yaml --home HOME",
	}
	dir := homeFlag(c)
	f := c.Flags()
	f.StringVar(&x.from, "from", "", "a whole document, edited by hand")
	f.StringVar(&x.add, "add", "", "a person to add, with --office, --role and --key")
	f.StringVar(&x.office, "office", "", "the person's office")
	f.StringVar(&x.until, "until", "", "the person's last day, such as 2030-12-31; with --add")
	f.StringArrayVar(&x.roles, "role", nil, "a role of the person; once for each")
	f.StringArrayVar(&x.keys, "key", nil, "a file with a public SSH key of the person; once for each")
	f.StringVar(&x.remove, "remove", "", "a person to remove, who signs nothing from then on")
	f.StringArrayVar(&x.addKeys, "add-key", nil, "NAME=FILE: another key of a person")
	f.StringArrayVar(&x.dropKeys, "drop-key", nil, "NAME=FILE: a key that is a person's no more")
	f.StringVar(&x.dropAgent, "drop-agent", "", "an agent that writes no more")
	f.StringVar(&x.renewAgent, "renew-agent", "", "NAME of home's agent from then on, with a new key; the key before writes nothing more")
	f.StringVar(&x.house, "house", "", "NAME=ID: an agency with a charter of its own")
	f.StringVar(&x.leave, "drop-house", "", "a house that leaves")
	f.BoolVar(&x.drop, "drop", false, "take the proposal back")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		if x.drop {
			return conn.home.Withdraw()
		}
		next, err := x.next(conn.home)
		if err != nil {
			return err
		}
		p, err := conn.home.Propose(next)
		if err != nil {
			return err
		}
		a := charterAnswer(p.Charter, time.Now())
		if err := a.signed(p, conn.home.Charter); err != nil {
			return err
		}
		return u.answer(a, func(w io.Writer) { a.print(w); printProposal(w, &a) })
	}
	return c
}

// next makes the charter to propose.
func (x *peopleChange) next(h *home.Home) (charter.Charter, error) {
	if x.from != "" {
		doc, err := os.ReadFile(x.from)
		if err != nil {
			return charter.Charter{}, err
		}
		c, err := charter.Parse(doc)
		if err != nil {
			return charter.Charter{}, fmt.Errorf("%s: %w", x.from, err)
		}
		return *c, nil
	}
	next, err := h.Next()
	if err != nil {
		return next, err
	}
	if next.Version < charter.Version { // people and roles
		number, previous := next.Number, next.Previous
		next = next.Upgraded()
		next.Number, next.Previous = number, previous
	}
	if x.renewAgent != "" {
		if err := h.RenewAgent(&next, x.renewAgent, time.Now()); err != nil {
			return next, err
		}
	}
	for _, step := range []func(*charter.Charter) error{x.people, x.personKeys, x.agents, x.houses} {
		if err := step(&next); err != nil {
			return next, err
		}
	}
	return next, nil
}

func noPerson(name string) error {
	return &failure{err: fmt.Errorf("the charter names no person %q", name), code: exitNotFound, hint: "chancery charter show --home HOME"}
}

func (x *peopleChange) people(c *charter.Charter) error {
	if x.add != "" {
		keys, err := publicKeys(x.keys)
		if err != nil {
			return err
		}
		c.People = append(c.People, charter.Person{
			Name: x.add, Office: x.office, From: charter.FirstDay(time.Now()), Until: charter.Date(x.until), Keys: keys,
		})
		for _, name := range x.roles {
			i := slices.IndexFunc(c.Roles, func(r charter.Role) bool { return r.Name == name })
			if i < 0 {
				c.Roles = append(c.Roles, charter.Role{Name: name})
				i = len(c.Roles) - 1
			}
			c.Roles[i].People = append(c.Roles[i].People, x.add)
		}
	}
	if x.remove == "" {
		return nil
	}
	i := slices.IndexFunc(c.People, func(p charter.Person) bool { return p.Name == x.remove })
	if i < 0 {
		return noPerson(x.remove)
	}
	c.People = slices.Delete(c.People, i, i+1)
	for i := range c.Roles {
		c.Roles[i].People = slices.DeleteFunc(c.Roles[i].People, func(n string) bool { return n == x.remove })
	}
	return nil
}

func (x *peopleChange) personKeys(c *charter.Charter) error {
	for _, list := range []struct {
		options []string
		drop    bool
	}{{x.addKeys, false}, {x.dropKeys, true}} {
		for _, option := range list.options {
			name, file, ok := strings.Cut(option, "=")
			if !ok {
				return &failure{err: fmt.Errorf("%q: want NAME=FILE", option), code: exitUsage, hint: "chancery charter propose --help"}
			}
			i := slices.IndexFunc(c.People, func(p charter.Person) bool { return p.Name == name })
			if i < 0 {
				return noPerson(name)
			}
			keys, err := publicKeys([]string{file})
			if err != nil {
				return err
			}
			if !list.drop {
				c.People[i].Keys = append(c.People[i].Keys, keys...)
				continue
			}
			if !slices.Contains(c.People[i].Keys, keys[0]) {
				return &failure{err: fmt.Errorf("%s has no such key", name), code: exitNotFound, hint: "chancery charter show --document --home HOME"}
			}
			c.People[i].Keys = slices.DeleteFunc(c.People[i].Keys, func(k string) bool { return k == keys[0] })
		}
	}
	return nil
}

func (x *peopleChange) agents(c *charter.Charter) error {
	if x.dropAgent == "" {
		return nil
	}
	n := len(c.Agents)
	c.Agents = slices.DeleteFunc(c.Agents, func(a charter.Agent) bool { return a.Name == x.dropAgent })
	if len(c.Agents) == n {
		return &failure{err: fmt.Errorf("the charter names no agent %q", x.dropAgent), code: exitNotFound, hint: "chancery charter show --home HOME"}
	}
	return nil
}

func (x *peopleChange) houses(c *charter.Charter) error {
	if x.house != "" {
		name, text, _ := strings.Cut(x.house, "=")
		id, err := charter.ParseStateID(text)
		if err != nil {
			return &failure{err: fmt.Errorf("--house %q: want NAME=ID: %w", x.house, err), code: exitUsage, hint: "chancery state show --home HOUSE-HOME prints its id"}
		}
		c.Houses = append(c.Houses, charter.House{Name: name, ID: id})
	}
	if x.leave != "" {
		n := len(c.Houses)
		c.Houses = slices.DeleteFunc(c.Houses, func(h charter.House) bool { return h.Name == x.leave })
		if len(c.Houses) == n {
			return &failure{err: fmt.Errorf("the charter names no house %q", x.leave), code: exitNotFound, hint: "chancery charter show --home HOME"}
		}
	}
	return nil
}

func charterAdopt(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "adopt", Short: "Put the proposed charter in force", Args: cobra.NoArgs,
		Long: "Checks the signatures of the proposed charter, puts it in force at home and in the kits that are still here, and tells\n" +
			"every embassy. Where the charter in force has charters wait (act charter, cooling), an order brings it to the embassies\n" +
			"first: chancery order propose charter.",
		Example: "  chancery charter adopt --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := adoptFirst(*dir); err != nil {
			return err
		}
		conn, err := connect(*dir, true)
		if err != nil {
			return err
		}
		defer conn.close()
		p, err := conn.home.Proposal()
		if err == nil {
			err = conn.adoptProposal(c, p)
		}
		if errors.Is(err, home.ErrNoProposal) && conn.home.Charter.Number == 1 {
			err = nil // the first one, which is in force now
		}
		if err != nil {
			return err
		}
		if err := conn.rekey(); err != nil {
			return err
		}
		conn.tellAll(c.Context(), u)
		a := charterAnswer(conn.home.Charter, time.Now())
		a.InForce = true
		if err := u.answer(a, func(w io.Writer) {
			fmt.Fprintf(w, "Charter %d of %s is in force. The kits under %s/kits are renewed: hand them out again.\n", a.Number, a.Name, *dir)
		}); err != nil {
			return err
		}
		return conn.vouch(c.Context())
	}
	return c
}

// adoptFirst puts the first charter in force, where it is not.
func adoptFirst(dir string) error {
	force, p, err := charters(dir)
	if err != nil || force != nil {
		return err
	}
	if err := wantsSignatures(p, nil); err != nil {
		return err
	}
	h, err := home.AdoptFirst(dir)
	if err != nil {
		return err
	}
	h.Close()
	return nil
}

// wantsSignatures names those who have yet to sign.
func wantsSignatures(p *home.Proposal, force *charter.Charter) error {
	before, own, err := p.Signed(force, time.Now())
	if err != nil {
		return err
	}
	whose := fmt.Sprintf("charter %d", p.Charter.Number)
	for _, s := range []home.Standing{before, own} {
		if !s.Enough() {
			return &failure{
				err:  fmt.Errorf("%s: %d of the %d needed have signed; may still sign: %s", whose, len(s.Have), s.Need, strings.Join(s.Missing, ", ")),
				code: exitRefused, hint: "chancery charter sign --key KEY --home HOME",
			}
		}
		whose += ", by its own rules"
	}
	return nil
}

// adoptProposal puts a signed proposal in force. Embassies that take charters by orders alone must have taken it.
func (c *connection) adoptProposal(cmd *cobra.Command, p *home.Proposal) error {
	byOrder := charter.BySuccession(c.home.Charter, p.Charter, p.Sig)
	if act, _ := c.home.Charter.Act(charter.ActCharter); act.Cooling.Duration() > 0 {
		byOrder = true
	}
	other, err := c.home.OtherAgentKey()
	if err != nil {
		return err
	}
	if !byOrder && other != nil { // where none listens to home's agent any more, it is suspended or over
		byOrder = !c.known(cmd.Context(), c.key)
	}
	if !byOrder {
		if err := wantsSignatures(p, c.home.Charter); err != nil {
			return err
		}
		return c.home.AdoptProposal()
	}
	for _, e := range c.home.Charter.Embassies {
		for _, key := range []ed25519.PrivateKey{c.key, other} {
			if doc := c.charterAs(cmd.Context(), e, key); doc != nil && string(doc) == string(p.Charter.Bytes()) {
				return c.home.AdoptProposal()
			}
		}
	}
	return &failure{
		err:  fmt.Errorf("charter %d: no embassy has taken it yet, and it comes to them by an order", p.Charter.Number),
		code: exitRefused, hint: "chancery order propose charter --home HOME; then chancery order submit, and this again when it has waited",
	}
}

// charterAs is the charter that is in force at an embassy, as far as it tells whoever has a key; nil where it does not.
func (c *connection) charterAs(ctx context.Context, e charter.Embassy, key ed25519.PrivateKey) []byte {
	if key == nil {
		return nil
	}
	x := dial(e, c.home.Charter.State.ID, key)
	defer x.Close()
	doc, _, err := x.Charter(ctx)
	if err != nil {
		return nil
	}
	return doc
}

// known tells whether any embassy knows a key.
func (c *connection) known(ctx context.Context, key ed25519.PrivateKey) bool {
	return slices.ContainsFunc(c.home.Charter.Embassies, func(e charter.Embassy) bool { return c.charterAs(ctx, e, key) != nil })
}

func charterHistory(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "history", Short: "List every charter of the state, and check that each follows the one before", Args: cobra.NoArgs,
		Example: "  chancery charter history --home HOME",
	}
	return listing(u, c, "CHARTER HASH PEOPLE SIGNED-BY", func(h *home.Home) (list []charterJSON, err error) {
		all, err := h.Charters()
		if err != nil {
			return nil, err
		}
		var before *charter.Charter
		for i, s := range all {
			ch, err := checkNext(before, s.Doc, s.Sig)
			if err != nil {
				return nil, fmt.Errorf("charter %d: %w", i+1, err)
			}
			a := charterAnswer(ch, time.Now())
			a.InForce, a.SignedBy = i == len(all)-1, signersOf(ch, s.Sig)
			list, before = append(list, a), ch
		}
		return list, nil
	}, func(a charterJSON) []string {
		return []string{fmt.Sprint(a.Number), a.Hash[:16], fmt.Sprint(len(a.People)), strings.Join(a.SignedBy, ", ")}
	})
}

// checkNext reads a charter and holds it against the one before, nil for the first.
func checkNext(before *charter.Charter, doc, sig []byte) (*charter.Charter, error) {
	c, err := charter.Parse(doc)
	if err != nil {
		return nil, err
	}
	if before == nil {
		return c, c.Verify(sig)
	}
	return c, charter.CheckSuccession(before, c, sig)
}

// signersOf are the people of a charter who signed it.
func signersOf(c *charter.Charter, sig []byte) []string {
	var voters []charter.Voter
	for _, p := range c.Everyone() {
		voters = append(voters, charter.Voter{Name: p.Name, Keys: p.Keys})
	}
	votes, err := charter.Tally(c.Bytes(), sig, charter.Namespace, voters, false)
	if err != nil {
		return nil
	}
	names := []string{}
	for _, v := range votes {
		names = append(names, v.Name)
	}
	return names
}

func charterCheck(u *ui) *cobra.Command {
	var after string
	c := &cobra.Command{
		Use: "check FILE", Short: "Check a charter file, with nothing else at hand", Args: cobra.ExactArgs(1),
		Long: "Reads a charter and its signatures (FILE.sig) and says whether it is in its form and signed by enough of its people;\n" +
			"with --after also whether it follows that charter. Exit 2 when it is no charter, 5 when too few have signed, 6 when a\n" +
			"signature is forged.",
		Example: "  chancery charter check next.yaml --after charter.yaml",
	}
	c.Flags().StringVar(&after, "after", "", "the charter that it should follow")
	c.RunE = func(_ *cobra.Command, args []string) error {
		doc, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		sig, err := os.ReadFile(args[0] + ".sig")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		var before *charter.Charter
		if after != "" {
			old, err := os.ReadFile(after)
			if err != nil {
				return err
			}
			if before, err = charter.Parse(old); err != nil {
				return fmt.Errorf("%s: %w", after, err)
			}
		}
		ch, err := checkNext(before, doc, sig)
		if errors.Is(err, charter.ErrQuorum) {
			return &failure{err: fmt.Errorf("%s: %w", args[0], err), code: exitRefused, hint: "ssh-keygen -Y sign -n " + charter.Namespace + " -f KEY " + args[0]}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		a := charterAnswer(ch, time.Now())
		a.SignedBy = signersOf(ch, sig)
		return u.answer(a, func(w io.Writer) {
			a.print(w)
			fmt.Fprintf(w, "\nSigned by %s: enough.\n", strings.Join(a.SignedBy, ", "))
		})
	}
	return c
}
