package embassy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/order"
)

// day is so many days from today.
func day(n int) charter.Date { return charter.DateOf(time.Now().UTC().AddDate(0, 0, n)) }

// serving gives people of the world days of service.
func serving(terms map[string][2]charter.Date) func(*charter.Charter) {
	return func(c *charter.Charter) {
		for i := range c.People {
			if t, ok := terms[c.People[i].Name]; ok {
				c.People[i].From, c.People[i].Until = t[0], t[1]
			}
		}
	}
}

// An agent whose last day is over is a stranger to a live embassy, in all that it asks; on the last day it is not.
func TestAnAgentsLastDayIsKept(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, func(c *charter.Charter) {
		for name, until := range map[string]charter.Date{"left": day(-1), "leaving": day(1), "staying": ""} {
			c.Agents = append(c.Agents, charter.Agent{Name: name, Key: charter.EncodeKey(publicOf(keyOf(name))), Until: until})
		}
	})
	name, data := object(600, "until")
	w.cosigned(0, 1) // there is witnessed time
	tries := func(who string) (errs []error) {
		c := w.client(0, who)
		put := c.Put(t.Context(), name, data)
		_, read := c.Get(t.Context(), name, nil)
		_, status := c.Status(t.Context())
		return []error{put, read, status}
	}
	for _, who := range []string{"leaving", "staying"} {
		for i, err := range tries(who) {
			if err != nil {
				t.Errorf("control: %s: %d: %v", who, i, err)
			}
		}
	}
	stranger := tries("nobody")
	for i, err := range tries("left") {
		if !errors.Is(err, ErrRefused) || err.Error() != stranger[i].Error() {
			t.Errorf("left: %d: %v, a stranger: %v", i, err, stranger[i])
		}
	}
	// Witnesses' time goes on, and whoever left meanwhile is a stranger from then on.
	size, err := w.state(0).journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.state(0).clock.note(size, time.Now().AddDate(0, 0, 2))
	for i, err := range tries("leaving") {
		if !errors.Is(err, ErrRefused) || err.Error() != stranger[i].Error() {
			t.Errorf("after its last day: %d: %v", i, err)
		}
	}
	if err := tries("staying")[0]; err != nil {
		t.Errorf("control: %v", err)
	}
}

// Whoever has left, or is not there yet, orders nothing at a live embassy and stops nothing; nor does an order take effect
// when somebody left while it waited, without whom it is not enough.
func TestPeoplesDaysOfServiceAreKept(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, func(c *charter.Charter) {
		cooling(charter.ActErase, "2h")(c)
		serving(map[string][2]charter.Date{"anna": {day(-30), day(-1)}, "jaan": {day(-30), day(1)}, "olev": {day(2), ""}})(c)
	})
	names := w.delivers(7, 1, 3)
	w.cosigned(0, 1)
	content, list := removalOf(t, 7, names)
	give := func(proposer string, people ...string) (OrderStatus, error) {
		o := w.drafted(charter.ActErase, content)
		o.Proposer = proposer
		_, rec := w.given(o, [][]byte{list}, people...)
		return w.client(0, "agent").PutOrder(t.Context(), rec, list)
	}
	if _, err := give("mari", "mari", "anna"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "too few") {
		t.Errorf("with one who had left: %v", err)
	}
	if _, err := give("anna", "anna", "mari", "jaan"); !errors.Is(err, ErrRefused) {
		t.Errorf("proposed by one who had left: %v", err)
	}
	s, err := give("mari", "mari", "jaan")
	if err != nil || s.Status != "waiting" {
		t.Fatalf("control: %+v, %v", s, err)
	}
	if err := w.veto(t.Context(), s.Hash, "olev", "olev"); !errors.Is(err, ErrRefused) {
		t.Errorf("a veto of one who is not there yet: %v", err)
	}
	hold := order.Content{Register: charter.RegisterID{8}, Label: "sea", Hold: "case-1"}
	_, rec := w.given(w.drafted(charter.ActHold, hold), nil, "mari", "jaan")
	if _, err := w.client(0, "agent").PutOrder(t.Context(), rec); err != nil {
		t.Errorf("control: a hold: %v", err)
	}
	until(t, "its record is cosigned", func() bool {
		_, ok := w.state(0).clock.covered(w.state(0).orders.bySequence(1).leaf)
		return ok
	})
	size, err := w.state(0).journal.size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.state(0).clock.note(size, time.Now().AddDate(0, 0, 2)) // its time has come, and jaan's is over
	if s := w.over(1); s.Status != "refused" || !strings.Contains(s.Why, "too few") || w.held(names) != 3 {
		t.Errorf("%+v, %d are left", s, w.held(names))
	}
	// By then olev serves, and mari alone of the council: nobody orders any more.
	_, rec = w.given(w.drafted(charter.ActHold, hold), nil, "mari", "jaan")
	if _, err := w.client(0, "agent").PutOrder(t.Context(), rec); !errors.Is(err, ErrRefused) {
		t.Errorf("a hold when jaan had left: %v", err)
	}
}
