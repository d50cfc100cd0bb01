package embassy

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

func orderSlot(sequence uint64) ledger.Slot {
	return ledger.Slot{Kind: ledger.OrderRecord, Sequence: sequence}
}

func TestOnlyWhatWasDeliveredForARegisterIsRemovedForIt(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, nil)
	mine, other := w.delivers(7, 1, 3), w.delivers(8, 1, 2)
	stray, data := object(600, "never delivered")
	if err := w.client(0, "agent").Put(t.Context(), stray, data); err != nil {
		t.Fatal(err)
	}
	try := func(what, why string, names []shard.Name, change func(*order.Content)) {
		t.Helper()
		content, list := removalOf(t, 7, names)
		if change != nil {
			change(&content)
		}
		_, rec := w.given(w.drafted(charter.ActErase, content), [][]byte{list}, "mari", "jaan")
		_, err := w.client(0, "agent").PutOrder(t.Context(), rec, list)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", what, err)
		}
	}
	try("another register's", "never delivered", other, nil)
	try("never delivered", "never delivered", []shard.Name{stray}, nil)
	try("fewer bytes", "the order speaks of", mine, func(c *order.Content) { c.Lists[0].Bytes-- })
	try("another count", "objects, the order speaks of", mine, func(c *order.Content) { c.Lists[0].Count++ })
	// Objects that were delivered for another register before stay; what is said of them later by whoever has the
	// agent's key blocks nothing, but while that register is held.
	try("another register's, claimed later", "before", w.claims(7, 9, other), nil)
	w.claims(9, 1, mine)
	w.ordered(charter.ActHold, order.Content{Register: charter.RegisterID{9}, Label: "tax", Hold: "case-1"})
	w.over(1)
	try("also another's that is held", "too, which is held", mine[:1], nil)
	if w.held(mine) != 3 || len(w.state(0).orders.open()) != 0 {
		t.Errorf("%d are left", w.held(mine))
	}
	w.ordered(charter.ActLift, order.Content{Register: charter.RegisterID{9}, Label: "tax", Hold: "case-1"})
	w.over(2)
	content, list := removalOf(t, 7, mine[:1])
	w.ordered(charter.ActErase, content, list)
	if s := w.over(3); s.Status != "done" || w.held(mine) != 2 || w.held(other) != 2 {
		t.Errorf("after a false delivery: %+v, %d and %d are left", s, w.held(mine), w.held(other))
	}
	// A list that is not the one that was signed never gets in.
	content, _ = removalOf(t, 7, mine)
	_, wrong := removalOf(t, 7, mine[1:])
	_, rec := w.given(w.drafted(charter.ActErase, content), [][]byte{wrong}, "mari", "jaan")
	if _, err := w.client(0, "agent").PutOrder(t.Context(), rec, wrong); !errors.Is(err, ErrRefused) {
		t.Errorf("another list: %v", err)
	}
}

func TestACharterThatWaitsComesByAnOrderOnly(t *testing.T) {
	t.Parallel()
	w := state3(t, 3, cooling(charter.ActCharter, "0"))
	w.delivers(7, 1, 1)
	step := func(change func(*charter.Charter)) *charter.Charter {
		next := w.state(0).inForce().charter.Next()
		change(&next)
		return made(t, next)
	}
	direct := func(c *charter.Charter, people ...string) error {
		return w.client(0, "agent").PutCharter(t.Context(), c.Bytes(), signs(t, charter.Namespace, c.Bytes(), people...))
	}
	// From now on charters wait two seconds; this one does not yet.
	if err := direct(step(cooling(charter.ActCharter, "2s")), "mari", "jaan"); err != nil {
		t.Fatal(err)
	}
	next := step(func(c *charter.Charter) { c.Freshness = 100 })
	if err := direct(next, "mari", "jaan"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "order of kind charter") {
		t.Errorf("a charter that has to wait: %v", err)
	}
	sigs := signs(t, charter.Namespace, next.Bytes(), "mari", "jaan")
	content := order.Content{Number: next.Number, Hash: next.Hash()}
	s := w.ordered(charter.ActCharter, content, next.Bytes(), sigs)
	if s.Status != "waiting" || w.state(0).inForce().charter.Number == next.Number {
		t.Fatalf("%+v", s)
	}
	if s = w.over(s.Sequence); s.Status != "done" || w.state(0).inForce().charter.Hash() != next.Hash() {
		t.Errorf("%+v", s)
	}
	// Those who succeed wait longer, and those whom they pass over stop them.
	late := step(func(c *charter.Charter) { c.Freshness = 101 })
	if err := direct(late, "olev", "eva"); !errors.Is(err, ErrRefused) {
		t.Errorf("by succession, at once: %v", err)
	}
	files := [][]byte{late.Bytes(), signs(t, charter.Namespace, late.Bytes(), "olev", "eva", "mari")}
	draft := w.drafted(charter.ActCharter, order.Content{Number: late.Number, Hash: late.Hash()})
	draft.Proposer = "olev"
	_, rec := w.given(draft, files, "olev", "eva")
	s, err := w.client(0, "nobody").PutOrder(t.Context(), rec, files...)
	if err == nil {
		if wait := w.state(0).orders.waits(w.state(0).orders.bySequence(s.Sequence)); wait != 14*24*time.Hour {
			t.Errorf("a succession waits %v", wait)
		}
	} else if !errors.Is(err, ErrRefused) { // its own people have to sign it too, by the charter's rules
		t.Error(err)
	}
}

