package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

func TestAnHonestStateHoldsEverywhere(t *testing.T) {
	w := newWorld(t)
	one := w.snapshot(1, 3, nil)
	w.snapshot(2, 2, one)
	var all []Ledger
	for _, h := range hosts {
		l := w.logs[h[0]]
		all = append(all, l.show(0, l.cosigned(), l.checkpoint(2)))
	}
	v := w.judge(w.pack(all...))
	for _, f := range v.Findings {
		if f.Outcome != Held || len(f.By) > 0 {
			t.Errorf("%s: %s by %v: %q, not known %q", f.Claim, f.Outcome, f.By, f.Because, f.Open)
		}
	}
	if len(v.Findings) != 1+2*4+1+2*(1+4) || len(v.Problems) > 0 {
		t.Errorf("%d findings, problems %q", len(v.Findings), v.Problems)
	}
}

// convictedByXMod looks at the file with x/mod's code alone: two checkpoints of one ledger, both signed by its key, of
// which one contradicts the other or the leaves that the file shows. It shares no code with Judge.
func convictedByXMod(t *testing.T, p *Pack, embassy string) bool {
	t.Helper()
	for _, l := range p.Ledgers {
		if l.Name != embassy {
			continue
		}
		id := sha256.Sum256(l.Key)
		name := fmt.Sprintf("chancery.dev/ledger/%x/%x", p.State[:], id[:16])
		v := first(note.NewVerifier(first(note.NewEd25519VerifierKey(name, l.Key))))
		var store []tlog.Hash
		read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, x := range at {
				out = append(out, store[x])
			}
			return out, nil
		})
		for i, leaf := range l.Leaves {
			store = append(store, first(tlog.StoredHashesForRecordHash(int64(i), leaf.Hash, read))...)
		}
		roots := map[int64]tlog.Hash{}
		matched, differs := int64(0), map[int64]bool{}
		for _, c := range l.Checkpoints {
			n, err := note.Open(c.Note, note.VerifierList(v))
			if err != nil {
				continue
			}
			lines := strings.Split(n.Text, "\n")
			var size int64
			fmt.Sscan(lines[1], &size)
			root := first(tlog.ParseHash(lines[2]))
			if other, ok := roots[size]; ok && other != root {
				return true
			}
			roots[size] = root
			if l.From == 0 && size > 0 && size <= int64(len(l.Leaves)) {
				if first(tlog.TreeHash(size, read)) == root {
					matched = max(matched, size)
				} else {
					differs[size] = true
				}
			}
		}
		for size := range differs {
			if size < matched {
				return true
			}
		}
	}
	return false
}

func TestTwoHistoriesConvictTheEmbassy(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	other := lu.fork()
	lu.object(hash32(50))
	other.object(hash32(51))
	sameSize := w.pack(lu.show(0, lu.cosigned(), other.checkpoint(0)))
	lu.object(hash32(52))
	smaller := w.pack(lu.show(0, lu.cosigned(), other.checkpoint(0)))
	withheld := w.pack(lu.show(0, lu.cosigned(), other.checkpoint(0)))
	withheld.Withhold(func(string, uint64, *ledger.Leaf) bool { return true })
	prefix := w.pack(lu.show(4, lu.cosigned(), other.checkpoint(0)))
	late := w.pack(lu.show(len(lu.leaves), lu.cosigned(), other.checkpoint(0), lu.checkpoint(-1)))
	late.Ledgers[0].Joins = []Join{lu.join(len(lu.leaves)-1, len(lu.leaves))}
	for name, p := range map[string]*Pack{"one size": sameSize, "two sizes": smaller, "every leaf withheld": withheld, "from leaf 4": prefix, "by a proof": late} {
		v := w.judge(p, "one-history:lu")
		expect(t, v, Broken, "embassy lu")
		all := w.judge(p)
		if b := blamed(all); len(b) != 1 || b[0] != "embassy lu" {
			t.Errorf("%s: blamed: %q", name, b)
		}
	}
	for _, p := range []*Pack{sameSize, smaller} {
		if !convictedByXMod(t, p, "lu") {
			t.Error("x/mod's code does not convict")
		}
	}
}

