package witness

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

func TestAddAnswersAsTheProtocolSays(t *testing.T) {
	t.Parallel()
	a, b := newLog(t, 1, 40, "leaf"), newLog(t, 2, 5, "leaf")
	fork := a.fork(10, 40)
	w := awake(t, t.TempDir(), 9, newClock(), a)
	mustAdd(t, w, a.request(0, 7))
	foreign := a.request(7, 12)
	foreign.Checkpoint = a.sign(a.origin, 12, a.root(12), seedKey(3))
	renamed := a.request(7, 12)
	renamed.Checkpoint = b.sign(a.origin, 12, a.root(12), b.key)
	wrong := a.request(7, 12)
	wrong.Proof[0][0] ^= 1
	long := a.request(7, 12)
	long.Proof = append(long.Proof, [32]byte{})
	needless := a.request(7, 7)
	needless.Proof = a.proof(3, 7)
	for name, c := range map[string]struct {
		req  *ledger.AddCheckpoint
		want error
	}{
		"another log":                  {b.request(0, 5), ErrUnknownLog},
		"another key":                  {foreign, ErrSignature},
		"the signature of another log": {renamed, ErrSignature},
		"from more to fewer leaves":    {a.request(8, 7), ErrInvalid},
		"one size, two roots":          {&ledger.AddCheckpoint{Old: 7, Checkpoint: a.sign(a.origin, 7, [32]byte{1}, a.key)}, ErrForked},
		"the same at any old size":     {&ledger.AddCheckpoint{Old: 3, Checkpoint: a.sign(a.origin, 7, [32]byte{1}, a.key)}, ErrForked},
		"a wrong proof":                {wrong, ErrProof},
		"no proof":                     {&ledger.AddCheckpoint{Old: 7, Checkpoint: a.checkpoint(12)}, ErrProof},
		"a proof too long":             {long, ErrProof},
		"a proof where none is due":    {needless, ErrProof},
		"a fork":                       {&ledger.AddCheckpoint{Old: 7, Proof: fork.fork(3, 40).proof(7, 12), Checkpoint: fork.fork(3, 40).checkpoint(12)}, ErrProof},
		"not a checkpoint":             {&ledger.AddCheckpoint{Checkpoint: []byte(a.origin + "\n")}, ErrInvalid},
	} {
		if lines, err := w.Add(c.req); !errors.Is(err, c.want) || lines != nil {
			t.Errorf("%s: %q, %v; want %v", name, lines, err, c.want)
		}
	}
	for from, to := range map[int]int{0: 7, 3: 12, 6: 40, 12: 13} {
		var old *OldSize
		if _, err := w.Add(a.request(from, to)); !errors.As(err, &old) || old.Size != 7 {
			t.Errorf("from %d to %d: %v", from, to, err)
		}
	}
	mustAdd(t, w, a.request(7, 7))
	mustAdd(t, w, a.request(7, 8))
	mustAdd(t, w, a.request(8, 40))
}

func TestAnEmptyTreeIsCosignedToo(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 3, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	mustAdd(t, w, l.request(0, 0))
	mustAdd(t, w, l.request(0, 0))
	if _, err := w.Add(&ledger.AddCheckpoint{Checkpoint: l.sign(l.origin, 0, [32]byte{1}, l.key)}); !errors.Is(err, ErrForked) {
		t.Errorf("another empty tree: %v", err)
	}
	mustAdd(t, w, l.request(0, 3))
}

func TestRacingRequestsAreCosignedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	const racers = 16
	l := newLog(t, 1, 100, "leaf")
	fork := l.fork(10, 100)
	race := func(witnesses ...*Witness) error {
		g := given{}
		var wait sync.WaitGroup
		for i := range racers {
			from := []*fakeLog{l, fork}[i%2]
			req := from.request(10, 20+i)
			wait.Go(func() {
				if _, err := witnesses[i%len(witnesses)].Add(req); err == nil {
					g.note(req.Checkpoint)
				}
			})
		}
		wait.Wait()
		if len(g.list) == 0 {
			return errors.New("nobody won")
		}
		return g.check(l, fork)
	}
	for range 5 {
		w := awake(t, t.TempDir(), 9, newClock(), l)
		mustAdd(t, w, l.request(0, 10))
		if err := race(w); err != nil {
			t.Fatal(err)
		}
	}
	// The control: two witnesses of one key that do not see each other.
	one, two := awake(t, t.TempDir(), 9, newClock(), l), awake(t, t.TempDir(), 9, newClock(), l)
	mustAdd(t, one, l.request(0, 10))
	mustAdd(t, two, l.request(0, 10))
	if race(one, two) == nil {
		t.Error("without compare and swap nothing is amiss")
	}
}

