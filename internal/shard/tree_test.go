package shard_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/shard"
)

const leaf = shard.LeafSize

// borders are object lengths at which something changes.
func borders(leaves int) []int {
	out := []int{0, 1, 15, 16, 17}
	for i := 1; i <= leaves; i++ {
		out = append(out, i*leaf-1, i*leaf, i*leaf+1)
	}
	return out
}

// storedHashes is a log in memory.
type storedHashes []tlog.Hash

func (s storedHashes) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		out[i] = s[x]
	}
	return out, nil
}

func TestNameIsTheRootOfATransparencyLogOfTheLeaves(t *testing.T) {
	data := pattern(33*leaf + 5)
	for _, n := range append(borders(9), 31*leaf, 32*leaf, 33*leaf, len(data)) {
		var log storedHashes
		var count int64
		for part := range slices.Chunk(data[:n], leaf) {
			hashes, err := tlog.StoredHashes(count, part, log)
			if err != nil {
				t.Fatal(err)
			}
			log, count = append(log, hashes...), count+1
		}
		want := tlog.Hash(sha256.Sum256(nil))
		if count > 0 {
			var err error
			if want, err = tlog.TreeHash(count, log); err != nil {
				t.Fatal(err)
			}
		}
		if got := shard.Root(data[:n]); got != shard.Name(want) {
			t.Errorf("%d bytes: %s, want %x", n, got, want[:])
		}
	}
}

func TestEveryWayToANameAgrees(t *testing.T) {
	data := pattern(9*leaf + 1)
	r := rand.New(rand.NewPCG(1, 2))
	var h shard.Hasher
	for _, n := range borders(9) {
		want := shard.Root(data[:n])
		if got := shard.RootOf(shard.LeafHashes(nil, data[:n])); got != want {
			t.Errorf("%d bytes: RootOf(LeafHashes) = %s, want %s", n, got, want)
		}
		h.Reset()
		for rest := data[:n]; len(rest) > 0; {
			cut := min(len(rest), 1+r.IntN(2*leaf))
			if w, err := h.Write(rest[:cut]); w != cut || err != nil {
				t.Fatal(w, err)
			}
			rest = rest[cut:]
			if r.IntN(4) == 0 && h.Name() != shard.Root(data[:n-len(rest)]) {
				t.Errorf("the name under way, at %d of %d bytes, differs", n-len(rest), n)
			}
		}
		if got := h.Name(); got != want {
			t.Errorf("%d bytes: Hasher %s, want %s", n, got, want)
		}
	}
	prefix := [][32]byte{{1}}
	if got := shard.LeafHashes(prefix, data[:leaf]); len(got) != 2 || got[0] != prefix[0] {
		t.Error("LeafHashes does not append")
	}
}

func TestHasherTakesNoMemoryPerByte(t *testing.T) {
	var h shard.Hasher
	data := pattern(3*leaf + 7)
	h.Write(data)
	if n := testing.AllocsPerRun(10, func() { h.Write(data) }); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
}

func TestEveryHonestRangeVerifies(t *testing.T) {
	for _, total := range borders(4) {
		data := pattern(total)
		name, leaves := shard.Root(data), shard.LeafHashes(nil, data)
		for first := range len(leaves) + 1 {
			for end := first; end <= len(leaves); end++ {
				part := data[min(total, first*leaf):min(total, end*leaf)]
				if err := shard.VerifyRange(name, int64(total), first, part, leaves); err != nil {
					t.Errorf("%d bytes, leaves %d to %d: %v", total, first, end, err)
				}
			}
		}
	}
}