// The controls of the test above: what is no proof convicts nobody, here and by x/mod's code.
func TestWhatIsNoProofConvictsNobody(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	size := len(lu.leaves)
	junk := lu.fork()
	lu.object(hash32(50))
	junk.object(hash32(51))
	junk.object(hash32(53))

	// One history at several sizes.
	p := w.pack(lu.show(0, lu.cosigned(), lu.checkpoint(3), lu.checkpoint(size)))
	expect(t, w.judge(p, "one-history:lu"), Held)
	if convictedByXMod(t, p, "lu") {
		t.Error("x/mod's code convicts an honest embassy")
	}
	// Leaves that the embassy never signed cannot speak against a checkpoint that it did.
	forged := junk.show(0, lu.checkpoint(size), lu.cosigned())
	p = w.pack(forged)
	expect(t, w.judge(p, "one-history:lu"), Unknown)
	if convictedByXMod(t, p, "lu") {
		t.Error("x/mod's code convicts on leaves that nobody signed")
	}
	// The same with a larger checkpoint of junk that somebody else signed.
	stranger := junk.fork()
	stranger.key = key(strangerKey)
	p = w.pack(junk.show(0, lu.cosigned(), stranger.checkpoint(0)))
	expect(t, w.judge(p, "one-history:lu"), Held)
	// A false consistency proof.
	shown := lu.show(size+1, lu.cosigned(), lu.checkpoint(size-1))
	shown.Joins = []Join{junk.join(size-1, size+1)}
	expect(t, w.judge(w.pack(shown), "one-history:lu"), Unknown)
	// A larger checkpoint that was seen elsewhere and is not joined: what became of it is not known.
	longer := lu.fork()
	longer.object(hash32(54))
	expect(t, w.judge(w.pack(lu.show(0, lu.cosigned(), longer.checkpoint(0))), "one-history:lu"), Unknown)
	// Not cosigned: another history may have been shown elsewhere.
	expect(t, w.judge(w.pack(lu.show(0, lu.checkpoint(0))), "one-history:lu"), Unknown)
	expect(t, w.judge(w.pack(lu.show(0, w.cosign(lu.checkpoint(0), w.now, "home", "is"))), "one-history:lu"), Unknown)
	// Of another embassy there is nothing in the file.
	expect(t, w.judge(p, "one-history:is"), Unknown)
}

func TestAWitnessThatCosignedTwoHistoriesIsConvictedAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	other := lu.fork()
	lu.object(hash32(50))
	other.object(hash32(51))
	lie := lu.stripped(w.cosign(other.checkpoint(0), w.now, "is"))
	p := w.pack(lu.show(0, lu.cosigned()))
	p.Ledgers[0].Checkpoints = append(p.Ledgers[0].Checkpoints, Checkpoint{"paper", lie})
	expect(t, w.judge(p, "witness:is"), Broken, "witness is")
	if b := blamed(w.judge(p)); len(b) != 1 || b[0] != "witness is" {
		t.Errorf("blamed: %q", b)
	}
	expect(t, w.judge(p, "one-history:lu"), Held)
	expect(t, w.judge(p, "witness:pt"), Unknown)

	// Smaller, in two ways to join the trees.
	lu.object(hash32(52))
	p = w.pack(lu.show(0, lu.cosigned()))
	p.Ledgers[0].Checkpoints = append(p.Ledgers[0].Checkpoints, Checkpoint{"paper", lie})
	expect(t, w.judge(p, "witness:is"), Broken, "witness is")
	p.Ledgers[0].Leaves, p.Ledgers[0].From = nil, uint64(len(lu.leaves))
	p.Ledgers[0].Prefix = lu.show(len(lu.leaves)).Prefix
	expect(t, w.judge(p, "witness:is"), Unknown)
	p.Ledgers[0].Checkpoints = append(p.Ledgers[0].Checkpoints, Checkpoint{"home", lu.checkpoint(-1)})
	p.Ledgers[0].Joins = []Join{lu.join(len(lu.leaves)-1, len(lu.leaves))}
	expect(t, w.judge(p, "witness:is"), Broken, "witness is")

	// The embassy that signed both is convicted beside the witness.
	both := w.pack(lu.show(0, lu.cosigned(), w.cosign(other.checkpoint(0), w.now, "is")))
	if b := blamed(w.judge(both)); len(b) != 2 || b[0] != "embassy lu" || b[1] != "witness is" {
		t.Errorf("blamed: %q", b)
	}
}

