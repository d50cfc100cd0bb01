package register

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// errSize is an object of another length than its pack's class makes it.
var errSize = errors.New("wrong size")

// ErrUnasked comes with ErrTooFew where embassies that have not answered for long were not asked once more, and could
// have what lacks. Who can do without the pack goes on; who cannot has them asked (Site.Again).
var ErrUnasked = errors.New("embassies that do not answer were not asked for theirs")

// errPadding is a share whose bytes behind the end of its pack are not zero.
var errPadding = errors.New("padding is not zero")

// hedge is how long a share may take before another embassy is asked as well.
const hedge = 4 * time.Second

// Fetcher gets packs from any k embassies and says which of them gave what they should not. It is safe for concurrent
// use, each call with buffers of its own.
//
// A share is not hashed on its way when all goes well: the pack authenticates every byte of itself, so hashing each
// share would be a second walk over the same bytes. Only when a pack does not open are its shares held against their
// names, which is what finds the embassy at fault.
type Fetcher struct {
	Register *Register
	Sites    Sites
	Opener   *pack.Opener // nil: index packs only
	Faults   *Faults      // takes what was given wrong
	coders   sync.Map     // [2]int{k, n} -> *shard.Coder
}

// Unreadable reports whether an error says that one thing cannot be had: it is damaged, or embassies that are down anyway may
// hold it. Whoever can do without goes on; any other error is of the work as a whole.
func Unreadable(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrUnasked) }

// Buffers are what one goroutine needs to fetch packs, used again for each. The zero value is ready.
type Buffers struct {
	sealed  []byte // k shares side by side
	joined  []byte // the pack, where its shares had to be joined
	spare   []byte // a share of no place in sealed
	payload []byte
}

// Keep leaves the payload that was opened last to the caller: the next one comes in memory of its own.
func (b *Buffers) Keep() { b.payload = nil }

// share is one embassy's answer, unmasked.
type share struct {
	number int
	data   []byte
	err    error
}

