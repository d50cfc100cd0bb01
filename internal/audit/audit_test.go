package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// split takes an answer apart into its frames.
func split(t testing.TB, answer []byte) [][]byte {
	t.Helper()
	var frames [][]byte
	for rest := answer; ; {
		n := binary.BigEndian.Uint32(rest)
		if n == 0 {
			return frames
		}
		frames, rest = append(frames, rest[4:4+n]), rest[4+n:]
	}
}

// joined signs frames as an answer.
func joined(t testing.TB, ch *Challenge, frames [][]byte, key ed25519.PrivateKey) []byte {
	t.Helper()
	var b bytes.Buffer
	hashes := [][32]byte{}
	for _, f := range frames {
		if err := writeFrame(&b, f); err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, ledger.LeafHash(f))
	}
	message, err := signed(ch, uint64(len(frames)), root(hashes))
	if err != nil {
		t.Fatal(err)
	}
	b.Write(make([]byte, 4))
	b.Write(ed25519.Sign(key, message))
	return b.Bytes()
}

// respondAs answers for h and signs with another key.
func respondAs(w io.Writer, ch *Challenge, h *host, key ed25519.PrivateKey) error {
	var b bytes.Buffer
	if err := Respond(&b, ch, h, h.key); err != nil {
		return err
	}
	var frames [][]byte
	for rest := b.Bytes(); binary.BigEndian.Uint32(rest) > 0; {
		n := binary.BigEndian.Uint32(rest)
		frames, rest = append(frames, rest[4:4+n]), rest[4+n:]
	}
	var hashes [][32]byte
	for _, f := range frames {
		hashes = append(hashes, ledger.LeafHash(f))
	}
	message, err := signed(ch, uint64(len(frames)), root(hashes))
	if err != nil {
		return err
	}
	answer := b.Bytes()
	_, err = w.Write(append(answer[:len(answer)-64], ed25519.Sign(key, message)...))
	return err
}

