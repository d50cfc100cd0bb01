package stream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

const dirName = "stretches"

// Options are what whoever opens a stream may ask for beyond the least.
type Options struct {
	// Holders is how many embassies hold a stretch, and all before it, before it is called durable: from the register's k,
	// which 0 means, to all. With k the stretch is lost for as long as one of these is gone; each one more may vanish
	// together with home, and each one more that does not answer holds the stream up.
	Holders int
	// Without names embassies that are gone for good, which are not waited for.
	Without []charter.EmbassyID
	// Mend gives embassies that were away, also before the stream was opened, what comes in no gathering. It is called
	// again and again until they have everything. Nil leaves that to whoever repairs the register.
	Mend Mender
}

// Open prepares to append to a register's stream: it brings the local copy of the records up to date with the
// embassies, of which k must answer (ErrTooFew), and finds out how far the stream is durable. Two records of one number
// are ErrForked; what is known of them is in the register's folder. One stream at a time may be open on a folder
// (durable.ErrLocked); backups, verifications and readers may run beside it.
//
// A machine that does not remember the newest stretch that embassies show needs all of them to answer, once: one that is
// silent may hold another that whoever wrote before was about to store, and to sign a second of that number would fork
// the stream. For the same reason such a machine takes for durable what k embassies hold, whatever Holders asks for.
func Open(ctx context.Context, reg *register.Register, agent *register.Agent, opts Options) (*Stream, error) {
	holders, err := opts.holders(reg)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(reg.Dir, dirName)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("stream of register %s: %w", reg.Name, err)
	}
	s := &Stream{
		reg: reg, agent: agent, holders: holders, mender: opts.Mend, dir: dir, unlock: unlock,
		desks: newDesks(reg.IDKey), before: make(chan struct{}), spare: map[pack.Class][][]byte{},
		view: newView(reg, agent.Trusted, reg.Sites(), &register.Faults{}), logging: make(chan struct{}, 1),
	}
	s.changed = sync.NewCond(&s.mu)
	if err := s.open(ctx, opts.Without); err != nil {
		s.keepForks()
		if s.log != nil {
			err = errors.Join(err, s.log.close())
		}
		if s.state != nil {
			err = errors.Join(err, s.state.f.Close())
		}
		unlock()
		return nil, err
	}
	close(s.before) // nothing comes before the first
	s.ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	s.working.Go(s.settle)
	s.working.Go(s.keepRecords)
	s.working.Go(s.tend)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		s.mayFill(l)
	}
	return s, nil
}

func (o *Options) holders(reg *register.Register) (int, error) {
	n := cmp.Or(o.Holders, reg.K)
	if n < reg.K || n > len(reg.Members) {
		return 0, fmt.Errorf("%w: %d holders; register %s is read with %d of its %d embassies", ErrHolders, n, reg.Name, reg.K, len(reg.Members))
	}
	return n, nil
}

func (s *Stream) open(ctx context.Context, without []charter.EmbassyID) (err error) {
	if s.coder, err = shard.NewCoder(s.reg.K, len(s.reg.Members)); err != nil {
		return err
	}
	if s.log, err = openLog(s.dir); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "state")
	state := readStreamState(path)
	if s.state, err = openStateFile(path); err != nil {
		return err
	}
	o := &opening{Stream: s, known: state}
	if err := o.sync(ctx); err != nil {
		return err
	}
	if err := o.remembers(without); err != nil {
		return err
	}
	if err := o.settled(ctx); err != nil {
		return err
	}
	return o.lanes(ctx)
}

// opening is a stream that is being opened.
type opening struct {
	*Stream
	known  *streamState
	from   uint64              // records up to this one are not asked for
	base   *snapshot.Gathering // the newest
	floor  uint64              // the newest stretch that is known to be durable without asking
	newer  []*snapshot.Stretch // the records behind that, and the last one before
	learnt bool                // the newest record came from an embassy
}

