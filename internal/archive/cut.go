package archive

import (
	"fmt"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// MakeCut signs a register's part of a moment that several registers have in common.
func MakeCut(reg *register.Register, agent *register.Agent, seq uint64, cut *snapshot.Cut) (*snapshot.Note, error) {
	plain, err := cut.Bytes()
	if err != nil {
		return nil, err
	}
	return makeNote(reg, agent, snapshot.CutNote, seq, plain)
}

// OpenCut reads a register's part of a cut: it must be the register's, of this number, and signed by an agent that counts.
// It needs no key that opens. Errors wrap ErrDamaged.
func OpenCut(reg *register.Register, agent *register.Agent, seq uint64, raw []byte) (*snapshot.Cut, error) {
	_, plain, err := openNote(reg, agent, snapshot.CutNote, seq, raw)
	if err != nil {
		return nil, err
	}
	cut, err := snapshot.ParseCut(plain)
	if err != nil {
		return nil, fmt.Errorf("cut %d: %w: %w", seq, register.ErrDamaged, err)
	}
	return cut, nil
}
