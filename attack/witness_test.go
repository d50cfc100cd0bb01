package attack

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// liarLog is a log in memory that signs two histories, the same up to forkAt leaves.
type liarLog struct {
	origin string
	signer note.Signer
	vkey   string
	trees  [2]history
}

// history is one history of a log: the stored hashes of its tree.
type history []tlog.Hash

const (
	forkAt  = 4
	lastOne = 40
)

func newLiarLog(t *testing.T) *liarLog {
	t.Helper()
	key := ed25519.NewKeyFromSeed(noise(9, ed25519.SeedSize))
	l := &liarLog{origin: "liar.example/log"}
	var err error
	if l.signer, err = ledger.NewSigner(l.origin, key); err != nil {
		t.Fatal(err)
	}
	if l.vkey, err = note.NewEd25519VerifierKey(l.origin, ed25519.PublicKey(key[32:])); err != nil {
		t.Fatal(err)
	}
	for i := range l.trees {
		h := &l.trees[i]
		for n := range int64(lastOne) {
			leaf := fmt.Appendf(nil, "leaf %d", n)
			if n >= forkAt {
				leaf = fmt.Appendf(nil, "leaf %d of history %d", n, i)
			}
			more, err := tlog.StoredHashes(n, leaf, h)
			if err != nil {
				t.Fatal(err)
			}
			*h = append(*h, more...)
		}
	}
	return l
}

// ReadHashes lets tlog read the tree.
func (h *history) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = (*h)[x]
	}
	return out, nil
}

// request asks to cosign the tree of to leaves after that of from leaves.
func (l *liarLog) request(tree int, from, to uint64) (*ledger.AddCheckpoint, error) {
	h := &l.trees[tree]
	root, err := tlog.TreeHash(int64(to), h)
	if err != nil {
		return nil, err
	}
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", l.origin, to, root)}, l.signer)
	if err != nil {
		return nil, err
	}
	req := &ledger.AddCheckpoint{Old: from, Checkpoint: raw}
	if from > 0 && from < to {
		proof, err := tlog.ProveTree(int64(to), int64(from), h)
		if err != nil {
			return nil, err
		}
		for _, p := range proof {
			req.Proof = append(req.Proof, p)
		}
	}
	return req, nil
}

// cosigned is one answer that a witness gave out.
type cosigned struct {
	tree int
	size uint64
}

// contradiction finds answers of which one denies the other; they are in the order in which they were given.
func contradiction(answers []cosigned) error {
	for i, b := range answers {
		for _, a := range answers[:i] {
			if b.size < a.size {
				return fmt.Errorf("%d leaves cosigned after %d", b.size, a.size)
			}
			if a.size > forkAt && a.tree != b.tree {
				return fmt.Errorf("%d and %d leaves cosigned, of two histories", a.size, b.size)
			}
		}
	}
	return nil
}

// sentry is a witness of the built program, and the log that lies to it.
type sentry struct {
	dir  string
	log  *liarLog
	keys []ledger.WitnessKey
}

func newSentry(t *testing.T, dir string, l *liarLog) *sentry {
	t.Helper()
	var a struct{ VKeys []string }
	answer(t, &a, []int{0}, "witness", "init", "--dir", dir)
	s := &sentry{dir: dir, log: l}
	for _, text := range a.VKeys {
		k, err := ledger.ParseWitnessKey(text)
		if err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, k)
	}
	return s
}

// run serves the witness, traced, and has f talk to it; then it is ended. f is not called when it ends before it serves.
func (s *sentry) run(x *tracer, f func(*witness.Remote) error) error {
	out, err := os.CreateTemp(filepath.Dir(s.dir), "out-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	pid, ended := make(chan int, 1), make(chan error, 1)
	go func() {
		argv := []string{program, "--json", "witness", "serve", "--dir", s.dir, "--log", s.log.vkey, "--alone", "--listen", "127.0.0.1:0"}
		_, err := x.run(argv, out, nil, func(p int) { pid <- p })
		ended <- err
	}()
	var process int
	select {
	case process = <-pid:
	case err := <-ended:
		return errors.Join(err, errors.New("the witness does not start"))
	}
	for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			return err
		default:
		}
		text, err := os.ReadFile(out.Name())
		if err != nil {
			return err
		}
		if line, whole := bytes.CutSuffix(text, []byte("\n")); whole {
			var a struct{ URL string }
			if err := json.Unmarshal(line, &a); err != nil {
				return err
			}
			ferr := f(&witness.Remote{Prefix: a.URL, Key: s.keys})
			_ = syscall.Kill(process, syscall.SIGTERM)
			return errors.Join(ferr, <-ended)
		}
	}
	_ = syscall.Kill(process, syscall.SIGKILL)
	return errors.Join(errors.New("the witness neither serves nor ends"), <-ended)
}

