package embassy

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// Nothing is removed but by an order (see orders.go). First the leaf that says so
// is durable, then the file goes: a crash between the two leaves a file that
// nobody is shown any more, and the order, which is not through yet, comes by it
// again. An order is through only when no file of it can come back.

// removing is how many objects of an order go at once: enough to share the
// ledger's batches, few enough that those who write are not held up.
const removing = 64

// errErased: the register's own record was removed.
var errErased = &refusal{status: http.StatusGone, Code: codeRemoved, What: "register", Why: "it was erased by an order and takes nothing any more"}

// notHeld says that something is not there, and which order removed it where one did.
func notHeld(what string, removed bool, by uint64) *refusal {
	if !removed {
		return notFound(what)
	}
	why := "removed by an order"
	if by > 0 {
		why = "removed by order " + strconv.FormatUint(by, 10)
	}
	return &refusal{status: http.StatusNotFound, Code: codeRemoved, What: what, Why: why}
}

// takesRecords fails where the slot is of a register that was erased, or an
// attestation's that is not what stands there.
func (st *state) takesRecords(slot ledger.Slot, data []byte) error {
	if slot.Kind == ledger.AttestationRecord {
		return st.attests(slot, data)
	}
	if slot.Register == [16]byte{} {
		return nil
	}
	gone, err := st.catalog.isErased(slot.Register)
	if err == nil && gone {
		return errErased
	}
	return err
}

// checkHeld is store.check for what the catalogue says is held. What an order
// removed meanwhile is not damaged.
func (st *state) checkHeld(ctx context.Context, name shard.Name, size int64) (string, error) {
	what, err := st.store.check(ctx, name, size)
	if what == "" || err != nil {
		return what, err
	}
	_, held, err := st.catalog.object(name)
	if err != nil || !held {
		return "", err
	}
	return what, nil
}

// removal is what one order has removed.
type removal struct {
	st       *state
	actor    ed25519.PublicKey
	register [16]byte
	order    uint64 // its sequence
}

// removed counts what a removal did.
type removed struct{ objects, bytes uint64 }

// objects removes those of names that are held, and makes sure that no file of
// the others is left behind by an interrupted run. It may be called again for the
// same names. What it counts are all of them that this order removed, whenever.
func (r *removal) objects(ctx context.Context, names []shard.Name) (removed, error) {
	var mu sync.Mutex
	var total removed
	var failed error
	room := make(chan struct{}, removing)
	var all sync.WaitGroup
	for _, name := range names {
		mu.Lock()
		stop := failed != nil || ctx.Err() != nil
		mu.Unlock()
		if stop {
			break
		}
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			size, err := r.one(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && size > 0 {
				total.objects++
				total.bytes += size
			}
			failed = errors.Join(failed, err)
		})
	}
	all.Wait()
	if err := errors.Join(failed, ctx.Err()); err != nil {
		return removed{}, err
	}
	return total, r.settle(names)
}

// one removes an object; size is 0 where this order has nothing to do with it.
func (r *removal) one(ctx context.Context, name shard.Name) (size uint64, err error) {
	release, err := r.st.store.locks.take(ctx, name)
	if err != nil {
		return 0, err
	}
	defer release()
	at, ever, err := r.st.catalog.objectEver(name)
	if err != nil || !ever || (at.removed && at.by != r.order) {
		return 0, err
	}
	if !at.removed {
		if err := r.st.roomForLeaf(ctx); err != nil {
			return 0, err
		}
		l := ledger.NewLeaf(ledger.ObjectRemoved, r.st.id)
		l.Name, l.Size, l.Actor = name, at.size, [32]byte(r.actor)
		l.Slot = ledger.Slot{Kind: ledger.OrderRecord, Register: r.register, Sequence: r.order}
		if _, err := r.st.act(&l); err != nil {
			return 0, err
		}
	}
	// A crash before this leaves the file; see above.
	if err := os.Remove(r.st.store.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("embassy: remove: %w", err)
	}
	return at.size, nil
}

// roomForLeaf waits until the catalogue is near enough to the ledger.
func (st *state) roomForLeaf(ctx context.Context) error {
	for {
		err := st.catalog.room()
		if err == nil {
			return nil
		}
		select {
		case st.behind <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// settle makes it durable that the files are gone.
func (r *removal) settle(names []shard.Name) error {
	touched := make(map[string]bool)
	for _, name := range names {
		touched[filepath.Dir(r.st.store.path(name))] = true
	}
	for folder := range touched {
		if err := durable.SyncDir(folder); err != nil {
			return fmt.Errorf("embassy: remove: %w", err)
		}
	}
	return nil
}

// registerRecords removes a register's own records: from then on it takes none.
func (r *removal) registerRecords(ctx context.Context) error {
	release, err := r.st.store.locks.take(ctx, r.register)
	if err != nil {
		return err
	}
	defer release()
	if err := r.st.catchUp(ctx); err != nil {
		return err
	}
	var after uint64
	for {
		// What was removed before is not listed: its file went with it, or goes here.
		infos, err := r.st.catalog.listRecords(ledger.Register, r.register, after, maxSlotPage)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := r.record(ctx, info.Slot); err != nil {
				return err
			}
			after = info.Slot.Sequence
		}
		if len(infos) < maxSlotPage {
			break
		}
	}
	// The folder holds nothing but these records, and of an interrupted run perhaps
	// the files of some.
	folder := filepath.Dir(r.st.recordPath(ledger.Slot{Kind: ledger.Register, Register: r.register}))
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("embassy: remove: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("embassy: remove: %w", err)
	}
	return nil
}

func (r *removal) record(ctx context.Context, slot ledger.Slot) error {
	release, err := r.st.store.locks.take(ctx, slot)
	if err != nil {
		return err
	}
	defer release()
	at, ok, err := r.st.catalog.record(slot)
	if err != nil || !ok {
		return err
	}
	if err := r.st.roomForLeaf(ctx); err != nil {
		return err
	}
	l := ledger.NewLeaf(ledger.RecordRemoved, r.st.id)
	l.Name, l.Size, l.Slot, l.Actor = at.hash, at.size, slot, [32]byte(r.actor)
	_, err = r.st.act(&l)
	return err
}
