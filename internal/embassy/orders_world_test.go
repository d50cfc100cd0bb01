package embassy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/shard"
)

// state3 is a world whose charter says who decides: mari, jaan and anna, of whom two order, and olev and eva, of whom
// each may stop what waits and who together succeed.
func state3(t testing.TB, n int, change func(*charter.Charter)) *world {
	t.Helper()
	one := sampleCharter(t, "one")
	c := one.Upgraded()
	person := func(name string) charter.Person {
		key, err := charter.SSHPublicKey(publicOf(keyOf(name)))
		if err != nil {
			t.Fatal(err)
		}
		return charter.Person{Name: name, Office: "office of " + name, From: "2020-01-01", Keys: []string{key}}
	}
	for _, name := range []string{"jaan", "anna", "olev", "eva"} {
		c.People = append(c.People, person(name))
	}
	c.Roles = append(c.Roles,
		charter.Role{Name: "council", People: []string{"mari", "jaan", "anna"}},
		charter.Role{Name: "elder", People: []string{"olev", "eva"}})
	for i := range c.Acts {
		c.Acts[i].Role, c.Acts[i].Need, c.Acts[i].Veto = "council", 2, "elder"
	}
	for _, act := range []charter.ActName{
		charter.ActErase, charter.ActRelease, charter.ActHold, charter.ActLift, charter.ActSuspend,
		charter.ActRestore, charter.ActGrant, charter.ActRotate,
	} {
		c.Acts = append(c.Acts, charter.Act{Act: act, Role: "council", Need: 2, Cooling: "0", Valid: "30d", Touch: "no", Veto: "elder"})
	}
	c.Succession = charter.Succession{Role: "elder", Need: 2, After: "14d", StoppedBy: "council"}
	if change != nil {
		change(&c)
	}
	return newWorldOf(t, n, made(t, c), nil, "mari", "jaan")
}

func cooling(act charter.ActName, span charter.Span) func(*charter.Charter) {
	return func(c *charter.Charter) {
		for i := range c.Acts {
			if c.Acts[i].Act == act {
				c.Acts[i].Cooling = span
			}
		}
	}
}

// keyName is whose key a person of the world signs with.
func keyName(person string) string {
	if person == "mari" {
		return "signer"
	}
	return person
}