// register makes a register's record as an agent would.
func registerRecord(t *testing.T, st *state, sequence uint64, change func(*charter.Register)) (ledger.Slot, []byte) {
	t.Helper()
	r := charter.Register{
		Version: 1, ID: charter.RegisterID{7}, State: st.id, Sequence: sequence, Epoch: 1, K: 1,
		PublicKey: seeded(charter.OpeningKeySize, "register"), Members: []charter.EmbassyID{{1}},
		Sealed: []byte("sealed"), Time: int64(sequence),
	}
	if change != nil {
		change(&r)
	}
	if err := r.Sign(keyOf("agent")); err != nil {
		t.Fatal(err)
	}
	data, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Slot{Kind: ledger.Register, Register: r.ID, Sequence: sequence}, data
}

func TestKeysAndReadersOfARegisterChangeByAnOrderOnly(t *testing.T) {
	t.Parallel()
	w := state3(t, 1, nil)
	put := func(slot ledger.Slot, data []byte) error {
		return w.client(0, "agent").PutRecord(t.Context(), slot, data)
	}
	if err := put(registerRecord(t, w.state(0), 1, nil)); err != nil {
		t.Fatal(err)
	}
	if err := put(registerRecord(t, w.state(0), 2, func(r *charter.Register) { r.Time = 99 })); err != nil {
		t.Errorf("nothing of its keys: %v", err)
	}
	for what, change := range map[string]func(*charter.Register){
		"a key":    func(r *charter.Register) { r.PublicKey = seeded(charter.OpeningKeySize, "thief") },
		"an epoch": func(r *charter.Register) { r.Epoch = 2 },
		"secrets":  func(r *charter.Register) { r.Sealed = []byte("other") },
		"a reader": func(r *charter.Register) { r.Grants = []charter.Grant{{Recipient: [32]byte{1}, Sealed: []byte("x")}} },
	} {
		if err := put(registerRecord(t, w.state(0), 3, change)); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	slot, data := registerRecord(t, w.state(0), 3, func(r *charter.Register) { r.Grants = []charter.Grant{{Recipient: [32]byte{1}, Sealed: []byte("x")}} })
	content := order.Content{Register: charter.RegisterID{7}, Label: "land", Recipient: [32]byte{1}, Record: sha256.Sum256(data)}
	if s := w.over(w.ordered(charter.ActGrant, content).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	_, other := registerRecord(t, w.state(0), 3, func(r *charter.Register) { r.Grants = []charter.Grant{{Recipient: [32]byte{1}, Sealed: []byte("y")}} })
	if err := put(slot, other); !errors.Is(err, ErrRefused) {
		t.Errorf("another record than the order names: %v", err)
	}
	if err := put(slot, data); err != nil {
		t.Errorf("the one that it names: %v", err)
	}
	// A record that gives the key to more than the reader whom people read in the order is not taken, although they signed its hash.
	slot, data = registerRecord(t, w.state(0), 4, func(r *charter.Register) {
		r.Grants = []charter.Grant{{Recipient: [32]byte{1}, Sealed: []byte("x")}, {Recipient: [32]byte{2}, Sealed: []byte("x")}, {Recipient: [32]byte{3}, Sealed: []byte("x")}}
	})
	content = order.Content{Register: charter.RegisterID{7}, Label: "land", Recipient: [32]byte{2}, Record: sha256.Sum256(data)}
	if s := w.over(w.ordered(charter.ActGrant, content).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	if err := put(slot, data); !errors.Is(err, ErrRefused) {
		t.Errorf("one that also grants it to somebody else: %v", err)
	}
	slot, data = registerRecord(t, w.state(0), 4, func(r *charter.Register) { r.Epoch = 2 })
	content = order.Content{Generation: 1, Records: []order.RecordRef{{Register: charter.RegisterID{7}, Hash: sha256.Sum256(data)}}}
	if err := put(slot, data); !errors.Is(err, ErrRefused) {
		t.Errorf("before the order: %v", err)
	}
	if s := w.over(w.ordered(charter.ActRotate, content).Sequence); s.Status != "done" {
		t.Fatalf("%+v", s)
	}
	if err := put(slot, data); err != nil {
		t.Errorf("after the order: %v", err)
	}
}
