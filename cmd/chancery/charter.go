package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

func charterCommand(u *ui) *cobra.Command {
	return noun("charter", "Show the state's own policy, and change it together", "  chancery charter show --home HOME",
		charterShow(u), charterPropose(u), charterSign(u), charterAdopt(u), charterHistory(u), charterCheck(u))
}

// charterJSON is what charter show, check and history say of one charter.
type charterJSON struct {
	Number   uint64       `json:"number"`
	Hash     string       `json:"hash"`
	Version  int          `json:"version"`
	State    string       `json:"state"`
	Name     string       `json:"name"`
	HouseOf  string       `json:"house_of,omitempty"`
	People   []personJSON `json:"people"`
	Roles    []roleJSON   `json:"roles"`
	Acts     []ruleJSON   `json:"acts"`
	Agents   []string     `json:"agents"`
	Houses   []string     `json:"houses"`
	SignedBy []string     `json:"signed_by"`
	Missing  []string     `json:"missing,omitempty"` // who may still sign
	Need     int          `json:"need"`              // signatures of the charter before
	// OwnMissing are those of whom some must sign so that it also has the quorum that it asks for itself.
	OwnMissing []string `json:"own_missing,omitempty"`
	InForce    bool     `json:"in_force"`
	Path       string   `json:"path,omitempty"`
}

type personJSON struct {
	Name      string   `json:"name"`
	Office    string   `json:"office"`
	Clearance string   `json:"clearance"`
	From      string   `json:"from"`
	Until     string   `json:"until"`
	Keys      []string `json:"keys"`
	Serves    bool     `json:"serves"` // today
}

type roleJSON struct {
	Name   string   `json:"name"`
	People []string `json:"people"`
}

type ruleJSON struct {
	Act     string `json:"act"`
	Role    string `json:"role"`
	Need    int    `json:"need"`
	Cooling string `json:"cooling"`
	Valid   string `json:"valid"`
	Touch   bool   `json:"touch"`
	Veto    string `json:"veto"`
}

// charterAnswer describes a charter; now says who serves.
func charterAnswer(c *charter.Charter, now time.Time) charterJSON {
	full := c.Upgraded()
	a := charterJSON{
		Number: c.Number, Hash: charter.EncodeDigest(c.Hash()), Version: c.Version, State: c.State.ID.String(), Name: c.State.Name,
		HouseOf: c.State.HouseOf, People: []personJSON{}, Roles: []roleJSON{}, Acts: []ruleJSON{}, Agents: []string{}, Houses: []string{}, SignedBy: []string{},
	}
	for _, p := range full.People {
		a.People = append(a.People, personJSON{p.Name, p.Office, p.Clearance, string(p.From), string(p.Until), p.Keys, p.ServesAt(now)})
	}
	for _, r := range full.Roles {
		a.Roles = append(a.Roles, roleJSON{r.Name, r.People})
	}
	for _, x := range full.Acts {
		a.Acts = append(a.Acts, ruleJSON{string(x.Act), x.Role, x.Need, string(x.Cooling), string(x.Valid), x.Touch == "yes", x.Veto})
	}
	for _, x := range c.Agents {
		a.Agents = append(a.Agents, x.Name)
	}
	for _, x := range c.Houses {
		a.Houses = append(a.Houses, x.Name)
	}
	return a
}

