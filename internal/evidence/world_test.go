package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/snapshot"
)

// epoch is when all in these tests happens.
var epoch = time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC)

func fill(n uint64, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, n))).Read(b)
	return b
}

// keys are made once: it is what takes longest here.
var keys sync.Map

func key(n uint64) ed25519.PrivateKey {
	k, ok := keys.Load(n)
	if !ok {
		k, _ = keys.LoadOrStore(n, ed25519.NewKeyFromSeed(fill(1000+n, 32)))
	}
	return k.(ed25519.PrivateKey)
}

func public(n uint64) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

func hash32(n uint64) [32]byte { return [32]byte(fill(n, 32)) }

// Keys of the cast.
const (
	signerKey = 1 + iota
	agentKey
	strangerKey
	recoveryKey
	auditorKey
	homeKey
	embassyKeys // and the next four
)

var hosts = [][2]string{{"lu", "LU"}, {"is", "IS"}, {"pt", "PT"}, {"fi", "FI"}}

// world is a state with four embassies and home as a witness, and their ledgers.
type world struct {
	t       testing.TB
	charter *charter.Charter
	sigs    []byte
	older   []Charter
	logs    map[string]*log
	docs    []Record
	now     time.Time
}

func sampleCharter() charter.Charter {
	ssh := first(charter.SSHPublicKey(public(signerKey)))
	c := charter.Charter{
		Version: 2, State: charter.State{ID: charter.StateID(fill(1, 16)), Name: "Republic of X", Code: "XX"},
		Number: 1, Suite: charter.Suite, Threshold: 1, Signers: []charter.Signer{{Name: "mari", Key: ssh}},
		Custody: charter.Custody{Generation: 1, Threshold: 1, OpeningKey: charter.EncodeKey(fill(2, charter.OpeningKeySize)), RecoveryKey: charter.EncodeKey(public(recoveryKey))},
		Agents:  []charter.Agent{{Name: "agent", Key: charter.EncodeKey(public(agentKey))}},
		Witnesses: []charter.Witness{{
			Name: "home", Country: "XX", Cosigner: charter.CosignerName(public(homeKey)), Key: charter.EncodeKey(public(homeKey)),
		}},
		Auditors: []charter.Auditor{{Name: "court", Key: charter.EncodeKey(public(auditorKey))}},
	}
	c.Custody.Custodians = []charter.Custodian{{
		Name: "anna", X: 1, Recipient: "age1pq1" + strings.Repeat("q", 1952), Commitment: charter.EncodeDigest(hash32(3)),
	}}
	for i, h := range hosts {
		k := public(embassyKeys + uint64(i))
		c.Embassies = append(c.Embassies, charter.Embassy{
			Name: h[0], Country: h[1], ID: charter.EmbassyIDOf(k), Key: charter.EncodeKey(k),
			URLs: []string{"https://" + h[0] + ".example:7401"}, Origin: ledger.Origin([16]byte(c.State.ID), k),
		})
	}
	return c
}

func first[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newWorld(t testing.TB) *world { return newWorldOf(t, sampleCharter()) }

func newWorldOf(t testing.TB, c charter.Charter, more ...uint64) *world {
	w := &world{t: t, logs: map[string]*log{}, now: epoch}
	w.charter = first(charter.New(c))
	for _, k := range append([]uint64{signerKey}, more...) {
		w.sigs = append(w.sigs, first(charter.Sign(w.charter.Bytes(), key(k)))...)
	}
	for i, h := range hosts {
		w.logs[h[0]] = &log{w: w, name: h[0], key: key(embassyKeys + uint64(i)), origin: w.charter.Embassies[i].Origin}
		leaf := w.leaf(ledger.CharterTaken)
		leaf.Name, leaf.Size = w.charter.Hash(), uint64(len(w.charter.Bytes()))
		leaf.Slot = ledger.Slot{Kind: ledger.Charter, Sequence: 1}
		w.logs[h[0]].add(leaf)
	}
	return w
}

func (w *world) leaf(kind ledger.LeafKind) ledger.Leaf {
	w.now = w.now.Add(time.Second)
	l := ledger.NewLeaf(kind, [16]byte(w.charter.State.ID))
	l.Time, l.Actor = w.now.UnixNano(), [32]byte(public(agentKey))
	return l
}

// log is one embassy's ledger, kept by x/mod's code so that it shares none with what is tested.
type log struct {
	w      *world
	name   string
	key    ed25519.PrivateKey
	origin string
	leaves [][]byte
	store  []tlog.Hash
}

func (l *log) fork() *log {
	c := *l
	c.leaves, c.store = slices.Clone(l.leaves), slices.Clone(l.store)
	return &c
}

func (l *log) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		out[i] = l.store[x]
	}
	return out, nil
}

