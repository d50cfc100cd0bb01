package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/snapshot"
)

// CheckRelease holds the lists of a release, one for each embassy by share, against what the embassies hold, and returns
// ErrBreaks with the first object that a snapshot needs which stays, or that is no object of this register. It needs no
// key that opens and trusts nothing that home says: given an empty folder it reads everything from the embassies, so that
// whoever is to sign an order can check it first.
func CheckRelease(ctx context.Context, reg *register.Register, agent *register.Agent, snapshots []uint64, lists []ledger.ObjectList) error {
	if len(lists) != len(reg.Members) {
		return fmt.Errorf("%d lists for %d embassies", len(lists), len(reg.Members))
	}
	r, err := openRun(ctx, reg, agent, reg.Sites(), whole)
	if err != nil {
		return err
	}
	defer r.close()
	b, err := r.openBooks(ctx)
	if err != nil {
		return err
	}
	if err := b.mayGo(snapshots); err != nil {
		return err
	}
	c := &checking{run: r, books: b, lists: lists, f: &register.Fetcher{Register: reg, Sites: r.sites, Faults: r.faults}, found: make([]int, len(lists))}
	for _, seq := range b.standing(snapshots) {
		n, err := b.of(seq)
		if err != nil {
			return err
		}
		c.kept = append(c.kept, keptNeed{seq, n})
	}
	return c.check(ctx)
}

type keptNeed struct {
	seq uint64
	need
}

// checking goes through every pack of the register, where a release goes through those that it can remove.
type checking struct {
	run   *run
	books *books
	f     *register.Fetcher
	lists []ledger.ObjectList
	kept  []keptNeed
	found []int // of each list, how many objects are the register's
}

func (c *checking) check(ctx context.Context) error {
	var buf register.Buffers
	for i := range c.books.heads {
		if err := c.head(ctx, &buf, &c.books.heads[i]); err != nil {
			return err
		}
	}
	if err := c.stream(ctx); err != nil {
		return err
	}
	for i, list := range c.lists {
		if c.found[i] != len(list) {
			return fmt.Errorf("%w: %s: %d of the %d objects are none of this register's, or of a snapshot whose index is lost",
				ErrBreaks, c.run.sites[i].Name, len(list)-c.found[i], len(list))
		}
	}
	return nil
}

// head goes through the packs of one head. Where its index packs are lost or tell of another number than the head, nobody
// knows which packs it adds: what is listed of them counts as none of the register's.
func (c *checking) head(ctx context.Context, buf *register.Buffers, x *bookHead) error {
	for j := range x.head.References {
		if err := c.pack(&x.head.References[j], func(k *keptNeed) bool { return slices.Contains(k.told, x.head.Sequence) }); err != nil {
			return err
		}
	}
	var packs []snapshot.PackRef
	whole := true
	for j := range x.head.Index {
		ref := &x.head.Index[j]
		if err := c.pack(ref, func(k *keptNeed) bool { return k.packs.Any(x.first, x.first+x.own) }); err != nil {
			return err
		}
		if c.run.orders.gone(ref) {
			whole = false
			continue
		}
		own, err := readIndex(ctx, c.f, buf, ref)
		if register.Unreadable(err) {
			whole = false
			continue
		}
		if err != nil {
			return fmt.Errorf("index of snapshot %d: %w", x.head.Sequence, err)
		}
		for p := range own {
			packs = append(packs, own[p].Ref)
		}
	}
	if !whole || uint64(len(packs)) != x.own {
		return nil
	}
	for p := range packs {
		number := x.first + uint64(p)
		if err := c.pack(&packs[p], func(k *keptNeed) bool { return k.packs.Has(number) }); err != nil {
			return err
		}
	}
	return nil
}

// pack fails when a pack of which something is listed is needed, and counts what is listed.
func (c *checking) pack(ref *snapshot.PackRef, needs func(*keptNeed) bool) error {
	for i, list := range c.lists {
		if i >= len(ref.Shares) || !list.Has(ref.Shares[i]) {
			continue
		}
		c.found[i]++
		for k := range c.kept {
			if needs(&c.kept[k]) {
				return fmt.Errorf("%w: snapshot %d needs object %s of %s", ErrBreaks, c.kept[k].seq, ref.Shares[i], c.run.sites[i].Name)
			}
		}
	}
	return nil
}

// CheckContents reads the folders of every snapshot that stays, as they would be read had the listed objects been removed,
// and returns ErrBreaks with the first path whose content is in no pack then. It trusts no references. The register's
// folder must be empty: what is read here must not be what anybody kept.
func CheckContents(ctx context.Context, reg *register.Register, agent *register.Agent, key *seal.PrivateKey, snapshots []uint64, lists []ledger.ObjectList) error {
	r, err := openReader(ctx, reg, agent, key, &objectLists{of: lists})
	if err != nil {
		return err
	}
	defer r.Close()
	w := newContents(r, func(x *snapshot.Extent) error {
		if !r.run.index.Has(x.Chunk) {
			return fmt.Errorf("%w: chunk %s", ErrBreaks, x.Chunk)
		}
		return nil
	})
	for seq := uint64(1); seq <= r.run.history.last; seq++ {
		if _, gone := r.run.orders.released(seq); gone || slices.Contains(snapshots, seq) {
			continue
		}
		err := w.snapshot(ctx, seq)
		if errors.Is(err, register.ErrDamaged) {
			err = fmt.Errorf("%w: %w", ErrBreaks, err)
		}
		if err != nil {
			return fmt.Errorf("snapshot %d: %w", seq, err)
		}
	}
	return r.run.index.Err()
}

// contents goes through what snapshots hold, each folder once however many snapshots have it.
type contents struct {
	reader *Reader
	chunk  func(*snapshot.Extent) error // called for each extent, of listings too; some more than once
	seen   map[[16]byte]bool            // folders, by where their listings are
}

func newContents(r *Reader, each func(*snapshot.Extent) error) *contents {
	return &contents{reader: r, chunk: each, seen: map[[16]byte]bool{}}
}

func (c *contents) snapshot(ctx context.Context, seq uint64) error {
	head, err := c.reader.run.history.head(seq)
	if err != nil {
		return err
	}
	p, err := c.reader.Payload(head)
	if err != nil {
		return err
	}
	if err := c.extents(p.Problems); err != nil {
		return fmt.Errorf("its list of problems: %w", err)
	}
	return c.folder(ctx, "", &p.Root)
}

func (c *contents) extents(list []snapshot.Extent) error {
	for i := range list {
		if list[i].Hole {
			continue
		}
		if err := c.chunk(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *contents) folder(ctx context.Context, rel string, e *snapshot.Entry) error {
	sum := sha256.Sum256(snapshot.AppendExtents(nil, e.Extents))
	if c.seen[[16]byte(sum[:])] {
		return nil
	}
	if err := c.extents(e.Extents); err != nil {
		return fmt.Errorf("%q: %w", rel, err)
	}
	for child, err := range c.reader.List(ctx, e) {
		if err != nil {
			return fmt.Errorf("%q: %w", rel, err)
		}
		path := join(rel, child.Name)
		switch child.Kind {
		case snapshot.Dir:
			err = c.folder(ctx, path, &child)
		case snapshot.File:
			err = c.file(ctx, &child)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	c.seen[[16]byte(sum[:])] = true
	return nil
}

func (c *contents) file(ctx context.Context, e *snapshot.Entry) error {
	if err := c.extents(e.Extents); err != nil || e.Flags&snapshot.Indirect == 0 {
		return err
	}
	deep, err := c.reader.extents(ctx, e)
	if err != nil {
		return err
	}
	return c.extents(deep)
}
