package agreement

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
)

// TestExamples holds each example to what it is: marked as an illustration, agreed in every word, and in force once
// both sides of the tests have signed it.
func TestExamples(t *testing.T) {
	names, err := filepath.Glob("../../examples/agreements/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*Agreement{}
	for _, name := range names {
		doc, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(doc), "# ILLUSTRATION. This is not the text of any treaty") {
			t.Errorf("%s does not say that it is an illustration", name)
		}
		a, err := Parse(doc)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := sampleCharter(t, func(c *charter.Charter) { c.State.Name, c.State.Code = a.State.Name, a.State.Code })
		if err := a.Verify(signed(t, doc, 10, 12, 20, 21), c, a.InForce.From.Start()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := a.Verify(signed(t, doc, 10, 20, 21), c, a.InForce.From.Start()); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s, with one of the state: %v", name, err)
		}
		if got := a.PhaseAt(a.InForce.From.Start()); got != InForce {
			t.Errorf("%s: on its first day %s", name, got)
		}
		byName[strings.TrimSuffix(filepath.Base(name), ".yaml")] = a
	}
	// What makes the three differ is in the data.
	est, mon, part := byName["estonia-luxembourg"], byName["monaco-luxembourg"], byName["shared-building"]
	if len(byName) != 3 || est == nil || mon == nil || part == nil {
		t.Fatalf("examples: %v", names)
	}
	fire := func(a *Agreement) bool {
		return slices.ContainsFunc(a.Entry.Exceptions, func(x Exception) bool { return x.Case == "fire" })
	}
	if est.Entry.Judiciary != "no" || len(est.Inviolability.Exempt) != 4 || est.Cost.Basis != "use" {
		t.Error("estonia-luxembourg: judiciary, exemptions or costs")
	}
	if mon.Entry.Judiciary != "yes" || !fire(mon) || mon.Premises.Boundary != "room" || slices.Contains(mon.Inviolability.Covers, "transit") {
		t.Error("monaco-luxembourg: judiciary, fire, boundary or what is covered")
	}
	if part.Premises.Boundary != "partition" || part.Premises.Shared != "yes" || part.Termination.Custodian.Code == "" {
		t.Error("shared-building: boundary, others or the third state")
	}
}
