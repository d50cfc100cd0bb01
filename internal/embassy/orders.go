package embassy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// orders is what one state's people ordered at this embassy: taken when a quorum
// signed it, logged before anything comes of it, waited for in witnessed time,
// checked again when its time has come, done, and answered for by a result in the
// ledger. Everything it knows is read from those records at start, so that a crash
// at any point is gone on from, and nothing is done twice or without its record.
type orders struct {
	st   *state
	srv  *Server
	log  *slog.Logger
	wake chan struct{}

	readDelivery func(path string) ([]byte, error) // tests count and stop it

	// broken: a record of an order cannot be read. Then nothing is taken or done.
	broken error

	// deciding is held while an order or veto is taken, and when one takes effect:
	// a veto comes before the first thing that the order does, or too late.
	deciding sync.Mutex

	mu      sync.RWMutex
	book    order.Book
	all     []*ordered // all[i] has sequence i+1
	ended   int64      // of the newest result
	last    uint64     // its order
	unseen  []*ordered // of which a checkpoint is still to be kept
	effects atomic.Pointer[effects]
}

// ordered is one order as it stands. Its first part never changes.
type ordered struct {
	sequence uint64
	order    *order.Order
	sigs     []byte
	attached [][32]byte
	rule     charter.Act   // of the charter under which it was given
	cooling  time.Duration // and what it says of waiting
	leaf     uint64        // of its record

	// What follows changes under deciding and mu.
	veto    *order.Veto
	acting  bool      // it has begun to act, and is not asked again whether it may
	begun   int64     // when, in witnessed time
	moments moments   // of which a checkpoint is kept
	seen    time.Time // when the last had cosigned the one that is kept of its record
	result  *order.Result
	ended   uint64 // the result's leaf
}

// effects are the orders that are in effect for good or until another one. They
// are replaced as a whole.
type effects struct {
	holds     map[charter.RegisterID]map[string]bool
	suspended map[order.Who]bool
	allowed   map[[32]byte]allowance // by the hash of the register record that may be stored
}

// allowance is what an order allows a register's record to change.
type allowance struct {
	register charter.RegisterID
	reader   [32]byte // zero: anything; otherwise that this reader is added
}

// with returns the effects after one order more.
func (e *effects) with(o *order.Order) *effects {
	n := &effects{
		holds: make(map[charter.RegisterID]map[string]bool), suspended: make(map[order.Who]bool),
		allowed: make(map[[32]byte]allowance),
	}
	for register, names := range e.holds {
		n.holds[register] = make(map[string]bool)
		for name := range names {
			n.holds[register][name] = true
		}
	}
	for who := range e.suspended {
		n.suspended[who] = true
	}
	for hash, a := range e.allowed {
		n.allowed[hash] = a
	}
	c := &o.Content
	switch o.Kind {
	case charter.ActHold:
		if n.holds[c.Register] == nil {
			n.holds[c.Register] = make(map[string]bool)
		}
		n.holds[c.Register][c.Hold] = true
	case charter.ActLift:
		delete(n.holds[c.Register], c.Hold)
	case charter.ActSuspend:
		n.suspended[c.Who] = true
	case charter.ActRestore:
		delete(n.suspended, c.Who)
	case charter.ActGrant:
		n.allowed[c.Record] = allowance{c.Register, c.Recipient}
	case charter.ActRotate:
		for _, r := range c.Records {
			n.allowed[r.Hash] = allowance{register: r.Register}
		}
	}
	return n
}

// barred are the suspended people.
func (e *effects) barred() (names []string) {
	for who := range e.suspended {
		if !who.Agent {
			names = append(names, who.Name)
		}
	}
	slices.Sort(names)
	return names
}

// openOrders reads what was ordered before. The ledger and its catalogue are open.
func openOrders(st *state, srv *Server) *orders {
	b := &orders{st: st, srv: srv, log: st.log, wake: make(chan struct{}, 1), book: make(order.Book)}
	b.readDelivery = func(path string) ([]byte, error) { return readFile(path, maxRecord) }
	b.effects.Store(&effects{})
	if b.broken = b.load(); b.broken != nil {
		b.log.Error("what was ordered cannot be read: nothing is stored or done until it can", "err", b.broken)
	}
	return b
}

func (b *orders) load() error {
	if err := b.st.catchUp(context.Background()); err != nil {
		return err
	}
	for sequence := uint64(1); ; sequence++ {
		x, err := b.read(sequence)
		if err != nil {
			return fmt.Errorf("embassy: order %d: %w", sequence, err)
		}
		if x == nil {
			break
		}
		if _, err := b.book.Take(x.order); err != nil {
			return fmt.Errorf("embassy: order %d: %w", sequence, err)
		}
		b.all = append(b.all, x)
		b.recallSeen(x)
	}
	// What is in effect follows from the results, in their order.
	var done []*ordered
	for _, x := range b.all {
		if x.result != nil {
			done = append(done, x)
		}
	}
	slices.SortStableFunc(done, func(a, c *ordered) int {
		if a.result.Ended != c.result.Ended {
			return int(max(-1, min(1, a.result.Ended-c.result.Ended)))
		}
		return int(a.sequence) - int(c.sequence)
	})
	for _, x := range done {
		b.ended, b.last = x.result.Ended, x.sequence
		if x.result.Outcome == order.OutcomeDone {
			b.effects.Store(b.effects.Load().with(x.order))
		}
	}
	return nil
}

