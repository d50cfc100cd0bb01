package snapshot

import (
	"slices"
	"strings"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

func genBytes16(label string) *rapid.Generator[[16]byte] {
	return rapid.Custom(func(r *rapid.T) [16]byte {
		return [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, label))
	})
}

func genBytes32(label string) *rapid.Generator[[32]byte] {
	return rapid.Custom(func(r *rapid.T) [32]byte {
		return [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, label))
	})
}

func genName() *rapid.Generator[string] {
	return rapid.Custom(func(r *rapid.T) string {
		b := rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 40).Draw(r, "name")
		s := strings.ReplaceAll(string(b), "/", "_")
		if s == "." || s == ".." {
			s += "x"
		}
		return s
	})
}

func genExtent(holes bool) *rapid.Generator[Extent] {
	return rapid.Custom(func(r *rapid.T) Extent {
		if holes && rapid.Bool().Draw(r, "hole") {
			return Extent{Hole: true, HoleLength: rapid.Uint64Range(1, 1<<50).Draw(r, "length")}
		}
		return Extent{
			Chunk:  chunk.ID(genBytes32("id").Draw(r, "chunk")),
			Offset: rapid.Uint32Range(0, 1<<20).Draw(r, "offset"),
			Length: rapid.Uint32Range(1, 4<<20).Draw(r, "length"),
		}
	})
}

func genEntry() *rapid.Generator[Entry] {
	return rapid.Custom(func(r *rapid.T) Entry {
		e := Entry{
			Name: genName().Draw(r, "name"), Kind: Kind(rapid.IntRange(1, 7).Draw(r, "kind")),
			Mode: rapid.Uint32Range(0, 0o7777).Draw(r, "mode"),
			UID:  rapid.Uint32().Draw(r, "uid"), GID: rapid.Uint32().Draw(r, "gid"),
			ModSec: rapid.Int64().Draw(r, "sec"), ModNsec: rapid.Uint32Range(0, 1e9-1).Draw(r, "nsec"),
		}
		if e.Kind != Dir {
			e.LinkGroup = rapid.Uint64().Draw(r, "link group")
		}
		switch e.Kind {
		case File:
			e.Extents = rapid.SliceOfN(genExtent(true), 0, 4).Draw(r, "extents")
			for i := range e.Extents {
				e.Size += e.Extents[i].Size()
			}
			e.Flags = rapid.ByteRange(0, 1).Draw(r, "flags")
		case Dir:
			e.Extents = rapid.SliceOfN(genExtent(false), 0, 4).Draw(r, "pieces")
			e.Size, e.Files = rapid.Uint64().Draw(r, "size"), rapid.Uint64().Draw(r, "files")
		case Symlink:
			e.Target = genName().Draw(r, "target") + "/x"
		case CharDevice, BlockDevice:
			e.Device = rapid.Uint64().Draw(r, "device")
		}
		if len(e.Extents) == 0 {
			e.Extents = nil
		}
		names := rapid.SliceOfNDistinct(genName(), 0, 3, rapid.ID[string]).Draw(r, "attributes")
		slices.Sort(names)
		for _, name := range names {
			x := Xattr{Name: name}
			if v := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(r, "value"); len(v) > 0 {
				x.Value = v
			}
			e.Xattrs = append(e.Xattrs, x)
		}
		return e
	})
}

func genRef(n int) *rapid.Generator[PackRef] {
	return rapid.Custom(func(r *rapid.T) PackRef {
		ref := PackRef{
			ID:   pack.ID(genBytes16("id").Draw(r, "pack")),
			Kind: rapid.SampledFrom([]pack.Kind{pack.Data, pack.Tree, pack.Index}).Draw(r, "kind"), Class: pack.Class(rapid.IntRange(0, 2).Draw(r, "class")),
			K: uint8(rapid.IntRange(1, n).Draw(r, "k")), N: uint8(n), Epoch: rapid.Uint32().Draw(r, "epoch"),
		}
		for range n {
			ref.Shares = append(ref.Shares, shard.Name(genBytes32("name").Draw(r, "share")))
		}
		return ref
	})
}

