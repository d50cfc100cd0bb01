package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// minGathered is how few stretches are not worth a gathering when a stream is closed.
const minGathered = 16

// gatherer collects the stored bytes of small stretches, once they are durable, in a builder of at most one pack of the
// largest class. When it is full it is written, beside the stream: the next stretches go into another builder
// meanwhile, and where that is full too before the first is written, these are not gathered. What a crash loses of it
// are gatherings; every stretch still has its own pack.
type gatherer struct {
	writing sync.Mutex // one gathering at a time; guards last and hash
	last    uint64     // the newest gathering
	hash    [32]byte   // of it

	mu      sync.Mutex // guards what follows
	now     *gatheringUp
	before  [32]byte // hash of the stretch before the next one
	started bool     // before is known
	busy    bool     // one is being written
}

// gatheringUp is a gathering that is being filled.
type gatheringUp struct {
	first   uint64
	before  [32]byte
	through [32]byte
	buf     []byte
	builder *pack.Builder
	list    []snapshot.Gathered
	table   int  // bytes of it
	alone   bool // some of them have a pack of their own only
}

const gatheringPrefix = "gathering-"

// open takes over the chain where it ends: at what the embassies show, or at one that was signed here and not sent.
func (g *gatherer) open(s *Stream, shown *snapshot.Gathering) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	if shown != nil {
		g.last, g.hash = shown.Sequence, shown.Hash()
	}
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimPrefix(e.Name(), gatheringPrefix), 10, 64)
		if err != nil || e.Name() != gatheringName(seq) || seq <= g.last {
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			return err
		}
		local, err := s.view.gathering(b, seq)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		g.last, g.hash = seq, local.Hash()
	}
	return nil
}

func gatheringName(seq uint64) string { return fmt.Sprintf("%s%020d", gatheringPrefix, seq) }

// add takes a durable stretch. They come in order.
func (g *gatherer) add(s *Stream, f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.before, g.started = f.hash, true }()
	entry := snapshot.Gathered{Position: f.position, Replaces: f.replaces}
	if f.stored == nil {
		entry.Alone = &f.ref
	} else {
		entry.Stored, entry.Raw, entry.Compressed = f.entry.Stored, f.entry.Raw, f.entry.Compressed
	}
	if u := g.now; u != nil && !u.fits(&entry) {
		g.now = nil
		if !g.busy && u.builder.Count() > 1 {
			g.write(s, u)
		}
	}
	if g.now == nil {
		if entry.Alone != nil || !g.started && f.seq > 1 {
			return
		}
		g.now = &gatheringUp{first: f.seq, before: g.before, buf: make([]byte, 0, pack.Largest(pack.Data))}
		g.now.builder = pack.NewBuilder(g.now.buf)
	}
	u := g.now
	if entry.Alone == nil {
		u.builder.Add(f.entry.ID, f.stored, int(f.entry.Raw), f.entry.Compressed)
		f.stored = nil
	}
	u.alone = u.alone || entry.Alone != nil
	u.list, u.table, u.through = append(u.list, entry), u.table+snapshot.GatheredSize(&entry), f.hash
}

// write begins to write a gathering. It is called with mu held, and while no other is written.
func (g *gatherer) write(s *Stream, u *gatheringUp) {
	g.busy = true
	s.working.Go(func() {
		_ = s.writeGathering(s.ctx, u) // one that fails is missed by nobody; Healthy tells of embassies
	})
}

// early begins to write what has come together, though it is not full, if it holds the newest of what embassies lack, and
// reports whether it does.
func (g *gatherer) early(s *Stream, a arrears) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.now
	if g.busy || !u.holds(a.through) {
		return false
	}
	g.now = nil
	g.write(s, u)
	return true
}

// brings tells whether embassies may get what they lack by a gathering: one is being written, or the next holds it all.
func (g *gatherer) brings(a arrears) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy || g.now.settles(a)
}

// holds tells whether a stretch is of a gathering.
func (u *gatheringUp) holds(seq uint64) bool {
	return u != nil && seq >= u.first && seq-u.first < uint64(len(u.list))
}

// settles tells whether a gathering's pack holds all that embassies lack.
func (u *gatheringUp) settles(a arrears) bool {
	return u.holds(a.through) && u.first <= a.after+1 && !u.alone
}

