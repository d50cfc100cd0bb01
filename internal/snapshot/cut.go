package snapshot

import (
	"errors"
	"fmt"
	"slices"
)

// Cut is one register's part of a moment that several registers have in common.
type Cut struct {
	Version   uint64     // 1
	ID        [16]byte   // random, the same in all its parts
	Name      string     // as people call it: small letters, digits, hyphens
	Registers [][16]byte // all that the cut is of, this one among them, ascending
	Snapshot  uint64     // of this register: the one to restore, or the newest base backup then
	Position  []byte     // how far the register is brought back, in its source's form; empty where the snapshot is all
	Taken     int64      // when the positions were taken, by the clock of the machine that took them, nanoseconds since 1970
	Width     int64      // how long taking them took, in nanoseconds: the positions are at most so far apart
}

// Caps of a cut.
const (
	MaxCutRegisters = 64
	maxCutName      = 64
)

// ErrCut is wrapped by every refusal of a cut.
var ErrCut = errors.New("not a canonical cut")

type wireCut struct {
	Version   uint64   `cbor:"1,keyasint"`
	ID        []byte   `cbor:"2,keyasint"`
	Name      string   `cbor:"3,keyasint"`
	Registers [][]byte `cbor:"4,keyasint"`
	Snapshot  uint64   `cbor:"5,keyasint"`
	Position  []byte   `cbor:"6,keyasint"`
	Taken     int64    `cbor:"7,keyasint"`
	Width     int64    `cbor:"8,keyasint"`
}

// ValidCutName tells whether people can call a cut so: 1 to 64 small letters, digits and hyphens, no hyphen first.
func ValidCutName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return name != "" && len(name) <= maxCutName
}

// Check tells whether the cut can be written.
func (c *Cut) Check() error {
	what := ""
	switch {
	case c.Version != 1:
		what = "another version"
	case !ValidCutName(c.Name):
		what = "the name is not small letters, digits and hyphens"
	case len(c.Registers) == 0 || len(c.Registers) > MaxCutRegisters:
		what = "no registers, or too many"
	case !slices.IsSortedFunc(c.Registers, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) }) || !distinct(c.Registers):
		what = "registers are not ascending, or one is there twice"
	case c.Snapshot == 0:
		what = "no snapshot"
	case len(c.Position) > MaxPosition:
		what = "the position is too long"
	case c.Width < 0:
		what = "took less than no time"
	}
	if what != "" {
		return fmt.Errorf("cut: %s: %w", what, ErrCut)
	}
	return nil
}

// Bytes returns the cut's one encoding, deterministic CBOR. Errors wrap ErrCut.
func (c *Cut) Bytes() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return form.Encode(&wireCut{c.Version, c.ID[:], c.Name, toWireIDs(c.Registers), c.Snapshot, c.Position, c.Taken, c.Width})
}

// ParseCut reads what Bytes wrote. Errors wrap ErrCut.
func ParseCut(b []byte) (*Cut, error) {
	var w wireCut
	if err := form.Decode(b, MaxProofResult, &w); err != nil {
		return nil, fmt.Errorf("cut: %w: %w", err, ErrCut)
	}
	c := &Cut{Version: w.Version, Name: w.Name, Snapshot: w.Snapshot, Position: w.Position, Taken: w.Taken, Width: w.Width}
	fits := fill(c.ID[:], w.ID)
	for _, id := range w.Registers {
		c.Registers = append(c.Registers, [16]byte{})
		fits = fill(c.Registers[len(c.Registers)-1][:], id) && fits
	}
	if !fits {
		return nil, fmt.Errorf("cut: a field of wrong length: %w", ErrCut)
	}
	return c, c.Check()
}
