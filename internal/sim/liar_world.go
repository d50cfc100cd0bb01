package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
	"chancery.dev/chancery/internal/witness"
)

// off names what is switched off. Each is a control: some seed must find out.
type off struct {
	noMasks            bool // shares are stored as they are
	noFreeze           bool // a witness cosigns as soon as it starts
	persistAfterAnswer bool // a witness answers before its disk has it
	noConsistencyCheck bool // a witness cosigns what does not continue what it saw
	policyTooWeak      bool // need is not more than (n+f)/2
	noAuditNonce       bool // challenges can be known before
	trustUnknown       bool // an audit without a result counts
	blameWithoutProof  bool // an auditor's word is enough
	noSightings        bool // a reader asks no witness
	noMemory           bool // an auditor knows no checkpoint but the one that it is shown
}

// liarSteps is how many steps a seed takes.
const liarSteps = 30

// world is a state, its embassies, its witnesses, everyone who checks, and everyone who lies. All of it follows from
// the seed.
type world struct {
	*cast
	off      off
	rng      *rand.Rand
	now      time.Time
	steps    int
	dir      string
	hosts    []*host
	watchers []*watcher
	mail     []letter
	trees    map[tree]*grown
	order    [][]*grown // the same, by log
	acks     []ack
	held     [][]held // by log: what readers, auditors and the agent keep
	docs     []evidence.Record
	packs    []*packed
	head     *snapshot.Head
	fresh    [][][32]byte // objects since the last snapshot, by embassy
	crowdAt  time.Time
	crowd    bool // folders of witnesses were put back; the network is good from then on
	denies   bool // the state lies about what it ordered
	tally    *Tally
}

// Tally counts what happened in the seeds, so that a test can see that it tests something.
type Tally struct {
	Seeds, Forks, Damaged, Liars, Crowds, Enough, Kills                 int
	Fresh, Stale, Refused, OK, Wrong, Missing, Late, Offline, Unknown   int
	Convicted, Broken, Held, Open, Regenerated, Predicted, Denied, Lost int
}

// letter is a message on its way.
type letter struct {
	log    int
	b      *branch
	member int
	size   int64
	req    *ledger.AddCheckpoint // to the member; nil for the answer
	lines  []byte
	old    int64 // the witness's size, where it is another than was thought; -1
}

