package evidence

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// receipts is the bundle of snapshot 1 at some embassies, under what note makes of each ledger.
func (w *world) receipts(note func(*log) []byte, names ...string) *Bundle {
	b := &Bundle{}
	for _, r := range w.docs {
		if r.Kind == ledger.Head {
			b.Head = r.Data
		}
	}
	for _, name := range names {
		l, site, raw := w.logs[name], Site{Embassy: name}, note(w.logs[name])
		prove := func(i int) ledger.Proof { return l.proof(uint64(i), raw, len(l.leaves)) }
		for i, data := range l.leaves {
			leaf := first(ledger.ParseLeaf(data))
			switch {
			case leaf.Kind == ledger.ObjectStored:
				site.Objects = append(site.Objects, prove(i))
			case leaf.Slot.Kind == ledger.Head:
				site.Head = prove(i)
			case leaf.Slot.Kind == ledger.DeliveryRecord:
				doc := w.docs[slices.IndexFunc(w.docs, func(r Record) bool { return ledgerName(r.Data) == leaf.Name })].Data
				site.Deliveries = append(site.Deliveries, Delivery{doc, prove(i)})
			}
		}
		b.Sites = append(b.Sites, site)
	}
	return b
}

func verifyBundle(b []byte, c *charter.Charter) (*Proven, error) {
	return VerifyBundle(bytes.NewReader(b), int64(len(b)), c)
}

