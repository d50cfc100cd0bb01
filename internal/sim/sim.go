// Package sim is for tests: a state with embassies in memory that keep real ledgers, lie, fail and vanish on demand,
// and trees to back up. Everything that is random comes from a seed that a failing test prints.
//
// Nothing of it is ever written where a user's data is, so it promises nothing to old data.
package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/shard"
)

var (
	// ErrName is an object that is not what its name says.
	ErrName = errors.New("the bytes are not what the name says")
	// ErrConflict is a slot that holds other bytes already.
	ErrConflict = fmt.Errorf("the slot holds another record (%w)", fs.ErrExist)
	// ErrDown is an embassy that does not answer.
	ErrDown = errors.New("does not answer")
)

// Op names a call of an embassy.
type Op string

// The calls.
const (
	Put         Op = "put"
	Get         Op = "get"
	Check       Op = "check"
	Repair      Op = "repair"
	PutRecord   Op = "put record"
	PutRecords  Op = "put records"
	GetRecord   Op = "get record"
	ListRecords Op = "list records"
	Receipts    Op = "receipts"
)

// Call is one call on its way.
type Call struct {
	Embassy *Embassy
	Op      Op
	Name    shard.Name  // of one object
	Slot    ledger.Slot // of one record
	Size    int         // bytes sent
}

// Faults make an embassy fail. A nil function does nothing. They run without the embassy's lock and may change it.
type Faults struct {
	Before func(ctx context.Context, c *Call) error // an error here means that nothing took effect
	After  func(ctx context.Context, c *Call) error // an error here means that it took effect and nobody was told
	Answer func(c *Call, data []byte) []byte        // other bytes in answer to Get and GetRecord
	List   func(list []ledger.RecordInfo) []ledger.RecordInfo
}

// Embassy is one embassy in memory. It does what the real one does: it holds every object against its name, keeps a
// slot's first record, and proves with a receipt what is in its ledger.
type Embassy struct {
	Name   string
	ID     charter.EmbassyID
	State  [16]byte
	Forget bool // keep names only: for measuring a backup without the memory

	key      ed25519.PrivateKey
	origin   string
	verifier note.Verifier
	signer   note.Signer

	mu      sync.Mutex // guards what follows
	faults  Faults
	objects map[shard.Name][]byte
	places  map[shard.Name]int64 // in the ledger
	records map[ledger.Slot][]byte
	slots   map[ledger.Slot]int64
	orders  []standingOrder
	book    book
	counts  map[Op]int
	sent    int64
}

// NewEmbassy makes an empty embassy of a state.
func NewEmbassy(name string, state [16]byte, key ed25519.PrivateKey) (*Embassy, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	id := sha256.Sum256(pub)
	e := &Embassy{
		Name: name, ID: charter.EmbassyID(id[:16]), State: state, key: key, origin: ledger.Origin(state, pub),
		objects: map[shard.Name][]byte{}, places: map[shard.Name]int64{},
		records: map[ledger.Slot][]byte{}, slots: map[ledger.Slot]int64{}, counts: map[Op]int{},
	}
	var err error
	if e.signer, err = ledger.NewSigner(e.origin, key); err != nil {
		return nil, err
	}
	e.verifier, err = ledger.NewVerifier(e.origin, pub)
	return e, err
}

// Member is the embassy as the archive sees it.
func (e *Embassy) Member() register.Member {
	return register.Member{ID: e.ID, Name: e.Name, Objects: e, Records: e}
}

// enter counts a call and runs what makes it fail.
func (e *Embassy) enter(ctx context.Context, c *Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.Embassy = e
	e.mu.Lock()
	e.counts[c.Op]++
	before := e.faults.Before
	e.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, c)
}

func (e *Embassy) leave(ctx context.Context, c *Call) error {
	e.mu.Lock()
	after := e.faults.After
	e.mu.Unlock()
	if after == nil {
		return nil
	}
	return after(ctx, c)
}

