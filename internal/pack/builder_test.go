package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"chancery.dev/chancery/internal/chunk"
)

func TestFooterNamesWhatWasAdded(t *testing.T) {
	buf := make([]byte, 0, Payload(2, Data))
	rapid.Check(t, func(t *rapid.T) {
		b := NewBuilder(buf)
		r := source(rapid.Byte().Draw(t, "seed"))
		var stored [][]byte
		for range rapid.IntRange(0, 40).Draw(t, "chunks") {
			raw := random(byte(r.Uint64()), rapid.IntRange(1, 9000).Draw(t, "length"))
			compressed := rapid.Bool().Draw(t, "compressed")
			rawSize := len(raw)
			if compressed {
				rawSize += 1 + rapid.IntRange(0, 100).Draw(t, "saved")
			}
			e := b.Add(chunk.ID(random(byte(r.Uint64()), 32)), raw, rawSize, compressed)
			if e != b.Entries()[b.Count()-1] {
				t.Fatal("Add returned another entry than it kept")
			}
			stored = append(stored, raw)
		}
		class := max(b.Smallest(), Class(rapid.IntRange(0, 2).Draw(t, "class")))
		payload := b.Finish(class)
		if len(payload) != Payload(class, Data) {
			t.Fatalf("payload of %d bytes in class %d", len(payload), class)
		}
		got, err := ParseFooter(payload)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, b.Entries()) {
			t.Fatal("the footer names other chunks")
		}
		for i, e := range got {
			if !bytes.Equal(payload[e.Offset:e.Offset+e.Stored], stored[i]) {
				t.Fatalf("chunk %d has other bytes", i)
			}
		}
	})
}

func TestFinishLeavesNothingOfAnEarlierPack(t *testing.T) {
	buf := make([]byte, 0, Payload(1, Data))
	b := NewBuilder(buf)
	b.Add(chunk.ID{1}, bytes.Repeat([]byte{0xee}, 900_000), 900_000, false)
	b.Finish(1)
	b.Reset()
	b.Add(chunk.ID{2}, []byte("x"), 1, false)
	payload := b.Finish(1)
	if bytes.IndexByte(payload, 0xee) >= 0 {
		t.Error("bytes of the pack before are in the padding")
	}
	if e, err := ParseFooter(payload); err != nil || len(e) != 1 {
		t.Error(e, err)
	}
}

func TestAPackIsFilledToTheLastByte(t *testing.T) {
	for _, c := range Classes() {
		room := Payload(c, Data)
		b := NewBuilder(make([]byte, 0, room))
		n := room - entrySize - tailSize
		if !b.Fits(n) || b.Fits(n+1) {
			t.Errorf("class %d: Fits is wrong at %d bytes", c, n)
		}
		raw := min(n, MaxRaw)
		b.Add(chunk.ID{1}, make([]byte, raw), raw, false)
		if b.Fits(1) || b.Len() != room || b.Smallest() != c {
			t.Errorf("class %d: %d of %d bytes, class %d", c, b.Len(), room, b.Smallest())
		}
		if e := b.Add(chunk.ID{2}, []byte("x"), 1, false); e != (Entry{}) || b.Count() != 1 {
			t.Errorf("class %d: a chunk was added that does not fit", c)
		}
		if _, err := ParseFooter(b.Finish(c)); err != nil {
			t.Errorf("class %d: %v", c, err)
		}
		if c > 0 && b.Finish(c-1) != nil {
			t.Errorf("class %d: finished as a smaller class", c)
		}
	}
}

func TestABuilderTakesPossibleChunksOnly(t *testing.T) {
	for name, add := range map[string]func(b *Builder) Entry{
		"empty":                  func(b *Builder) Entry { return b.Add(chunk.ID{}, nil, 0, false) },
		"empty, compressed":      func(b *Builder) Entry { return b.Add(chunk.ID{}, nil, 5, true) },
		"negative":               func(b *Builder) Entry { return b.Add(chunk.ID{}, []byte("x"), -1, true) },
		"raw of another length":  func(b *Builder) Entry { return b.Add(chunk.ID{}, []byte("x"), 2, false) },
		"compressed to the same": func(b *Builder) Entry { return b.Add(chunk.ID{}, []byte("x"), 1, true) },
		"larger than any":        func(b *Builder) Entry { return b.Add(chunk.ID{}, []byte("x"), MaxRaw+1, true) },
	} {
		b := NewBuilder(make([]byte, 0, Payload(0, Data)))
		if e := add(b); e != (Entry{}) || b.Count() != 0 {
			t.Errorf("%s: taken", name)
		}
	}
}

