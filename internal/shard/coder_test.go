package shard_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

func coder(t testing.TB, k, n int) *shard.Coder {
	t.Helper()
	c, err := shard.NewCoder(k, n)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func split(t testing.TB, c *shard.Coder, sealed []byte) [][]byte {
	t.Helper()
	shares, err := c.Split(nil, sealed)
	if err != nil {
		t.Fatal(err)
	}
	return shares
}

// Exhaustive: every subset of the shares, for every k and n up to 6.
func TestAnyKOfNSharesRejoinAndFewerAreRefused(t *testing.T) {
	for n := 1; n <= 6; n++ {
		for k := 1; k <= n; k++ {
			c := coder(t, k, n)
			for _, length := range []int{1, 2, k, k + 1, 7 * k, 1000, 4096, 4097} {
				sealed := pattern(length)
				shares := split(t, c, sealed)
				kept := split(t, c, sealed)
				for subset := range 1 << n {
					some := make([][]byte, n)
					for i := range n {
						if subset>>i&1 == 1 {
							some[i] = shares[i]
						}
					}
					out, err := c.Join(nil, some, length)
					if bits.OnesCount(uint(subset)) < k {
						if !errors.Is(err, shard.ErrTooFew) || out != nil {
							t.Fatalf("%d of %d, shares %b: %v, want ErrTooFew", k, n, subset, err)
						}
					} else if err != nil || !bytes.Equal(out, sealed) {
						t.Fatalf("%d of %d, %d bytes, shares %b: %v", k, n, length, subset, err)
					}
				}
				if !slices.EqualFunc(shares, kept, bytes.Equal) {
					t.Fatalf("%d of %d: Join altered the shares", k, n)
				}
			}
		}
	}
}

func TestLargePacksRejoinFromTheirLastShares(t *testing.T) {
	for _, c := range [][3]int{{2, 3, 1 << 20}, {3, 5, 1<<20 + 1}, {16, 32, 1 << 20}, {31, 32, 65536}} {
		k, n, length := c[0], c[1], c[2]
		c, sealed := coder(t, k, n), pattern(length)
		shares := split(t, c, sealed)
		for i := range n - k {
			shares[i] = nil
		}
		out, err := c.Join(make([]byte, 0, length), shares, length)
		if err != nil || !bytes.Equal(out, sealed) {
			t.Errorf("%d of %d: %v", k, n, err)
		}
	}
}

func TestSplitUsesTheMemoryItIsGiven(t *testing.T) {
	for _, kn := range [][2]int{{1, 3}, {2, 2}, {3, 5}} {
		k, n := kn[0], kn[1]
		c, sealed := coder(t, k, n), pattern(1000)
		size := shard.Size(len(sealed), k)
		want := split(t, c, sealed)

		dst := bytes.Repeat([]byte{0xff}, n*size+50)
		shares, err := c.Split(dst, sealed)
		if err != nil || !slices.EqualFunc(shares, want, bytes.Equal) {
			t.Fatalf("%d of %d: other shares in used memory, %v", k, n, err)
		}
		for i, s := range shares {
			if &s[0] != &dst[i*size] || cap(s) != size {
				t.Errorf("%d of %d: share %d is elsewhere, or can grow into the next", k, n, i)
			}
		}
		if !bytes.Equal(dst[n*size:], bytes.Repeat([]byte{0xff}, 50)) {
			t.Errorf("%d of %d: wrote behind the shares", k, n)
		}

		in := append(make([]byte, 0, n*size), sealed...)
		if shares, err = c.Split(in, in); err != nil || !slices.EqualFunc(shares, want, bytes.Equal) {
			t.Errorf("%d of %d: a pack at the beginning of dst splits otherwise, %v", k, n, err)
		}

		out := make([]byte, len(sealed))
		joined, err := c.Join(out, shares, len(sealed))
		if err != nil || &joined[0] != &out[0] {
			t.Errorf("%d of %d: Join took other memory, %v", k, n, err)
		}
	}
}

func TestJoinRefusesWhatSplitDoesNotMake(t *testing.T) {
	c, sealed := coder(t, 3, 5), pattern(100)
	shares := split(t, c, sealed)
	with := func(i int, s []byte) [][]byte {
		out := slices.Clone(shares)
		out[i] = s
		return out
	}
	padded := bytes.Clone(shares[2])
	padded[len(padded)-1] = 1
	for _, tc := range []struct {
		what   string
		shares [][]byte
		size   int
		want   error
	}{
		{"too few entries", shares[:4], 100, shard.ErrShares},
		{"too many entries", append(slices.Clone(shares), nil), 100, shard.ErrShares},
		{"none", nil, 100, shard.ErrShares},
		{"a short share", with(4, shares[4][:33]), 100, shard.ErrShares},
		{"an empty share", with(0, []byte{}), 100, shard.ErrShares},
		{"a long share", with(1, append(bytes.Clone(shares[1]), 0)), 100, shard.ErrShares},
		{"another size", shares, 103, shard.ErrShares},
		{"no size", shares, 0, shard.ErrShares},
		{"a negative size", shares, -5, shard.ErrShares},
		{"a huge size", shares, 1 << 62, shard.ErrShares},
		{"padding", with(2, padded), 100, shard.ErrDamaged},
		{"all absent", make([][]byte, 5), 100, shard.ErrTooFew},
	} {
		if out, err := c.Join(nil, tc.shares, tc.size); !errors.Is(err, tc.want) || out != nil {
			t.Errorf("%s: %v, want %v", tc.what, err, tc.want)
		}
	}
	if _, err := c.Split(nil, nil); !errors.Is(err, shard.ErrShares) {
		t.Errorf("an empty pack splits: %v", err)
	}
	for _, kn := range [][2]int{{0, 1}, {-1, 1}, {2, 1}, {1, 33}, {0, 0}, {33, 33}} {
		if _, err := shard.NewCoder(kn[0], kn[1]); err == nil {
			t.Errorf("%d of %d: accepted", kn[0], kn[1])
		}
	}
}

// Join cannot tell a wrong share from a right one: its name can, and must be asked first.
func TestWrongShareIsFoundByItsNameOnly(t *testing.T) {
	c, sealed := coder(t, 2, 3), pattern(100)
	shares := split(t, c, sealed)
	name := shard.Root(shares[2])
	shares[0], shares[2][7] = nil, shares[2][7]^1
	if out, err := c.Join(nil, shares, 100); err != nil || bytes.Equal(out, sealed) {
		t.Errorf("control: a wrong share joins to the right pack, or %v", err)
	}
	if shard.Root(shares[2]) == name {
		t.Error("the wrong share keeps its name")
	}
}

func TestCoderServesSeveralGoroutines(t *testing.T) {
	c := coder(t, 3, 5)
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for g := range 8 {
		wg.Go(func() {
			sealed := pattern(3000 + g)
			for i := range 20 {
				shares, err := c.Split(nil, sealed)
				if err != nil {
					errs <- err
					return
				}
				shares[i%5], shares[(i+1+g)%5] = nil, nil
				if out, err := c.Join(nil, shares, len(sealed)); err != nil || !bytes.Equal(out, sealed) {
					errs <- fmt.Errorf("goroutine %d: %w", g, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func FuzzJoin(f *testing.F) {
	f.Add(uint8(3), uint8(5), 100, uint32(0b11100), []byte("any bytes"))
	f.Add(uint8(1), uint8(1), 1, uint32(1), []byte{0})
	f.Fuzz(func(t *testing.T, k, n uint8, size int, present uint32, data []byte) {
		c, err := shard.NewCoder(int(k), int(n))
		if err != nil || len(data) == 0 {
			return
		}
		shares := make([][]byte, n)
		for i := range shares {
			if present>>(i%32)&1 == 1 {
				shares[i] = data[:1+(i*7+len(data)-1)%len(data)]
				if i%3 != 1 {
					shares[i] = data
				}
			}
		}
		if out, err := c.Join(nil, shares, size); err == nil && len(out) != size {
			t.Fatalf("%d bytes, want %d", len(out), size)
		}
	})
}
