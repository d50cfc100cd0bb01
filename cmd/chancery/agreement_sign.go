package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// signLine is the command by which anybody adds a signature with the tool and the key that they have.
func signLine(path string) string {
	return fmt.Sprintf("ssh-keygen -Y sign -n %s -f YOUR_KEY < %s >> %s.sig", agreement.Namespace, path, path)
}

// signedJSON is the answer of agreement sign.
type signedJSON struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash"`
	Name   string `json:"name"` // of whoever signed; empty where no list that was given names the key
	Side   string `json:"side"` // state or host
	Added  bool   `json:"added"`
	File   string `json:"file"`
}

func agreementSign(u *ui) *cobra.Command {
	var keyFile, side, beforeFile string
	c := &cobra.Command{
		Use: "sign FILE", Short: "Sign an agreement for the state or the host", Args: cobra.ExactArgs(1),
		Long: "Adds a signature to FILE.sig. It is over the exact bytes of the file, so read it first: explain says what it means.\n" +
			"The key must be one of the host's signatories or, with --charter or --home, of the people of the state. A key that\n" +
			"this program cannot use itself is handed to ssh-keygen; with nothing but that, anybody signs by\n\n  " + signLine("agreement.yaml"),
		Example: "  chancery agreement sign agreement.yaml --key anne",
	}
	state := chosenCharter(c)
	c.Flags().StringVar(&keyFile, "key", "", "your SSH private key, or the public half of one that ssh-agent or a hardware key holds")
	c.Flags().StringVar(&side, "side", "", "state or host: refuse to sign if the key stands on the other side")
	c.Flags().StringVar(&beforeFile, "before", "", "for an amendment: the agreement that it amends, whose signatories sign too")
	required(c, "key")
	c.RunE = func(c *cobra.Command, args []string) error {
		if side != "" && side != "state" && side != "host" {
			return usageError(c, fmt.Errorf("--side %q: want state or host", side))
		}
		a, err := readAgreement(args[0], agreement.Parse)
		if err != nil {
			return err
		}
		before, err := readBefore(beforeFile)
		if err != nil {
			return err
		}
		ch, err := state(false)
		if err != nil {
			return err
		}
		sig, err := signWith(c.Context(), keyFile, agreement.Namespace, a.Bytes())
		if err != nil {
			if f := new(failure); errors.As(err, &f) { // ssh-keygen could not: a terminal of one's own may help
				f.hint = signLine(args[0])
			}
			return err
		}
		x := signedJSON{Number: a.Number, Hash: charter.EncodeDigest(a.Hash()), File: args[0] + ".sig"}
		if err := x.add(a, before, ch, sig, side); err != nil {
			return err
		}
		return u.answer(x, func(w io.Writer) {
			if !x.Added {
				fmt.Fprintf(w, "%s has signed agreement %d already; nothing is added to %s.\n", x.Name, a.Number, x.File)
				return
			}
			who := x.Name
			if who == "" {
				who = "You"
			}
			fmt.Fprintf(w, "%s signed agreement %d for the %s, in %s.\n", who, a.Number, x.Side, x.File)
		})
	}
	return c
}

func readBefore(path string) (*agreement.Agreement, error) {
	if path == "" {
		return nil, nil
	}
	return readAgreement(path, agreement.Parse)
}

// add finds whose signature sig is and adds it to the file, unless that person has signed already.
func (x *signedJSON) add(a, before *agreement.Agreement, ch *charter.Charter, sig []byte, side string) error {
	old, err := readSignatures(x.File)
	if err != nil {
		return err
	}
	had, err := a.Sides(before, old, ch, time.Now())
	if err != nil { // nobody should sign beside what counts for nothing
		return hinted(fmt.Errorf("%s: %w", x.File, err), "what lies there is not of these bytes: move it away, and have everybody sign anew")
	}
	own, err := a.Sides(before, sig, ch, time.Now())
	if err != nil {
		return err
	}
	x.Side = side
	for i, s := range own {
		if len(s.Signed) > 0 {
			x.Name, x.Side = s.Signed[0], strings.TrimSuffix(s.Name, " before")
			x.Added = x.Added || !slices.Contains(had[i].Signed, x.Name)
		}
	}
	switch {
	case x.Name == "" && !(side == "state" && ch == nil): // who that is, check says with the charter at hand
		return &failure{
			err: errors.New("this key is neither a signatory's of the host nor, in a charter given, of one who makes agreements now"), code: exitRefused,
			hint: "for the state, name its charter: --charter charter.yaml; for an amendment, also the agreement before: --before FILE",
		}
	case side != "" && side != x.Side:
		return &failure{
			err: fmt.Errorf("%s signs for the %s, not for the %s", x.Name, x.Side, side), code: exitRefused, hint: "--side " + x.Side,
		}
	case x.Name != "" && !x.Added:
		return nil
	}
	x.Added = true
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	return durable.WriteFile(x.File, append(old, sig...), 0o644)
}

