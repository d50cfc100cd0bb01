package attack

import (
	"encoding/binary"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// block is any 16 bytes in a row: what AES works on.
type block [2]uint64

// shared finds 16 bytes that stand in two places of these objects, at any offsets, and tells where in the bytes of
// all of them together; ok is false when there are none.
func shared(objects [][]byte) (a, b int, ok bool) {
	type at struct {
		block
		place int
	}
	var all []at
	start := 0
	for _, o := range objects {
		for i := range len(o) - 15 {
			all = append(all, at{block{binary.LittleEndian.Uint64(o[i:]), binary.LittleEndian.Uint64(o[i+8:])}, start + i})
		}
		start += len(o)
	}
	slices.SortFunc(all, func(a, b at) int { return slices.Compare(a.block[:], b.block[:]) })
	for i := 1; i < len(all); i++ {
		if all[i].block == all[i-1].block {
			return all[i-1].place, all[i].place, true
		}
	}
	return 0, 0, false
}

// TestTwoBackupsShareNoBlock backs one tree, full of equal blocks, up into two registers of two states each, twice,
// and looks for any 16 bytes in a row that occur twice at the embassies, at whatever offset. Control: with only the
// masks taken off it finds the session that the packs of a backup share.
func TestTwoBackupsShareNoBlock(t *testing.T) {
	t.Parallel()
	tree := filepath.Join(t.TempDir(), "tree")
	smallTree(t, tree)
	write(t, filepath.Join(tree, "equal", "1"), make([]byte, 50<<10))
	write(t, filepath.Join(tree, "equal", "2"), slices.Concat(noise(1, 3000), noise(1, 3000), noise(1, 20<<10)))
	var objects [][]byte
	var first *stolen
	for _, name := range []string{"one", "two"} {
		s := found(t, filepath.Join(t.TempDir(), name), "reader", nil, "lu", "is", "pt")
		s.add(t, "land", tree, 2)
		s.add(t, "court", tree, 2)
		for range 2 {
			must(t, "backup", "land", "court", "--home", s.home)
			write(t, filepath.Join(tree, "equal", "more"+name), noise(1, 1000))
		}
		for _, h := range s.hosts[:2] {
			objects = slices.AppendSeq(objects, maps.Values(readDisk(t, h.dir).objects))
		}
		if first == nil {
			first = steal(t, s.home, "land", s.hosts)
		}
	}
	total := 0
	for _, o := range objects {
		total += len(o)
	}
	if len(objects) < 2*2*2*2*3 {
		t.Fatalf("only %d objects", len(objects))
	}
	if a, b, ok := shared(objects); ok {
		t.Errorf("16 bytes at %d and at %d of %d are equal", a, b, total)
	}
	t.Logf("%d objects, %d bytes", len(objects), total)

	var bare [][]byte
	_, packs := first.packs(t)
	for i := range packs {
		bare = append(bare, first.share(&packs[i].Ref, 0))
	}
	if _, _, ok := shared(bare); !ok {
		t.Error("control: without masks the packs of one backup share their session, and it is not found")
	}
}

// TestSaltsIDsAndSessionsAreUnique looks through the masks of a repository of several snapshots with the home's own
// keys: no salt, no pack id, no commitment and no object name occurs twice, and each backup has a session of its own.
func TestSaltsIDsAndSessionsAreUnique(t *testing.T) {
	t.Parallel()
	const backups = 5
	s := found(t, t.TempDir(), "reader", nil, "lu", "is", "pt")
	tree := s.in("tree")
	smallTree(t, tree)
	s.add(t, "land", tree, 2)
	for i := range byte(backups) {
		write(t, filepath.Join(tree, "all", string('a'+rune(i))), noise(i, 90<<10))
		must(t, "backup", "land", "--home", s.home)
	}
	x := steal(t, s.home, "land", s.hosts)
	if len(x.heads) != backups {
		t.Fatalf("%d heads", len(x.heads))
	}
	u := unique{t: t, seen: map[string]int{}}
	index, packs := x.packs(t)
	const saltSize, commitment = 24, 32
	sessions := map[string]bool{}
	for i := range index {
		sealed := x.sealed(&index[i])
		u.once("salt", sealed[:saltSize])
		u.once("commitment", sealed[saltSize:saltSize+commitment])
		u.ref(&index[i])
	}
	for i := range packs {
		sealed := x.sealed(&packs[i].Ref)
		sessions[string(sealed[:pack.WrappedSize])] = true
		u.once("salt", sealed[pack.WrappedSize:pack.WrappedSize+saltSize])
		u.once("commitment", sealed[pack.WrappedSize+saltSize:pack.WrappedSize+saltSize+commitment])
		u.ref(&packs[i].Ref)
	}
	for _, h := range x.heads {
		u.once("session of a head", h.Manifest[:pack.WrappedSize])
		sessions[string(h.Manifest[:pack.WrappedSize])] = true
		u.once("salt", h.Manifest[pack.WrappedSize:pack.WrappedSize+saltSize])
	}
	if len(sessions) != backups {
		t.Errorf("%d sessions in %d backups", len(sessions), backups)
	}
	if len(packs) < 2*backups || len(index) != backups || u.names != 3*(len(packs)+len(index)) {
		t.Errorf("looked at %d packs, %d index packs, %d names", len(packs), len(index), u.names)
	}
}

// unique complains of what occurs twice.
type unique struct {
	t     *testing.T
	seen  map[string]int
	names int
}

func (u *unique) once(what string, b []byte) {
	if u.seen[what+string(b)]++; u.seen[what+string(b)] == 2 {
		u.t.Errorf("one %s occurs twice: %x", what, b[:16])
	}
}

func (u *unique) ref(r *snapshot.PackRef) {
	u.once("pack id", r.ID[:])
	for _, n := range r.Shares {
		if n != (shard.Name{}) {
			u.names++
		}
		u.once("object name", n[:])
	}
}