func TestTheSecondWaitsForTheFirstsDisk(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 30, "leaf")
	w := awake(t, t.TempDir(), 9, newClock(), l)
	mustAdd(t, w, l.request(0, 10))
	under, goOn := make(chan struct{}), make(chan struct{})
	write := w.write
	w.write = func(path string, data []byte) error {
		under <- struct{}{}
		<-goOn
		return write(path, data)
	}
	answers := make(chan error, 2)
	go func() { _, err := w.Add(l.request(10, 20)); answers <- err }()
	<-under
	go func() { _, err := w.Add(l.request(10, 15)); answers <- err }()
	select {
	case err := <-answers:
		t.Fatalf("answered before the disk did: %v", err)
	default:
	}
	close(goOn)
	var old *OldSize
	first, second := <-answers, <-answers
	if first != nil { // each may be the first to say so
		first, second = second, first
	}
	if first != nil || !errors.As(second, &old) || old.Size != 20 {
		t.Errorf("%v and %v", first, second)
	}
}

var errCrash = errors.New("crash")

// crashes runs a witness that dies again and again, before or after a write or between write and answer, while a log
// shows it trees of two histories; and returns what it gave out, judged.
func crashes(t *testing.T, seed uint64, late bool) error {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	l := newLog(t, 1, 60, "leaf")
	fork := l.fork(5, 60)
	dir, c, g := t.TempDir(), newClock(), given{}
	for range 12 {
		w := awake(t, dir, 9, c, l)
		w.late = late
		// Whole or not at all, without waiting for the disk: what durable does in earnest.
		write := func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }
		left, dead := r.IntN(4), false
		w.write = func(path string, data []byte) error {
			if left--; left < 0 {
				dead = true
				if r.IntN(2) == 0 {
					return errCrash
				}
				return errors.Join(write(path, data), errCrash)
			}
			return write(path, data)
		}
		for tries := 0; tries < 10 && !dead; tries++ {
			c.add(again)
			from := []*fakeLog{l, fork}[r.IntN(2)]
			held, _, err := w.holds(l.origin)
			if err != nil {
				t.Fatal(err)
			}
			req := from.request(int(held.Size), min(int(held.Size)+r.IntN(4), 60))
			if _, err := w.Add(req); err == nil {
				g.note(req.Checkpoint)
			}
			if log := w.logs[ID(l.origin)]; late && r.IntN(3) == 0 && log.owed != nil {
				if err := write(filepath.Join(w.logFolder(), log.id), log.owed); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(g.list) == 0 {
		t.Fatalf("seed %d: nothing was cosigned", seed)
	}
	return g.check(l, fork)
}

func TestWhatWasGivenOutBindsAcrossCrashes(t *testing.T) {
	t.Parallel()
	broken := 0
	for seed := range uint64(12) {
		if err := crashes(t, seed, false); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if crashes(t, seed, true) != nil {
			broken++
		}
	}
	if broken == 0 {
		t.Error("the control: answering before the disk did breaks nothing")
	}
}

func TestAFailingDiskCosignsNothing(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 30, "leaf")
	dir := t.TempDir()
	w := awake(t, dir, 9, newClock(), l)
	mustAdd(t, w, l.request(0, 10))
	write := w.write
	w.write = func(string, []byte) error { return errCrash }
	if lines, err := w.Add(l.request(10, 20)); !errors.Is(err, errCrash) || lines != nil {
		t.Errorf("%q, %v", lines, err)
	}
	w.write = write
	mustAdd(t, w, l.request(10, 12))
}

func TestFrozenAfterItsOwnRestoreUntilTold(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	fork := l.fork(12, 40)
	for _, bold := range []bool{false, true} {
		c, g := newClock(), given{}
		dir := t.TempDir()
		w := awake(t, dir, 9, c, l)
		mustAdd(t, w, l.request(0, 10))
		backup := copyFolder(t, dir)
		mustAdd(t, w, l.request(10, 30))
		g.note(l.checkpoint(30))
		// The disk is lost, and yesterday's copy put back.
		w = open(t, backup, 9, c)
		w.bold = bold
		if err := w.SetLogs([]ledger.Log{l.log()}); err != nil {
			t.Fatal(err)
		}
		smaller := fork.request(10, 20)
		_, err := w.Add(smaller)
		if err == nil {
			g.note(smaller.Checkpoint)
		}
		broken := g.check(l, fork)
		if bold {
			if broken == nil {
				t.Error("the control: thawed from the start, it contradicts nothing")
			}
			continue
		}
		if !errors.Is(err, ErrFrozen) || broken != nil || !w.Frozen(l.origin) {
			t.Fatalf("frozen: %v, %v", err, broken)
		}
		if raw, ok := w.Seen(l.origin); !ok || !bytes.HasPrefix(raw, []byte(l.origin+"\n10\n")) {
			t.Errorf("it does not tell what it has: %q", raw)
		}
		if err := w.Learn(l.origin, l.checkpoint(30), nil, l.proof(10, 30)); err != nil {
			t.Fatal(err)
		}
		if err := w.Thaw(l.origin); err != nil {
			t.Fatal(err)
		}
		var old *OldSize
		if _, err := w.Add(smaller); !errors.As(err, &old) || old.Size != 30 {
			t.Errorf("thawed, the smaller tree: %v", err)
		}
		raw, _ := w.Seen(l.origin)
		checkLines(t, w, l.checkpoint(30), raw[bytes.LastIndex(raw, []byte("\n\n"))+2:])
		mustAdd(t, w, l.request(30, 40))
	}
}

func TestLearningNeverGoesBackAndNeedsProof(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	fork := l.fork(3, 40)
	c := newClock()
	peer := awake(t, t.TempDir(), 8, c, l)
	mustAdd(t, peer, l.request(0, 20))
	told, _ := peer.Seen(l.origin)
	dir := t.TempDir()
	w := awake(t, dir, 9, c, l)
	mustAdd(t, w, l.request(0, 10))
	w = open(t, dir, 9, c, l)
	stranger, err := ledger.NewWitnessKey("stranger.example", ed25519.PublicKey(seedKey(7)[32:]))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		note  []byte
		keys  []ledger.WitnessKey
		proof [][32]byte
		want  error
	}{
		"not signed by the log": {l.sign(l.origin, 20, l.root(20), seedKey(5)), nil, l.proof(10, 20), ErrSignature},
		"not by the peer":       {told, []ledger.WitnessKey{stranger}, l.proof(10, 20), ErrSignature},
		"without proof":         {told, peer.Keys(), nil, ErrProof},
		"another history":       {fork.checkpoint(20), nil, fork.proof(10, 20), ErrProof},
		"another of this size":  {fork.checkpoint(10), nil, nil, ErrForked},
		"less":                  {l.checkpoint(5), nil, nil, nil},
	} {
		err := w.Learn(l.origin, c.note, c.keys, c.proof)
		if held, _, _ := w.holds(l.origin); !errors.Is(err, c.want) || held.Size != 10 {
			t.Errorf("%s: %v, holds %d", name, err, held.Size)
		}
	}
	if err := w.Learn(l.origin, told, peer.Keys(), l.proof(10, 20)); err != nil {
		t.Fatal(err)
	}
	if raw, ok := open(t, dir, 9, c, l).Seen(l.origin); !ok || !bytes.HasPrefix(raw, []byte(l.origin+"\n20\n")) {
		t.Errorf("what was learned is not on disk: %q", raw)
	}
	if err := w.Learn("elsewhere", told, nil, nil); !errors.Is(err, ErrUnknownLog) {
		t.Error(err)
	}
}

