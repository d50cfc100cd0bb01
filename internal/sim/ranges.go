package sim

import (
	"context"
	"fmt"
	"io/fs"
	"sync/atomic"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
)

// Ranged is an embassy that also gives parts of objects, as the real one does, and counts what it gave.
type Ranged struct {
	*Embassy
	Given  atomic.Int64 // bytes of objects, whole or in part
	Proofs atomic.Int64 // questions for leaves
}

// Ranged makes an embassy's member one that gives parts.
func (e *Embassy) Ranged() (*Ranged, register.Member) {
	r := &Ranged{Embassy: e}
	return r, register.Member{ID: e.ID, Name: e.Name, Objects: r, Records: e}
}

// Get is register.Objects.
func (r *Ranged) Get(ctx context.Context, name shard.Name, dst []byte) ([]byte, error) {
	data, err := r.Embassy.Get(ctx, name, dst)
	r.Given.Add(int64(len(data) - len(dst)))
	return data, err
}

// GetRange is archive.Ranges.
func (r *Ranged) GetRange(_ context.Context, name shard.Name, off int64, n int, dst []byte) ([]byte, error) {
	data := r.Object(name)
	if data == nil || off < 0 || off+int64(n) > int64(len(data)) {
		return nil, fmt.Errorf("object %s: %w", name, fs.ErrNotExist)
	}
	r.Given.Add(int64(n))
	return append(dst, data[off:off+int64(n)]...), nil
}

// Leaves is archive.Ranges. A liar's leaves are of what it holds, not of what was stored.
func (r *Ranged) Leaves(_ context.Context, name shard.Name) ([][32]byte, error) {
	data := r.Object(name)
	if data == nil {
		return nil, fmt.Errorf("object %s: %w", name, fs.ErrNotExist)
	}
	r.Proofs.Add(1)
	return shard.LeafHashes(nil, data), nil
}
