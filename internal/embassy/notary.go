package embassy

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// pace is how a notary goes about it; tests are quicker.
type pace struct {
	refresh time.Duration // after which a tree that did not grow is cosigned again
	ask     time.Duration // for one answer of a witness
	least   time.Duration // between two checkpoints that are sent out
	most    time.Duration // that a checkpoint is waited for while it lacks cosignatures
	first   time.Duration // pause after a failure; it doubles
	last    time.Duration // and ends here
	look    time.Duration // between two looks for the ledger's next checkpoint
}

func defaultPace() pace {
	return pace{
		refresh: 10 * time.Minute, ask: 15 * time.Second, least: 200 * time.Millisecond, most: 2 * time.Second,
		first: 250 * time.Millisecond, last: 10 * time.Second, look: 10 * time.Millisecond,
	}
}

// notary has the checkpoints of one ledger cosigned. It is told of every leaf,
// waits for nothing that writes, and while nothing grows it does nothing for ten
// minutes at a time. One goroutine decides; each question to a witness has one
// of its own, at most one per witness.
type notary struct {
	state    charter.StateID
	key      ed25519.PrivateKey
	pair     *pair
	origin   string
	verifier note.Verifier
	journal  *journal
	file     string
	clock    *witnessed
	log      *slog.Logger
	now      func() time.Time
	pace     pace

	want    atomic.Uint64 // leaves that are to be cosigned
	hurry   atomic.Int64  // see hurries
	wake    chan struct{}
	results chan result

	keeping sync.Mutex // one merge at a time, its file included

	voting sync.Mutex
	voted  uint64    // the largest tree that the second key signed, as far as known
	signed time.Time // when it signed last; never falling

	mu      sync.Mutex
	policy  *ledger.Policy   // nil: the charter has none that holds
	self    ledger.Log       // Origin "" while the charter does not name this embassy
	second  *ledger.Cosigner // the other half of this embassy's own vote; nil where the charter asks for none
	held    []ledger.Checkpoint
	newest  kept
	grown   chan struct{} // closed when newest changes
	next    *charter.Charter
	refused map[string]Refused

	// What follows is run's own.
	targets []*target
	current ledger.Checkpoint
	moved   time.Time // when current became it
	lookAt  time.Time
	misses  int // looks in vain
}

// kept is the newest checkpoint with enough cosignatures.
type kept struct {
	raw  []byte
	size uint64
	time time.Time // see ledger.Verdict
}

func newNotary(st *state, keys *pair) (*notary, error) {
	n := &notary{
		state: st.id, key: keys.key, pair: keys, origin: st.journal.origin, verifier: st.journal.verifier, journal: st.journal,
		file: filepath.Join(st.dir, "cosigned"), clock: st.clock, log: st.log, now: st.opts.now, pace: st.opts.pace,
		wake: make(chan struct{}, 1), results: make(chan result),
		grown: make(chan struct{}), refused: make(map[string]Refused),
	}
	size, err := st.journal.size(context.Background())
	if err != nil {
		return nil, err
	}
	n.want.Store(size)
	n.hurry.Store(int64(n.pace.refresh))
	n.adopt(st.inForce().charter)
	n.recall()
	return n, nil
}

// appended says that the ledger has at least size leaves.
func (n *notary) appended(size uint64) {
	for {
		old := n.want.Load()
		if size <= old {
			return
		}
		if n.want.CompareAndSwap(old, size) {
			break
		}
	}
	n.rouse()
}