func (u *gatheringUp) fits(x *snapshot.Gathered) bool {
	return len(u.list) < snapshot.MaxGathered && u.table+snapshot.GatheredSize(x)+16 <= snapshot.MaxGatheredTable &&
		(x.Alone != nil || u.builder.Fits(int(x.Stored)))
}

// Gather writes what has come together as a gathering, without waiting until it is full, and signs for what
// embassies were given. Fewer than two stretches need none.
func (s *Stream) Gather(ctx context.Context) error {
	s.gather.mu.Lock()
	u := s.gather.now
	if u != nil {
		s.gather.now = nil
	}
	s.gather.mu.Unlock()
	if u == nil || u.builder.Count() < 2 {
		s.gather.writing.Lock()
		defer s.gather.writing.Unlock()
		return s.deliver(ctx, nil)
	}
	return s.writeGathering(ctx, u)
}

// closing is what is done when all is durable and nothing more comes.
func (s *Stream) closing(ctx context.Context) error {
	a := s.arrears()
	s.gather.mu.Lock()
	if u := s.gather.now; u != nil && u.builder.Count() < minGathered && !u.holds(a.through) {
		s.gather.now = nil
	}
	s.gather.mu.Unlock()
	err := s.Gather(ctx)
	s.mendLast(ctx)
	return errors.Join(err, s.keepState())
}

// writeGathering stores a gathering's pack and record with every embassy that answers. k of them make it count.
func (s *Stream) writeGathering(ctx context.Context, u *gatheringUp) error {
	g := &s.gather
	g.writing.Lock()
	defer g.writing.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.busy = false
	}()
	ref := snapshot.PackRef{
		Kind: pack.Data, Class: u.builder.Smallest(), K: uint8(s.reg.K), N: uint8(len(s.reg.Members)), Epoch: s.reg.Epoch,
	}
	parts, buf, err := s.seal(&ref, u.builder.Finish(ref.Class))
	if err != nil {
		return err
	}
	defer s.giveBack(ref.Class, buf)
	u.buf, u.builder = nil, nil
	record, err := s.signGathering(u, &ref)
	if err != nil {
		return err
	}
	if err := s.sendGathering(ctx, u, record, &ref, parts); err != nil {
		return fmt.Errorf("gathering %d: %w", g.last, err)
	}
	return s.deliver(ctx, &ref)
}

// signGathering makes the record and keeps it at home before anybody is sent it. A crash after that leaves a gathering
// whose pack may be nowhere: readers take the stretches' own packs, and the next gathering follows it.
func (s *Stream) signGathering(u *gatheringUp, ref *snapshot.PackRef) ([]byte, error) {
	g := &s.gather
	seq := g.last + 1
	table, err := pack.SealNote(rand.Reader, &s.reg.IndexKey, noteMeta(pack.Gathering, seq, ref, s.reg.State, s.reg.ID),
		snapshot.AppendGathered(nil, u.first, u.list))
	if err != nil {
		return nil, err
	}
	r := &snapshot.Gathering{
		Version: snapshot.GatheringVersion, State: s.reg.State, Register: s.reg.ID, Sequence: seq, Previous: g.hash,
		First: u.first, Through: u.first + uint64(len(u.list)) - 1, Before: u.before, ThroughHash: u.through,
		Table: table, Pack: *ref, Members: s.members(), K: ref.K,
		CharterVersion: s.agent.CharterNumber, CharterHash: s.agent.CharterHash, Time: time.Now().UnixNano(),
	}
	r.Sign(s.agent.Key)
	if err := r.Check(); err != nil {
		return nil, err
	}
	b := r.Bytes()
	if err := durable.WriteFile(filepath.Join(s.dir, gatheringName(seq)), b, 0o600); err != nil {
		return nil, err
	}
	if seq > 1 {
		if err := durable.Remove(filepath.Join(s.dir, gatheringName(seq-1))); err != nil {
			return nil, err
		}
	}
	g.last, g.hash = seq, r.Hash()
	return b, nil
}

