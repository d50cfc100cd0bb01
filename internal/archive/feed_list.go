package archive

import (
	"maps"
	"slices"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/snapshot"
)

// list stores the listing of a fed folder, after those below it, and returns the folder's entry.
func (f *Feeder) list(p *press, dir *fedFolder) (snapshot.Entry, error) {
	e := dir.entry
	var w snapshot.ListingWriter
	keep := func(piece []byte) error {
		if piece == nil {
			return nil
		}
		id, err := p.store(f.w, pack.Tree, piece)
		e.Extents = append(e.Extents, snapshot.Extent{Chunk: id, Length: uint32(len(piece))})
		return err
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(dir.names)), maps.Keys(dir.folders))
	slices.Sort(names)
	f.stats.folders.Add(1)
	f.progress.Folders.Add(1)
	for _, name := range names {
		child := dir.names[name]
		if sub := dir.folders[name]; sub != nil {
			listed, err := f.list(p, sub)
			if err != nil {
				return e, err
			}
			child = &listed
			e.Files += listed.Files
		} else if child.Kind == snapshot.File {
			e.Files++
		}
		e.Size += child.Size
		piece, err := w.Add(child)
		if err == nil {
			err = keep(piece)
		}
		if err != nil {
			return e, err
		}
	}
	return e, keep(w.Finish())
}
