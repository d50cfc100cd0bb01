package embassy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
)

// agreed is an agreement of a test's state and the host of embassy dir, from yesterday on; change may alter it.
func agreed(t testing.TB, dir string, ch *charter.Charter, change func(*agreement.Agreement)) *agreement.Agreement {
	t.Helper()
	set, err := loadSettings(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	host, err := charter.SSHPublicKey(publicOf(keyOf("host")))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := agreement.Draft(agreement.Parties{
		Template: agreement.Templates()[0], State: agreement.State{ID: ch.State.ID, Name: ch.State.Name, Code: ch.State.Code},
		HostName: "Host", HostCode: set.Country, Embassy: agreement.Embassy{Name: set.Name, Country: set.Country, Key: charter.Fingerprint(publicOf(key))},
		Signatories: []agreement.Signatory{{Name: "anne", Office: "Minister", Key: host}}, From: charter.DateOf(time.Now().AddDate(0, 0, -1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := agreement.ParseDraft([]byte(strings.ReplaceAll(string(doc), agreement.Open, "agreed")))
	if err != nil {
		t.Fatal(err)
	}
	a.Limits.QuotaBytes, a.Retention.Minimum, a.Retention.Cooling = 60_000, "0", "0"
	if change != nil {
		change(a)
	}
	n, err := agreement.New(*a)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bothSign are the signatures of a state's mari and of the host.
func bothSign(t testing.TB, a *agreement.Agreement) []byte {
	t.Helper()
	return signs(t, agreement.Namespace, a.Bytes(), "mari", "host")
}

// admitted makes an embassy of layout 2 that serves the test's state.
func admitted(t testing.TB, change func(*agreement.Agreement)) (dir string, a *agreement.Agreement) {
	t.Helper()
	dir = t.TempDir()
	if _, err := Establish(dir, "lux", "LU"); err != nil {
		t.Fatal(err)
	}
	ch := sampleCharter(t, "one")
	a = agreed(t, dir, ch, change)
	if _, err := Admit(dir, admission(t, ch, a)); err != nil {
		t.Fatal(err)
	}
	return dir, a
}

func admission(t testing.TB, ch *charter.Charter, a *agreement.Agreement) Admission {
	t.Helper()
	return Admission{
		Charter: ch.Bytes(), CharterSigs: signed(t, ch, "signer"), Agreement: a.Bytes(), AgreementSigs: bothSign(t, a), Now: time.Now(),
	}
}

func TestAnAgreementLetsAStateInAndIsObeyed(t *testing.T) {
	t.Parallel()
	dir, a := admitted(t, nil)
	s := serve(t, dir, Options{})
	c, ctx := s.client(t, "agent"), t.Context()
	st, err := c.Status(ctx)
	if err != nil || st.Agreement == nil || st.Agreement.Phase != string(agreement.InForce) || st.Agreement.Number != 1 || st.FreeBytes > 60_000 {
		t.Fatalf("%+v, %+v, %v", st, st.Agreement, err)
	}
	small, data := object(25_000, "fits")
	if err := c.Put(ctx, small, data); err != nil {
		t.Fatal(err)
	}
	large, more := object(40_000, "beyond")
	if err := c.Put(ctx, large, more); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the quota: %v", err)
	}
	// An amendment needs both, and follows; then there is room.
	next := a.Next()
	next.Limits.QuotaBytes = 200_000
	n, err := agreement.New(next)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []string{"mari", "host"} {
		if err := c.PutAgreement(ctx, n.Bytes(), signs(t, agreement.Namespace, n.Bytes(), one)); !errors.Is(err, ErrRefused) {
			t.Errorf("signed by %s alone: %v", one, err)
		}
	}
	if err := c.PutAgreement(ctx, n.Bytes(), bothSign(t, n)); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(ctx, large, more); err != nil {
		t.Errorf("under the amendment: %v", err)
	}
	beyond := n.Next()
	beyond.Limits.QuotaBytes = 1 << 59
	b, err := agreement.New(beyond)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PutAgreement(ctx, b.Bytes(), bothSign(t, b)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "room") {
		t.Errorf("more than the disk has: %v", err)
	}
	s.stop()
	s = serve(t, dir, Options{})
	doc, _, err := s.client(t, "agent").Agreement(ctx)
	if err != nil || string(doc) != string(n.Bytes()) {
		t.Errorf("after a start: %v", err)
	}
	s.stop()
}

func TestAnAgreementEnds(t *testing.T) {
	t.Parallel()
	day := func(n int) charter.Date { return charter.DateOf(time.Now().AddDate(0, 0, n)) }
	dir, _ := admitted(t, func(a *agreement.Agreement) {
		a.InForce.From, a.InForce.Until, a.Review.Next, a.Termination.Return = day(-100), day(-50), day(-60), "60d"
	})
	at := time.Now()
	s := serve(t, dir, Options{now: func() time.Time { return at.AddDate(0, 0, -60) }}) // when it was in force
	name, data := object(100, "x")
	if err := s.client(t, "agent").Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	s.stop()
	for days, may := range map[int]struct{ read, inspect bool }{-200: {false, true}, 0: {true, true}, 30: {false, true}} {
		s := serve(t, dir, Options{now: func() time.Time { return at.AddDate(0, 0, days) }})
		c := s.client(t, "agent")
		other, data := object(100, "y", days)
		if err := c.Put(t.Context(), other, data); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "agreement") {
			t.Errorf("day %d: PUT: %v", days, err)
		}
		if _, err := c.Get(t.Context(), name, nil); (err == nil) != may.read {
			t.Errorf("day %d: GET: %v", days, err)
		}
		if _, err := c.Checkpoint(t.Context()); (err == nil) != may.inspect {
			t.Errorf("day %d: the ledger: %v", days, err)
		}
		s.stop()
	}
}

func TestAdmissionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Establish(dir, "lux", "LU"); err != nil {
		t.Fatal(err)
	}
	ch := sampleCharter(t, "one")
	good := admission(t, ch, agreed(t, dir, ch, nil))
	elsewhere := t.TempDir()
	if _, err := Establish(elsewhere, "lux", "LU"); err != nil {
		t.Fatal(err)
	}
	house := *sampleCharter(t, "house")
	house.State.HouseOf = ch.State.ID.String()
	hc := made(t, house)
	for what, change := range map[string]func(*Admission){
		"the host did not sign":  func(a *Admission) { a.AgreementSigs = signs(t, agreement.Namespace, a.Agreement, "mari") },
		"the state did not sign": func(a *Admission) { a.AgreementSigs = signs(t, agreement.Namespace, a.Agreement, "host") },
		"another embassy":        func(a *Admission) { *a = admission(t, ch, agreed(t, elsewhere, ch, nil)) },
		"another state":          func(a *Admission) { a.Charter, a.CharterSigs = hc.Bytes(), signed(t, hc, "signer") },
		"no room": func(a *Admission) {
			*a = admission(t, ch, agreed(t, dir, ch, func(g *agreement.Agreement) { g.Limits.QuotaBytes = 1 << 59 }))
		},
		"a house that no state here lists": func(a *Admission) { *a = admission(t, hc, agreed(t, dir, hc, nil)) },
	} {
		a := good
		change(&a)
		if _, err := Admit(dir, a); err == nil {
			t.Errorf("%s: let in", what)
		}
	}
	// Nothing was left behind, and the good one is let in, once; it serves.
	if _, err := Admit(dir, good); err != nil {
		t.Fatal(err)
	}
	if _, err := Admit(dir, good); err == nil {
		t.Error("let in twice")
	}
	s := serve(t, dir, Options{})
	if _, err := s.client(t, "agent").Status(t.Context()); err != nil {
		t.Error(err)
	}
	s.stop()
}

// A folder is served under an agreement or not at all: one that an Admit left which crashed stops nobody else, and is
// completed by the next. One that was served and lost its agreement stops the embassy: that is damage.
func TestNobodyIsServedWithoutAnAgreement(t *testing.T) {
	t.Parallel()
	dir, _ := admitted(t, nil)
	two := made(t, *sampleCharter(t, "two"))
	half := filepath.Join(dir, "states", two.State.ID.String())
	if err := initState(half, two, signed(t, two, "signer")); err != nil {
		t.Fatal(err)
	}
	ask := func(s *site, state string) error {
		_, err := s.dial(t, "agent", func(c *ClientConfig) { c.State = charter.StateID(seeded(16, "state", state)) }).Status(t.Context())
		return err
	}
	s := serve(t, dir, Options{})
	if one, other := ask(s, "one"), ask(s, "two"); one != nil || !errors.Is(other, ErrRefused) {
		t.Errorf("admitted: %v; half admitted: %v", one, other)
	}
	s.stop()
	if _, err := Admit(dir, admission(t, two, agreed(t, dir, two, nil))); err != nil {
		t.Fatal(err)
	}
	s = serve(t, dir, Options{})
	if one, other := ask(s, "one"), ask(s, "two"); one != nil || other != nil {
		t.Errorf("admitted: %v, %v", one, other)
	}
	s.stop()
	if err := os.Remove(filepath.Join(half, agreementFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "no agreement admits this state") {
		t.Errorf("its agreement is lost: %v", err)
	}
}

// A folder that a release before agreements made comes under its first one with all that it holds; a crash on the way
// leaves it as it was.
func TestAFolderWithoutAnAgreementComesUnderOne(t *testing.T) {
	t.Parallel()
	dir := initFolder(t)
	s := serve(t, dir, Options{})
	name, data := object(25_000, "held before")
	if err := s.client(t, "agent").Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	before, err := s.client(t, "agent").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	one, two := sampleCharter(t, "one"), made(t, *sampleCharter(t, "two"))
	good := admission(t, one, agreed(t, dir, one, nil))
	next := one.Next()
	newer := admission(t, made(t, next), agreed(t, dir, one, nil))
	for what, a := range map[string]Admission{
		"another state": admission(t, two, agreed(t, dir, two, nil)), "a charter that it does not have": newer,
		"signed by one side": func() Admission {
			a := good
			a.AgreementSigs = signs(t, agreement.Namespace, a.Agreement, "mari")
			return a
		}(),
	} {
		if _, err := Admit(dir, a); err == nil {
			t.Errorf("%s: let in", what)
		}
		if set, err := loadSettings(dir); err != nil || set.Version != unbound {
			t.Errorf("%s: layout %d, %v", what, set.Version, err)
		}
	}
	// What a crash leaves binds nobody.
	if err := os.WriteFile(filepath.Join(dir, "states", one.State.ID.String(), agreementFile), []byte("half"), filePerm); err != nil {
		t.Fatal(err)
	}
	s = serve(t, dir, Options{})
	if st, err := s.client(t, "agent").Status(t.Context()); err != nil || st.Agreement.Phase != "none" {
		t.Errorf("after a crash: %+v, %v", st.Agreement, err)
	}
	s.stop()
	if _, err := Admit(dir, good); err != nil {
		t.Fatal(err)
	}
	s = serve(t, dir, Options{})
	c := s.client(t, "agent")
	st, err := c.Status(t.Context())
	if err != nil || st.Agreement.Phase != string(agreement.InForce) || st.LedgerSize <= before.LedgerSize || st.Objects != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := c.Get(t.Context(), name, nil); err != nil {
		t.Errorf("what it held: %v", err)
	}
	large, more := object(40_000, "beyond")
	if err := c.Put(t.Context(), large, more); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the quota: %v", err)
	}
	s.stop()
	if _, err := Admit(dir, good); err == nil {
		t.Error("let in twice")
	}
}
