package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func keyOf(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(who))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(k ed25519.PrivateKey) ed25519.PublicKey { return ed25519.PublicKey(k[32:]) }

// logOf is a log in memory, kept as tiles.
type logOf struct {
	origin string
	key    ed25519.PrivateKey
	leaves [][]byte
	hashes []tlog.Hash // x/mod's stored hashes
}

func newLog(state [16]byte, who string) *logOf {
	k := keyOf(who)
	return &logOf{origin: Origin(state, publicOf(k)), key: k}
}

func (l *logOf) add(t testing.TB, leaf []byte) {
	t.Helper()
	more, err := tlog.StoredHashes(int64(len(l.leaves)), leaf, tlog.HashReaderFunc(l.read))
	if err != nil {
		t.Fatal(err)
	}
	l.leaves, l.hashes = append(l.leaves, leaf), append(l.hashes, more...)
}

func (l *logOf) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(l.hashes)) {
			return nil, errors.New("beyond the log")
		}
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *logOf) tile(t Tile) ([]byte, error) {
	x := tlog.Tile{H: tileHeight, L: int(t.Level), N: int64(t.Index), W: t.Width}
	return tlog.ReadTileData(x, tlog.HashReaderFunc(l.read))
}

func (l *logOf) checkpoint(t testing.TB, size int) []byte {
	t.Helper()
	root, err := tlog.TreeHash(int64(size), tlog.HashReaderFunc(l.read))
	if err != nil {
		t.Fatal(err)
	}
	return l.sign(t, fmt.Sprintf("%s\n%d\n%s\n", l.origin, size, root))
}

