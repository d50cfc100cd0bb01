package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/register"
)

// statusJSON is the answer of status.
type statusJSON struct {
	State     stateJSON            `json:"state"`
	Embassies []embassyJSON        `json:"embassies"`
	Trust     []trustJSON          `json:"trust"`
	Registers []registerStatusJSON `json:"registers"`
	Staying   []stayingJSON        `json:"staying"` // registers that never leave home
	Orders    []orderAtJSON        `json:"orders"`  // those that are open for signatures or wait
	Expiring  []expiryJSON         `json:"expiring"`
	Lost      []string             `json:"lost_quorums"` // acts for which too few people serve today
	Well      bool                 `json:"well"`         // nothing below asks for a person
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

	Restorable    *time.Time          `json:"restorable,omitempty"` // the newest moment to which it can be brought back
	RestorableAge float64             `json:"restorable_age_seconds"`
	Stream        *streamStatusJSON   `json:"stream,omitempty"` // of a cluster
	Proof         *registerProvenJSON `json:"proof,omitempty"`  // the last that was made
	RPO           string              `json:"rpo,omitempty"`
	RTO           string              `json:"rto,omitempty"`

	unknown  bool // too few embassies answer to say more
	unproven bool // it is kept, and nobody knows that it comes back
}

type siteJSON struct {
	Embassy string `json:"embassy"`
	Up      bool   `json:"up"`
	Why     string `json:"why,omitempty"`
	Missing int    `json:"objects_missing"`
	Lag     uint64 `json:"heads_missing"`
	Stream  uint64 `json:"stretches_missing,omitempty"` // of a cluster's log
}

func statusCommand(u *ui) *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show how the state's registers stand at its embassies", Args: cobra.NoArgs,
		Long: "Asks every embassy now, and the servers of clusters how far they are. A cluster is protected only while its last proof\n" +
			"(verify --boot) succeeded, is not older than 90 days, and its log abroad is not older than its RPO.\n\n" +
			"Exit 0 when all is well, 3 when something needs a person, 8 when a register could not be brought back from the embassies\n" +
			"that answer.",
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
			if r.unknown || r.Protected == "no" && r.Snapshots > 0 && !r.unproven {
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
	var err error
	if s.Trust, err = c.trust(ctx); err != nil {
		return nil, err
	}
	for _, t := range s.Trust {
		s.Well = s.Well && len(t.Why) == 0
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
		s.Well = s.Well && r.Protected == "yes" && !r.RPOMissed && r.calm()
	}
	if s.Staying, err = c.staying(); err != nil {
		return nil, err
	}
	return s, c.people(ctx, s, time.Now())
}

// people tells which orders are under way and what runs out. What ran out asks for a person; what will, only for
// attention.
func (c *connection) people(ctx context.Context, s *statusJSON, now time.Time) error {
	orders, err := ordersAtHome(c.home, now)
	if err != nil {
		return err
	}
	a := &asker{charter: c.home.Charter, home: c.home, key: c.key}
	a.told(ctx, &orders) // who is down is told above
	s.Orders = slices.DeleteFunc(orders, func(o orderAtJSON) bool { return !o.open() })
	if s.Orders == nil {
		s.Orders = []orderAtJSON{}
	}
	all := append(charterExpiries(c.home.Charter, now), orderExpiries(s.Orders)...)
	for _, e := range s.Embassies {
		all = append(all, e.expiring...)
	}
	custody, err := custodyExpiries(c.home)
	if err != nil {
		return err
	}
	s.Expiring = within(append(all, custody...), now)
	s.Lost = append([]string{}, shortHanded(c.home.Charter, now, c.suspended(ctx)...)...)
	s.Well = s.Well && len(s.Lost) == 0 && !slices.ContainsFunc(s.Expiring, func(e expiryJSON) bool { return e.Past })
	return nil
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
	if err != nil && !errors.Is(err, register.ErrTooFew) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a := &registerStatusJSON{Name: name, Snapshots: st.Snapshots, Spare: st.Spare, AgeSeconds: st.Age.Seconds()}
	if st.Newest != nil {
		h := c.headAnswer(st.Newest)
		a.Newest = &h
	}
	whole := true
	for _, x := range st.Sites {
		a.Sites = append(a.Sites, siteJSON{Embassy: x.Embassy, Up: x.Up, Why: x.Why, Missing: x.Missing, Lag: x.Lag})
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
	return a, c.restorable(ctx, a, r, reg, time.Now())
}

func (s *statusJSON) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s), charter %d; any %d of %s open it\n\n", s.State.Name, s.State.Code, s.State.Charter, s.State.Quorum, plural(len(s.State.Custodians), "custodian"))
	var rows [][]string
	for _, e := range s.Embassies {
		state := "up"
		switch {
		case !*e.Up:
			state = "DOWN: " + e.Why
		case e.Agreement != "" && e.Agreement != "none" && e.Agreement != string(agreement.InForce):
			state = "AGREEMENT: " + e.Agreement
		case e.Charter != s.State.Charter:
			state = fmt.Sprintf("up, charter %d: chancery repair", e.Charter)
		}
		rows = append(rows, []string{e.Name, e.Country, size(int64(e.Bytes)), size(int64(e.FreeBytes)), fmt.Sprint(e.LedgerSize), state})
	}
	table(w, "EMBASSY HOST STORED FREE LEDGER STATE", rows)
	fmt.Fprintln(w)
	printTrust(w, s.Trust)
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
			if x.Stream > 0 {
				state += fmt.Sprintf("; %s lacks %s of the log", x.Embassy, plural(x.Stream, "stretch"))
			}
		}
		rows = append(rows, []string{r.Name, newest, fmt.Sprint(max(r.Spare, 0)), state})
	}
	table(w, "REGISTER NEWEST SPARE KEPT-ABROAD", rows)
	fmt.Fprintln(w)
	printRestorable(w, s.Registers, s.Staying)
	if len(s.Orders) > 0 {
		fmt.Fprintln(w)
		printOrders(w, s.Orders)
	}
	if len(s.Expiring)+len(s.Lost) > 0 {
		fmt.Fprintln(w)
	}
	printExpiries(w, s.Expiring, time.Now())
	for _, why := range s.Lost {
		fmt.Fprintf(w, "QUORUM LOST: %s\n", why)
	}
}