func TestRangeVerificationRejects(t *testing.T) {
	const total = 5*leaf + 100
	data := make([]byte, total)
	rand.NewChaCha8([32]byte{1}).Read(data)
	name, leaves := shard.Root(data), shard.LeafHashes(nil, data)
	at := func(i int) []byte { return data[i*leaf : min(total, (i+1)*leaf)] }
	edited := func(i int) []byte {
		b := bytes.Clone(at(i))
		b[len(b)-1] ^= 1
		return b
	}
	forged := slices.Clone(leaves)
	forged[2] = shard.LeafHashes(nil, edited(2))[0]
	swapped := slices.Clone(leaves)
	swapped[1], swapped[2] = leaves[2], leaves[1]
	// The hashes of inner nodes, passed off as those of the leaves of a smaller object.
	var inner [][32]byte
	for i := 0; i < len(leaves); i += 2 {
		inner = append(inner, shard.RootOf(leaves[i:i+2]))
	}
	if shard.RootOf(inner) != name {
		t.Fatal("control: the inner nodes do not make the name")
	}
	for _, c := range []struct {
		what   string
		total  int64
		first  int
		data   []byte
		leaves [][32]byte
		want   error
	}{
		{"a leaf in another's place", total, 1, at(2), leaves, shard.ErrDamaged},
		{"two leaves swapped", total, 1, slices.Concat(at(2), at(1)), leaves, shard.ErrDamaged},
		{"two leaves swapped, and their hashes", total, 1, slices.Concat(at(2), at(1)), swapped, shard.ErrName},
		{"an altered byte", total, 2, edited(2), leaves, shard.ErrDamaged},
		{"an altered byte, and its hash", total, 2, edited(2), forged, shard.ErrName},
		{"an altered last leaf", total, 5, edited(5), leaves, shard.ErrDamaged},
		{"half a leaf", total, 1, at(1)[:leaf/2], leaves, shard.ErrRange},
		{"part of the last leaf", total, 5, at(5)[:99], leaves, shard.ErrRange},
		{"more than the object", total, 5, append(bytes.Clone(at(5)), 0), leaves, shard.ErrRange},
		{"before the object", total, -1, at(0), leaves, shard.ErrRange},
		{"behind the object", total, 6, at(5), leaves, shard.ErrRange},
		{"far behind the object", total, 1<<63 - 1, nil, leaves, shard.ErrRange},
		{"a hash too few", total, 0, at(0), leaves[:5], shard.ErrName},
		{"a hash too many", total, 0, at(0), append(slices.Clone(leaves), leaves[0]), shard.ErrName},
		{"no hashes", total, 0, at(0), nil, shard.ErrName},
		{"a negative length", -1, 0, nil, nil, shard.ErrName},
		{"another length", total - leaf, 0, at(0), leaves, shard.ErrName},
		{"inner nodes for leaves", 3 * leaf, 0, at(0), inner, shard.ErrDamaged},
	} {
		if err := shard.VerifyRange(name, c.total, c.first, c.data, c.leaves); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	// The control of the two lines that end in ErrName: the leaf hashes by themselves would pass.
	if shard.LeafHashes(nil, edited(2))[0] != forged[2] {
		t.Error("control: the forged leaf does not match its forged hash")
	}
}

func TestNamesAreReadInOneSpellingOnly(t *testing.T) {
	name := shard.Root([]byte("x"))
	good := name.String()
	if got, err := shard.ParseName(good); err != nil || got != name {
		t.Errorf("ParseName(%s) = %s, %v", good, got, err)
	}
	for _, s := range []string{
		"", good[1:], good + "0", strings.ToUpper(good), " " + good[1:], good[:63] + "g", good[:63] + "\n", "0x" + good[2:], good[:62] + "é",
	} {
		if got, err := shard.ParseName(s); err == nil || got != (shard.Name{}) {
			t.Errorf("ParseName(%q) = %s, %v", s, got, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(shard.Root(nil).String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := shard.ParseName(s); err == nil && n.String() != s {
			t.Fatal("not canonical")
		}
	})
}

func FuzzVerifyRange(f *testing.F) {
	f.Add(int64(leaf+5), 0, []byte("x"), 2)
	f.Add(int64(-1), -1, []byte{}, 0)
	f.Fuzz(func(t *testing.T, total int64, first int, data []byte, count int) {
		leaves := make([][32]byte, count&15)
		if err := shard.VerifyRange(shard.RootOf(leaves), total, first, data, leaves); err == nil && len(data) > 0 {
			t.Fatal("data that hashes to zero")
		}
	})
}
