package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/seal"
)

func source(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	source(seed).Read(b)
	return b
}

// text returns n bytes of words.
func text(seed byte, n int) []byte {
	words := []string{"best ", "umvanean ", "topois ", "laisum ", "rinede ", "<act no=\"", "\"/>\n", "stponasu ", "17", "2014-09-", "al ", "beum "}
	r := rand.New(source(seed))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		b = append(b, byte('0'+r.IntN(10)))
	}
	return b[:n]
}

func TestSealedSizeIsExactlyTheClass(t *testing.T) {
	for _, c := range Classes() {
		for _, k := range []Kind{Data, Tree, Index} {
			n := seal.Size(Payload(c, k))
			if k != Index {
				n += WrappedSize
			}
			if n != c.Size() {
				t.Errorf("class %d, %v: payload %d gives %d bytes, want %d", c, k, Payload(c, k), n, c.Size())
			}
		}
	}
	for _, bad := range []int{Payload(classes, Data), Payload(0, Head), Payload(0, 0), Payload(0, 9)} {
		if bad != 0 {
			t.Errorf("a pack that cannot be has a payload of %d bytes", bad)
		}
	}
}

func TestSmallestIsTheSmallest(t *testing.T) {
	for _, k := range []Kind{Data, Index} {
		for _, tt := range []struct {
			n    int
			want Class
			ok   bool
		}{
			{0, 0, true},
			{Payload(0, k), 0, true},
			{Payload(0, k) + 1, 1, true},
			{Payload(1, k), 1, true},
			{Payload(1, k) + 1, 2, true},
			{Payload(2, k), 2, true},
			{Payload(2, k) + 1, 0, false},
		} {
			if c, ok := Smallest(tt.n, k); c != tt.want || ok != tt.ok {
				t.Errorf("Smallest(%d, %v) = %d, %v", tt.n, k, c, ok)
			}
		}
	}
	if _, ok := Smallest(1, Head); ok {
		t.Error("a head has a class")
	}
}

func anyMeta(t *rapid.T, name string) Meta {
	id := func(part string) [16]byte {
		return [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name+part))
	}
	return Meta{
		State: id("state"), Register: id("register"), ID: id("id"),
		Epoch: rapid.Uint32().Draw(t, name+"epoch"),
		Kind:  Kind(rapid.Byte().Draw(t, name+"kind")),
		K:     rapid.Byte().Draw(t, name+"k"), N: rapid.Byte().Draw(t, name+"n"),
		Class: Class(rapid.Byte().Draw(t, name+"class")),
	}
}

func TestDifferentMetasNeverShareAContext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyMeta(t, "a"), anyMeta(t, "b")
		if rapid.Bool().Draw(t, "near") { // differ in one field at most
			b = neighbour(a, rapid.IntRange(0, 8).Draw(t, "field"), rapid.Byte().Draw(t, "flip"))
		}
		if same := bytes.Equal(a.Context(), b.Context()); same != (a == b) {
			t.Fatalf("contexts equal is %v for %+v and %+v", same, a, b)
		}
	})
}

// neighbour changes one field of m by XOR.
func neighbour(m Meta, field int, flip byte) Meta {
	switch field {
	case 0:
		m.State[int(flip)%16] ^= flip
	case 1:
		m.Register[int(flip)%16] ^= flip
	case 2:
		m.Epoch ^= uint32(flip) << 24
	case 3:
		m.Epoch ^= uint32(flip)
	case 4:
		m.Kind ^= Kind(flip)
	case 5:
		m.ID[int(flip)%16] ^= flip
	case 6:
		m.K ^= flip
	case 7:
		m.N ^= flip
	case 8:
		m.Class ^= Class(flip)
	}
	return m
}

func TestKindsHaveNames(t *testing.T) {
	for k, want := range map[Kind]string{
		Data: "data", Tree: "tree", Index: "index", Head: "head", Stretch: "stretch", Gathering: "gathering",
		Source: "source", Proof: "proof", Cut: "cut", 0: "unknown", 10: "unknown",
	} {
		if k.String() != want {
			t.Errorf("kind %d is %q", k, k)
		}
	}
}

func TestUnpadIsTheInverseOfPad(t *testing.T) {
	room := Payload(0, Index) - 4
	for _, n := range []int{0, 1, 100, room - 1, room} {
		body := random(1, n)
		payload := PadPayload([]byte("before"), 0, Index, body)
		if len(payload) != 6+Payload(0, Index) {
			t.Fatalf("%d bytes: payload of %d", n, len(payload))
		}
		got, err := UnpadPayload(payload[6:])
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	if PadPayload(nil, 0, Index, make([]byte, room+1)) != nil {
		t.Error("a body longer than the class was padded")
	}
}

func TestUnpadTakesTheCanonicalFormOnly(t *testing.T) {
	good := PadPayload(nil, 0, Index, []byte("body"))
	if _, err := UnpadPayload(good); err != nil {
		t.Fatal(err) // the control
	}
	for name, change := range map[string]func(b []byte) []byte{
		"empty":                func(b []byte) []byte { return nil },
		"short":                func(b []byte) []byte { return b[:3] },
		"length beyond":        func(b []byte) []byte { b[0] = 0xff; return b },
		"length one too many":  func(b []byte) []byte { return b[:7] },
		"padding not zero":     func(b []byte) []byte { b[8] = 1; return b },
		"last padding":         func(b []byte) []byte { b[len(b)-1] = 1; return b },
		"shorter than it says": func(b []byte) []byte { b[3] = 3; return b },
	} {
		if _, err := UnpadPayload(change(bytes.Clone(good))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnpadPayload(f *testing.F) {
	f.Add(PadPayload(nil, 0, Index, []byte("body")))
	f.Add([]byte{0, 0, 0, 1, 2, 0})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := UnpadPayload(b)
		if err != nil {
			return
		}
		again := make([]byte, len(b))
		again[0], again[1], again[2], again[3] = byte(len(body)>>24), byte(len(body)>>16), byte(len(body)>>8), byte(len(body))
		copy(again[4:], body)
		if !bytes.Equal(again, b) {
			t.Error("two payloads mean the same body")
		}
	})
}
