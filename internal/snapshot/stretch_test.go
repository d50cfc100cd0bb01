package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

func dataRef(class pack.Class) PackRef {
	return PackRef{ID: pack.ID{5}, Kind: pack.Data, Class: class, K: 2, N: 3, Epoch: 1, Shares: []shard.Name{{1}, {2}, {3}}}
}

func stretch(prev *Stretch) *Stretch {
	s := &Stretch{
		Version: 1, State: [16]byte{1}, Register: [16]byte{2}, Sequence: 1, Position: []byte("sealed"), Pack: dataRef(0),
		Members: [][16]byte{{1}, {2}, {3}}, K: 2, CharterVersion: 1, CharterHash: [32]byte{4}, Time: 1_700_000_000_000_000_000,
	}
	if prev != nil {
		s.Sequence, s.Previous = prev.Sequence+1, prev.Hash()
	}
	s.Sign(agent(1))
	return s
}

func gathering(prev *Gathering, through uint64) *Gathering {
	g := &Gathering{
		Version: 1, State: [16]byte{1}, Register: [16]byte{2}, Sequence: 1, First: 1, Through: through, ThroughHash: [32]byte{6},
		Table: []byte("sealed"), Pack: dataRef(2), Members: [][16]byte{{1}, {2}, {3}}, K: 2,
		CharterVersion: 1, CharterHash: [32]byte{4}, Time: 1_700_000_000_000_000_000,
	}
	if prev != nil {
		g.Sequence, g.Previous, g.First, g.Before = prev.Sequence+1, prev.Hash(), prev.Through+1, prev.ThroughHash
	}
	g.Sign(agent(1))
	return g
}

func gathered() []Gathered {
	alone := dataRef(2)
	return []Gathered{
		{Position: []byte("a"), Stored: 5, Raw: 9, Compressed: true},
		{Position: nil, Alone: &alone, Replaces: 10},
		{Position: []byte("ccc"), Offset: 5, Stored: 300, Raw: 300, Replaces: 1},
	}
}

func TestStretchesFormAChain(t *testing.T) {
	a := stretch(nil)
	b := stretch(a)
	other := stretch(a)
	other.Time++
	other.Sign(agent(1))
	gap := stretch(b)
	gap.Sequence++
	foreign := stretch(a)
	foreign.Register[0]++
	for _, c := range []struct {
		what       string
		prev, next *Stretch
		want       error
	}{
		{"the first", nil, a, nil},
		{"the second", a, b, nil},
		{"a second alone", nil, b, ErrBroken},
		{"two of one number", b, other, ErrForked},
		{"a gap", b, gap, ErrBroken},
		{"another register", a, foreign, ErrBroken},
		{"behind another", other, stretch(b), ErrBroken},
	} {
		if err := CheckStretchChain(c.prev, c.next); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	g := gathering(nil, 3)
	again := gathering(g, 6)
	again.First = 3
	twin := gathering(nil, 3)
	twin.Time++
	for _, c := range []struct {
		what       string
		prev, next *Gathering
		want       error
	}{
		{"the first", nil, g, nil},
		{"the second", g, gathering(g, 6), nil},
		{"a second alone", nil, gathering(g, 6), ErrBroken},
		{"one that gathers again", g, again, ErrBroken},
		{"two of one number", g, twin, ErrForked},
	} {
		if err := CheckGatheringChain(c.prev, c.next); !errors.Is(err, c.want) {
			t.Errorf("gathering: %s: %v", c.what, err)
		}
	}
}

func TestAStretchSaysOnlyWhatCanBe(t *testing.T) {
	for what, spoil := range map[string]func(*Stretch){
		"version":                func(s *Stretch) { s.Version = 2 },
		"number":                 func(s *Stretch) { s.Sequence = 0 },
		"first with one before":  func(s *Stretch) { s.Sequence = 1 },
		"replaces itself":        func(s *Stretch) { s.Replaces = s.Sequence },
		"keeps itself":           func(s *Stretch) { s.Kept = s.Sequence },
		"keeps what it replaces": func(s *Stretch) { s.Replaces, s.Kept = 1, 1 },
		"tree pack":              func(s *Stretch) { s.Pack.Kind = pack.Tree },
		"fewer embassies":        func(s *Stretch) { s.Members = s.Members[:2] },
		"one embassy twice":      func(s *Stretch) { s.Members[1] = s.Members[0] },
		"another k":              func(s *Stretch) { s.K = 1 },
	} {
		s := stretch(stretch(nil))
		spoil(s)
		s.Sign(agent(1))
		if _, err := ParseStretch(s.Bytes()); !errors.Is(err, ErrStretch) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := stretch(nil)
	s.Position = []byte("other")
	if s.Verify() == nil {
		t.Error("a signature over another position verifies")
	}
}

// Live is what a reader of the chain finds who follows it back by hand.
func TestReplacedStretchesHoldNothing(t *testing.T) {
	for _, c := range []struct {
		first    uint64
		replaces []uint64
		want     string
	}{
		{1, []uint64{0, 0, 0}, "+++"},
		{1, []uint64{0, 0, 0, 2}, "+--+"},
		{1, []uint64{0, 0, 2, 2}, "+--+"},
		{1, []uint64{0, 0, 2, 3}, "++-+"}, // what 3 replaced holds, for 3 does not
		{5, []uint64{0, 0, 3}, "--+"},
		{1, []uint64{0, 1}, "-+"},
		{1, nil, ""},
	} {
		got := ""
		for _, l := range Live(c.first, c.replaces) {
			got += map[bool]string{true: "+", false: "-"}[l]
		}
		if got != c.want {
			t.Errorf("%d %v: %s, want %s", c.first, c.replaces, got, c.want)
		}
	}
}

func TestATableComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		g := gathering(nil, 1)
		n := rapid.IntRange(1, 20).Draw(r, "count")
		g.First = rapid.Uint64Range(1, 1000).Draw(r, "first")
		g.Through = g.First + uint64(n) - 1
		list := make([]Gathered, n)
		size, end := 16, uint32(0)
		for i := range list {
			x := &list[i]
			x.Position = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(r, "position")
			if seq := g.First + uint64(i); seq > 1 && rapid.Bool().Draw(r, "replaces") {
				x.Replaces = rapid.Uint64Range(1, seq-1).Draw(r, "from")
			}
			if rapid.Bool().Draw(r, "alone") {
				ref := dataRef(2)
				x.Alone = &ref
			} else {
				x.Offset, x.Stored = end, rapid.Uint32Range(1, 1000).Draw(r, "stored")
				x.Raw, x.Compressed = x.Stored, false
				if rapid.Bool().Draw(r, "compressed") {
					x.Raw, x.Compressed = x.Stored+1, true
				}
				end += x.Stored
			}
			size += GatheredSize(x)
		}
		b := AppendGathered(nil, g.First, list)
		if len(b) > size {
			r.Fatalf("%d bytes, at most %d were promised", len(b), size)
		}
		got, err := ParseGathered(b, g)
		if err != nil || !slices.EqualFunc(got, list, func(a, b Gathered) bool {
			return bytes.Equal(a.Position, b.Position) && reflect.DeepEqual(a.Alone, b.Alone) && a.Offset == b.Offset &&
				a.Stored == b.Stored && a.Raw == b.Raw && a.Compressed == b.Compressed && a.Replaces == b.Replaces
		}) {
			r.Fatal(err)
		}
	})
}