func (l *log) add(leaf ledger.Leaf) uint64 {
	b := first(leaf.Bytes())
	n := len(l.leaves)
	l.leaves = append(l.leaves, b)
	l.store = append(l.store, first(tlog.StoredHashes(int64(n), b, l))...)
	return uint64(n)
}

func (l *log) object(name [32]byte) uint64 {
	leaf := l.w.leaf(ledger.ObjectStored)
	leaf.Name, leaf.Size = name, 1000
	return l.add(leaf)
}

func (l *log) record(slot ledger.Slot, doc []byte) uint64 {
	leaf := l.w.leaf(ledger.RecordStored)
	leaf.Name, leaf.Size, leaf.Slot = sha256.Sum256(doc), uint64(len(doc)), slot
	return l.add(leaf)
}

func (l *log) root(size int) [32]byte {
	if size == 0 {
		return sha256.Sum256(nil)
	}
	return first(tlog.TreeHash(int64(size), l))
}

// checkpoint signs the tree of the first size leaves; 0 or below counts from the end.
func (l *log) checkpoint(size int) []byte {
	if size <= 0 {
		size += len(l.leaves)
	}
	text := ledgerText(l.origin, uint64(size), l.root(size))
	return first(note.Sign(&note.Note{Text: text}, first(ledger.NewSigner(l.origin, l.key))))
}

func ledgerText(origin string, size uint64, root [32]byte) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, tlog.Hash(root))
}

func (w *world) cosigner(who string) *ledger.Cosigner {
	k := key(homeKey)
	if l := w.logs[who]; l != nil {
		k = l.key
	}
	return first(ledger.NewCosigner(ledger.WitnessName(k.Public().(ed25519.PublicKey)), k))
}

// cosign adds cosignatures.
func (w *world) cosign(raw []byte, at time.Time, who ...string) []byte {
	w.t.Helper()
	origin, _, _ := strings.Cut(string(raw), "\n")
	cp, ok := parseTree(raw, origin)
	if !ok {
		w.t.Fatal("not a checkpoint")
	}
	for _, name := range who {
		raw = first(ledger.AddSignatures(raw, first(w.cosigner(name).Cosign(cp, at))))
	}
	return raw
}

// others are all who cosign a ledger beside its own embassy.
func others(name string) []string {
	out := []string{"home"}
	for _, h := range hosts {
		if h[0] != name {
			out = append(out, h[0])
		}
	}
	return out
}

// cosigned is the newest checkpoint, cosigned by everyone.
func (l *log) cosigned() []byte {
	l.w.now = l.w.now.Add(time.Second)
	return l.w.cosign(l.checkpoint(0), l.w.now, others(l.name)...)
}

// stripped takes the ledger's own signature off a note.
func (l *log) stripped(raw []byte) []byte {
	text, lines, err := ledger.SplitSignatures(raw)
	if err != nil {
		l.w.t.Fatal(err)
	}
	out := append(bytes.Clone(text), '\n')
	for _, line := range lines {
		if !bytes.HasPrefix(line, []byte("— "+l.origin+" ")) {
			out = append(out, line...)
		}
	}
	return out
}

// show is what a file shows of the ledger from a leaf on, with these checkpoints.
func (l *log) show(from int, notes ...[]byte) Ledger {
	var tree ledger.Tree
	for _, b := range l.leaves[:from] {
		tree.Append(ledger.LeafHash(b))
	}
	out := Ledger{Name: l.name, Key: l.key.Public().(ed25519.PublicKey), Origin: l.origin, From: uint64(from), Prefix: tree.Stack()}
	for _, b := range l.leaves[from:] {
		out.Leaves = append(out.Leaves, NewLeaf(b))
	}
	for _, n := range notes {
		out.Checkpoints = append(out.Checkpoints, Checkpoint{"live", n})
	}
	return out
}

func (l *log) proof(index uint64, checkpoint []byte, size int) ledger.Proof {
	path := first(tlog.ProveRecord(int64(size), int64(index), l))
	p := ledger.Proof{Extra: l.leaves[index], Index: index, Checkpoint: checkpoint}
	for _, h := range path {
		p.Path = append(p.Path, h)
	}
	return p
}

