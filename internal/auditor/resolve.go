package auditor

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/ledger"
)

// evidence is what does not fit, until the signed root tells which side is right.
type evidence struct {
	// levels[l] are the hashes of all whole subtrees of 256^l entries, as the
	// entries have them: 32 bytes for each 256 entries in all. levels[0] holds only
	// the entries after the last whole tile.
	levels [9][]tlog.Hash
	edges  [9][]tlog.Hash // of each level's last, partial tile, as it was read
	odd    []Finding
	// differs are places where a tile is not what lies below it, level by level.
	differs []place
}

// place is a hash of a level: for level 0 an entry.
type place struct {
	level int
	index uint64
}

func (p place) tile() place   { return place{p.level, p.index / tileWidth} }
func (p place) entry() uint64 { return p.index << (tileHeight * p.level) }

// maxDiffers caps the places that are remembered; the first ones name the first
// bad tile, and more would tell nothing new.
const maxDiffers = 1 << 16

func (e *evidence) differ(level int, index uint64) {
	if len(e.differs) < maxDiffers {
		e.differs = append(e.differs, place{level, index})
	}
}

// put adds the hash of a whole subtree, and of the larger one that it completes.
func (e *evidence) put(level int, h tlog.Hash) {
	e.levels[level] = append(e.levels[level], h)
	if n := len(e.levels[level]); n%tileWidth == 0 {
		e.put(level+1, fold(e.levels[level][n-tileWidth:]))
	}
}

// readUpper compares the tiles above the first level with what the entries make.
func (a *audit) readUpper() error {
	size := a.cp.Size
	if n := size / tileWidth; size%tileWidth > 0 {
		tile, _, _, err := a.hashes(0, n, size) // wrong ones are found already
		if err != nil {
			return err
		}
		a.edges[0] = tile
	}
	for level := 1; level <= top(size); level++ {
		made := a.levels[level]
		for n := uint64(0); n*tileWidth < uint64(len(made)); n++ {
			tile, path, why, err := a.hashes(level, n, size)
			if err != nil {
				return err
			}
			first := n * tileWidth
			if tile == nil {
				a.find(BadTile, path, place{level, first}.entry(), "%s", why)
				continue
			}
			a.report.Tiles++
			for i := range tile {
				if tile[i] != made[first+uint64(i)] {
					a.differ(level, first+uint64(i))
				}
			}
			if len(tile) < tileWidth {
				a.edges[level] = tile
			}
		}
	}
	return nil
}

// resolve decides who is right where tiles and entries differ: whoever leads to
// the signed root.
func (a *audit) resolve() error {
	bad := map[uint64]bool{} // entries
	defer func() {
		a.holdings.blind = a.holdings.blind || len(bad) > 0
		for _, f := range a.odd {
			if !bad[f.Index] {
				a.findSigned(f)
			}
		}
	}()
	if a.tree.Root() == a.cp.Root {
		a.badTiles(map[place]bool{})
		return nil
	}
	d := &diagnosis{audit: a, bad: bad, judged: map[place]bool{}}
	return d.run()
}

// findSigned reports what is odd about an entry that is the signed one: the
// operator's own work. What an order let go it can only be blamed for where every
// entry was read: the order may stand in one that was damaged on its way.
func (a *audit) findSigned(f Finding) {
	if f.Blame = Nobody; f.Kind == BadEntry || f.Kind == BadRemoval && !a.holdings.blind {
		f.Blame, f.Proven = Operator, true
	}
	a.report.add(f)
}

// unresolved reports where tiles and entries differ when not all could be read.
func (a *audit) unresolved() {
	told := map[place]bool{}
	for _, p := range a.differs {
		t := p.tile()
		if !told[t] {
			told[t] = true
			path, _ := filePath(t.level, t.index, a.cp.Size)
			a.find(BadTile, path, p.entry(), "hash %d is not that of what lies below; which of the two is right cannot be told", p.index%tileWidth)
		}
	}
	for _, f := range a.odd {
		f.Blame = Nobody
		a.report.add(f)
	}
}

// badTiles reports each tile that differs from what lies below it and was not
// judged yet.
func (a *audit) badTiles(judged map[place]bool) {
	for _, p := range a.differs {
		t := p.tile()
		if judged[t] {
			continue
		}
		judged[t] = true
		path, _ := filePath(t.level, t.index, a.cp.Size)
		a.find(BadTile, path, p.entry(), "hash %d is not that of what lies below", p.index%tileWidth)
	}
}

// diagnosis finds what is bad when the entries do not make the signed root.
type diagnosis struct {
	*audit
	bad    map[uint64]bool
	judged map[place]bool // tiles that are known to be right, or were reported
}

func (d *diagnosis) run() error {
	right, ok, err := d.edge()
	if err != nil {
		return err
	}
	if !ok {
		path, _ := filePath(top(d.cp.Size), 0, d.cp.Size)
		if len(d.differs) == 0 {
			d.find(BadTile, path, 0, "tiles and entries agree with each other, and not with the checkpoint: they are another history than it signs")
			return nil
		}
		d.find(BadTile, path, 0, "no reading of the tiles leads to the root that the checkpoint signs")
		d.unresolved()
		d.odd = nil
		return nil
	}
	for level := top(d.cp.Size); level >= 0; level-- {
		first := d.cp.Size>>(tileHeight*level) - uint64(len(right[level]))
		d.judgeEdge(level, first, right[level])
		for i, h := range right[level] {
			at := first + uint64(i)
			if h == d.made(level, at) {
				continue
			}
			if err := d.descend(place{level, at}, h); err != nil {
				return err
			}
		}
	}
	d.badTiles(d.judged)
	return nil
}

