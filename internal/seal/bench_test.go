package seal_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"chancery.dev/chancery/internal/seal"
)

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			key, plain, dst := seal.Key{1}, make([]byte, size), make([]byte, 0, seal.Size(size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst = seal.Seal(dst[:0], &key, seal.Salt{}, nil, plain)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			key, dst := seal.Key{1}, make([]byte, 0, size)
			sealed := seal.Seal(nil, &key, seal.Salt{}, nil, make([]byte, size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := seal.Open(dst, &key, nil, sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenAt(b *testing.B) {
	key, dst := seal.Key{1}, make([]byte, 0, 4<<10)
	sealed := seal.Seal(nil, &key, seal.Salt{}, nil, make([]byte, 16<<20))
	r := bytes.NewReader(sealed)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.OpenAt(dst, &key, nil, r, r.Size(), 5<<20, 4<<10); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrap(b *testing.B) {
	seed, err := seal.GenerateSeed(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	priv, err := seal.NewPrivateKey(seed)
	if err != nil {
		b.Fatal(err)
	}
	pub := priv.Public()
	for b.Loop() {
		if _, err := seal.Wrap(pub, nil, seed[:]); err != nil {
			b.Fatal(err)
		}
	}
}
