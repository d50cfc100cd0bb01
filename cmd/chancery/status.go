package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/durable"
)

// statusJSON is the answer of status.
type statusJSON struct {
	State     stateJSON            `json:"state"`
	Embassies []embassyJSON        `json:"embassies"`
	Registers []registerStatusJSON `json:"registers"`
	Well      bool                 `json:"well"` // nothing below asks for a person
}

type registerStatusJSON struct {
	Name       string     `json:"name"`
	Snapshots  uint64     `json:"snapshots"`
	Newest     *headJSON  `json:"newest,omitempty"`
	AgeSeconds float64    `json:"age_seconds"`
	RPOMissed  bool       `json:"rpo_missed"`
	Spare      int        `json:"spare_embassies"` // embassies that may vanish now
	Sites      []siteJSON `json:"embassies"`
	Protected  string     `json:"protected"` // "yes", "thin", "no"
	Why        string     `json:"why,omitempty"`

	unknown bool // too few embassies answer to say more
}

type siteJSON struct {
	Embassy string `json:"embassy"`
	Up      bool   `json:"up"`
	Why     string `json:"why,omitempty"`
	Missing int    `json:"objects_missing"`
	Lag     uint64 `json:"heads_missing"`
}

func statusCommand(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show how the state's registers stand at its embassies", Args: cobra.NoArgs,
		Long:    "Asks every embassy now. Exit 0 when all is well, 3 when something needs a person, 8 when a register could not be\nbrought back from the embassies that answer.",
		Example: "  chancery status --home HOME",
	}
	dir := homeFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		conn, err := connect(*dir, false)
		if err != nil {
			return err
		}
		defer conn.close()
		s, err := conn.status(c.Context())
		if err != nil {
			return err
		}
		if err := u.answer(s, s.print); err != nil || s.Well {
			return err
		}
		for _, r := range s.Registers {
			if r.unknown || r.Protected == "no" && r.Snapshots > 0 {
				return &failure{err: errPartial, code: exitTooFew}
			}
		}
		return &failure{err: errPartial, code: exitPartial}
	}
	return c
}

func (c *connection) status(ctx context.Context) (*statusJSON, error) {
	s := &statusJSON{State: stateAnswer(c.home.Charter), Embassies: []embassyJSON{}, Registers: []registerStatusJSON{}, Well: true}
	s.Embassies = make([]embassyJSON, len(c.home.Charter.Embassies))
	var all sync.WaitGroup
	for i := range c.home.Charter.Embassies {
		e := &c.home.Charter.Embassies[i]
		s.Embassies[i] = embassyAnswer(e)
		client := c.client(*e)
		all.Go(func() { s.Embassies[i].asked(ctx, client) })
	}
	all.Wait()
	for _, e := range s.Embassies {
		s.Well = s.Well && *e.Up && e.Charter == s.State.Charter
	}
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	names, err := c.home.Registers()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		r, err := c.registerStatus(ctx, n)
		if err != nil {
			return nil, err
		}
		s.Registers = append(s.Registers, *r)
		s.Well = s.Well && r.Protected == "yes" && !r.RPOMissed
	}
	return s, nil
}

func (c *connection) registerStatus(ctx context.Context, name string) (*registerStatusJSON, error) {
	r, reg, err := c.register(name)
	if err != nil {
		return nil, err
	}
	st, err := archive.Stand(ctx, reg, c.agent(), time.Now())
	if errors.Is(err, durable.ErrLocked) { // a backup is at work: look with a copy of one's own
		if reg.Dir, err = os.MkdirTemp("", "chancery-status-*"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(reg.Dir)
		st, err = archive.Stand(ctx, reg, c.agent(), time.Now())
	}
	if err != nil && !errors.Is(err, archive.ErrTooFew) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a := &registerStatusJSON{Name: name, Snapshots: st.Snapshots, Spare: st.Spare, AgeSeconds: st.Age.Seconds()}
	if st.Newest != nil {
		h := c.headAnswer(st.Newest)
		a.Newest = &h
	}
	whole := true
	for _, x := range st.Sites {
		a.Sites = append(a.Sites, siteJSON{x.Embassy, x.Up, x.Why, x.Missing, x.Lag})
		whole = whole && x.Up && x.Missing == 0 && x.Lag == 0
	}
	whole = whole && (err != nil || len(c.recordFault(ctx, r)) == 0)
	switch {
	case err != nil:
		a.Protected, a.Why, a.unknown = "no", "too few embassies answer", true
	case st.Snapshots == 0:
		a.Protected, a.Why = "no", "no snapshot yet"
	case st.Spare < 0:
		a.Protected, a.Why = "no", "shares are lost beyond repair"
	case !whole:
		a.Protected, a.Why = "thin", "less redundancy than asked for"
	default:
		a.Protected = "yes"
	}
	if rpo, err := time.ParseDuration(r.Definition.RPO); err == nil && rpo > 0 {
		a.RPOMissed = st.Newest == nil || st.Age > rpo
	}
	return a, nil
}

func (s *statusJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s), charter %d; any %d of %s open it\n\n", s.State.Name, s.State.Code, s.State.Charter, s.State.Quorum, plural(len(s.State.Custodians), "custodian"))
	var rows [][]string
	for _, e := range s.Embassies {
		state := "up"
		switch {
		case !*e.Up:
			state = "DOWN: " + e.Why
		case e.Charter != s.State.Charter:
			state = fmt.Sprintf("up, charter %d: chancery repair", e.Charter)
		}
		rows = append(rows, []string{e.Name, e.Country, size(int64(e.Bytes)), size(int64(e.FreeBytes)), fmt.Sprint(e.LedgerSize), state})
	}
	table(w, "EMBASSY HOST STORED FREE LEDGER STATE", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, r := range s.Registers {
		newest := "none"
		if r.unknown {
			newest = "unknown"
		}
		if r.Newest != nil {
			newest = r.Newest.Snapshot + ", " + age(time.Duration(r.AgeSeconds*float64(time.Second))) + " old"
		}
		if r.RPOMissed {
			newest += " (OVER ITS RPO)"
		}
		state := r.Protected
		if r.Why != "" {
			state += ": " + r.Why
		}
		for _, x := range r.Sites {
			if x.Missing > 0 || x.Lag > 0 {
				state += fmt.Sprintf("; %s lacks %s, %s", x.Embassy, plural(x.Missing, "object"), plural(x.Lag, "head"))
			}
		}
		rows = append(rows, []string{r.Name, newest, fmt.Sprint(max(r.Spare, 0)), state})
	}
	table(w, "REGISTER NEWEST SPARE KEPT-ABROAD", rows)
}