// lure has the log show a witness growing trees of one history, then of the other, and every smaller one; it notes
// what was cosigned. A witness that is killed meanwhile ends it.
func (s *sentry) lure(t *testing.T, r *witness.Remote, first int, most uint64, answers []cosigned) []cosigned {
	ask := func(tree int, from, to uint64) error {
		req, err := s.log.request(tree, from, to)
		if err != nil {
			return err
		}
		if _, err := r.Add(t.Context(), req); err == nil {
			answers = append(answers, cosigned{tree, to})
		} else if !errors.Is(err, witness.ErrProof) && !errors.Is(err, witness.ErrForked) && !errors.Is(err, witness.ErrInvalid) && !errors.As(err, new(*witness.OldSize)) {
			return err
		}
		return nil
	}
	for _, tree := range []int{first, 1 - first} {
		req, err := s.log.request(tree, 0, 1)
		if err != nil {
			t.Error(err)
			return answers
		}
		size, err := r.SizeOf(t.Context(), req.Checkpoint)
		if err != nil {
			return answers
		}
		if size == 1 {
			answers = append(answers, cosigned{tree, 1})
		}
		// From what it says it holds, in steps; then each smaller tree from every smaller one.
		for to := size + 2; to <= size+most; to += 2 {
			if ask(tree, to-2, to) != nil {
				return answers
			}
		}
		for to := uint64(1); to < size; to += 3 {
			if ask(tree, 0, to) != nil || ask(tree, to, to) != nil || ask(tree, size, to) != nil {
				return answers
			}
		}
	}
	return answers
}

// struck runs a witness that is harmed once, and then again in peace, while the log tries to have it contradict itself.
func (s *sentry) struck(t *testing.T, x *tracer) error {
	var answers []cosigned
	err := s.run(x, func(r *witness.Remote) error {
		answers = s.lure(t, r, 0, 8, answers)
		return nil
	})
	if err != nil {
		return err
	}
	before := len(answers)
	err = s.run(&tracer{}, func(r *witness.Remote) error {
		answers = s.lure(t, r, 1, 8, answers)
		return nil
	})
	if err != nil {
		return err
	}
	if x.at == 0 && before < 5 || len(answers) == before {
		return fmt.Errorf("only %d and %d answers", before, len(answers)-before)
	}
	return contradiction(answers)
}

// TestKillingAWitnessAtEverySystemCall kills a witness before each of its system calls that write, and fails them, and
// starts it again: whatever tree it cosigned and gave out, it never cosigns a smaller or another one.
func TestKillingAWitnessAtEverySystemCall(t *testing.T) {
	t.Parallel()
	l, dir := newLiarLog(t), t.TempDir()
	clean := &tracer{}
	if err := newSentry(t, filepath.Join(dir, "clean"), l).struck(t, clean); err != nil {
		t.Fatal(err)
	}
	var all []strike
	if exhaustive() {
		all = strikes(t, clean.named(), 0)
	}
	t.Logf("calls of a clean run: %v", clean.named())
	for name, count := range clean.named() {
		if !slices.Contains(strings.Fields("write fsync renameat unlinkat mkdirat openat"), name) {
			continue
		}
		from := 1
		if name == "openat" {
			from = max(1, count-8) // the first are those of the program's start, before it touches anything
		}
		for at := from; at <= count; at++ {
			all = append(all, strike{name, at, kill})
		}
		if name != "openat" {
			all = append(all, strike{name, count, fail}, strike{name, count, late}, strike{name, count / 2, fail}, strike{name, count / 2, late})
		}
	}
	queue := make(chan strike)
	var wait sync.WaitGroup
	var hit atomic.Int64
	for range 4 {
		wait.Go(func() {
			for s := range queue {
				folder := filepath.Join(dir, strings.ReplaceAll(s.String(), " ", "-"))
				x := &tracer{call: calls()[s.name], at: s.at, harm: s.harm}
				if err := newSentry(t, folder, l).struck(t, x); err != nil {
					t.Errorf("%v: %v", s, err)
				}
				if x.struck {
					hit.Add(1)
				}
			}
		})
	}
	began := time.Now()
	for _, s := range all {
		queue <- s
	}
	close(queue)
	wait.Wait()
	t.Logf("%d strikes in %v", hit.Load(), time.Since(began).Round(time.Second))
	if hit.Load() < int64(len(all)*3/4) {
		t.Errorf("only %d of %d strikes hit", hit.Load(), len(all))
	}
}

// TestAWitnessPutBackThatAsksNobodyContradictsItself is the control: yesterday's folder, and nobody who tells it.
func TestAWitnessPutBackThatAsksNobodyContradictsItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSentry(t, filepath.Join(dir, "w"), newLiarLog(t))
	var answers []cosigned
	lure := func(first int, most uint64) {
		t.Helper()
		err := s.run(&tracer{}, func(r *witness.Remote) error {
			answers = s.lure(t, r, first, most, answers)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	lure(0, 2)
	yesterday := filepath.Join(dir, "yesterday")
	if err := copyTree(s.dir, yesterday); err != nil {
		t.Fatal(err)
	}
	lure(0, 10)
	if err := contradiction(answers); err != nil {
		t.Fatal(err)
	}
	s.dir = yesterday
	lure(1, 6)
	if contradiction(answers) == nil {
		t.Error("nothing is amiss")
	}
}