// TestEveryObjectSizeIsShown audits all leaves' numbers and lengths there can be.
func TestEveryObjectSizeIsShown(t *testing.T) {
	h := newHost("lu")
	random := rand.New(rand.NewPCG(1, 2))
	for i, n := range []int{9, shard.LeafSize - 1, shard.LeafSize, shard.LeafSize + 1, 3 * shard.LeafSize, 5*shard.LeafSize + 7} {
		h.charter(t, uint64(i+1))
		h.store(t, content(random, uint64(i), n))
	}
	for nonce := range uint64(10) {
		res, err := h.audited(t, h.sample(t, nonce, 30))
		if err != nil || res.Objects != 30 || Judge(res, err, 0, testDeadline) != OK {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	ch := NewRange(testState, h.id(), h.checkpoint(t, 12), nonceOf(1), 2, 9)
	res, err := h.audited(t, ch)
	if err != nil || res.Checked != 7 || res.Objects != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// TestBadAnswers changes one thing of a good answer, and sees each change. The
// unchanged answer is the control.
func TestBadAnswers(t *testing.T) {
	h := filled(t, "lu", 30, 2*shard.LeafSize)
	ch := h.sample(t, 7, 20)
	good := h.answer(t, ch)
	reframe := func(i int, change func(*frame)) []byte {
		frames := split(t, good)
		var f frame
		if err := decode(frames[i], maxFrame, &f); err != nil {
			t.Fatal(err)
		}
		change(&f)
		body, err := encode(&f)
		if err != nil {
			t.Fatal(err)
		}
		frames[i] = body
		return joined(t, ch, frames, h.key)
	}
	other := filled(t, "lu", 31, 2*shard.LeafSize) // the same embassy's other history
	frames := split(t, good)
	for _, c := range []struct {
		name   string
		answer []byte
		err    error
		want   Outcome
	}{
		{"unchanged", good, nil, OK},
		{"made anew", joined(t, ch, frames, h.key), nil, OK},
		{"empty", nil, ErrCut, Offline},
		{"cut in a frame", good[:len(good)/2], ErrCut, Offline},
		{"cut before the signature", good[:len(good)-64], ErrCut, Offline},
		{"a byte more", append(bytes.Clone(good), 0), ErrAnswer, Wrong},
		{"fewer frames", joined(t, ch, frames[:len(frames)-1], h.key), ErrAnswer, Wrong},
		{"a frame twice", joined(t, ch, append(frames[:1:1], frames...), h.key), ErrAnswer, Wrong},
		{"frames swapped", joined(t, ch, append([][]byte{frames[1], frames[0]}, frames[2:]...), h.key), ErrAnswer, Wrong},
		{"a frame too many", joined(t, ch, append(frames[:len(frames):len(frames)], frames[0]), h.key), ErrAnswer, Wrong},
		{"a frame without end", append(binary.BigEndian.AppendUint32(nil, math.MaxUint32), make([]byte, 1000)...), ErrAnswer, Wrong},
		{"no CBOR", joined(t, ch, [][]byte{[]byte("hello")}, h.key), ErrAnswer, Wrong},
		{"to another challenge", h.answer(t, h.sample(t, 8, 20)), ErrAnswer, Wrong},
		{"another key's", joined(t, ch, frames, keyOf("pt")), ErrUnsigned, Wrong},
		{"an unknown status", reframe(3, func(f *frame) { f.Status = 9 }), ErrAnswer, Wrong},
		{"an object called none", reframe(3, func(f *frame) { f.Status, f.Data, f.Path = notObject, nil, nil }), ErrAnswer, Wrong},
		{"missing, and yet there", reframe(3, func(f *frame) { f.Status = missing }), ErrAnswer, Wrong},
		{"said to be missing", reframe(3, func(f *frame) { f.Status, f.Data, f.Path = missing, nil, nil }), nil, Missing},
		{"another entry", reframe(3, func(f *frame) { f.Leaf = h.entries[1+f.Index%29] }), nil, Wrong},
		{"an entry of another history", reframe(3, func(f *frame) {
			f.Leaf = other.entries[f.Index]
			proof, _ := other.Inclusion(f.Index, 32)
			f.Proof = flat(proof)
		}), nil, Wrong},
		{"a proof cut", reframe(3, func(f *frame) { f.Proof = f.Proof[32:] }), nil, Wrong},
		{"a path too long", reframe(0, func(f *frame) { f.Path = append(f.Path, f.Proof[:32]...) }), nil, Wrong},
	} {
		res, err := Verify(bytes.NewReader(c.answer), ch, h.log())
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if got := Judge(res, err, 0, testDeadline); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestChallengesAreTheEmbassysOwn: an embassy answers only to what was asked of
// itself, and writes nothing else.
func TestChallengesAreTheEmbassysOwn(t *testing.T) {
	h, other := filled(t, "lu", 10, 100), filled(t, "pt", 10, 100)
	for name, ch := range map[string]*Challenge{
		"another embassy":          other.sample(t, 1, 5),
		"another's checkpoint":     NewSample(testState, h.id(), other.checkpoint(t, 11), nonceOf(1), 5),
		"another state":            NewSample([16]byte{9}, h.id(), h.checkpoint(t, 11), nonceOf(1), 5),
		"beyond the checkpoint":    NewRange(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), 5, 12),
		"nothing":                  NewSample(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), 0),
		"too many":                 NewSample(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), MaxEntries+1),
		"an empty range":           NewRange(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), 5, 5),
		"a range backwards":        NewRange(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), 5, 4),
		"too long a range":         NewRange(testState, h.id(), h.checkpoint(t, 11), nonceOf(1), 0, MaxEntries+1),
		"no checkpoint":            NewSample(testState, h.id(), nil, nonceOf(1), 5),
		"an empty ledger":          NewSample(testState, h.id(), h.sign(t, 0, root(nil)), nonceOf(1), 5),
		"a mode that is not there": {Version: 1, State: testState, Embassy: h.id(), Checkpoint: h.checkpoint(t, 11), Mode: 3, Count: 1},
	} {
		var b bytes.Buffer
		if err := Respond(&b, ch, h, h.key); err == nil || b.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, b.Len(), err)
		}
		res, err := Verify(bytes.NewReader(nil), ch, h.log())
		if got := Judge(res, err, 0, testDeadline); got != Unknown {
			t.Errorf("%s: %v (%v)", name, got, err)
		}
	}
	if err := Respond(io.Discard, h.sample(t, 1, 5), h, h.key); err != nil { // the control
		t.Error(err)
	}
}

