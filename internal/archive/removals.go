package archive

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// ErrReleased means that a snapshot was released: an order removed what it needs.
var ErrReleased = errors.New("the snapshot was released")

// ErrLeaving means that an order to remove packs came while a backup that needs them was at work.
var ErrLeaving = errors.New("an order removes packs that this snapshot would need")

// Removal is an order to remove objects of a register, as one embassy holds it.
type Removal struct {
	ID        [32]byte // hash of the order
	Order     string   // how people name it
	Done      bool     // it took effect at this embassy; otherwise it waits
	Snapshots []uint64 // that it releases
}

// Removals is what Records may offer besides. Whoever implements it has checked that each order is signed by the quorum
// that may give it, and each list against its order: one embassy alone must not be able to make packs vanish from view.
type Removals interface {
	// Removals returns the orders that remove objects of a register: those that wait and those that took effect, none
	// that was vetoed or has expired.
	Removals(ctx context.Context, register [16]byte) ([]Removal, error)
	// Removed returns the objects that such an order removes at this embassy.
	Removed(ctx context.Context, order [32]byte) (ledger.ObjectList, error)
}

// leavingPacks are packs that an order removes, or will. A snapshot must not come to need them: a backup takes their
// chunks for unknown and stores them again.
type leavingPacks map[pack.ID]bool

// removals is what orders remove of a register.
type removals struct {
	orders  []removal
	dropped []*objectLists // of orders whose packs can no longer be put together; nil until loadGone
	loaded  bool
	leaving leavingPacks
}

// removal is one order over all embassies that answer.
type removal struct {
	Removal
	sites []int // that hold the order
	done  int   // of those, where it took effect
	gone  bool  // at so many that too few shares are left
	lists *objectLists
}

// objectLists are the lists of one order, by share; nil where that embassy did not give its.
type objectLists struct{ of []ledger.ObjectList }

func (l *objectLists) names(ref *snapshot.PackRef) bool {
	for i, list := range l.of {
		if i < len(ref.Shares) && list.Has(ref.Shares[i]) {
			return true
		}
	}
	return false
}

