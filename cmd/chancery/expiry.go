package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/order"
)

// expiryWindow is how long before something runs out status tells of it.
const expiryWindow = 90 * 24 * time.Hour

// expiryJSON is something that runs out, or ran out.
type expiryJSON struct {
	What  string    `json:"what"` // person, agent, agreement, review, order, custodian
	Name  string    `json:"name"`
	Until time.Time `json:"until"` // the moment from which it counts no more
	Past  bool      `json:"past"`
	Help  string    `json:"help"`
}

// within keeps what runs out soon, or did, soonest first.
func within(all []expiryJSON, now time.Time) []expiryJSON {
	out := []expiryJSON{}
	for _, e := range all {
		if e.Past = !now.Before(e.Until); e.Past || e.Until.Sub(now) < expiryWindow {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b expiryJSON) int {
		return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.What, b.What), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// ends is the first moment after a day.
func ends(d charter.Date) time.Time { return d.Start().AddDate(0, 0, 1) }

// charterExpiries are the people and agents of a charter whose time ends.
func charterExpiries(c *charter.Charter, now time.Time) []expiryJSON {
	var all []expiryJSON
	for _, p := range c.Everyone() {
		if p.Until != "" {
			all = append(all, expiryJSON{
				What: "person", Name: p.Name, Until: ends(p.Until),
				Help: "chancery charter propose --from, with another day; or --remove " + p.Name,
			})
		}
	}
	serving := slices.ContainsFunc(c.Agents, func(a charter.Agent) bool { return a.Until == "" })
	for _, a := range c.Agents {
		if a.Until != "" && (!serving || !a.Until.Over(now)) { // one that another took the place of stays named for what it signed
			all = append(all, expiryJSON{
				What: "agent", Name: a.Name, Until: ends(a.Until),
				Help: "chancery charter propose --from, with another day; or --drop-agent " + a.Name,
			})
		}
	}
	return all
}

// custodyExpiries are the custodians, each of whom counts for a year from when they were last heard from.
func custodyExpiries(h *home.Home) ([]expiryJSON, error) {
	var all []expiryJSON
	for _, k := range h.Charter.Custody.Custodians {
		day, err := h.LastHeard(k.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, expiryJSON{
			What: "custodian", Name: k.Name, Until: ends(day).Add(home.HeardFor),
			Help: "ask whether kit and key are there (chancery custodian kit), then chancery custodian heard " + k.Name,
		})
	}
	return all, nil
}

// agreementExpiries are what an embassy says of its agreement: its last day, and when it is to be reviewed.
func agreementExpiries(name string, a *embassy.AgreementStatus) (all []expiryJSON) {
	if a == nil {
		return nil
	}
	if d := charter.Date(a.Until); d.Valid() {
		all = append(all, expiryJSON{
			What: "agreement", Name: name, Until: ends(d),
			Help: "chancery agreement draft --amend, another last day, both sign, agreement submit",
		})
	}
	if d := charter.Date(a.Review); d.Valid() {
		all = append(all, expiryJSON{
			What: "review", Name: name, Until: ends(d),
			Help: "review the agreement with the host; the next day of review is an amendment",
		})
	}
	return all
}

// orderExpiries are the orders that are open for signatures, or wait.
func orderExpiries(list []orderAtJSON) (all []expiryJSON) {
	for _, o := range list {
		if o.Expires != nil && o.open() {
			all = append(all, expiryJSON{What: "order", Name: o.Kind + " " + o.Hash[:16], Until: *o.Expires, Help: "chancery order list says who has yet to sign"})
		}
	}
	return all
}

// open reports whether an order is not over at every embassy.
func (o *orderAtJSON) open() bool {
	return slices.ContainsFunc(o.Embassies, func(s orderStandingJSON) bool { return underWay(s.Status) })
}

func underWay(status string) bool {
	return status == order.Open.String() || status == order.Waiting.String() || status == order.Effective.String()
}

// shortHanded names acts that those who serve today and are not suspended are too few for, which is a quorum that was lost.
func shortHanded(c *charter.Charter, now time.Time, suspended ...string) []string {
	var lost []string
	for _, a := range c.Upgraded().Acts {
		if n := len(c.Voters(a.Role, now, suspended...)); n < a.Need {
			why := fmt.Sprintf("act %s: %d of role %s serve today, %d must sign", a.Act, n, a.Role, a.Need)
			if s := c.Succession; a.Act == charter.ActCharter && s.Role != "" {
				why += fmt.Sprintf("; %d of role %s may give the next charter, after %s, unless one of %s objects", s.Need, s.Role, s.After, s.StoppedBy)
			}
			lost = append(lost, why)
		}
	}
	return lost
}

func printExpiries(w io.Writer, list []expiryJSON, now time.Time) {
	if len(list) == 0 {
		return
	}
	var rows [][]string
	for _, e := range list {
		left := "in " + age(e.Until.Sub(now))
		if e.Past {
			left = "OVER for " + age(now.Sub(e.Until))
		}
		rows = append(rows, []string{e.What, e.Name, e.Until.UTC().Format("2006-01-02"), left, e.Help})
	}
	table(w, "ENDS NAME ON LEFT WHAT-HELPS", rows)
	fmt.Fprintln(w)
}
