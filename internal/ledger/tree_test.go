package ledger

import (
	"errors"
	"fmt"
	"math/bits"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

func TestTreeHasTheRootOfEverySize(t *testing.T) {
	l := filled(t, "a", 600)
	tree := &Tree{}
	for i := 0; ; i++ {
		want, err := tlog.TreeHash(int64(i), tlog.HashReaderFunc(l.read))
		if err != nil {
			t.Fatal(err)
		}
		if tree.Root() != want || tree.Size() != uint64(i) {
			t.Fatalf("%d leaves: another root", i)
		}
		if i == 600 {
			return
		}
		stack := tree.Stack()
		if len(stack) != bits.OnesCount(uint(i)) {
			t.Fatalf("%d leaves in %d hashes", i, len(stack))
		}
		if tree, err = NewTree(uint64(i), stack); err != nil {
			t.Fatal(err)
		}
		tree.Append(LeafHash(l.leaves[i]))
	}
}

func TestTreesAreAddedWhereTheyAlign(t *testing.T) {
	l := filled(t, "a", 600)
	sub := func(from, to int) [32]byte {
		var s Tree
		for _, leaf := range l.leaves[from:to] {
			s.Append(LeafHash(leaf))
		}
		return s.Root()
	}
	var tree Tree
	for _, step := range []struct{ level, from, to int }{{8, 0, 256}, {7, 256, 384}, {7, 384, 512}, {6, 512, 576}, {4, 576, 592}, {3, 592, 600}} {
		if err := tree.AppendTree(step.level, sub(step.from, step.to)); err != nil {
			t.Fatal(err)
		}
		if want := sub(0, step.to); tree.Root() != want {
			t.Fatalf("%d leaves: another root", step.to)
		}
	}
	for _, level := range []int{-1, 4, 60, 61, 64} {
		if err := tree.AppendTree(level, [32]byte{}); !errors.Is(err, ErrFormat) {
			t.Errorf("2^%d after 600: %v", level, err)
		}
	}
	if tree.Root() != sub(0, 600) {
		t.Error("a refusal changed the tree")
	}
}

func TestATreeIsTakenUpFromAsManyHashesAsItHas(t *testing.T) {
	for size, n := range map[uint64]int{0: 1, 5: 1, 6: 3, 1<<60 + 1: 2, 1 << 63: 1} {
		if _, err := NewTree(size, make([][32]byte, n)); !errors.Is(err, ErrFormat) {
			t.Errorf("%d leaves of %d hashes: %v", size, n, err)
		}
	}
	if _, err := NewTree(1<<60, make([][32]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestTreeAllocatesNothing(t *testing.T) {
	tree := &Tree{}
	leaf := make([]byte, 200)
	if n := testing.AllocsPerRun(1000, func() { tree.Append(LeafHash(leaf)) }); n != 0 {
		t.Errorf("%v allocations a leaf", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = tree.Root() }); n != 0 {
		t.Errorf("%v allocations a root", n)
	}
}

func BenchmarkTree(b *testing.B) {
	for _, size := range []int{200, 600} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var tree Tree
			leaf := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				tree.Append(LeafHash(leaf))
			}
		})
	}
}