func TestAWitnessThatWentBackIsConvicted(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	large := w.cosign(lu.checkpoint(0), epoch.Add(10*time.Second), "is")
	for later, want := range map[time.Duration]Outcome{9 * time.Second: Unknown, 10 * time.Second: Unknown, 11 * time.Second: Broken} {
		small := w.cosign(lu.checkpoint(2), epoch.Add(later), "is")
		v := w.judge(w.pack(lu.show(0, large, small)), "witness:is")
		if got := v.Findings[0].Outcome; got != want {
			t.Errorf("%s: %s, want %s: %q", later, got, want, v.Findings[0].Because)
		}
	}
}

func TestAStateThatClaimsLossOfWhatItNeverStoredIsContradicted(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	never := fmt.Sprintf("lost:%x:lu", hash32(99))
	p := w.pack(lu.show(0, lu.cosigned()))
	v := w.judge(p, never)
	expect(t, v, Broken)
	expect(t, w.judge(p, strings.Replace(never, "lost", "never-stored", 1)), Held)
	expect(t, w.judge(p, strings.Replace(never, "lost", "delivered", 1)), Broken)
	// Whatever could decide otherwise makes it unknown.
	expect(t, w.judge(w.pack(lu.show(1, lu.cosigned())), never), Unknown)
	expect(t, w.judge(w.pack(lu.show(0, lu.checkpoint(0))), never), Unknown)
	expect(t, w.judge(w.pack(), never), Unknown)
	hidden := w.pack(lu.show(0, lu.cosigned()))
	hidden.Withhold(func(_ string, i uint64, _ *ledger.Leaf) bool { return i == 2 })
	expect(t, w.judge(hidden, never), Unknown)
	grown := lu.fork()
	grown.object(hash32(99))
	expect(t, w.judge(w.pack(lu.show(0, lu.cosigned(), grown.checkpoint(0))), never), Unknown)
	// Acknowledged, and nobody says that it is gone.
	stored := fmt.Sprintf("lost:%x:lu", objectOf("lu", 1, 1))
	expect(t, w.judge(p, stored), Unknown)
}

func TestAStateThatDeniesWhatItOrderedIsContradicted(t *testing.T) {
	w := newWorld(t)
	w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	object := fmt.Sprintf("never-stored:%x:lu", objectOf("lu", 1, 1))
	head := fmt.Sprintf("never-ordered:%x@1", land)
	p := w.pack(lu.show(0, lu.cosigned()))
	expect(t, w.judge(p, object), Broken, "agent agent")
	expect(t, w.judge(p, head), Broken, "agent agent")
	expect(t, w.judge(p, strings.Replace(head, "never-", "", 1)), Held)

	// The delivery alone, and the head alone, are enough; without either there is nothing of the agent's to show.
	for kind, want := range map[ledger.RecordKind]Outcome{ledger.Head: Broken, ledger.DeliveryRecord: Broken, 0: Unknown} {
		q := w.pack(lu.show(0, lu.cosigned()))
		q.Records = nil
		for _, r := range w.docs {
			if r.Kind == kind {
				q.Records = append(q.Records, r)
			}
		}
		if got := w.judge(q, head).Findings[0].Outcome; got != want {
			t.Errorf("with records of kind %s: %s, want %s", kind, got, want)
		}
		if kind == 0 {
			expect(t, w.judge(q, object), Broken) // the embassy's word alone blames nobody
		}
	}
	// What a stranger signed is not the state's.
	strange := w.pack(lu.show(0, lu.cosigned()))
	strange.Records = []Record{{ledger.Head, w.head(1, 3, nil, strangerKey).Bytes()}, {ledger.DeliveryRecord, first(w.delivery("lu", 1, 0, strangerKey, objectOf("lu", 1, 1)).Bytes())}}
	expect(t, w.judge(strange, head), Unknown)
	expect(t, w.judge(strange, object), Broken)
	// Ordered and not acknowledged: neither side is contradicted.
	q := w.pack(lu.show(0, lu.cosigned()))
	q.Records = append(q.Records, Record{ledger.DeliveryRecord, first(w.delivery("lu", 9, 0, agentKey, hash32(77)).Bytes())})
	expect(t, w.judge(q, fmt.Sprintf("never-stored:%x:lu", hash32(77))), Unknown)
}

