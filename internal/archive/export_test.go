package archive

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// Sealers is how many packs are under way at once.
const Sealers = sealers

// Settled returns the source with every change time taken for old enough.
func Settled(s Source) Source {
	s.fresh = -1
	return s
}

// Packs returns every pack that the reader's index names.
func (r *Reader) Packs() (refs []snapshot.PackRef) {
	for ref := range r.run.index.Packs() {
		refs = append(refs, ref)
	}
	return refs
}

// Files returns the paths of a snapshot whose content needs a pack.
func (r *Reader) Files(ctx context.Context, head *snapshot.Head, id pack.ID) (paths []string, err error) {
	err = r.Walk(ctx, head, func(path string, e *snapshot.Entry) error {
		if e.Kind != snapshot.File {
			return nil
		}
		extents, err := r.extents(ctx, e)
		for i := range extents {
			if loc, ok := r.run.index.Lookup(extents[i].Chunk); ok && loc.Ref.ID == id {
				paths = append(paths, path)
				return nil
			}
		}
		return err
	})
	return paths, err
}

// Unmask returns the first share of a pack as it was before it was masked.
func Unmask(reg *register.Register, ref *snapshot.PackRef, data []byte) []byte {
	data = append([]byte(nil), data...)
	shard.Mask(reg.Sites()[0].Mask, ref.ID, 0, data)
	return data
}

// ReadsFed tells whether a file of what was fed would be taken.
func ReadsFed(data []byte) bool {
	_, err := readFed(bytes.NewReader(data))
	return err == nil
}

// SampleFed is a record of what was fed.
func SampleFed() []byte {
	return appendFed(nil, &fedRecord{
		path: "data/base/5/1", size: 30, note: []byte("note"),
		extents: []snapshot.Extent{{Offset: 4, Length: 20}, {Hole: true, HoleLength: 10}},
	})
}

// ReadsFedRecord holds that what is read is written as it was, and that no input breaks a reader.
func ReadsFedRecord(t *testing.T, data []byte) {
	_, _ = readFed(bytes.NewReader(data))
	rec, err := parseFed(data)
	if err != nil {
		return
	}
	again, err := parseFed(appendFed(nil, &rec))
	if err != nil || !reflect.DeepEqual(rec, again) {
		t.Fatalf("%+v is read as %+v, %v", rec, again, err)
	}
}
