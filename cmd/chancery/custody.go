package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
)

func custodyCommand(u *ui) *cobra.Command {
	return noun("custody", "Give the opening key a new generation, attest that the old one is destroyed, certify an erasure",
		"  chancery custody refresh --home HOME --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key",
		custodyChange(u, false), custodyChange(u, true), custodyRequest(u), custodyAttest(u), custodyCertificate(u))
}

// refreshJSON is the answer of custody refresh and custody replace: how far the next generation has come.
type refreshJSON struct {
	Generation  uint32       `json:"generation"` // of the opening key, the next one
	Stage       string       `json:"stage"`      // signatures, handover, publishing or published
	Charter     uint64       `json:"charter"`
	CharterHash string       `json:"charter_hash"`
	CharterFile string       `json:"charter_file,omitempty"` // what people are to sign
	Kits        string       `json:"kits,omitempty"`         // the folder with what is to be handed over
	Quorum      int          `json:"quorum"`
	Custodians  []string     `json:"custodians"`
	Records     []recordJSON `json:"records"` // of registers that survive, sealed to the next generation
	Erased      []erasedJSON `json:"erased"`
	Down        []downJSON   `json:"embassies_down,omitempty"` // that are still to be told
	Problems    []string     `json:"problems,omitempty"`       // records at embassies that could not be used
	Missing     string       `json:"missing,omitempty"`        // what the next step waits for
}

// recordJSON is a register's next record, as an order to rotate keys names it.
type recordJSON struct {
	Register string `json:"register"` // its id
	Hash     string `json:"hash"`
}

// erasedJSON is a register that the next generation does not open.
type erasedJSON struct {
	Register string `json:"register"`
	ID       string `json:"id"`
	Readers  int    `json:"readers"` // whose own keys open what hosts kept, until they are destroyed too
}

// The stages of a refresh, in their order.
const (
	stageSignatures = "signatures"
	stageHandover   = "handover"
	stagePublishing = "publishing"
	stagePublished  = "published"
)

// refreshFlags are what a refresh is told.
type refreshFlags struct {
	home         *string
	recoverFlags // how shares are given
	erase        []string
	custodians   []string
	quorum       int
	signatures   []string
	handedOver   bool
	replace      bool
	holders      []home.Holder
	leaving      map[charter.RegisterID]leaving // the registers in erase, by what home and embassies know
	conn         *connection
	problems     []string
}

func custodyChange(u *ui, replace bool) *cobra.Command {
	f := refreshFlags{replace: replace}
	c := &cobra.Command{
		Use: "refresh", Short: "Make the next generation of the opening key, for the same custodians", Args: cobra.NoArgs,
		Long: "Where enough custodians meet, home's registers are opened and sealed to a new opening key, and new shares are made;\n" +
			"a register named with --erase is left out, and nothing of the new generation opens it. Everything is prepared in\n" +
			"the home folder and counts only once people signed the charter that names it; until then, and if they never do, the\n" +
			"generation before works as it did. Run again as each step is done, without kits: with --signature as people sign,\n" +
			"then, when every custodian holds the new kit and has checked it, with --handed-over, which tells the embassies.\n" +
			"Only after that old kits may be destroyed (chancery custody attest).",
		Example: "  chancery custody refresh --home HOME --erase tax --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key\n" +
			"  chancery custody refresh --home HOME --signature ana.sig\n  chancery custody refresh --home HOME --handed-over",
	}
	if replace {
		c.Use, c.Short = "replace", "Make the next generation of the opening key, for other custodians"
		c.Long = "As custody refresh, with other custodians or another quorum: all of the next generation are named. Who is not\n" +
			"named holds a share of the old generation alone, which opens nothing of the new one."
		c.Example = "  chancery custody replace --home HOME --quorum 2 --custodian mari=age1pq… --custodian jaan=age1pq… --custodian eva=age1pq… \\\n" +
			"    --kit kits/mari --identity mari.key --kit kits/jaan --identity jaan.key --kit kits/anna --identity anna.key\n" +
			"  chancery custody replace --home HOME --signature ana.sig\n  chancery custody replace --home HOME --handed-over"
	}
	f.home = homeFlag(c)
	f.addPlan(c)
	fl := c.Flags()
	fl.StringArrayVar(&f.kits, "kit", nil, "a custodian's kit; once for each")
	fl.StringArrayVar(&f.identities, "identity", nil, "the private key file of each kit's custodian, in any order")
	fl.StringArrayVar(&f.shares, "share", nil, "a share released to this machine for this very change; once for each")
	fl.StringVar(&f.request, "request", "", "the request that the shares were released for (chancery custody request)")
	fl.StringVar(&f.key, "key", "", "the key that chancery custody request made")
	fl.StringArrayVar(&f.signatures, "signature", nil, "a signature of the next charter, as ssh-keygen -Y sign made it; once for each")
	fl.BoolVar(&f.handedOver, "handed-over", false, "every custodian holds the new kit and has checked it: adopt the charter and tell the embassies")
	c.RunE = func(c *cobra.Command, _ []string) error {
		a, err := f.run(c, u)
		if a == nil {
			return err
		}
		if aerr := u.answer(a, a.print); aerr != nil {
			return aerr
		}
		return err
	}
	return c
}

