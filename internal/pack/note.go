package pack

import (
	"encoding/binary"
	"fmt"
	"io"

	"chancery.dev/chancery/internal/seal"
)

// MaxNote is the longest plaintext of a sealed note, in bytes.
const MaxNote = 512 << 10

// noteStep is what padded notes of a kind are a multiple of, in bytes.
func noteStep(k Kind) int {
	if k == Gathering || k == Proof || k == Cut {
		return 4 << 10
	}
	return 256
}

func paddedNote(k Kind, n int) int {
	step := noteStep(k)
	return (4 + n + step - 1) / step * step
}

// SealNote seals what a stretch, a gathering, a head's source or a proof says to whoever holds the register's index key: under
// C2SP chunked-encryption the length as 4 bytes, the plaintext, and zeros up to a multiple of 256 bytes, or 4 KiB for
// gatherings, proofs and cuts. The Kind is Stretch, Gathering, Source, Proof or Cut. Errors: ErrMeta, ErrSize above MaxNote, those of rand.
func SealNote(rand io.Reader, key *seal.Key, m Meta, plaintext []byte) ([]byte, error) {
	if err := m.check(Stretch, Gathering, Source, Proof, Cut); err != nil {
		return nil, err
	}
	if len(plaintext) > MaxNote {
		return nil, fmt.Errorf("%w: note of %d bytes, at most %d", ErrSize, len(plaintext), MaxNote)
	}
	padded := make([]byte, paddedNote(m.Kind, len(plaintext)))
	binary.BigEndian.PutUint32(padded, uint32(len(plaintext)))
	copy(padded[4:], plaintext)
	return sealWith(make([]byte, 0, seal.Size(len(padded))), rand, key, &m, padded)
}

// OpenNote returns the plaintext of a sealed note, in memory of its own. Errors as of OpenIndex, and ErrFormat when
// what was sealed is not in canonical form.
func OpenNote(key *seal.Key, m Meta, sealed []byte) ([]byte, error) {
	if err := m.check(Stretch, Gathering, Source, Proof, Cut); err != nil {
		return nil, err
	}
	if len(sealed) > seal.Size(paddedNote(m.Kind, MaxNote)) {
		return nil, fmt.Errorf("note %v: %w: %d bytes", m.ID, ErrSize, len(sealed))
	}
	padded, err := seal.Open(nil, key, m.Context(), sealed)
	if err != nil {
		return nil, fmt.Errorf("note %v: %w", m.ID, err)
	}
	plaintext, err := UnpadPayload(padded)
	if err != nil {
		return nil, fmt.Errorf("note %v: %w", m.ID, err)
	}
	if len(padded) != paddedNote(m.Kind, len(plaintext)) {
		return nil, fmt.Errorf("note %v: %w: padded to %d bytes", m.ID, ErrFormat, len(padded))
	}
	return plaintext, nil
}
