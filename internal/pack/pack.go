// Package pack collects chunks into sealed packs of three exact sizes, so that what an embassy stores
// tells nothing of how large any chunk or file is. It compresses, lays out, pads, seals and opens; it
// touches no file and no network. The format is described in docs/spec/packs.md.
//
// Old data stays readable: every wrapped session and every footer says the version of its format, the
// context of every seal starts with it, a reader for each released version stays in this package, and
// a version it does not know is refused with ErrVersion.
package pack

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/seal"
)

// Errors that callers tell apart.
var (
	// ErrVersion means that a wrapped session or a footer is of a version this program does not know.
	ErrVersion = errors.New("pack: unknown format version")
	// ErrFormat means that bytes which did authenticate are not the canonical form of anything.
	ErrFormat = errors.New("pack: not canonical")
	// ErrSize means that a length is not the one that the class and kind demand.
	ErrSize = errors.New("pack: wrong size")
	// ErrMeta means that a Meta says something no pack can be.
	ErrMeta = errors.New("pack: impossible meaning")
)

// Version is the number of the format that this package writes.
const Version = 1

// ID names a pack. It is random and says nothing.
type ID [16]byte

// String returns the id as 32 lowercase hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Kind says what a sealed object holds.
type Kind uint8

// The kinds. The numbers are part of the format and never reused.
const (
	Data  Kind = 1 // chunks of content
	Tree  Kind = 2 // chunks of directory listings
	Index Kind = 3 // where chunks are, sealed under the register's index key
	Head  Kind = 4 // the sealed part of a head, of no size class
	// Stretch and Gathering are what these records say under the register's index key, of no size class.
	Stretch   Kind = 5
	Gathering Kind = 6
	// Source is where a head's source stood, under the register's index key, of no size class.
	Source Kind = 7
	// Proof is what came of a proof that a register comes back, under the register's index key, of no size class.
	Proof Kind = 8
	// Cut is a register's part of a moment that several have in common, under the register's index key, of no size class.
	Cut Kind = 9
)

// String returns the kind's name for messages.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Tree:
		return "tree"
	case Index:
		return "index"
	case Head:
		return "head"
	case Stretch:
		return "stretch"
	case Gathering:
		return "gathering"
	case Source:
		return "source"
	case Proof:
		return "proof"
	case Cut:
		return "cut"
	}
	return "unknown"
}

// Class is a size class: the exact size of a sealed pack.
type Class uint8

// classes is the number of classes.
const classes = 3

// Size returns the exact length in bytes of a sealed pack of the class: 64 KiB, 1 MiB or 16 MiB; 0 for
// an unknown class.
func (c Class) Size() int {
	switch c {
	case 0:
		return 64 << 10
	case 1:
		return 1 << 20
	case 2:
		return 16 << 20
	}
	return 0
}

// Classes returns all classes, smallest first.
func Classes() []Class { return []Class{0, 1, 2} }

// Payload returns the length in bytes of the plaintext of a pack of class c and kind k, which is the
// one length whose sealed form is exactly c.Size(). It is 0 for an unknown class and for kinds that
// have no class (Head and up, unknown ones).
func Payload(c Class, k Kind) int {
	n := c.Size()
	switch k {
	case Data, Tree:
		n -= WrappedSize
	case Index:
	default:
		return 0
	}
	plain, err := seal.PlainSize(n)
	if err != nil {
		return 0
	}
	return plain
}

// Largest returns the length in bytes of the plaintext of a pack of the largest class and kind k: the most that one pack
// can hold. It is 0 for kinds that have no class.
func Largest(k Kind) int { return Payload(classes-1, k) }

// Smallest returns the smallest class whose payload holds this many bytes, and whether there is one.
func Smallest(payload int, k Kind) (Class, bool) {
	for c := range Class(classes) {
		if n := Payload(c, k); n > 0 && payload <= n {
			return c, true
		}
	}
	return 0, false
}

// Meta is everything that a sealed object means. Sealing commits to all of it: opening under any other
// Meta fails with seal.ErrContext.
type Meta struct {
	State    [16]byte
	Register [16]byte
	Epoch    uint32 // of the register's key pair
	Kind     Kind
	ID       ID
	K, N     uint8 // any K of N shares make the pack
	Class    Class
}

// contextLabel starts every context; it names the format and its version.
const contextLabel = "chancery pack v1"

// contextSize is the length of every context in bytes.
const contextSize = len(contextLabel) + 16 + 16 + 4 + 1 + 16 + 1 + 1 + 1

// Context returns the canonical bytes of m, 72 of them, which are different for different Metas.
func (m Meta) Context() []byte {
	return m.appendContext(make([]byte, 0, contextSize))
}

func (m *Meta) appendContext(dst []byte) []byte {
	dst = append(dst, contextLabel...)
	dst = append(dst, m.State[:]...)
	dst = append(dst, m.Register[:]...)
	dst = binary.BigEndian.AppendUint32(dst, m.Epoch)
	dst = append(dst, byte(m.Kind))
	dst = append(dst, m.ID[:]...)
	return append(dst, m.K, m.N, byte(m.Class))
}

// check refuses a Meta of another kind than the wanted ones, or that no object can have.
func (m *Meta) check(kinds ...Kind) error {
	for _, k := range kinds {
		if m.Kind != k {
			continue
		}
		switch {
		case k < Head && m.Class.Size() == 0:
			return fmt.Errorf("%w: class %d", ErrMeta, m.Class)
		case k < Head && (m.K < 1 || m.K > m.N):
			return fmt.Errorf("%w: %d of %d shares", ErrMeta, m.K, m.N)
		}
		return nil
	}
	return fmt.Errorf("%w: kind %d (%v) here", ErrMeta, m.Kind, m.Kind)
}
