package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// moment returns a sound cut of two registers.
func moment() *Cut {
	return &Cut{
		Version: 1, ID: [16]byte{9}, Name: "before-merger", Registers: [][16]byte{{2}, {3}}, Snapshot: 7, Position: []byte{1, 2, 3},
		Taken: 1_700_000_000_000_000_000, Width: 1_500_000,
	}
}

// What no cut can say is refused, whether it is written or read.
func TestCutsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*Cut){
		"version 2": func(c *Cut) { c.Version = 2 }, "no name": func(c *Cut) { c.Name = "" }, "a name with a space": func(c *Cut) { c.Name = "a b" },
		"a long name": func(c *Cut) { c.Name = strings.Repeat("a", 65) }, "no registers": func(c *Cut) { c.Registers = nil },
		"a register twice": func(c *Cut) { c.Registers = [][16]byte{{2}, {2}} }, "falling registers": func(c *Cut) { c.Registers = [][16]byte{{3}, {2}} },
		"no snapshot": func(c *Cut) { c.Snapshot = 0 }, "less than no time": func(c *Cut) { c.Width = -1 },
		"a long position": func(c *Cut) { c.Position = make([]byte, MaxPosition+1) },
	} {
		c := moment()
		change(c)
		if _, err := c.Bytes(); !errors.Is(err, ErrCut) {
			t.Errorf("%s: %v", what, err)
		}
		b, err := form.Encode(&wireCut{c.Version, c.ID[:], c.Name, toWireIDs(c.Registers), c.Snapshot, c.Position, c.Taken, c.Width})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseCut(b); !errors.Is(err, ErrCut) {
			t.Errorf("%s, read: %v", what, err)
		}
	}
}

// A signature under a proof is none under a cut of the same bytes.
func TestAProofIsNoCut(t *testing.T) {
	n, err := ParseNote(CutNote, proof().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Verify(); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
}

func TestCutVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "snapshot", "cuts.json")
	if *update {
		var out []vector
		for what, c := range map[string]*Cut{"two registers": moment(), "a folder alone": {Version: 1, Name: "x", Registers: [][16]byte{{1}}, Snapshot: 1, Position: []byte{}}} {
			b, err := c.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, vector{What: what, Format: "cut", Expect: "accepted", Bytes: hex.EncodeToString(b), Value: plain(t, c)},
				vector{What: what + ", cut short", Format: "cut", Expect: "refused", Bytes: hex.EncodeToString(b[:len(b)-1])},
				vector{What: what + ", a byte behind", Format: "cut", Expect: "refused", Bytes: hex.EncodeToString(append(bytes.Clone(b), 0))})
		}
		writeJSON(t, path, out)
	}
	var vectors []vector
	readJSON(t, path, &vectors)
	if len(vectors) < 6 {
		t.Fatal("few vectors")
	}
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseCut(b)
		if v.Expect == "refused" {
			if !errors.Is(err, ErrCut) {
				t.Errorf("%s: %v", v.What, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(plain(t, c), v.Value) {
			t.Errorf("%s: %+v, %v", v.What, c, err)
		}
	}
}

func FuzzCut(f *testing.F) {
	b, err := moment().Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCut(b)
		if err != nil {
			if !errors.Is(err, ErrCut) {
				t.Fatal(err)
			}
			return
		}
		if again, err := c.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted another spelling", err)
		}
	})
}
