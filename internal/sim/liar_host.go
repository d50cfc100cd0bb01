package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// What an embassy does to objects, and how it answers.
const (
	honest = iota
	flips
	drops
	swaps
	truncates
	regenerates // holds nothing, and computes shares from those of others when asked
	predicts    // holds only what it expects to be asked for
	withholds   // gives nothing to readers
	slow        // answers audits after the deadline
	endless     // sends without end
	silent      // answers no audit
	storeLies
)

// branch is one history that a log shows.
type branch struct {
	book     book
	signed   map[int64][]byte // checkpoints by size, without cosignatures
	note     []byte           // the newest published, with the cosignatures that came back
	size     int64            // of note
	members  uint             // whose cosignatures are in note
	at       time.Time        // when it was published
	cosigned []byte           // the newest that was enough
	covers   int64            // its size
	judged   []byte           // what since and enough are of
	since    time.Time
	enough   bool
	believed []int64 // how far each member cosigned, as far as the log knows
}

// host is an embassy's ledger and objects. An honest one has one branch for ever.
type host struct {
	hostKeys
	w        *world
	who      int // as a member
	branches []*branch
	sides    uint // bit m: member m is shown the second branch
	objects  map[shard.Name][]byte
	packs    map[shard.Name]*packed
	forks    bool // lies about its history
	store    int  // lies about objects
	forked   bool // it has signed two histories, or may have
	seq      uint64
}

// packed is what the agent gave out as one pack.
type packed struct {
	id     [16]byte
	sealed []byte
	k      int
	names  []shard.Name // by embassy; zero where it was not acknowledged
	sent   [][]byte
}

func (h *host) lies() bool { return h.forks || h.store != honest }

func (w *world) newHost(i int) *host {
	h := &host{hostKeys: w.cast.hosts[i], w: w, who: i, objects: map[shard.Name][]byte{}, packs: map[shard.Name]*packed{}}
	h.branches = []*branch{{signed: map[int64][]byte{}, believed: make([]int64, len(w.names))}}
	return h
}

// side is the branch that a member is shown; readers and agents are numbered after the members.
func (h *host) side(party int) *branch {
	if len(h.branches) > 1 && h.sides>>party&1 == 1 {
		return h.branches[1]
	}
	return h.branches[0]
}

// append puts a leaf into one history.
func (h *host) append(b *branch, l *ledger.Leaf) (int64, error) {
	l.Time, l.Actor = h.w.now.UnixNano(), [32]byte(h.w.agent[32:])
	data, err := l.Bytes()
	if err != nil {
		return 0, err
	}
	return b.book.add(data)
}

// checkpoint signs the tree of a branch's first size leaves, once.
func (h *host) checkpoint(b *branch, size int64) ([]byte, error) {
	if raw := b.signed[size]; raw != nil {
		return raw, nil
	}
	root, err := b.book.root(size)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", h.log.Origin, size, base64.StdEncoding.EncodeToString(root[:]))
	raw, err := note.Sign(&note.Note{Text: text}, h.signer)
	if err != nil {
		return nil, err
	}
	b.signed[size] = raw
	h.w.grow(h, tree{h.who, size, root}, b.book.until(size))
	return raw, nil
}

// receipt proves a leaf in the newest tree of a branch.
func (h *host) receipt(b *branch, at int64) (*ledger.Receipt, error) {
	raw, err := h.checkpoint(b, b.book.size())
	if err != nil {
		return nil, err
	}
	proof, err := b.book.path(at, b.book.size())
	return &ledger.Receipt{Leaf: b.book.leaves[at], Index: uint64(at), Proof: proof, Checkpoint: raw}, err
}

// put stores an object and its leaf, in the branch that the agent is shown.
func (h *host) put(b *branch, name shard.Name, data []byte) (int64, error) {
	h.objects[name] = bytes.Clone(data)
	l := ledger.NewLeaf(ledger.ObjectStored, h.w.charter.State.ID)
	l.Name, l.Size = name, uint64(len(data))
	return h.append(b, &l)
}

func (h *host) putRecord(b *branch, slot ledger.Slot, data []byte) (int64, error) {
	l := ledger.NewLeaf(ledger.RecordStored, h.w.charter.State.ID)
	l.Name, l.Size, l.Slot = sha256.Sum256(data), uint64(len(data)), slot
	return h.append(b, &l)
}

// junk makes a branch differ from every other.
func (h *host) junk(b *branch) error {
	h.seq++
	data := fmt.Appendf(nil, "junk %d of %d", h.seq, h.who)
	_, err := h.put(b, shard.Root(data), data)
	return err
}

// holds tells whether an object is there as it was stored.
func (h *host) holds(name shard.Name) bool {
	data, ok := h.objects[name]
	return ok && shard.Root(data) == name
}

// lacks counts the objects among a branch's first size leaves that are not there as they were stored.
func (h *host) lacks(b *branch, size int64) (lost, all int) {
	for _, data := range b.book.leaves[:size] {
		l, err := ledger.ParseLeaf(data)
		if err != nil || l.Kind != ledger.ObjectStored {
			continue
		}
		all++
		if !h.holds(l.Name) {
			lost++
		}
	}
	return lost, all
}

