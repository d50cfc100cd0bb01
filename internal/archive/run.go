package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/index"
	"chancery.dev/chancery/internal/snapshot"
)

// run is what every piece of work on a register needs: its history and index, up to date with the embassies.
type run struct {
	reg     *Register
	agent   *Agent
	sites   []*site
	history *history
	index   *index.Index
	faults  *faults
	torn    bool // an index pack is lost: the index does not cover every head, and says so
}

// batchChunks is how many chunks go into the index at once.
const batchChunks = 128 << 10

// openRun brings the local copy of a register's history and index up to date. With quick, embassies are asked only
// for the newest heads. The index is locked first: two runs on one folder would make two heads of one number.
func openRun(ctx context.Context, reg *Register, agent *Agent, sites []*site, quick bool) (*run, error) {
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
	r := &run{reg: reg, agent: agent, sites: sites, index: ix}
	if err := r.open(ctx, quick); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *run) open(ctx context.Context, quick bool) error {
	h, err := openHistory(r.reg, r.agent.Trusted)
	if err != nil {
		return err
	}
	r.history, r.faults = h, h.faults
	if err := h.sync(ctx, r.sites, r.reg.K, quick); err != nil {
		return err
	}
	if quick {
		return r.catchUp(ctx)
	}
	for i, s := range r.sites {
		if lag := h.lag[i]; s.up() && lag < h.last {
			r.faults.add(Fault{s.Name, fmt.Sprintf("head %d", lag+1), "missing"})
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
// knows counts as not stored. The index then covers no head behind it, so that every run tries again.
func (r *run) catchUp(ctx context.Context) error {
	if r.index.Through() > r.history.last {
		if err := r.index.Reset(); err != nil {
			return err
		}
	}
	f := &fetcher{reg: r.reg, sites: r.sites, faults: r.faults}
	var b buffers
	add := indexAdder{index: r.index}
	for seq := r.index.Through() + 1; seq <= r.history.last; seq++ {
		head, err := r.history.head(seq)
		if err != nil {
			return err
		}
		for i := range head.Index {
			packs, err := f.indexPack(ctx, &b, &head.Index[i])
			if errors.Is(err, ErrDamaged) {
				r.torn = true
				r.faults.add(Fault{"", head.Index[i].ID.String(), fmt.Sprintf("index of snapshot %d: %v", seq, err)})
				continue
			}
			if err != nil {
				return fmt.Errorf("index of snapshot %d: %w", seq, err)
			}
			for _, p := range packs {
				if err := add.pack(p); err != nil {
					return err
				}
			}
		}
		if !r.torn {
			add.through = seq
		}
	}
	return add.flush()
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
