package pack

import (
	"testing"

	"chancery.dev/chancery/internal/chunk"
)

func BenchmarkCompress(b *testing.B) {
	for _, bb := range []struct {
		name string
		raw  []byte
	}{{"text", text(1, 1<<20)}, {"random", random(1, 1<<20)}, {"runs", runs(1, 1<<20)}} {
		b.Run(bb.name, func(b *testing.B) {
			c, dst := NewCompressor(), make([]byte, 0, 2<<20)
			out := 0
			b.SetBytes(int64(len(bb.raw)))
			for b.Loop() {
				stored, _ := c.Compress(dst, bb.raw)
				out = len(stored)
			}
			b.ReportMetric(float64(out)/float64(len(bb.raw)), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	raw := text(1, 1<<20)
	stored, compressed := NewCompressor().Compress(nil, raw)
	e := Entry{Stored: uint32(len(stored)), Raw: uint32(len(raw)), Compressed: compressed}
	d, dst := NewDecompressor(), make([]byte, 0, 2<<20)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := d.Decompress(dst, e, stored); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	bd, raw := NewBuilder(make([]byte, 0, Payload(2, Data))), random(1, 1<<20)
	b.SetBytes(15 << 20)
	for b.Loop() {
		bd.Reset()
		for i := range 15 {
			bd.Add(chunk.ID{byte(i)}, raw, len(raw), false)
		}
		bd.Finish(2)
	}
}

func BenchmarkSeal(b *testing.B) {
	s, r, m := newSession(b, newKey(b, 1), 7), source(1), testMeta(Data, 2)
	payload, dst := random(1, Payload(2, Data)), make([]byte, 0, 16<<20)
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		if _, err := s.Seal(dst, r, m, payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	priv := newKey(b, 1)
	s, m, o := newSession(b, priv, 7), testMeta(Data, 2), NewOpener(priv)
	sealed, err := s.Seal(nil, source(1), m, random(1, Payload(2, Data)))
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 16<<20)
	b.SetBytes(int64(len(sealed)))
	for b.Loop() {
		if _, err := o.Open(dst, m, sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseFooter(b *testing.B) {
	bd := NewBuilder(make([]byte, 0, Payload(2, Data)))
	for i := range 16 {
		bd.Add(chunk.ID{byte(i)}, random(1, 900_000), 900_000, false)
	}
	payload := bd.Finish(2)
	for b.Loop() {
		if _, err := ParseFooter(payload); err != nil {
			b.Fatal(err)
		}
	}
}
