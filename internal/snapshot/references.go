package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxReferences is the most bytes of encoded references.
const MaxReferences = 16 << 20

const (
	referencesKind    = 'r' // no index payload begins so
	referencesVersion = 1
)

// ErrReferences is wrapped by every refusal of references.
var ErrReferences = errors.New("not canonical references")

// References say which packs a snapshot needs of those that earlier heads of its register added. Those that its own head
// adds it needs too. They tell of packs by their numbers, so that a register of a hundred thousand packs needs a few
// kilobytes, and hold no key: sealed under the index key they show an embassy nothing.
type References struct {
	Before uint64  // packs of chunks that earlier heads added
	Own    uint64  // that this head adds
	Needs  Numbers // all below Before
	Moved  []Move  // by ascending Pack
}

// Move says that a head copied what snapshots before it need of a pack into others: a snapshot before that head which
// needs Pack needs those instead.
type Move struct {
	Pack uint64  // below Before
	To   Numbers // below Before + Own; without Pack
}

// Check tells whether the references can be written.
func (r *References) Check() error {
	what := ""
	if r.Before > MaxPacks || r.Own > MaxPacks || r.Before+r.Own > MaxPacks {
		what = "too many packs"
	}
	if beyond(&r.Needs, r.Before) {
		what = "a pack that no earlier head added"
	}
	for i := range r.Moved {
		m := &r.Moved[i]
		switch {
		case m.Pack >= r.Before || i > 0 && m.Pack <= r.Moved[i-1].Pack:
			what = "packs that moved are not in order"
		case beyond(&m.To, r.Before+r.Own) || m.To.Has(m.Pack):
			what = "a pack that moved to where it cannot be"
		}
	}
	if what != "" {
		return fmt.Errorf("references: %s: %w", what, ErrReferences)
	}
	return nil
}

func beyond(n *Numbers, limit uint64) bool {
	if len(n.words) == 0 {
		return false
	}
	return n.Any(limit, uint64(len(n.words))*64)
}

// Bytes returns the one encoding:
//
//	references = kind[1] = 'r', version[1] = 1, before, own, numbers, count, move, move, ...
//	move       = gap, numbers                        gap: from the pack behind the one before
//	numbers    = count, run, run, ...                run = gap, length - 1
//
// Numbers without a length are uvarints. Specification: docs/spec/heads.md.
func (r *References) Bytes() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	b := []byte{referencesKind, referencesVersion}
	b = binary.AppendUvarint(binary.AppendUvarint(b, r.Before), r.Own)
	b = appendNumbers(b, &r.Needs)
	b = binary.AppendUvarint(b, uint64(len(r.Moved)))
	next := uint64(0)
	for i := range r.Moved {
		b = binary.AppendUvarint(b, r.Moved[i].Pack-next)
		b = appendNumbers(b, &r.Moved[i].To)
		next = r.Moved[i].Pack + 1
	}
	if len(b) > MaxReferences {
		return nil, fmt.Errorf("references: %d bytes: %w", len(b), ErrReferences)
	}
	return b, nil
}

// ParseReferences reads what Bytes wrote, all of b, for a head with so many packs before it. Other numbers are refused
// before memory is taken for them. It keeps no reference to b. Errors wrap ErrReferences.
func ParseReferences(b []byte, before, own uint64) (*References, error) {
	return parseReferences(b, func(r *References) bool { return r.Before == before && r.Own == own })
}

// CheckReferences reads references without knowing of which head they are; index tells that they are none at all, but may
// be an index payload. It may take 32 MiB for a set.
func CheckReferences(b []byte) (index bool, err error) {
	if len(b) > 0 && b[0] != referencesKind {
		return true, nil
	}
	_, err = parseReferences(b, func(*References) bool { return true })
	return false, err
}

func parseReferences(b []byte, fits func(*References) bool) (*References, error) {
	if len(b) < 2 || len(b) > MaxReferences || b[0] != referencesKind || b[1] != referencesVersion {
		return nil, fmt.Errorf("references: %d bytes without a known version: %w", len(b), ErrReferences)
	}
	r := reader{b: b[2:]}
	out := &References{Before: r.number(MaxPacks), Own: r.number(MaxPacks)}
	if r.bad || out.Before+out.Own > MaxPacks || !fits(out) {
		return nil, fmt.Errorf("references: of %d and %d packs, which are not this head's: %w", out.Before, out.Own, ErrReferences)
	}
	out.Needs = r.numbers(out.Before)
	count := r.number(uint64(len(r.b)) / 2)
	next := uint64(0)
	for range count {
		m := Move{Pack: next + r.number(MaxPacks)}
		m.To = r.numbers(out.Before + out.Own)
		if r.bad {
			break
		}
		out.Moved, next = append(out.Moved, m), m.Pack+1
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("references: cut short or not canonical: %w", ErrReferences)
	}
	return out, out.Check()
}