func (l *logOf) sign(t testing.TB, text string) []byte {
	t.Helper()
	s, err := NewSigner(l.origin, l.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (l *logOf) verifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := NewVerifier(l.origin, publicOf(l.key))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (l *logOf) receipt(t testing.TB, index, size int) Receipt {
	t.Helper()
	p, err := NewProver(uint64(size), l.tile)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := p.Inclusion(uint64(index))
	if err != nil {
		t.Fatal(err)
	}
	return Receipt{Leaf: l.leaves[index], Index: uint64(index), Proof: proof, Checkpoint: l.checkpoint(t, size)}
}

func objectLeaf(i int) Leaf {
	l := NewLeaf(ObjectStored, [16]byte{1})
	l.Name, l.Size, l.Time = sha256.Sum256(fmt.Append(nil, i)), uint64(i+1), 1_700_000_000_000_000_000
	return l
}

func filled(t testing.TB, who string, n int) *logOf {
	t.Helper()
	l := newLog([16]byte{1}, who)
	for i := range n {
		leaf := objectLeaf(i)
		data, err := leaf.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		l.add(t, data)
	}
	return l
}

func TestEveryLeafOfEverySizeIsProven(t *testing.T) {
	l := filled(t, "a", 600)
	v := l.verifier(t)
	for _, size := range []int{1, 2, 3, 7, 255, 256, 257, 511, 512, 600} {
		p, err := NewProver(uint64(size), l.tile)
		if err != nil {
			t.Fatal(err)
		}
		cp, err := ParseCheckpoint(l.checkpoint(t, size), v)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := p.Root(); err != nil || root != cp.Root {
			t.Fatalf("root of %d: %v", size, err)
		}
		for i := range size {
			r := l.receipt(t, i, size)
			if size > 10 && i%37 != 0 && i != size-1 {
				continue
			}
			leaf, _, err := r.Verify(v)
			if want := objectLeaf(i); err != nil || leaf != want {
				t.Fatalf("leaf %d of %d: %v", i, size, err)
			}
		}
	}
}

func TestAReceiptForAnythingElseIsRefused(t *testing.T) {
	l, other := filled(t, "a", 300), filled(t, "b", 300)
	v := l.verifier(t)
	longer := filled(t, "a", 301)
	spoil := map[string]struct {
		change func(*Receipt)
		want   error
	}{
		"control":           {func(*Receipt) {}, nil},
		"another leaf":      {func(r *Receipt) { r.Leaf = l.leaves[8] }, ErrProof},
		"another index":     {func(r *Receipt) { r.Index = 8 }, ErrProof},
		"beyond the tree":   {func(r *Receipt) { r.Index = 300 }, ErrProof},
		"a short proof":     {func(r *Receipt) { r.Proof = r.Proof[1:] }, ErrProof},
		"a long proof":      {func(r *Receipt) { r.Proof = append(r.Proof, [32]byte{}) }, ErrProof},
		"an endless proof":  {func(r *Receipt) { r.Proof = make([][32]byte, 10_000) }, ErrProof},
		"a flipped proof":   {func(r *Receipt) { r.Proof[3][0] ^= 1 }, ErrProof},
		"another size":      {func(r *Receipt) { r.Checkpoint = longer.checkpoint(t, 301) }, ErrProof},
		"another key":       {func(r *Receipt) { r.Checkpoint = other.checkpoint(t, 300) }, ErrSignature},
		"no checkpoint":     {func(r *Receipt) { r.Checkpoint = nil }, ErrFormat},
		"a leaf cut":        {func(r *Receipt) { r.Leaf = r.Leaf[:len(r.Leaf)-1] }, ErrFormat},
		"a leaf of no kind": {func(r *Receipt) { r.Leaf = bytes.Clone(r.Leaf); r.Leaf[2] = 9 }, ErrUnknown},
		"another root signed": {func(r *Receipt) {
			r.Checkpoint = l.sign(t, l.origin+"\n300\n"+tlog.Hash{}.String()+"\n")
		}, ErrProof},
		"another origin": {func(r *Receipt) {
			moved := *l
			moved.origin = Origin([16]byte{2}, publicOf(l.key))
			r.Checkpoint = moved.checkpoint(t, 300)
		}, ErrSignature},
		"the origin only in the text": {func(r *Receipt) {
			text, sigs, _ := strings.Cut(string(r.Checkpoint), "\n\n")
			text = strings.Replace(text, "ledger/01", "ledger/02", 1)
			r.Checkpoint = []byte(text + "\n\n" + sigs)
		}, ErrSignature},
	}
	for name, s := range spoil {
		r := l.receipt(t, 7, 300)
		s.change(&r)
		if _, _, err := r.Verify(v); !errors.Is(err, s.want) {
			t.Errorf("%s: %v", name, err)
		}
		batch := ReceiptBatch{Checkpoint: r.Checkpoint, Items: []BatchItem{{Index: r.Index, Leaf: r.Leaf, Proof: r.Proof}}}
		if _, _, err := batch.Verify(v); !errors.Is(err, s.want) {
			t.Errorf("%s in a batch: %v", name, err)
		}
	}
}

func TestConsistencyFindsRollbackAndForks(t *testing.T) {
	l := filled(t, "a", 600)
	fork := filled(t, "a", 299)
	for i := range 301 {
		leaf := objectLeaf(10_000 + i)
		data, err := leaf.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		fork.add(t, data)
	}
	at := func(l *logOf, size int) Checkpoint {
		t.Helper()
		cp, err := ParseCheckpoint(l.checkpoint(t, size), l.verifier(t))
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	prove := func(l *logOf, older, newer int) [][32]byte {
		t.Helper()
		p, err := NewProver(uint64(newer), l.tile)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := p.Consistency(uint64(older))
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	empty := Checkpoint{Origin: l.origin, Root: sha256.Sum256(nil)}
	for _, pair := range [][2]int{{1, 2}, {1, 600}, {255, 256}, {256, 257}, {300, 600}, {599, 600}, {600, 600}} {
		if err := VerifyConsistency(at(l, pair[0]), at(l, pair[1]), prove(l, pair[0], pair[1])); err != nil {
			t.Errorf("%v: %v", pair, err)
		}
	}
	if err := VerifyConsistency(empty, at(l, 5), nil); err != nil {
		t.Errorf("from the empty log: %v", err)
	}
	elsewhere := at(l, 600)
	elsewhere.Origin = "chancery.dev/ledger/other"
	bad := []struct {
		name         string
		older, newer Checkpoint
		proof        [][32]byte
		want         error
	}{
		{"rollback", at(l, 600), at(l, 300), prove(l, 300, 600), ErrShorter},
		{"rollback to nothing", at(l, 600), empty, nil, ErrShorter},
		{"fork of equal size", at(l, 600), at(fork, 600), nil, ErrForked},
		{"fork behind", at(l, 300), at(fork, 600), prove(fork, 300, 600), ErrForked},
		{"fork behind, true proof", at(l, 300), at(fork, 600), prove(l, 300, 600), ErrForked},
		{"no proof", at(l, 300), at(l, 600), nil, ErrForked},
		{"endless proof", at(l, 300), at(l, 600), make([][32]byte, 1000), ErrProof},
		{"proof not due", at(l, 300), at(l, 300), make([][32]byte, 1), ErrProof},
		{"another log", at(l, 300), elsewhere, prove(l, 300, 600), ErrProof},
		{"false empty log", Checkpoint{Origin: l.origin}, at(l, 5), nil, ErrProof},
	}
	for _, b := range bad {
		if err := VerifyConsistency(b.older, b.newer, b.proof); !errors.Is(err, b.want) {
			t.Errorf("%s: %v", b.name, err)
		}
	}
	if err := VerifyConsistency(at(l, 299), at(fork, 600), prove(fork, 299, 600)); err != nil {
		t.Errorf("control: the common part: %v", err)
	}
}

func TestLeavesHaveOneForm(t *testing.T) {
	record := NewLeaf(RecordStored, [16]byte{1})
	record.Size, record.Slot = 10, Slot{Kind: Head, Register: [16]byte{2}, Sequence: 1}
	charter := NewLeaf(CharterTaken, [16]byte{1})
	charter.Size, charter.Slot = 10, Slot{Kind: Charter, Sequence: 1}
	for _, l := range []Leaf{objectLeaf(0), objectLeaf(MaxObject - 1), record, charter} {
		data, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseLeaf(data)
		if err != nil || got != l {
			t.Errorf("%+v: %+v, %v", l, got, err)
		}
		for i := range data {
			if _, err := ParseLeaf(data[:i]); !errors.Is(err, ErrFormat) {
				t.Errorf("cut at %d: %v", i, err)
			}
		}
		if _, err := ParseLeaf(append(bytes.Clone(data), 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("longer: %v", err)
		}
	}
	bad := map[string]struct {
		from   Leaf
		change func(*Leaf)
		want   error
	}{
		"version":             {record, func(l *Leaf) { l.Version = 2 }, ErrUnknown},
		"kind":                {record, func(l *Leaf) { l.Kind = 6 }, ErrUnknown},
		"empty":               {record, func(l *Leaf) { l.Size = 0 }, ErrFormat},
		"large record":        {record, func(l *Leaf) { l.Size = MaxRecord + 1 }, ErrFormat},
		"large object":        {objectLeaf(1), func(l *Leaf) { l.Size = MaxObject + 1 }, ErrFormat},
		"object in a slot":    {objectLeaf(1), func(l *Leaf) { l.Slot.Sequence = 1 }, ErrFormat},
		"record in none":      {record, func(l *Leaf) { l.Slot.Sequence = 0 }, ErrFormat},
		"record of no kind":   {record, func(l *Leaf) { l.Slot.Kind = 0 }, ErrFormat},
		"charter's register":  {charter, func(l *Leaf) { l.Slot.Register[0] = 1 }, ErrFormat},
		"removed by no order": {objectLeaf(1), func(l *Leaf) { l.Kind = ObjectRemoved }, ErrFormat},
		"removed by a head": {objectLeaf(1), func(l *Leaf) {
			l.Kind, l.Slot = ObjectRemoved, Slot{Kind: Head, Register: [16]byte{1}, Sequence: 1}
		}, ErrFormat},
		"removed from no slot": {record, func(l *Leaf) { l.Kind, l.Slot.Sequence = RecordRemoved, 0 }, ErrFormat},
		"before 1970":          {record, func(l *Leaf) { l.Time = -1 }, ErrFormat},
	}
	for name, b := range bad {
		l := b.from
		b.change(&l)
		if _, err := l.Bytes(); !errors.Is(err, b.want) {
			t.Errorf("%s is written: %v", name, err)
		}
		data, err := encode(&l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseLeaf(data); !errors.Is(err, b.want) {
			t.Errorf("%s is read: %v", name, err)
		}
	}
}

func TestCheckpointsHaveOneForm(t *testing.T) {
	l := filled(t, "a", 3)
	v := l.verifier(t)
	root := strings.Split(string(l.checkpoint(t, 3)), "\n")[2]
	for name, text := range map[string]string{
		"a size of 03":       l.origin + "\n03\n" + root + "\n",
		"a size of +3":       l.origin + "\n+3\n" + root + "\n",
		"a size too large":   l.origin + "\n18446744073709551615\n" + root + "\n",
		"an extension line":  l.origin + "\n3\n" + root + "\nmore\n",
		"a root cut":         l.origin + "\n3\n" + root[:40] + "\n",
		"a root not strict":  l.origin + "\n3\n" + root[:42] + "/=\n",
		"a line missing":     l.origin + "\n3\n",
		"an origin in front": "x\n" + l.origin + "\n3\n" + root + "\n",
	} {
		if _, err := ParseCheckpoint(l.sign(t, text), v); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw := l.checkpoint(t, 3)
	cosigned := append(bytes.Clone(raw), "\u2014 witness.example AAAAAAAA\n"...)
	for name, c := range map[string][]byte{"control": raw, "another's signature beside": cosigned} {
		if cp, err := ParseCheckpoint(c, v); err != nil || cp.Size != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseCheckpoint(bytes.Repeat([]byte("x"), maxCheckpoint+1), v); !errors.Is(err, ErrFormat) {
		t.Errorf("too long: %v", err)
	}
}

func TestReceiptsAreReadAsWritten(t *testing.T) {
	l := filled(t, "a", 20)
	r := l.receipt(t, 5, 20)
	data, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseReceipt(data)
	if err != nil || !bytes.Equal(got.Leaf, r.Leaf) || !slices.Equal(got.Proof, r.Proof) || got.Index != 5 {
		t.Errorf("%v", err)
	}
	if _, _, err := got.Verify(l.verifier(t)); err != nil {
		t.Error(err)
	}
	if _, err := ParseReceipt(append(data, 0)); !errors.Is(err, ErrFormat) {
		t.Errorf("longer: %v", err)
	}
}

func TestAProverRefusesWhatIsNotThere(t *testing.T) {
	l := filled(t, "a", 20)
	if _, err := NewProver(1<<62, l.tile); !errors.Is(err, ErrFormat) {
		t.Errorf("a huge tree: %v", err)
	}
	p, err := NewProver(20, func(Tile) ([]byte, error) { return make([]byte, 19*32), nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Inclusion(20); !errors.Is(err, ErrProof) {
		t.Errorf("beyond: %v", err)
	}
	if _, err := p.Inclusion(3); !errors.Is(err, ErrFormat) {
		t.Errorf("a short tile: %v", err)
	}
	if _, err := p.Consistency(21); !errors.Is(err, ErrProof) {
		t.Errorf("beyond: %v", err)
	}
}

func TestKindsHaveWords(t *testing.T) {
	for _, k := range []RecordKind{Head, Register, Charter} {
		if got, err := ParseRecordKind(k.String()); err != nil || got != k {
			t.Errorf("%v: %v, %v", k, got, err)
		}
	}
	for _, s := range []string{"", "unknown", "HEAD", "heads"} {
		if _, err := ParseRecordKind(s); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func BenchmarkVerifyBatch(b *testing.B) {
	l := filled(b, "a", 1000)
	v := l.verifier(b)
	p, err := NewProver(1000, l.tile)
	if err != nil {
		b.Fatal(err)
	}
	batch := ReceiptBatch{Checkpoint: l.checkpoint(b, 1000)}
	for i := range 1000 {
		proof, err := p.Inclusion(uint64(i))
		if err != nil {
			b.Fatal(err)
		}
		batch.Items = append(batch.Items, BatchItem{Index: uint64(i), Leaf: l.leaves[i], Proof: proof})
	}
	data, err := batch.Bytes()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(data)), "bytes")
	for b.Loop() {
		got, err := ParseReceiptBatch(data)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := got.Verify(v); err != nil {
			b.Fatal(err)
		}
	}
}

func TestEachLedgerOfAnEmbassyHasANameOfItsOwn(t *testing.T) {
	first := Origin([16]byte{1}, bytes.Repeat([]byte{2}, 32))
	second := NextOrigin(first)
	if second != first+"/2" || NextOrigin(second) != first+"/3" || NextOrigin(first+"/10") != first+"/11" {
		t.Errorf("%s, %s", second, NextOrigin(second))
	}
	for _, odd := range []string{first + "/1", first + "/02", first + "/x", first + "/"} {
		if got := NextOrigin(odd); got != odd+"/2" {
			t.Errorf("%s is followed by %s", odd, got)
		}
	}
}
