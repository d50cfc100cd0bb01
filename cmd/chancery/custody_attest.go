package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/home"
)

// attestedJSON is the answer of custody attest check.
type attestedJSON struct {
	State      string            `json:"state"`
	Generation uint32            `json:"generation"` // that is attested
	InForce    uint32            `json:"in_force"`   // the newest that is known
	Shares     int               `json:"shares"`
	Quorum     int               `json:"quorum"`
	Attested   []attestationJSON `json:"attested"`
	Missing    []string          `json:"missing"` // custodians who have not attested
	Final      bool              `json:"final"`   // fewer shares than the quorum can remain
}

// attestationJSON is one custodian's word.
type attestationJSON struct {
	Custodian string `json:"custodian"`
	Share     uint8  `json:"share"`
	Destroyed string `json:"destroyed"` // a day
	How       string `json:"how"`
	Key       string `json:"key"` // the SSH key that signed
}

// generations are the two charters that an attestation stands between.
type generations struct {
	old, newer *charter.Charter
}

// flags gives a command the two charters.
func (g *generations) flags(c *cobra.Command) (old, newer *string) {
	old = c.Flags().String("charter", "", "the charter of the generation that is destroyed, such as charter.yaml in an old kit; its .sig beside it")
	newer = c.Flags().String("newer", "", "the charter that gave the state a newer generation, such as charter.yaml in a new kit; its .sig beside it")
	return old, newer
}

// read takes both charters from files and checks that shares of the old generation may be destroyed at all.
func (g *generations) read(old, newer string) (err error) {
	if g.old, err = signedCharter(old); err != nil {
		return err
	}
	if g.newer, err = signedCharter(newer); err != nil {
		return err
	}
	return g.check()
}

func (g *generations) check() error {
	if g.old.State.ID != g.newer.State.ID {
		return fmt.Errorf("charters of %s and of %s: %w", g.old.State.Name, g.newer.State.Name, custody.ErrForeign)
	}
	if g.newer.Custody.Generation <= g.old.Custody.Generation || g.newer.Number <= g.old.Number {
		return &failure{
			err:  fmt.Errorf("charter %d has generation %d of the opening key, and charter %d generation %d: no share of it may be destroyed", g.old.Number, g.old.Custody.Generation, g.newer.Number, g.newer.Custody.Generation),
			code: exitRefused, hint: "the old shares may go when a newer generation is in force: chancery custody refresh --help",
		}
	}
	return nil
}

// signedCharter reads a charter file and checks that its own people signed it.
func signedCharter(path string) (*charter.Charter, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sig, err := os.ReadFile(path + ".sig")
	if err != nil {
		return nil, err
	}
	c, err := charter.Parse(doc)
	if err == nil {
		err = c.Verify(sig)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func custodyAttest(u *ui) *cobra.Command {
	var g generations
	var name, how, date, key string
	c := &cobra.Command{
		Use: "attest", Short: "State that a share of an old generation is destroyed", Args: cobra.NoArgs,
		Long: "Writes a short text in which a custodian states that the own share of an old generation is destroyed. Destroy it\n" +
			"first, and only when the new kit is checked and home said that every embassy knows the new generation. The text is\n" +
			"signed with the SSH key that the charter has of the person with the custodian's name: here, with --key, or by\n" +
			"ssh-keygen -Y sign -n attest@chancery -f KEY FILE.",
		Example: "  chancery custody attest --custodian mari --charter old/charter.yaml --newer kits/mari/charter.yaml --how \"kit and copies shredded\" --key mari.ssh --out mari.attest",
	}
	old, newer := g.flags(c)
	c.Flags().StringVar(&name, "custodian", "", "the custodian's name")
	c.Flags().StringVar(&how, "how", "", "how it was destroyed, in one line")
	c.Flags().StringVar(&date, "date", "", "the day when, such as 2026-05-12; today where it is not said")
	c.Flags().StringVar(&key, "key", "", "an SSH private key file without passphrase to sign with; the signature goes to FILE.sig")
	out := outFlag(c, "file for the text")
	required(c, "charter", "newer", "custodian", "how")
	c.RunE = func(c *cobra.Command, _ []string) error {
		day := time.Now()
		if date != "" {
			var err error
			if day, err = time.Parse(time.DateOnly, date); err != nil || day.After(time.Now()) {
				return usageError(c, fmt.Errorf("--date %q: want a day such as 2026-05-12 that has come", date))
			}
		}
		if err := g.read(*old, *newer); err != nil {
			return err
		}
		commitments, err := home.Commitments(g.old)
		if err != nil {
			return err
		}
		a, err := custody.NewAttestation(commitments, g.old.State.Name, name, day, how)
		if err != nil {
			return err
		}
		if err := g.signAttestation(a, key, *out); err != nil {
			return err
		}
		answer := map[string]any{"attestation": *out, "custodian": name, "share": a.X, "generation": a.Generation, "signed": key != ""}
		return u.answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "%s states that share %d of generation %d is destroyed, in %s.\n", name, a.X, a.Generation, *out)
			if key == "" {
				fmt.Fprintf(w, "Sign it: ssh-keygen -Y sign -n %s -f KEY %s\n", custody.AttestNamespace, *out)
			}
		})
	}
	c.AddCommand(attestCheck(u), attestSubmit(u))
	return c
}

