package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// C2SP tlog-tiles: a tile is 8 levels high and 256 hashes wide.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// Tile places one tile of hashes: its level, its index in the level, and how
// many hashes it has (1 to 256; fewer than 256 only at the right edge).
type Tile struct {
	Level uint8
	Index uint64
	Width int
}

// A Prover builds proofs for one size of a log out of its tiles. It keeps the
// tiles that it has read, so it is made for one batch and then dropped. Not for
// concurrent use.
type Prover struct {
	size  uint64
	read  func(Tile) ([]byte, error)
	cache map[Tile][][]tlog.Hash // rows from the tile's hashes up
}

// NewProver makes a prover for the tree of size leaves. read returns a tile's
// hashes, 32 bytes each, at least Width of them.
func NewProver(size uint64, read func(Tile) ([]byte, error)) (*Prover, error) {
	if size > maxTree {
		return nil, fmt.Errorf("ledger: prover: %d leaves: %w", size, ErrFormat)
	}
	return &Prover{size: size, read: read, cache: make(map[Tile][][]tlog.Hash)}, nil
}

// Inclusion returns the RFC 6962 audit path of the leaf at index.
func (p *Prover) Inclusion(index uint64) ([][32]byte, error) {
	if index >= p.size {
		return nil, fmt.Errorf("ledger: prove leaf %d of %d: %w", index, p.size, ErrProof)
	}
	proof, err := tlog.ProveRecord(int64(p.size), int64(index), tlog.HashReaderFunc(p.hashes))
	if err != nil {
		return nil, fmt.Errorf("ledger: prove leaf %d of %d: %w", index, p.size, err)
	}
	return raw(proof), nil
}

// Consistency returns the RFC 6962 proof that the tree's first older leaves are
// the tree of that size. It is empty for 0 and for the whole size.
func (p *Prover) Consistency(older uint64) ([][32]byte, error) {
	if older > p.size {
		return nil, fmt.Errorf("ledger: prove %d within %d: %w", older, p.size, ErrProof)
	}
	if older == 0 || older == p.size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(p.size), int64(older), tlog.HashReaderFunc(p.hashes))
	if err != nil {
		return nil, fmt.Errorf("ledger: prove %d within %d: %w", older, p.size, err)
	}
	return raw(proof), nil
}

// Root is the tree's root as the tiles have it.
func (p *Prover) Root() ([32]byte, error) {
	h, err := tlog.TreeHash(int64(p.size), tlog.HashReaderFunc(p.hashes))
	if err != nil {
		return [32]byte{}, fmt.Errorf("ledger: root of %d: %w", p.size, err)
	}
	return h, nil
}

func raw[T ~[]tlog.Hash](proof T) [][32]byte {
	out := make([][32]byte, len(proof))
	for i := range proof {
		out[i] = proof[i]
	}
	return out
}

// hashes answers x/mod's stored-hash indexes; they always name whole subtrees.
func (p *Prover) hashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		row := level % tileHeight
		perTile := uint64(tileWidth) >> row
		rows, err := p.tile(uint8(level/tileHeight), uint64(n)/perTile)
		if err != nil {
			return nil, err
		}
		at := uint64(n) % perTile
		if at >= uint64(len(rows[row])) {
			return nil, fmt.Errorf("ledger: level %d hash %d is beyond the tree: %w", level, n, ErrProof)
		}
		out[i] = rows[row][at]
	}
	return out, nil
}

func (p *Prover) tile(level uint8, index uint64) ([][]tlog.Hash, error) {
	total := p.size >> (tileHeight * uint(level))
	if total <= index*tileWidth {
		return nil, fmt.Errorf("ledger: tile %d/%d is beyond the tree: %w", level, index, ErrProof)
	}
	t := Tile{Level: level, Index: index, Width: int(min(tileWidth, total-index*tileWidth))}
	if rows, ok := p.cache[t]; ok {
		return rows, nil
	}
	data, err := p.read(t)
	if err != nil {
		return nil, fmt.Errorf("ledger: tile %d/%d: %w", level, index, err)
	}
	if len(data)%32 != 0 || len(data)/32 < t.Width || len(data)/32 > tileWidth {
		return nil, fmt.Errorf("ledger: tile %d/%d of %d bytes: %w", level, index, len(data), ErrFormat)
	}
	rows := make([][]tlog.Hash, tileHeight)
	rows[0] = make([]tlog.Hash, t.Width)
	for i := range rows[0] {
		rows[0][i] = tlog.Hash(data[32*i : 32*i+32])
	}
	for r := 1; r < tileHeight; r++ {
		below := rows[r-1]
		rows[r] = make([]tlog.Hash, len(below)/2)
		for i := range rows[r] {
			rows[r][i] = tlog.NodeHash(below[2*i], below[2*i+1])
		}
	}
	p.cache[t] = rows
	return rows, nil
}
