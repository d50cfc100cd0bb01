package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/index"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// run is what every piece of work on a register needs: its history and index, up to date with the embassies.
type run struct {
	reg     *register.Register
	agent   *register.Agent
	sites   register.Sites
	history *history
	index   *index.Index
	numbers *numbering
	needed  *snapshot.References // by the snapshot that is being made
	orders  *removals            // what orders remove, or removed
	without *objectLists
	faults  *register.Faults
	// position is the source's, for the head that is being made; empty where the source has none.
	position []byte
	torn     error // why the index does not cover every head: an index pack is lost; nil where it does
	depth    depth
}

// depth is how far a run looks at a register's history.
type depth uint8

const (
	newest     depth = iota // ask embassies only for the end of the chain; a fork stops the run
	whole                   // ask for every head; a fork stops the run
	undisputed              // ask for every head; of a forked history take what was before
)

// batchChunks is how many chunks go into the index at once.
const batchChunks = 128 << 10

// openRun brings the local copy of a register's history and index up to date. The index is locked first: two runs on
// one folder would make two heads of one number.
func openRun(ctx context.Context, reg *register.Register, agent *register.Agent, sites register.Sites, d depth) (*run, error) {
	return openRunWithout(ctx, reg, agent, sites, d, nil)
}

// openRunWithout is openRun as it would be had an order removed the listed objects.
func openRunWithout(ctx context.Context, reg *register.Register, agent *register.Agent, sites register.Sites, d depth, without *objectLists) (*run, error) {
	if err := durable.MkdirAll(reg.Dir, 0o700); err != nil {
		return nil, err
	}
	ix, err := index.Open(filepath.Join(reg.Dir, "index"))
	if errors.Is(err, index.ErrDamaged) {
		ix, err = remakeIndex(filepath.Join(reg.Dir, "index"))
	}
	if err != nil {
		return nil, err
	}
	r := &run{reg: reg, agent: agent, sites: sites, index: ix, depth: d, orders: &removals{}, without: without}
	if r.numbers, err = openNumbering(reg.Dir); err != nil {
		r.close()
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *run) open(ctx context.Context) error {
	h, err := openHistory(r.reg, r.agent.Trusted)
	if err != nil {
		return err
	}
	r.history, r.faults = h, h.faults
	if err := h.sync(ctx, r.sites, r.reg.K, r.depth == newest); err != nil {
		return err
	}
	if h.fork > 0 && r.depth != undisputed {
		return h.forked
	}
	h.undisputed()
	if r.orders, err = gatherRemovals(ctx, r.reg, r.sites); err != nil {
		return err
	}
	if r.without != nil {
		r.orders.dropped = append(r.orders.dropped, r.without)
	}
	if r.depth == newest {
		return r.catchUp(ctx)
	}
	for i, s := range r.sites {
		if lag := h.lag[i]; s.Up() && lag < h.last {
			r.faults.Add(register.Fault{Embassy: s.Name, Object: fmt.Sprintf("head %d", lag+1), What: register.Missing})
		}
	}
	// Where a damaged block would only make a backup store a chunk again, it would make a reader take a chunk for lost.
	if err := r.index.Verify(); errors.Is(err, index.ErrDamaged) {
		err = r.index.Reset()
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return r.catchUp(ctx)
}

func (r *run) close() { r.index.Close() }

// catchUp reads the index packs of heads that the local index does not cover yet: none on the machine that made
// them, all on a new one. An index pack that is damaged beyond repair is noted, and the rest is read: what only it
// knows counts as not stored. The index then covers no head behind it, so that every run tries again. What an order
// removed is passed over.
func (r *run) catchUp(ctx context.Context) error {
	if err := r.forget(ctx); err != nil {
		return err
	}
	if r.index.Through() > r.history.last {
		if err := r.index.Reset(); err != nil {
			return err
		}
	}
	if r.numbers.through > r.history.last {
		r.numbers.reset()
	}
	c := catcher{
		run: r, f: &register.Fetcher{Register: r.reg, Sites: r.sites, Faults: r.faults},
		add: indexAdder{index: r.index}, covered: r.index.Through(),
	}
	start := min(c.covered, r.numbers.through) + 1
	if start <= r.history.last {
		if err := r.orders.loadGone(ctx, r.sites); err != nil {
			return err
		}
	}
	for seq := start; seq <= r.history.last; seq++ {
		if err := c.head(ctx, seq); err != nil {
			return err
		}
	}
	if err := c.add.flush(); err != nil {
		return err
	}
	if err := r.numbers.flush(); err != nil {
		return err
	}
	return r.orders.loadLeaving(ctx, r)
}

// unknown is the error of something that the index does not know. Where the index is not whole because embassies do not
// answer, they may know it.
func (r *run) unknown(what string) error {
	if errors.Is(r.torn, register.ErrUnasked) {
		return fmt.Errorf("%w: %s, as far as the others know, and %w", register.ErrTooFew, what, register.ErrUnasked)
	}
	return fmt.Errorf("%w: %s", register.ErrDamaged, what)
}

// catcher reads index packs into the local index and the numbering.
type catcher struct {
	run     *run
	f       *register.Fetcher
	b       register.Buffers
	add     indexAdder
	covered uint64 // heads that the index had before
	behind  bool   // a head's packs have no numbers yet, so later ones have none either
}

func (c *catcher) head(ctx context.Context, seq uint64) error {
	r := c.run
	head, err := r.history.head(seq)
	if err != nil {
		return err
	}
	var ids []pack.ID
	for i := range head.Index {
		ref := &head.Index[i]
		if r.orders.gone(ref) {
			continue
		}
		packs, err := readIndex(ctx, c.f, &c.b, ref)
		if register.Unreadable(err) {
			c.behind = true
			if seq > c.covered {
				r.torn = cmp.Or(r.torn, fmt.Errorf("index of snapshot %d: %w", seq, err))
				r.faults.Add(register.Fault{Object: ref.ID.String(), What: fmt.Sprintf("index of snapshot %d: %v", seq, err)})
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("index of snapshot %d: %w", seq, err)
		}
		for _, p := range packs {
			ids = append(ids, p.Ref.ID)
			if seq <= c.covered || r.orders.gone(&p.Ref) {
				continue
			}
			if err := c.add.pack(p); err != nil {
				return err
			}
		}
	}
	if r.torn == nil && seq > c.covered {
		c.add.through = seq
	}
	if c.behind || seq <= r.numbers.through {
		return nil
	}
	return r.numbers.add(head, ids)
}

// indexAdder adds packs to an index a batch at a time. A batch in the middle of a head does not move the index on.
type indexAdder struct {
	index   *index.Index
	through uint64 // the last head of which everything was given to pack
	batch   []snapshot.IndexedPack
	chunks  int
}

func (a *indexAdder) pack(p snapshot.IndexedPack) error {
	a.batch, a.chunks = append(a.batch, p), a.chunks+len(p.Entries)+8
	if a.chunks < batchChunks {
		return nil
	}
	return a.flush()
}

func (a *indexAdder) flush() error {
	through := max(a.through, a.index.Through())
	if len(a.batch) == 0 && through == a.index.Through() {
		return nil
	}
	err := a.index.Add(a.batch, through)
	a.batch, a.chunks = nil, 0
	return err
}

// readIndex returns what an index pack says.
func readIndex(ctx context.Context, f *register.Fetcher, b *register.Buffers, ref *snapshot.PackRef) ([]snapshot.IndexedPack, error) {
	payload, err := f.Open(ctx, b, ref)
	if err != nil {
		return nil, err
	}
	body, err := pack.UnpadPayload(payload)
	if err != nil {
		return nil, err
	}
	return snapshot.ParseIndex(body)
}
