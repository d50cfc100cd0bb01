package order

import (
	"fmt"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/ledger"
)

// Caps of a record.
const (
	MaxSignatures  = 256 << 10 // bytes of signatures
	MaxAttachments = 8
	maxWhy         = 512
)

// form is that of records and results.
var form = canon.Form{Depth: 4, Elements: 16, Pairs: 16}

// Record is how an order or a veto travels and is kept by an embassy, of which it is the record of kind order or veto:
//
//	CBOR array(4) [ version 1, document bytes, signatures bytes, attachments array of bytes(32) ]
//
// Signatures are armored SSH signatures, one after the other. Attachments are the SHA-256 of what travels beside it,
// in this order: of an order with lists, the list of the embassy that the record is for; of an order for a charter, that
// charter and then its signatures, in one file; otherwise nothing.
type Record struct {
	_           struct{} `cbor:",toarray"`
	Version     uint8
	Document    []byte
	Signatures  []byte
	Attachments [][32]byte
}

// NewRecord fills in the version.
func NewRecord(doc, sigs []byte, attachments ...[32]byte) *Record {
	return &Record{Version: Version, Document: doc, Signatures: sigs, Attachments: attachments}
}

// Bytes is the canonical encoding. It fails where [ParseRecord] would refuse it.
func (r *Record) Bytes() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return form.Encode(r)
}

// ParseRecord reads what [Record.Bytes] writes and nothing else; [ErrInvalid] otherwise. Neither document nor
// signatures are read yet.
func ParseRecord(data []byte) (*Record, error) {
	var r Record
	if err := form.Decode(data, ledger.MaxRecord, &r); err != nil {
		return nil, fmt.Errorf("order: record: %w: %w", ErrInvalid, err)
	}
	return &r, r.check()
}

func (r *Record) check() error {
	switch {
	case r.Version != Version:
		return invalid("record: version %d: this program knows version %d", r.Version, Version)
	case len(r.Document) < 1 || len(r.Document) > MaxSize:
		return invalid("record: document of %d bytes", len(r.Document))
	case len(r.Signatures) > MaxSignatures:
		return invalid("record: signatures of %d bytes", len(r.Signatures))
	case len(r.Attachments) > MaxAttachments:
		return invalid("record: %d attachments", len(r.Attachments))
	}
	return nil
}

// Outcome says what came of an order.
type Outcome uint8

// The outcomes of version 1. Numbers are never reused.
const (
	OutcomeDone    Outcome = 1
	OutcomeVetoed  Outcome = 2
	OutcomeExpired Outcome = 3 // logged too late
	OutcomeRefused Outcome = 4 // when its time came: too few people still counted, a hold, a retention
	OutcomePartial Outcome = 5 // done but for what Why says
)

// String is the outcome's word, or "unknown".
func (o Outcome) String() string {
	switch o {
	case OutcomeDone:
		return "done"
	case OutcomeVetoed:
		return "vetoed"
	case OutcomeExpired:
		return "expired"
	case OutcomeRefused:
		return "refused"
	case OutcomePartial:
		return "partly done"
	}
	return "unknown"
}

// Result is what came of an order at one embassy. It is the embassy's record of kind result, and ends the order there:
//
//	CBOR array(8) [ version 1, order bytes(32), outcome, objects, bytes freed, why text, begun, ended ]
//
// Nothing but the ledger signs it.
type Result struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Order   [32]byte // hash of the order
	Outcome Outcome
	Objects uint64 // that were removed
	Freed   uint64 // bytes of them together
	Why     string // one line for people, at most 512 bytes; empty only where it is done
	Begun   int64  // witnessed times in seconds since 1970 UTC: when it began to take effect,
	Ended   int64  // and the newest one when it was over
}

// NewResult fills in the version.
func NewResult(order [32]byte, outcome Outcome) *Result {
	return &Result{Version: Version, Order: order, Outcome: outcome}
}

// Bytes is the canonical encoding. It fails where [ParseResult] would refuse it.
func (r *Result) Bytes() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return form.Encode(r)
}

// ParseResult reads what [Result.Bytes] writes and nothing else; [ErrInvalid] otherwise.
func ParseResult(data []byte) (*Result, error) {
	var r Result
	if err := form.Decode(data, 4<<10, &r); err != nil {
		return nil, fmt.Errorf("order: result: %w: %w", ErrInvalid, err)
	}
	return &r, r.check()
}

func (r *Result) check() error {
	removed := r.Outcome == OutcomeDone || r.Outcome == OutcomePartial
	switch {
	case r.Version != Version:
		return invalid("result: version %d: this program knows version %d", r.Version, Version)
	case r.Outcome < OutcomeDone || r.Outcome > OutcomePartial:
		return invalid("result: outcome %d", r.Outcome)
	case r.Why == "" && r.Outcome != OutcomeDone || r.Why != "" && !canon.ValidText(r.Why, maxWhy):
		return invalid("result: why: want one line of at most %d bytes", maxWhy)
	case !removed && (r.Objects > 0 || r.Freed > 0):
		return invalid("result: nothing is removed where nothing is done")
	case r.Begun < 0 || r.Ended < r.Begun:
		return invalid("result: ended before it began")
	}
	return nil
}