// sendGathering sends the newest gathering to each embassy once. One that does not take it gets it by a mending, or by Repair:
// readers need one embassy that shows its record.
func (s *Stream) sendGathering(ctx context.Context, u *gatheringUp, record []byte, ref *snapshot.PackRef, parts [][]byte) error {
	slot := ledger.Slot{Kind: ledger.GatheringRecord, Register: [16]byte(s.reg.ID), Sequence: s.gather.last}
	errs := make([]error, len(s.lanes))
	var all sync.WaitGroup
	for i, l := range s.lanes {
		all.Go(func() {
			if err := l.Objects.Put(ctx, ref.Shares[i], parts[i]); err != nil {
				errs[i] = fmt.Errorf("%s: storing object %s: %w", l.Name, ref.Shares[i], err)
			} else {
				errs[i] = s.putRecord(ctx, l, slot, record)
			}
			s.given(l, u, errs[i] == nil)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n := len(slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })); n < s.reg.K {
		return fmt.Errorf("%w: %d of %d took it, %d are needed: %w", register.ErrTooFew, n, len(errs), s.reg.K, errors.Join(errs...))
	}
	return nil
}

// deliver signs for each embassy what it was given since its last delivery, as far as it says that it has it and shows
// in its ledger that it does. gathered is the pack of a gathering, or nil. gather.writing is held.
func (s *Stream) deliver(ctx context.Context, gathered *snapshot.PackRef) error {
	s.mu.Lock()
	through := s.kept
	lanes := slices.DeleteFunc(slices.Clone(s.lanes), func(l *lane) bool { return l.why != nil })
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, l := range lanes {
		all.Go(func() {
			if err := s.deliverTo(ctx, l, through, gathered); err != nil && ctx.Err() == nil {
				s.fails(l, fmt.Errorf("delivery: %w", err))
			}
		})
	}
	all.Wait()
	return errors.Join(context.Cause(ctx), s.keepState())
}

func (s *Stream) deliverTo(ctx context.Context, l *lane, through uint64, gathered *snapshot.PackRef) error {
	s.mu.Lock()
	from, has := l.delivered+1, l.has
	s.mu.Unlock()
	names, slots, err := s.giving(l, from, through, has)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(slots, register.Batch/4) { // by its ledger a reader sees what it may hide later
		if _, err := l.Records.Receipts(ctx, nil, batch); err != nil {
			return fmt.Errorf("receipts of records: %w", err)
		}
	}
	if gathered != nil {
		names = append(names, gathered.Shares[l.Share])
	}
	if len(names) == 0 {
		return nil
	}
	var held []shard.Name
	for batch := range slices.Chunk(names, register.Batch) {
		flaws, err := l.Objects.Check(ctx, batch, false)
		if err != nil {
			return err
		}
		has := slices.DeleteFunc(slices.Clone(batch), func(n shard.Name) bool {
			return slices.ContainsFunc(flaws, func(f register.Flaw) bool { return f.Name == n })
		})
		if len(has) == 0 {
			continue
		}
		if _, err := l.Records.Receipts(ctx, has, nil); err != nil {
			return err
		}
		held = append(held, has...)
	}
	if len(held) > 0 {
		if err := s.signFor(ctx, l, through, held); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.delivered = max(l.delivered, through)
	return nil
}

func (s *Stream) signFor(ctx context.Context, l *lane, through uint64, names []shard.Name) error {
	sent, err := register.NewDeliverer(ctx, s.reg, s.agent, l.Site, ledger.StreamDelivery+through, len(names))
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := sent.Add(ctx, n); err != nil {
			return err
		}
	}
	return sent.Flush(ctx)
}

// giving lists the shares of an embassy of the stretches from one to another, as far as the local log holds them, and their
// records up to the one of which the embassy has all.
func (s *Stream) giving(l *lane, from, through, has uint64) (names []shard.Name, slots []ledger.Slot, err error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	err = s.log.each(from, func(seq uint64, b []byte) (bool, error) {
		if seq > through {
			return false, nil
		}
		r, err := snapshot.ParseStretch(b)
		if err == nil {
			names = append(names, r.Pack.Shares[l.Share])
		}
		if seq <= has {
			slots = append(slots, s.slot(seq))
		}
		return true, err
	})
	return names, slots, err
}