// newWorld casts a seed's world.
func newWorld(seed uint64, dir string, o off, tally *Tally) (*world, error) {
	rng := rand.New(rand.NewPCG(seed, 0x11a5))
	c, err := casts[rng.IntN(len(casts))]()
	if err != nil {
		return nil, err
	}
	w := &world{
		cast: c, off: o, rng: rng, now: time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC), dir: dir,
		trees: map[tree]*grown{}, order: make([][]*grown, len(c.hosts)), held: make([][]held, len(c.hosts)),
		fresh: make([][][32]byte, len(c.hosts)), tally: tally,
	}
	for i := range c.hosts {
		w.hosts = append(w.hosts, w.newHost(i))
	}
	for m := range c.names {
		w.watchers = append(w.watchers, &watcher{w: w, who: m, dir: filepath.Join(dir, c.names[m]), last: map[int]tree{}})
	}
	w.corrupt()
	for _, h := range w.hosts {
		l := ledger.NewLeaf(ledger.CharterTaken, w.charter.State.ID)
		l.Name, l.Size, l.Slot = w.charter.Hash(), uint64(len(w.charter.Bytes())), ledger.Slot{Kind: ledger.Charter, Sequence: 1}
		if _, err := h.append(h.branches[0], &l); err != nil {
			return nil, err
		}
	}
	for _, x := range w.watchers {
		if err := x.start(); err != nil {
			return nil, err
		}
	}
	for _, x := range w.watchers {
		for i := range w.hosts {
			if err := x.rouse(i, true); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// corrupt picks who lies: members of at most as many groups as the policy allows.
func (w *world) corrupt() {
	w.denies = w.rng.IntN(4) == 0
	bad := map[int]bool{}
	for range w.policy.Faulty {
		bad[w.rng.IntN(len(w.policy.Groups))] = w.rng.IntN(8) > 0
	}
	for m, g := range w.groups {
		if !bad[g] {
			continue
		}
		w.tally.Liars++
		w.watchers[m].lie = w.rng.IntN(watchLies)
		if m < len(w.hosts) {
			h := w.hosts[m]
			h.forks = w.rng.IntN(5) < 3
			if h.sides = uint(w.rng.Uint64()); w.rng.IntN(2) == 0 {
				h.sides &^= 1<<len(w.names) - 1
				spared := w.rng.IntN(len(w.policy.Groups))
				for m, g := range w.groups {
					if g == spared {
						h.sides |= 1 << m
					}
				}
			}
			if h.store = w.rng.IntN(storeLies); w.rng.IntN(2) == 0 {
				h.store = honest
			}
		}
	}
}

// RunLiar runs one seed in an empty folder and returns the promise that was broken, with the step, or nil.
func RunLiar(seed uint64, dir string, tally *Tally) error { return runLiar(seed, dir, off{}, tally) }

func runLiar(seed uint64, dir string, o off, tally *Tally) error {
	tally.Seeds++
	w, err := newWorld(seed, dir, o, tally)
	if err != nil {
		return fmt.Errorf("seed %d: begin: %w", seed, err)
	}
	for ; w.steps < liarSteps; w.steps++ {
		what, err := w.act()
		if err == nil {
			err = w.verify(false)
		}
		if err != nil {
			return fmt.Errorf("seed %d: step %d (%s): %w", seed, w.steps, what, err)
		}
	}
	if err := w.assize(); err != nil {
		return fmt.Errorf("seed %d: at the end: %w", seed, err)
	}
	return nil
}

// act takes one step.
func (w *world) act() (what string, err error) {
	w.now = w.now.Add(time.Duration(1+w.rng.IntN(120)) * time.Second)
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	x := w.watchers[w.rng.IntN(len(w.watchers))]
	switch n := w.rng.IntN(100); {
	case n < 18:
		return "store", w.store()
	case n < 23:
		return "snapshot", w.snapshot()
	case n < 45:
		return "publish", w.publish(h, h.branches[w.rng.IntN(len(h.branches))])
	case n < 71:
		return "deliver", w.deliver(1 + w.rng.IntN(6))
	case n < 75:
		return "read", w.read(h)
	case n < 79:
		return "audit", w.auditNow(h, w.rng.IntN(6) == 0)
	case n < 80:
		return "verify log", w.verifyLog(h)
	case n < 82:
		w.tally.Kills++
		return "kill", x.start()
	case n < 88:
		return "rouse", x.rouse(w.rng.IntN(len(w.hosts)), w.crowd)
	case n < 90:
		w.now = w.now.Add(time.Duration(w.rng.IntN(30)) * time.Hour)
		return "wait", nil
	case n < 93:
		return "disaster", w.disaster()
	default:
		return "lie", w.lie()
	}
}

// lie has one of the liars do something.
func (w *world) lie() error {
	var liars []*host
	for _, h := range w.hosts {
		if h.lies() {
			liars = append(liars, h)
		}
	}
	if len(liars) == 0 {
		return nil
	}
	h := liars[w.rng.IntN(len(liars))]
	switch {
	case h.forks && !h.forked && w.rng.IntN(3) == 0:
		w.tally.Forks++
		return h.fork()
	case h.forks && !h.forked: // it gets the first history cosigned while it prepares the second
		if err := w.publish(h, h.branches[0]); err != nil {
			return err
		}
		return w.deliver(8)
	case h.forked && w.rng.IntN(2) == 0:
		return h.junk(h.branches[w.rng.IntN(2)])
	case h.store != honest:
		w.tally.Damaged++
		return h.damage()
	}
	return nil
}

// disaster remembers the folders of witnesses, and later puts some back: so few that somebody honest in each set of
// those that are needed still knows.
func (w *world) disaster() error {
	if w.crowd {
		return nil
	}
	if w.watchers[0].past == nil {
		for _, x := range w.watchers {
			if err := x.save(); err != nil {
				return err
			}
		}
		return nil
	}
	bad := map[int]bool{}
	for m, x := range w.watchers {
		if x.faulty() || m < len(w.hosts) && w.hosts[m].lies() {
			bad[w.groups[m]] = true
		}
	}
	w.crowd, w.crowdAt = true, w.now
	w.tally.Crowds++
	for _, m := range w.rng.Perm(len(w.watchers)) {
		if g := w.groups[m]; !bad[g] && len(bad) < w.policy.Need-1 {
			bad[g] = true
			if w.rng.IntN(2) == 0 {
				w.watchers[m].past = map[string][]byte{} // a new disk
			}
			if err := w.watchers[m].restore(); err != nil {
				return err
			}
		}
	}
	for _, x := range w.watchers {
		for i := range w.hosts {
			if !x.putBack {
				continue
			}
			if err := x.rouse(i, true); err != nil {
				return err
			}
		}
	}
	for _, h := range w.hosts { // who planned to fork will not wait
		if h.forks && !h.forked {
			w.tally.Forks++
			if err := h.fork(); err != nil {
				return err
			}
			if err := w.publish(h, h.branches[1]); err != nil {
				return err
			}
		}
	}
	return w.deliver(12)
}

// publish has a log ask witnesses to cosign its newest tree.
func (w *world) publish(h *host, b *branch) error {
	if size := b.book.size(); b.note == nil || size > b.size {
		raw, err := h.checkpoint(b, size)
		if err != nil {
			return err
		}
		b.note, b.size, b.members, b.at = raw, size, 0, w.now
	}
	if w.now.Sub(b.at) > 20*time.Hour {
		b.members, b.at = 0, w.now
	}
	for m := range w.names {
		mine := h.side(m) == b || w.rng.IntN(4) == 0
		if h.forks && !h.forked && h.sides>>m&1 == 1 {
			mine = w.rng.IntN(20) == 0 // who is to believe the second history had better not know the first
		}
		if m == h.who || !mine || w.rng.IntN(4) == 0 {
			continue
		}
		if b.members>>m&1 == 1 && w.rng.IntN(5) > 0 && w.now.Sub(b.at) < time.Hour {
			continue // it has, and lately
		}
		if err := w.send(h, b, m); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) send(h *host, b *branch, m int) error {
	raw, err := h.checkpoint(b, b.size)
	if err != nil {
		return err
	}
	req := &ledger.AddCheckpoint{Old: uint64(min(b.believed[m], b.size)), Checkpoint: raw}
	if req.Proof, err = b.book.join(int64(req.Old), b.size); err != nil {
		return err
	}
	w.mail = append(w.mail, letter{log: h.who, b: b, member: m, size: b.size, req: req})
	return nil
}

// deliver lets the network hand over letters in any order; it loses some, and hands over some twice.
func (w *world) deliver(n int) error {
	for ; n > 0 && len(w.mail) > 0; n-- {
		i := w.rng.IntN(len(w.mail))
		l := w.mail[i]
		if w.rng.IntN(10) > 0 {
			w.mail[i] = w.mail[len(w.mail)-1]
			w.mail = w.mail[:len(w.mail)-1]
		}
		if w.rng.IntN(12) == 0 {
			continue
		}
		if err := w.hand(l); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) hand(l letter) error {
	h, x := w.hosts[l.log], w.watchers[l.member]
	if l.req == nil {
		return w.answered(h, l)
	}
	answer := letter{log: l.log, b: l.b, member: l.member, size: l.size, old: -1}
	killed := w.rng.IntN(40) == 0
	var err error
	answer.lines, err = x.add(l.log, l.req, killed)
	var old *witness.OldSize
	switch {
	case err == nil:
	case errors.As(err, &old):
		answer.old = int64(old.Size)
	case !h.forks && !x.faulty() && (errors.Is(err, witness.ErrForked) || errors.Is(err, witness.ErrProof)):
		return broken(innocent, "%s refuses log %d: %v", w.names[x.who], l.log, err)
	case errors.Is(err, witness.ErrFrozen), errors.Is(err, witness.ErrForked), errors.Is(err, witness.ErrProof), errors.Is(err, witness.ErrInvalid):
		return nil
	default:
		return err
	}
	w.mail = append(w.mail, answer)
	return nil
}

// answered is the log's side of an answer: it keeps cosignatures that verify.
func (w *world) answered(h *host, l letter) error {
	b := l.b
	if l.old >= 0 {
		b.believed[l.member] = l.old
		if l.old > b.size || w.rng.IntN(3) == 0 {
			return nil
		}
		return w.send(h, b, l.member)
	}
	if l.size != b.size || l.lines == nil {
		return nil
	}
	raw, err := ledger.AddSignatures(b.note, l.lines)
	if err != nil {
		return err
	}
	if w.watchers[l.member].lie == replays { // others send what they signed
		cp, err := says(raw)
		if err != nil {
			return err
		}
		if found, err := ledger.Cosignatures(cp, []ledger.WitnessKey{w.cosigners[l.member].Key()}); err != nil || len(found) == 0 {
			return nil // a cosignature of something else
		}
	}
	b.note, b.members = raw, b.members|1<<l.member
	b.believed[l.member] = max(b.believed[l.member], b.size)
	if w.enough(w.groups[h.who], b.members) {
		if b.covers < b.size {
			w.tally.Enough++
		}
		b.cosigned, b.covers = raw, b.size
	}
	return nil
}

// meet is somebody keeping a checkpoint that a log showed: it must be one of the log's.
func (w *world) meet(from string, h *host, raw []byte) error {
	cp, err := says(raw)
	if err != nil {
		return err
	}
	t := tree{h.who, int64(cp.Size), cp.Root}
	w.held[h.who] = append(w.held[h.who], held{from, raw, t})
	if h.forks {
		return nil
	}
	for _, o := range w.held[h.who] { // an honest log's are always of one history
		if w.trees[t].contradicts(w.trees[o.tree]) {
			return broken(innocent, "log %d at %d and %d", h.who, o.tree.size, t.size)
		}
	}
	return nil
}

// parties beside the members, for whom a liar has a side too.
func (w *world) auditorSide() int { return len(w.names) }
func (w *world) agentSide() int   { return len(w.names) + 1 }
func (w *world) readerSide() int  { return len(w.names) + 2 + w.rng.IntN(4) }

// hash is a number that follows from two others.
func (w *world) hash(a, b int) int { return int(rand.NewPCG(uint64(a), uint64(b)).Uint64() >> 40) }
