package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/pack"
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
// not but k do, lost when fewer than k do.
type VerifyReport struct {
	Snapshots uint64  `json:"snapshots"`
	Packs     int     `json:"packs"`
	Objects   int     `json:"objects"`
	Bytes     int64   `json:"bytes_read"`
	Thin      int     `json:"packs_thin"`
	Lost      int     `json:"packs_lost"`
	Chunks    int     `json:"chunks_opened"`
	Repaired  int     `json:"objects_repaired"`
	Faults    []Fault `json:"faults,omitempty"`
	Down      []Down  `json:"embassies_down,omitempty"`
}

// Verify checks a register at every embassy that answers. It returns ErrDamaged with the report when a pack is lost.
func Verify(ctx context.Context, reg *Register, agent *Agent, opts VerifyOptions, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(r *run, v *verifier) error {
		v.opts = opts
		if err := r.index.Verify(); err != nil {
			return err
		}
		return v.packs(ctx, v.check)
	})
}

// Repair makes every share that an embassy lacks or holds damaged out of k others, with no key that opens, and gives
// embassies the heads they lack.
func Repair(ctx context.Context, reg *Register, agent *Agent, progress *Progress) (*VerifyReport, error) {
	return examine(ctx, reg, agent, progress, func(r *run, v *verifier) error {
		v.opts = VerifyOptions{Read: true}
		if err := v.packs(ctx, func(ctx context.Context, batch []snapshot.PackRef) error {
			return v.repair(ctx, batch)
		}); err != nil {
			return err
		}
		return r.publish(ctx)
	})
}

func examine(ctx context.Context, reg *Register, agent *Agent, progress *Progress, work func(*run, *verifier) error) (*VerifyReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	r, err := openRun(ctx, reg, agent, reg.sites(), false)
	if err != nil {
		return nil, err
	}
	defer r.close()
	v := &verifier{run: r, progress: progress, rep: &VerifyReport{Snapshots: r.history.last}}
	for i, s := range r.sites {
		if lag := r.history.lag[i]; s.up() && lag < r.history.last {
			r.faults.add(Fault{s.Name, fmt.Sprintf("head %d", lag+1), "missing"})
		}
	}
	err = work(r, v)
	v.rep.Faults, v.rep.Down = r.faults.all(), downs(r.sites)
	if err == nil && v.rep.Lost > 0 {
		err = fmt.Errorf("%w: %d of %d packs", ErrDamaged, v.rep.Lost, v.rep.Packs)
	}
	return v.rep, err
}

// verifier goes through a register's packs in batches.
type verifier struct {
	run      *run
	opts     VerifyOptions
	progress *Progress
	mu       sync.Mutex
	rep      *VerifyReport
}

// verifyBatch is how many packs are looked at together.
const verifyBatch = 512

