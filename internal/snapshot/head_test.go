package snapshot

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
)

// agent returns the signing key of a test's agent.
func agent(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// head returns a sound signed head after prev, or the first one.
func head(prev *Head) *Head {
	h := &Head{
		Version: 1, State: [16]byte{1}, Register: [16]byte{2}, Sequence: 1, Manifest: []byte("sealed"),
		Packs: 3, Objects: 9, Stored: 9 << 20, Members: [][16]byte{{1}, {2}, {3}}, K: 2, Missing: [][16]byte{{3}},
		CharterVersion: 1, CharterHash: [32]byte{4}, Time: 1_700_000_000_000_000_000,
		Index: []PackRef{{ID: pack.ID{5}, Kind: pack.Index, Class: 1, K: 2, N: 3, Epoch: 1, Shares: []shard.Name{{1}, {2}, {3}}}},
	}
	if prev != nil {
		h.Sequence, h.Previous = prev.Sequence+1, prev.Hash()
	}
	h.Sign(agent(1))
	return h
}

func TestHeadComesBackAsItWasAndVerifies(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		h := genHead().Draw(r, "head")
		h.Sign(agent(7))
		got, err := ParseHead(h.Bytes())
		if err != nil {
			r.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), h.Bytes()) || got.Hash() != h.Hash() || got.Verify() != nil || got.Sequence != h.Sequence ||
			!slices.Equal(got.Members, h.Members) || !slices.Equal(got.Missing, h.Missing) || !reflect.DeepEqual(got.Index, h.Index) ||
			!reflect.DeepEqual(got.References, h.References) {
			r.Fatalf("%+v\n%+v", got, h)
		}
	})
}

func TestEveryFlippedBitOfAHeadIsFound(t *testing.T) {
	b := head(nil).Bytes()
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		h, err := ParseHead(bad)
		if err != nil {
			if !errors.Is(err, ErrHead) {
				t.Fatal(err)
			}
			continue
		}
		if err := h.Verify(); !errors.Is(err, ErrSignature) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	if h, err := ParseHead(b); err != nil || h.Verify() != nil {
		t.Fatal("control:", err)
	}
}

func TestHeadsThatCannotBeAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(h *Head){
		"version":        func(h *Head) { h.Version = 3 },
		"two references": func(h *Head) { h.Version, h.References = 2, append(h.Index, h.Index...) },
		"references of another kind": func(h *Head) {
			h.Version, h.References = 2, []PackRef{{Kind: pack.Data, K: 2, N: 3, Shares: h.Index[0].Shares}}
		},
		"more packs named than added": func(h *Head) { h.Version, h.Packs = 2, 0 },
		"sequence 0":                  func(h *Head) { h.Sequence = 0 },
		"first with previous":         func(h *Head) { h.Previous = [32]byte{1} },
		"second without previous":     func(h *Head) { h.Sequence = 2 },
		"no members":                  func(h *Head) { h.Members, h.Missing, h.Index = nil, nil, nil },
		"too many members":            func(h *Head) { h.Members, h.Index = make([][16]byte, 33), nil },
		"one member twice":            func(h *Head) { h.Members[1] = h.Members[0] },
		"k 0":                         func(h *Head) { h.K = 0 },
		"k above n":                   func(h *Head) { h.K = 4 },
		"missing is no member":        func(h *Head) { h.Missing[0] = [16]byte{9} },
		"missing out of order":        func(h *Head) { h.K, h.Missing = 1, [][16]byte{{3}, {2}} },
		"missing twice":               func(h *Head) { h.K, h.Missing = 1, [][16]byte{{3}, {3}} },
		"fewer than k":                func(h *Head) { h.Missing = [][16]byte{{2}, {3}} },
		"index pack of another n":     func(h *Head) { h.Index[0].N, h.Index[0].Shares = 2, h.Index[0].Shares[:2] },
		"index pack of unknown kind":  func(h *Head) { h.Index[0].Kind = pack.Head },
		"index pack of class 9":       func(h *Head) { h.Index[0].Class = 9 },
		"too large":                   func(h *Head) { h.Manifest = make([]byte, MaxHead) },
	} {
		h := head(nil)
		spoil(h)
		h.Sign(agent(1))
		if _, err := ParseHead(h.Bytes()); !errors.Is(err, ErrHead) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherSpellingsOfAHeadAreRefused(t *testing.T) {
	b := head(nil).Bytes()
	at := len(b) - 64
	body, signature := b[:at], b[at:]
	var m map[uint64]any
	if err := cbor.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func()) []byte {
		change()
		out, err := mode.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if same := with(func() {}); !bytes.Equal(same, body) {
		t.Fatal("control: not deterministic CBOR")
	}
	cases := map[string][]byte{
		"bytes behind":      append(slices.Clone(body), 0),
		"indefinite length": append(append([]byte{0xbf}, body[1:]...), 0xff),
		"cut short":         body[:len(body)-1],
		"duplicate key":     append(append([]byte{body[0] + 1, 1, 1}, body[1:]...), nil...),
		"empty":             {},
		"unknown key":       with(func() { m[19] = uint64(0) }),
		"absent key":        with(func() { delete(m, 19); delete(m, 18) }),
		"null":              with(func() { m[18] = nil }),
		"short state":       with(func() { m[18] = int64(1); m[2] = []byte{1} }),
		"k too large":       with(func() { m[2] = make([]byte, 16); m[13] = 300 }),
	}
	for name, c := range cases {
		if _, err := ParseHead(append(slices.Clone(c), signature...)); !errors.Is(err, ErrHead) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignatureIsBoundToItsPurposeAndKey(t *testing.T) {
	h := head(nil)
	copy(h.Signature[:], ed25519.Sign(agent(1), h.unsigned())) // without the context
	if err := h.Verify(); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	h.Sign(agent(1))
	if err := h.Verify(); err != nil {
		t.Error("control:", err)
	}
	h.Agent = [32]byte(agent(2).Public().(ed25519.PublicKey))
	if err := h.Verify(); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
}

func TestChainTellsAForkFromAGap(t *testing.T) {
	first := head(nil)
	second := head(first)
	third := head(second)
	other := head(first)
	other.Time++
	other.Sign(agent(1))
	foreign := head(first)
	foreign.Register = [16]byte{99}
	foreign.Sign(agent(1))
	for name, c := range map[string]struct {
		prev, next *Head
		want       error
	}{
		"first":                   {nil, first, nil},
		"second":                  {first, second, nil},
		"third":                   {second, third, nil},
		"second as first":         {nil, second, ErrBroken},
		"same head again":         {second, second, ErrBroken},
		"two second heads":        {second, other, ErrForked},
		"gap":                     {first, third, ErrBroken},
		"back":                    {third, second, ErrBroken},
		"third on another second": {other, third, ErrBroken},
		"another register":        {first, foreign, ErrBroken},
	} {
		if err := CheckChain(c.prev, c.next); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestPayloadComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := genPayload().Draw(r, "payload")
		b, err := p.Bytes()
		if err != nil {
			r.Fatal(err)
		}
		got, err := ParsePayload(b)
		if err != nil || !reflect.DeepEqual(got, p) {
			r.Fatalf("%v\n%+v\n%+v", err, got, p)
		}
	})
}

// payload returns a sound payload.
func payload() *Payload {
	return &Payload{
		Root: Entry{Kind: Dir, Mode: 0o755, Size: 100, Files: 1, Extents: []Extent{{Length: 60}}},
		Path: "/srv/register", Host: "home", Stats: Stats{Files: 1, Folders: 1, Bytes: 100}, Tags: []string{"a", "b"},
		OtherFileSystems: []string{"/srv/register/proc"},
	}
}

func TestPayloadsThatCannotBeAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(p *Payload){
		"root of no kind":   func(p *Payload) { p.Root.Kind = 0 },
		"path with NUL":     func(p *Payload) { p.Path = "/a\x00b" },
		"long host":         func(p *Payload) { p.Host = string(make([]byte, 256)) },
		"hole of problems":  func(p *Payload) { p.Problems = []Extent{{Hole: true, HoleLength: 1}} },
		"empty file system": func(p *Payload) { p.OtherFileSystems[0] = "" },
		"many file systems": func(p *Payload) { p.OtherFileSystems = slices.Repeat([]string{"/x"}, 257) },
		"tags out of order": func(p *Payload) { p.Tags = []string{"b", "a"} },
		"tag twice":         func(p *Payload) { p.Tags = []string{"a", "a"} },
		"too large as it was": func(p *Payload) {
			p.OtherFileSystems = slices.Repeat([]string{string(bytes.Repeat([]byte{'x'}, 60000))}, 5)
		},
	} {
		p := payload()
		if _, err := p.Bytes(); err != nil {
			t.Fatal("control:", err)
		}
		spoil(p)
		if _, err := p.Bytes(); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %v", name, err)
		}
	}
	named := payload()
	named.Root.Name = "srv"
	b, err := named.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := ParsePayload(b); err != nil || p.Root.Name != "" {
		t.Error("a root has no name", err)
	}
	for _, bad := range [][]byte{nil, {0xa0}, append(slices.Clone(b), 0), b[:len(b)-1], make([]byte, MaxPayload+1)} {
		if _, err := ParsePayload(bad); !errors.Is(err, ErrPayload) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func TestIndexPayloadComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		packs := rapid.SliceOfN(genIndexed(), 0, 5).Draw(r, "packs")
		for i := range packs {
			packs[i].Ref.ID[0] = byte(i)
		}
		b := AppendIndex([]byte("before"), packs)[6:]
		got, err := ParseIndex(b)
		if err != nil || len(got) != len(packs) {
			r.Fatal(err)
		}
		size := 11
		for i := range got {
			if !reflect.DeepEqual(got[i], packs[i]) {
				r.Fatalf("%+v\n%+v", got[i], packs[i])
			}
			size += IndexSize(&packs[i])
		}
		if len(b) > size {
			r.Fatalf("%d bytes, IndexSize said %d", len(b), size)
		}
		for n := range len(b) {
			if _, err := ParseIndex(b[:n]); !errors.Is(err, ErrIndex) {
				r.Fatalf("%d bytes of %d: %v", n, len(b), err)
			}
		}
		if _, err := ParseIndex(append(b, 0)); !errors.Is(err, ErrIndex) {
			r.Fatal("a byte behind was accepted")
		}
	})
}

