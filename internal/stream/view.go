package stream

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// view is a register's stream as its embassies show it together: no one of them need have every record, and
// each may lie about what it has. A record counts because an agent signed it and because the next one names its hash.
// Two records of one number are a fork.
type view struct {
	reg     *register.Register
	trusted []ed25519.PublicKey
	sites   register.Sites
	faults  *register.Faults

	mu     sync.Mutex
	liars  map[*register.Site]bool // showed a record that is none
	prefix map[int]uint64          // share -> what this site shows without a gap, from where listing began
	forked error                   // who holds another
	hole   error                   // why the chain ends before what is shown
	other  map[string][]byte       // of a fork: the records, by what they are

	lacks func(slot ledger.Slot, b []byte, sites register.Sites) // told of sites that do not show a record; nil: nobody asks
}

func newView(reg *register.Register, trusted []ed25519.PublicKey, sites register.Sites, f *register.Faults) *view {
	return &view{
		reg: reg, trusted: trusted, sites: sites, faults: f,
		liars: map[*register.Site]bool{}, prefix: map[int]uint64{}, other: map[string][]byte{},
	}
}

// shown is the record of one number, in all the versions that sites list.
type shown struct {
	slot     ledger.Slot
	versions []version
}

type version struct {
	hash  [32]byte
	sites register.Sites
}

func (x *shown) add(hash [32]byte, s *register.Site) {
	for i := range x.versions {
		if x.versions[i].hash == hash {
			x.versions[i].sites = append(x.versions[i].sites, s)
			return
		}
	}
	x.versions = append(x.versions, version{hash, register.Sites{s}})
}

func (v *view) slot(kind ledger.RecordKind, seq uint64) ledger.Slot {
	return ledger.Slot{Kind: kind, Register: [16]byte(v.reg.ID), Sequence: seq}
}

