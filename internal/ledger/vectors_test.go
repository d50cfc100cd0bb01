package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "../../testdata/vectors/ledger/receipts.json"

// vector is one receipt and what a verifier must say of it.
type vector struct {
	Name    string `json:"name"`
	Key     string `json:"key"` // the embassy's Ed25519 public key, hex
	State   string `json:"state"`
	Origin  string `json:"origin"`
	Receipt string `json:"receipt"` // hex
	// Expect is "ok", "format", "unknown", "signature" or "proof".
	Expect string `json:"expect"`
	Leaf   string `json:"leaf,omitempty"` // hex of the leaf, where ok
}

var verdicts = map[string]error{"ok": nil, "format": ErrFormat, "unknown": ErrUnknown, "signature": ErrSignature, "proof": ErrProof}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(data, &vectors); err != nil || len(vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			key, state, raw := unhex(t, v.Key), unhex(t, v.State), unhex(t, v.Receipt)
			if got := Origin([16]byte(state), key); got != v.Origin {
				t.Errorf("origin %s, want %s", got, v.Origin)
			}
			verifier, err := NewVerifier(v.Origin, key)
			if err != nil {
				t.Fatal(err)
			}
			want, ok := verdicts[v.Expect]
			if !ok {
				t.Fatalf("expect %q", v.Expect)
			}
			r, err := ParseReceipt(raw)
			if err == nil {
				_, _, err = r.Verify(verifier)
			}
			if !errors.Is(err, want) {
				t.Errorf("%v, want %s", err, v.Expect)
			}
			if want == nil && hex.EncodeToString(r.Leaf) != v.Leaf {
				t.Error("another leaf")
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeVectors(t *testing.T) {
	t.Helper()
	l := newLog([16]byte{1}, "vectors")
	for i := range 300 {
		leaf := objectLeaf(i)
		if i%3 == 1 {
			leaf.Kind, leaf.Slot = RecordStored, Slot{Kind: Head, Register: [16]byte{7}, Sequence: uint64(i)}
		}
		if i == 0 {
			leaf.Kind, leaf.Slot = CharterTaken, Slot{Kind: Charter, Sequence: 1}
		}
		l.add(t, mustBytes(t, &leaf))
	}
	var out []vector
	add := func(name, expect string, r Receipt, change func([]byte) []byte) {
		raw, err := r.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			raw = change(raw)
		}
		v := vector{
			Name: name, Expect: expect, Key: hex.EncodeToString(l.key.Public().(ed25519.PublicKey)),
			State: hex.EncodeToString([]byte{1, 15: 0}), Origin: l.origin, Receipt: hex.EncodeToString(raw),
		}
		if expect == "ok" {
			v.Leaf = hex.EncodeToString(r.Leaf)
		}
		out = append(out, v)
	}
	spoil := func(i int, f func(*Receipt)) Receipt { r := l.receipt(t, i, 300); f(&r); return r }
	nothing := func(*Receipt) {}
	add("the charter, first of one", "ok", l.receipt(t, 0, 1), nil)
	add("a record, second of three", "ok", l.receipt(t, 1, 3), nil)
	add("an object, last of 256", "ok", l.receipt(t, 255, 256), nil)
	add("an object, first of the second tile", "ok", l.receipt(t, 257, 300), nil)
	add("another index", "proof", spoil(5, func(r *Receipt) { r.Index = 6 }), nil)
	add("another leaf", "proof", spoil(5, func(r *Receipt) { r.Leaf = l.leaves[6] }), nil)
	add("a proof cut", "proof", spoil(5, func(r *Receipt) { r.Proof = r.Proof[:3] }), nil)
	add("a flipped bit in the proof", "proof", spoil(5, func(r *Receipt) { r.Proof[0][0] ^= 1 }), nil)
	add("a checkpoint of another tree", "proof", spoil(5, func(r *Receipt) { r.Checkpoint = l.checkpoint(t, 299) }), nil)
	other := filled(t, "another key", 300)
	add("a checkpoint by another key", "signature", spoil(5, func(r *Receipt) { r.Checkpoint = other.checkpoint(t, 300) }), nil)
	add("a flipped bit in the signature", "signature", spoil(5, func(r *Receipt) {
		r.Checkpoint = bytes.Clone(r.Checkpoint)
		r.Checkpoint[len(r.Checkpoint)-10] ^= 1
	}), nil)
	add("a leaf of version 2", "unknown", spoil(5, func(r *Receipt) { r.Leaf = bytes.Clone(r.Leaf); r.Leaf[1] = 2 }), nil)
	add("a leaf of kind 9", "unknown", spoil(5, func(r *Receipt) { r.Leaf = bytes.Clone(r.Leaf); r.Leaf[2] = 9 }), nil)
	add("a byte too many", "format", spoil(5, nothing), func(b []byte) []byte { return append(b, 0) })
	add("a byte too few", "format", spoil(5, nothing), func(b []byte) []byte { return b[:len(b)-1] })
	add("an array of indefinite length", "format", spoil(5, nothing), func(b []byte) []byte {
		return append(append([]byte{0x9f}, b[1:]...), 0xff)
	})
	add("an empty proof as null", "format", l.receipt(t, 0, 1), func(b []byte) []byte {
		at := 1 + 2 + len(l.leaves[0]) + 1 // behind the array's head, the leaf with its length, and the index
		return slices.Concat(b[:at], []byte{0xf6}, b[at+1:])
	})
	data, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(vectorFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