func (l *log) join(old, now int) Join {
	j := Join{Old: uint64(old), New: uint64(now)}
	for _, h := range first(tlog.ProveTree(int64(now), int64(old), l)) {
		j.Proof = append(j.Proof, h)
	}
	return j
}

func (w *world) pack(ledgers ...Ledger) *Pack {
	return &Pack{
		State: w.charter.State.ID, Made: w.now.Add(time.Minute), Ledgers: ledgers, Records: slices.Clone(w.docs),
		Charters: append([]Charter{{w.charter.Bytes(), w.sigs}}, w.older...),
	}
}

var land = [16]byte{7, 7, 7}

// head makes the head of a snapshot of land, signed by whoever has the key.
func (w *world) head(n, packs uint64, prev *snapshot.Head, signer uint64) *snapshot.Head {
	h := &snapshot.Head{
		Version: 1, State: [16]byte(w.charter.State.ID), Register: land, Sequence: n, Manifest: fill(n, 40), Packs: packs, Objects: 4 * packs, Stored: 4000 * packs,
		K: 2, CharterVersion: 1, CharterHash: w.charter.Hash(), Time: w.now.UnixNano(),
	}
	for _, e := range w.charter.Embassies {
		h.Members = append(h.Members, [16]byte(e.ID))
	}
	if prev != nil {
		h.Previous = prev.Hash()
	}
	h.Sign(key(signer))
	return h
}

func (w *world) delivery(embassy string, n uint64, part uint32, signer uint64, objects ...[32]byte) *ledger.Delivery {
	d := ledger.NewDelivery()
	e, _ := w.charter.EmbassyByName(embassy)
	d.State, d.Register, d.Head, d.Embassy, d.Part, d.Parts = [16]byte(w.charter.State.ID), land, n, [16]byte(e.ID), part, part+1
	d.Salt, d.Objects = hash32(n<<8|uint64(part)), slices.Clone(objects)
	slices.SortFunc(d.Objects, compareHashes)
	if err := d.Sign(key(signer)); err != nil {
		w.t.Fatal(err)
	}
	return &d
}

// objectOf names an object of a snapshot at an embassy.
func objectOf(embassy string, n uint64, i int) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s %d %d", embassy, n, i))
}

// snapshot stores one at every embassy: objects, deliveries, head.
func (w *world) snapshot(n, packs uint64, prev *snapshot.Head) *snapshot.Head {
	h := w.head(n, packs, prev, agentKey)
	w.docs = append(w.docs, Record{ledger.Head, h.Bytes()})
	for _, host := range hosts {
		l := w.logs[host[0]]
		var objects [][32]byte
		for i := range packs {
			objects = append(objects, objectOf(l.name, n, int(i)))
			l.object(objects[i])
		}
		d := w.delivery(l.name, n, 0, agentKey, objects...)
		doc := first(d.Bytes())
		w.docs = append(w.docs, Record{ledger.DeliveryRecord, doc})
		l.record(d.Slot(), doc)
		l.record(headSlot(land, n), h.Bytes())
	}
	return h
}

// judge packs, reads back and judges, so that every test is one of the format too.
func (w *world) judge(p *Pack, claims ...string) *Verdict {
	w.t.Helper()
	return w.judgeBy(w.charter, p, claims...)
}

func (w *world) judgeBy(c *charter.Charter, p *Pack, claims ...string) *Verdict {
	w.t.Helper()
	var b bytes.Buffer
	if err := Write(&b, p); err != nil {
		w.t.Fatal(err)
	}
	read, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		w.t.Fatal(err)
	}
	var list []Claim
	for _, text := range claims {
		list = append(list, first(ParseClaim(text)))
	}
	v, err := Judge(read, list, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// expect holds the first finding against an outcome and who is blamed, "embassy lu" and so on.
func expect(t testing.TB, v *Verdict, want Outcome, by ...string) {
	t.Helper()
	f := v.Findings[0]
	var got []string
	for _, p := range f.By {
		got = append(got, p.String())
	}
	if f.Outcome != want || !slices.Equal(got, by) {
		t.Errorf("%s: %s by %q, want %s by %q; because %q, open %q, problems %q", f.Claim, f.Outcome, got, want, by, f.Because, f.Open, v.Problems)
	}
}

// blamed are all who are blamed anywhere.
func blamed(v *Verdict) (all []string) {
	for _, f := range v.Findings {
		for _, p := range f.By {
			all = append(all, p.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
