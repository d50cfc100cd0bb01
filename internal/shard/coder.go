package shard

import (
	"errors"
	"fmt"

	"github.com/klauspost/reedsolomon"
)

// MaxShares is the largest n: a pack is never split over more embassies.
const MaxShares = 32

var (
	// ErrTooFew means that fewer than k shares are there.
	ErrTooFew = errors.New("too few shares")
	// ErrShares means that shares are not in the shape that the coder makes: their number or length.
	ErrShares = errors.New("not the shares of such a pack")
)

// Size returns the length in bytes of each share of a pack of this sealed length in bytes: a k-th of
// it, rounded up.
func Size(sealed, k int) int { return (sealed + k - 1) / k }

// Coder splits sealed packs into n shares, any k of which are enough. It may be used by several
// goroutines, and starts none itself.
//
// With k = 1 every share is the pack. Otherwise shares 0 to k−1 are the pack in order, zero-padded at
// its end, and the others are systematic Reed–Solomon over GF(2⁸); docs/spec/shares.md gives the
// matrix.
type Coder struct {
	k, n int
	rs   reedsolomon.Encoder // nil where k is 1 or n
}

// NewCoder returns a coder for 1 ≤ k ≤ n ≤ [MaxShares].
func NewCoder(k, n int) (*Coder, error) {
	if k < 1 || n < k || n > MaxShares {
		return nil, fmt.Errorf("shares: %d of %d: want 1 ≤ k ≤ n ≤ %d", k, n, MaxShares)
	}
	c := &Coder{k: k, n: n}
	if k == 1 || k == n {
		return c, nil
	}
	var err error
	// One goroutine: the work around it is already parallel, pack by pack.
	if c.rs, err = reedsolomon.New(k, n-k, reedsolomon.WithMaxGoroutines(1)); err != nil {
		return nil, fmt.Errorf("shares: %d of %d: %w", k, n, err)
	}
	return c, nil
}

// Split returns the n shares of a sealed pack, each [Size] bytes long and with no spare capacity, all
// in the memory of dst from its beginning. If dst's capacity is less than n × Size, new memory is
// taken instead. sealed may be the beginning of dst, which saves a copy; otherwise the two must not
// overlap. sealed must not be empty.
func (c *Coder) Split(dst, sealed []byte) ([][]byte, error) {
	if len(sealed) == 0 {
		return nil, fmt.Errorf("shares: split an empty pack: %w", ErrShares)
	}
	size := Size(len(sealed), c.k)
	if cap(dst) < c.n*size {
		dst = make([]byte, c.n*size)
	}
	dst = dst[:c.n*size]
	shares := make([][]byte, c.n)
	for i := range shares {
		shares[i] = dst[i*size : (i+1)*size : (i+1)*size]
	}
	if c.k == 1 {
		for i := range shares {
			copy(shares[i], sealed)
		}
		return shares, nil
	}
	clear(dst[copy(dst, sealed) : c.k*size])
	if c.rs != nil {
		if err := c.rs.Encode(shares); err != nil {
			return nil, fmt.Errorf("shares: split: %w", err)
		}
	}
	return shares, nil
}

// Join returns the sealed pack of sealedSize bytes that the shares were split from. shares has n
// entries in share order; nil stands for an absent one, and any k are enough. The result is in the
// memory of dst from its beginning, or in new memory if dst's capacity is less than sealedSize; it
// must not overlap the shares, which are not altered.
//
// A wrong share of the right length gives a wrong pack, not an error: the caller has checked each
// share against its name. Join returns [ErrTooFew], [ErrShares] for shares of a wrong number or
// length, and [ErrDamaged] if the padding is not zero.
func (c *Coder) Join(dst []byte, shares [][]byte, sealedSize int) ([]byte, error) {
	have, err := c.check(shares, sealedSize)
	if err != nil {
		return nil, err
	}
	if cap(dst) < sealedSize {
		dst = make([]byte, sealedSize)
	}
	dst = dst[:sealedSize]
	if c.k == 1 {
		for _, s := range shares {
			if s != nil {
				copy(dst, s)
				break
			}
		}
		return dst, nil
	}
	size := Size(sealedSize, c.k)
	data := shares[:c.k]
	if have.data < c.k {
		if data, err = c.reconstruct(dst, shares, size, have.total); err != nil {
			return nil, err
		}
	}
	for i, s := range data {
		at := min(i*size, sealedSize)
		n := copy(dst[at:], s)
		for _, b := range s[n:] {
			if b != 0 {
				return nil, fmt.Errorf("shares: join: share %d: padding is not zero: %w", i, ErrDamaged)
			}
		}
	}
	return dst, nil
}

type counts struct{ data, total int }

func (c *Coder) check(shares [][]byte, sealedSize int) (counts, error) {
	var have counts
	if len(shares) != c.n || sealedSize < 1 {
		return have, fmt.Errorf("shares: join %d, want %d, into %d bytes: %w", len(shares), c.n, sealedSize, ErrShares)
	}
	size := Size(sealedSize, c.k)
	for i, s := range shares {
		if s == nil {
			continue
		}
		if len(s) != size {
			return have, fmt.Errorf("shares: join: share %d is %d bytes, want %d: %w", i, len(s), size, ErrShares)
		}
		if have.total++; i < c.k {
			have.data++
		}
	}
	if have.total < c.k {
		return have, fmt.Errorf("shares: join: %d of the %d needed are there: %w", have.total, c.k, ErrTooFew)
	}
	return have, nil
}

// reconstruct returns the k data shares. A missing one is computed where it belongs in dst if it lies
// there wholly, and in memory of its own otherwise.
func (c *Coder) reconstruct(dst []byte, shares [][]byte, size, total int) ([][]byte, error) {
	all := make([][]byte, c.n)
	copy(all, shares)
	for i := range c.k {
		if all[i] != nil {
			continue
		}
		if end := (i + 1) * size; end <= len(dst) {
			all[i] = dst[i*size : i*size : end]
		} else {
			all[i] = make([]byte, 0, size)
		}
	}
	// The decoder picks the first k present shares and keeps the inverse for each such set; shares
	// beyond k only make more sets.
	for i := c.n - 1; total > c.k; i-- {
		if len(all[i]) > 0 && i >= c.k {
			all[i] = nil
			total--
		}
	}
	if err := c.rs.ReconstructData(all); err != nil {
		return nil, fmt.Errorf("shares: join: %w", err)
	}
	return all[:c.k], nil
}
