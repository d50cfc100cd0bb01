// Package ledger is the language of an embassy's append-only log: what one act
// looks like as a leaf, what a checkpoint says and who signed it, and how a
// receipt proves to anyone, offline, that an act is in the log. It verifies and
// encodes; it touches no file, network or clock.
//
// The log itself follows C2SP tlog-tiles, tlog-checkpoint and signed-note with
// RFC 6962 hashing. docs/spec/ledger.md draws the rest.
//
// Old data: leaves of version 1 are read for ever. A later version of a leaf
// gets a new number; this package refuses a number that it does not know, and
// never guesses.
package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// MaxLeaf caps the bytes of a leaf.
const MaxLeaf = 32 << 10

// Sizes that a leaf may speak of, in bytes.
const (
	MaxObject = 16 << 20
	MaxRecord = 1 << 20
)

const leafVersion = 1

// Errors that a caller tells apart.
var (
	// ErrFormat: bytes that are not the canonical form of what they should be.
	ErrFormat = errors.New("not in canonical form")
	// ErrUnknown: a version or kind that this program does not know.
	ErrUnknown = errors.New("unknown version or kind")
	// ErrSignature: the checkpoint is not signed by the key of this log.
	ErrSignature = errors.New("not signed by the log's key")
	// ErrProof: the proof does not lead to the checkpoint's root.
	ErrProof = errors.New("the proof does not hold")
	// ErrShorter: the newer checkpoint is of a smaller tree: a rollback.
	ErrShorter = errors.New("the log is shorter than it was")
	// ErrForked: two checkpoints of one log that no history can join.
	ErrForked = errors.New("the log shows two histories")
)

// LeafKind tells which act a leaf records. Numbers are never reused; 6 and up
// are kept for drills, entries, notices and outages. What people decide is a
// record: an order, a veto, a result.
type LeafKind uint8

// The acts of version 1.
const (
	ObjectStored LeafKind = 1 // Name is the object's Merkle root
	RecordStored LeafKind = 2 // Name is the record's SHA-256
	CharterTaken LeafKind = 3 // Name is the charter document's SHA-256
	// ObjectRemoved: Name and Size are those of the object's leaf; the slot's kind
	// is OrderRecord, its register the one that the object belonged to, and its
	// sequence that of the order that had it removed.
	ObjectRemoved LeafKind = 4
	// RecordRemoved: Name, Size and slot are those of the record's leaf. The slot
	// stays taken.
	RecordRemoved LeafKind = 5
)

// RecordKind tells what a record is.
type RecordKind uint8

// The kinds of records. Head is a snapshot's head, Register a register's public
// definition, Charter a charter document, DeliveryRecord a Delivery. Audit is an
// auditor's report; its slot's register is the id of the embassy audited. Scrub
// is what an embassy found on its own disks; its slot's register is zero. In both
// the sequence counts. The last three carry a random salt, so the leaf's hash of
// them tells nothing to who does not have them.
const (
	Head           RecordKind = 1
	Register       RecordKind = 2
	Charter        RecordKind = 3
	DeliveryRecord RecordKind = 4
	Audit          RecordKind = 5
	Scrub          RecordKind = 6
	// OrderRecord, VetoRecord and ResultRecord are an order as an embassy took it,
	// who stopped it, and what came of it. The sequence counts the embassy's
	// orders; the register is zero in all three.
	OrderRecord  RecordKind = 7
	VetoRecord   RecordKind = 8
	ResultRecord RecordKind = 9
	// AgreementRecord is the agreement under which the embassy serves; the
	// sequence is the agreement's number.
	AgreementRecord RecordKind = 10
	// AttestationRecord is a custodian's word that a share is destroyed; the
	// sequence is generation × 256 + x of the share.
	AttestationRecord RecordKind = 11
	// StretchRecord is a piece of a register's stream, GatheringRecord says that
	// some of them also stand together.
	StretchRecord   RecordKind = 12
	GatheringRecord RecordKind = 13
	// ProofRecord says that somebody tried whether a register comes back; what came of it is sealed.
	ProofRecord RecordKind = 14
	// CutRecord is a register's part of a moment that several registers have in common; all of it is sealed.
	CutRecord RecordKind = 15

	lastRecord = CutRecord
)

// ByAgents reports whether agents hand in records of this kind. The others are
// the embassy's own, or come by orders and agreements.
func (k RecordKind) ByAgents() bool {
	return k >= Head && k <= Audit || k >= AttestationRecord && k <= CutRecord
}

