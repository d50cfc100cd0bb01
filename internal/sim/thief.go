package sim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// The thief owns home: every file, every agent's key, all orders that ever went through it, and its clock. With them is
// one disloyal representative, eva, who signs whatever she is asked to, with two keys, and keeps what others signed. Two
// embassies take orders as package order says. After every step everything that was removed is held against who really
// signed what, which the embassies do not know.

// thiefOff switches defences off, for the controls.
type thiefOff struct {
	noQuorum, countSignatures, noExpiry, noBook, noAim, noList, noVeto, anyVeto, noCooling, ownClock, noHold bool
}

// What must hold after every step.
const (
	byQuorum  = "nothing is removed without two people who meant it"
	inTime    = "nothing is removed by an order that came too late"
	onceOnly  = "an order has effect once"
	asListed  = "an order removes what it lists, where it is for"
	hasWaited = "nothing is removed before witnesses saw the order wait"
	wasFree   = "nothing is removed that was stopped or is held"
	nothing   = "what nobody let go of is there"
	obeyed    = "what a quorum ordered is done"
)

// Times of this world.
const (
	cooling    = 3 * time.Hour
	thiefValid = 48 * time.Hour
	thiefSteps = 60
)

// intent is what really happened around an order, by its hash.
type intent struct {
	order     *order.Order
	list      []byte
	names     [][32]byte
	signed    map[string]bool // people who meant it
	deceived  bool            // one of them was tricked, and an elder will stop it
	withdrawn bool            // never handed in by those who signed it: the thief has it
	given     bool            // handed in where it belongs
}

// happened is one entry of an embassy's ledger.
type happened struct {
	what string // order, veto, removal, seen
	at   time.Time
	hash [32]byte // of the order
	name [32]byte // of the object
	by   string   // of a veto
}

type thiefWorld struct {
	rng     *rand.Rand
	off     thiefOff
	now     time.Time
	charter *charter.Charter
	vaults  []*vault
	intents map[[32]byte]*intent
	handed  [][3][]byte // records, lists and vetoes that went through home: record, list
	count   uint64
	tally   *ThiefTally
}

// ThiefTally counts what seeds reached.
type ThiefTally struct {
	Seeds, Orders, Removed, Refused, Vetoes, Held, Replays, Aimed, Forged, Late, Deceived, Twice, Restored int
}

var thiefRegister = charter.RegisterID{7}

func thiefCharter() (*charter.Charter, error) {
	draft, err := draftCharter(2, "")
	if err != nil {
		return nil, err
	}
	c := draft.Upgraded()
	person := func(name string, keys ...string) charter.Person {
		p := charter.Person{Name: name, Office: "office of " + name, From: "2020-01-01"}
		for _, k := range keys {
			text, kerr := charter.SSHPublicKey(publicOf(k))
			err = errors.Join(err, kerr)
			p.Keys = append(p.Keys, text)
		}
		return p
	}
	c.People = []charter.Person{person("mari", "mari-ssh"), person("jaan", "jaan-ssh"), person("eva", "eva-ssh", "eva-second"), person("olev", "olev-ssh")}
	c.Roles = []charter.Role{{Name: "representative", People: []string{"mari", "jaan", "eva"}}, {Name: "elder", People: []string{"olev"}}}
	c.Acts = nil
	for _, k := range order.Kinds() {
		a := charter.Act{Act: k.Name, Role: "representative", Need: 2, Cooling: "0", Valid: "48h", Touch: "no", Veto: "elder"}
		if k.Destroys {
			a.Cooling = "3h"
		}
		c.Acts = append(c.Acts, a)
	}
	if err != nil {
		return nil, err
	}
	return charter.New(c)
}

// RunThief runs one seed and returns the promise that was broken, with the step, or nil.
func RunThief(seed uint64, tally *ThiefTally) error { return runThief(seed, thiefOff{}, tally) }

func runThief(seed uint64, off thiefOff, tally *ThiefTally) error {
	tally.Seeds++
	c, err := thiefCharter()
	if err != nil {
		return err
	}
	w := &thiefWorld{
		rng: rand.New(rand.NewPCG(seed, 8)), off: off, now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), charter: c,
		intents: map[[32]byte]*intent{}, tally: tally,
	}
	for _, e := range c.Embassies {
		v := &vault{name: e.Name, w: w, held: map[[32]byte]bool{}, book: order.Book{}, holds: map[string]bool{}}
		for i := range 24 {
			v.held[sha256.Sum256(fmt.Append(nil, "object", i))] = true
		}
		w.vaults = append(w.vaults, v)
	}
	for step := range thiefSteps {
		what, err := w.step()
		if err == nil {
			err = w.verify()
		}
		if err != nil {
			return fmt.Errorf("seed %d: step %d (%s): %w", seed, step, what, err)
		}
	}
	for range 30 { // whoever was given an order gets the time to obey
		w.pass()
		if err := w.verify(); err != nil {
			return fmt.Errorf("seed %d: at the end: %w", seed, err)
		}
	}
	return w.liveness(seed)
}

