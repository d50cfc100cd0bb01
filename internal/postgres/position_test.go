package postgres_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"chancery.dev/chancery/internal/postgres"
)

var update = flag.Bool("update", false, "write the vectors anew")

// vector is one encoding: what it says, or that it must be refused.
type vector struct {
	What     string             `json:"what"`
	Hex      string             `json:"hex"`
	Position *postgres.Position `json:"position,omitempty"`
	Base     *postgres.Base     `json:"base,omitempty"`
	Refused  bool               `json:"refused,omitempty"`
}

// vectors makes the vectors: good ones, and each of them spoiled in several ways.
func vectors(t *testing.T) (out []vector) {
	log := postgres.Position{
		Kind: postgres.KindLog, System: 7312345678901234567, Timeline: 2, Segment: 16 << 20, Start: 0x2A0000148, End: 0x2A1000000,
		Clock: 1764000000123456789, Digest: [32]byte{1, 2, 31: 9},
	}
	history := postgres.Position{Kind: postgres.KindHistory, System: 1, Timeline: 2, Segment: 1 << 20, Clock: -1}
	base := postgres.Base{
		System: 7312345678901234567, Version: 180004, Timeline: 1, Segment: 16 << 20, Start: 0x2000028, End: 0x2000100,
		Clock: 1764000000123456789, Stretch: 1,
	}
	for what, p := range map[string]postgres.Position{"log": log, "history": history} {
		b, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, vector{What: what, Hex: hex.EncodeToString(b), Position: &p})
	}
	b, err := base.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, vector{What: "base", Hex: hex.EncodeToString(b), Base: &base})
	good, _ := log.Bytes()
	for what, bad := range map[string][]byte{
		"nothing": {}, "a byte behind": append(bytes.Clone(good), 0), "cut off": good[:len(good)-1],
		"another version":      bytes.Replace(good, []byte{0xa9, 0x01, 0x01}, []byte{0xa9, 0x01, 0x02}, 1),
		"an unknown kind":      bytes.Replace(good, []byte{0x02, 0x01, 0x03}, []byte{0x02, 0x03, 0x03}, 1),
		"a longer number":      bytes.Replace(good, []byte{0xa9, 0x01, 0x01}, []byte{0xa9, 0x01, 0x18, 0x01}, 1),
		"a base for a stretch": b,
	} {
		out = append(out, vector{What: what, Hex: hex.EncodeToString(bad), Refused: true})
	}
	return out
}

// Every vector reads as it says and is written the same; what is refused is refused.
func TestPositionVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "postgres", "positions.json")
	if *update {
		text, err := json.MarshalIndent(vectors(t), "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil || len(all) < 10 {
		t.Fatalf("%d vectors, %v", len(all), err)
	}
	for _, v := range all {
		raw, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		var again []byte
		if v.Base != nil {
			var b postgres.Base
			if b, err = postgres.ParseBase(raw); err == nil {
				again, _ = b.Bytes()
			}
			got, want = b, *v.Base
		} else {
			var p postgres.Position
			if p, err = postgres.ParsePosition(raw); err == nil {
				again, _ = p.Bytes()
			}
			if got = p; v.Position != nil {
				want = *v.Position
			}
		}
		if v.Refused {
			if !errors.Is(err, postgres.ErrPosition) {
				t.Errorf("%s: %v", v.What, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) || !bytes.Equal(again, raw) {
			t.Errorf("%s: %+v, %v; want %+v", v.What, got, err, want)
		}
	}
}

// What is read is written the same, whatever it is.
func FuzzPositions(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", "postgres", "positions.json"))
	if err != nil {
		f.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		f.Fatal(err)
	}
	for _, v := range all {
		raw, _ := hex.DecodeString(v.Hex)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := postgres.ParsePosition(raw); err == nil {
			if again, err := p.Bytes(); err != nil || !bytes.Equal(again, raw) {
				t.Errorf("%x: %x, %v", raw, again, err)
			}
		}
		if b, err := postgres.ParseBase(raw); err == nil {
			if again, err := b.Bytes(); err != nil || !bytes.Equal(again, raw) {
				t.Errorf("%x: %x, %v", raw, again, err)
			}
		}
	})
}
