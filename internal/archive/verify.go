package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// VerifyOptions say how deep a verification goes.
type VerifyOptions struct {
	Read bool             // every embassy reads every object on its own disk
	Data bool             // every object is fetched and held against its name
	Key  *seal.PrivateKey // and every pack is opened, and every chunk held against its id
}

// VerifyReport is what a verification found. A pack is whole when every embassy holds its share, thin when some do
// not but k do, lost when fewer than k do. After a Repair, Thin and Lost count what is still so.
type VerifyReport struct {
	Snapshots uint64 `json:"snapshots"`
	Packs     int    `json:"packs"`
	Objects   int    `json:"objects"`
	Bytes     int64  `json:"bytes_read"`
	Thin      int    `json:"packs_thin"`
	Lost      int    `json:"packs_lost"`
	Replaced  int    `json:"packs_replaced"` // lost, and stored again since
	Hidden    int    `json:"packs_hidden"`   // fewer than k embassies show a share, and the others do not answer
	Leaving   int    `json:"packs_leaving"`  // that an order removes or removed: not looked at
	Chunks    int    `json:"chunks_opened"`
	Repaired  int    `json:"objects_repaired"`
	// Of the register's stream; its packs count above.
	Stretches  int     `json:"stretches"`            // that hold something
	Gatherings int     `json:"gatherings"`           // of them
	Void       int     `json:"stretches_void"`       // replaced by later ones: not looked at
	Unfinished int     `json:"stretches_unfinished"` // at the end, and never with k embassies: no loss
	Gone       int     `json:"stretches_lost"`       // neither their own pack nor a gathering's is left
	Faults     []Fault `json:"faults,omitempty"`
	Down       []Down  `json:"embassies_down,omitempty"`
}

// Verify checks a register at every embassy that answers. It returns ErrDamaged with the report when a pack is lost.
func Verify(ctx context.Context, reg *Register, agent *Agent, opts VerifyOptions, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(r *run, v *verifier) error {
		v.opts = opts
		if err := v.packs(ctx, v.check); err != nil {
			return err
		}
		return v.stream(ctx, v.check, nil)
	})
}

// Repair makes every share that an embassy lacks or holds damaged out of k others, with no key that opens, and gives
// embassies the heads and the records of the stream that they lack.
func Repair(ctx context.Context, reg *Register, agent *Agent, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(r *run, v *verifier) error {
		v.opts = VerifyOptions{Read: true}
		v.sent = make([]*deliverer, len(r.sites))
		if err := v.packs(ctx, v.repair); err != nil {
			return err
		}
		v.flushSent(ctx)
		if err := v.stream(ctx, v.repair, v.giveRecord); err != nil {
			return err
		}
		v.flushSent(ctx)
		return r.publish(ctx)
	})
}

// flushSent hands in the deliveries of what was repaired so far.
func (v *verifier) flushSent(ctx context.Context) {
	for i, sent := range v.sent {
		v.sent[i] = nil
		if sent == nil || !v.run.sites[i].up() {
			continue
		}
		if err := sent.flush(ctx); err != nil {
			v.run.sites[i].fail(err)
		}
	}
}

func examine(ctx context.Context, reg *Register, agent *Agent, progress *Progress, work func(*run, *verifier) error) (*VerifyReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	r, err := openRun(ctx, reg, agent, reg.sites(), whole)
	if err != nil {
		return nil, err
	}
	defer r.close()
	v := &verifier{run: r, progress: progress, rep: &VerifyReport{Snapshots: r.history.last}, lost: lostPacks{}, head: r.history.last}
	if err = work(r, v); err == nil {
		err = v.settleLost(ctx)
	}
	v.rep.Faults, v.rep.Down = r.faults.all(), downs(r.sites)
	if err == nil && v.rep.Lost+v.rep.Gone > 0 {
		err = fmt.Errorf("%w: %d of %d packs, %d of %d stretches", ErrDamaged, v.rep.Lost, v.rep.Packs, v.rep.Gone, v.rep.Stretches)
		if v.rep.Stretches == 0 {
			err = fmt.Errorf("%w: %d of %d packs", ErrDamaged, v.rep.Lost, v.rep.Packs)
		}
	}
	if err == nil && v.rep.Hidden > 0 {
		err = fmt.Errorf("%w: %d of %d packs cannot be seen", ErrTooFew, v.rep.Hidden, v.rep.Packs)
	}
	return v.rep, err
}

// settleLost counts lost packs, but for those that a later backup replaced, and keeps the list for the next backup.
func (v *verifier) settleLost(ctx context.Context) error {
	replaced, err := v.run.replaced(ctx, v.lost)
	if err != nil {
		return err
	}
	names := map[string]bool{} // of objects that nothing needs: that they are gone is nobody's work any more
	for _, ref := range v.lostRefs {
		if !replaced[ref.ID] {
			continue
		}
		delete(v.lost, ref.ID)
		names[ref.ID.String()] = true
		for _, n := range ref.Shares {
			names[n.String()] = true
		}
	}
	v.run.faults.drop(names)
	v.rep.Replaced += len(replaced)
	v.rep.Lost = len(v.lost)
	return writeLost(v.run.reg.Dir, v.lost)
}