func TestStoredNeedsEveryPart(t *testing.T) {
	w := newWorld(t)
	one := w.snapshot(1, 3, nil)
	lu := w.logs["lu"]
	claim := fmt.Sprintf("stored:%x@1:lu", land)
	full := func() *Pack { return w.pack(lu.show(0, lu.cosigned())) }
	expect(t, w.judge(full(), claim), Held)
	expect(t, w.judge(w.pack(lu.show(0, lu.checkpoint(0))), claim), Unknown)
	expect(t, w.judge(full(), strings.Replace(claim, "@1", "@2", 1)), Broken)
	for name, yes := range map[string]func(*ledger.Leaf) bool{
		"an object":    func(l *ledger.Leaf) bool { return l.Name == objectOf("lu", 1, 0) },
		"the delivery": func(l *ledger.Leaf) bool { return l.Slot.Kind == ledger.DeliveryRecord },
		"the head":     func(l *ledger.Leaf) bool { return l.Slot.Kind == ledger.Head },
	} {
		p := full()
		p.Withhold(func(_ string, _ uint64, l *ledger.Leaf) bool { return yes(l) })
		if got := w.judge(p, claim).Findings[0]; got.Outcome != Unknown {
			t.Errorf("%s withheld: %s: %q", name, got.Outcome, got.Because)
		}
	}
	p := full()
	p.Records = p.Records[:1] // the head without any delivery
	expect(t, w.judge(p, claim), Unknown)

	// An object that the agent says it gave and that no leaf of the whole ledger has.
	d := w.delivery("lu", 2, 0, agentKey, hash32(60), hash32(61))
	h := w.head(2, 2, one, agentKey)
	doc := first(d.Bytes())
	lu.object(hash32(60))
	lu.record(d.Slot(), doc)
	lu.record(headSlot(land, 2), h.Bytes())
	w.docs = append(w.docs, Record{ledger.DeliveryRecord, doc}, Record{ledger.Head, h.Bytes()})
	claim = strings.Replace(claim, "@1", "@2", 1)
	expect(t, w.judge(full(), claim), Broken)
	q := w.pack(lu.show(1, lu.cosigned()))
	expect(t, w.judge(q, claim), Unknown)
	// It is proven after all by a single proof.
	at := lu.object(hash32(61))
	q = w.pack(lu.show(0, lu.checkpoint(-1)))
	q.Ledgers[0].Leaves = q.Ledgers[0].Leaves[:at]
	q.Ledgers[0].Proofs = []ledger.Proof{lu.proof(at, lu.checkpoint(0), len(lu.leaves))}
	if f := w.judge(q, claim).Findings[0]; f.Outcome != Unknown || strings.Contains(fmt.Sprint(f.Open), "not shown") {
		t.Errorf("with a proof: %s: %q", f.Outcome, f.Open)
	}
}

func TestTwoHeadsOfOneNumberConvictTheAgent(t *testing.T) {
	w := newWorld(t)
	one := w.snapshot(1, 1, nil)
	w.snapshot(2, 1, one)
	lu := w.logs["lu"]
	claim := fmt.Sprintf("heads:%x", land)
	expect(t, w.judge(w.pack(lu.show(0, lu.cosigned())), claim), Held)
	p := w.pack(lu.show(0, lu.cosigned()))
	p.Records = append(p.Records, Record{ledger.Head, w.head(2, 5, one, agentKey).Bytes()})
	expect(t, w.judge(p, claim), Broken, "agent agent")
	p = w.pack(lu.show(0, lu.cosigned()))
	p.Records = append(p.Records, Record{ledger.Head, w.head(2, 5, one, strangerKey).Bytes()})
	expect(t, w.judge(p, claim), Held)
	p = w.pack(lu.show(0, lu.cosigned()))
	p.Records = p.Records[1:]
	expect(t, w.judge(p, claim), Unknown)
	// A ledger names another head, which nobody shows.
	is := w.logs["is"].fork()
	is.leaves, is.store = nil, nil
	is.record(headSlot(land, 1), []byte("something else"))
	p = w.pack(lu.show(0, lu.cosigned()), is.show(0, is.cosigned()))
	expect(t, w.judge(p, claim), Unknown)
}

