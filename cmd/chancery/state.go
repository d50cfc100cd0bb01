package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/home"
)

func stateCommand(u *ui) *cobra.Command {
	return noun("state", "Make a state's home, and look at it", "  chancery state show --home HOME", stateInit(u), stateShow(u))
}

func stateInit(u *ui) *cobra.Command {
	var f home.Founding
	var custodians, representatives []string
	var cooling string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a state: its opening key, in shares only, and its first charter",
		Long: "Makes the home folder of a state. The opening key is made, split into one share per custodian, each sealed to\n" +
			"that custodian's key, and forgotten. Accredit the embassies next: the kits under HOME/kits are renewed with each,\n" +
			"so that they say where the embassies are. Then hand each folder there to its custodian.\n\n" +
			"With --representative, charters, agreements and orders are signed by that many named people, and by nothing that\n" +
			"lies at home: the first charter is a proposal until they have signed it (chancery charter sign, charter adopt).\n" +
			"Without, home signs charters alone, and nobody may order that anything be removed.",
		Example: "  chancery state init --home HOME --name \"Republic of X\" --code XX --quorum 3 \\\n" +
			"    --custodian mari=age1pq… --custodian jaan=age1pq… --custodian anna=age1pq… --custodian olev=age1pq… --custodian eva=age1pq…",
		Args: cobra.NoArgs,
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&f.Name, "name", "", "the state's name")
	c.Flags().StringVar(&f.Code, "code", "", "its code, two capital letters")
	c.Flags().IntVar(&f.Quorum, "quorum", 0, "how many custodians open")
	c.Flags().StringArrayVar(&custodians, "custodian", nil, "NAME=RECIPIENT of a custodian; once for each")
	c.Flags().StringArrayVar(&representatives, "representative", nil, "NAME=FILE of a person who signs for the state, and their public SSH key; once for each")
	c.Flags().IntVar(&f.Need, "need", 0, "how many representatives must sign (default: more than half)")
	c.Flags().StringVar(&cooling, "cooling", string(home.DefaultCooling), "how long an order that removes something waits, such as 72h")
	c.Flags().StringVar(&f.HouseOf, "house-of", "", "the id of the state of which this is a house")
	required(c, "name", "code", "quorum", "custodian")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *dir == "" {
			return usageError(c, fmt.Errorf("which folder? name it with --home"))
		}
		for _, x := range custodians {
			name, recipient, ok := strings.Cut(x, "=")
			if !ok {
				return usageError(c, fmt.Errorf("--custodian %q: want NAME=RECIPIENT", x))
			}
			f.Custodians = append(f.Custodians, home.Holder{Name: name, Recipient: recipient})
		}
		if err := foundingPeople(&f, representatives); err != nil {
			return usageError(c, err)
		}
		if f.Cooling = charter.Span(cooling); !f.Cooling.Valid() {
			return usageError(c, fmt.Errorf("--cooling %q: want a number and s, m, h or d", cooling))
		}
		lockMemory()
		h, err := home.Create(*dir, f)
		if err != nil {
			return err
		}
		return u.answer(stateAnswer(h.Charter), func(w io.Writer) {
			fmt.Fprintf(w, "%s (%s) is made in %s.\n", h.Charter.State.Name, h.Charter.State.Code, *dir)
			fmt.Fprintf(w, "Any %d of %s open it; the key itself is gone.\n", f.Quorum, plural(len(f.Custodians), "custodian"))
			if n := len(f.Representatives); n > 0 {
				fmt.Fprintf(w, "Its first charter is proposed: %d of %s sign it, then chancery charter adopt puts it in force.\n", f.Need, plural(n, "representative"))
				return
			}
			fmt.Fprintf(w, "Hand each folder under %s/kits to its custodian.\n", *dir)
		})
	}
	return c
}

// foundingPeople takes the representatives of a new state.
func foundingPeople(f *home.Founding, representatives []string) error {
	for _, x := range representatives {
		name, file, ok := strings.Cut(x, "=")
		if !ok {
			return fmt.Errorf("--representative %q: want NAME=FILE", x)
		}
		keys, err := publicKeys([]string{file})
		if err != nil {
			return err
		}
		f.Representatives = append(f.Representatives, charter.Signer{Name: name, Key: keys[0]})
	}
	n := len(f.Representatives)
	switch {
	case n == 0 && f.Need != 0:
		return fmt.Errorf("--need %d without a --representative", f.Need)
	case n == 0:
		return nil
	case f.Need == 0:
		f.Need = n/2 + 1
	case f.Need < 0 || f.Need > n:
		return fmt.Errorf("--need %d of %s is not possible", f.Need, plural(n, "representative"))
	}
	return nil
}

// stateJSON is the answer of state init and state show.
type stateJSON struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Code       string   `json:"code"`
	Charter    uint64   `json:"charter"`
	Hash       string   `json:"charter_hash"`
	Quorum     int      `json:"quorum"`
	Custodians []string `json:"custodians"`
	Embassies  []string `json:"embassies"`
	Witnesses  []string `json:"witnesses"` // besides the embassies
	Countries  []string `json:"countries"` // that witness
	Need       int      `json:"need"`      // of them must cosign a checkpoint
	Faulty     int      `json:"faulty"`    // of them may lie
	Fresh      float64  `json:"fresh_seconds"`
	Auditors   []string `json:"auditors"`
}

func stateAnswer(c *charter.Charter) stateJSON {
	s := stateJSON{
		ID: c.State.ID.String(), Name: c.State.Name, Code: c.State.Code, Charter: c.Number,
		Hash: charter.EncodeDigest(c.Hash()), Quorum: c.Custody.Threshold, Custodians: []string{}, Embassies: []string{},
		Witnesses: []string{}, Countries: []string{}, Auditors: []string{}, Fresh: c.FreshFor().Seconds(),
	}
	w := c.WitnessingInForce()
	s.Need, s.Faulty = w.Need, w.Faulty
	for _, g := range w.Groups {
		s.Countries = append(s.Countries, g.Country)
	}
	for _, x := range c.Witnesses {
		s.Witnesses = append(s.Witnesses, x.Name)
	}
	for _, a := range c.Auditors {
		s.Auditors = append(s.Auditors, a.Name)
	}
	for _, k := range c.Custody.Custodians {
		s.Custodians = append(s.Custodians, k.Name)
	}
	for _, e := range c.Embassies {
		s.Embassies = append(s.Embassies, e.Name)
	}
	return s
}

func stateShow(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "show", Short: "Show the state's charter", Args: cobra.NoArgs,
		Example: "  chancery state show --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		h, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer h.close()
		s := stateAnswer(h.home.Charter)
		return u.answer(s, func(w io.Writer) {
			fmt.Fprintf(w, "%s (%s)\nstate     %s\ncharter   %d, SHA-256 %s\nopened by %d of %s\nembassies %s\n",
				s.Name, s.Code, s.ID, s.Charter, s.Hash, s.Quorum, strings.Join(s.Custodians, ", "), strings.Join(s.Embassies, ", "))
			fmt.Fprintf(w, "witnesses the embassies, %s: %d of %s must cosign, %d may lie\nfresh for %s\n", strings.Join(s.Witnesses, ", "),
				s.Need, strings.Join(s.Countries, ", "), s.Faulty, h.home.Charter.FreshFor())
			if len(s.Auditors) > 0 {
				fmt.Fprintf(w, "auditors  %s\n", strings.Join(s.Auditors, ", "))
			}
		})
	}
	return c
}