// Open returns the payload of a pack, in b's memory: the next call with it overwrites it. The error is ErrDamaged when too
// few good shares are left, and ErrTooFew when too few embassies answer to tell, with ErrUnasked where those were down before.
func (f *Fetcher) Open(ctx context.Context, b *Buffers, ref *snapshot.PackRef) ([]byte, error) {
	if len(ref.Shares) != len(f.Sites) || int(ref.N) != len(f.Sites) {
		return nil, fmt.Errorf("pack %s: made for %d embassies, the register has %d", ref.ID, ref.N, len(f.Sites))
	}
	try := f.newAttempt(ctx, b, ref)
	defer try.end()
	for {
		if err := try.gather(); err != nil {
			return nil, err
		}
		var payload []byte
		sealed, err := try.join()
		if err == nil {
			payload, err = f.unseal(b, ref, sealed)
		}
		if err == nil && try.padded() {
			return payload, nil
		}
		if err == nil {
			err = errPadding
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !try.discardBad() {
			return nil, fmt.Errorf("%w: pack %s: every share is what the agent stored, and together they do not open: %w",
				ErrDamaged, ref.ID, err)
		}
	}
}

func (f *Fetcher) unseal(b *Buffers, ref *snapshot.PackRef, sealed []byte) ([]byte, error) {
	if cap(b.payload) < ref.Class.Size() {
		b.payload = make([]byte, 0, ref.Class.Size())
	}
	m := f.Register.MetaOf(ref)
	if ref.Kind == pack.Index {
		return pack.OpenIndex(b.payload[:0], &f.Register.IndexKey, m, sealed)
	}
	if f.Opener == nil {
		return nil, errors.New("no key that opens")
	}
	return f.Opener.Open(b.payload[:0], m, sealed)
}

// attempt is the state of getting one pack.
type attempt struct {
	f     *Fetcher
	ctx   context.Context
	stop  context.CancelFunc
	b     *Buffers
	ref   *snapshot.PackRef
	size  int // of a share
	order []int
	tried int
	good  []share // at most k
	busy  int
	in    chan share

	silent int   // that did not answer now
	why    error // the last of them

	spared bool // the spare buffer is in use
}

func (f *Fetcher) newAttempt(ctx context.Context, b *Buffers, ref *snapshot.PackRef) *attempt {
	a := &attempt{f: f, b: b, ref: ref, size: shard.Size(ref.Class.Size(), int(ref.K)), in: make(chan share, len(f.Sites))}
	a.ctx, a.stop = context.WithCancel(ctx)
	if need := a.size * int(ref.K); cap(b.sealed) < need {
		b.sealed = make([]byte, need)
	}
	a.more()
	return a
}

// more adds the embassies that are up and were not when they were looked at last, if any: who reads beside this may have
// had those that failed asked once more (Site.Again), and none that was not asked is at fault.
func (a *attempt) more() bool {
	before := len(a.order)
	for _, s := range a.f.Sites { // shares of the pack's own bytes first: joining them is free
		if s.Up() && !slices.Contains(a.order, s.Share) {
			a.order = append(a.order, s.Share)
		}
	}
	return len(a.order) > before
}

// end stops who still answers and waits for it: an answer may be on its way into the buffer that is used next.
func (a *attempt) end() {
	a.stop()
	for ; a.busy > 0; a.busy-- {
		<-a.in
	}
}

// gather returns when k shares are at hand. Errors: ErrDamaged, or ErrTooFew when so many embassies are down.
func (a *attempt) gather() error {
	k := int(a.ref.K)
	timer := time.NewTimer(hedge)
	defer timer.Stop()
	for len(a.good) < k {
		for a.busy+len(a.good) < k && a.tried < len(a.order) {
			a.start()
		}
		if a.busy == 0 && a.more() {
			continue
		}
		if a.busy == 0 {
			if err := a.f.Sites.Enough(k); err != nil {
				return err
			}
			return a.short()
		}
		select {
		case s := <-a.in:
			a.busy--
			if a.ctx.Err() != nil {
				return context.Cause(a.ctx)
			}
			a.take(s)
		case <-timer.C:
			if a.tried < len(a.order) {
				a.start()
			}
			timer.Reset(hedge)
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
	}
	return nil
}

// short is the error where fewer than k shares are good.
func (a *attempt) short() error {
	k, unasked := int(a.ref.K), len(a.f.Sites)-len(a.order)
	silent := a.silent + unasked
	switch {
	case len(a.good)+silent < k || silent == 0:
		return fmt.Errorf("%w: pack %s: %d good shares of %d needed", ErrDamaged, a.ref.ID, len(a.good), k)
	case a.silent > 0:
		return fmt.Errorf("%w: pack %s: %d good shares of %d needed, and %d embassies did not answer: %w", ErrTooFew, a.ref.ID, len(a.good), k, silent, a.why)
	}
	return fmt.Errorf("%w: pack %s: %d good shares of %d needed, and %w", ErrTooFew, a.ref.ID, len(a.good), k, ErrUnasked)
}

// take sorts an answer.
func (a *attempt) take(s share) {
	site := a.f.Sites[s.number]
	switch {
	case errors.Is(s.err, fs.ErrNotExist):
		a.blame(s.number, Missing)
	case errors.Is(s.err, errSize):
		a.blame(s.number, "wrong size")
	case s.err != nil:
		a.blame(s.number, s.err.Error())
		a.silent, a.why = a.silent+1, s.err
		site.Strike(fmt.Errorf("reading object %s: %w", a.ref.Shares[s.number], s.err))
		return
	default:
		a.good = append(a.good, s)
	}
	site.Answered()
}

// start asks the next embassy. Shares of the pack's own bytes go straight to their place in the pack's buffer, every
// other one has memory of its own.
func (a *attempt) start() {
	n := a.order[a.tried]
	a.tried++
	a.busy++
	var dst []byte
	switch {
	case n < int(a.ref.K):
		dst = a.b.sealed[n*a.size : n*a.size : (n+1)*a.size]
	case !a.spared && cap(a.b.spare) >= a.size:
		dst, a.spared = a.b.spare[:0:a.size], true
	default:
		dst = make([]byte, 0, a.size)
		if !a.spared {
			a.b.spare, a.spared = dst, true
		}
	}
	go func() {
		s := a.f.Sites[n]
		data, err := s.Objects.Get(a.ctx, a.ref.Shares[n], dst)
		if err == nil && len(data) != a.size {
			err = errSize
		}
		if err == nil {
			shard.Mask(s.Mask, a.ref.ID, n, data)
		}
		a.in <- share{n, data, err}
	}()
}

func (a *attempt) blame(n int, what string) {
	a.f.Faults.Add(Fault{a.f.Sites[n].Name, a.ref.Shares[n].String(), what})
}

// join puts the shares together. Joining shares of the pack's own bytes costs nothing.
func (a *attempt) join() ([]byte, error) {
	k, n := int(a.ref.K), int(a.ref.N)
	inPlace := true
	parts := make([][]byte, n)
	for _, s := range a.good {
		parts[s.number] = s.data
		inPlace = inPlace && s.number < k && &s.data[0] == &a.b.sealed[:cap(a.b.sealed)][s.number*a.size]
	}
	if inPlace || k == 1 {
		if k == 1 {
			return a.good[0].data[:a.ref.Class.Size()], nil
		}
		return a.b.sealed[:a.ref.Class.Size()], nil
	}
	coder, err := a.f.coder(k, n)
	if err != nil {
		return nil, err
	}
	a.b.joined, err = coder.Join(a.b.joined, parts, a.ref.Class.Size())
	return a.b.joined, err
}

// coder returns the coder of k and n. It keeps what it found out about joining without some shares.
func (f *Fetcher) coder(k, n int) (*shard.Coder, error) {
	if c, ok := f.coders.Load([2]int{k, n}); ok {
		return c.(*shard.Coder), nil
	}
	c, err := shard.NewCoder(k, n)
	if err != nil {
		return nil, err
	}
	f.coders.Store([2]int{k, n}, c)
	return c, nil
}

// padded checks the few zero bytes that make the last share as long as the others: they are in no pack, so nothing
// else would find them changed.
func (a *attempt) padded() bool {
	last := int(a.ref.K) - 1
	pad := int(a.ref.K)*a.size - a.ref.Class.Size()
	for _, s := range a.good {
		if s.number != last {
			continue
		}
		for _, c := range s.data[a.size-pad:] {
			if c != 0 {
				return false
			}
		}
	}
	return true
}

// discardBad holds every share against its name, drops those that differ, and reports whether there was one.
func (a *attempt) discardBad() bool {
	var keep []share
	for _, s := range a.good {
		data := slices.Clone(s.data)
		shard.Mask(a.f.Sites[s.number].Mask, a.ref.ID, s.number, data)
		if shard.Root(data) == a.ref.Shares[s.number] {
			keep = append(keep, s)
			continue
		}
		a.blame(s.number, "wrong bytes")
	}
	bad := len(keep) < len(a.good)
	a.good = keep
	return bad
}