// String is the kind's word in paths, or "unknown".
func (k RecordKind) String() string {
	switch k {
	case Head:
		return "head"
	case Register:
		return "register"
	case Charter:
		return "charter"
	case DeliveryRecord:
		return "delivery"
	case Audit:
		return "audit"
	case Scrub:
		return "scrub"
	case OrderRecord:
		return "order"
	case VetoRecord:
		return "veto"
	case ResultRecord:
		return "result"
	case AgreementRecord:
		return "agreement"
	case AttestationRecord:
		return "attestation"
	case StretchRecord:
		return "stretch"
	case GatheringRecord:
		return "gathering"
	case ProofRecord:
		return "proof"
	case CutRecord:
		return "cut"
	}
	return "unknown"
}

// ParseRecordKind is the inverse of RecordKind.String; it fails with ErrUnknown.
func ParseRecordKind(s string) (RecordKind, error) {
	for k := Head; k <= lastRecord; k++ {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("ledger: record kind: %w", ErrUnknown)
}

// Slot is the place of one record: taken once, and never again by other bytes.
type Slot struct {
	_        struct{} `cbor:",toarray"`
	Kind     RecordKind
	Register [16]byte // zero for what belongs to no register
	Sequence uint64   // from 1
}

// RecordInfo tells what a slot holds. Size is in bytes.
type RecordInfo struct {
	Slot Slot
	Hash [32]byte // SHA-256 of the record
	Size uint64
}

// Leaf is one act of an embassy:
//
//	CBOR array(8) [ version 1, kind, state bytes(16), name bytes(32), size,
//	                array(3) [record kind, register bytes(16), sequence],
//	                time, actor bytes(32) ]
//
// in the core deterministic encoding of RFC 8949.
type Leaf struct {
	_       struct{} `cbor:",toarray"`
	Version uint8    // 1
	Kind    LeafKind
	State   [16]byte
	Name    [32]byte
	Size    uint64 // bytes of what was stored
	Slot    Slot   // zero for objects; zero register for charters
	Time    int64  // the embassy's clock, ns since 1970 UTC; claimed, not proven
	Actor   [32]byte
}

// NewLeaf fills in the version.
func NewLeaf(kind LeafKind, state [16]byte) Leaf {
	return Leaf{Version: leafVersion, Kind: kind, State: state}
}

// Bytes encodes the leaf. It fails where ParseLeaf would refuse the result.
func (l *Leaf) Bytes() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	return encode(l)
}

// ParseLeaf reads the canonical form and nothing else: ErrFormat or ErrUnknown.
func ParseLeaf(data []byte) (Leaf, error) {
	var l Leaf
	if err := decode(data, MaxLeaf, &l); err != nil {
		return Leaf{}, fmt.Errorf("ledger: leaf: %w", err)
	}
	if err := l.check(); err != nil {
		return Leaf{}, err
	}
	return l, nil
}

func (l *Leaf) check() error {
	if l.Version != leafVersion {
		return fmt.Errorf("ledger: leaf: version %d: %w", l.Version, ErrUnknown)
	}
	var ok bool
	switch l.Kind {
	case ObjectStored:
		ok = l.Slot == Slot{} && l.Size <= MaxObject
	case RecordStored:
		ok = goodSlot(l.Slot) && l.Size <= MaxRecord
	case CharterTaken:
		ok = l.Slot.Kind == Charter && l.Slot.Register == [16]byte{} && l.Slot.Sequence > 0 && l.Size <= MaxRecord
	case ObjectRemoved:
		ok = l.Slot.Kind == OrderRecord && l.Slot.Sequence > 0 && l.Size <= MaxObject
	case RecordRemoved:
		ok = goodSlot(l.Slot) && l.Size <= MaxRecord
	default:
		return fmt.Errorf("ledger: leaf: kind %d: %w", l.Kind, ErrUnknown)
	}
	if !ok || l.Size == 0 || l.Time < 0 {
		return fmt.Errorf("ledger: leaf: kind %d with impossible fields: %w", l.Kind, ErrFormat)
	}
	return nil
}

func goodSlot(s Slot) bool { return s.Kind >= Head && s.Kind <= lastRecord && s.Sequence > 0 }

// LeafHash is the RFC 6962 hash of a leaf's bytes: SHA-256(0x00 ‖ leaf).
func LeafHash(leaf []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(leaf)
	var out [32]byte
	h.Sum(out[:0])
	return out
}
