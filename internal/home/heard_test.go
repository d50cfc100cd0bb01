package home

import (
	"errors"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

func TestHomeRemembersWhenACustodianWasHeardFrom(t *testing.T) {
	h := create(t)
	if day, err := h.LastHeard("mari"); err != nil || day != charter.DateOf(time.Now()) {
		t.Errorf("never yet: %q, %v, want the day of the first charter", day, err)
	}
	if err := h.Heard("mari", "2031-05-06"); err != nil {
		t.Fatal(err)
	}
	if day, err := h.LastHeard("mari"); err != nil || day != "2031-05-06" {
		t.Errorf("%q, %v", day, err)
	}
	if day, err := h.LastHeard("jaan"); err != nil || day != charter.DateOf(time.Now()) {
		t.Errorf("another custodian: %q, %v", day, err)
	}
	for _, name := range []string{"peeter", "../version"} {
		if err := h.Heard(name, "2031-05-06"); !errors.Is(err, ErrNoCustodian) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