func TestCharterChain(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"]
	next := func(name string) (*charter.Charter, []byte) {
		c := w.charter.Next()
		c.Agents = append(c.Agents, charter.Agent{Name: name, Key: charter.EncodeKey(public(200 + uint64(len(name))))})
		n := first(charter.New(c))
		return n, first(charter.Sign(n.Bytes(), key(signerKey)))
	}
	two, sigs := next("second")
	p := w.pack(lu.show(0, lu.cosigned()))
	expect(t, w.judge(p, "charters"), Held)
	leaf := w.leaf(ledger.CharterTaken)
	leaf.Name, leaf.Size, leaf.Slot = two.Hash(), 5, ledger.Slot{Kind: ledger.Charter, Sequence: 2}
	lu.add(leaf)
	p = w.pack(lu.show(0, lu.cosigned()))
	expect(t, w.judge(p, "charters"), Unknown) // charter 2 is not there
	p.Charters = append(p.Charters, Charter{two.Bytes(), sigs})
	expect(t, w.judge(p, "charters"), Held)
	expect(t, w.judgeBy(two, p, "charters"), Held) // known backward by its hash
	expect(t, w.judgeBy(nil, p, "charters"), Held)
	if v := w.judgeBy(nil, p, "charters"); v.Given || !strings.Contains(v.Trust, "nobody vouched for") {
		t.Errorf("trust without a charter: %q", v.Trust)
	}
	other, otherSigs := next("otherwise")
	p.Charters = append(p.Charters, Charter{other.Bytes(), otherSigs})
	expect(t, w.judge(p, "charters"), Broken, "state Republic of X")
	// The control: the same document signed by somebody else counts for nothing.
	for i := range p.Charters {
		if bytes.Equal(p.Charters[i].Document, other.Bytes()) {
			p.Charters[i].Signatures = first(charter.Sign(other.Bytes(), key(strangerKey)))
		}
	}
	v := w.judge(p, "charters")
	expect(t, v, Held)
	if len(v.Problems) != 1 {
		t.Errorf("problems %q", v.Problems)
	}
	// An embassy that took another charter 2, which nobody shows, is not blamed.
	q := w.pack(lu.show(0, lu.cosigned()))
	q.Charters = append(q.Charters, Charter{other.Bytes(), otherSigs})
	expect(t, w.judge(q, "charters"), Unknown)

	foreign := sampleCharter()
	foreign.State.ID[0] ^= 1
	for i := range foreign.Embassies {
		foreign.Embassies[i].Origin += "x"
	}
	if _, err := Judge(p, nil, first(charter.New(foreign))); err == nil {
		t.Error("a charter of another state is trusted")
	}
}

func TestFreshness(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"]
	p := w.pack(lu.show(0, lu.cosigned()))
	expect(t, w.judge(p, "fresh:lu"), Held)
	p.Made = p.Made.Add(24 * time.Hour)
	expect(t, w.judge(p, "fresh:lu"), Unknown)
	expect(t, w.judge(w.pack(lu.show(0, lu.checkpoint(0))), "fresh:lu"), Unknown)
}

