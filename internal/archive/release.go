package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// ErrBreaks means that a release would take what a snapshot needs that is kept.
var ErrBreaks = errors.New("a kept snapshot needs what the release would remove")

// Release is what letting some snapshots go removes: the packs that no snapshot needs which stays.
type Release struct {
	ID        string   `json:"release"`             // names it: of the hashes of its lists
	Head      uint64   `json:"head"`                // the newest snapshot when it was made
	Snapshots []uint64 `json:"snapshots"`           // let go
	Packs     int      `json:"packs"`               // removed, index packs included
	Objects   uint64   `json:"objects"`             // at all embassies together
	Bytes     uint64   `json:"bytes"`               // of these
	More      bool     `json:"more,omitempty"`      // than one order can list: the next release, when this one is done, has the rest
	Lists     []Listed `json:"embassies,omitempty"` // what each embassy is to remove
}

// Listed is what one embassy is to remove.
type Listed struct {
	Embassy string            `json:"embassy"`
	ID      charter.EmbassyID `json:"-"`
	Objects uint64            `json:"objects"`
	Bytes   uint64            `json:"bytes"`
	SHA256  string            `json:"sha256"` // of the list's encoding
	List    ledger.ObjectList `json:"-"`
}

// PlanRelease says what letting the snapshots go would remove, and changes nothing. It needs no key that opens. With no
// snapshots it is the packs that nothing needs any more, as after a rewriting. Errors: ErrForked, ErrReferences,
// ErrBreaks for the newest snapshot, ErrNoSnapshot, ErrReleased, ErrTooFew.
func PlanRelease(ctx context.Context, reg *register.Register, agent *register.Agent, snapshots []uint64) (*Release, error) {
	return release(ctx, reg, agent, snapshots, false)
}

// ProposeRelease is PlanRelease for a release that an order is to carry out. Before it returns, home has noted durably that
// no later snapshot may come to need those packs.
func ProposeRelease(ctx context.Context, reg *register.Register, agent *register.Agent, snapshots []uint64) (*Release, error) {
	return release(ctx, reg, agent, snapshots, true)
}

