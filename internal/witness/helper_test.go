package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

// fakeLog is a log in memory, which signs whatever it is told to. It may be used by several goroutines once grown.
type fakeLog struct {
	t      *testing.T
	origin string
	key    ed25519.PrivateKey
	hashes []tlog.Hash
	size   int64
}

// seedKey is the same key in every run.
func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// newLog makes a log with so many leaves; flavour tells the leaves of one log's histories apart.
func newLog(t *testing.T, n byte, size int, flavour string) *fakeLog {
	t.Helper()
	l := &fakeLog{t: t, origin: fmt.Sprintf("log.example/%d", n), key: seedKey(n)}
	l.grow(size, flavour)
	return l
}

func (l *fakeLog) grow(to int, flavour string) {
	l.t.Helper()
	for ; l.size < int64(to); l.size++ {
		more, err := tlog.StoredHashes(l.size, fmt.Appendf(nil, "%s %d", flavour, l.size), l.reader())
		if err != nil {
			l.t.Fatal(err)
		}
		l.hashes = append(l.hashes, more...)
	}
}

func (l *fakeLog) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = l.hashes[x]
		}
		return out, nil
	})
}

// fork is another history of the same log, the same up to at.
func (l *fakeLog) fork(at, size int) *fakeLog {
	f := newLog(l.t, l.key.Seed()[0], 0, "")
	f.grow(at, "leaf")
	f.grow(size, "other leaf")
	return f
}

func (l *fakeLog) log() ledger.Log {
	return ledger.Log{Origin: l.origin, Key: ed25519.PublicKey(l.key[32:]), Group: "LU", Member: "lu"}
}

func (l *fakeLog) root(size int) [32]byte {
	if size == 0 {
		return sha256.Sum256(nil)
	}
	root, err := tlog.TreeHash(int64(size), l.reader())
	if err != nil {
		panic(err)
	}
	return root
}

// checkpoint is signed by the log.
func (l *fakeLog) checkpoint(size int) []byte {
	return l.sign(l.origin, uint64(size), l.root(size), l.key)
}

func (l *fakeLog) sign(origin string, size uint64, root [32]byte, key ed25519.PrivateKey) []byte {
	s, err := ledger.NewSigner(l.origin, key)
	if err != nil {
		panic(err)
	}
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, tlog.Hash(root))}, s)
	if err != nil {
		panic(err)
	}
	return raw
}

func (l *fakeLog) proof(from, to int) [][32]byte {
	if from == 0 || from >= to {
		return nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), l.reader())
	if err != nil {
		panic(err)
	}
	out := make([][32]byte, len(p))
	for i := range p {
		out[i] = p[i]
	}
	return out
}

func (l *fakeLog) request(from, to int) *ledger.AddCheckpoint {
	return &ledger.AddCheckpoint{Old: uint64(from), Proof: l.proof(from, to), Checkpoint: l.checkpoint(to)}
}

// fetch is the log's own answer to Rouse.
func (l *fakeLog) fetch(_ context.Context, from, to ledger.Checkpoint) ([][32]byte, error) {
	return l.proof(int(from.Size), int(to.Size)), nil
}

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// open opens a witness with the keys of n and these logs, frozen.
func open(t *testing.T, dir string, n byte, c *clock, logs ...*fakeLog) *Witness {
	t.Helper()
	key := seedKey(n)
	name := ledger.WitnessName(ed25519.PublicKey(key[32:]))
	first, err := ledger.NewCosigner(name, key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ledger.NewMLDSACosigner(name, &[32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(dir, []*ledger.Cosigner{first, second}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	var list []ledger.Log
	for _, l := range logs {
		list = append(list, l.log())
	}
	if err := w.SetLogs(list); err != nil {
		t.Fatal(err)
	}
	return w
}

// awake opens a witness and thaws it.
func awake(t *testing.T, dir string, n byte, c *clock, logs ...*fakeLog) *Witness {
	t.Helper()
	w := open(t, dir, n, c, logs...)
	for _, l := range logs {
		if err := w.Thaw(l.origin); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func mustAdd(t *testing.T, w *Witness, req *ledger.AddCheckpoint) []byte {
	t.Helper()
	lines, err := w.Add(req)
	if err != nil {
		t.Fatal(err)
	}
	checkLines(t, w, req.Checkpoint, lines)
	return lines
}

// checkLines checks that lines are the cosignatures of all of the witness's keys.
func checkLines(t *testing.T, w *Witness, checkpoint, lines []byte) []ledger.Cosignature {
	t.Helper()
	both, err := ledger.AddSignatures(checkpoint, lines)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := unverified(both)
	if err != nil {
		t.Fatal(err)
	}
	found, err := ledger.Cosignatures(cp, w.Keys())
	if err != nil || len(found) != len(w.Keys()) {
		t.Fatalf("%d of %d cosignatures, %v", len(found), len(w.Keys()), err)
	}
	return found
}

// given is what a witness has cosigned and given out, in order; check finds where it contradicts itself.
type given struct {
	mu   sync.Mutex
	list []ledger.Checkpoint
}

func (g *given) note(raw []byte) {
	cp, err := unverified(raw)
	if err != nil {
		panic(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = append(g.list, cp)
}

// check tells where a tree is smaller than one given out before, or not of a history with it. histories are all that
// the log signed.
func (g *given) check(histories ...*fakeLog) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, b := range g.list {
		for _, a := range g.list[:i] {
			if b.Size < a.Size {
				return fmt.Errorf("%d leaves cosigned after %d", b.Size, a.Size)
			}
			joined := false
			for _, h := range histories {
				joined = joined || int64(b.Size) <= h.size && h.root(int(a.Size)) == a.Root && h.root(int(b.Size)) == b.Root
			}
			if !joined {
				return fmt.Errorf("%d and %d leaves cosigned of two histories", a.Size, b.Size)
			}
		}
	}
	return nil
}

// copyFolder is a backup of a witness's folder.
func copyFolder(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// tempsIn counts temporary files below a folder.
func tempsIn(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if durable.IsTemp(path) {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
