package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Snapshots calls yield for the head of every snapshot, oldest first. No key that opens is needed.
func Snapshots(ctx context.Context, reg *register.Register, agent *register.Agent, yield func(*snapshot.Head) error) error {
	h, err := openHistory(reg, agent.Trusted)
	if err != nil {
		return err
	}
	if err := h.sync(ctx, reg.Sites(), reg.K, false); err != nil {
		return err
	}
	for seq := uint64(1); seq <= h.last; seq++ {
		head, err := h.head(seq)
		if err != nil {
			return err
		}
		if err := yield(head); err != nil {
			return err
		}
	}
	return nil
}

// FindHead returns a snapshot's head by number, or the newest. No key that opens is needed.
func FindHead(ctx context.Context, reg *register.Register, agent *register.Agent, name string) (*snapshot.Head, error) {
	h, err := openHistory(reg, agent.Trusted)
	if err != nil {
		return nil, err
	}
	if err := h.sync(ctx, reg.Sites(), reg.K, false); err != nil {
		return nil, err
	}
	return h.find(name)
}

// Standing is how a register stands at its embassies.
type Standing struct {
	Snapshots uint64
	Newest    *snapshot.Head // nil when there is none
	Age       time.Duration  // of the newest
	Packs     int
	Sites     []SiteStanding
	Spare     int // embassies that may vanish now with every snapshot still whole; negative when something is lost
}

// SiteStanding is what one embassy holds of a register.
type SiteStanding struct {
	Embassy string
	Up      bool
	Why     string // when it is not up
	Missing int    // objects that it lacks
	Lag     uint64 // heads that it lacks
}

// Stand asks every embassy what it holds of a register, without reading anything and without a key that opens. With
// fewer than k embassies it reports what it knows and returns ErrTooFew.
func Stand(ctx context.Context, reg *register.Register, agent *register.Agent, now time.Time) (*Standing, error) {
	sites := reg.Sites()
	st := &Standing{}
	r, err := openRun(ctx, reg, agent, sites, whole)
	switch {
	case err == nil:
		defer r.close()
		err = r.stand(ctx, st, now)
	case errors.Is(err, register.ErrTooFew): // what is known here is better than nothing
		if h, herr := openHistory(reg, agent.Trusted); herr == nil {
			err = errors.Join(err, st.newest(h, now))
		}
	}
	for i, s := range sites {
		if i == len(st.Sites) {
			st.Sites = append(st.Sites, SiteStanding{Embassy: s.Name})
		}
		st.Sites[i].Up = s.Up()
		if why := s.Reason(); why != nil {
			st.Sites[i].Why = why.Error()
		}
	}
	return st, err
}

// newest fills in what the history says.
func (st *Standing) newest(h *history, now time.Time) error {
	if st.Snapshots = h.last; h.last == 0 {
		return nil
	}
	head, err := h.head(h.last)
	if err != nil {
		return err
	}
	st.Newest, st.Age = head, now.Sub(time.Unix(0, head.Time))
	return nil
}

func (r *run) stand(ctx context.Context, st *Standing, now time.Time) error {
	if err := st.newest(r.history, now); err != nil {
		return err
	}
	for i, s := range r.sites {
		st.Sites = append(st.Sites, SiteStanding{Embassy: s.Name, Lag: r.history.last - r.history.lag[i]})
	}
	st.Spare = len(r.sites.Up()) - r.reg.K
	v := newVerifier(r)
	return v.packs(ctx, func(ctx context.Context, batch []snapshot.PackRef) error {
		bad := v.Lacking(ctx, batch)
		for j := range batch {
			good := 0
			for i, s := range r.sites {
				switch {
				case !s.Up():
				case bad[i][batch[j].Shares[i]]:
					st.Sites[i].Missing++
				default:
					good++
				}
			}
			st.Spare = min(st.Spare, good-int(batch[j].K))
		}
		st.Packs += len(batch)
		return nil
	})
}

// Walk calls yield for every entry of a snapshot, folders before what is in them.
func (r *Reader) Walk(ctx context.Context, head *snapshot.Head, yield func(path string, e *snapshot.Entry) error) error {
	p, err := r.Payload(head)
	if err != nil {
		return err
	}
	return r.walk(ctx, "", &p.Root, yield)
}