func genIndexed() *rapid.Generator[IndexedPack] {
	return rapid.Custom(func(r *rapid.T) IndexedPack {
		p := IndexedPack{Ref: genRef(rapid.IntRange(1, 5).Draw(r, "n")).Draw(r, "ref")}
		at := uint32(0)
		for range rapid.IntRange(0, 5).Draw(r, "chunks") {
			e := pack.Entry{
				ID:     chunk.ID(genBytes32("id").Draw(r, "chunk")),
				Offset: at + rapid.Uint32Range(0, 3).Draw(r, "gap"), Stored: rapid.Uint32Range(1, 3000).Draw(r, "stored"),
			}
			e.Raw, e.Compressed = e.Stored, rapid.Bool().Draw(r, "compressed")
			if e.Compressed {
				e.Raw = rapid.Uint32Range(1, 16<<20).Draw(r, "raw")
			}
			at = e.Offset + e.Stored
			p.Entries = append(p.Entries, e)
		}
		return p
	})
}

func genHead() *rapid.Generator[*Head] {
	return rapid.Custom(func(r *rapid.T) *Head {
		h := &Head{
			Version: 1, State: genBytes16("state").Draw(r, "state"), Register: genBytes16("register").Draw(r, "register"),
			Sequence: rapid.Uint64Range(1, 1<<63).Draw(r, "sequence"), Manifest: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(r, "manifest"),
			Packs: rapid.Uint64().Draw(r, "packs"), Objects: rapid.Uint64().Draw(r, "objects"), Stored: rapid.Uint64().Draw(r, "stored"),
			Source: rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(r, "source"), CharterVersion: rapid.Uint64().Draw(r, "charter"),
			CharterHash: genBytes32("hash").Draw(r, "charter hash"), Time: rapid.Int64().Draw(r, "time"),
		}
		if h.Sequence > 1 {
			h.Previous = genBytes32("previous").Draw(r, "previous")
			h.Previous[0] |= 1
		}
		n := rapid.IntRange(1, 6).Draw(r, "n")
		for i := range n {
			h.Members = append(h.Members, [16]byte{byte(i + 1), byte(n)})
		}
		h.K = uint8(rapid.IntRange(1, n).Draw(r, "k"))
		for i := range rapid.IntRange(0, n-int(h.K)).Draw(r, "missing") {
			h.Missing = append(h.Missing, h.Members[i])
		}
		for range rapid.IntRange(0, 2).Draw(r, "index packs") {
			h.Index = append(h.Index, genRef(n).Draw(r, "index pack"))
		}
		if rapid.Bool().Draw(r, "version 2") {
			h.Version, h.Packs = 2, max(h.Packs, uint64(len(h.Index)+1))
			for i := range h.Index {
				h.Index[i].Kind = pack.Index
			}
			if rapid.Bool().Draw(r, "explicit") {
				h.References = []PackRef{genRef(n).Draw(r, "references")}
				h.References[0].Kind = pack.Index
			}
		}
		return h
	})
}

func genPayload() *rapid.Generator[*Payload] {
	return rapid.Custom(func(r *rapid.T) *Payload {
		p := &Payload{
			Root: genEntry().Draw(r, "root"), Path: "/" + genName().Draw(r, "path"), Host: genName().Draw(r, "host"),
			Stats:   Stats{Files: rapid.Uint64().Draw(r, "files"), Folders: 2, Links: 3, Others: 4, Bytes: 5, Unchanged: 6, NewBytes: 7},
			Started: rapid.Int64().Draw(r, "started"), Finished: rapid.Int64().Draw(r, "finished"),
			Excluded: Excluded{Count: rapid.Uint64().Draw(r, "excluded"), Bytes: 9},
		}
		p.Root.Name = ""
		for range rapid.IntRange(0, 2).Draw(r, "problems") {
			p.Problems = append(p.Problems, genExtent(false).Draw(r, "problem"))
			p.ProblemCount++
		}
		for range rapid.IntRange(0, 2).Draw(r, "others") {
			p.OtherFileSystems = append(p.OtherFileSystems, genName().Draw(r, "path"))
		}
		tags := rapid.SliceOfNDistinct(genName(), 0, 3, rapid.ID[string]).Draw(r, "tags")
		slices.Sort(tags)
		if len(tags) > 0 {
			p.Tags = tags
		}
		return p
	})
}
