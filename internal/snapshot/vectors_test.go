package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/chunk"
)

var update = flag.Bool("update", false, "write the vectors anew")

// vector is one encoding. Where Expect is "refused" a reader must refuse Bytes; otherwise Value says in
// JSON what they hold, and encoding that again gives Bytes.
type vector struct {
	What   string
	Format string // entry, head, payload, index, references (of a head with 100 packs before it and 3 of its own)
	Expect string // accepted, refused
	Bytes  string // hexadecimal
	Value  any    `json:",omitempty"`
}

// cuts is a listing of Count files called Prefix and eight decimal digits, each like Entry but for the name.
type cuts struct {
	Prefix string
	Count  int
	Entry  string   // hexadecimal, with the name Prefix00000000
	Pieces []string // "length SHA-256"
}

func parseAs(format string, b []byte) (any, []byte, error) {
	switch format {
	case "entry":
		e, rest, err := ParseEntry(b)
		if err == nil && len(rest) != 0 {
			err = ErrEntry
		}
		return e, AppendEntry(nil, &e), err
	case "head":
		h, err := ParseHead(b)
		if err == nil {
			err = h.Verify()
		}
		if err != nil {
			return nil, nil, err
		}
		return h, h.Bytes(), nil
	case "payload":
		p, err := ParsePayload(b)
		if err != nil {
			return nil, nil, err
		}
		again, err := p.Bytes()
		return p, again, err
	case "index":
		packs, err := ParseIndex(b)
		return packs, AppendIndex(nil, packs), err
	case "references":
		r, err := ParseReferences(b, 100, 3)
		if err != nil {
			return nil, nil, err
		}
		again, err := r.Bytes()
		return plainReferences(r), again, err
	}
	return nil, nil, fmt.Errorf("no format %q", format)
}

// plainReferences lists what sets hold.
func plainReferences(r *References) any {
	type move struct {
		Pack uint64
		To   []uint64
	}
	out := struct {
		Before, Own uint64
		Needs       []uint64
		Moved       []move
	}{Before: r.Before, Own: r.Own, Needs: slices.Collect(r.Needs.All())}
	for i := range r.Moved {
		out.Moved = append(out.Moved, move{r.Moved[i].Pack, slices.Collect(r.Moved[i].To.All())})
	}
	return out
}

func TestVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "snapshot", "formats.json")
	if *update {
		writeJSON(t, path, makeVectors(t))
	}
	var vectors []vector
	readJSON(t, path, &vectors)
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Bytes)
		if err != nil {
			t.Fatal(v.What, err)
		}
		value, again, err := parseAs(v.Format, b)
		if v.Expect != "accepted" {
			if err == nil {
				t.Errorf("%s %s: was accepted", v.Format, v.What)
			}
			continue
		}
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s %s: %v", v.Format, v.What, err)
			continue
		}
		if !reflect.DeepEqual(plain(t, value), v.Value) {
			t.Errorf("%s %s: other values", v.Format, v.What)
		}
	}
}

// plain returns the value as reading its JSON gives it.
func plain(t *testing.T, v any) (out any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func makeVectors(t *testing.T) []vector {
	var out []vector
	add := func(format, what string, b []byte, accepted bool) {
		v := vector{What: what, Format: format, Expect: "refused", Bytes: hex.EncodeToString(b)}
		if accepted {
			value, _, err := parseAs(format, b)
			if err != nil {
				t.Fatal(what, err)
			}
			v.Expect, v.Value = "accepted", plain(t, value)
		}
		out = append(out, v)
	}
	some := func(format, what string, b []byte) {
		add(format, what, b, true)
		add(format, what+", cut short", b[:len(b)-1], false)
		add(format, what+", a byte behind", append(bytes.Clone(b), 0), false)
	}
	sparse := file("sparse")
	sparse.Size, sparse.Extents = 1<<32+100, append(sparse.Extents, Extent{Hole: true, HoleLength: 1 << 32})
	sparse.Xattrs = []Xattr{{Name: "security.capability", Value: []byte{1, 2}}, {Name: "user.note"}}
	for _, v := range []struct {
		what string
		Entry
	}{
		{"file", file("f")},
		{"sparse file with attributes", sparse},
		{"folder", Entry{Name: "d", Kind: Dir, Mode: 0o1777, Size: 5, Files: 6, Extents: []Extent{{Chunk: chunk.ID{7}, Length: 8}}}},
		{"link", Entry{Name: "l", Kind: Symlink, Mode: 0o777, Target: "../x", ModSec: -1}},
		{"device", Entry{Name: "null", Kind: CharDevice, Mode: 0o666, Device: 0x103, LinkGroup: 4}},
		{"partial file", Entry{Name: "p\xff", Kind: File, Flags: Partial}},
		{"indirect file", Entry{Name: "i", Kind: File, Size: 1 << 42, Flags: Indirect, Extents: []Extent{{Length: 9}}}},
	} {
		some("entry", v.what, AppendEntry(nil, &v.Entry))
	}
	first := head(nil)
	some("head", "first", first.Bytes())
	some("head", "second", head(first).Bytes())
	explicit := head(first)
	explicit.Version, explicit.References = 2, explicit.Index
	explicit.Sign(agent(1))
	some("head", "version 2 with references", explicit.Bytes())
	explicit.References = nil
	explicit.Sign(agent(1))
	some("head", "version 2 that needs what the head before needs", explicit.Bytes())
	forged := head(first)
	forged.Time++
	add("head", "second with another time under the same signature", forged.Bytes(), false)
	b, err := payload().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	some("payload", "folder", b)
	some("index", "two packs", AppendIndex(nil, []IndexedPack{indexed(1, 2), indexed(2, 0)}))
	refs := References{Before: 100, Own: 3, Moved: []Move{{Pack: 1}, {Pack: 7}}}
	refs.Needs.Add(0, 1)
	refs.Needs.Add(2, 70)
	refs.Needs.Add(99, 100)
	refs.Moved[0].To.Add(100, 102)
	refs.Moved[1].To.Add(98, 101)
	if b, err = refs.Bytes(); err != nil {
		t.Fatal(err)
	}
	some("references", "three runs and two packs that moved", b)
	add("references", "two runs that touch", []byte{'r', 1, 100, 3, 2, 0, 0, 0, 100, 0}, false)
	add("references", "a pack of its own", []byte{'r', 1, 100, 3, 1, 100, 0, 0}, false)
	overlap := indexed(1, 2)
	overlap.Entries[1].Offset--
	add("index", "overlapping chunks", AppendIndex(nil, []IndexedPack{overlap}), false)
	add("index", "one pack twice", AppendIndex(nil, []IndexedPack{indexed(1, 1), indexed(1, 1)}), false)
	return out
}

func TestListingCutVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "snapshot", "listing.json")
	const count = 40_000
	e := file("record-00000000")
	got := cuts{Prefix: "record-", Count: count, Entry: hex.EncodeToString(AppendEntry(nil, &e))}
	list := pieces(t, func(yield func(Entry) bool) {
		for i := range count {
			if !yield(file(fmt.Sprintf("record-%08d", i))) {
				return
			}
		}
	})
	for _, p := range list {
		got.Pieces = append(got.Pieces, fmt.Sprintf("%d %x", len(p), sha256.Sum256(p)))
	}
	if *update {
		writeJSON(t, path, got)
	}
	var want cuts
	readJSON(t, path, &want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("other pieces: %v, want %v", got.Pieces, want.Pieces)
	}
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
