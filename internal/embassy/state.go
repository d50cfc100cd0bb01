package embassy

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
)

// charterInForce is replaced as a whole when the state changes its charter.
type charterInForce struct {
	charter *charter.Charter
	roster  *charter.Roster
	sig     []byte
}

// state is one state's part of the embassy: its folder, ledger and charter.
type state struct {
	id       charter.StateID
	dir      string
	opts     *Options
	log      *slog.Logger
	store    *store
	catalog  *catalog
	journal  *journal
	clock    *witnessed // these from watch on
	notary   *notary
	vigil    *vigil
	orders   *orders
	bound    bool // served under an agreement only
	compact  atomic.Pointer[compact]
	bringers chan struct{} // one token per order or veto at work
	scrub    *scrubber

	mu    sync.RWMutex
	force charterInForce

	changing sync.Mutex // one change of charter at a time
	behind   chan struct{}
	stop     chan struct{}
	unwatch  context.CancelFunc
	done     sync.WaitGroup
}

func openState(dir string, id charter.StateID, key ed25519.PrivateKey, opts *Options, b *blocks) (*state, error) {
	ch, sig, err := loadCharter(filepath.Join(dir, "charter"))
	if err != nil {
		return nil, err
	}
	if ch.State.ID != id {
		return nil, fmt.Errorf("embassy: %s holds the charter of state %s", dir, ch.State.ID)
	}
	st := &state{
		id: id, dir: dir, opts: opts, log: opts.Log.With("state", id.String()),
		force:  charterInForce{charter: ch, roster: ch.Roster(), sig: sig},
		behind: make(chan struct{}, 1),
		stop:   make(chan struct{}),
	}
	origin, renewed, err := st.turnPage(key)
	if err != nil {
		return nil, err
	}
	if st.store, err = openStore(dir, b); err != nil {
		return nil, err
	}
	if st.catalog, err = openCatalog(filepath.Join(dir, "catalog.db")); err != nil {
		return nil, errors.Join(err, st.store.close())
	}
	if st.journal, err = openJournal(filepath.Join(dir, ledgerFolder), origin, key); err != nil {
		return nil, errors.Join(err, st.catalog.close(), st.store.close())
	}
	st.catalog.read = st.journal.each
	if err := st.begin(publicOf(key), renewed); err != nil {
		return nil, errors.Join(err, st.journal.close(), st.catalog.close(), st.store.close())
	}
	return st, nil
}

// begin brings the catalogue up to the ledger, and the ledger up to the charter.
func (st *state) begin(actor ed25519.PublicKey, renewed bool) error {
	if err := st.catchUp(context.Background()); err != nil {
		return err
	}
	size, err := st.journal.size(context.Background())
	if err != nil {
		return err
	}
	if size == 0 {
		// The first leaf of every ledger is the charter that it began under.
		if err := st.logCharter(st.inForce().charter, actor); err != nil {
			return err
		}
	}
	if renewed {
		if err := st.enterAgain(actor); err != nil {
			return err
		}
	}
	st.done.Add(1)
	go st.follow()
	return nil
}

// watch begins what goes on beside the requests: having this ledger cosigned,
// cosigning the others', reading the disk.
func (st *state) watch(s *Server) error {
	size, err := st.journal.size(context.Background())
	if err != nil {
		return err
	}
	st.clock = openWitnessed(filepath.Join(st.dir, witnessedFile), st.journal.origin, size, st.log)
	if st.notary, err = newNotary(st, s.pair); err != nil {
		return err
	}
	if st.vigil, err = newVigil(st, s.pair); err != nil {
		return err
	}
	st.scrub = newScrubber(st, s.key, s)
	st.bringers = make(chan struct{}, ordersAtWork)
	st.orders = openOrders(st, s)
	if st.bound = s.settings.Version == bound; st.bound {
		if err := st.openCompact(s); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	st.unwatch = cancel
	st.done.Go(func() { st.notary.run(ctx) })
	st.done.Go(func() { st.vigil.run(ctx) })
	st.done.Go(func() { st.scrub.run(ctx) })
	st.done.Go(func() { st.orders.run(ctx) })
	return nil
}

// close ends the state's work; requests must have ended before.
func (st *state) close() error {
	if st.unwatch != nil {
		st.unwatch()
	}
	close(st.stop)
	st.done.Wait()
	if st.clock != nil {
		st.clock.close()
	}
	return errors.Join(st.journal.close(), st.catalog.close(), st.store.close())
}

// follow keeps the catalogue's file near the ledger until close.
func (st *state) follow() {
	defer st.done.Done()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-st.stop:
			return
		case <-st.behind:
		case <-tick.C:
		}
		if err := st.catchUp(context.Background()); err != nil {
			st.log.Error("catalogue does not follow the ledger", "err", err)
		}
	}
}

func (st *state) catchUp(ctx context.Context) error {
	size, err := st.journal.size(ctx)
	if err != nil {
		return err
	}
	return st.catalog.catchUp(ctx, size)
}

func (st *state) inForce() charterInForce {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.force
}

// act appends a leaf for what is already durable, and remembers it.
func (st *state) act(l *ledger.Leaf) (uint64, error) {
	indexes, err := st.actAll([]*ledger.Leaf{l})
	if err != nil {
		return 0, err
	}
	return indexes[0], nil
}

// actAll is act for several leaves, which go into the ledger in order: at an
// error, those whose indexes are returned are in it, and the others count as
// not.
func (st *state) actAll(leaves []*ledger.Leaf) (indexes []uint64, err error) {
	for _, l := range leaves {
		l.Time = max(0, st.opts.now().UnixNano())
	}
	indexes, err = st.journal.appendAll(leaves)
	behind := false
	for i, index := range indexes {
		behind = st.catalog.note(leaves[i], index) || behind
	}
	if behind {
		select {
		case st.behind <- struct{}{}:
		default:
		}
	}
	if st.notary != nil && len(indexes) > 0 {
		st.notary.appended(indexes[len(indexes)-1] + 1)
	}
	return indexes, err
}

// logCharter appends the leaf of a charter.
func (st *state) logCharter(ch *charter.Charter, actor ed25519.PublicKey) error {
	doc := ch.Bytes()
	l := ledger.NewLeaf(ledger.CharterTaken, st.id)
	l.Name, l.Size, l.Actor = sha256.Sum256(doc), uint64(len(doc)), [32]byte(actor)
	l.Slot = ledger.Slot{Kind: ledger.Charter, Sequence: ch.Number}
	_, err := st.act(&l)
	return err
}