func (r *Reader) walk(ctx context.Context, rel string, e *snapshot.Entry, yield func(string, *snapshot.Entry) error) error {
	for child, err := range r.List(ctx, e) {
		if err != nil {
			return err
		}
		path := join(rel, child.Name)
		if err := yield(path, &child); err != nil {
			return err
		}
		if child.Kind == snapshot.Dir {
			if err := r.walk(ctx, path, &child, yield); err != nil {
				return err
			}
		}
	}
	return nil
}

// Diff calls yield for every path that differs between two snapshots: "added", "removed", "changed" (content) or
// "attributes". Folders whose listings are stored once for both are the same and are not read.
func (r *Reader) Diff(ctx context.Context, from, to *snapshot.Head, yield func(path, what string) error) error {
	a, err := r.Payload(from)
	if err != nil {
		return err
	}
	b, err := r.Payload(to)
	if err != nil {
		return err
	}
	return r.diff(ctx, "", &a.Root, &b.Root, yield)
}

func (r *Reader) diff(ctx context.Context, rel string, a, b *snapshot.Entry, yield func(string, string) error) error {
	none := &snapshot.Entry{}
	if a == nil {
		a = none
	}
	if b == nil {
		b = none
	}
	for change, err := range snapshot.DiffListings(r.List(ctx, a), r.List(ctx, b)) {
		if err != nil {
			return err
		}
		if err := r.diffOne(ctx, join(rel, change.Name()), &change, yield); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) diffOne(ctx context.Context, path string, c *snapshot.Change, yield func(string, string) error) error {
	isDir := func(e *snapshot.Entry) bool { return e != nil && e.Kind == snapshot.Dir }
	what := map[snapshot.ChangeKind]string{
		snapshot.Added: "added", snapshot.Removed: "removed", snapshot.Content: "changed", snapshot.Metadata: "attributes",
	}[c.Kind]
	both := isDir(c.Before) && isDir(c.After)
	if both && c.Kind == snapshot.Content { // what differs is below; say the folder itself only when its attributes do
		x, y := *c.Before, *c.After
		x.Extents, y.Extents, x.Size, y.Size, x.Files, y.Files = nil, nil, 0, 0, 0, 0
		if snapshot.SameEntry(&x, &y) {
			what = ""
		} else {
			what = "attributes"
		}
	}
	if what != "" {
		if err := yield(path, what); err != nil {
			return err
		}
	}
	if c.Kind == snapshot.Metadata || !isDir(c.Before) && !isDir(c.After) {
		return nil
	}
	before, after := c.Before, c.After
	if !isDir(before) {
		before = nil
	}
	if !isDir(after) {
		after = nil
	}
	return r.diff(ctx, path, before, after, yield)
}

// lookup finds the entry of a path below a folder's; the path is without a leading "/".
func (r *Reader) lookup(ctx context.Context, from *snapshot.Entry, p string) (*snapshot.Entry, error) {
	e := from
	for name := range strings.SplitSeq(p, "/") {
		var next *snapshot.Entry
		if e.Kind == snapshot.Dir {
			for child, err := range r.List(ctx, e) {
				if err != nil {
					return nil, err
				}
				if child.Name == name {
					next = &child
					break
				}
			}
		}
		if next == nil {
			return nil, fmt.Errorf("%w: %q", ErrNoPath, p)
		}
		e = next
	}
	return e, nil
}

// ErrLarge means that a file is larger than whoever reads it into memory allows.
var ErrLarge = errors.New("larger than allowed")

// ReadFile returns a file of a snapshot of at most so many bytes: for the small files that tell what the others are.
// ErrNoPath where it is not there, ErrLarge beyond the bytes, ErrDamaged where it cannot be put together.
func (r *Reader) ReadFile(ctx context.Context, head *snapshot.Head, p string, most int) ([]byte, error) {
	payload, err := r.Payload(head)
	if err != nil {
		return nil, err
	}
	e, err := r.lookup(ctx, &payload.Root, p)
	if err != nil {
		return nil, err
	}
	if e.Kind != snapshot.File || e.Size > uint64(most) {
		return nil, fmt.Errorf("%q: %w", p, ErrLarge)
	}
	extents, err := r.extents(ctx, e)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, e.Size)
	for i := range extents {
		if x := &extents[i]; x.Hole {
			out = append(out, make([]byte, x.HoleLength)...)
			continue
		}
		raw, err := r.tree.read(ctx, &extents[i])
		if err != nil {
			return nil, err
		}
		out = append(out, raw...)
	}
	return out, nil
}