// sync joins the local records with what the embassies show.
func (o *opening) sync(ctx context.Context) error {
	v := o.view
	if err := o.gathered(ctx); err != nil {
		return err
	}
	if o.from = o.begin(); o.log.last == 0 && o.base != nil {
		o.last, o.hash, o.learnt = o.base.Through, o.base.ThroughHash, true
	}
	for i := range v.sites {
		v.prefix[i] = o.from
	}
	var prev *[32]byte
	if o.base != nil && o.base.Through == o.from {
		prev = &o.base.ThroughHash
	}
	_, _, err := v.walk(ctx, o.from, ^uint64(0), prev, o.log.between, o.take)
	if err == nil {
		err = cmp.Or(v.fork(), v.hole, v.sites.Enough(o.reg.K))
	}
	if err != nil {
		return err
	}
	o.gather.before, o.gather.started = o.hash, true
	return o.log.sync()
}

// remembers fails where an embassy may hold a newer record than this machine could learn of.
func (o *opening) remembers(without []charter.EmbassyID) error {
	for _, x := range o.view.sites {
		if o.learnt && !x.Up() && !slices.Contains(without, x.ID) {
			return fmt.Errorf("%w: %w, so every embassy must answer once, and %s does not: %w", register.ErrTooFew, ErrNoMemory, x.Name, x.Reason())
		}
	}
	return nil
}

// gathered reads the newest gathering.
func (o *opening) gathered(ctx context.Context) error {
	list, err := o.view.gatherings(ctx, ^uint64(0))
	if err != nil {
		return err
	}
	if err := o.view.sites.Enough(o.reg.K); err != nil {
		return err
	}
	o.floor = o.known.kept
	if len(list) > 0 {
		o.base = list[len(list)-1]
		o.floor = max(o.floor, o.base.Through)
	}
	return o.gather.open(o.Stream, o.base)
}

// begin is the number behind which records are compared: before the first that some embassy may lack.
func (o *opening) begin() uint64 {
	if o.log.last == 0 {
		if o.base != nil {
			return o.base.Through
		}
		return 0
	}
	from := min(o.log.last-1, o.floor)
	for _, x := range o.view.sites {
		if x.Up() { // of one that is silent nothing is learnt: it is compared when it is given what it lacks
			from = min(from, o.known.sites[x.ID].has)
		}
	}
	return max(from, o.log.first()-1)
}

// take keeps a record that is not in the local log yet.
func (o *opening) take(r *snapshot.Stretch, b []byte) error {
	if r.Sequence > o.log.last {
		if err := o.log.add(r.Sequence, b); err != nil {
			return err
		}
		o.learnt = true
	}
	o.last, o.hash = r.Sequence, sha256.Sum256(b)
	o.floor = max(o.floor, r.Kept)
	o.newer = append(o.newer, r)
	for len(o.newer) > 1 && o.newer[1].Sequence <= o.floor {
		o.newer = o.newer[1:]
	}
	return nil
}

// settled finds the newest stretch that is durable with all before it.
func (o *opening) settled(ctx context.Context) error {
	if o.floor > o.last {
		return fmt.Errorf("%w: stretch %d was durable, and nobody shows more than %d", register.ErrTooFew, o.floor, o.last)
	}
	var refs []*snapshot.PackRef
	var replaces []uint64
	tail := func(r *snapshot.Stretch, _ []byte) error {
		if r.Sequence > o.floor {
			refs, replaces = append(refs, &r.Pack), append(replaces, r.Replaces)
		}
		return nil
	}
	if len(o.newer) > 0 && o.newer[0].Sequence > o.floor+1 { // of which the local log no longer holds the first
		if _, _, err := o.view.walk(ctx, o.floor, o.newer[0].Sequence-1, nil, nil, tail); err != nil {
			return err
		}
	}
	for _, r := range o.newer {
		_ = tail(r, nil)
	}
	if o.floor+uint64(len(refs)) != o.last {
		return fmt.Errorf("%w: %d records behind stretch %d, want those up to %d", register.ErrTooFew, len(refs), o.floor, o.last)
	}
	held, err := o.view.holders(ctx, refs)
	if err != nil {
		return err
	}
	enough := o.holders
	if o.learnt || o.known.kept == 0 { // it may have been told to be durable by another, with k
		enough = o.reg.K
	}
	o.kept = reach(o.floor+1, replaces, o.floor, func(i int) bool { return held[i].good >= enough })
	if most := reach(o.floor+1, replaces, o.floor, func(i int) bool { return held[i].most() >= enough }); most > o.kept {
		o.doubt = fmt.Errorf("%w to tell whether stretches %d to %d are durable: %w", register.ErrTooFew, o.kept+1, most, downError(o.view.sites))
	}
	if o.durable = o.kept; o.kept < o.last {
		o.replace = o.kept + 1
	}
	if o.kept == 0 {
		return nil
	}
	r, err := o.one(ctx, o.kept)
	if err != nil {
		return err
	}
	o.position, err = openPosition(o.reg, r)
	return err
}

