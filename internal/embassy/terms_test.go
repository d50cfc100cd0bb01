package embassy

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
)

// under lays an agreement upon embassy 0 of a world, as if it had been admitted with it.
func (w *world) under(change func(*agreement.Agreement)) {
	w.t.Helper()
	a := agreed(w.t, w.dirs[0], w.state(0).inForce().charter, func(a *agreement.Agreement) {
		a.Limits.QuotaBytes, a.Limits.RequestsPerSecond = 1<<40, 1_000_000
		change(a)
	})
	w.state(0).compact.Store(&compact{chain: []*agreement.Agreement{a}, rate: newBucket(1_000_000)})
}

// What the agreement keeps is kept although the quorum orders otherwise and its own charter lets it go at once.
func TestTheAgreementsRetentionIsKept(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	names := w.delivers(7, 1, 3)
	content, list := removalOf(t, 7, names)
	w.cosigned(0, 1)
	for _, act := range []charter.ActName{charter.ActRelease, charter.ActErase} {
		w.under(func(a *agreement.Agreement) { a.Retention.Minimum = "30d" })
		_, rec := w.given(w.drafted(act, content), [][]byte{list}, "mari", "jaan")
		_, err := w.client(0, "agent").PutOrder(t.Context(), rec, list)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "agreement") {
			t.Errorf("%s of what is younger than the agreement's minimum: %v", act, err)
		}
	}
	if w.held(names) != 3 {
		t.Fatalf("%d of 3 are left", w.held(names))
	}
	// An order waits as long as the agreement says, although the charter says 0.
	w.under(func(a *agreement.Agreement) { a.Retention.Cooling = "2s" })
	began, _ := w.state(0).clock.now()
	s := w.ordered(charter.ActRelease, content, list)
	if s.Status != "waiting" || w.held(names) != 3 {
		t.Fatalf("it does not wait: %+v, %d left", s, w.held(names))
	}
	if s = w.over(s.Sequence); s.Status != "done" || w.held(names) != 0 {
		t.Errorf("%+v, %d left", s, w.held(names))
	}
	if now, _ := w.state(0).clock.now(); now.Sub(began) < 2*time.Second {
		t.Errorf("it took effect after %v of witnessed time", now.Sub(began))
	}
	// The control: with neither, an order of the same kind does not wait.
	more := w.delivers(7, 2, 3)
	content, list = removalOf(t, 7, more)
	w.under(func(*agreement.Agreement) {})
	s = w.ordered(charter.ActRelease, content, list)
	if s = w.over(s.Sequence); s.Status != "done" || w.held(more) != 0 {
		t.Errorf("without: %+v, %d left", s, w.held(more))
	}
}

func TestRequestsBeyondTheAgreedRateComeAgain(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBucket(10)
	b.now = func() time.Time { return at }
	count := func() (n int) {
		for range 100 {
			if b.allow() {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		pass time.Duration
		want int
	}{{0, 10}, {0, 0}, {500 * time.Millisecond, 5}, {time.Hour, 10}, {-time.Hour, 0}} {
		at = at.Add(step.pass)
		if n := count(); n != step.want {
			t.Errorf("after %v more: %d, want %d", step.pass, n, step.want)
		}
	}
	dir, _ := admitted(t, func(a *agreement.Agreement) { a.Limits.RequestsPerSecond = 1 })
	s := serve(t, dir, Options{})
	st := s.state()
	for st.within(mayRead) == nil { // until this second's are used up
	}
	if err := st.within(mayRead); err == nil || !strings.Contains(err.Error(), "requests a second") {
		t.Errorf("beyond the rate: %v", err)
	}
	if err := st.within(mayCosign); err != nil {
		t.Errorf("who brings checkpoints is never kept out: %v", err)
	}
}

// Who asks for more than was agreed waits for its turn, and is not told that the embassy cannot be reached.
func TestWhoAsksTooOftenWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	const rate = 60
	dir, _ := admitted(t, func(a *agreement.Agreement) { a.Limits.RequestsPerSecond = rate })
	c := serve(t, dir, Options{}).client(t, "agent")
	begun := time.Now()
	var all sync.WaitGroup
	errs := make(chan error, 4*rate)
	for range 8 {
		all.Go(func() {
			for range cap(errs) / 8 {
				_, err := c.Checkpoint(t.Context())
				errs <- err
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("%d requests in %v", cap(errs), took)
	}
}

// A house is served as a state is, and let in where the charter of its state lists it.
func TestAHouseIsAdmittedWhereItsStateListsIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Establish(dir, "lux", "LU"); err != nil {
		t.Fatal(err)
	}
	state := sampleCharter(t, "one")
	of := *sampleCharter(t, "two")
	of.State.HouseOf = state.State.ID.String()
	house := made(t, of)
	admit := func(c *charter.Charter) error {
		_, err := Admit(dir, admission(t, c, agreed(t, dir, c, nil)))
		return err
	}
	if err := admit(house); err == nil || !strings.Contains(err.Error(), "house") {
		t.Errorf("before its state: %v", err)
	}
	lists := *state
	lists.Houses = []charter.House{{Name: "justice", ID: house.State.ID}}
	listing := made(t, lists)
	if err := admit(listing); err != nil {
		t.Fatal(err)
	}
	stranger := *sampleCharter(t, "three")
	stranger.State.HouseOf = state.State.ID.String()
	if err := admit(made(t, stranger)); err == nil || !strings.Contains(err.Error(), "list") {
		t.Errorf("a house that is not listed: %v", err)
	}
	if err := admit(house); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.states) != 2 {
		t.Errorf("%d states are served", len(s.states))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