func indexed(n byte, chunks int) IndexedPack {
	p := IndexedPack{Ref: PackRef{ID: pack.ID{n}, Kind: pack.Data, Class: 2, K: 1, N: 1, Shares: []shard.Name{{n}}}}
	for i := range chunks {
		p.Entries = append(p.Entries, pack.Entry{ID: [32]byte{n, byte(i), byte(i >> 8)}, Offset: uint32(i) * 100, Stored: 100, Raw: 100})
	}
	return p
}

func TestIndexSplitsIntoPayloadsThatFit(t *testing.T) {
	var packs []IndexedPack
	for i := range byte(40) {
		packs = append(packs, indexed(i, int(i)*10))
	}
	list, err := SplitIndex(packs, 40_000)
	if err != nil || len(list) < 4 {
		t.Fatal(err, len(list))
	}
	var again []IndexedPack
	for _, b := range list {
		part, err := ParseIndex(b)
		if err != nil || len(b) > 40_000 {
			t.Fatal(err, len(b))
		}
		again = append(again, part...)
	}
	if !reflect.DeepEqual(again, packs) {
		t.Error("not what was split")
	}
	if _, err := SplitIndex(packs, 4000); !errors.Is(err, ErrIndex) {
		t.Error("a pack that does not fit:", err)
	}
	if list, err := SplitIndex(nil, 4000); err != nil || list != nil {
		t.Error(err)
	}
}

func TestIndexedPacksThatCannotBeAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(p *IndexedPack){
		"unknown kind":        func(p *IndexedPack) { p.Ref.Kind = pack.Head },
		"unknown class":       func(p *IndexedPack) { p.Ref.Class = 3 },
		"k 0":                 func(p *IndexedPack) { p.Ref.K = 0 },
		"overlap":             func(p *IndexedPack) { p.Entries[1].Offset-- },
		"descending":          func(p *IndexedPack) { p.Entries[0], p.Entries[1] = p.Entries[1], p.Entries[0] },
		"empty":               func(p *IndexedPack) { p.Entries[1].Stored = 0 },
		"of no length":        func(p *IndexedPack) { p.Entries[1].Raw, p.Entries[1].Compressed = 0, true },
		"of 17 MiB":           func(p *IndexedPack) { p.Entries[1].Raw, p.Entries[1].Compressed = 17<<20, true },
		"plain of two sizes":  func(p *IndexedPack) { p.Entries[1].Raw++ },
		"beyond the pack":     func(p *IndexedPack) { p.Ref.Class = 0; p.Entries[1].Offset = 64<<10 - 99 },
		"beyond four GiB":     func(p *IndexedPack) { p.Entries[1].Offset = 1<<32 - 50 },
		"n beyond 32 members": func(p *IndexedPack) { p.Ref.N, p.Ref.Shares = 33, make([]shard.Name, 33) },
	} {
		p := indexed(1, 2)
		if err := p.Check(); err != nil {
			t.Fatal("control:", err)
		}
		spoil(&p)
		if err := p.Check(); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if _, err := ParseIndex(AppendIndex(nil, []IndexedPack{p})); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: ParseIndex says %v", name, err)
		}
	}
	if _, err := ParseIndex(AppendIndex(nil, []IndexedPack{indexed(1, 1), indexed(1, 2)})); !errors.Is(err, ErrIndex) {
		t.Error("one pack twice:", err)
	}
	// Counts beyond the bytes that follow allocate nothing.
	for _, b := range [][]byte{{1, 0xff, 0xff, 0xff, 7}, append([]byte{1, 1}, AppendIndex(nil, []IndexedPack{indexed(1, 0)})[2:len(AppendIndex(nil, []IndexedPack{indexed(1, 0)}))-1]...)} {
		if _, err := ParseIndex(append(b, 0xff, 0xff, 0x3f)); !errors.Is(err, ErrIndex) {
			t.Error(err)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(head(nil).Bytes())
	f.Add(head(head(nil)).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHead(b)
		if err != nil {
			if !errors.Is(err, ErrHead) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.Bytes(), b) || h.Check() != nil {
			t.Fatal("accepted another spelling")
		}
	})
}

func FuzzPayload(f *testing.F) {
	if b, err := payload().Bytes(); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePayload(b)
		if err != nil {
			if !errors.Is(err, ErrPayload) {
				t.Fatal(err)
			}
			return
		}
		if again, err := p.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted another spelling", err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(AppendIndex(nil, nil))
	f.Add(AppendIndex(nil, []IndexedPack{indexed(1, 3), indexed(2, 0)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		packs, err := ParseIndex(b)
		if err != nil {
			if !errors.Is(err, ErrIndex) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(AppendIndex(nil, packs), b) {
			t.Fatal("accepted another spelling")
		}
	})
}

func BenchmarkParseIndex(b *testing.B) {
	data := AppendIndex(nil, []IndexedPack{indexed(1, 10_000), indexed(2, 10_000)})
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseIndex(data); err != nil {
			b.Fatal(err)
		}
	}
}
