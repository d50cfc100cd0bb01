package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// network is honest parties over a network that drops, delays and repeats, and on machines that start again. Witnesses
// keep the protocol: they cosign what continues what they cosigned, or the same again, and nothing else.
type network struct {
	*world
	rand    *rand.Rand
	saw     map[string]tree // witness and ledger -> the largest that it cosigned
	clock   map[string]time.Time
	notes   map[string][][]byte // ledger -> notes that reached somebody
	pending []func()
	heads   []*snapshot.Head
	given   int
}

func newNetwork(t testing.TB, seed uint64, base *world) *network {
	w := *base
	w.t, w.logs, w.docs = t, map[string]*log{}, nil
	for name, l := range base.logs {
		c := l.fork()
		c.w = &w
		w.logs[name] = c
	}
	return &network{
		world: &w, rand: rand.New(rand.NewPCG(seed, 7)), saw: map[string]tree{}, clock: map[string]time.Time{}, notes: map[string][][]byte{},
	}
}

// submit brings a checkpoint to a witness; what the witness answers may be lost on its way back.
func (n *network) submit(who string, l *log, raw []byte, size int) {
	at := who + ">" + l.name
	was := n.saw[at]
	now := tree{uint64(size), l.root(size)}
	if now.size < was.size || now.size == was.size && was.size > 0 && now.root != was.root {
		return // refused
	}
	n.saw[at] = now
	time := n.now
	if last := n.clock[who]; time.Before(last) {
		time = last
	}
	n.clock[who] = time
	signed := n.cosign(raw, time, who)
	if n.rand.IntN(4) > 0 {
		n.notes[l.name] = append(n.notes[l.name], signed)
	}
}

// step is one thing that happens.
func (n *network) step() {
	n.now = n.now.Add(time.Duration(n.rand.IntN(5000)) * time.Millisecond)
	l := n.logs[hosts[n.rand.IntN(len(hosts))][0]]
	switch n.rand.IntN(10) {
	case 0, 1, 2:
		n.given++
		l.object(hash32(uint64(10000 + n.given)))
	case 3:
		n.order()
	case 4, 5, 6: // a checkpoint goes out, now or later, once or again
		raw, size := l.checkpoint(0), len(l.leaves)
		n.notes[l.name] = append(n.notes[l.name], raw)
		for _, who := range others(l.name) {
			deliver := func() { n.submit(who, l, raw, size) }
			for range n.rand.IntN(3) {
				n.pending = append(n.pending, deliver)
			}
			if n.rand.IntN(2) == 0 {
				deliver()
			}
		}
	case 7, 8: // something that was on its way arrives, out of order
		if len(n.pending) > 0 {
			i := n.rand.IntN(len(n.pending))
			n.pending[i]()
			n.pending = slices.Delete(n.pending, i, i+1)
		}
	case 9: // a restart loses what was on its way
		if n.rand.IntN(3) == 0 {
			n.pending = nil
		}
	}
}

// order makes the next snapshot, of which some embassies get only a part.
func (n *network) order() {
	var prev *snapshot.Head
	if len(n.heads) > 0 {
		prev = n.heads[len(n.heads)-1]
	}
	number := uint64(len(n.heads) + 1)
	h := n.head(number, 1, prev, agentKey)
	n.heads = append(n.heads, h)
	n.docs = append(n.docs, Record{ledger.Head, h.Bytes()})
	for _, host := range hosts {
		l, object := n.logs[host[0]], objectOf(host[0], number, 0)
		lost := n.rand.IntN(6)
		if lost == 0 {
			continue
		}
		l.object(object)
		if n.rand.IntN(4) == 0 {
			l.object(object) // twice, as after a crash
		}
		d := n.delivery(l.name, number, 0, agentKey, object)
		doc := first(d.Bytes())
		n.docs = append(n.docs, Record{ledger.DeliveryRecord, doc})
		if lost > 1 {
			l.record(d.Slot(), doc)
		}
		if lost > 2 {
			l.record(headSlot(land, number), h.Bytes())
		}
	}
}

// file is what somebody puts together of it: some checkpoints, some leaves, some documents.
func (n *network) file() *Pack {
	var all []Ledger
	for _, host := range hosts {
		l := n.logs[host[0]]
		if n.rand.IntN(2) == 0 {
			continue
		}
		from := 0
		if n.rand.IntN(3) == 0 {
			from = n.rand.IntN(len(l.leaves) + 1)
		}
		shown := l.show(from)
		for _, raw := range n.notes[l.name] {
			if n.rand.IntN(3) > 0 {
				shown.Checkpoints = append(shown.Checkpoints, Checkpoint{"live", raw})
			}
			if _, lines, err := ledger.SplitSignatures(raw); err == nil && len(lines) > 1 && n.rand.IntN(10) == 0 {
				shown.Checkpoints = append(shown.Checkpoints, Checkpoint{"paper", l.stripped(raw)})
			}
		}
		if cut := n.rand.IntN(len(shown.Leaves) + 1); n.rand.IntN(3) == 0 {
			shown.Leaves = shown.Leaves[:cut]
		}
		if to := len(l.leaves); to > 2 && n.rand.IntN(2) == 0 {
			old := 1 + n.rand.IntN(to-1)
			shown.Joins = append(shown.Joins, l.join(old, to))
			shown.Proofs = append(shown.Proofs, l.proof(uint64(old), l.checkpoint(0), to))
		}
		all = append(all, shown)
	}
	p := n.pack(all...)
	p.Records = slices.DeleteFunc(p.Records, func(Record) bool { return n.rand.IntN(5) == 0 })
	return p
}