func (n *notary) rouse() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// adopt takes the policy of the charter in force; run then takes its witnesses.
func (n *notary) adopt(ch *charter.Charter) {
	policy, err := ch.Policy()
	if err != nil && len(ch.Embassies) > 0 {
		n.log.Warn("the charter's witness policy does not hold: no checkpoint is cosigned", "err", err)
	}
	if err != nil {
		policy = nil
	}
	var self ledger.Log
	if e, ok := ch.EmbassyByID(charter.EmbassyIDOf(publicOf(n.key))); ok {
		if self = e.Log(); self.Origin != n.origin { // a new ledger, which begins at the next start
			self = ledger.Log{}
		}
	}
	var second *ledger.Cosigner
	if cosigners, _ := n.pair.under(ch); len(cosigners) > 1 {
		second = cosigners[1]
	}
	n.mu.Lock()
	n.policy, n.self, n.second, n.next = policy, self, second, ch
	n.mu.Unlock()
	n.rouse()
}

// refresh is after how long a tree that did not grow is cosigned again.
func (n *notary) refresh() time.Duration {
	return min(n.pace.refresh, time.Duration(n.hurry.Load()))
}

// hurries makes the notary have its newest tree cosigned more often: somebody
// waits for witnessed time to go by. 0 is the usual pace.
func (n *notary) hurries(every time.Duration) {
	if every <= 0 {
		every = n.pace.refresh
	}
	if time.Duration(n.hurry.Swap(int64(every))) != every {
		n.rouse()
	}
}

// run works until ctx ends, and returns when every question has ended too.
func (n *notary) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			n.end()
			return
		case r := <-n.results:
			n.took(r)
		case <-n.wake:
		case <-timer.C:
		}
		timer.Reset(n.step(ctx))
	}
}

// end waits for the questions under way, whose context has ended.
func (n *notary) end() {
	for busy := true; busy; {
		busy = false
		for _, t := range n.targets {
			busy = busy || t.busy
		}
		if busy {
			r := <-n.results
			r.from.busy = false
		}
	}
	for _, t := range n.targets {
		t.close()
	}
}

// step does what is due and tells how long nothing else will be.
func (n *notary) step(ctx context.Context) time.Duration {
	n.mu.Lock()
	ch := n.next
	n.next = nil
	n.mu.Unlock()
	if ch != nil {
		n.retarget(ch)
		n.vote(n.current)
		n.reconsider()
	}
	now := n.now()
	wait := n.advance(ctx, now)
	for _, t := range n.targets {
		due, at := t.due(n.current, n.refresh())
		switch {
		case !due:
		case at.After(now):
			wait = min(wait, at.Sub(now))
		default:
			n.submit(ctx, t)
		}
	}
	return wait
}

// advance takes the ledger's newest checkpoint when one is due, and tells when
// to look again.
func (n *notary) advance(ctx context.Context, now time.Time) time.Duration {
	const idle = time.Hour
	want := n.want.Load()
	if want <= n.current.Size || want == 0 {
		return idle
	}
	if wait := n.hold(now); wait > 0 {
		return wait
	}
	if wait := n.lookAt.Sub(now); wait > 0 {
		return wait
	}
	cp, err := n.journal.checkpoint(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
		n.log.Error("notary", "err", err)
	}
	if err == nil && cp.Size > n.current.Size {
		n.current, n.moved, n.misses = cp, now, 0
		n.vote(cp)
	}
	if err == nil && cp.Size >= want {
		return idle
	}
	// Published about every 100 ms; slower only where the disk is.
	pause := min(n.pace.look<<min(n.misses/20, 6), time.Second)
	n.misses++
	n.lookAt = now.Add(pause)
	return pause
}

// hold tells how long the current checkpoint still is the one to be cosigned.
// Witnesses answer at their own pace, and only answers for the same checkpoint
// add up: a log that always grows must not outrun them all.
func (n *notary) hold(now time.Time) time.Duration {
	if n.moved.IsZero() {
		return 0
	}
	age := now.Sub(n.moved)
	if age < n.pace.least {
		return n.pace.least - age
	}
	n.mu.Lock()
	enough := n.newest.size >= n.current.Size
	n.mu.Unlock()
	if enough || age >= n.pace.most {
		return 0
	}
	for _, t := range n.targets {
		if t.busy && t.pause == 0 {
			return n.pace.most - age
		}
	}
	return 0
}
