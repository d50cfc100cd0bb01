package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

var testState = [16]byte{1, 2, 3}

func keyOf(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(who))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(k ed25519.PrivateKey) ed25519.PublicKey { return ed25519.PublicKey(k[32:]) }

// host is an embassy in memory, with a real ledger over real objects. It does
// with its objects what a test has it do.
type host struct {
	key     ed25519.PrivateKey
	origin  string
	entries [][]byte
	hashes  []tlog.Hash
	proofs  map[uint64][][32]byte // of the whole ledger, kept for tests that audit often
	objects map[shard.Name][]byte
	names   []shard.Name // in the order of their entries

	removed map[shard.Name]uint64 // the leaves that say so

	gone   map[shard.Name]bool
	broken map[shard.Name]bool
	twist  func(*frameParts) // what a liar sends instead
}

type frameParts struct {
	name shard.Name
	leaf int
	data []byte
	path [][32]byte
}

func newHost(who string) *host {
	return &host{
		key: keyOf(who), origin: ledger.Origin(testState, publicOf(keyOf(who))), proofs: map[uint64][][32]byte{}, objects: map[shard.Name][]byte{},
		removed: map[shard.Name]uint64{}, gone: map[shard.Name]bool{}, broken: map[shard.Name]bool{},
	}
}

func (h *host) append(t testing.TB, leaf *ledger.Leaf) {
	t.Helper()
	data, err := leaf.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	more, err := tlog.StoredHashes(int64(len(h.entries)), data, tlog.HashReaderFunc(h.read))
	if err != nil {
		t.Fatal(err)
	}
	h.entries, h.hashes = append(h.entries, data), append(h.hashes, more...)
	clear(h.proofs)
}

func (h *host) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(h.hashes)) {
			return nil, errors.New("beyond the ledger")
		}
		out[i] = h.hashes[x]
	}
	return out, nil
}

// store keeps an object and logs it.
func (h *host) store(t testing.TB, data []byte) shard.Name {
	t.Helper()
	leaf := ledger.NewLeaf(ledger.ObjectStored, testState)
	name := shard.Root(data)
	leaf.Name, leaf.Size, leaf.Time = name, uint64(len(data)), 1_700_000_000_000_000_000
	h.append(t, &leaf)
	h.objects[name], h.names = data, append(h.names, name)
	delete(h.removed, name)
	return name
}

func (h *host) charter(t testing.TB, n uint64) {
	t.Helper()
	leaf := ledger.NewLeaf(ledger.CharterTaken, testState)
	leaf.Name, leaf.Size, leaf.Slot = sha256.Sum256(fmt.Append(nil, n)), 100, ledger.Slot{Kind: ledger.Charter, Sequence: n}
	h.append(t, &leaf)
}

// filled is an embassy with a charter and n objects of up to limit bytes.
func filled(t testing.TB, who string, n, limit int) *host {
	t.Helper()
	h := newHost(who)
	h.charter(t, 1)
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		h.store(t, content(random, uint64(i), 9+random.IntN(limit)))
	}
	return h
}

func content(random *rand.Rand, i uint64, n int) []byte {
	data := binary.BigEndian.AppendUint64(nil, i)
	for len(data) < n {
		data = binary.BigEndian.AppendUint64(data, random.Uint64())
	}
	return data[:n]
}

func (h *host) Entry(i uint64) ([]byte, error) {
	if i >= uint64(len(h.entries)) {
		return nil, errors.New("no such entry")
	}
	return h.entries[i], nil
}

func (h *host) Inclusion(i, size uint64) ([][32]byte, error) {
	if proof, ok := h.proofs[i]; ok && size == uint64(len(h.entries)) {
		return proof, nil
	}
	proof, err := tlog.ProveRecord(int64(size), int64(i), tlog.HashReaderFunc(h.read))
	if err != nil {
		return nil, err
	}
	out := make([][32]byte, len(proof))
	for n := range proof {
		out[n] = proof[n]
	}
	if size == uint64(len(h.entries)) {
		h.proofs[i] = out
	}
	return out, nil
}

// remove takes an object away and logs that an order had it removed.
func (h *host) remove(t testing.TB, name shard.Name, order uint64) {
	t.Helper()
	leaf := ledger.NewLeaf(ledger.ObjectRemoved, testState)
	leaf.Name, leaf.Size, leaf.Slot = name, uint64(len(h.objects[name])), ledger.Slot{Kind: ledger.OrderRecord, Sequence: order}
	h.removed[name] = uint64(len(h.entries))
	h.append(t, &leaf)
	delete(h.objects, name)
}

