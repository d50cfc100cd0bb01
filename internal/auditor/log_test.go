package auditor

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
)

var testState = [16]byte{1}

func keyOf(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(who))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(k ed25519.PrivateKey) ed25519.PublicKey { return ed25519.PublicKey(k[32:]) }

// keeper signs for one log.
type keeper struct {
	key    ed25519.PrivateKey
	origin string
}

func keeperOf(who string) keeper {
	k := keyOf(who)
	return keeper{k, ledger.Origin(testState, publicOf(k))}
}

func (k keeper) log() ledger.Log {
	return ledger.Log{Origin: k.origin, Key: publicOf(k.key), Group: "LU", Member: "lu"}
}

func (k keeper) sign(t testing.TB, size uint64, root tlog.Hash) []byte {
	t.Helper()
	s, err := ledger.NewSigner(k.origin, k.key)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", k.origin, size, base64.StdEncoding.EncodeToString(root[:]))
	raw, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// act is the entry i of every test's log: a charter first, then objects.
func act(t testing.TB, i int, salt string) []byte {
	t.Helper()
	l := ledger.NewLeaf(ledger.ObjectStored, testState)
	l.Name, l.Size, l.Time = sha256.Sum256(fmt.Append(nil, salt, i)), uint64(i+1), 1_700_000_000_000_000_000
	if i == 0 {
		l.Kind, l.Slot = ledger.CharterTaken, ledger.Slot{Kind: ledger.Charter, Sequence: 1}
	}
	b, err := l.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func acts(t testing.TB, n int) [][]byte {
	t.Helper()
	list := make([][]byte, n)
	for i := range list {
		list[i] = act(t, i, "")
	}
	return list
}

// memory is a log's files in memory.
type memory map[string][]byte

func (m memory) Checkpoint() ([]byte, error) { return m.Tile("checkpoint") }

func (m memory) Tile(path string) ([]byte, error) {
	b, ok := m[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m memory) with(path string, change func([]byte) []byte) memory {
	out := maps.Clone(m)
	if _, ok := m[path]; !ok {
		panic("no file " + path) // a test that changes nothing must fail
	}
	out[path] = change(bytes.Clone(m[path]))
	return out
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		return b
	}
}

// built makes the files of a log of these entries, and its root.
func built(t testing.TB, list [][]byte) (memory, tlog.Hash) {
	t.Helper()
	m := memory{}
	var level []tlog.Hash
	for _, e := range list {
		level = append(level, ledger.LeafHash(e))
	}
	size := uint64(len(list))
	for n := 0; n*tileWidth < len(list); n++ {
		var b []byte
		for _, e := range list[n*tileWidth : min(len(list), (n+1)*tileWidth)] {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
		}
		path, _ := filePath(entries, uint64(n), size)
		m[path] = b
	}
	var tree ledger.Tree
	for _, h := range level {
		tree.Append(h)
	}
	for l := 0; len(level) > 0; l++ {
		var above []tlog.Hash
		for n := 0; n*tileWidth < len(level); n++ {
			part := level[n*tileWidth : min(len(level), (n+1)*tileWidth)]
			path, _ := filePath(l, uint64(n), size)
			for _, h := range part {
				m[path] = append(m[path], h[:]...)
			}
			if len(part) == tileWidth {
				above = append(above, fold(part))
			}
		}
		level = above
	}
	return m, tree.Root()
}

// logOf is an untouched log, signed.
func logOf(t testing.TB, k keeper, list [][]byte) memory {
	t.Helper()
	m, root := built(t, list)
	m["checkpoint"] = k.sign(t, uint64(len(list)), root)
	return m
}

// checkpointOf signs the first n of these entries.
func checkpointOf(t testing.TB, k keeper, list [][]byte) []byte {
	t.Helper()
	return logOf(t, k, list)["checkpoint"]
}

func verify(t testing.TB, src Source, k keeper, opts Options) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := Verify(ctx, src, k.log(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expect holds the first finding to kind, file and entry, and the verdict.
func expect(t *testing.T, r *Report, verdict error, kind Kind, path string, index uint64) {
	t.Helper()
	if !errors.Is(r.Verdict(), verdict) || verdict == nil && r.Verdict() != nil {
		t.Errorf("verdict %v, want %v; %s; %+v", r.Verdict(), verdict, r.Why, r.Findings)
	}
	if kind == "" {
		if len(r.Findings) > 0 {
			t.Errorf("findings %+v", r.Findings)
		}
		return
	}
	if len(r.Findings) == 0 {
		t.Fatalf("nothing found; %s", r.Why)
	}
	f := r.Findings[0]
	if f.Kind != kind || f.Path != path || f.Index != index || strings.TrimSpace(f.Why) == "" {
		t.Errorf("found %+v, want %s of %s at entry %d", r.Findings, kind, path, index)
	}
}

// bundleOf writes entries as a bundle.
func bundleOf(list ...[]byte) []byte {
	var b []byte
	for _, e := range list {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return b
}