// sign is the signatures of people over a document.
func signs(t testing.TB, namespace string, doc []byte, people ...string) (all []byte) {
	t.Helper()
	for _, p := range people {
		sig, err := charter.SignIn(namespace, doc, keyOf(keyName(p)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sig...)
	}
	return all
}

// drafted is an order for embassy 0, made now.
func (w *world) drafted(kind charter.ActName, content order.Content) order.Order {
	now := time.Now().UTC().Truncate(time.Second)
	c := w.state(0).inForce().charter
	return order.Order{
		Kind: kind, State: c.State.ID, Charter: c.Number, CharterHash: c.Hash(), Embassies: []string{hosts[0].name},
		Proposer: "mari", Created: now.Add(-time.Minute), Expires: now.Add(24 * time.Hour),
		Nonce: [16]byte(seeded(16, "nonce", kind, time.Now().UnixNano())), Reason: "a test", Content: content,
	}
}

// given is an order, written, with the record of it that people signed.
func (w *world) given(o order.Order, attachments [][]byte, people ...string) (*order.Order, []byte) {
	w.t.Helper()
	made, err := order.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return made, w.record(made.Bytes(), order.Namespace, attachments, people...)
}

func (w *world) record(doc []byte, namespace string, attachments [][]byte, people ...string) []byte {
	w.t.Helper()
	var hashes [][32]byte
	for _, a := range attachments {
		hashes = append(hashes, sha256.Sum256(a))
	}
	data, err := order.NewRecord(doc, signs(w.t, namespace, doc, people...), hashes...).Bytes()
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// ordered brings an order of two people to embassy 0, as a stranger, and returns how it stands.
func (w *world) ordered(kind charter.ActName, content order.Content, attachments ...[]byte) OrderStatus {
	w.t.Helper()
	_, rec := w.given(w.drafted(kind, content), attachments, "mari", "jaan")
	status, err := w.client(0, "nobody at all").PutOrder(w.t.Context(), rec, attachments...)
	if err != nil {
		w.t.Fatalf("%s: %v", kind, err)
	}
	return status
}

// veto brings a veto of an order, as a stranger, by name and as signer signs it.
func (w *world) veto(ctx context.Context, ordered, name, signer string) error {
	w.t.Helper()
	hash, err := charter.ParseDigest(ordered)
	if err != nil {
		w.t.Fatal(err)
	}
	v := order.Veto{Order: hash, Name: name, Reason: "not so", Time: time.Now().UTC().Truncate(time.Second)}
	doc, err := v.Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.client(0, "nobody").PutVeto(ctx, ordered, w.record(doc, order.VetoNamespace, nil, signer))
	return err
}

// over waits until an order at embassy 0 is over, and returns how it ended.
func (w *world) over(sequence uint64) OrderStatus {
	w.t.Helper()
	var s OrderStatus
	c := w.client(0, "agent")
	x := w.state(0).orders.bySequence(sequence)
	for i := 0; i < 100; i++ {
		if x = w.state(0).orders.bySequence(sequence); x != nil && w.state(0).orders.standing(x).Status.Over() {
			break
		}
		w.store(0, 1, "time goes by", sequence, time.Now().UnixNano()) // a tree that grows is cosigned at once
		time.Sleep(200 * time.Millisecond)
	}
	until(w.t, "the order is over", func() bool {
		if x == nil {
			x = w.state(0).orders.bySequence(sequence)
			return false
		}
		s = w.state(0).orders.show(x, false)
		return w.state(0).orders.standing(x).Status.Over()
	})
	_ = c
	return s
}

// delivers stores n objects of a register at embassy 0, and the agent's delivery of them.
func (w *world) delivers(register byte, head uint64, n int) []shard.Name {
	w.t.Helper()
	agent, ctx := w.client(0, "agent"), w.t.Context()
	var names []shard.Name
	for i := range n {
		name, data := object(600, "delivered", register, head, i)
		if err := agent.Put(ctx, name, data); err != nil {
			w.t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b shard.Name) int { return bytes.Compare(a[:], b[:]) })
	return w.claims(register, head, names)
}

// claims has the agent deliver objects for a register, whether or not they are that register's.
func (w *world) claims(register byte, head uint64, names []shard.Name) []shard.Name {
	w.t.Helper()
	slot, data := w.delivery(register, head, names)
	if err := w.client(0, "agent").PutRecord(w.t.Context(), slot, data); err != nil {
		w.t.Fatal(err)
	}
	return names
}

// delivery is a delivery to embassy 0 that the agent signed.
func (w *world) delivery(register byte, head uint64, names []shard.Name) (ledger.Slot, []byte) {
	w.t.Helper()
	d := ledger.NewDelivery()
	d.State, d.Register, d.Head, d.Parts = [16]byte(w.ch.State.ID), [16]byte{register}, head, 1
	d.Embassy, d.Salt = [16]byte(w.ch.Embassies[0].ID), [32]byte(seeded(32, "salt", register, head))
	for _, name := range names {
		d.Objects = append(d.Objects, name)
	}
	if err := d.Sign(keyOf("agent")); err != nil {
		w.t.Fatal(err)
	}
	data, err := d.Bytes()
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Slot(), data
}

// removal is the content of an order to remove names of a register, and its list.
func removalOf(t testing.TB, register byte, names []shard.Name, snapshots ...uint64) (order.Content, []byte) {
	t.Helper()
	list := make(ledger.ObjectList, len(names))
	for i, n := range names {
		list[i] = n
	}
	data, err := list.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return order.Content{
		Register: charter.RegisterID{register}, Label: "land", Snapshots: snapshots,
		Lists: []order.List{{Embassy: hosts[0].name, Hash: sha256.Sum256(data), Count: uint64(len(names)), Bytes: uint64(600 * len(names))}},
	}, data
}

func (w *world) held(names []shard.Name) int {
	w.t.Helper()
	missing, err := w.client(0, "agent").Missing(context.Background(), names)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(names) - len(missing)
}