// signAttestation writes the text and, with a key, its signature. A key that would not count signs nothing.
func (g *generations) signAttestation(a *custody.Attestation, keyFile, out string) error {
	text := a.Marshal()
	if keyFile == "" {
		return writeNew(out, text, 0o644)
	}
	lockMemory()
	file, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	defer clear(file)
	key, err := charter.ParseSSHKey(file)
	if err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	defer clear(key)
	sig, err := charter.SignIn(custody.AttestNamespace, text, key)
	if err != nil {
		return err
	}
	if _, err := g.signedBy(a, text, sig); err != nil {
		return err
	}
	if err := writeNew(out, text, 0o644); err != nil {
		return err
	}
	return writeNew(out+".sig", sig, 0o644)
}

// signedBy returns the key with which the custodian signed an attestation.
func (g *generations) signedBy(a *custody.Attestation, text, sig []byte) (string, error) {
	v := charter.VoterOf(a.Custodian, g.old, g.newer)
	if len(v.Keys) == 0 {
		return "", &failure{
			err:  fmt.Errorf("attestation of %s: no person of that name has a key in charter %d or %d", a.Custodian, g.old.Number, g.newer.Number),
			code: exitRefused, hint: "name the custodian among the charter's people, with an SSH key",
		}
	}
	votes, err := charter.Tally(text, sig, custody.AttestNamespace, []charter.Voter{v}, false)
	if err != nil {
		return "", fmt.Errorf("attestation of %s: %w", a.Custodian, err)
	}
	if len(votes) == 0 {
		return "", &failure{
			err:  fmt.Errorf("attestation of %s: signed by none of %s's keys", a.Custodian, a.Custodian),
			code: exitRefused, hint: "have " + a.Custodian + " sign it with the key that the charter names",
		}
	}
	return votes[0].Key, nil
}

// word is an attestation as it was signed.
type word struct {
	*custody.Attestation
	text, sig []byte
	key       string // that signed
}