// Removed shows the leaf in the tree of size leaves, and where that is too small in the whole one.
func (h *host) Removed(name shard.Name, size uint64) (*Removal, error) {
	at, ok := h.removed[name]
	if !ok {
		return nil, nil
	}
	r := &Removal{Index: at, Leaf: h.entries[at]}
	if at >= size {
		all := len(h.entries)
		root, err := tlog.TreeHash(int64(all), tlog.HashReaderFunc(h.read))
		if err != nil {
			return nil, err
		}
		if r.Checkpoint, err = h.note(all, root); err != nil {
			return nil, err
		}
		proof, err := tlog.ProveTree(int64(all), int64(size), tlog.HashReaderFunc(h.read))
		if err != nil {
			return nil, err
		}
		for _, x := range proof {
			r.Consistency = append(r.Consistency, x)
		}
		size = uint64(all)
	}
	var err error
	r.Proof, err = h.Inclusion(at, size)
	return r, err
}

func (h *host) Leaf(name shard.Name, _ uint64, leaf int) ([]byte, [][32]byte, error) {
	data, ok := h.objects[name]
	switch {
	case !ok || h.gone[name]:
		return nil, nil, fs.ErrNotExist
	case h.broken[name]:
		return nil, nil, errors.New("input/output error")
	}
	p := frameParts{name: name, leaf: leaf, path: Path(shard.LeafHashes(nil, data), leaf)}
	if from := leaf * shard.LeafSize; from < len(data) {
		p.data = bytes.Clone(data[from:min(len(data), from+shard.LeafSize)])
	}
	if h.twist != nil {
		h.twist(&p)
	}
	return p.data, p.path, nil
}

func (h *host) id() [16]byte {
	id := sha256.Sum256(publicOf(h.key))
	return [16]byte(id[:16])
}

func (h *host) log() ledger.Log {
	return ledger.Log{Origin: h.origin, Key: publicOf(h.key), Group: "LU"}
}

func (h *host) checkpoint(t testing.TB, size int) []byte {
	t.Helper()
	root, err := tlog.TreeHash(int64(size), tlog.HashReaderFunc(h.read))
	if err != nil {
		t.Fatal(err)
	}
	return h.sign(t, size, root)
}

func (h *host) sign(t testing.TB, size int, root [32]byte) []byte {
	t.Helper()
	raw, err := h.note(size, root)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (h *host) note(size int, root [32]byte) ([]byte, error) {
	origin := h.log().Origin
	s, err := ledger.NewSigner(origin, h.key)
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, tlog.Hash(root))}, s)
}

func nonceOf(n uint64) [32]byte { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)) }

func (h *host) sample(t testing.TB, nonce uint64, count uint32) *Challenge {
	t.Helper()
	return NewSample(testState, h.id(), h.checkpoint(t, len(h.entries)), nonceOf(nonce), count)
}

// audited has the embassy answer into memory and the auditor read it.
func (h *host) audited(t testing.TB, ch *Challenge) (*Result, error) {
	t.Helper()
	return Verify(bytes.NewReader(h.answer(t, ch)), ch, h.log())
}

func (h *host) answer(t testing.TB, ch *Challenge) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Respond(&b, ch, h, h.key); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// witnesses are three states beside the host's, and what they sign.
func witnesses(t testing.TB) (*ledger.Policy, []*ledger.Cosigner) {
	t.Helper()
	p := &ledger.Policy{Need: 3, Faulty: 1, Groups: []ledger.Group{{Name: "LU"}}}
	p.Groups[0].Members, p.Groups[0].Need = []ledger.Member{member(t, "lu")}, 1
	var all []*ledger.Cosigner
	for _, who := range []string{"is", "pt", "mt"} {
		c, err := ledger.NewCosigner(ledger.WitnessName(publicOf(keyOf(who))), keyOf(who))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		p.Groups = append(p.Groups, ledger.Group{Name: who, Need: 1, Members: []ledger.Member{member(t, who)}})
	}
	return p, all
}

func member(t testing.TB, who string) ledger.Member {
	t.Helper()
	name := ledger.WitnessName(publicOf(keyOf(who)))
	k, err := ledger.NewWitnessKey(name, publicOf(keyOf(who)))
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Member{Name: name, Keys: []ledger.WitnessKey{k}}
}

// cosigned adds cosignatures made at a time.
func cosigned(t testing.TB, raw []byte, log ledger.Log, by []*ledger.Cosigner, at time.Time) []byte {
	t.Helper()
	v, err := ledger.NewVerifier(log.Origin, log.Key)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := ledger.ParseCheckpoint(raw, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range by {
		line, err := c.Cosign(cp, at)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = ledger.AddSignatures(raw, line); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}