// questions are claims of every kind, beside those that the content suggests.
func (n *network) questions() (claims []Claim) {
	for _, host := range hosts {
		claims = append(claims, Claim{Kind: OneHistory, Party: host[0]}, Claim{Kind: Fresh, Party: host[0]}, Claim{Kind: Possession, Party: host[0]}, Claim{Kind: Witness, Party: host[0]},
			Claim{Kind: Lost, Party: host[0], Object: objectOf(host[0], 1, 0)}, Claim{Kind: Delivered, Party: host[0], Object: objectOf(host[0], 1, 0)},
			Claim{Kind: Stored, Party: host[0], Register: land, Snapshot: 1})
	}
	return append(claims, Claim{Kind: Witness, Party: "home"}, Claim{Kind: Charters}, Claim{Kind: Heads, Register: land}, Claim{Kind: Ordered, Register: land, Snapshot: 1})
}

// TestHonestPartiesAreNeverBlamed: whatever is lost, late, repeated, cut off or withheld, nobody is blamed. And what is
// withheld beyond that never turns a finding into another than unknown.
func TestHonestPartiesAreNeverBlamed(t *testing.T) {
	base := newWorld(t)
	const shards = 8
	seeds := uint64(1000)
	if testing.Short() {
		seeds = 100
	}
	var held atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for shard := range uint64(shards) {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := shard; seed < seeds; seed += shards {
					held.Add(int64(honest(t, base, seed)))
				}
			})
		}
	})
	if held.Load() < int64(seeds) {
		t.Errorf("only %d claims held in %d seeds: the test shows nothing", held.Load(), seeds)
	}
}

// honest runs one seed and returns how many claims held.
func honest(t *testing.T, base *world, seed uint64) (held int) {
	n := newNetwork(t, seed, base)
	for range 6 + n.rand.IntN(18) {
		n.step()
	}
	p, claims := n.file(), n.questions()
	before := first(Judge(p, claims, n.charter))
	if b := blamed(before); len(b) > 0 {
		t.Fatalf("seed %d: blamed: %q", seed, b)
	}
	held = before.Count(Held)
	p.Withhold(func(string, uint64, *ledger.Leaf) bool { return n.rand.IntN(3) == 0 })
	after := first(Judge(p, claims, n.charter))
	if b := blamed(after); len(b) > 0 {
		t.Fatalf("seed %d, with leaves withheld: blamed: %q", seed, b)
	}
	for i, f := range after.Findings {
		if f.Outcome != before.Findings[i].Outcome && f.Outcome != Unknown {
			t.Fatalf("seed %d: %s was %s and is %s with leaves withheld: %q", seed, f.Claim, before.Findings[i].Outcome, f.Outcome, f.Because)
		}
	}
	if seed%100 == 0 { // what is judged in memory is judged the same from the file
		var b bytes.Buffer
		if err := Write(&b, p); err != nil {
			t.Fatal(err)
		}
		again := first(Judge(first(Read(bytes.NewReader(b.Bytes()), int64(b.Len()))), claims, n.charter))
		after = first(Judge(p, claims, n.charter)) // Write put it in order
		if !bytes.Equal(first(json.Marshal(again)), first(json.Marshal(after))) {
			t.Fatalf("seed %d: another verdict from the file:\n%s\n%s", seed, first(json.Marshal(again)), first(json.Marshal(after)))
		}
	}
	return held
}

// The control: one liar in the same network is blamed in some seed, and never anybody else.
func TestALiarAmongThemIsBlamedAlone(t *testing.T) {
	base := newWorld(t)
	convicted := map[string]int{}
	seeds := uint64(300)
	if testing.Short() {
		seeds = 60
	}
	for seed := range seeds {
		n := newNetwork(t, seed, base)
		for range 20 {
			n.step()
		}
		liar := n.logs["lu"]
		other := liar.fork()
		other.object(hash32(1))
		for range 10 {
			n.step()
		}
		if seed%2 == 0 {
			n.notes["lu"] = append(n.notes["lu"], other.checkpoint(0))
		} else {
			n.notes["lu"] = append(n.notes["lu"], liar.stripped(n.cosign(other.checkpoint(0), n.now, "is")))
		}
		for _, b := range blamed(first(Judge(n.file(), nil, n.charter))) {
			convicted[b]++
			if want := []string{"embassy lu", "witness is"}[seed%2]; b != want {
				t.Fatalf("seed %d: blamed: %s, want %s", seed, b, want)
			}
		}
	}
	if convicted["embassy lu"] < int(seeds)*8/300 || convicted["witness is"] < int(seeds)*2/300 {
		t.Errorf("convicted: %v", convicted)
	}
}