func (e *Embassy) answer(c *Call, data []byte) []byte {
	e.mu.Lock()
	answer := e.faults.Answer
	e.mu.Unlock()
	if answer == nil {
		return data
	}
	return answer(c, bytes.Clone(data))
}

// Put is register.Objects.
func (e *Embassy) Put(ctx context.Context, name shard.Name, data []byte) error {
	c := &Call{Op: Put, Name: name, Size: len(data)}
	if err := e.enter(ctx, c); err != nil {
		return err
	}
	if err := e.store(name, data, false); err != nil {
		return err
	}
	return e.leave(ctx, c)
}

// Repair is register.Objects.
func (e *Embassy) Repair(ctx context.Context, name shard.Name, data []byte) error {
	c := &Call{Op: Repair, Name: name, Size: len(data)}
	if err := e.enter(ctx, c); err != nil {
		return err
	}
	if err := e.store(name, data, true); err != nil {
		return err
	}
	return e.leave(ctx, c)
}

func (e *Embassy) store(name shard.Name, data []byte, repair bool) error {
	if len(data) == 0 || len(data) > ledger.MaxObject {
		return fmt.Errorf("object of %d bytes", len(data))
	}
	if !e.Forget && shard.Root(data) != name {
		return ErrName
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent += int64(len(data))
	if _, there := e.objects[name]; !there || repair {
		e.objects[name] = nil
		if !e.Forget {
			e.objects[name] = bytes.Clone(data)
		}
	}
	if _, logged := e.places[name]; logged {
		return nil
	}
	l := ledger.NewLeaf(ledger.ObjectStored, e.State)
	l.Name, l.Size = name, uint64(len(data))
	at, err := e.log(&l)
	e.places[name] = at
	return err
}

// log appends a leaf to the ledger.
func (e *Embassy) log(l *ledger.Leaf) (int64, error) {
	b, err := l.Bytes()
	if err != nil {
		return 0, err
	}
	return e.book.add(b)
}

// Get is register.Objects.
func (e *Embassy) Get(ctx context.Context, name shard.Name, dst []byte) ([]byte, error) {
	c := &Call{Op: Get, Name: name}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	e.mu.Lock()
	data, ok := e.objects[name]
	e.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("object %s: %w", name, fs.ErrNotExist)
	}
	if err := e.leave(ctx, c); err != nil {
		return nil, err
	}
	return append(dst, e.answer(c, data)...), nil
}

// Check is register.Objects.
func (e *Embassy) Check(ctx context.Context, names []shard.Name, read bool) ([]register.Flaw, error) {
	c := &Call{Op: Check}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	var flaws []register.Flaw
	for _, n := range names {
		e.mu.Lock()
		data, ok := e.objects[n]
		e.mu.Unlock()
		switch {
		case !ok:
			flaws = append(flaws, register.Flaw{Name: n, What: register.Missing})
		case read && !e.Forget && shard.Root(data) != n:
			flaws = append(flaws, register.Flaw{Name: n, What: "damaged"})
		}
	}
	return flaws, e.leave(ctx, c)
}

// PutRecord is register.Records.
func (e *Embassy) PutRecord(ctx context.Context, slot ledger.Slot, data []byte) error {
	c := &Call{Op: PutRecord, Slot: slot, Size: len(data)}
	if err := e.enter(ctx, c); err != nil {
		return err
	}
	if err := e.storeRecord(slot, data); err != nil {
		return err
	}
	return e.leave(ctx, c)
}

// PutRecords is register.Records. Each record is a call of its own as well, in the middle of which the embassy may fail.
func (e *Embassy) PutRecords(ctx context.Context, first ledger.Slot, records [][]byte) (int, error) {
	c := &Call{Op: PutRecords, Slot: first}
	for _, data := range records {
		c.Size += len(data)
	}
	if err := e.enter(ctx, c); err != nil {
		return 0, err
	}
	for i, data := range records {
		slot := first
		slot.Sequence += uint64(i)
		if err := e.PutRecord(ctx, slot, data); err != nil {
			return i, err
		}
	}
	if err := e.leave(ctx, c); err != nil {
		return 0, err // all of it took effect
	}
	return len(records), nil
}

