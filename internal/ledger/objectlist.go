package ledger

import (
	"bytes"
	"crypto/sha256"
	"fmt"
)

// MaxListed caps the objects of one list, which is 64 MiB then.
const MaxListed = 2 << 20

const objectListTitle = "chancery object list 1\n"

// ObjectList is the objects of one embassy that an order is about: a line that
// says what it is, and the objects' names, 32 bytes each, strictly rising. An
// order binds the list by its SHA-256, so there is one encoding.
//
//	"chancery object list 1\n" | name (32) | name (32) | ...
type ObjectList [][32]byte

// Bytes is the one encoding. It fails where ParseObjectList would refuse it.
func (l ObjectList) Bytes() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(objectListTitle)+len(l)*sha256.Size)
	b = append(b, objectListTitle...)
	for i := range l {
		b = append(b, l[i][:]...)
	}
	return b, nil
}

// Has tells whether an object is in the list.
func (l ObjectList) Has(name [32]byte) bool {
	lo, hi := 0, len(l)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := bytes.Compare(l[mid][:], name[:]); {
		case c == 0:
			return true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return false
}

// ParseObjectList reads what Bytes wrote, all of data, and keeps no reference to
// it: ErrFormat or, for another first line, ErrUnknown.
func ParseObjectList(data []byte) (ObjectList, error) {
	names, ok := bytes.CutPrefix(data, []byte(objectListTitle))
	if !ok {
		return nil, fmt.Errorf("ledger: object list: its first line: %w", ErrUnknown)
	}
	if len(names)%sha256.Size != 0 || len(names) > MaxListed*sha256.Size {
		return nil, fmt.Errorf("ledger: object list of %d bytes: %w", len(data), ErrFormat)
	}
	l := make(ObjectList, len(names)/sha256.Size)
	for i := range l {
		l[i] = [32]byte(names[i*sha256.Size:])
	}
	return l, l.check()
}

func (l ObjectList) check() error {
	if len(l) > MaxListed {
		return fmt.Errorf("ledger: object list: %d objects: %w", len(l), ErrFormat)
	}
	for i := 1; i < len(l); i++ {
		if bytes.Compare(l[i-1][:], l[i][:]) >= 0 {
			return fmt.Errorf("ledger: object list: object %d is not above the one before: %w", i, ErrFormat)
		}
	}
	return nil
}