// verifier goes through a register's packs in batches.
type verifier struct {
	run      *run
	opts     VerifyOptions
	progress *Progress
	mu       sync.Mutex
	rep      *VerifyReport
	lost     lostPacks
	lostRefs []snapshot.PackRef
	sent     []*deliverer // of a repair, to each site that was given something
	head     uint64       // under which deliveries say so
	of       verdicts     // of packs of the stream; nil for others
}

// verifyBatch is how many packs are looked at together.
const verifyBatch = 512

// packs calls work for every pack of the register, index packs included.
func (v *verifier) packs(ctx context.Context, work func(context.Context, []snapshot.PackRef) error) error {
	var batch []snapshot.PackRef
	add := func(ref snapshot.PackRef) error {
		if v.run.orders.gone(&ref) || v.run.orders.parting(&ref) {
			v.rep.Leaving++
			return nil
		}
		if batch = append(batch, ref); len(batch) < verifyBatch {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return work(ctx, batch)
	}
	for seq := uint64(1); seq <= v.run.history.last; seq++ {
		head, err := v.run.history.head(seq)
		if err != nil {
			return err
		}
		for _, ref := range slices.Concat(head.Index, head.References) {
			if err := add(ref); err != nil {
				return err
			}
		}
	}
	for ref := range v.run.index.Packs() {
		if err := add(ref); err != nil {
			return err
		}
	}
	if err := v.run.index.Err(); err != nil {
		return err
	}
	return work(ctx, batch)
}

// lacking asks every site what it does not hold of a batch. A site that does not answer lacks everything, but that
// is said once, not for each object.
func (v *verifier) lacking(ctx context.Context, batch []snapshot.PackRef) []map[shard.Name]bool {
	out := make([]map[shard.Name]bool, len(v.run.sites))
	var all sync.WaitGroup
	for i, s := range v.run.sites {
		out[i] = map[shard.Name]bool{}
		if !s.up() || len(batch) == 0 {
			continue
		}
		all.Go(func() {
			names := make([]shard.Name, len(batch))
			for j := range batch {
				names[j] = batch[j].Shares[i]
			}
			flaws, err := s.Objects.Check(ctx, names, v.opts.Read)
			if err != nil {
				s.fail(fmt.Errorf("checking objects: %w", err))
				return
			}
			for _, f := range flaws {
				out[i][f.Name] = true
				v.run.faults.add(Fault{s.Name, f.Name.String(), f.What})
			}
		})
	}
	all.Wait()
	return out
}

// check looks at one batch as deep as was asked.
func (v *verifier) check(ctx context.Context, batch []snapshot.PackRef) error {
	bad := v.lacking(ctx, batch)
	work := make(chan int)
	var all sync.WaitGroup
	for range fetchers {
		all.Go(func() {
			u := v.newOpener()
			for j := range work {
				v.checkPack(ctx, u, &batch[j], bad)
			}
		})
	}
	for j := range batch {
		if ctx.Err() != nil {
			break
		}
		work <- j
	}
	close(work)
	all.Wait()
	return ctx.Err()
}

func (v *verifier) checkPack(ctx context.Context, u *packOpener, ref *snapshot.PackRef, bad []map[shard.Name]bool) {
	good := 0
	for i, s := range v.run.sites {
		if !s.up() || bad[i][ref.Shares[i]] {
			continue
		}
		if v.opts.Data && !v.fetchShare(ctx, u, s, ref) {
			continue
		}
		good++
	}
	opens := true
	chunks := 0
	if v.opts.Key != nil && good >= int(ref.K) {
		n, err := u.open(ctx, ref)
		if chunks = n; err != nil && ctx.Err() == nil && !errors.Is(err, ErrTooFew) {
			opens = false
			v.run.faults.add(Fault{"", ref.ID.String(), err.Error()})
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Packs++
	v.rep.Objects += good
	v.rep.Chunks += chunks
	v.count(ref, good, opens)
}

// count sorts a pack by how many embassies show a good share of it.
func (v *verifier) count(ref *snapshot.PackRef, good int, opens bool) {
	silent := len(v.run.sites) - len(up(v.run.sites))
	if v.of != nil {
		v.of.count(ref, good, silent, opens)
		return
	}
	switch {
	case !opens || good+silent < int(ref.K):
		v.lost[ref.ID] = true
		v.lostRefs = append(v.lostRefs, *ref)
	case good < int(ref.K):
		v.rep.Hidden++
	case good < int(ref.N):
		v.rep.Thin++
	}
}

// fetchShare gets one object and holds it against its name.
func (v *verifier) fetchShare(ctx context.Context, u *packOpener, s *site, ref *snapshot.PackRef) bool {
	name := ref.Shares[s.share]
	data, err := s.Objects.Get(ctx, name, u.share[:0])
	what := ""
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, fs.ErrNotExist):
		what = "missing"
	case err != nil:
		what = err.Error()
		s.strike(fmt.Errorf("reading object %s: %w", name, err))
	case shard.Root(data) != name:
		what = "wrong bytes"
	}
	if err == nil {
		u.share = data[:0]
		s.answered()
	}
	v.progress.Stored.Add(int64(len(data)))
	v.mu.Lock()
	v.rep.Bytes += int64(len(data))
	v.mu.Unlock()
	if what != "" {
		v.run.faults.add(Fault{s.Name, name.String(), what})
	}
	return what == ""
}

// repair makes what the sites lack of a batch.
func (v *verifier) repair(ctx context.Context, batch []snapshot.PackRef) error {
	bad := v.lacking(ctx, batch)
	f := &fetcher{reg: v.run.reg, sites: v.run.sites, faults: v.run.faults}
	made := make([][]shard.Name, len(v.run.sites))
	for j := range batch {
		m := &mending{v: v, f: f, ref: &batch[j], shares: make([][]byte, len(v.run.sites))}
		for i, s := range v.run.sites {
			switch {
			case !s.up():
			case bad[i][m.ref.Shares[i]]:
				m.want = append(m.want, i)
			default:
				m.good = append(m.good, i)
			}
		}
		if len(m.want) > 0 {
			m.mend(ctx, made)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v.rep.Packs++
		v.rep.Objects += len(m.good)
		v.count(m.ref, len(m.good), true)
	}
	for i, s := range v.run.sites {
		if len(made[i]) == 0 || !s.up() {
			continue
		}
		if err := v.signFor(ctx, i, made[i]); err != nil {
			s.fail(fmt.Errorf("receipts of repaired objects: %w", err))
			continue
		}
		v.rep.Repaired += len(made[i])
	}
	return nil
}

// signFor takes a site's receipts of what it was given again, and signs that it was given it, up to the newest head.
func (v *verifier) signFor(ctx context.Context, i int, names []shard.Name) error {
	s := v.run.sites[i]
	if _, err := s.Records.Receipts(ctx, names, nil); err != nil {
		return err
	}
	var err error
	if v.sent[i] == nil {
		if v.sent[i], err = v.run.deliver(ctx, s, v.head, 0); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := v.sent[i].add(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// mending is the repair of one pack.
type mending struct {
	v      *verifier
	f      *fetcher
	ref    *snapshot.PackRef
	good   []int // sites that hold their share, as far as is known
	want   []int // sites that do not
	shares [][]byte
}

// mend makes the shares that are wanted out of k others and sends them. What it made joins good.
func (m *mending) mend(ctx context.Context, made [][]shard.Name) {
	k, n := int(m.ref.K), int(m.ref.N)
	if !m.gather(ctx, k) {
		return
	}
	coder, err := m.f.coder(k, n)
	if err != nil {
		return
	}
	size := shard.Size(m.ref.Class.Size(), k)
	sealed, err := coder.Join(make([]byte, 0, n*size), m.shares, m.ref.Class.Size())
	if err != nil {
		return
	}
	parts, err := coder.Split(sealed, sealed)
	if err != nil {
		return
	}
	for _, i := range m.want {
		s, name := m.v.run.sites[i], m.ref.Shares[i]
		if shard.MaskAndHash(s.mask, m.ref.ID, i, parts[i]) != name {
			m.v.run.faults.add(Fault{"", m.ref.ID.String(), "its shares do not make the share that its head names"})
			return
		}
		if err := s.Objects.Repair(ctx, name, parts[i]); err != nil {
			s.fail(fmt.Errorf("repairing object %s: %w", name, err))
			continue
		}
		made[i] = append(made[i], name)
		m.good = append(m.good, i)
		m.v.progress.Stored.Add(int64(size))
	}
}

// gather fetches k shares and holds each against its name. One that is wrong joins what is wanted.
func (m *mending) gather(ctx context.Context, k int) bool {
	have := 0
	var good []int
	for _, i := range m.good {
		s, name := m.v.run.sites[i], m.ref.Shares[i]
		if have == k || !s.up() {
			good = append(good, i)
			continue
		}
		data, err := s.Objects.Get(ctx, name, nil)
		if ctx.Err() != nil {
			return false
		}
		what := ""
		switch {
		case errors.Is(err, fs.ErrNotExist):
			what = "missing"
		case err != nil:
			s.strike(fmt.Errorf("reading object %s: %w", name, err))
			m.v.run.faults.add(Fault{s.Name, name.String(), err.Error()})
			continue
		case len(data) != shard.Size(m.ref.Class.Size(), k):
			what = "wrong size"
		case shard.HashAndUnmask(s.mask, m.ref.ID, i, data) != name:
			what = "wrong bytes"
		}
		if what != "" {
			m.v.run.faults.add(Fault{s.Name, name.String(), what})
			m.want = append(m.want, i)
			continue
		}
		m.shares[i] = data
		have++
		good = append(good, i)
	}
	m.good = good
	return have == k
}