// step is one act of the thief, of eva, or of honest people, and time that passes.
func (w *thiefWorld) step() (what string, err error) {
	acts := []struct {
		name string
		do   func() error
	}{
		{"honest order", w.honest},
		{"honest order", w.honest},
		{"kept back", w.keptBack},
		{"forge", w.forge},
		{"sign twice", w.twice},
		{"replay", w.replay},
		{"re-aim", w.aim},
		{"another list", w.relist},
		{"deceive", w.deceive},
		{"veto", w.evasVeto},
		{"suspend", w.suspend},
		{"restore", w.restock},
		{"hold", w.hold},
		{"clock", w.clocks},
		{"flood", w.flood},
	}
	a := acts[w.rng.IntN(len(acts))]
	if err := a.do(); err != nil {
		return a.name, err
	}
	w.pass()
	return a.name, nil
}

// pass lets time go by: embassies act, witnesses see, elders stop what somebody was tricked into. An elder looks within
// the hour.
func (w *thiefWorld) pass() {
	for _, v := range w.vaults {
		v.act()
	}
	w.now = w.now.Add(time.Duration(10+w.rng.IntN(40)) * time.Minute).Truncate(time.Second)
	for _, v := range w.vaults {
		if w.rng.IntN(4) > 0 {
			v.witnessed()
		}
		for _, k := range v.orders {
			if x := w.intents[k.order.Hash()]; x != nil && x.deceived && !k.stopped {
				v.veto(k, "olev", "olev-ssh")
			}
		}
		v.act()
	}
}

// draft is an order to let go of some objects at some embassies.
func (w *thiefWorld) draft(kind charter.ActName, names [][32]byte, embassies ...string) (*intent, error) {
	w.count++
	list := ledger.ObjectList(slices.Clone(names))
	slices.SortFunc(list, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	data, err := list.Bytes()
	if err != nil {
		return nil, err
	}
	o := order.Order{
		Kind: kind, State: w.charter.State.ID, Charter: w.charter.Number, CharterHash: w.charter.Hash(), Embassies: embassies,
		Proposer: "eva", Created: w.now, Expires: w.now.Add(thiefValid), Nonce: [16]byte{byte(w.count), byte(w.count >> 8), 1}, Reason: "It is over",
		Content: order.Content{Register: thiefRegister, Label: "land register"},
	}
	switch kind {
	case charter.ActRelease:
		for _, e := range embassies {
			o.Content.Lists = append(o.Content.Lists, order.List{Embassy: e, Hash: sha256.Sum256(data), Count: uint64(len(list)), Bytes: 100})
		}
	case charter.ActSuspend:
		o.Content = order.Content{Who: order.Who{Name: "mari"}}
	default:
		o.Content.Hold = "court"
	}
	written, err := order.New(o)
	if err != nil {
		return nil, err
	}
	return &intent{order: written, list: data, names: names, signed: map[string]bool{}}, nil
}

// sign has people sign, who mean it.
func (w *thiefWorld) sign(x *intent, people ...string) (sigs []byte, err error) {
	for _, p := range people {
		x.signed[p] = true
		sig, serr := charter.SignIn(order.Namespace, x.order.Bytes(), keyOf(p+"-ssh"))
		sigs, err = append(sigs, sig...), errors.Join(err, serr)
	}
	w.intents[x.order.Hash()] = x
	return sigs, err
}

// submit hands an order to embassies; they refuse what does not count.
func (w *thiefWorld) submit(doc, sigs, list []byte, to ...*vault) error {
	rec, err := order.NewRecord(doc, sigs).Bytes()
	if err != nil {
		return err
	}
	w.handed = append(w.handed, [3][]byte{rec, list})
	for _, v := range to {
		if err := v.take(rec, list); err != nil {
			w.tally.Refused++
		}
	}
	return nil
}

// some picks objects that all embassies hold and no order of honest people is about.
func (w *thiefWorld) some(n int) (names [][32]byte) {
	spoken := map[[32]byte]bool{}
	for _, x := range w.intents {
		for _, name := range x.names {
			spoken[name] = true
		}
	}
	for i := range 24 {
		name := sha256.Sum256(fmt.Append(nil, "object", i))
		if len(names) < n && !spoken[name] {
			names = append(names, name)
		}
	}
	return names
}