// addPlan gives a command the options that say what the next generation is to be.
func (f *refreshFlags) addPlan(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.erase, "erase", nil, "a register that the next generation does not open; once for each")
	if f.replace {
		c.Flags().StringArrayVar(&f.custodians, "custodian", nil, "NAME=RECIPIENT of a custodian of the next generation; once for each")
		c.Flags().IntVar(&f.quorum, "quorum", 0, "how many of them open")
	}
}

func (f *refreshFlags) meeting() bool { return len(f.kits)+len(f.shares) > 0 }

// run takes a refresh as far as it can go.
func (f *refreshFlags) run(c *cobra.Command, u *ui) (*refreshJSON, error) {
	if !f.meeting() && len(f.erase)+len(f.custodians)+f.quorum > 0 {
		return nil, usageError(c, errors.New("what is to be made is said where the custodians meet: add --kit KIT --identity KEY"))
	}
	conn, err := connect(*f.home, true)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	f.conn = conn
	r, err := conn.home.Refresh()
	if err != nil && (!errors.Is(err, home.ErrNoRefresh) || !f.meeting()) {
		return nil, err
	}
	if f.meeting() {
		if r != nil && conn.home.Adopted(r) {
			return nil, &failure{
				err: fmt.Errorf("generation %d is in force, and not every embassy knows it yet", r.Generation()), code: exitRefused,
				hint: "first: chancery custody refresh --home HOME --handed-over",
			}
		}
		if r, err = f.prepare(c); err != nil {
			return nil, err
		}
	}
	if again, err := conn.home.ProposeRefresh(r); err != nil {
		return nil, err
	} else if again {
		u.note("The charter is proposed anew, because another came in between: it must be signed anew.")
	}
	return f.goOn(c, r)
}

// goOn takes what is prepared through signatures, kits and embassies.
func (f *refreshFlags) goOn(c *cobra.Command, r *home.Refresh) (*refreshJSON, error) {
	h := f.conn.home
	a := f.answer(r)
	if h.Adopted(r) {
		return a, f.publish(c, r, a)
	}
	var files [][]byte
	for _, path := range f.signatures {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, text)
	}
	if len(files) > 0 {
		if err := h.Sign(r, files...); err != nil {
			return nil, err
		}
	}
	made := h.KitsMade(r)
	err := h.MakeKits(r)
	if errors.Is(err, charter.ErrQuorum) {
		a.Stage, a.CharterFile, a.Missing = stageSignatures, r.CharterFile(), err.Error()
		if f.handedOver {
			return nil, &failure{err: err, code: exitRefused, hint: "have people sign " + r.CharterFile() + ", then: chancery custody refresh --home HOME --signature FILE"}
		}
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if f.handedOver && !made {
		return nil, &failure{
			err: fmt.Errorf("the kits with charter %d as it is signed were made just now: nobody can hold them yet", r.Charter.Number), code: exitRefused,
			hint: "hand over the folders under " + r.Kits() + ", have each checked, and run the same command again",
		}
	}
	if !f.handedOver {
		a.Stage, a.Kits = stageHandover, r.Kits()
		return a, nil
	}
	return a, f.publish(c, r, a)
}