// gatherRemovals asks every site that is up. One that cannot tell is down: what it removes must not be guessed.
func gatherRemovals(ctx context.Context, reg *register.Register, sites register.Sites) (*removals, error) {
	answers := make([][]Removal, len(sites))
	var all sync.WaitGroup
	for i, s := range sites {
		source, ok := s.Records.(Removals)
		if !ok || !s.Up() {
			continue
		}
		all.Go(func() {
			var err error
			if answers[i], err = source.Removals(ctx, [16]byte(reg.ID)); err != nil {
				s.Fail(fmt.Errorf("listing orders: %w", err))
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := sites.Enough(reg.K); err != nil {
		return nil, err
	}
	found := map[[32]byte]*removal{}
	for i, list := range answers {
		for _, a := range list {
			o := found[a.ID]
			if o == nil {
				o = &removal{Removal: a}
				found[a.ID] = o
			}
			o.sites = append(o.sites, i)
			if a.Done {
				o.done++
			}
		}
	}
	out := &removals{}
	for _, o := range found {
		o.gone = len(sites)-o.done < reg.K
		out.orders = append(out.orders, *o)
	}
	slices.SortFunc(out.orders, func(a, b removal) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), slices.Compare(a.ID[:], b.ID[:]))
	})
	return out, nil
}

// load fetches the lists of an order.
func (o *removal) load(ctx context.Context, sites register.Sites) error {
	if o.lists != nil {
		return nil
	}
	lists := &objectLists{of: make([]ledger.ObjectList, len(sites))}
	got := false
	for _, i := range o.sites {
		source, ok := sites[i].Records.(Removals)
		if !ok || !sites[i].Up() {
			continue
		}
		list, err := source.Removed(ctx, o.ID)
		if err != nil {
			sites[i].Fail(fmt.Errorf("objects of %s: %w", o.Order, err))
			continue
		}
		lists.of[i], got = list, true
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !got {
		return fmt.Errorf("%w: which objects %s removes", register.ErrTooFew, o.Order)
	}
	o.lists = lists
	return nil
}

// loadGone fetches what gone needs to tell.
func (m *removals) loadGone(ctx context.Context, sites register.Sites) error {
	if m.loaded {
		return nil
	}
	for i := range m.orders {
		if o := &m.orders[i]; o.gone {
			if err := o.load(ctx, sites); err != nil {
				return err
			}
			m.dropped = append(m.dropped, o.lists)
		}
	}
	m.loaded = true
	return nil
}

// gone reports whether an order took a pack, so that it cannot be put together any more.
func (m *removals) gone(ref *snapshot.PackRef) bool {
	return slices.ContainsFunc(m.dropped, func(l *objectLists) bool { return l.names(ref) })
}

// parting reports whether an order removes a pack, or is about to: that it is missing is nobody's fault.
func (m *removals) parting(ref *snapshot.PackRef) bool {
	return slices.ContainsFunc(m.orders, func(o removal) bool { return o.lists != nil && o.lists.names(ref) })
}

// released returns the name of the order that released a snapshot.
func (m *removals) released(seq uint64) (string, bool) {
	for i := range m.orders {
		if o := &m.orders[i]; o.gone && slices.Contains(o.Snapshots, seq) {
			return o.Order, true
		}
	}
	return "", false
}

// loadLeaving finds the packs that orders will remove, those that home proposed and those that wait at embassies, even
// where home is new and knows nothing of them.
func (m *removals) loadLeaving(ctx context.Context, r *run) (err error) {
	if m.leaving, err = readLeaving(r.reg.Dir); err != nil {
		return err
	}
	var open []*removal
	for i := range m.orders {
		if o := &m.orders[i]; !o.gone {
			if err := o.load(ctx, r.sites); err != nil {
				return err
			}
			open = append(open, o)
		}
	}
	if len(open) == 0 {
		return nil
	}
	for ref := range r.index.Packs() {
		if slices.ContainsFunc(open, func(o *removal) bool { return o.lists.names(&ref) }) {
			m.leaving[ref.ID] = true
		}
	}
	return r.index.Err()
}

// goneFile lists the orders whose packs are out of the local index, in hexadecimal, one a line.
const goneFile = "gone"

// forget takes packs that orders removed out of the local index: it is made anew without them, so that a chunk that is
// in another pack too is found there. A crash before the last step has it made anew once more.
func (r *run) forget(ctx context.Context) error {
	path := filepath.Join(r.reg.Dir, goneFile)
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all []string
	fresh := false
	for i := range r.orders.orders {
		if o := &r.orders.orders[i]; o.gone {
			line := hex.EncodeToString(o.ID[:])
			all = append(all, line)
			fresh = fresh || !strings.Contains(string(raw), line)
		}
	}
	if r.depth != newest || fresh { // who checks or reads meets heads whose packs are gone
		if err := r.orders.loadGone(ctx, r.sites); err != nil {
			return err
		}
	}
	if !fresh {
		return nil
	}
	if r.index.Through() > 0 {
		if err := r.index.Reset(); err != nil {
			return err
		}
	}
	return durable.WriteFile(path, []byte(strings.Join(all, "\n")+"\n"), 0o600)
}

// stays fails when orders have come since the run began that remove what the new snapshot needs.
// With any it fails for every order that came.
func (r *run) stays(ctx context.Context, k *known, any bool) error {
	now, err := gatherRemovals(ctx, r.reg, r.sites)
	if err != nil {
		return err
	}
	for i := range now.orders {
		o := &now.orders[i]
		if slices.ContainsFunc(r.orders.orders, func(old removal) bool { return old.ID == o.ID }) {
			continue
		}
		if any {
			return fmt.Errorf("%w: %s", ErrLeaving, o.Order)
		}
		if err := o.load(ctx, r.sites); err != nil {
			return err
		}
		for id := range k.needs.packs {
			if ref, ok := k.committed.Pack(id); ok && o.lists.names(&ref) && !k.leaving[id] {
				return fmt.Errorf("%w: %s", ErrLeaving, o.Order)
			}
		}
	}
	return nil
}

// Released returns the snapshots that orders released, with the order of each, as the embassies tell. No key that opens is
// needed.
func Released(ctx context.Context, reg *register.Register) (map[uint64]string, error) {
	m, err := gatherRemovals(ctx, reg, reg.Sites())
	if err != nil {
		return nil, err
	}
	out := map[uint64]string{}
	for i := range m.orders {
		if o := &m.orders[i]; o.gone {
			for _, seq := range o.Snapshots {
				out[seq] = o.Order
			}
		}
	}
	return out, nil
}

// The folder "leaving" at home has a file for each release that was proposed, named by the release and written before
// anybody can sign an order: what is in it no later snapshot comes to need, whether or not an order follows. Where none
// does, some chunks are stored again, and nothing is lost.
//
//	"chancery leaving 1\n", then lines "pack ID", rising, then "sum HEX": SHA-256 of all before
const (
	leavingDir   = "leaving"
	leavingTitle = "chancery leaving 1\n"
)

func writeLeaving(dir, release string, packs leavingPacks) error {
	folder := filepath.Join(dir, leavingDir)
	if err := durable.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(leavingTitle)
	ids := slices.SortedFunc(maps.Keys(packs), func(a, b pack.ID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		fmt.Fprintf(&b, "pack %s\n", id)
	}
	return durable.WriteFile(filepath.Join(folder, release), withSum(b.String()), 0o600)
}

// readLeaving reads every file of the folder. One that is not whole stops the run: a backup that passed over it could
// make a snapshot need what an order removes.
func readLeaving(dir string) (leavingPacks, error) {
	out := leavingPacks{}
	folder := filepath.Join(dir, leavingDir)
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			continue
		}
		path := filepath.Join(folder, e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := out.parse(data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out, nil
}

var errLeaving = errors.New("not what was written: propose the same release again, or remove the file where no order of it waits")

func (l leavingPacks) parse(data []byte) error {
	text, ok := cutSum(data)
	if !ok || !strings.HasPrefix(text, leavingTitle) {
		return errLeaving
	}
	for line := range strings.Lines(text[len(leavingTitle):]) {
		raw, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "pack ")
		id, err := hex.DecodeString(raw)
		if !ok || err != nil || len(id) != len(pack.ID{}) {
			return errLeaving
		}
		l[pack.ID(id)] = true
	}
	return nil
}
