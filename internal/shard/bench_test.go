package shard_test

import (
	"fmt"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

const packSize = 16 << 20

func BenchmarkRoot(b *testing.B) {
	data := make([]byte, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		shard.Root(data)
	}
}

func BenchmarkMask(b *testing.B) {
	data := make([]byte, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		shard.Mask(shard.MaskKey{}, [16]byte{}, 0, data)
	}
}

func BenchmarkMaskAndHash(b *testing.B) {
	data := make([]byte, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		shard.MaskAndHash(shard.MaskKey{}, [16]byte{}, 0, data)
	}
}

// The control of BenchmarkMaskAndHash: the same in two walks.
func BenchmarkMaskThenRoot(b *testing.B) {
	data := make([]byte, packSize)
	b.SetBytes(packSize)
	for b.Loop() {
		shard.Mask(shard.MaskKey{}, [16]byte{}, 0, data)
		shard.Root(data)
	}
}

func BenchmarkHashAndUnmask(b *testing.B) {
	data := make([]byte, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		shard.HashAndUnmask(shard.MaskKey{}, [16]byte{}, 0, data)
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, kn := range [][2]int{{1, 3}, {2, 3}, {3, 5}} {
		b.Run(fmt.Sprintf("%dof%d", kn[0], kn[1]), func(b *testing.B) {
			c, err := shard.NewCoder(kn[0], kn[1])
			if err != nil {
				b.Fatal(err)
			}
			sealed, dst := make([]byte, packSize), make([]byte, kn[1]*shard.Size(packSize, kn[0]))
			b.SetBytes(packSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Split(dst, sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, absent := range []int{4, 0} {
		b.Run(fmt.Sprintf("3of5without%d", absent), func(b *testing.B) {
			c, err := shard.NewCoder(3, 5)
			if err != nil {
				b.Fatal(err)
			}
			shares, err := c.Split(nil, make([]byte, packSize))
			if err != nil {
				b.Fatal(err)
			}
			shares[absent] = nil
			dst := make([]byte, packSize)
			b.SetBytes(packSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Join(dst, shares, packSize); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
