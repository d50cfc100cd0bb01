package archive

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
)

// A pack that too many embassies lost cannot be made again, but home may still have what was in it. Verify and repair
// write the packs that they found lost into a local file; a backup takes their chunks for unknown and stores what the
// source still has of them in new packs. From then on readers find those chunks there, older snapshots' too, because
// the index gives the newest place of a chunk. A lost pack of which nothing is needed any more is replaced, and
// verify counts it so.
//
// The file holds one pack id in hexadecimal a line. Lost itself, it is made again by the next verify.
type lostPacks map[pack.ID]bool

const lostFile = "lost"

func readLost(dir string) (lostPacks, error) {
	raw, err := os.ReadFile(filepath.Join(dir, lostFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lost := lostPacks{}
	for line := range bytes.Lines(raw) {
		id, err := hex.DecodeString(string(bytes.TrimSpace(line)))
		if err != nil || len(id) != len(pack.ID{}) {
			continue // a line that is damaged is found again by the next verify
		}
		lost[pack.ID(id)] = true
	}
	return lost, nil
}

// writeLost replaces what was known. A crash leaves the older list.
func writeLost(dir string, lost lostPacks) error {
	path := filepath.Join(dir, lostFile)
	if len(lost) == 0 {
		err := durable.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var lines []string
	for id := range lost {
		lines = append(lines, id.String()+"\n")
	}
	slices.Sort(lines)
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l)
	}
	return durable.WriteFile(path, b.Bytes(), 0o600)
}

// replaced returns those of the lost packs that nothing is needed of: no chunk has its newest place in them. A lost
// index pack is replaced when the index packs that can be read tell of every pack that is needed.
func (r *run) replaced(ctx context.Context, lost lostPacks) (lostPacks, error) {
	out := lostPacks{}
	if len(lost) == 0 {
		return out, nil
	}
	needed := map[pack.ID]bool{}
	for id := range r.index.IDs() {
		if loc, ok := r.index.Lookup(id); ok {
			needed[loc.Ref.ID] = true
		}
	}
	if err := r.index.Err(); err != nil {
		return nil, err
	}
	known, tables, err := r.readable(ctx, lost)
	if err != nil {
		return nil, err
	}
	told := r.torn == nil // where this index was read from the embassies, what only a lost index pack tells is not in it
	for id := range needed {
		told = told && known[id]
	}
	for id := range lost {
		if in, ok := tables[id]; ok && in && told || !ok && !needed[id] {
			out[id] = true
		}
	}
	return out, nil
}

// readable returns the packs that index packs which are not lost tell of, all index packs, and as false those with a
// snapshot's references, which no other pack replaces.
func (r *run) readable(ctx context.Context, lost lostPacks) (known, tables map[pack.ID]bool, err error) {
	known, tables = map[pack.ID]bool{}, map[pack.ID]bool{}
	f := &register.Fetcher{Register: r.reg, Sites: r.sites, Faults: &register.Faults{}}
	var b register.Buffers
	for seq := uint64(1); seq <= r.history.last; seq++ {
		head, err := r.history.head(seq)
		if err != nil {
			return nil, nil, err
		}
		for i := range head.References {
			tables[head.References[i].ID] = false
		}
		for i := range head.Index {
			ref := &head.Index[i]
			if r.orders.gone(ref) {
				continue
			}
			if tables[ref.ID] = true; lost[ref.ID] {
				continue
			}
			packs, err := readIndex(ctx, f, &b, ref)
			if err != nil {
				return nil, nil, err
			}
			for _, p := range packs {
				known[p.Ref.ID] = true
			}
		}
	}
	return known, tables, nil
}
