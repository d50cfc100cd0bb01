package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// numbering knows the number of each pack of chunks of a register (snapshot.Numbers), about forty bytes of heap a pack.
// A head says how many packs it adds, so the numbers of later ones are right even where an index pack is lost.
//
// The file "packs" keeps it between runs. It has a record for each head, in their order:
//
//	head u64 | packs before it u64 | packs it adds u32 | their ids (16 each), or zeros where nobody knows them any more |
//	first 8 bytes of the SHA-256 of this record so far
//
// It is not fsynced: what is lost is read from the embassies again.
type numbering struct {
	path    string
	of      map[pack.ID]uint32
	through uint64 // the last head of which the packs are in it
	total   uint64 // packs that heads up to that one add
	good    int64  // bytes of the file that are records
	fresh   []byte // records that are not in the file yet
}

const numberingHead, numberingSum = 20, 8

func openNumbering(dir string) (*numbering, error) {
	n := &numbering{path: filepath.Join(dir, "packs"), of: map[pack.ID]uint32{}}
	data, err := os.ReadFile(n.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for rest := data; ; {
		size := n.take(rest)
		if size == 0 {
			return n, nil
		}
		n.good, rest = n.good+int64(size), rest[size:]
	}
}

// take reads the record that data begins with and returns its size, or 0 where there is none that fits.
func (n *numbering) take(data []byte) int {
	if len(data) < numberingHead+numberingSum {
		return 0
	}
	head, first, own := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:]), uint64(binary.BigEndian.Uint32(data[16:]))
	size := numberingHead + own*uint64(len(pack.ID{}))
	if head != n.through+1 || first != n.total || first+own > snapshot.MaxPacks || uint64(len(data)) < size+numberingSum {
		return 0
	}
	if sum := sha256.Sum256(data[:size]); !bytes.Equal(sum[:numberingSum], data[size:size+numberingSum]) {
		return 0
	}
	for i := range own {
		n.put(pack.ID(data[numberingHead+i*uint64(len(pack.ID{})):]), first+i)
	}
	n.through, n.total = head, first+own
	return int(size) + numberingSum
}

func (n *numbering) put(id pack.ID, number uint64) {
	if id != (pack.ID{}) {
		n.of[id] = uint32(number)
	}
}

// addedBy returns how many packs of chunks a head adds.
func addedBy(h *snapshot.Head) uint64 {
	if other := uint64(len(h.Index) + len(h.References)); h.Packs > other {
		return h.Packs - other
	}
	return 0
}

// add takes the next head, with the ids of its packs or, where they cannot be known, without.
func (n *numbering) add(h *snapshot.Head, ids []pack.ID) error {
	own := addedBy(h)
	if n.total+own > snapshot.MaxPacks {
		return fmt.Errorf("head %d: %d packs in all: %w", h.Sequence, n.total+own, snapshot.ErrReferences)
	}
	if uint64(len(ids)) != own {
		ids = make([]pack.ID, own) // its head lies about it: then it is not said of any snapshot that it needs none of them
	}
	rec := binary.BigEndian.AppendUint64(nil, h.Sequence)
	rec = binary.BigEndian.AppendUint64(rec, n.total)
	rec = binary.BigEndian.AppendUint32(rec, uint32(own))
	for i, id := range ids {
		rec = append(rec, id[:]...)
		n.put(id, n.total+uint64(i))
	}
	sum := sha256.Sum256(rec)
	n.fresh = append(append(n.fresh, rec...), sum[:numberingSum]...)
	n.through, n.total = h.Sequence, n.total+own
	return nil
}

// flush writes what was added. A crash leaves a record that is cut short, which the next run overwrites.
func (n *numbering) flush() error {
	if len(n.fresh) == 0 {
		return nil
	}
	f, err := os.OpenFile(n.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(n.good); err != nil {
		return err
	}
	written, err := f.WriteAt(n.fresh, n.good)
	if err != nil {
		return err
	}
	n.good, n.fresh = n.good+int64(written), nil
	return nil
}

// reset forgets everything.
func (n *numbering) reset() {
	*n = numbering{path: n.path, of: map[pack.ID]uint32{}}
}
