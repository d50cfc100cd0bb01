package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestObjectListComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var l ObjectList
		for _, b := range rapid.SliceOfDistinct(rapid.Byte(), func(b byte) byte { return b }).Draw(r, "names") {
			l = append(l, [32]byte{b, 1})
		}
		sorted := slices.IsSortedFunc(l, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
		data, err := l.Bytes()
		if !sorted {
			if !errors.Is(err, ErrFormat) {
				r.Fatal("out of order:", err)
			}
			return
		}
		got, perr := ParseObjectList(data)
		if err != nil || perr != nil || !slices.Equal(got, l) {
			r.Fatalf("%v, %v: %d of %d", err, perr, len(got), len(l))
		}
		for b := range 256 {
			if name := [32]byte{byte(b), 1}; l.Has(name) != slices.Contains(l, name) {
				r.Fatalf("has %d", b)
			}
		}
	})
}

func TestObjectListsThatCannotBeAreRefused(t *testing.T) {
	good, err := ObjectList{{1}, {2}}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseObjectList(good); err != nil {
		t.Fatal("control:", err)
	}
	title := len(objectListTitle)
	for name, data := range map[string][]byte{
		"nothing":       {},
		"another title": append([]byte("chancery object list 2\n"), good[title:]...),
		"cut short":     good[:len(good)-1],
		"a byte behind": append(slices.Clone(good), 0),
		"twice":         append(slices.Clone(good), good[title+32:]...),
		"out of order":  append(slices.Clone(good), good[title:title+32]...),
	} {
		if _, err := ParseObjectList(data); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzObjectList(f *testing.F) {
	good, err := ObjectList{{1}, {2}}.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseObjectList(data)
		if err != nil {
			return
		}
		if again, err := l.Bytes(); err != nil || !bytes.Equal(again, data) {
			t.Fatal("another encoding:", err)
		}
	})
}

// listVector is an object list that a reader must accept, with its names, or refuse.
type listVector struct {
	Name   string   `json:"name"`
	Bytes  string   `json:"bytes"`  // hex
	Expect string   `json:"expect"` // ok, format, unknown
	Names  []string `json:"names,omitempty"`
}

func TestObjectListVectors(t *testing.T) {
	const path = "../../testdata/vectors/ledger/objectlist.json"
	if *update {
		two, err := ObjectList{{1}, {2, 31: 255}}.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		at := len(objectListTitle)
		list := []listVector{
			{Name: "no objects", Bytes: hex.EncodeToString(two[:at]), Expect: "ok"},
			{Name: "two objects", Bytes: hex.EncodeToString(two), Expect: "ok", Names: []string{hex.EncodeToString(two[at : at+32]), hex.EncodeToString(two[at+32:])}},
			{Name: "cut short", Bytes: hex.EncodeToString(two[:len(two)-1]), Expect: "format"},
			{Name: "one twice", Bytes: hex.EncodeToString(append(slices.Clone(two), two[at+32:]...)), Expect: "format"},
			{Name: "out of order", Bytes: hex.EncodeToString(append(slices.Clone(two), two[at:at+32]...)), Expect: "format"},
			{Name: "another version", Bytes: hex.EncodeToString(bytes.Replace(two, []byte("list 1"), []byte("list 2"), 1)), Expect: "unknown"},
			{Name: "nothing", Expect: "unknown"},
		}
		data, err := json.MarshalIndent(list, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(data, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	var vectors []listVector
	if err == nil {
		err = json.Unmarshal(data, &vectors)
	}
	if err != nil || len(vectors) == 0 {
		t.Fatal(len(vectors), err)
	}
	for _, v := range vectors {
		l, err := ParseObjectList(unhex(t, v.Bytes))
		if !errors.Is(err, verdicts[v.Expect]) {
			t.Errorf("%s: %v", v.Name, err)
		}
		for i := range v.Names {
			if err != nil || len(l) != len(v.Names) || hex.EncodeToString(l[i][:]) != v.Names[i] {
				t.Errorf("%s: other names", v.Name)
			}
		}
	}
}