func (e *Embassy) storeRecord(slot ledger.Slot, data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if old, ok := e.records[slot]; ok {
		if !bytes.Equal(old, data) {
			return ErrConflict
		}
		return nil
	}
	l := ledger.NewLeaf(ledger.RecordStored, e.State)
	l.Name, l.Size, l.Slot = sha256.Sum256(data), uint64(len(data)), slot
	at, err := e.log(&l)
	if err != nil {
		return err
	}
	e.records[slot], e.slots[slot] = bytes.Clone(data), at
	return nil
}

// GetRecord is register.Records.
func (e *Embassy) GetRecord(ctx context.Context, slot ledger.Slot) ([]byte, error) {
	c := &Call{Op: GetRecord, Slot: slot}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	e.mu.Lock()
	data, ok := e.records[slot]
	e.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("record %d: %w", slot.Sequence, fs.ErrNotExist)
	}
	return bytes.Clone(e.answer(c, data)), e.leave(ctx, c)
}

// listPage is how many records one answer lists: few, so that tests see more than one page.
const listPage = 7

// ListRecords is register.Records.
func (e *Embassy) ListRecords(ctx context.Context, kind ledger.RecordKind, register [16]byte, after uint64) ([]ledger.RecordInfo, error) {
	c := &Call{Op: ListRecords}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	e.mu.Lock()
	var list []ledger.RecordInfo
	for s, data := range e.records {
		if s.Kind == kind && s.Register == register && s.Sequence > after {
			list = append(list, ledger.RecordInfo{Slot: s, Hash: sha256.Sum256(data), Size: uint64(len(data))})
		}
	}
	change := e.faults.List
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b ledger.RecordInfo) int { return int(int64(a.Slot.Sequence) - int64(b.Slot.Sequence)) })
	if change != nil {
		list = change(list)
	}
	return list[:min(len(list), listPage)], e.leave(ctx, c)
}

// Receipts is register.Records. It verifies what it gives, as a client does.
func (e *Embassy) Receipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot) ([]ledger.Receipt, error) {
	c := &Call{Op: Receipts}
	if err := e.enter(ctx, c); err != nil {
		return nil, err
	}
	out, err := e.prove(objects, slots)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if _, _, err := out[i].Verify(e.verifier); err != nil {
			return nil, err
		}
	}
	return out, e.leave(ctx, c)
}

func (e *Embassy) prove(objects []shard.Name, slots []ledger.Slot) ([]ledger.Receipt, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var at []int64
	for _, n := range objects {
		i, ok := e.places[n]
		if _, held := e.objects[n]; !ok || !held {
			return nil, fmt.Errorf("no receipt for object %s: %w", n, fs.ErrNotExist)
		}
		at = append(at, i)
	}
	for _, s := range slots {
		i, ok := e.slots[s]
		if !ok {
			return nil, fmt.Errorf("no receipt for record %d: %w", s.Sequence, fs.ErrNotExist)
		}
		at = append(at, i)
	}
	size := e.book.size()
	root, err := e.book.root(size)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", e.origin, size, base64.StdEncoding.EncodeToString(root[:]))
	checkpoint, err := note.Sign(&note.Note{Text: text}, e.signer)
	if err != nil {
		return nil, err
	}
	out := make([]ledger.Receipt, len(at))
	for i, n := range at {
		proof, err := e.book.path(n, size)
		if err != nil {
			return nil, err
		}
		out[i] = ledger.Receipt{Leaf: e.book.leaves[n], Index: uint64(n), Proof: proof, Checkpoint: checkpoint}
	}
	return out, nil
}