// answers is the audit.Source of a branch.
type answers struct {
	h     *host
	b     *branch
	asked map[shard.Name]bool
}

// Entry is audit.Source.
func (s *answers) Entry(i uint64) ([]byte, error) {
	if int64(i) >= s.b.book.size() {
		return nil, errors.New("beyond the ledger")
	}
	return s.b.book.leaves[i], nil
}

// Inclusion is audit.Source.
func (s *answers) Inclusion(i, size uint64) ([][32]byte, error) {
	if int64(size) > s.b.book.size() {
		return nil, errors.New("beyond the ledger")
	}
	return s.b.book.path(int64(i), int64(size))
}

// Leaf is audit.Source. Objects of this world have one leaf.
func (s *answers) Leaf(name shard.Name, _ uint64, leaf int) ([]byte, [][32]byte, error) {
	if s.asked != nil {
		s.asked[name] = true
	}
	data, ok := s.h.objects[name]
	if !ok && s.h.store == regenerates {
		data, ok = s.h.regenerate(name)
	}
	if !ok {
		return nil, nil, fs.ErrNotExist
	}
	return data, audit.Path(shard.LeafHashes(nil, data), leaf), nil
}

// Removed is audit.Source. Nothing is removed in this world.
func (s *answers) Removed(shard.Name, uint64) (*audit.Removal, error) { return nil, nil }

// regenerate computes a share that the embassy threw away from those of all others, who collude.
func (h *host) regenerate(name shard.Name) ([]byte, bool) {
	p := h.packs[name]
	if p == nil {
		return nil, false
	}
	coder, err := shard.NewCoder(p.k, len(p.names))
	if err != nil {
		return nil, false
	}
	shares, have := make([][]byte, len(p.names)), 0
	for i, other := range h.w.hosts {
		if data := other.objects[p.names[i]]; i != h.who && data != nil && have < p.k {
			shares[i] = bytes.Clone(data)
			have++
		}
	}
	sealed, err := coder.Join(nil, shares, len(p.sealed))
	if err != nil {
		return nil, false
	}
	all, err := coder.Split(nil, sealed)
	if err != nil {
		return nil, false
	}
	return all[h.who], true
}

// damage does to one object what the embassy's lie is.
func (h *host) damage() error {
	var names []shard.Name // of what the ledger holds, in its order
	for _, a := range h.w.acks {
		if a.host == h.who && a.object != (shard.Name{}) && h.holds(a.object) {
			names = append(names, a.object)
		}
	}
	if len(names) == 0 {
		return nil
	}
	name := names[h.w.rng.IntN(len(names))]
	data := h.objects[name]
	switch h.store {
	case flips:
		data[h.w.rng.IntN(len(data))] ^= 1 << h.w.rng.IntN(8)
	case drops, regenerates:
		delete(h.objects, name)
	case swaps:
		other := names[h.w.rng.IntN(len(names))]
		h.objects[name], h.objects[other] = h.objects[other], h.objects[name]
	case truncates:
		h.objects[name] = data[:h.w.rng.IntN(len(data))]
	case predicts:
		return h.predict()
	}
	return nil
}

// predict keeps only what an audit of the newest cosigned checkpoint would ask for, were its nonce known.
func (h *host) predict() error {
	b := h.side(h.w.auditorSide())
	if b.cosigned == nil || b.covers < 6 || b.covers > b.book.size() {
		return nil
	}
	h.w.tally.Predicted++
	s := &answers{h: h, b: b, asked: map[shard.Name]bool{}}
	ch := audit.NewSample(h.w.charter.State.ID, h.id, b.cosigned, [32]byte{}, sampleSize)
	if err := audit.Respond(&bytes.Buffer{}, ch, s, h.key); err != nil {
		return err
	}
	for _, a := range h.w.acks {
		if a.host == h.who && !s.asked[a.object] {
			delete(h.objects, a.object)
		}
	}
	return nil
}

// fork begins a second history, for those who are on its second side: from the newest tree that any of them saw, or
// from anywhere.
func (h *host) fork() error {
	b := h.branches[0]
	size, at := b.book.size(), int64(1)
	for _, x := range h.w.watchers {
		if x.putBack {
			h.sides |= 1 << x.who
		}
		if note, _ := x.real.Seen(h.log.Origin); h.sides>>x.who&1 == 1 && x.lie == honest && note != nil {
			cp, err := says(note)
			if err != nil {
				return err
			}
			at = max(at, int64(cp.Size))
		}
	}
	if at >= size || h.w.rng.IntN(4) == 0 {
		at = size - h.w.rng.Int64N(min(size, 6))
	}
	other := &branch{book: b.book.until(at), signed: map[int64][]byte{}, believed: make([]int64, len(h.w.names))}
	if b.cosigned != nil && b.covers <= at {
		other.cosigned, other.covers = b.cosigned, b.covers
	}
	h.forked = true
	h.branches = append(h.branches, other)
	if h.w.rng.IntN(4) == 0 { // a folder put back: everyone is shown the same
		h.sides = ^uint(0)
		if h.w.rng.IntN(2) == 0 {
			return nil // and nothing is written for now
		}
	}
	return h.junk(other)
}