// readAttestation reads a text and its signature beside it, and checks both.
func (g *generations) readAttestation(path string, commitments []custody.Commitment) (*word, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sig, err := os.ReadFile(path + ".sig")
	if err != nil {
		return nil, err
	}
	a := &word{text: text, sig: sig}
	a.Attestation, err = custody.ParseAttestation(text)
	if err == nil {
		err = a.Check(commitments)
	}
	if err == nil {
		a.key, err = g.signedBy(a.Attestation, text, sig)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func attestCheck(u *ui) *cobra.Command {
	var g generations
	c := &cobra.Command{
		Use: "check FILE...", Short: "See who attested, and whether an old generation is gone for good", Args: cobra.MinimumNArgs(1),
		Long: "Checks attestations with the signatures beside them (FILE.sig), against the charter of the generation that is\n" +
			"destroyed: from home, or from files with --charter and --newer. It is final (exit 0) when fewer shares than the\n" +
			"quorum can remain; otherwise those who have not attested are listed (exit 3).",
		Example: "  chancery custody attest check --home HOME mari.attest jaan.attest anna.attest",
	}
	dir := homeFlag(c)
	old, newer := g.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := g.find(*dir, *old, *newer, args[0]); err != nil {
			return err
		}
		a, _, err := g.attested(args)
		if err != nil {
			return err
		}
		if err := u.answer(a, a.print); err != nil {
			return err
		}
		if !a.Final {
			return &failure{err: errPartial, code: exitPartial}
		}
		return nil
	}
	return c
}

// find takes the charters from files, or from home: the newest one, and the last one of the generation that the first
// attestation is of.
func (g *generations) find(dir, old, newer, first string) error {
	if old != "" || newer != "" {
		return g.read(old, newer)
	}
	conn, err := connect(dir, false)
	if err != nil {
		return err
	}
	defer conn.close()
	return g.ofHome(conn.home, first)
}

// ofHome takes the charters from home.
func (g *generations) ofHome(h *home.Home, first string) error {
	text, err := os.ReadFile(first)
	if err != nil {
		return err
	}
	a, err := custody.ParseAttestation(text)
	if err != nil {
		return fmt.Errorf("%s: %w", first, err)
	}
	if err := g.of(h, a.Generation); err != nil {
		return fmt.Errorf("%s: %w", first, err)
	}
	return g.check()
}

// of takes from home the newest charter, and the last one of a generation.
func (g *generations) of(h *home.Home, generation uint32) error {
	g.newer = h.Charter
	all, err := h.Charters()
	if err != nil {
		return err
	}
	for _, s := range all {
		ch, err := charter.Parse(s.Doc)
		if err != nil {
			return err
		}
		if ch.Custody.Generation == generation {
			g.old = ch
		}
	}
	if g.old == nil {
		return fmt.Errorf("%w: generation %d, and this state has no charter of it", custody.ErrForeign, generation)
	}
	return nil
}

// attested checks every file. One that is not good fails it all: nobody is to read past it.
func (g *generations) attested(files []string) (*attestedJSON, []*word, error) {
	commitments, err := home.Commitments(g.old)
	if err != nil {
		return nil, nil, err
	}
	a := &attestedJSON{
		State: g.old.State.Name, Generation: g.old.Custody.Generation, InForce: g.newer.Custody.Generation,
		Shares: len(commitments), Quorum: g.old.Custody.Threshold, Attested: []attestationJSON{},
	}
	var words []*word
	var list []*custody.Attestation
	for _, path := range files {
		x, err := g.readAttestation(path, commitments)
		if err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(words, func(y *word) bool { return y.X == x.X }) {
			continue
		}
		words, list = append(words, x), append(list, x.Attestation)
		a.Attested = append(a.Attested, attestationJSON{x.Custodian, x.X, x.Destroyed.Format(time.DateOnly), x.How, x.key})
	}
	slices.SortFunc(a.Attested, func(x, y attestationJSON) int { return int(x.Share) - int(y.Share) })
	d, err := custody.Attested(list, commitments)
	if err != nil {
		return nil, nil, err
	}
	a.Missing, a.Final = d.Missing, d.Final()
	if a.Missing == nil {
		a.Missing = []string{}
	}
	return a, words, nil
}

func (a *attestedJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s: generation %d of the opening key, of whose %d shares any %d open; in force is generation %d.\n", a.State, a.Generation, a.Shares, a.Quorum, a.InForce)
	for _, x := range a.Attested {
		fmt.Fprintf(w, "%s destroyed share %d on %s: %s.\n", x.Custodian, x.Share, x.Destroyed, printable(x.How))
	}
	if len(a.Missing) > 0 {
		fmt.Fprintf(w, "Not attested: %s.\n", strings.Join(a.Missing, ", "))
	}
	if a.Final {
		fmt.Fprintf(w, "Fewer than %d can remain: generation %d opens nothing any more, if they said the truth.\n", a.Quorum, a.Generation)
	} else {
		fmt.Fprintf(w, "%d can remain, and %d open: generation %d is not gone.\n", len(a.Missing), a.Quorum, a.Generation)
	}
}