// planned is what the next generation is to be, by the options and by home's charter.
func (f *refreshFlags) planned(ch *charter.Charter) (*custody.Plan, error) {
	now := ch.Custody
	f.holders = nil
	quorum := now.Threshold
	for _, k := range now.Custodians {
		f.holders = append(f.holders, home.Holder{Name: k.Name, Recipient: k.Recipient})
	}
	if f.replace {
		if len(f.custodians) == 0 || f.quorum == 0 {
			return nil, &failure{err: errors.New("who are the custodians of the next generation?"), code: exitUsage, hint: "--quorum N --custodian NAME=RECIPIENT, once for each"}
		}
		f.holders, quorum = nil, f.quorum
		for _, x := range f.custodians {
			name, recipient, ok := strings.Cut(x, "=")
			if !ok {
				return nil, &failure{err: fmt.Errorf("--custodian %q: want NAME=RECIPIENT", x), code: exitUsage, hint: "chancery custody replace --help"}
			}
			if err := custody.CheckRecipient(recipient); err != nil {
				return nil, fmt.Errorf("custodian %s: %w", name, err)
			}
			f.holders = append(f.holders, home.Holder{Name: name, Recipient: recipient})
		}
	}
	p := &custody.Plan{Generation: now.Generation, Threshold: quorum, Erase: f.erase}
	for _, k := range f.holders {
		p.Holders = append(p.Holders, k.Name)
	}
	for _, name := range f.erase {
		if err := checkName(name); err != nil {
			return nil, &failure{err: fmt.Errorf("--erase: %w", err), code: exitUsage, hint: "chancery register list --home HOME"}
		}
	}
	return p, nil
}

// prepare opens what there is with the custodians' shares and makes the next generation.
func (f *refreshFlags) prepare(c *cobra.Command) (*home.Refresh, error) {
	lockMemory()
	h := f.conn.home
	p, err := f.planned(h.Charter)
	if err != nil {
		return nil, err
	}
	if f.base = h.Charter; len(f.shares) > 0 {
		f.plan = p
	}
	o, err := f.open()
	if err != nil {
		return nil, err
	}
	defer o.close()
	if o.charter.Number != h.Charter.Number || o.charter.Hash() != h.Charter.Hash() {
		return nil, &failure{err: fmt.Errorf("a kit holds charter %d, and home's newest is %d", o.charter.Number, h.Charter.Number), code: exitForked, hint: "find out why home is behind its custodians; chancery verify --home HOME"}
	}
	surveys, forget, err := f.survey(c, o)
	defer forget()
	if err == nil {
		err = f.conn.unheld(c.Context(), f.leaving)
	}
	if err != nil {
		return nil, err
	}
	return h.Prepare(o.opening, surveys, p.Threshold, f.holders, f.erase)
}

// survey lists every register that home or an embassy knows and the opening key opens. forget clears what was opened.
// Home's own record counts where home has one: whoever stole the agent's key may have left others at embassies.
func (f *refreshFlags) survey(c *cobra.Command, o *opened) (surveys []home.Survey, forget func(), err error) {
	found, err := o.registers(c.Context())
	forget = func() {
		for _, r := range found {
			for at := &r; ; at = &at.older[0] {
				*at.secrets = charter.RegisterSecrets{}
				if len(at.older) == 0 {
					break
				}
			}
		}
	}
	if err != nil {
		return nil, forget, err
	}
	for _, name := range o.down {
		o.problems = append(o.problems, name+" did not answer, and may know a register that home does not")
	}
	f.problems = o.problems
	known := map[[16]byte]bool{}
	f.leaving = map[charter.RegisterID]leaving{}
	names, err := f.conn.home.Registers()
	if err != nil {
		return nil, forget, err
	}
	for _, name := range names {
		r, err := f.conn.home.Register(name)
		if err != nil {
			return nil, forget, err
		}
		known[r.Record.ID] = true
		if slices.Contains(f.erase, name) {
			f.leaving[r.Record.ID] = leaving{name, r.Record.Members}
		}
		surveys = append(surveys, home.Survey{Record: r.Record, Seen: o.seen[r.Record.ID]})
	}
	for _, r := range found {
		if slices.Contains(f.erase, r.secrets.Name) {
			f.leaving[r.record.ID] = leaving{r.secrets.Name, r.record.Members}
		}
		if !known[r.record.ID] {
			surveys = append(surveys, home.Survey{Record: r.record, Seen: o.seen[r.record.ID]})
		}
	}
	return surveys, forget, nil
}