func FuzzStretch(f *testing.F) {
	f.Add(stretch(nil).Bytes())
	f.Add(stretch(stretch(nil)).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStretch(b)
		if err != nil {
			if !errors.Is(err, ErrStretch) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.Bytes(), b) || s.Check() != nil {
			t.Fatal("accepted another spelling")
		}
	})
}

func FuzzGathering(f *testing.F) {
	f.Add(gathering(nil, 3).Bytes())
	f.Add(gathering(gathering(nil, 3), 9).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGathering(b)
		if err != nil {
			if !errors.Is(err, ErrStretch) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(g.Bytes(), b) || g.Check() != nil {
			t.Fatal("accepted another spelling")
		}
	})
}

func FuzzGathered(f *testing.F) {
	f.Add(AppendGathered(nil, 11, gathered()))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := gathering(nil, 3)
		g.First, g.Through = 11, 13
		list, err := ParseGathered(b, g)
		if err != nil {
			if !errors.Is(err, ErrStretch) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(AppendGathered(nil, g.First, list), b) {
			t.Fatal("accepted another spelling")
		}
	})
}

// parseStream reads a format of the stream; tables are of the stretches 11 to 13.
func parseStream(format string, b []byte) (any, []byte, error) {
	switch format {
	case "stretch":
		s, err := ParseStretch(b)
		if err == nil {
			err = s.Verify()
		}
		if err != nil {
			return nil, nil, err
		}
		return s, s.Bytes(), nil
	case "gathering":
		g, err := ParseGathering(b)
		if err == nil {
			err = g.Verify()
		}
		if err != nil {
			return nil, nil, err
		}
		return g, g.Bytes(), nil
	}
	g := gathering(nil, 3)
	g.First, g.Through = 11, 13
	list, err := ParseGathered(b, g)
	return list, AppendGathered(nil, g.First, list), err
}

func TestStreamVectors(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "vectors", "snapshot", "stretches.json")
	if *update {
		writeJSON(t, path, makeStreamVectors(t))
	}
	var vectors []vector
	readJSON(t, path, &vectors)
	for _, v := range vectors {
		b, err := hex.DecodeString(v.Bytes)
		if err != nil {
			t.Fatal(v.What, err)
		}
		value, again, err := parseStream(v.Format, b)
		if v.Expect != "accepted" {
			if err == nil {
				t.Errorf("%s %s: was accepted", v.Format, v.What)
			}
			continue
		}
		if err != nil || !bytes.Equal(again, b) || !reflect.DeepEqual(plain(t, value), v.Value) {
			t.Errorf("%s %s: %v", v.Format, v.What, err)
		}
	}
}

func makeStreamVectors(t *testing.T) (out []vector) {
	add := func(format, what string, b []byte, accepted bool) {
		v := vector{What: what, Format: format, Expect: "refused", Bytes: hex.EncodeToString(b)}
		if accepted {
			value, _, err := parseStream(format, b)
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
	first := stretch(nil)
	some("stretch", "first", first.Bytes())
	third := stretch(stretch(first))
	third.Replaces, third.Kept = 2, 1
	third.Sign(agent(1))
	some("stretch", "third, which replaces the second", third.Bytes())
	third.Kept = 2
	third.Sign(agent(1))
	add("stretch", "one that keeps what it replaces", third.Bytes(), false)
	forged := stretch(first)
	forged.Time++
	add("stretch", "another time under the same signature", forged.Bytes(), false)
	one := gathering(nil, 3)
	some("gathering", "first", one.Bytes())
	some("gathering", "second", gathering(one, 9).Bytes())
	add("gathering", "of more stretches than one can hold", gathering(nil, MaxGathered+1).Bytes(), false)
	some("table", "three stretches", AppendGathered(nil, 11, gathered()))
	add("table", "of two stretches", AppendGathered(nil, 11, gathered()[:2]), false)
	longer := gathered()
	longer[0].Stored = 10
	add("table", "compressed and no shorter", AppendGathered(nil, 11, longer), false)
	return out
}
