package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// million is an embassy whose ledger has a million object entries and whose
// objects are made from a seed when they are read: 64 contents of 1 MiB, each
// logged many times.
type million struct {
	*host
	size  uint64
	names [64]shard.Name
	tiles map[ledger.Tile][]byte
}

const millionObject = 1 << 20

func millionContent(i uint64) []byte {
	random := rand.NewChaCha8([32]byte{byte(i)})
	data := make([]byte, millionObject)
	_, _ = random.Read(data) // never fails
	return data
}

func newMillion(b *testing.B, size uint64) *million {
	m := &million{host: newHost("lu"), size: size, tiles: map[ledger.Tile][]byte{}}
	for i := range m.names {
		m.names[i] = shard.Root(millionContent(uint64(i)))
	}
	level := make([]byte, 0, 32*size)
	for i := range size {
		data, err := m.Entry(i)
		if err != nil {
			b.Fatal(err)
		}
		h := ledger.LeafHash(data)
		level = append(level, h[:]...)
	}
	for l := uint8(0); len(level) > 0; l++ {
		var above []byte
		for n := 0; n*256*32 < len(level); n++ {
			tile := level[n*256*32 : min(len(level), (n+1)*256*32)]
			m.tiles[ledger.Tile{Level: l, Index: uint64(n), Width: len(tile) / 32}] = tile
			if len(tile) == 256*32 {
				var t ledger.Tree
				for ; len(tile) > 0; tile = tile[32:] {
					t.Append([32]byte(tile))
				}
				root := t.Root()
				above = append(above, root[:]...)
			}
		}
		level = above
	}
	return m
}

func (m *million) Entry(i uint64) ([]byte, error) {
	leaf := ledger.NewLeaf(ledger.ObjectStored, testState)
	leaf.Name, leaf.Size, leaf.Time = m.names[i%64], millionObject, int64(i)
	return leaf.Bytes()
}

func (m *million) prover() (*ledger.Prover, error) {
	return ledger.NewProver(m.size, func(t ledger.Tile) ([]byte, error) {
		if data, ok := m.tiles[t]; ok {
			return data, nil
		}
		return nil, errors.New("no such tile")
	})
}

func (m *million) Inclusion(i, _ uint64) ([][32]byte, error) {
	p, err := m.prover()
	if err != nil {
		return nil, err
	}
	return p.Inclusion(i)
}

func (m *million) Leaf(name shard.Name, _ uint64, leaf int) ([]byte, [][32]byte, error) {
	for i := range m.names {
		if m.names[i] == name {
			data := millionContent(uint64(i))
			return data[leaf*shard.LeafSize : (leaf+1)*shard.LeafSize], Path(shard.LeafHashes(nil, data), leaf), nil
		}
	}
	return nil, nil, errors.New("no such object")
}

// BenchmarkAuditOfAMillion audits 460 leaves over a ledger of a million objects of
// 1 MiB: both ends, each object read whole from its seed. Under 10 s.
func BenchmarkAuditOfAMillion(b *testing.B) {
	m := newMillion(b, 1_000_000)
	p, err := m.prover()
	if err != nil {
		b.Fatal(err)
	}
	root, err := p.Root()
	if err != nil {
		b.Fatal(err)
	}
	raw := m.sign(b, int(m.size), tlog.Hash(root))
	n := uint64(0)
	for b.Loop() {
		n++
		start := time.Now()
		ch := NewSample(testState, m.id(), raw, [32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), n)), 460)
		var answer bytes.Buffer
		if err := Respond(&answer, ch, m, m.key); err != nil {
			b.Fatal(err)
		}
		responded := time.Since(start)
		res, err := Verify(&answer, ch, m.log())
		if Judge(res, err, 0, time.Minute) != OK || res.Objects != 460 {
			b.Fatal(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			b.Fatalf("an audit took %v", took)
		}
		b.ReportMetric(float64(responded.Milliseconds()), "ms-responding")
		b.ReportMetric(float64((time.Since(start) - responded).Milliseconds()), "ms-verifying")
	}
}
