package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/seal"
)

func readVectors[T any](t testing.TB, name string) []T {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/pack/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var vs []T
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		t.Fatal("no vectors")
	}
	return vs
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expected turns the word of a vector into the error it stands for.
func expected(t *testing.T, word string) error {
	t.Helper()
	want, ok := map[string]error{
		"ok": nil, "version": ErrVersion, "format": ErrFormat, "size": ErrSize,
		"context": seal.ErrContext, "unwrap": seal.ErrUnwrap, "damaged": seal.ErrDamaged,
	}[word]
	if !ok {
		t.Fatalf("unknown expectation %q", word)
	}
	return want
}

type metaVector struct {
	State    string `json:"state"`
	Register string `json:"register"`
	Epoch    uint32 `json:"epoch"`
	Kind     uint8  `json:"kind"`
	ID       string `json:"id"`
	K        uint8  `json:"k"`
	N        uint8  `json:"n"`
	Class    uint8  `json:"class"`
	Context  string `json:"context"`
}

func (v metaVector) meta(t testing.TB) Meta {
	return Meta{
		State: [16]byte(unhex(t, v.State)), Register: [16]byte(unhex(t, v.Register)), Epoch: v.Epoch,
		Kind: Kind(v.Kind), ID: ID(unhex(t, v.ID)), K: v.K, N: v.N, Class: Class(v.Class),
	}
}

func TestContextVectors(t *testing.T) {
	for _, v := range readVectors[metaVector](t, "context.json") {
		if got := hex.EncodeToString(v.meta(t).Context()); got != v.Context {
			t.Errorf("%+v: context %s", v, got)
		}
	}
}

type footerVector struct {
	Name    string        `json:"name"`
	Payload string        `json:"payload"`
	Expect  string        `json:"expect"`
	Entries []entryVector `json:"entries,omitempty"`
}

type entryVector struct {
	ID         string `json:"id"`
	Offset     uint32 `json:"offset"`
	Stored     uint32 `json:"stored"`
	Raw        uint32 `json:"raw"`
	Compressed bool   `json:"compressed"`
}

func TestFooterVectors(t *testing.T) {
	for _, v := range readVectors[footerVector](t, "footer.json") {
		entries, err := ParseFooter(unhex(t, v.Payload))
		if !errors.Is(err, expected(t, v.Expect)) {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Expect)
		}
		if len(entries) != len(v.Entries) {
			t.Errorf("%s: %d entries, want %d", v.Name, len(entries), len(v.Entries))
			continue
		}
		for i, e := range v.Entries {
			want := Entry{chunk.ID(unhex(t, e.ID)), e.Offset, e.Stored, e.Raw, e.Compressed}
			if entries[i] != want {
				t.Errorf("%s: entry %d is %+v", v.Name, i, entries[i])
			}
		}
	}
}

type frameVector struct {
	Name   string `json:"name"`
	Raw    uint32 `json:"raw"`
	Stored string `json:"stored"`
	Expect string `json:"expect"`
	SHA256 string `json:"sha256,omitempty"` // of the chunk
}

func TestFrameVectors(t *testing.T) {
	d := NewDecompressor()
	for _, v := range readVectors[frameVector](t, "frame.json") {
		stored := unhex(t, v.Stored)
		out, err := d.Decompress(nil, Entry{Stored: uint32(len(stored)), Raw: v.Raw, Compressed: true}, stored)
		if !errors.Is(err, expected(t, v.Expect)) {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Expect)
		}
		if sum := sha256.Sum256(out); err == nil && hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Errorf("%s: another chunk", v.Name)
		}
	}
}

// sealedVector describes a sealed object. It is wrapped ‖ C2SP(secret, salt, context, payload); the
// payload of a pack holds one chunk, whose bytes and id are given, and a message is given itself.
type sealedVector struct {
	Name    string     `json:"name"`
	Seed    string     `json:"seed"` // of the register's private key
	Meta    metaVector `json:"meta"`
	Wrapped string     `json:"wrapped"`
	Secret  string     `json:"secret"`
	Salt    string     `json:"salt"`
	ID      string     `json:"chunk_id,omitempty"`
	Body    string     `json:"body"`
	Length  int        `json:"sealed_length"`
	SHA256  string     `json:"sealed_sha256"`
}

func (v *sealedVector) payload(t testing.TB, m Meta) []byte {
	body := unhex(t, v.Body)
	switch m.Kind {
	case Head:
		p := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		return append(p, make([]byte, paddedMessage(len(body))-len(p))...)
	case Index:
		return PadPayload(nil, m.Class, m.Kind, body)
	}
	b := NewBuilder(make([]byte, 0, Payload(m.Class, m.Kind)))
	b.Add(chunk.ID(unhex(t, v.ID)), body, len(body), false)
	return b.Finish(m.Class)
}

func TestSealedVectors(t *testing.T) {
	for _, v := range readVectors[sealedVector](t, "sealed.json") {
		m := v.Meta.meta(t)
		key := seal.Key(unhex(t, v.Secret))
		payload := v.payload(t, m)
		sealed := seal.Seal(unhex(t, v.Wrapped), &key, seal.Salt(unhex(t, v.Salt)), m.Context(), payload)
		if sum := sha256.Sum256(sealed); len(sealed) != v.Length || hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Errorf("%s: sealed to %d other bytes", v.Name, len(sealed))
		}
		priv, err := seal.NewPrivateKey([32]byte(unhex(t, v.Seed)))
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		switch m.Kind {
		case Index:
			got, err = OpenIndex(nil, &key, m, sealed)
		case Head:
			payload = unhex(t, v.Body)
			got, err = NewOpener(priv).OpenMessage(m, sealed)
		default:
			got, err = NewOpener(priv).Open(nil, m, sealed)
		}
		if err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%s: opened to %d bytes, %v", v.Name, len(got), err)
		}
	}
}