func TestAClockSetBackDoesNotMakeALargerTreeOlder(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	dir, c := t.TempDir(), newClock()
	w := awake(t, dir, 9, c, l)
	first := checkLines(t, w, l.checkpoint(10), mustAdd(t, w, l.request(0, 10)))
	for _, fresh := range []bool{false, true} {
		c.add(-time.Hour)
		if fresh {
			w = awake(t, dir, 9, c, l)
		}
		held, _, _ := w.holds(l.origin)
		to := int(held.Size) + 5
		next := checkLines(t, w, l.checkpoint(to), mustAdd(t, w, l.request(int(held.Size), to)))
		if next[0].Time.Before(first[0].Time) {
			t.Errorf("%d leaves at %v after %v", to, next[0].Time, first[0].Time)
		}
	}
}

func TestOneTreeIsWrittenOnceInAWhile(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1, 40, "leaf")
	c := newClock()
	w := awake(t, t.TempDir(), 9, c, l)
	writes := 0
	write := w.write
	w.write = func(path string, data []byte) error { writes++; return write(path, data) }
	first := mustAdd(t, w, l.request(0, 10))
	for range 5 {
		if !bytes.Equal(first, mustAdd(t, w, l.request(10, 10))) {
			t.Error("another answer")
		}
	}
	if writes != 1 {
		t.Errorf("%d writes", writes)
	}
	c.add(again)
	if bytes.Equal(first, mustAdd(t, w, l.request(10, 10))) || writes != 2 {
		t.Errorf("no fresh cosignature after a while (%d writes)", writes)
	}
}
