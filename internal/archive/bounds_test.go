package archive

import (
	"encoding/binary"
	"testing"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/index"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// What a run knows of its own chunks goes to disk as it grows, and stays known.
func TestTheHeapDoesNotGrowWithARun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ix, err := index.Open(dir + "/index")
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	k, err := openKnown(&register.Register{Dir: dir, K: 1, Members: make([]register.Member, 1)}, ix, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	const packs, each = 150, 1000
	id := func(n int) (id chunk.ID) {
		binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
		return id
	}
	for i := range packs {
		p := snapshot.IndexedPack{Ref: snapshot.PackRef{
			ID: pack.ID{byte(i), byte(i >> 8)}, Kind: pack.Data, Class: 2, K: 1, N: 1, Shares: make([]shard.Name, 1),
		}}
		for j := range each {
			if !k.claim(id(i*each + j)) {
				t.Fatalf("chunk %d of pack %d was claimed before", j, i)
			}
			p.Entries = append(p.Entries, pack.Entry{ID: id(i*each + j), Offset: uint32(j) * 10, Stored: 10, Raw: 10})
		}
		if err := k.record(p); err != nil {
			t.Fatal(err)
		}
		if len(k.fresh) > spillAt+each || k.chunks > spillAt {
			t.Fatalf("%d chunks are in the heap", len(k.fresh))
		}
	}
	for i := range packs * each {
		if k.claim(id(i)) {
			t.Fatalf("chunk %d is not known any more", i)
		}
	}
	n := 0
	if err := k.whole(func(snapshot.IndexedPack) error { n++; return nil }); err != nil || n != packs {
		t.Errorf("the journal has %d packs: %v", n, err)
	}
	k.packs++ // as if one had been lost: the control
	if err := k.whole(func(snapshot.IndexedPack) error { return nil }); err == nil {
		t.Error("a journal with too few packs was taken")
	}
}
