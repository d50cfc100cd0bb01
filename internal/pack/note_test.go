package pack

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"chancery.dev/chancery/internal/seal"
)

var update = flag.Bool("update", false, "write the vectors of notes anew")

type noteVector struct {
	Name      string     `json:"name"`
	Meta      metaVector `json:"meta"`
	Key       string     `json:"key"`
	Salt      string     `json:"salt"`
	Plaintext string     `json:"plaintext"`
	Sealed    string     `json:"sealed"`
	Expect    string     `json:"expect"`
}

func makeNotes(t *testing.T) (out []noteVector) {
	key := seal.Key(bytes.Repeat([]byte{7}, 32))
	salt := bytes.Repeat([]byte{9}, 24)
	for _, c := range []struct {
		name string
		kind Kind
		size int
	}{
		{"a position", Stretch, 60},
		{"an empty position", Stretch, 0},
		{"one byte more than a step", Stretch, 253},
		{"a table", Gathering, 5000},
		{"where a source stood", Source, 80},
		{"a part of a cut", Cut, 200},
	} {
		m := Meta{State: [16]byte{1}, Register: [16]byte{2}, Epoch: 3, Kind: c.kind, ID: ID{15: 4}, K: 2, N: 3}
		plain := random(byte(c.size), c.size)
		sealed, err := SealNote(bytes.NewReader(salt), &key, m, plain)
		if err != nil {
			t.Fatal(err)
		}
		v := noteVector{
			Name: c.name, Key: hex.EncodeToString(key[:]), Salt: hex.EncodeToString(salt), Plaintext: hex.EncodeToString(plain),
			Sealed: hex.EncodeToString(sealed), Expect: "ok", Meta: metaVector{
				State: hex.EncodeToString(m.State[:]), Register: hex.EncodeToString(m.Register[:]), Epoch: m.Epoch, Kind: uint8(m.Kind),
				ID: m.ID.String(), K: m.K, N: m.N, Context: hex.EncodeToString(m.Context()),
			},
		}
		out = append(out, v)
		v.Name, v.Expect, v.Meta.ID = c.name+" of another number", "context", ID{15: 5}.String()
		out = append(out, v)
		sealed[len(sealed)-1]++
		v = out[len(out)-2]
		v.Name, v.Expect, v.Sealed = c.name+", altered", "damaged", hex.EncodeToString(sealed)
		out = append(out, v)
		if len(plain) == 0 {
			continue
		}
		padded := make([]byte, 2*noteStep(c.kind)+paddedNote(c.kind, len(plain)))
		padded[3] = 1
		wide := seal.Seal(nil, &key, seal.Salt(salt), m.Context(), padded)
		v.Name, v.Expect, v.Sealed = c.name+", padded too far", "format", hex.EncodeToString(wide)
		out = append(out, v)
	}
	return out
}

func TestNoteVectors(t *testing.T) {
	if *update {
		b, err := json.MarshalIndent(makeNotes(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("../../testdata/vectors/pack/notes.json", append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range readVectors[noteVector](t, "notes.json") {
		key, m := seal.Key(unhex(t, v.Key)), v.Meta.meta(t)
		got, err := OpenNote(&key, m, unhex(t, v.Sealed))
		if want := expected(t, v.Expect); !errors.Is(err, want) {
			t.Errorf("%s: %v", v.Name, err)
		} else if want != nil {
			continue
		}
		if !bytes.Equal(got, unhex(t, v.Plaintext)) {
			t.Errorf("%s: another plaintext", v.Name)
		}
		again, err := SealNote(bytes.NewReader(unhex(t, v.Salt)), &key, m, got)
		if err != nil || hex.EncodeToString(again) != v.Sealed {
			t.Errorf("%s: sealed otherwise: %v", v.Name, err)
		}
	}
}

// Positions of different lengths below one step make sealed notes of one length.
func TestNotesHideTheirLength(t *testing.T) {
	key := seal.Key{1}
	m := Meta{Kind: Stretch, K: 1, N: 1}
	sizes := map[int]bool{}
	for n := range 250 {
		b, err := SealNote(bytes.NewReader(make([]byte, 24)), &key, m, make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		sizes[len(b)] = true
	}
	if len(sizes) != 1 {
		t.Fatalf("%d lengths", len(sizes))
	}
	if _, err := SealNote(bytes.NewReader(make([]byte, 24)), &key, Meta{Kind: Head}, nil); !errors.Is(err, ErrMeta) {
		t.Error(err)
	}
	if _, err := SealNote(bytes.NewReader(make([]byte, 24)), &key, m, make([]byte, MaxNote+1)); !errors.Is(err, ErrSize) {
		t.Error(err)
	}
}