// read reads one order with its veto and result; nil where there is none.
func (b *orders) read(sequence uint64) (*ordered, error) {
	data, leaf, err := b.record(ledger.OrderRecord, sequence)
	if data == nil || err != nil {
		return nil, err
	}
	rec, err := order.ParseRecord(data)
	if err != nil {
		return nil, err
	}
	o, err := order.Parse(rec.Document)
	if err != nil {
		return nil, err
	}
	x := &ordered{sequence: sequence, order: o, sigs: rec.Signatures, attached: rec.Attachments, leaf: leaf}
	if err := b.ruled(x); err != nil {
		return nil, err
	}
	if data, _, err = b.record(ledger.VetoRecord, sequence); err != nil {
		return nil, err
	}
	if data != nil {
		rec, err := order.ParseRecord(data)
		if err == nil {
			x.veto, err = order.ParseVeto(rec.Document)
		}
		if err != nil {
			return nil, err
		}
	}
	if data, x.ended, err = b.record(ledger.ResultRecord, sequence); err != nil {
		return nil, err
	}
	if data != nil {
		x.result, err = order.ParseResult(data)
		return x, err
	}
	begun, err := readFile(b.actingFile(sequence), 64)
	if err == nil {
		x.acting = true
		x.begun, err = strconv.ParseInt(string(begun), 10, 64)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return x, nil
}

// record reads a record of orders; nil where there is none.
func (b *orders) record(kind ledger.RecordKind, sequence uint64) ([]byte, uint64, error) {
	slot := ledger.Slot{Kind: kind, Sequence: sequence}
	at, ok, err := b.st.catalog.record(slot)
	if err != nil || !ok {
		return nil, 0, err
	}
	data, err := readFile(b.st.recordPath(slot), maxRecord)
	if err != nil {
		return nil, 0, err
	}
	if sha256.Sum256(data) != at.hash {
		return nil, 0, errors.New("its record is damaged on the embassy's disk")
	}
	return data, at.index, nil
}

// ruled finds what the charter under which an order was given says of it.
func (b *orders) ruled(x *ordered) error {
	given, err := loadCharterNumber(filepath.Join(b.st.dir, "charter"), x.order.Charter)
	if err != nil {
		return err
	}
	a, err := order.Recheck(given, x.order, x.sigs, time.Time{}, nil)
	if err != nil {
		return err
	}
	x.rule, x.cooling = a.Rule, b.coolingOf(given, x, a.Rule)
	return nil
}

// coolingOf is how long a rule has an order wait. A charter that was signed by the
// successors waits as they must, whoever signed the order.
func (b *orders) coolingOf(c *charter.Charter, x *ordered, rule charter.Act) time.Duration {
	wait := rule.Cooling.Duration()
	if x.order.Kind != charter.ActCharter {
		return wait
	}
	next, sigs, err := b.charterOf(x)
	if err == nil && charter.BySuccession(c, next, sigs) {
		if _, err := c.Quorum(charter.ActCharter, charter.Namespace, next.Bytes(), sigs, time.Time{}); err != nil {
			wait = max(wait, c.Succession.After.Duration())
		}
	}
	return wait
}

func (b *orders) folder(sequence uint64) string {
	return filepath.Join(b.st.dir, "orders", strconv.FormatUint(sequence, 10))
}

func (b *orders) actingFile(sequence uint64) string {
	return filepath.Join(b.folder(sequence), "acting")
}

func (b *orders) attachmentFile(sequence uint64, hash [32]byte) string {
	return filepath.Join(b.folder(sequence), charter.EncodeDigest(hash))
}

// attachment reads what came with an order.
func (b *orders) attachment(x *ordered, n int) ([]byte, error) {
	if n >= len(x.attached) {
		return nil, fmt.Errorf("embassy: order %d has no attachment %d", x.sequence, n+1)
	}
	data, err := readFile(b.attachmentFile(x.sequence, x.attached[n]), MaxAttachment)
	if err == nil && sha256.Sum256(data) != x.attached[n] {
		err = fmt.Errorf("embassy: order %d: an attachment is damaged on the embassy's disk", x.sequence)
	}
	return data, err
}

// charterOf reads the charter that an order brings, and its signatures.
func (b *orders) charterOf(x *ordered) (*charter.Charter, []byte, error) {
	doc, err := b.attachment(x, 0)
	if err != nil {
		return nil, nil, err
	}
	sigs, err := b.attachment(x, 1)
	if err != nil {
		return nil, nil, err
	}
	next, err := charter.Parse(doc)
	return next, sigs, err
}

// rouse has the orders looked at.
func (b *orders) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// keepAttachments makes what came with an order durable. A crash after it leaves
// files of an order that was not taken; the next one of that sequence replaces them.
func (b *orders) keepAttachments(sequence uint64, attachments [][]byte) error {
	if len(attachments) == 0 {
		return nil
	}
	if err := durable.MkdirAll(b.folder(sequence), folderPerm); err != nil {
		return err
	}
	for _, a := range attachments {
		if err := durable.WriteFile(b.attachmentFile(sequence, sha256.Sum256(a)), a, filePerm); err != nil {
			return err
		}
	}
	return nil
}

// name is what the charter calls this embassy; empty where it does not.
func (b *orders) name(c *charter.Charter) string {
	e, _ := c.EmbassyByID(charter.EmbassyIDOf(publicOf(b.srv.key)))
	return e.Name
}