// readSignatures reads a file of signatures; none is an empty one.
func readSignatures(path string) ([]byte, error) {
	sigs, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return sigs, err
}

// agreementCheckJSON is the answer of agreement check.
type agreementCheckJSON struct {
	Number   uint64     `json:"number"`
	Hash     string     `json:"hash"`
	Phase    string     `json:"phase"`
	Charter  uint64     `json:"charter"` // number of the state's charter by which it was judged; 0: none was given
	Sides    []sideJSON `json:"sides"`
	Complete bool       `json:"complete"`
}

type sideJSON struct {
	Side     string   `json:"side"` // state, host, or host before
	Need     int      `json:"need"`
	Signed   []string `json:"signed"`
	Open     []string `json:"open"` // others who may
	Complete bool     `json:"complete"`
}

func agreementCheck(u *ui) *cobra.Command {
	var beforeFile, day string
	c := &cobra.Command{
		Use: "check FILE", Short: "Say who has signed an agreement and what is missing", Args: cobra.ExactArgs(1),
		Long: "Holds FILE and FILE.sig against the rules of both sides: those of the state's charter, which --charter or --home name,\n" +
			"and the host's signatories. Exit code 0 says that it counts; 5 that something is missing, 6 that a signature is\n" +
			"not of these bytes.",
		Example: "  chancery agreement check agreement.yaml --charter charter.yaml",
	}
	state := chosenCharter(c)
	c.Flags().StringVar(&beforeFile, "before", "", "for an amendment: the agreement that it amends")
	c.Flags().StringVar(&day, "at", "", "judge as of this day, such as 2026-01-31 (default: now)")
	c.RunE = func(c *cobra.Command, args []string) error {
		at := time.Now()
		if day != "" {
			if !charter.Date(day).Valid() {
				return usageError(c, fmt.Errorf("--at %q: want a day such as 2026-01-31", day))
			}
			at = charter.Date(day).Start()
		}
		a, err := readAgreement(args[0], agreement.Parse)
		if err != nil {
			return err
		}
		before, err := readBefore(beforeFile)
		if err != nil {
			return err
		}
		if (a.Number > 1) != (before != nil) {
			return usageError(c, fmt.Errorf("agreement %d: --before names the agreement that an amendment amends, and nothing else", a.Number))
		}
		ch, err := state(false)
		if err != nil {
			return err
		}
		return checkAgreement(u, args[0], a, before, ch, at)
	}
	return c
}

func checkAgreement(u *ui, path string, a, before *agreement.Agreement, ch *charter.Charter, at time.Time) error {
	sigs, err := readSignatures(path + ".sig")
	if err != nil {
		return err
	}
	if before != nil {
		if err := a.Follows(before); err != nil {
			return err
		}
	}
	sides, err := a.Sides(before, sigs, ch, at)
	if err != nil {
		return hinted(err, "take the file and its signatures again from whoever sent them")
	}
	x := agreementCheckJSON{
		Number: a.Number, Hash: charter.EncodeDigest(a.Hash()), Phase: string(a.PhaseAt(at)), Sides: []sideJSON{}, Complete: ch != nil,
	}
	if ch != nil {
		x.Charter = ch.Number
	}
	var lacks []string
	for _, s := range sides {
		x.Sides = append(x.Sides, sideJSON{s.Name, s.Need, append([]string{}, s.Signed...), append([]string{}, s.Open...), s.Complete()})
		if !s.Complete() {
			x.Complete = false
			lacks = append(lacks, fmt.Sprintf("%d of the %d needed for the %s", len(s.Signed), s.Need, s.Name))
		}
	}
	if err := u.answer(x, func(w io.Writer) { showSides(w, a, &x) }); err != nil {
		return err
	}
	hint := signLine(path)
	if ch == nil {
		lacks, hint = append(lacks, "the state's side cannot be told without its charter"), "chancery agreement check "+path+" --charter charter.yaml"
	}
	if !x.Complete {
		return hinted(fmt.Errorf("agreement %d: %w: %s", a.Number, agreement.ErrUnsigned, strings.Join(lacks, ", ")), hint)
	}
	return nil
}

func showSides(w io.Writer, a *agreement.Agreement, x *agreementCheckJSON) {
	fmt.Fprintf(w, "agreement %d with %s about the embassy %s, SHA-256 %s\n", x.Number, a.Host.Code, a.Embassy.Name, x.Hash)
	var rows [][]string
	for _, s := range x.Sides {
		state := "complete"
		if !s.Complete {
			state = "missing"
		}
		rows = append(rows, []string{s.Side, fmt.Sprintf("%d of %d", len(s.Signed), s.Need), state, orNobody(s.Signed), orNobody(s.Open)})
	}
	table(w, "SIDE SIGNED STATE BY OTHERS", rows)
	if x.Complete {
		fmt.Fprintf(w, "Both sides have signed; %s.\n", x.Phase)
	}
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