// packs calls work for every pack of the register, index packs included.
func (v *verifier) packs(ctx context.Context, work func(context.Context, []snapshot.PackRef) error) error {
	var batch []snapshot.PackRef
	add := func(ref snapshot.PackRef) error {
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
		for _, ref := range head.Index {
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
	good, objects := 0, 0
	for i, s := range v.run.sites {
		if !s.up() || bad[i][ref.Shares[i]] {
			continue
		}
		if v.opts.Data && !v.fetchShare(ctx, u, s, ref) {
			continue
		}
		objects++
		good++
	}
	opens := true
	chunks := 0
	if v.opts.Key != nil && good >= int(ref.K) {
		n, err := u.open(ctx, ref)
		if chunks = n; err != nil && ctx.Err() == nil {
			opens = false
			v.run.faults.add(Fault{"", ref.ID.String(), err.Error()})
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Packs++
	v.rep.Objects += objects
	v.rep.Chunks += chunks
	switch {
	case good < int(ref.K) || !opens:
		v.rep.Lost++
	case good < int(ref.N):
		v.rep.Thin++
	}
}

// fetchShare gets one object and holds it against its name.
func (v *verifier) fetchShare(ctx context.Context, u *packOpener, s *site, ref *snapshot.PackRef) bool {
	name := ref.Shares[s.share]
	data, err := s.Objects.Get(ctx, name, u.share[:0])
	u.share = data[:0]
	what := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		what = "missing"
	case err != nil:
		what = err.Error()
	case shard.Root(data) != name:
		what = "wrong bytes"
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

// packOpener opens packs to hold their chunks against their ids.
type packOpener struct {
	fetcher *fetcher
	buffers buffers
	share   []byte
	raw     []byte
	hasher  *chunk.Hasher
	unpress *pack.Decompressor
}

func (v *verifier) newOpener() *packOpener {
	f := &fetcher{reg: v.run.reg, sites: v.run.sites, faults: v.run.faults}
	if v.opts.Key != nil {
		f.opener = pack.NewOpener(v.opts.Key)
	}
	return &packOpener{fetcher: f, hasher: v.run.reg.IDKey.NewHasher(), unpress: pack.NewDecompressor()}
}

func (u *packOpener) open(ctx context.Context, ref *snapshot.PackRef) (int, error) {
	if ref.Kind == pack.Index {
		_, err := u.fetcher.indexPack(ctx, &u.buffers, ref)
		return 0, err
	}
	payload, err := u.fetcher.open(ctx, &u.buffers, ref)
	if err != nil {
		return 0, err
	}
	entries, err := pack.ParseFooter(payload)
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		if cap(u.raw) < int(e.Raw) {
			u.raw = make([]byte, 0, max(int(e.Raw), chunk.Max))
		}
		if _, err := plain(u.hasher, u.unpress, u.raw, payload, e); err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// repair makes what the sites lack of a batch.
func (v *verifier) repair(ctx context.Context, batch []snapshot.PackRef) error {
	bad := v.lacking(ctx, batch)
	made := make([][]shard.Name, len(v.run.sites))
	for j := range batch {
		ref := &batch[j]
		v.rep.Packs++
		var want []int
		good := 0
		for i, s := range v.run.sites {
			switch {
			case !s.up():
			case bad[i][ref.Shares[i]]:
				want = append(want, i)
			default:
				good++
			}
		}
		v.rep.Objects += good
		if good < int(ref.K) {
			v.rep.Lost++
			continue
		}
		done := 0
		if len(want) > 0 {
			done = v.repairPack(ctx, ref, want, bad, made)
		}
		if good+done < int(ref.N) {
			v.rep.Thin++
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for i, names := range made {
		if len(names) == 0 || !v.run.sites[i].up() {
			continue
		}
		if _, err := v.run.sites[i].Records.Receipts(ctx, names, nil); err != nil {
			v.run.sites[i].fail(fmt.Errorf("receipts of repaired objects: %w", err))
			continue
		}
		v.rep.Repaired += len(names)
	}
	return nil
}

// repairPack makes some shares of one pack out of k others, each held against its name first, and sends them.
func (v *verifier) repairPack(ctx context.Context, ref *snapshot.PackRef, want []int, bad []map[shard.Name]bool, made [][]shard.Name) int {
	k, n := int(ref.K), int(ref.N)
	size := shard.Size(ref.Class.Size(), k)
	parts := make([][]byte, n)
	have := 0
	for i, s := range v.run.sites {
		if have == k || !s.up() || bad[i][ref.Shares[i]] {
			continue
		}
		data, err := s.Objects.Get(ctx, ref.Shares[i], make([]byte, 0, size))
		if err != nil || len(data) != size || shard.HashAndUnmask(s.mask, ref.ID, i, data) != ref.Shares[i] {
			v.run.faults.add(Fault{s.Name, ref.Shares[i].String(), "wrong bytes"})
			continue
		}
		parts[i] = data
		have++
	}
	if have < k {
		return 0
	}
	coder, err := shard.NewCoder(k, n)
	if err != nil {
		return 0
	}
	sealed, err := coder.Join(make([]byte, 0, n*size), parts, ref.Class.Size())
	if err != nil {
		return 0
	}
	if parts, err = coder.Split(sealed, sealed); err != nil {
		return 0
	}
	done := 0
	for _, i := range want {
		s := v.run.sites[i]
		if name := shard.MaskAndHash(s.mask, ref.ID, i, parts[i]); name != ref.Shares[i] {
			v.run.faults.add(Fault{"", ref.ID.String(), "its shares do not make the share that its head names"})
			return done
		}
		if err := s.Objects.Repair(ctx, ref.Shares[i], parts[i]); err != nil {
			s.fail(fmt.Errorf("repairing object %s: %w", ref.Shares[i], err))
			continue
		}
		made[i] = append(made[i], ref.Shares[i])
		v.progress.Stored.Add(int64(size))
		done++
	}
	return done
}
