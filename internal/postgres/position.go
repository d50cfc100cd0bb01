package postgres

import (
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/canon"
	"chancery.dev/chancery/internal/wal"
)

// form is what positions keep to.
var form = canon.Form{Depth: 4, Elements: 16, Pairs: 16}

// maxPosition caps a position in bytes.
const maxPosition = 512

// ErrPosition is wrapped by every refusal of a position.
var ErrPosition = errors.New("not a canonical position")

// Kind is what a stretch of a cluster's stream holds. The numbers are part of the format.
type Kind uint8

// The kinds of stretches.
const (
	KindLog     Kind = 1 + iota // bytes of the log
	KindHistory                 // the history file of a timeline, as the server gave it
)

// Position says what a stretch holds: the bytes of one timeline's log from Start up to End, or the history of a timeline.
// It is sealed before it leaves home. Specification: docs/spec/positions.md.
type Position struct {
	Kind     Kind
	System   uint64 // the cluster's system identifier
	Timeline wal.Timeline
	Segment  wal.SegmentSize
	Start    wal.LSN // log only, as is what follows
	End      wal.LSN
	Clock    int64    // until when, by the server's clock, everything committed is in the log up to End, nanoseconds since 1970; 0: not known
	Digest   [32]byte // SHA-256 of the log from the start of the segment that holds the byte before End, up to End
}

type wirePosition struct {
	Version  uint64 `cbor:"1,keyasint"`
	Kind     uint64 `cbor:"2,keyasint"`
	System   uint64 `cbor:"3,keyasint"`
	Timeline uint64 `cbor:"4,keyasint"`
	Segment  uint64 `cbor:"5,keyasint"`
	Start    uint64 `cbor:"6,keyasint"`
	End      uint64 `cbor:"7,keyasint"`
	Clock    int64  `cbor:"8,keyasint"`
	Digest   []byte `cbor:"9,keyasint"`
}

// check tells what a position cannot be.
func (p *Position) check() error {
	what := ""
	switch {
	case p.Kind != KindLog && p.Kind != KindHistory:
		what = "unknown kind"
	case p.System == 0 || p.Timeline == 0:
		what = "no system or timeline"
	case p.Segment.Check() != nil:
		what = "impossible segment size"
	case p.Kind == KindLog && p.Start >= p.End:
		what = "ends before it begins"
	case p.Kind == KindHistory && (p.Timeline == 1 || p.Start != 0 || p.End != 0 || p.Digest != [32]byte{}):
		what = "a history with fields of the log, or of the first timeline"
	}
	if what != "" {
		return fmt.Errorf("position: %s: %w", what, ErrPosition)
	}
	return nil
}

// Bytes returns the position's one encoding, deterministic CBOR. Errors wrap ErrPosition.
func (p *Position) Bytes() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return form.Encode(&wirePosition{
		1, uint64(p.Kind), p.System, uint64(p.Timeline), uint64(p.Segment), uint64(p.Start), uint64(p.End), p.Clock, p.Digest[:],
	})
}

// ParsePosition reads what Bytes wrote. Errors wrap ErrPosition.
func ParsePosition(b []byte) (Position, error) {
	var w wirePosition
	if err := form.Decode(b, maxPosition, &w); err != nil {
		return Position{}, fmt.Errorf("%w: %w", ErrPosition, err)
	}
	if w.Version != 1 || w.Kind > 255 || w.Timeline > 1<<32-1 || w.Segment > 1<<32-1 || len(w.Digest) != 32 {
		return Position{}, fmt.Errorf("position: another version, or a number too large: %w", ErrPosition)
	}
	p := Position{
		Kind: Kind(w.Kind), System: w.System, Timeline: wal.Timeline(w.Timeline), Segment: wal.SegmentSize(w.Segment),
		Start: wal.LSN(w.Start), End: wal.LSN(w.End), Clock: w.Clock, Digest: [32]byte(w.Digest),
	}
	return p, p.check()
}

// Base is what the head of a base backup says of its place in the log: recovery needs the log from Start, and gives
// nothing that can be used before End. It is sealed before it leaves home.
type Base struct {
	System   uint64
	Version  int // of the server, as in 180004
	Timeline wal.Timeline
	Segment  wal.SegmentSize
	Start    wal.LSN
	End      wal.LSN
	Clock    int64  // the server's clock after End, nanoseconds since 1970
	Stretch  uint64 // a stretch of the stream at or before Start; the first where all may be needed
}

type wireBase struct {
	Version  uint64 `cbor:"1,keyasint"`
	System   uint64 `cbor:"2,keyasint"`
	Server   uint64 `cbor:"3,keyasint"`
	Timeline uint64 `cbor:"4,keyasint"`
	Segment  uint64 `cbor:"5,keyasint"`
	Start    uint64 `cbor:"6,keyasint"`
	End      uint64 `cbor:"7,keyasint"`
	Clock    int64  `cbor:"8,keyasint"`
	Stretch  uint64 `cbor:"9,keyasint"`
}

func (b *Base) check() error {
	if b.System == 0 || b.Timeline == 0 || b.Segment.Check() != nil || b.Start == 0 || b.Start >= b.End || b.Stretch == 0 ||
		b.Version < 150000 || b.Version > 1<<30 {
		return fmt.Errorf("position of a base backup: a field that cannot be: %w", ErrPosition)
	}
	return nil
}

// Bytes returns the one encoding. Errors wrap ErrPosition.
func (b *Base) Bytes() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	return form.Encode(&wireBase{
		1, b.System, uint64(b.Version), uint64(b.Timeline), uint64(b.Segment), uint64(b.Start), uint64(b.End), b.Clock, b.Stretch,
	})
}

// ParseBase reads what Bytes wrote. Errors wrap ErrPosition.
func ParseBase(raw []byte) (Base, error) {
	var w wireBase
	if err := form.Decode(raw, maxPosition, &w); err != nil {
		return Base{}, fmt.Errorf("%w: %w", ErrPosition, err)
	}
	if w.Version != 1 || w.Server > 1<<30 || w.Timeline > 1<<32-1 || w.Segment > 1<<32-1 {
		return Base{}, fmt.Errorf("position of a base backup: another version, or a number too large: %w", ErrPosition)
	}
	b := Base{
		System: w.System, Version: int(w.Server), Timeline: wal.Timeline(w.Timeline), Segment: wal.SegmentSize(w.Segment),
		Start: wal.LSN(w.Start), End: wal.LSN(w.End), Clock: w.Clock, Stretch: w.Stretch,
	}
	return b, b.check()
}
