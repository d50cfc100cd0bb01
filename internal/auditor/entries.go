package auditor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// block is one bundle of entries and the tile of their hashes, read and compared
// by a goroutine of its own.
type block struct {
	n      uint64
	leaves []*ledger.Leaf // nil where unreadable
	// hashes are of the entries; of the tile where the bundle is unusable, so that
	// the rest can still be judged; nil where both are.
	hashes []tlog.Hash
	differ []int     // entries whose hash is not the tile's
	wrong  []Finding // certain whatever the rest says
	odd    []Finding // certain only if the entry is the signed one
	err    error     // it could not be read
}

// readEntries streams the bundles in order, several at once under way.
func (a *audit) readEntries() error {
	bundles := (a.cp.Size + tileWidth - 1) / tileWidth
	a.passKnown() // those of the empty tree
	var ahead []chan *block
	next := uint64(0)
	for n := range bundles {
		for ; next < bundles && len(ahead) < readsAtOnce; next++ {
			c, n := make(chan *block, 1), next
			go func() { c <- a.readBlock(n) }()
			ahead = append(ahead, c)
		}
		b := <-ahead[0] // readBlock ends with the context
		ahead = ahead[1:]
		if b.err != nil {
			return fmt.Errorf("from entry %d on: %w", n*tileWidth, b.err)
		}
		if err := a.takeBlock(b); err != nil {
			return err
		}
		if a.opts.Progress != nil {
			a.opts.Progress(a.report.Entries, a.cp.Size)
		}
	}
	return nil
}

func (a *audit) readBlock(n uint64) *block {
	b := &block{n: n}
	size := a.cp.Size
	_, width := filePath(entries, n, size)
	tile, path, why, err := a.hashes(0, n, size)
	if err != nil {
		b.err = err
		return b
	}
	if tile == nil {
		b.wrong = append(b.wrong, Finding{Kind: BadTile, Path: path, Index: n * tileWidth, Why: why})
	}
	data, path, err := a.file(entries, n, size)
	if err != nil && !flawed(err) {
		b.err = fmt.Errorf("%s: %w", path, err)
		return b
	}
	var list [][]byte
	if err != nil {
		why = flaw(err)
	} else {
		list, why = split(data, width)
	}
	var buf []byte
	hashes := make([]tlog.Hash, len(list), width)
	for i, e := range list {
		buf = append(append(buf[:0], 0), e...)
		hashes[i] = sha256.Sum256(buf) // ledger.LeafHash, without its allocations
	}
	if why != "" {
		at := len(list)
		for i := range hashes {
			if tile != nil && hashes[i] != tile[i] {
				at = i
				break
			}
		}
		at = min(at, width-1)
		b.wrong = append(b.wrong, Finding{Kind: BadEntry, Path: path, Index: n*tileWidth + uint64(at), Why: why})
		b.hashes = tile
		return b
	}
	b.hashes = hashes
	for i := range hashes {
		if tile != nil && hashes[i] != tile[i] {
			b.differ = append(b.differ, i)
		}
	}
	a.parse(b, list, path)
	return b
}

// parse reads the leaves. What is odd about one counts only where the entry is
// the one that was signed.
func (a *audit) parse(b *block, list [][]byte, path string) {
	b.leaves = make([]*ledger.Leaf, len(list))
	for i, e := range list {
		leaf, err := ledger.ParseLeaf(e)
		kind, why := BadEntry, ""
		switch {
		case errors.Is(err, ledger.ErrUnknown):
			kind, why = UnknownLeaf, reason(err)
		case err != nil:
			why = reason(err)
		case leaf.State != a.charters.state:
			why = "it is of another state"
		default:
			b.leaves[i] = &leaf
			continue
		}
		b.odd = append(b.odd, Finding{Kind: kind, Path: path, Index: b.n*tileWidth + uint64(i), Why: why})
	}
}

// takeBlock adds a block to the tree.
func (a *audit) takeBlock(b *block) error {
	for _, f := range b.wrong {
		a.find(f.Kind, f.Path, f.Index, "%s", f.Why)
	}
	if b.hashes == nil {
		return fmt.Errorf("%w: neither the entries from %d on nor their hashes are usable", ErrDamaged, b.n*tileWidth)
	}
	first := b.n * tileWidth
	for i := range b.hashes {
		a.tree.Append(b.hashes[i])
		a.passKnown()
		if b.leaves == nil {
			a.hold(first+uint64(i), nil)
			continue
		}
		leaf := b.leaves[i]
		a.hold(first+uint64(i), leaf)
		a.report.Entries++
		a.report.Acts[ActName(leaf)]++
		if leaf == nil {
			continue
		}
		a.charters.take(a, first+uint64(i), leaf)
		if a.opts.Act != nil {
			a.opts.Act(first+uint64(i), leaf)
		}
	}
	a.odd = append(a.odd, b.odd[:min(len(b.odd), MaxFindings-len(a.odd))]...)
	for _, i := range b.differ {
		a.differ(0, first+uint64(i))
	}
	if len(b.hashes) == tileWidth {
		a.put(1, fold(b.hashes))
	} else {
		a.levels[0] = b.hashes
	}
	a.report.Tiles++
	return nil
}

// ActName is what a leaf says in a word or two: "object stored", "head stored",
// "charter taken", and so on; "unknown" for nil.
func ActName(leaf *ledger.Leaf) string {
	if leaf == nil {
		return "unknown"
	}
	switch leaf.Kind {
	case ledger.ObjectStored:
		return "object stored"
	case ledger.RecordStored:
		return leaf.Slot.Kind.String() + " stored"
	case ledger.CharterTaken:
		return "charter taken"
	case ledger.ObjectRemoved:
		return "object removed"
	case ledger.RecordRemoved:
		return leaf.Slot.Kind.String() + " removed"
	}
	return "unknown"
}

// chain holds the charters that the log took against each other and against
// those that are known.
type chain struct {
	known  []*charter.Charter
	state  [16]byte
	any    bool // a charter was taken
	number uint64
}

// take looks at one leaf. A ledger begins with a charter; the next is the same
// again or the one that follows. That one is as the state signed it can be told
// of those at hand and of the ones before them.
func (c *chain) take(a *audit, index uint64, leaf *ledger.Leaf) {
	if leaf.Kind != ledger.CharterTaken {
		if index == 0 {
			a.charterFault(index, "the ledger does not begin with a charter")
		}
		return
	}
	n := leaf.Slot.Sequence
	if c.any && n != c.number && n != c.number+1 {
		a.charterFault(index, fmt.Sprintf("charter %d was taken after charter %d", n, c.number))
	}
	c.any, c.number = true, max(c.number, n)
	for _, k := range c.known {
		hash := k.Hash()
		if k.Number == n && hash != leaf.Name {
			a.charterFault(index, fmt.Sprintf("another charter %d was taken than the one that is known", n))
		}
		if k.Number == n+1 {
			if before, err := charter.ParseDigest(k.Previous); err == nil && !bytes.Equal(before[:], leaf.Name[:]) {
				a.charterFault(index, fmt.Sprintf("charter %d was taken, and charter %d follows another", n, n+1))
			}
		}
	}
}

func (a *audit) charterFault(index uint64, why string) {
	if len(a.odd) < MaxFindings { // there is one already that is no better
		path, _ := filePath(entries, index/tileWidth, a.cp.Size)
		a.odd = append(a.odd, Finding{Kind: CharterBroken, Path: path, Index: index, Why: why})
	}
}