func release(ctx context.Context, reg *register.Register, agent *register.Agent, snapshots []uint64, propose bool) (*Release, error) {
	r, err := openRun(ctx, reg, agent, reg.Sites(), whole)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if propose { // a head that a crash left at home alone may say where things moved: it must be out before they go
		if err := r.publish(ctx); err != nil {
			return nil, err
		}
	}
	b, err := r.openBooks(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.mayGo(snapshots); err != nil {
		return nil, err
	}
	lost, err := readLost(reg.Dir)
	if err != nil {
		return nil, err
	}
	p := &releasing{run: r, books: b, lost: lost, packs: leavingPacks{}, f: &register.Fetcher{Register: reg, Sites: r.sites, Faults: r.faults}}
	if err := p.collect(ctx, b.standing(snapshots)); err != nil {
		return nil, err
	}
	if err := p.collectStream(ctx, b.standing(snapshots)); err != nil {
		return nil, err
	}
	most := reg.Listed
	if most == 0 {
		most = MaxListed
	}
	rel := &Release{Head: r.history.last, Snapshots: snapshots, More: len(p.refs) > most}
	if rel.More {
		p.first(most)
	}
	rel.Packs = len(p.refs)
	if err := p.list(rel); err != nil {
		return nil, err
	}
	if propose && len(p.refs) > 0 {
		// From here on no backup comes to need these packs, whether or not anybody signs an order. A crash before this
		// leaves nothing that anybody could sign.
		if err := writeLeaving(reg.Dir, rel.ID, p.packs); err != nil {
			return nil, err
		}
	}
	return rel, nil
}

// mayGo tells whether each of the snapshots can be let go.
func (b *books) mayGo(snapshots []uint64) error {
	for i, seq := range snapshots {
		switch {
		case seq == 0 || seq > uint64(len(b.heads)):
			return fmt.Errorf("%w: %d (they are 1 to %d)", ErrNoSnapshot, seq, len(b.heads))
		case b.at(seq).order != "":
			return fmt.Errorf("snapshot %d: %w by %s already", seq, ErrReleased, b.at(seq).order)
		case seq == uint64(len(b.heads)):
			return fmt.Errorf("%w: snapshot %d is the newest", ErrBreaks, seq)
		case i > 0 && seq <= snapshots[i-1]:
			return fmt.Errorf("snapshots to release are not in rising order: %d after %d", seq, snapshots[i-1])
		}
	}
	return nil
}

// releasing collects the packs that nothing needs.
type releasing struct {
	run   *run
	books *books
	f     *register.Fetcher
	lost  lostPacks
	refs  []snapshot.PackRef
	packs leavingPacks
}

// collect finds the packs that none of the kept snapshots needs. Index packs are read of those heads alone that have one.
func (p *releasing) collect(ctx context.Context, kept []uint64) error {
	sum, err := p.books.all(kept)
	if err != nil {
		return err
	}
	if err := p.standIns(ctx, &sum.packs); err != nil {
		return err
	}
	var b register.Buffers
	for i := range p.books.heads {
		x := &p.books.heads[i]
		if len(x.head.References) > 0 && !slices.Contains(sum.told, x.head.Sequence) {
			p.add(&x.head.References[0])
		}
		all := true
		for n := x.first; n < x.first+x.own; n++ {
			all = all && sum.packs.Has(n)
		}
		if all && x.own > 0 {
			continue
		}
		if err := p.collectHead(ctx, &b, x, &sum.packs); err != nil {
			return err
		}
	}
	return nil
}

// collectHead takes the packs of one head that are not needed, and its index packs when none of them is.
func (p *releasing) collectHead(ctx context.Context, b *register.Buffers, x *bookHead, needed *snapshot.Numbers) error {
	packs, err := p.packsOf(ctx, b, x)
	if err != nil {
		return err
	}
	if packs == nil {
		return nil
	}
	for i := range packs {
		if !needed.Has(x.first + uint64(i)) {
			p.add(&packs[i])
		}
	}
	if !needed.Any(x.first, x.first+x.own) {
		for i := range x.head.Index {
			p.add(&x.head.Index[i])
		}
	}
	return nil
}

// packsOf reads which packs a head adds, by number; nil where an order removed its index packs, or where they are lost or
// tell of another number than the head: then nobody knows which packs these are, and none of them goes.
func (p *releasing) packsOf(ctx context.Context, b *register.Buffers, x *bookHead) (out []snapshot.PackRef, err error) {
	for i := range x.head.Index {
		ref := &x.head.Index[i]
		if p.run.orders.gone(ref) {
			return nil, nil
		}
		packs, err := readIndex(ctx, p.f, b, ref)
		if register.Unreadable(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("index of snapshot %d: %w", x.head.Sequence, err)
		}
		for j := range packs {
			out = append(out, packs[j].Ref)
		}
	}
	if uint64(len(out)) != x.own {
		return nil, nil
	}
	return out, nil
}

// standIns adds to what is needed the packs that now hold what was in needed packs that are lost: all there are, where
// an index pack is lost that would tell of some.
func (p *releasing) standIns(ctx context.Context, needed *snapshot.Numbers) error {
	if len(p.lost) == 0 {
		return nil
	}
	var b register.Buffers
	for i := range p.books.heads {
		x := &p.books.heads[i]
		if !needed.Any(x.first, x.first+x.own) {
			continue
		}
		for j := range x.head.Index {
			if p.run.orders.gone(&x.head.Index[j]) {
				continue
			}
			packs, err := readIndex(ctx, p.f, &b, &x.head.Index[j])
			if register.Unreadable(err) {
				needed.Add(0, p.books.packs())
				return nil
			}
			if err != nil {
				return fmt.Errorf("index of snapshot %d: %w", x.head.Sequence, err)
			}
			for k := range packs {
				if !p.lost[packs[k].Ref.ID] {
					continue
				}
				for _, e := range packs[k].Entries {
					in, there := p.run.index.Where(e.ID)
					n, ok := p.run.numbers.of[in]
					switch {
					case there && ok:
						needed.Add(uint64(n), uint64(n)+1)
					case p.run.torn != nil || p.run.numbers.through < p.run.history.last:
						needed.Add(0, p.books.packs())
						return nil
					}
				}
			}
		}
	}
	return nil
}

func (p *releasing) add(ref *snapshot.PackRef) {
	if p.run.orders.gone(ref) || p.packs[ref.ID] {
		return
	}
	p.packs[ref.ID] = true
	p.refs = append(p.refs, *ref)
}

// first keeps the first packs alone. They are in the order of heads, and in each the index packs come last: what is left
// of a head can be told by them until it goes too.
func (p *releasing) first(most int) {
	for i := range p.refs[most:] {
		delete(p.packs, p.refs[most+i].ID)
	}
	p.refs = p.refs[:most]
}

// list makes each embassy's list.
func (p *releasing) list(rel *Release) error {
	all := sha256.New()
	for i, s := range p.run.sites {
		l := Listed{Embassy: s.Name, ID: s.ID, List: ledger.ObjectList{}}
		for j := range p.refs {
			ref := &p.refs[j]
			if i >= len(ref.Shares) {
				return fmt.Errorf("%w: pack %s has %d shares", ErrReferences, ref.ID, len(ref.Shares))
			}
			l.List = append(l.List, ref.Shares[i])
			l.Bytes += uint64(shard.Size(ref.Class.Size(), int(ref.K)))
		}
		slices.SortFunc(l.List, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
		data, err := l.List.Bytes()
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		l.Objects, l.SHA256 = uint64(len(l.List)), hex.EncodeToString(sum[:])
		all.Write(sum[:])
		rel.Objects, rel.Bytes = rel.Objects+l.Objects, rel.Bytes+l.Bytes
		rel.Lists = append(rel.Lists, l)
	}
	rel.ID = hex.EncodeToString(all.Sum(nil)[:16])
	return nil
}
