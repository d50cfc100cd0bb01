package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// needs collects the packs that the snapshot being made needs of those that earlier heads added: each of which a chunk
// was found, read or unchanged. It takes some forty bytes a pack.
type needs struct {
	mu    sync.RWMutex
	packs map[pack.ID]struct{}
}

func newNeeds() *needs { return &needs{packs: map[pack.ID]struct{}{}} }

func (n *needs) add(id pack.ID) {
	n.mu.RLock()
	_, there := n.packs[id]
	n.mu.RUnlock()
	if there {
		return
	}
	n.mu.Lock()
	n.packs[id] = struct{}{}
	n.mu.Unlock()
}

// numbers returns the set; the whole of what was before, where the number of one is not known.
func (n *needs) numbers(of *numbering, before uint64) (out snapshot.Numbers) {
	for id := range n.packs {
		number, ok := of.of[id]
		if !ok || uint64(number) >= before {
			out.Add(0, before)
			return out
		}
		out.Add(uint64(number), uint64(number)+1)
	}
	return out
}

// addedBefore returns how many packs of chunks the heads before a new one add.
func (r *run) addedBefore() (uint64, error) {
	total := r.numbers.total
	for seq := r.numbers.through + 1; seq <= r.history.last; seq++ {
		h, err := r.history.head(seq)
		if err != nil {
			return 0, err
		}
		total += addedBy(h)
	}
	return total, nil
}

// reference makes the references of the snapshot whose packs are in the writer's journal, and stores them unless they
// are what the head before says already: an unchanged tree then costs nothing.
func (r *run) reference(ctx context.Context, w *writer, m *moving) ([]snapshot.PackRef, error) {
	before, err := r.addedBefore()
	if err != nil {
		return nil, err
	}
	refs := &snapshot.References{Before: before, Own: uint64(w.known.packs)}
	if m != nil {
		refs.Needs, refs.Moved = m.needs, m.moved
	} else {
		refs.Needs = w.known.needs.numbers(r.numbers, before)
	}
	r.needed = refs
	if m == nil && !r.toldByLost(w.known.lost) && r.inherits(ctx, refs) {
		return nil, nil
	}
	body, err := refs.Bytes()
	if err != nil {
		return nil, err
	}
	ref, err := w.putIndex(body)
	return []snapshot.PackRef{ref}, err
}

// toldByLost tells whether what the newest snapshot needs is said by references that a verify found lost: the next one
// then says it again, whatever it needs.
func (r *run) toldByLost(lost lostPacks) bool {
	for seq := r.history.last; seq > 0 && len(lost) > 0; seq-- {
		h, err := r.history.head(seq)
		if err != nil || len(h.References) > 0 {
			return err == nil && lost[h.References[0].ID]
		}
	}
	return false
}

// inherits reports whether the head before needs the same packs, and says so or is the first.
func (r *run) inherits(ctx context.Context, refs *snapshot.References) bool {
	if r.history.last == 0 {
		return true
	}
	prev, err := r.history.head(r.history.last)
	if err != nil || prev.Version < 2 {
		return false
	}
	data, err := os.ReadFile(filepath.Join(r.reg.Dir, needsFile))
	const fixed = 2 * sha256.Size
	if err != nil || len(data) < fixed || [32]byte(data) != prev.Hash() || sha256.Sum256(data[fixed:]) != [32]byte(data[32:]) {
		old, ok := r.newestNeeds(ctx, refs.Before) // as on a new machine
		return ok && old.Equal(&refs.Needs)
	}
	old, err := snapshot.ParseReferences(data[fixed:], refs.Before, 0)
	return err == nil && old.Needs.Equal(&refs.Needs)
}

// newestNeeds reads at the embassies what the newest snapshot needs, its own packs included.
func (r *run) newestNeeds(ctx context.Context, total uint64) (out snapshot.Numbers, ok bool) {
	f := &register.Fetcher{Register: r.reg, Sites: r.sites, Faults: &register.Faults{}}
	before := total
	for seq := r.history.last; seq > 0; seq-- {
		h, err := r.history.head(seq)
		if err != nil || h.Version < 2 || addedBy(h) > before {
			return out, false
		}
		before -= addedBy(h)
		if len(h.References) == 0 {
			continue
		}
		refs, err := readReferences(ctx, f, &register.Buffers{}, h, before)
		if err != nil {
			return out, false
		}
		out = refs.Needs.Clone()
		break
	}
	out.Add(before, total)
	return out, true
}

// needsFile keeps what the newest snapshot needs, so that the next one can see whether it needs the same. Without it the
// next one says what it needs.
//
//	hash of the head (32) | SHA-256 of the rest (32) | references of an imagined head after it that adds nothing
const needsFile = "needs"

func (r *run) keepNeeds(head *snapshot.Head) error {
	all := &snapshot.References{Before: r.needed.Before + r.needed.Own, Needs: r.needed.Needs.Clone()}
	all.Needs.Add(r.needed.Before, all.Before)
	body, err := all.Bytes()
	if err != nil {
		return err
	}
	hash, sum := head.Hash(), sha256.Sum256(body)
	return durable.WriteFile(filepath.Join(r.reg.Dir, needsFile), append(append(hash[:], sum[:]...), body...), 0o600)
}

// ErrReferences means that it cannot be told which packs a snapshot needs, so none can be let go.
var ErrReferences = errors.New("what a snapshot needs cannot be read")

// readReferences opens the references of a head that has some.
func readReferences(ctx context.Context, f *register.Fetcher, b *register.Buffers, h *snapshot.Head, before uint64) (*snapshot.References, error) {
	refs, err := openReferences(ctx, f, b, h, before)
	switch {
	case err == nil || ctx.Err() != nil || errors.Is(err, register.ErrTooFew):
		return refs, err
	default:
		return nil, fmt.Errorf("%w: snapshot %d: %w", ErrReferences, h.Sequence, err)
	}
}

func openReferences(ctx context.Context, f *register.Fetcher, b *register.Buffers, h *snapshot.Head, before uint64) (*snapshot.References, error) {
	payload, err := f.Open(ctx, b, &h.References[0])
	if err != nil {
		return nil, err
	}
	body, err := pack.UnpadPayload(payload)
	if err != nil {
		return nil, err
	}
	return snapshot.ParseReferences(body, before, addedBy(h))
}

// withSum ends a text with a line of its hash.
func withSum(text string) []byte {
	return fmt.Appendf([]byte(text), "sum %x\n", sha256.Sum256([]byte(text)))
}

// cutSum takes that line off, and reports whether it is right.
func cutSum(data []byte) (string, bool) {
	const size = len("sum \n") + 2*sha256.Size
	if len(data) < size {
		return "", false
	}
	text := data[:len(data)-size]
	return string(text), string(withSum(string(text))) == string(data)
}
