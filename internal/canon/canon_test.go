package canon

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// letter is a document with one field of every sort that the house's formats use.
type letter struct {
	Version uint8     `cbor:"1,keyasint"`
	Name    string    `cbor:"2,keyasint"`
	Body    []byte    `cbor:"3,keyasint"`
	Hash    [4]byte   `cbor:"4,keyasint"`
	Lines   []line    `cbor:"5,keyasint"`
	Hint    []byte    `cbor:"6,keyasint,omitempty"`
	Nested  [][][]int `cbor:"7,keyasint"`
	Time    int64     `cbor:"24,keyasint"`
}

type line struct {
	_     struct{} `cbor:",toarray"`
	Index uint64
	Path  [][2]byte
}

// full has every field set.
func full() *letter {
	return &letter{
		Version: 1, Name: "lux", Body: []byte{1}, Hash: [4]byte{9}, Lines: []line{{Index: 300, Path: [][2]byte{{1, 2}}}},
		Hint: []byte{7}, Nested: [][][]int{{{-1}}}, Time: -5,
	}
}

func newForm() *Form { return &Form{Depth: 4, Elements: 16, Pairs: 16} }

func encoded(t testing.TB, f *Form, v any) []byte {
	t.Helper()
	data, err := f.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The bytes themselves, so that no version of the encoder can change what was signed.
func TestTheEncodingIsFixed(t *testing.T) {
	for name, c := range map[string]struct {
		form *Form
		doc  any
		want string
	}{
		"full":          {newForm(), full(), "a8" + "0101" + "02636c7578" + "034101" + "044409000000" + "05" + "81" + "82" + "19012c" + "81420102" + "064107" + "07" + "81818120" + "181824"},
		"empty":         {newForm(), &letter{}, "a7" + "0100" + "0260" + "0340" + "044400000000" + "0580" + "0780" + "181800"},
		"order of keys": {newForm(), &map[int]int{10: 0, 100: 0, -1: 0}, "a3" + "0a00" + "186400" + "2000"},
	} {
		data := encoded(t, c.form, c.doc)
		if got := hex.EncodeToString(data); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if err := c.form.Decode(data, len(data), c.doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each is CBOR that an easy-going reader takes for the same document, or for one that was never written.
func TestEverySecondEncodingIsRefused(t *testing.T) {
	const good = "a7" + "0101" + "02616c" + "0340" + "044400000000" + "0580" + "0780" + "181800"
	swap := func(part, by string) string { return strings.Replace(good, part, by, 1) }
	for name, text := range map[string]string{
		"longer number":      swap("0101", "011801"),
		"float for a number": swap("0101", "01f93c00"),
		"longer length":      swap("02616c", "0278016c"),
		"longer key":         swap("0101", "180101"),
		"keys out of order":  swap("0101"+"02616c", "02616c"+"0101"),
		"key twice":          "a8" + "0101" + good[2:],
		"unknown key":        "a8" + good[2:] + "181900",
		"absent key":         "a6" + strings.Replace(good[2:], "0340", "", 1),
		"null list":          swap("0580", "05f6"),
		"null bytes":         swap("0340", "03f6"),
		"undefined bytes":    swap("0340", "03f7"),
		"list for bytes":     swap("0340", "0380"),
		"bytes for text":     swap("02616c", "02416c"),
		"not UTF-8":          swap("02616c", "0261ff"),
		"short array":        swap("044400000000", "0443000000"),
		"long array":         swap("044400000000", "04450000000000"),
		"tag":                "d9d9f7" + good,
		"tag within":         swap("0340", "03c240"),
		"indefinite map":     "bf" + good[2:] + "ff",
		"indefinite list":    swap("0580", "059fff"),
		"indefinite bytes":   swap("0340", "035fff"),
		"behind":             good + "00",
		"cut":                good[:len(good)-2],
		"nothing":            "",
		"another thing":      "80",
		"empty, but written": "a8" + good[2:len(good)-6] + "0640" + "181800",
		"length that lies":   swap("0340", "035b7fffffffffffffff"),
		"list that lies":     swap("0580", "059b7fffffffffffffff"),
	} {
		data, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := newForm().Decode(data, 1<<10, new(letter)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	data, err := hex.DecodeString(good) // the control
	if err != nil || newForm().Decode(data, len(data), new(letter)) != nil {
		t.Errorf("refuses the one encoding: %v", err)
	}
}

// Each cap is met exactly, and passed by one.
func TestCaps(t *testing.T) {
	nested := func(depth int) []byte { return append(bytes.Repeat([]byte{0x81}, depth), 0x80) }
	list := func(n int) []byte { return encoded(t, newForm(), make([]int, n)) }
	pairs := func(n int) []byte {
		m := map[int]int{}
		for i := range n {
			m[i] = i
		}
		return encoded(t, newForm(), m)
	}
	for name, c := range map[string]struct {
		data []byte
		v    any
		cap  int
		ok   bool
	}{
		"depth":         {nested(3), new(any), 100, true},
		"too deep":      {nested(4), new(any), 100, false},
		"elements":      {list(16), new([]int), 100, true},
		"too many":      {list(17), new([]int), 100, false},
		"pairs":         {pairs(16), new(map[int]int), 100, true},
		"too many keys": {pairs(17), new(map[int]int), 100, false},
		"size":          {list(9), new([]int), 10, true},
		"too large":     {list(10), new([]int), 10, false},
	} {
		err := newForm().Decode(c.data, c.cap, c.v)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A form that cannot be is no verdict on a document.
func TestAFormWithoutCapsIsAnError(t *testing.T) {
	for _, f := range []*Form{{}, {Depth: 1, Elements: 16, Pairs: 16}, {Depth: 4, Pairs: 16}, {Depth: 4, Elements: 16}} {
		if _, err := f.Encode(1); err == nil {
			t.Error("encodes")
		}
		if err := f.Decode([]byte{1}, 1, new(int)); err == nil || errors.Is(err, ErrForm) {
			t.Error(err)
		}
	}
}

// FuzzDecode: whatever is accepted is what Encode writes for it, is within its caps, and is read the same again.
func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, newForm(), full()))
	f.Add(encoded(f, newForm(), &letter{}))
	form := newForm()
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 10
		var l letter
		if err := form.Decode(data, limit, &l); err != nil {
			if !errors.Is(err, ErrForm) {
				t.Errorf("%x: %v", data, err)
			}
			return
		}
		if again := encoded(t, form, &l); !bytes.Equal(again, data) || len(data) > limit {
			t.Errorf("%x is written as %x", data, again)
		}
		if len(l.Lines) > 16 || len(l.Nested) > 16 || l.Body == nil || l.Lines == nil {
			t.Errorf("%x: %+v", data, l)
		}
	})
}
