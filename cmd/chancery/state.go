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
	var custodians []string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a state: its opening key, in shares only, and its first charter",
		Long: "Makes the home folder of a state. The opening key is made, split into one share per custodian, each sealed to\n" +
			"that custodian's key, and forgotten. Accredit the embassies next: the kits under HOME/kits are renewed with each,\n" +
			"so that they say where the embassies are. Then hand each folder there to its custodian.",
		Example: "  chancery state init --home HOME --name \"Republic of X\" --code XX --quorum 3 \\\n" +
			"    --custodian mari=age1pq… --custodian jaan=age1pq… --custodian anna=age1pq… --custodian olev=age1pq… --custodian eva=age1pq…",
		Args: cobra.NoArgs,
	}
	dir := homeFlag(c)
	c.Flags().StringVar(&f.Name, "name", "", "the state's name")
	c.Flags().StringVar(&f.Code, "code", "", "its code, two capital letters")
	c.Flags().IntVar(&f.Quorum, "quorum", 0, "how many custodians open")
	c.Flags().StringArrayVar(&custodians, "custodian", nil, "NAME=RECIPIENT of a custodian; once for each")
	for _, n := range []string{"name", "code", "quorum", "custodian"} {
		_ = c.MarkFlagRequired(n)
	}
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
		lockMemory()
		h, err := home.Create(*dir, f)
		if err != nil {
			return err
		}
		return u.answer(stateAnswer(h.Charter), func(w io.Writer) {
			fmt.Fprintf(w, "%s (%s) is made in %s.\n", h.Charter.State.Name, h.Charter.State.Code, *dir)
			fmt.Fprintf(w, "Any %d of %s open it; the key itself is gone.\n", f.Quorum, plural(len(f.Custodians), "custodian"))
			fmt.Fprintf(w, "Hand each folder under %s/kits to its custodian.\n", *dir)
		})
	}
	return c
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
}

func stateAnswer(c *charter.Charter) stateJSON {
	s := stateJSON{
		ID: c.State.ID.String(), Name: c.State.Name, Code: c.State.Code, Charter: c.Number,
		Hash: charter.EncodeDigest(c.Hash()), Quorum: c.Custody.Threshold, Custodians: []string{}, Embassies: []string{},
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
		})
	}
	return c
}