// A ledger without objects is shown to be one, each entry once.
func TestOfRecordsNothingIsAsked(t *testing.T) {
	h := newHost("lu")
	for n := range uint64(5) {
		h.charter(t, n+1)
	}
	res, err := h.audited(t, h.sample(t, 1, MaxEntries))
	if err != nil || res.Checked != 5 || res.Objects != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	h.store(t, []byte("an object"))
	res, err = h.audited(t, h.sample(t, 1, 50))
	if err != nil || res.Objects != 50 || res.Checked > 55 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// TestDraws: over many draws each entry comes as often as any other.
func TestDraws(t *testing.T) {
	h := filled(t, "lu", 3, 100)
	for _, size := range []uint64{1, 2, 3, 1000, 1<<60 - 1} {
		d, err := newDraws(h.sample(t, 1, 1), size)
		if err != nil {
			t.Fatal(err)
		}
		const n = 20000
		var bins [4]int
		for i := range uint64(n) {
			x := d.at(i)
			if x.index >= size {
				t.Fatalf("entry %d of %d", x.index, size)
			}
			bins[int(float64(x.index)/float64(size)*4)&3]++
		}
		if size < 4 {
			continue
		}
		for b, got := range bins {
			if math.Abs(float64(got)-n/4) > 5*math.Sqrt(n*3/16.0) {
				t.Errorf("size %d: quarter %d came %d times of %d", size, b, got, n)
			}
		}
	}
}

// TestNobodyKnowsTheDraws: an embassy that knows what will be asked can drop all
// else and pass; the auditor's nonce is what keeps it from knowing.
func TestNobodyKnowsTheDraws(t *testing.T) {
	h := filled(t, "lu", 500, 100)
	guessed := h.sample(t, 1, 50)
	kept := map[shard.Name]bool{}
	for _, body := range split(t, h.answer(t, guessed)) {
		var f frame
		if err := decode(body, maxFrame, &f); err != nil {
			t.Fatal(err)
		}
		if leaf, ok := objectLeaf(f.Leaf); ok {
			kept[leaf.Name] = true
		}
	}
	for _, name := range h.names {
		h.gone[name] = !kept[name]
	}
	if res, err := h.audited(t, guessed); Judge(res, err, 0, testDeadline) != OK { // the control
		t.Error("it does not pass what it foresaw")
	}
	if res, err := h.audited(t, h.sample(t, 2, 50)); Judge(res, err, 0, testDeadline) != Missing {
		t.Error("it passes what it could not foresee")
	}
}

// TestFindsALossOfOnePercent removes 1 % of the objects, another 1 % in each of
// 1,000 runs. 460 draws miss them all with probability 0.99^460 = 0.98 %, so 99.0 %
// of the runs are expected to find the loss, with a standard deviation of 0.3 %.
// The control: of 46 draws 37.0 % do.
func TestFindsALossOfOnePercent(t *testing.T) {
	const objects = 2000
	h := newHost("lu")
	random := rand.New(rand.NewPCG(3, 4))
	for i := range objects {
		h.store(t, content(random, uint64(i), 60))
	}
	checkpoint := h.checkpoint(t, objects)
	for i := range uint64(objects) { // the runs share the proofs
		if _, err := h.Inclusion(i, objects); err != nil {
			t.Fatal(err)
		}
	}
	find := func(count uint32, runs int) float64 {
		var found atomic.Int64
		var workers sync.WaitGroup
		for worker := range 2 {
			workers.Go(func() {
				for run := worker; run < runs; run += 2 {
					if h.finds(t, checkpoint, uint64(run), count, objects/100) {
						found.Add(1)
					}
				}
			})
		}
		workers.Wait()
		return float64(found.Load()) / float64(runs)
	}
	runs := 1000
	if testing.Short() {
		runs = 100
	}
	got, control := find(460, runs), find(46, min(runs, 300))
	t.Logf("460 leaves: %.1f %% of the runs find it (expected %.1f %%); 46 leaves: %.1f %% (expected %.1f %%)",
		100*got, 100*(1-math.Pow(0.99, 460)), 100*control, 100*(1-math.Pow(0.99, 46)))
	if got < 0.98 {
		t.Errorf("460 leaves find it in %.1f %% of the runs", 100*got)
	}
	if control > 0.45 {
		t.Errorf("46 leaves find it in %.1f %%: something else finds it", 100*control)
	}
}

// finds audits a host that lost some of its objects, chosen by the run, and tells
// whether the loss is found. The answer ends with the first loss that it shows:
// what comes after changes nothing (TestUnknownIsNeverOK), and takes time.
func (h *host) finds(t *testing.T, checkpoint []byte, run uint64, count uint32, lost int) bool {
	own := *h
	own.gone = map[shard.Name]bool{}
	random := rand.New(rand.NewPCG(run, uint64(count)))
	for len(own.gone) < lost {
		own.gone[h.names[random.IntN(len(h.names))]] = true
	}
	ch := NewSample(testState, h.id(), checkpoint, nonceOf(run), count)
	b := untilLoss{host: losing{host: &own}}
	if err := Respond(&b, ch, &b.host, h.key); err == nil && b.host.shown {
		t.Errorf("run %d: the answer goes on after the loss", run)
	}
	res, err := Verify(&b.Buffer, ch, h.log())
	got := Judge(res, err, 0, testDeadline)
	if got != Missing && got != OK {
		t.Errorf("run %d: %v, %v", run, got, err)
	}
	return got == Missing
}

// untilLoss keeps an answer up to the first object that is gone.
type untilLoss struct {
	bytes.Buffer
	host losing
	ends bool
}

type losing struct {
	*host
	shown bool
}

func (l *losing) Leaf(name shard.Name, size uint64, leaf int) ([]byte, [][32]byte, error) {
	data, path, err := l.host.Leaf(name, size, leaf)
	l.shown = l.shown || err != nil
	return data, path, err
}

// Write takes the length and the body of the frame that shows the loss, and no more.
func (u *untilLoss) Write(p []byte) (int, error) {
	if u.ends {
		return 0, io.ErrClosedPipe
	}
	u.ends = u.host.shown && len(p) > 4
	return u.Buffer.Write(p)
}

// TestAnotherLedgerIsNotAnsweredFor: an embassy whose ledger began anew, or was put
// back and went on differently, signs nothing about the ledger that it no longer
// has; what it would have signed would convict it.
func TestAnotherLedgerIsNotAnsweredFor(t *testing.T) {
	before, now := filled(t, "lu", 20, 100), filled(t, "lu", 30, 100)
	ch := before.sample(t, 1, 10)
	var b bytes.Buffer
	if err := Respond(&b, ch, now, now.key); !errors.Is(err, ErrChallenge) || b.Len() > 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	res, err := Verify(&b, ch, before.log())
	if got := Judge(res, err, 0, testDeadline); got != Offline {
		t.Error(got)
	}
	// The control: the one that still has it answers.
	if err := Respond(&b, ch, before, before.key); err != nil {
		t.Error(err)
	}
}

// A renewed ledger has another origin, and is audited by that.
func TestRenewedLedger(t *testing.T) {
	h := filled(t, "lu", 10, 100)
	h.origin = ledger.NextOrigin(h.log().Origin)
	if res, err := h.audited(t, h.sample(t, 1, 10)); Judge(res, err, 0, testDeadline) != OK {
		t.Error(err)
	}
	ch := h.sample(t, 1, 10)
	h.origin = ledger.NextOrigin(h.origin) // renewed once more: a challenge of before is not one of this ledger
	if res, err := Verify(bytes.NewReader(h.answer(t, ch)), ch, h.log()); Judge(res, err, 0, testDeadline) != Unknown {
		t.Error(err)
	}
}
