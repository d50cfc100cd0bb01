package sim

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// red is a promise that was broken: what the simulation is there to find.
type red struct{ rule, what string }

func (r *red) Error() string { return r.rule + ": " + r.what }

func broken(rule, format string, a ...any) error { return &red{rule, fmt.Sprintf(format, a...)} }

// The promises.
const (
	oneHistory  = "two histories of one log are both enough"
	ownWord     = "an honest witness contradicts itself"
	kept        = "what an honest embassy acknowledged is not there"
	innocent    = "an honest party is blamed"
	caught      = "a lie that took effect is not found"
	notUnknown  = "what is not known was taken for good"
	freshness   = "a reader takes another state than the newest for fresh"
	countsRight = "the policy counts otherwise"
)

// tree is what a checkpoint is about. It is the truth's, so it needs no signature.
type tree struct {
	log  int
	size int64
	root tlog.Hash
}

// grown is a tree that its log signed, and what became of it.
type grown struct {
	tree
	book    book // its leaves
	raw     []byte
	members uint
	lines   [][]byte
	enough  bool
	since   time.Time
}

// held is a checkpoint that somebody keeps.
type held struct {
	from string
	raw  []byte
	tree tree
}

// says reads what a checkpoint says, whoever signed it: the simulation knows who did.
func says(raw []byte) (cp ledger.Checkpoint, err error) {
	lines := strings.SplitN(string(raw), "\n", 4)
	if len(lines) < 4 {
		return cp, errors.New("not a checkpoint")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return cp, err
	}
	root, err := tlog.ParseHash(lines[2])
	return ledger.Checkpoint{Origin: lines[0], Size: size, Root: root, Raw: raw}, err
}

// grow takes note of a tree that a log signs.
func (w *world) grow(h *host, t tree, b book) {
	if w.trees[t] == nil {
		w.trees[t] = &grown{tree: t, book: b}
		w.order[h.who] = append(w.order[h.who], w.trees[t])
	}
}

// contradicts tells whether no history has both trees.
func (g *grown) contradicts(o *grown) bool {
	if g.size > o.size {
		g, o = o, g
	}
	root, err := o.book.root(g.size)
	return err != nil || root != g.root
}

// cosigned takes note of every cosignature that leaves a witness, whoever gets it: an attacker may hold them all.
func (w *world) cosigned(x *watcher, log int, cp ledger.Checkpoint, lines []byte) error {
	g := w.trees[tree{log, int64(cp.Size), cp.Root}]
	if g == nil {
		return fmt.Errorf("%s cosigned what %d never signed", w.names[x.who], log)
	}
	if g.raw == nil {
		g.raw = cp.Raw
	}
	if before := w.trees[x.last[log]]; !x.faulty() && before != nil && (before.size > g.size || before.contradicts(g)) {
		return broken(ownWord, "%s: log %d at %d after %d", w.names[x.who], log, g.size, before.size)
	}
	x.last[log] = g.tree
	if g.members>>x.who&1 == 0 {
		g.members |= 1 << x.who
		g.lines = append(g.lines, lines)
	}
	if g.enough || !w.enough(w.groups[log], g.members) {
		return nil
	}
	g.enough, g.since = true, w.now
	raw, err := ledger.AddSignatures(g.raw, g.lines...)
	if err != nil {
		return err
	}
	if v, err := w.policy.Judge(raw, w.hosts[log].log); err != nil || !v.Enough && !w.off.policyTooWeak {
		return broken(countsRight, "log %d of %d: %v %v", log, g.size, v.Groups, err)
	}
	for _, o := range w.order[log] {
		if o.enough && w.lasts(o) && o.contradicts(g) {
			return broken(oneHistory, "log %d: %d and %d leaves", log, o.size, g.size)
		}
	}
	return nil
}

// lasts tells whether nothing can ever be enough beside a tree that is. Votes that were given before a disaster and
// forgotten in it make one of the liars of everyone who gave them, and so there may be more liars than the policy
// bears; but what was enough before was known to somebody who did not forget.
func (w *world) lasts(g *grown) bool { return !w.crowd || g.since.Before(w.crowdAt) }

// ack is what an embassy acknowledged to the agent.
type ack struct {
	host   int
	index  int64
	leaf   []byte
	object shard.Name // zero for a record
	data   []byte
}

// verify holds everything that honest embassies acknowledged against what they have. All of it is compared; one proof
// is recomputed at each step, and every one at the end.
func (w *world) verify(all bool) error {
	if len(w.acks) == 0 {
		return nil
	}
	chosen := w.rng.IntN(len(w.acks))
	for i := range w.acks {
		a := &w.acks[i]
		h := w.hosts[a.host]
		if h.forks {
			continue
		}
		b := &h.branches[0].book
		if h.store == honest && a.data != nil && !bytes.Equal(h.objects[a.object], a.data) {
			return broken(kept, "object %s at %d", a.object, a.host)
		}
		if a.index >= b.size() || !bytes.Equal(b.leaves[a.index], a.leaf) {
			return broken(kept, "leaf %d at %d", a.index, a.host)
		}
		if !all && i != chosen {
			continue
		}
		if err := h.proves(a.index, a.leaf); err != nil {
			return broken(kept, "leaf %d at %d: %v", a.index, a.host, err)
		}
	}
	return nil
}

// proves recomputes the proof of a leaf in the newest tree.
func (h *host) proves(index int64, leaf []byte) error {
	b := &h.branches[0].book
	root, err := b.root(b.size())
	if err != nil {
		return err
	}
	proof, err := tlog.ProveRecord(b.size(), index, b)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, b.size(), root, index, ledger.LeafHash(leaf))
}

// twoFaced tells whether a log has signed two trees that contradict each other.
func (w *world) twoFaced(log int) bool {
	list := w.order[log]
	for i, g := range list {
		for _, o := range list[:i] {
			if g.contradicts(o) {
				return true
			}
		}
	}
	return false
}

// guilty tells whether a party may be blamed: "embassy e0", "witness w1".
func (w *world) guilty(kind, name string) bool {
	for m, n := range w.names {
		switch {
		case n != name:
		case kind == "witness":
			return w.watchers[m].faulty()
		case kind == "embassy" && m < len(w.hosts):
			return w.hosts[m].lies()
		}
	}
	return kind == "agent" && w.denies
}