// Two histories with a beginning in common are two: a cosigned tree of the one proves nothing of the leaves of the other.
func TestACommonBeginningDoesNotJoin(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"]
	lu.object(hash32(1))
	size := len(lu.leaves)
	other := lu.fork()
	lu.object(hash32(50))
	lu.object(hash32(51))
	for i := range uint64(5) {
		other.object(hash32(60 + i))
	}
	shown := lu.show(0, lu.checkpoint(0))
	shown.Checkpoints = append(shown.Checkpoints, Checkpoint{"home", other.cosigned()})
	shown.Joins = []Join{other.join(size, len(other.leaves))}
	p := w.pack(shown)
	v := w.judge(p, "one-history:lu")
	expect(t, v, Unknown)
	object := fmt.Sprintf("delivered:%x:lu", hash32(50))
	v = w.judge(p, object)
	expect(t, v, Held)
	if strings.Contains(fmt.Sprint(v.Findings[0].Because), "cosigned") {
		t.Errorf("a leaf of one history is cosigned in the other: %q", v.Findings[0].Because)
	}
	expect(t, w.judge(p, fmt.Sprintf("lost:%x:lu", hash32(99))), Unknown)
	// What they have in common is cosigned.
	v = w.judge(p, fmt.Sprintf("delivered:%x:lu", hash32(1)))
	if !strings.Contains(fmt.Sprint(v.Findings[0].Because), "cosigned by enough") {
		t.Errorf("the common leaf: %q", v.Findings[0].Because)
	}
	// The control: with the proof from its own end the cosigned tree does hold the leaf.
	longer := lu.fork()
	longer.object(hash32(70))
	shown.Checkpoints = []Checkpoint{{"live", lu.checkpoint(0)}, {"home", longer.cosigned()}}
	shown.Joins = []Join{longer.join(len(lu.leaves), len(longer.leaves))}
	v = w.judge(w.pack(shown), object)
	if !strings.Contains(fmt.Sprint(v.Findings[0].Because), "cosigned by enough") {
		t.Errorf("the control: %q", v.Findings[0].Because)
	}
	expect(t, w.judge(w.pack(shown), "one-history:lu"), Held)
}

// An embassy that began another ledger, because the charter says so, has shown one history in each.
func TestALedgerBegunAnewIsAnotherLedger(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"]
	lu.object(hash32(1))
	old := lu.show(0, lu.cosigned())
	next := w.charter.Next()
	next.Embassies[0].Origin = ledger.NextOrigin(lu.origin)
	two := first(charter.New(next))
	w.older = []Charter{{two.Bytes(), first(charter.Sign(two.Bytes(), key(signerKey)))}}
	renewed := &log{w: w, name: "lu", key: lu.key, origin: next.Embassies[0].Origin}
	renewed.object(hash32(2))
	renewed.object(hash32(3))
	old.Name = Label(two.Embassies[0], lu.origin)
	p := w.pack(old, renewed.show(0, renewed.cosigned()))
	expect(t, w.judge(p, "one-history:lu"), Held)
	expect(t, w.judge(p, "one-history:lu.1"), Held)
	expect(t, w.judge(p, fmt.Sprintf("delivered:%x:lu", hash32(1))), Broken)
	expect(t, w.judge(p, fmt.Sprintf("delivered:%x:lu.1", hash32(1))), Held)
	// The control: under one origin the same two are a contradiction.
	forked := &log{w: w, name: "lu", key: lu.key, origin: lu.origin}
	forked.object(hash32(2))
	forked.object(hash32(3))
	old.Checkpoints = append(old.Checkpoints, Checkpoint{"home", forked.checkpoint(0)})
	expect(t, w.judge(w.pack(old), "one-history:lu.1"), Broken, "embassy lu")
}

// A key that no charter names is nobody's, whatever the file calls it.
func TestAStrangersLedgerCountsForNothing(t *testing.T) {
	w := newWorld(t)
	lu := w.logs["lu"].fork()
	lu.key = key(strangerKey)
	lu.origin = ledger.Origin([16]byte(w.charter.State.ID), lu.key.Public().(ed25519.PublicKey))
	other := lu.fork()
	other.object(hash32(5))
	lu.object(hash32(6))
	v := w.judge(w.pack(lu.show(0, lu.checkpoint(0), other.checkpoint(0))), "one-history:lu")
	expect(t, v, Unknown)
	if len(v.Problems) != 1 {
		t.Errorf("problems %q", v.Problems)
	}
	if bytes.Equal(lu.checkpoint(0), other.checkpoint(0)) {
		t.Error("the test shows one history")
	}
}