// list returns what sites show of the numbers above after up to through, in order. A site that does not answer is
// down.
func (v *view) list(ctx context.Context, kind ledger.RecordKind, after, through uint64) ([]shown, error) {
	lists := make([][]ledger.RecordInfo, len(v.sites))
	var all sync.WaitGroup
	for i, s := range v.sites {
		if !s.Up() {
			continue
		}
		all.Go(func() {
			list, err := v.listSite(ctx, s, kind, after, through)
			if err != nil {
				s.Fail(fmt.Errorf("listing records of the stream: %w", err))
			}
			lists[i] = list
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var out []shown
	for i, list := range lists {
		for _, r := range list {
			n, found := slices.BinarySearchFunc(out, r.Slot.Sequence, func(x shown, seq uint64) int {
				return int(int64(x.slot.Sequence) - int64(seq))
			})
			if !found {
				out = slices.Insert(out, n, shown{slot: v.slot(kind, r.Slot.Sequence)})
			}
			out[n].add(r.Hash, v.sites[i])
			if kind == ledger.StretchRecord && r.Slot.Sequence == v.prefix[i]+1 {
				v.prefix[i]++
			}
		}
	}
	return out, nil
}

func (v *view) listSite(ctx context.Context, s *register.Site, kind ledger.RecordKind, after, through uint64) ([]ledger.RecordInfo, error) {
	var out []ledger.RecordInfo
	for after < through {
		page, err := s.Records.ListRecords(ctx, kind, [16]byte(v.reg.ID), after)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if r.Slot.Sequence <= after {
				return nil, errors.New("the list of records does not go forward")
			}
			if after = r.Slot.Sequence; after > through {
				break
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func (v *view) blame(s *register.Site, slot ledger.Slot, what string) {
	v.faults.Add(register.Fault{Embassy: s.Name, Object: register.RecordName(slot), What: what})
}

// dispute notes a fork: somebody holds another record of a number, or one that does not follow, signed by an agent.
func (v *view) dispute(slot ledger.Slot, holder string, other []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := fmt.Errorf("%w: %s holds another %s of this register, signed by an agent", register.ErrForked, holder, register.RecordName(slot))
	v.faults.Add(register.Fault{Embassy: holder, Object: register.RecordName(slot), What: "another one, signed by an agent"})
	hash := sha256.Sum256(other)
	v.other[fmt.Sprintf("%s-%d-%x", slot.Kind, slot.Sequence, hash[:8])] = other
	if v.forked == nil {
		v.forked = err
	}
	return err
}

// fork is what two records of one number, or one that does not follow, mean for whoever asked.
func (v *view) fork() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.forked
}

// read returns the bytes of a record that check accepts, from any site that shows it. A second version that check
// accepts is a fork. Where known is given, it is the version that the caller holds. Errors: ErrForked, ErrTooFew.
func (v *view) read(ctx context.Context, x *shown, known []byte, check func([]byte) error) ([]byte, error) {
	got := known
	for _, ver := range x.versions {
		if got != nil && sha256.Sum256(got) == ver.hash {
			continue
		}
		for _, s := range ver.sites {
			b, err := v.readSite(ctx, s, x.slot, ver.hash, check)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				continue
			}
			if got != nil {
				return nil, v.dispute(x.slot, s.Name, b)
			}
			got = b
			break
		}
	}
	if got == nil {
		return nil, fmt.Errorf("%w: nobody gives %s", register.ErrTooFew, register.RecordName(x.slot))
	}
	return got, nil
}

func (v *view) readSite(ctx context.Context, s *register.Site, slot ledger.Slot, hash [32]byte, check func([]byte) error) ([]byte, error) {
	b, err := s.Records.GetRecord(ctx, slot)
	if err != nil {
		if ctx.Err() == nil {
			v.blame(s, slot, err.Error())
			s.Strike(fmt.Errorf("reading %s: %w", register.RecordName(slot), err))
		}
		return nil, err
	}
	s.Answered()
	if sha256.Sum256(b) != hash {
		err = errors.New("wrong bytes")
	} else {
		err = check(b)
	}
	if err != nil {
		v.blame(s, slot, err.Error())
		v.mu.Lock()
		v.liars[s] = true
		v.mu.Unlock()
	}
	return b, err
}

// recordReaders is how many records are fetched at once.
const recordReaders = 8

// readAll is read for many, in order; the first error ends the list. known are the first of them, as far as this machine
// holds them.
func (v *view) readAll(ctx context.Context, list []shown, known [][]byte, check func(seq uint64, b []byte) error) ([][]byte, error) {
	out, errs := make([][]byte, len(list)), make([]error, len(list))
	next := make(chan int)
	var all sync.WaitGroup
	for range min(recordReaders, len(list)) {
		all.Go(func() {
			for i := range next {
				var have []byte
				if i < len(known) {
					have = known[i]
				}
				out[i], errs[i] = v.read(ctx, &list[i], have, func(b []byte) error { return check(list[i].slot.Sequence, b) })
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return out[:i], err
		}
	}
	return out, nil
}

func (v *view) trusts(agent [32]byte, what string) error {
	if !slices.ContainsFunc(v.trusted, func(k ed25519.PublicKey) bool { return [32]byte(k) == agent }) {
		return fmt.Errorf("%s is signed by a key that the charter does not name", what)
	}
	return nil
}

// stretch reads the record of a stretch of this register, with this number.
func (v *view) stretch(b []byte, seq uint64) (*snapshot.Stretch, error) {
	s, err := snapshot.ParseStretch(b)
	if err != nil {
		return nil, err
	}
	switch {
	case s.State != v.reg.State || s.Register != [16]byte(v.reg.ID):
		return nil, errors.New("stretch of another register")
	case s.Sequence != seq:
		return nil, fmt.Errorf("is stretch %d", s.Sequence)
	}
	if err := s.Verify(); err != nil {
		return nil, err
	}
	return s, v.trusts(s.Agent, fmt.Sprintf("stretch %d", seq))
}

// gathering is stretch for gatherings.
func (v *view) gathering(b []byte, seq uint64) (*snapshot.Gathering, error) {
	g, err := snapshot.ParseGathering(b)
	if err != nil {
		return nil, err
	}
	switch {
	case g.State != v.reg.State || g.Register != [16]byte(v.reg.ID):
		return nil, errors.New("gathering of another register")
	case g.Sequence != seq:
		return nil, fmt.Errorf("is gathering %d", g.Sequence)
	}
	if err := g.Verify(); err != nil {
		return nil, err
	}
	return g, v.trusts(g.Agent, fmt.Sprintf("gathering %d", seq))
}

// holder is a site that shows the record; none where only this machine has it.
func (x *shown) holder() string {
	for _, ver := range x.versions {
		for _, s := range ver.sites {
			return s.Name
		}
	}
	return "this machine"
}

// one returns the record of one stretch.
func (v *view) one(ctx context.Context, seq uint64) ([]byte, error) {
	list, err := v.list(ctx, ledger.StretchRecord, seq-1, seq)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: stretch %d is shown by nobody", register.ErrTooFew, seq)
	}
	return v.read(ctx, &list[0], nil, func(b []byte) error {
		_, err := v.stretch(b, seq)
		return err
	})
}

// gatherings returns, oldest first, those that reach from or beyond, newest ones first read. They are a shorter way
// only: one that cannot be read is passed over.
func (v *view) gatherings(ctx context.Context, from uint64) ([]*snapshot.Gathering, error) {
	list, err := v.list(ctx, ledger.GatheringRecord, 0, ^uint64(0))
	if err != nil {
		return nil, err
	}
	var out []*snapshot.Gathering
	var next *snapshot.Gathering
	for i := len(list) - 1; i >= 0; i-- {
		seq := list[i].slot.Sequence
		b, err := v.read(ctx, &list[i], nil, func(b []byte) error {
			_, err := v.gathering(b, seq)
			return err
		})
		if errors.Is(err, register.ErrTooFew) {
			next = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		g, err := v.gathering(b, seq)
		if err != nil {
			return nil, err
		}
		if next != nil && next.Sequence == g.Sequence+1 && snapshot.CheckGatheringChain(g, next) != nil {
			return nil, v.dispute(list[i].slot, list[i].holder(), b)
		}
		if len(out) > 0 && g.Through < from {
			break
		}
		out, next = append(out, g), g
		if g.First <= from {
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}

// noteMeta is the meaning of what a record of the stream says under the index key.
func noteMeta(kind pack.Kind, seq uint64, ref *snapshot.PackRef, state, register [16]byte) pack.Meta {
	m := pack.Meta{State: state, Register: register, Epoch: ref.Epoch, Kind: kind, K: ref.K, N: ref.N}
	binary.BigEndian.PutUint64(m.ID[8:], seq)
	return m
}

// openPosition opens the position of a stretch.
func openPosition(r *register.Register, s *snapshot.Stretch) ([]byte, error) {
	p, err := pack.OpenNote(&r.IndexKey, noteMeta(pack.Stretch, s.Sequence, &s.Pack, s.State, s.Register), s.Position)
	if err == nil && len(p) > snapshot.MaxPosition {
		err = errors.New("too long")
	}
	if err != nil {
		return nil, fmt.Errorf("stretch %d: position: %w: %w", s.Sequence, register.ErrDamaged, err)
	}
	return p, nil
}

// openTable opens what a gathering says of its stretches.
func openTable(r *register.Register, g *snapshot.Gathering) ([]snapshot.Gathered, error) {
	body, err := pack.OpenNote(&r.IndexKey, noteMeta(pack.Gathering, g.Sequence, &g.Pack, g.State, g.Register), g.Table)
	if err != nil {
		return nil, fmt.Errorf("gathering %d: %w: %w", g.Sequence, register.ErrDamaged, err)
	}
	return snapshot.ParseGathered(body, g)
}