// made is a hash as the entries have it. Of level 0, only those at the edge.
func (d *diagnosis) made(level int, at uint64) tlog.Hash {
	if level == 0 {
		at -= d.cp.Size - uint64(len(d.levels[0]))
	}
	return d.levels[level][at]
}

// judgeEdge reports the partial tile of a level if it is not what it must be.
func (d *diagnosis) judgeEdge(level int, first uint64, right []tlog.Hash) {
	if len(right) == 0 {
		return
	}
	t := place{level, first}.tile()
	d.judged[t] = true
	for i, h := range d.edges[level] {
		if h != right[i] {
			path, _ := filePath(level, t.index, d.cp.Size)
			d.find(BadTile, path, place{level, first + uint64(i)}.entry(), "hash %d does not lead to the signed root", i)
			return
		}
	}
}

// maxChoices caps the readings of the partial tiles that are tried.
const maxChoices = 1 << 12

// doubt is a hash of a partial tile that may be one of several.
type doubt struct {
	place
	may []tlog.Hash
}

// edge finds the hashes of the partial tiles that lead to the signed root. Where
// a tile and the entries differ it tries both, and what the tile below makes.
func (d *diagnosis) edge() (right [9][]tlog.Hash, ok bool, err error) {
	var doubts []doubt
	choices := 1
	for level := top(d.cp.Size); level >= 0; level-- {
		first := d.cp.Size >> (tileHeight * level) / tileWidth * tileWidth
		for i := range d.cp.Size>>(tileHeight*level) - first {
			at := place{level, first + i}
			may, err := d.candidates(at, int(i))
			if err != nil {
				return right, false, err
			}
			right[level] = append(right[level], may[0])
			if len(may) > 1 && choices*len(may) <= maxChoices {
				choices *= len(may)
				doubts = append(doubts, doubt{place{level, i}, may})
			}
		}
	}
	for choice := range choices {
		for _, x := range doubts {
			right[x.level][x.index] = x.may[choice%len(x.may)]
			choice /= len(x.may)
		}
		var t ledger.Tree
		for level := top(d.cp.Size); level >= 0; level-- {
			for _, h := range right[level] {
				if err := t.AppendTree(tileHeight*level, h); err != nil {
					return right, false, err
				}
			}
		}
		if t.Root() == d.cp.Root {
			return right, true, nil
		}
	}
	return right, false, nil
}

// candidates are what a hash of a partial tile may be: as the entries make it, as
// the tile has it, and as the tile below makes it.
func (d *diagnosis) candidates(p place, i int) ([]tlog.Hash, error) {
	may := []tlog.Hash{d.made(p.level, p.index)}
	if edge := d.edges[p.level]; edge != nil {
		if edge[i] == may[0] {
			return may, nil
		}
		may = append(may, edge[i])
	}
	if p.level == 0 {
		return may, nil
	}
	tile, _, why, err := d.hashes(p.level-1, p.index, d.cp.Size)
	if err != nil {
		return nil, err
	}
	if why == "" {
		if h := fold(tile); !slices.Contains(may, h) {
			may = append(may, h)
		}
	}
	return may, nil
}

// descend follows a subtree whose signed hash is not what the entries make, down
// to the tile or entry that is bad.
func (d *diagnosis) descend(p place, signed tlog.Hash) error {
	if p.level == 0 {
		path, _ := filePath(entries, p.index/tileWidth, d.cp.Size)
		d.bad[p.index] = true
		d.find(BadEntry, path, p.index, "its hash is not the signed one")
		return nil
	}
	below := place{p.level - 1, p.index} // a tile
	first := place{below.level, p.index * tileWidth}
	tile, path, why, err := d.hashes(below.level, below.index, d.cp.Size)
	if err != nil {
		return err
	}
	d.judged[below] = true
	if why == "" && fold(tile) != signed {
		why = "its hashes do not lead to the signed root"
	}
	if why != "" {
		last := first.entry() + 1<<(tileHeight*p.level) - 1
		d.find(BadTile, path, first.entry(), "%s; one of the entries %d to %d is bad too", why, first.entry(), last)
		for i := first.entry(); i <= last && p.level == 1; i++ {
			d.bad[i] = true // what is odd about them says nothing
		}
		return nil
	}
	if below.level > 0 {
		for i, h := range tile {
			if at := first.index + uint64(i); h != d.made(below.level, at) {
				if err := d.descend(place{below.level, at}, h); err != nil {
					return err
				}
			}
		}
		return nil
	}
	found := false
	for _, x := range d.differs {
		if x.level == 0 && x.tile() == below {
			found = true
			if err := d.descend(x, tile[x.index%tileWidth]); err != nil {
				return err
			}
		}
	}
	if !found {
		d.find(BadTile, path, first.entry(), "it was another when it was read first")
	}
	return nil
}
