// Package register is one register as n embassies hold it together, any k of which suffice: who they are and which of them
// answer, packs put together from their shares, what they gave wrong, what is signed for, and the repair of what one lacks.
//
// It promises nothing to old data by itself: packs, deliveries and heads are formats of other packages, each with its
// version. It knows an embassy only by the small interfaces below, and opens with the key that it is handed.
package register

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/chunk"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/pack"
	"chancery.dev/chancery/internal/seal"
	"chancery.dev/chancery/internal/shard"
	"chancery.dev/chancery/internal/snapshot"
)

// Errors a caller tells apart; the command line has an exit code for each.
var (
	// ErrTooFew means that fewer embassies answered than are needed.
	ErrTooFew = errors.New("too few embassies")
	// ErrDamaged means that more shares of something are lost or wrong than can be made good.
	ErrDamaged = errors.New("damaged beyond repair")
	// ErrForked means that two heads, or two records of a stream, claim one place in a register's history.
	ErrForked = errors.New("forked history")
)

// Objects is what an embassy is asked for shares. Implementations are safe for concurrent use and put a
// deadline on every call.
type Objects interface {
	// Put stores an object under its name and returns when it is durable and has its leaf in the ledger.
	Put(ctx context.Context, name shard.Name, data []byte) error
	// Get appends the object to dst. The bytes are as the embassy sent them: the caller checks them. An object that the
	// embassy does not hold is an error that wraps fs.ErrNotExist.
	Get(ctx context.Context, name shard.Name, dst []byte) ([]byte, error)
	// Check returns what is wrong with those of the named objects that the embassy does not hold as it should. With
	// read it reads every byte on its disk; without, it looks whether they are there.
	Check(ctx context.Context, names []shard.Name, read bool) ([]Flaw, error)
	// Repair is Put for an object that the embassy may hold damaged: the embassy reads its own copy first.
	Repair(ctx context.Context, name shard.Name, data []byte) error
}

// Flaw is an object that an embassy says it does not hold as it should.
type Flaw struct {
	Name shard.Name
	What string
}

// Records is what an embassy is asked for heads and other small documents, and for the receipts of everything.
type Records interface {
	// PutRecord stores a small document in its slot; other bytes in a taken slot are a conflict.
	PutRecord(ctx context.Context, slot ledger.Slot, data []byte) error
	// PutRecords is PutRecord for documents in slots that follow each other, from first on. It returns how many of them,
	// from the first on, are stored, and why the next is not: what became of those behind it is open. An embassy
	// takes none before those that come before it.
	PutRecords(ctx context.Context, first ledger.Slot, records [][]byte) (taken int, err error)
	// GetRecord returns the document in a slot.
	GetRecord(ctx context.Context, slot ledger.Slot) ([]byte, error)
	// ListRecords returns the slots of one kind of one register with a sequence above after, in order, a page at a time.
	ListRecords(ctx context.Context, kind ledger.RecordKind, register [16]byte, after uint64) ([]ledger.RecordInfo, error)
	// Receipts returns a verified proof of inclusion for every object and slot, or an error.
	Receipts(ctx context.Context, objects []shard.Name, slots []ledger.Slot) ([]ledger.Receipt, error)
}

// Member is one embassy that holds shares of a register; its place in Register.Members is the number of its share.
type Member struct {
	ID      charter.EmbassyID
	Name    string
	Objects Objects
	Records Records
	Ledger  Ledger // nil: what it lists is held against nothing
}

// Register is one register as whoever may write it knows it: no field opens a pack.
type Register struct {
	State    [16]byte
	ID       charter.RegisterID
	Name     string
	Epoch    uint32         // of the register key
	Public   seal.PublicKey // packs and heads are sealed to it
	IDKey    chunk.IDKey    // chunk ids
	GearKey  [32]byte       // where chunks are cut
	IndexKey seal.Key       // index packs
	MaskKey  shard.MaskKey  // masks of shares
	Members  []Member       // in the order of shares
	K        int            // shares needed
	Dir      string         // local folder: index, journal, heads; lost without harm
	Listed   int            // packs that one release lists at most; 0: as many as an order can name

	// StreamFrom returns the first stretch of the register's stream that a snapshot needs, by the position that its head
	// bears. Nil where the register has no stream.
	StreamFrom func(*snapshot.Head) (uint64, error)
}

// Agent signs heads, stretches and deliveries.
type Agent struct {
	Key           ed25519.PrivateKey
	CharterNumber uint64
	CharterHash   [32]byte
	Trusted       []ed25519.PublicKey // agents whose heads count
	Host          string
	Clock         func() time.Time // which snapshots claim; it decides alone which are of a moment that a reader asks for; nil: the machine's
}

// Now is what the agent's clock says.
func (a *Agent) Now() time.Time {
	if a.Clock == nil {
		return time.Now()
	}
	return a.Clock()
}

// Meta is the meaning that a new pack of the register is sealed with.
func (r *Register) Meta(kind pack.Kind, id pack.ID, class pack.Class) pack.Meta {
	return pack.Meta{
		State: r.State, Register: [16]byte(r.ID), Epoch: r.Epoch, Kind: kind, ID: id,
		K: uint8(r.K), N: uint8(len(r.Members)), Class: class,
	}
}

// MetaOf is the meaning that a pack named by ref must have been sealed with.
func (r *Register) MetaOf(ref *snapshot.PackRef) pack.Meta {
	return pack.Meta{
		State: r.State, Register: [16]byte(r.ID), Epoch: ref.Epoch, Kind: ref.Kind, ID: ref.ID,
		K: ref.K, N: ref.N, Class: ref.Class,
	}
}