// footer builds a payload of size bytes from what the test says, sound or not.
func footer(size int, version, count uint32, entries ...[2]uint32) []byte {
	p := make([]byte, 0, size)
	for _, e := range entries {
		p = append(p, make([]byte, 32)...)
		p = binary.BigEndian.AppendUint32(p, e[0])
		p = binary.BigEndian.AppendUint32(p, e[1])
	}
	p = binary.BigEndian.AppendUint32(p, count)
	p = binary.BigEndian.AppendUint32(p, version)
	return append(make([]byte, size-len(p)), p...)
}

func TestFooterTakesTheCanonicalFormOnly(t *testing.T) {
	const z = compressedBit
	dirty := footer(200, 1, 1, [2]uint32{10, 10})
	dirty[10] = 1
	for name, tt := range map[string]struct {
		payload []byte
		want    error
	}{
		"control":                 {footer(200, 1, 1, [2]uint32{10, 10}), nil},
		"control, no chunks":      {footer(200, 1, 0), nil},
		"control, full":           {footer(148, 1, 2, [2]uint32{50, 50}, [2]uint32{10, 10}), nil},
		"control, compressed":     {footer(200, 1, 1, [2]uint32{z | 10, 11}), nil},
		"empty":                   {nil, ErrFormat},
		"seven bytes":             {make([]byte, 7), ErrFormat},
		"version 0":               {footer(200, 0, 0), ErrVersion},
		"version 2":               {footer(200, 2, 0), ErrVersion},
		"more chunks than bytes":  {footer(200, 1, 5), ErrFormat},
		"huge count":              {footer(200, 1, 1<<32-1), ErrFormat},
		"stored nothing":          {footer(200, 1, 1, [2]uint32{0, 0}), ErrFormat},
		"compressed from nothing": {footer(200, 1, 1, [2]uint32{z, 1}), ErrFormat},
		"raw differs":             {footer(200, 1, 1, [2]uint32{10, 11}), ErrFormat},
		"compressed not shorter":  {footer(200, 1, 1, [2]uint32{z | 10, 10}), ErrFormat},
		"raw above the cap":       {footer(200, 1, 1, [2]uint32{z | 10, MaxRaw + 1}), ErrFormat},
		"into the footer":         {footer(200, 1, 1, [2]uint32{153, 153}), ErrFormat},
		"second into the footer":  {footer(148, 1, 2, [2]uint32{50, 50}, [2]uint32{11, 11}), ErrFormat},
		"padding not zero":        {dirty, ErrFormat},
		"longer than any pack":    {footer(Payload(2, Data)+1, 1, 0), ErrSize},
	} {
		if _, err := ParseFooter(tt.payload); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func FuzzParseFooter(f *testing.F) {
	f.Add(footer(200, 1, 1, [2]uint32{10, 10}))
	f.Add(footer(148, 1, 2, [2]uint32{50, 50}, [2]uint32{compressedBit | 10, 99}))
	f.Add(footer(8, 1, 0))
	f.Fuzz(func(t *testing.T, payload []byte) {
		entries, err := ParseFooter(payload)
		if err != nil {
			return
		}
		// What was taken can be built again, to the same bytes.
		b := &Builder{buf: make([]byte, 0, len(payload)), room: len(payload)}
		for _, e := range entries {
			if b.Add(e.ID, payload[e.Offset:e.Offset+e.Stored], int(e.Raw), e.Compressed) != e {
				t.Fatal("an entry that no builder makes")
			}
		}
		rest := payload[len(b.buf) : len(payload)-b.Len()+len(b.buf)]
		if !bytes.Equal(rest, make([]byte, len(rest))) {
			t.Fatal("padding")
		}
	})
}
