package snapshot

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func genNumbers(limit uint64) *rapid.Generator[Numbers] {
	return rapid.Custom(func(r *rapid.T) (n Numbers) {
		for range rapid.IntRange(0, 5).Draw(r, "runs") {
			if limit == 0 {
				break
			}
			first := rapid.Uint64Range(0, limit-1).Draw(r, "first")
			n.Add(first, rapid.Uint64Range(first+1, limit).Draw(r, "end"))
		}
		return n
	})
}

// A set of numbers answers as a map does.
func TestNumbersAreASet(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		const limit = 300
		var n Numbers
		want := map[uint64]bool{}
		for range rapid.IntRange(0, 8).Draw(r, "steps") {
			first := rapid.Uint64Range(0, limit).Draw(r, "first")
			end := rapid.Uint64Range(0, limit).Draw(r, "end")
			n.Add(first, end)
			for v := first; v < end; v++ {
				want[v] = true
			}
			gone := rapid.Uint64Range(0, limit+70).Draw(r, "gone")
			n.Remove(gone)
			delete(want, gone)
		}
		last, count := uint64(0), 0
		for v := range n.All() {
			if !want[v] || count > 0 && v <= last {
				r.Fatalf("%d after %d", v, last)
			}
			last, count = v, count+1
		}
		if count != len(want) || n.Count() != uint64(count) {
			r.Fatalf("%d of %d", count, len(want))
		}
		first, end := rapid.Uint64Range(0, limit+70).Draw(r, "from"), rapid.Uint64Range(0, limit+70).Draw(r, "to")
		any := false
		for v := first; v < end; v++ {
			any = any || want[v]
		}
		if n.Any(first, end) != any {
			r.Fatalf("any of %d to %d: %v", first, end, !any)
		}
		other := n.Clone()
		if !other.Equal(&n) {
			r.Fatal("a copy differs")
		}
		other.Add(limit+200, limit+201)
		if other.Equal(&n) || n.Has(limit+200) {
			r.Fatal("a copy shares memory")
		}
		other.Remove(limit + 200)
		if !other.Equal(&n) || !n.Equal(&other) {
			r.Fatal("empty words count")
		}
	})
}

func genReferences() *rapid.Generator[*References] {
	return rapid.Custom(func(r *rapid.T) *References {
		refs := &References{Before: rapid.Uint64Range(0, 500).Draw(r, "before"), Own: rapid.Uint64Range(0, 70).Draw(r, "own")}
		refs.Needs = genNumbers(refs.Before).Draw(r, "needs")
		next := uint64(0)
		for range rapid.IntRange(0, 4).Draw(r, "moves") {
			if next >= refs.Before {
				break
			}
			m := Move{Pack: rapid.Uint64Range(next, refs.Before-1).Draw(r, "pack")}
			m.To = genNumbers(refs.Before+refs.Own).Draw(r, "to")
			m.To.Remove(m.Pack)
			refs.Moved, next = append(refs.Moved, m), m.Pack+1
		}
		return refs
	})
}

func TestReferencesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		refs := genReferences().Draw(r, "references")
		b, err := refs.Bytes()
		if err != nil {
			r.Fatal(err)
		}
		got, err := ParseReferences(b, refs.Before, refs.Own)
		if err != nil {
			r.Fatal(err)
		}
		again, err := got.Bytes()
		if err != nil || !bytes.Equal(again, b) || !got.Needs.Equal(&refs.Needs) || len(got.Moved) != len(refs.Moved) {
			r.Fatalf("%v: %x, not %x", err, again, b)
		}
		if _, err := ParseReferences(b, refs.Before+1, refs.Own); !errors.Is(err, ErrReferences) {
			r.Fatal("of another head:", err)
		}
		if _, err := ParseReferences(b[:len(b)-1], refs.Before, refs.Own); !errors.Is(err, ErrReferences) {
			r.Fatal("cut short:", err)
		}
	})
}

func TestReferencesThatCannotBeAreRefused(t *testing.T) {
	set := func(first, end uint64) (n Numbers) { n.Add(first, end); return n }
	for name, refs := range map[string]References{
		"a pack of its own":          {Before: 5, Own: 5, Needs: set(5, 6)},
		"moved what is not there":    {Before: 5, Own: 5, Moved: []Move{{Pack: 5, To: set(6, 7)}}},
		"moved twice":                {Before: 5, Own: 5, Moved: []Move{{Pack: 1, To: set(6, 7)}, {Pack: 1, To: set(6, 7)}}},
		"moved to itself":            {Before: 5, Own: 5, Moved: []Move{{Pack: 1, To: set(1, 2)}}},
		"moved beyond its own packs": {Before: 5, Own: 5, Moved: []Move{{Pack: 1, To: set(10, 11)}}},
		"more packs than there can":  {Before: MaxPacks, Own: 1},
	} {
		if _, err := refs.Bytes(); !errors.Is(err, ErrReferences) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&References{Before: 5, Own: 5, Needs: set(0, 5), Moved: []Move{{Pack: 4, To: set(0, 4)}}}).Bytes(); err != nil {
		t.Fatal("control:", err)
	}
}

// Whatever is read is what would be written, and no number of packs makes a reader take memory that the bytes do not
// account for.
func FuzzReferences(f *testing.F) {
	refs := References{Before: 100, Own: 3, Needs: Numbers{[]uint64{5, 9}}, Moved: []Move{{Pack: 2, To: Numbers{[]uint64{1}}}}}
	b, err := refs.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{'r', 1, 100, 3, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseReferences(b, 100, 3)
		if err != nil {
			return
		}
		if again, err := got.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v: %x became %x", err, b, again)
		}
	})
}