func (f *refreshFlags) answer(r *home.Refresh) *refreshJSON {
	a := &refreshJSON{
		Generation: r.Generation(), Charter: r.Charter.Number, CharterHash: charter.EncodeDigest(r.Charter.Hash()),
		Quorum: r.Charter.Custody.Threshold, Custodians: []string{}, Records: []recordJSON{}, Erased: []erasedJSON{}, Problems: f.problems,
	}
	for _, k := range r.Charter.Custody.Custodians {
		a.Custodians = append(a.Custodians, k.Name)
	}
	for _, rec := range r.Records {
		if raw, err := rec.Marshal(); err == nil { // it was read from such bytes
			a.Records = append(a.Records, recordJSON{rec.ID.String(), charter.EncodeDigest(sha256.Sum256(raw))})
		}
	}
	for _, e := range r.Erased {
		a.Erased = append(a.Erased, erasedJSON{Register: e.Name, ID: e.ID.String(), Readers: e.Readers})
	}
	return a
}

func (a *refreshJSON) print(w io.Writer) {
	fmt.Fprintf(w, "Generation %d of the opening key: any %d of %s open %s; charter %d.\n",
		a.Generation, a.Quorum, strings.Join(a.Custodians, ", "), plural(len(a.Records), "register"), a.Charter)
	for _, e := range a.Erased {
		fmt.Fprintf(w, "Left out: %s.", printable(e.Register))
		if e.Readers > 0 {
			fmt.Fprintf(w, " The keys of %s open copies of it that hosts kept, until they are destroyed too.", plural(e.Readers, "reader"))
		}
		fmt.Fprintln(w)
	}
	for _, p := range a.Problems {
		fmt.Fprintf(w, "Found at embassies: %s.\n", printable(p))
	}
	for _, d := range a.Down {
		fmt.Fprintf(w, "%s is still to be told: %s.\n", d.Embassy, printable(d.Why))
	}
	switch a.Stage {
	case stageSignatures:
		fmt.Fprintf(w, "Nothing of it counts yet: %s.\nHave people sign %s (chancery charter sign), and an order that names the new records\n(chancery order propose rotate), then: chancery custody refresh --home HOME\n",
			a.Missing, a.CharterFile)
	case stageHandover:
		fmt.Fprintf(w, "The charter is signed. Hand each folder under %s to its custodian, who checks it at once:\n"+
			"  chancery custodian kit --kit KIT --identity KEY\nWhen all have: chancery custody refresh --home HOME --handed-over\n", a.Kits)
	case stagePublishing:
		fmt.Fprintln(w, "Old kits still open what those embassies hold; keep them. When they answer: chancery custody refresh --home HOME --handed-over")
	case stagePublished:
		fmt.Fprintln(w, "Every embassy knows it. Old kits are now to be destroyed, and each custodian attests it: chancery custody attest --help")
	}
}

func custodyRequest(u *ui) *cobra.Command {
	f := refreshFlags{replace: true}
	var r requestFlags
	c := &cobra.Command{
		Use: "request", Short: "Ask custodians elsewhere to release their shares for a refresh", Args: cobra.NoArgs,
		Long: "As recover request, for a refresh of custody at this home. What the next generation is to be stands in the request,\n" +
			"word for word; released shares serve this change and no other, and recover nothing. Without --custodian and\n" +
			"--quorum it is a refresh for the same custodians.",
		Example: "  chancery custody request --home HOME --erase tax --node vault-3 --out request.txt --key node.key",
	}
	f.home = homeFlag(c)
	f.addPlan(c)
	r.add(c, "refresh")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := connect(*f.home, false)
		if err != nil {
			return err
		}
		defer conn.close()
		f.replace = len(f.custodians) > 0 || f.quorum != 0
		ch := conn.home.Charter
		p, err := f.planned(ch)
		if err != nil {
			return err
		}
		purpose, err := p.Purpose()
		if err != nil {
			return err
		}
		if err := f.known(c.Context(), conn); err != nil {
			return err
		}
		return r.giveRequest(u, ch, purpose)
	}
	return c
}

// known refuses names of registers that home does not have, and registers that are held, before custodians are asked.
func (f *refreshFlags) known(ctx context.Context, conn *connection) error {
	f.leaving = map[charter.RegisterID]leaving{}
	for _, n := range f.erase {
		r, err := conn.home.Register(n)
		if err != nil {
			return err
		}
		f.leaving[r.Record.ID] = leaving{n, r.Record.Members}
	}
	return conn.unheld(ctx, f.leaving)
}