func bundled(t testing.TB, b *Bundle) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := WriteBundle(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var allHosts = []string{"pt", "lu", "is", "fi"}

func cosigned(l *log) []byte { return l.cosigned() }

func TestABundleProvesASnapshotWithNothingButTheCharter(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	p, err := verifyBundle(bundled(t, w.receipts(cosigned, allHosts...)), w.charter)
	if err != nil {
		t.Fatal(err)
	}
	if p.Snapshot != 1 || p.Agent != "agent" || len(p.Sites) != 4 || len(p.Absent) != 0 {
		t.Errorf("%+v", p)
	}
	for _, s := range p.Sites {
		if s.Objects != 3 || s.Deliveries != 1 || !s.Cosigned || s.Since == nil || len(s.Groups) != 5 {
			t.Errorf("%+v", s)
		}
	}
}

func TestABundleThatIsNotCosignedSaysSo(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	p, err := verifyBundle(bundled(t, w.receipts(func(l *log) []byte { return l.checkpoint(0) }, allHosts...)), w.charter)
	if !errors.Is(err, ErrNotCosigned) || p == nil || p.Sites[0].Cosigned || p.Sites[0].Since != nil {
		t.Errorf("%+v, %v", p, err)
	}
	// Two of the four groups needed beside the embassy's own are too few.
	p, err = verifyBundle(bundled(t, w.receipts(func(l *log) []byte { return w.cosign(l.checkpoint(0), w.now, others(l.name)[:2]...) }, allHosts...)), w.charter)
	if !errors.Is(err, ErrNotCosigned) || len(p.Sites[0].Groups) != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = verifyBundle(bundled(t, w.receipts(cosigned, "lu", "is")), w.charter)
	if !errors.Is(err, ErrNotCosigned) || !slices.Equal(p.Absent, []string{"pt", "fi"}) {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestWhateverIsWrongWithABundleIsFound(t *testing.T) {
	w := newWorld(t)
	one := w.snapshot(1, 3, nil)
	good := w.receipts(cosigned, allHosts...)
	stranger := newWorld(t)
	stranger.logs["lu"].key = key(strangerKey)
	stranger.snapshot(1, 3, nil)
	for name, spoil := range map[string]func(*Bundle){
		"an object left out":         func(b *Bundle) { b.Sites[0].Objects = b.Sites[0].Objects[1:] },
		"an object of another place": func(b *Bundle) { b.Sites[0].Objects[0] = b.Sites[1].Objects[0] },
		"a leaf of another index":    func(b *Bundle) { b.Sites[0].Objects[0].Index ^= 1 },
		"a hash of a path":           func(b *Bundle) { b.Sites[0].Objects[0].Path[0][0] ^= 1 },
		"a leaf for another":         func(b *Bundle) { b.Sites[0].Head.Extra = b.Sites[0].Deliveries[0].Proof.Extra },
		"the head's proof for the delivery": func(b *Bundle) {
			b.Sites[0].Deliveries[0].Proof = b.Sites[0].Head
		},
		"a delivery left out with its objects": func(b *Bundle) { b.Sites[0].Deliveries, b.Sites[0].Objects = nil, nil },
		"a delivery of a stranger": func(b *Bundle) {
			b.Sites[0].Deliveries[0].Document = first(w.delivery("pt", 1, 0, strangerKey, objectOf("pt", 1, 0)).Bytes())
		},
		"a delivery that names less": func(b *Bundle) {
			b.Sites[0].Deliveries[0].Document = first(w.delivery("pt", 1, 0, agentKey, objectOf("pt", 1, 0)).Bytes())
		},
		"a delivery to another":              func(b *Bundle) { b.Sites[0].Deliveries = b.Sites[1].Deliveries },
		"a head of a stranger":               func(b *Bundle) { b.Head = w.head(1, 3, nil, strangerKey).Bytes() },
		"another head of the agent":          func(b *Bundle) { b.Head = w.head(1, 2, nil, agentKey).Bytes() },
		"a head of another number":           func(b *Bundle) { b.Head = w.head(2, 3, one, agentKey).Bytes() },
		"a checkpoint of a stranger":         func(b *Bundle) { b.Sites[1] = stranger.receipts(cosigned, "lu").Sites[0] },
		"an embassy under another's name":    func(b *Bundle) { b.Sites[0].Embassy = "lu"; b.Sites[1].Embassy = "pt" },
		"an embassy that nobody knows":       func(b *Bundle) { b.Sites[0].Embassy = "no" },
		"an object that no delivery names":   func(b *Bundle) { b.Sites[0].Objects = append(b.Sites[0].Objects, otherObject(w)) },
		"a cosignature that does not verify": func(b *Bundle) { b.Sites[0].Head.Checkpoint = falseCosignature(w, b.Sites[0].Head.Checkpoint) },
	} {
		var copied Bundle
		copied.Head = good.Head
		for _, s := range good.Sites {
			s.Objects, s.Deliveries = slices.Clone(s.Objects), slices.Clone(s.Deliveries)
			s.Objects[0].Path = slices.Clone(s.Objects[0].Path)
			copied.Sites = append(copied.Sites, s)
		}
		spoil(&copied)
		if _, err := verifyBundle(bundled(t, &copied), w.charter); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verifyBundle(bundled(t, good), w.charter); err != nil {
		t.Errorf("the control: %v", err)
	}
	later := w.charter.Next()
	later.Agents[0].Key = charter.EncodeKey(public(77))
	if _, err := verifyBundle(bundled(t, good), first(charter.New(later))); !errors.Is(err, ErrForged) {
		t.Errorf("a charter without that agent: %v", err)
	}
}

// otherObject is a true proof of an object that was not delivered for the snapshot.
func otherObject(w *world) ledger.Proof {
	l := w.logs["pt"].fork()
	at := l.object(hash32(123))
	return l.proof(at, l.cosigned(), len(l.leaves))
}

// falseCosignature changes the line of one witness.
func falseCosignature(w *world, note []byte) []byte {
	text, lines, err := ledger.SplitSignatures(note)
	if err != nil {
		w.t.Fatal(err)
	}
	out := append(bytes.Clone(text), '\n')
	for i, l := range lines {
		l = bytes.Clone(l)
		if i == 1 {
			at := len(l) - 20
			l[at] = 'A' + (l[at]+1)%26
		}
		out = append(out, l...)
	}
	return out
}

func TestABundleIsOneFileForOneContent(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 2, nil)
	b := w.receipts(cosigned, allHosts...)
	one := bundled(t, b)
	slices.Reverse(b.Sites)
	slices.Reverse(b.Sites[0].Objects)
	if !bytes.Equal(one, bundled(t, b)) {
		t.Error("the order in which things came shows in the file")
	}
	for i := 0; i < len(one); i += 211 {
		one[i] ^= 1
		if _, err := verifyBundle(one, w.charter); err == nil {
			t.Errorf("byte %d changed is taken", i)
		}
		one[i] ^= 1
	}
	b.Sites[0].Embassy = "../x"
	if err := WriteBundle(io.Discard, b); !errors.Is(err, ErrFormat) {
		t.Errorf("a name that leaves the folder: %v", err)
	}
}

// receiptsOf is the part of a bundle about one of several snapshots.
func (w *world) receiptsOf(h *snapshot.Head) Bundle {
	b := Bundle{Head: h.Bytes()}
	for _, name := range allHosts {
		l, site, raw := w.logs[name], Site{Embassy: name}, w.logs[name].cosigned()
		for i, data := range l.leaves {
			leaf := first(ledger.ParseLeaf(data))
			of := func(r Record) bool { return ledgerName(r.Data) == leaf.Name }
			ours := slices.ContainsFunc([]int{0, 1, 2}, func(k int) bool { return leaf.Name == objectOf(name, h.Sequence, k) })
			switch p := l.proof(uint64(i), raw, len(l.leaves)); {
			case leaf.Kind == ledger.ObjectStored && ours:
				site.Objects = append(site.Objects, p)
			case leaf.Slot.Kind == ledger.Head && leaf.Slot.Sequence == h.Sequence:
				site.Head = p
			case leaf.Slot.Kind == ledger.DeliveryRecord && leaf.Slot.Sequence>>16 == h.Sequence:
				site.Deliveries = append(site.Deliveries, Delivery{w.docs[slices.IndexFunc(w.docs, of)].Data, p})
			}
		}
		b.Sites = append(b.Sites, site)
	}
	return b
}

// A bundle with those before it proves all that a snapshot needs: nothing of the chain can be left out, exchanged or put in
// another order unseen, and what was released since is counted.
func TestABundleWithAllBeforeItProvesAllThatASnapshotNeeds(t *testing.T) {
	w := newWorld(t)
	one := w.snapshot(1, 2, nil)
	two := w.snapshot(2, 3, one)
	three := w.snapshot(3, 1, two)
	whole := func() *Bundle {
		b := w.receiptsOf(three)
		b.Before = []Bundle{w.receiptsOf(one), w.receiptsOf(two)}
		return &b
	}
	p, err := verifyBundle(bundled(t, whole()), w.charter)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Earlier) != 2 || p.Snapshot != 3 || p.Earlier[0].Snapshot != 1 || p.Earlier[1].Sites[3].Objects != 3 || !p.Earlier[1].Sites[3].Cosigned {
		t.Errorf("%+v", p)
	}
	for what, spoil := range map[string]func(*Bundle){
		"one before it is not there":        func(b *Bundle) { b.Before = b.Before[:1] },
		"an object of its own is not there": func(b *Bundle) { b.Sites[0].Objects = nil },
		"an earlier delivery is not there":  func(b *Bundle) { b.Before[1].Sites[2].Deliveries, b.Before[1].Sites[2].Objects = nil, nil },
		"an earlier head is unproven":       func(b *Bundle) { b.Before[0].Sites[1].Head = b.Before[1].Sites[1].Head },
		"an object of another snapshot": func(b *Bundle) {
			b.Before[0].Sites[0].Objects = append(b.Before[0].Sites[0].Objects, b.Sites[0].Objects...)
		},
	} {
		b := whole()
		spoil(b)
		if _, err := verifyBundle(bundled(t, b), w.charter); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	v := newWorld(t)
	first, second := v.snapshot(1, 2, nil), v.head(2, 3, v.head(1, 1, nil, agentKey), agentKey)
	third := v.receiptsOf(v.snapshot(3, 1, second))
	third.Before = []Bundle{v.receiptsOf(first), v.receiptsOf(v.snapshot(2, 3, first))}
	if _, err := verifyBundle(bundled(t, &third), v.charter); !errors.Is(err, ErrForged) || !strings.Contains(err.Error(), "does not follow") {
		t.Errorf("another snapshot 2 than it was made after: %v", err)
	}
	b := whole()
	b.Before[0].Sites[2].Objects = b.Before[0].Sites[2].Objects[1:]
	p, err = verifyBundle(bundled(t, b), w.charter)
	if !errors.Is(err, ErrNotCosigned) || p == nil || p.Earlier[0].Sites[1].Gone != 1 || p.Earlier[0].Sites[2].Gone != 0 {
		t.Errorf("an earlier object that is not held any more: %v", err)
	}
	b = whole()
	b.Before = b.Before[1:]
	if p, err = verifyBundle(bundled(t, b), w.charter); !errors.Is(err, ErrNotCosigned) || p == nil {
		t.Errorf("the first snapshot is not there: %v", err)
	}
	b = whole()
	b.Before[0], b.Before[1] = b.Before[1], b.Before[0]
	if err := WriteBundle(io.Discard, b); !errors.Is(err, ErrFormat) {
		t.Errorf("in another order: %v", err)
	}
}

func FuzzVerifyBundle(f *testing.F) {
	w := newWorld(f)
	w.snapshot(1, 2, nil)
	f.Add(bundled(f, w.receipts(cosigned, "lu")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := verifyBundle(b, w.charter); err == nil {
			t.Error("a bundle of two embassies that lack is whole")
		}
	})
}