func (a *charterJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s, charter %d, SHA-256 %s\n\n", a.Name, a.Number, a.Hash)
	var rows [][]string
	for _, p := range a.People {
		serves := "from " + p.From
		if p.Until != "" {
			serves += " until " + p.Until
		}
		if !p.Serves {
			serves += " (not today)"
		}
		kinds := map[string]int{}
		for _, k := range p.Keys {
			kind, _, _ := strings.Cut(k, " ")
			kinds[kind]++
		}
		keys := plural(kinds["ssh-ed25519"], "key file")
		if n := kinds["sk-ssh-ed25519@openssh.com"]; n > 0 {
			keys = plural(n, "hardware key")
			if m := kinds["ssh-ed25519"]; m > 0 {
				keys += ", " + plural(m, "key file")
			}
		}
		rows = append(rows, []string{p.Name, p.Office, orDash(p.Clearance), keys, serves})
	}
	table(w, "PERSON OFFICE CLEARANCE KEYS SERVES", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, x := range a.Acts {
		touch := ""
		if x.Touch {
			touch = ", touched"
		}
		i := slices.IndexFunc(a.Roles, func(r roleJSON) bool { return r.Name == x.Role })
		rows = append(rows, []string{
			x.Act, fmt.Sprintf("%d of %s (%d)%s", x.Need, x.Role, len(a.Roles[i].People), touch), x.Cooling, x.Valid, orDash(x.Veto),
		})
	}
	table(w, "ACT SIGNED-BY WAITS OPEN-FOR STOPPED-BY", rows)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func charterShow(u *ui) *cobra.Command {
	var next, document bool
	c := &cobra.Command{
		Use: "show", Short: "Show who may do what, and who has yet to sign", Args: cobra.NoArgs,
		Long: "Shows the people, roles and acts of the charter in force. --proposed shows the charter that is proposed. --document\n" +
			"prints the exact document; that of a proposal, or of what would follow if nothing changed, is what people edit and\n" +
			"hand to charter propose --from.",
		Example: "  chancery charter show --home HOME\n  chancery charter show --proposed --document --home HOME > next.yaml",
	}
	dir := homeFlag(c)
	c.Flags().BoolVar(&next, "proposed", false, "the charter that is proposed")
	c.Flags().BoolVar(&document, "document", false, "print the document itself")
	c.RunE = func(*cobra.Command, []string) error {
		force, p, err := charters(*dir)
		if err != nil && (!next || !errors.Is(err, home.ErrNoProposal)) {
			return err
		}
		shown, proposed := force, next || force == nil
		if proposed && p != nil {
			shown = p.Charter
		}
		if proposed && p == nil {
			if !document {
				return fmt.Errorf("%s: %w", *dir, home.ErrNoProposal)
			}
			up := force.Upgraded()
			up.Number, up.Previous = force.Number+1, charter.EncodeDigest(force.Hash())
			if shown, err = charter.New(up); err != nil {
				return err
			}
		}
		if document {
			_, err := u.out.Write(shown.Bytes())
			return err
		}
		a := charterAnswer(shown, time.Now())
		a.InForce = !proposed
		if proposed {
			if err := a.signed(p, force); err != nil {
				return err
			}
		}
		return u.answer(a, func(w io.Writer) {
			a.print(w)
			if proposed {
				printProposal(w, &a)
			}
		})
	}
	return c
}

// signed says who has signed a proposal.
func (a *charterJSON) signed(p *home.Proposal, force *charter.Charter) (err error) {
	a.Path = p.Path
	before, own, err := p.Signed(force, time.Now())
	a.SignedBy, a.Missing, a.Need = append([]string{}, before.Have...), before.Missing, before.Need
	if !own.Enough() {
		a.OwnMissing = own.Missing
	}
	return err
}

func printProposal(w io.Writer, a *charterJSON) {
	fmt.Fprintf(w, "\nCharter %d is proposed: %d of %d have signed", a.Number, len(a.SignedBy), a.Need)
	if len(a.SignedBy) > 0 {
		fmt.Fprintf(w, " (%s)", strings.Join(a.SignedBy, ", "))
	}
	fmt.Fprintf(w, "; may still sign: %s.\n", strings.Join(a.Missing, ", "))
	if len(a.OwnMissing) > 0 && len(a.SignedBy) >= a.Need {
		fmt.Fprintf(w, "By its own rules more must sign, of: %s.\n", strings.Join(a.OwnMissing, ", "))
	}
	fmt.Fprintf(w, "To sign:   chancery charter sign --key KEY, or ssh-keygen -Y sign -n %s -f KEY %s\n", charter.Namespace, a.Path)
	fmt.Fprintln(w, "To adopt:  chancery charter adopt")
}

// charters reads the charter in force and the one proposed; either may be nil. A home whose first charter is not in
// force has no force.
func charters(dir string) (force *charter.Charter, p *home.Proposal, err error) {
	if dir == "" {
		return nil, nil, &failure{err: errors.New("which home folder?"), code: exitUsage, hint: "name it with --home HOME or CHANCERY_HOME"}
	}
	h, err := home.Open(dir, false)
	if errors.Is(err, home.ErrUnsigned) {
		p, err = home.ReadProposal(dir, 0)
		return nil, p, err
	}
	if err != nil {
		return nil, nil, err
	}
	defer h.Close()
	p, err = h.Proposal()
	if errors.Is(err, home.ErrNoProposal) {
		err = nil
	}
	return h.Charter, p, err
}

func charterSign(u *ui) *cobra.Command {
	var key, file string
	c := &cobra.Command{
		Use: "sign", Short: "Sign the charter that is proposed", Args: cobra.NoArgs,
		Long: "Signs the exact bytes of the proposed charter, as ssh-keygen -Y sign does, and keeps the signature beside it. Read it\n" +
			"first: chancery charter show --proposed --document. With --signature it takes one that was made elsewhere by\n" +
			"ssh-keygen -Y sign -n " + charter.Namespace + ", such as with a hardware key. A key that this program cannot use itself is handed to ssh-keygen.",
		Example: "  chancery charter sign --key mari --home HOME\n  chancery charter sign --signature next.yaml.sig --home HOME",
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&key, "key", "", "the signer's SSH private key, or the public half of one that ssh-agent or a hardware key holds")
	c.Flags().StringVar(&file, "signature", "", "a file with signatures that were made elsewhere")
	c.MarkFlagsOneRequired("key", "signature")
	c.RunE = func(c *cobra.Command, _ []string) error {
		force, p, err := charters(*dir)
		if err != nil {
			return err
		}
		if p == nil {
			return fmt.Errorf("%s: %w", *dir, home.ErrNoProposal)
		}
		var sig []byte
		if file != "" {
			sig, err = os.ReadFile(file)
		}
		if err == nil && key != "" {
			var own []byte
			own, err = signWith(c.Context(), key, charter.Namespace, p.Charter.Bytes())
			sig = append(sig, own...)
		}
		if err != nil {
			return err
		}
		if err := p.Add(sig); err != nil {
			return err
		}
		a := charterAnswer(p.Charter, time.Now())
		if err := a.signed(p, force); err != nil {
			return err
		}
		return u.answer(a, func(w io.Writer) { printProposal(w, &a) })
	}
	return c
}

// maxKeyFile caps a key file, in bytes.
const maxKeyFile = 64 << 10

// signWith signs with an SSH key file. One that is not a plain Ed25519 key without a passphrase is ssh-keygen's to use:
// a hardware key, one in ssh-agent, one with a passphrase. It may ask for a touch or a passphrase on the terminal.
func signWith(ctx context.Context, keyFile, namespace string, doc []byte) ([]byte, error) {
	file, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("%s: not a key file", keyFile)
	}
	defer clear(file)
	if key, err := charter.ParseSSHKey(file); err == nil {
		defer clear(key)
		return charter.SignIn(namespace, doc, key)
	}
	tmp, err := os.MkdirTemp("", "chancery-sign-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	path := tmp + "/document"
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-Y", "sign", "-n", namespace, "-f", keyFile, path)
	var said strings.Builder // what it says is shown too: it may ask for a touch or a passphrase
	cmd.Stdin, cmd.Stderr = os.Stdin, io.MultiWriter(os.Stderr, &said)
	if err := cmd.Run(); err != nil {
		return nil, &failure{
			err:  fmt.Errorf("%s: ssh-keygen could not sign with it: %s", keyFile, strings.TrimSpace(said.String())),
			code: exitRefused, hint: "ssh-keygen -Y sign -n " + namespace + " -f " + keyFile + " DOCUMENT, and hand the signature in with --signature",
		}
	}
	return os.ReadFile(path + ".sig")
}

// publicKeys reads the public key files of a person.
func publicKeys(files []string) ([]string, error) {
	var keys []string
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		text, err := charter.ParseSSHPublicKey(line)
		if err != nil {
			return nil, &failure{err: fmt.Errorf("%s: %w", f, err), code: exitUsage, hint: "ssh-keygen -t ed25519 -f NAME, or -t ed25519-sk for a hardware key; give NAME.pub"}
		}
		keys = append(keys, text)
	}
	return keys, nil
}
