package home

import (
	"crypto/ed25519"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
)

// A new agent's key counts from the charter that names it, and not before; the one before stays at hand for embassies that
// were away, and named for what it signed, with its last day over.
func TestARenewedKeyCountsOnceACharterNamesIt(t *testing.T) {
	h := governed(t)
	now := time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC)
	keys := func() (own, other ed25519.PrivateKey) {
		t.Helper()
		own, err := h.AgentKey()
		if err != nil {
			t.Fatal(err)
		}
		if other, err = h.OtherAgentKey(); err != nil {
			t.Fatal(err)
		}
		return own, other
	}
	adopt := func(name string) {
		t.Helper()
		next := h.Charter.Next()
		if err := h.RenewAgent(&next, name, now); err != nil {
			t.Fatal(err)
		}
		c, err := charter.New(next)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.enact(c, signed(t, c.Bytes(), signerOf(t, h))); err != nil {
			t.Fatal(err)
		}
	}
	first, other := keys()
	if other != nil {
		t.Fatal("another key before any renewal")
	}
	dropped := h.Charter.Next()
	if err := h.RenewAgent(&dropped, "lost", now); err != nil {
		t.Fatal(err)
	}
	own, made := keys()
	if !own.Equal(first) || made == nil {
		t.Error("a key counts that no charter names")
	}
	adopt("home-2")
	own, other = keys()
	if !own.Equal(made) || !other.Equal(first) {
		t.Error("named, the key that was made is not the agent's, or the one before is gone")
	}
	old, _ := h.Charter.AgentByKey(first.Public().(ed25519.PublicKey))
	if len(h.Charter.Agents) != 2 || !old.Until.Over(now) {
		t.Errorf("agents %+v", h.Charter.Agents)
	}
	adopt("home-3")
	third, other := keys()
	if third.Equal(made) || !other.Equal(made) || len(h.Charter.Agents) != 3 {
		t.Errorf("renewed again: agents %+v", h.Charter.Agents)
	}
}