func downError(sites register.Sites) (err error) {
	for _, s := range sites {
		if why := s.Reason(); why != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", s.Name, why))
		}
	}
	return err
}

// one returns the record of a stretch that was compared, or is from before.
func (o *opening) one(ctx context.Context, seq uint64) (*snapshot.Stretch, error) {
	b, err := o.log.get(seq)
	if err != nil {
		return nil, err
	}
	if b == nil {
		if b, err = o.view.one(ctx, seq); err != nil {
			return nil, err
		}
	}
	return o.view.stretch(b, seq)
}

// lanes makes a lane of each embassy.
func (o *opening) lanes(ctx context.Context) error {
	var newest held // of the gathering during which the last run may have died
	if o.base != nil {
		held, err := o.view.holders(ctx, []*snapshot.PackRef{&o.base.Pack})
		if err != nil {
			return err
		}
		newest = held[0]
	}
	for i, x := range o.view.sites {
		l := &lane{Site: x, beyond: map[uint64]bool{}, under: map[uint64]bool{}, has: o.view.prefix[i]}
		known, ok := o.known.sites[x.ID]
		if !ok {
			known.delivered, known.whole = o.from, o.from
		}
		if why := x.Reason(); why != nil {
			l.why, l.pause, l.retry, l.has = why, firstPause, time.Now().Add(firstPause), known.has
		}
		l.has = min(l.has, o.last)
		l.delivered = min(known.delivered, o.last)
		if l.whole = min(known.whole, o.kept); o.base != nil && newest.lacks[i] {
			l.whole = min(l.whole, o.base.First-1)
		}
		if l.whole < o.kept {
			l.missed = o.kept
		}
		o.Stream.lanes = append(o.Stream.lanes, l)
	}
	return ctx.Err()
}

// held is what the embassies say of one pack.
type held struct {
	good  int    // that hold their share
	lacks []bool // by site: that say they do not
}

// most is how many embassies may hold their share.
func (h *held) most() (n int) {
	for _, lacks := range h.lacks {
		if !lacks {
			n++
		}
	}
	return n
}

// holders asks the embassies whether they hold their share of each pack.
func (v *view) holders(ctx context.Context, refs []*snapshot.PackRef) ([]held, error) {
	out := make([]held, len(refs))
	for i := range out {
		out[i].lacks = make([]bool, len(v.sites))
	}
	for i, s := range v.sites {
		for at := 0; at < len(refs) && s.Up(); at += register.Batch {
			part := refs[at:min(len(refs), at+register.Batch)]
			names := make([]shard.Name, len(part))
			for j, ref := range part {
				if len(ref.Shares) != len(v.sites) {
					return nil, fmt.Errorf("pack %s: made for %d embassies, the register has %d", ref.ID, ref.N, len(v.sites))
				}
				names[j] = ref.Shares[i]
			}
			flaws, err := s.Objects.Check(ctx, names, false)
			if err != nil {
				s.Fail(fmt.Errorf("checking objects: %w", err))
				break
			}
			for j := range part {
				h := &out[at+j]
				if h.lacks[i] = slices.ContainsFunc(flaws, func(f register.Flaw) bool { return f.Name == names[j] }); !h.lacks[i] {
					h.good++
				}
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return out, v.sites.Enough(v.reg.K)
}

// reach returns the newest stretch of those from first on, which come behind floor, that is whole and so is every one
// before that it does not replace; floor where there is none. replaces is what each of them replaces from.
func reach(first uint64, replaces []uint64, floor uint64, whole func(i int) bool) uint64 {
	for from := len(replaces) - 1; from >= 0; from-- {
		at := first + uint64(from)
		for at > floor {
			if at < first || !whole(int(at-first)) {
				break
			}
			if r := replaces[at-first]; r > 0 {
				at = r - 1
			} else {
				at--
			}
		}
		if at <= floor {
			return first + uint64(from)
		}
	}
	return floor
}
