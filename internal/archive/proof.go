package archive

import (
	"context"
	"fmt"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// MakeProof signs what came of a proof of a register, which is trimmed to what a record holds.
func MakeProof(reg *register.Register, agent *register.Agent, seq uint64, result *snapshot.ProofResult) (*snapshot.Note, error) {
	result.Trim()
	plain, err := result.Bytes()
	if err != nil {
		return nil, err
	}
	return makeNote(reg, agent, snapshot.ProofNote, seq, plain)
}

// OpenProof reads a record of a proof: it must be the register's, of this number, and signed by an agent that counts.
// It needs no key that opens. Errors wrap ErrDamaged.
func OpenProof(reg *register.Register, agent *register.Agent, seq uint64, raw []byte) (*snapshot.Note, *snapshot.ProofResult, error) {
	n, plain, err := openNote(reg, agent, snapshot.ProofNote, seq, raw)
	if err != nil {
		return nil, nil, err
	}
	result, err := snapshot.ParseProofResult(plain)
	if err != nil {
		return nil, nil, fmt.Errorf("proof %d: %w: %w", seq, register.ErrDamaged, err)
	}
	return n, result, nil
}

// FindProofs is FindNotes for proofs.
func FindProofs(ctx context.Context, reg *register.Register, agent *register.Agent, known map[uint64][]byte) (*NotesFound, error) {
	return FindNotes(ctx, reg, agent, snapshot.ProofNote, known)
}

// PublishProofs is PublishNotes for proofs.
func PublishProofs(ctx context.Context, reg *register.Register, records map[uint64][]byte) (hold []string, down []register.Down, err error) {
	return PublishNotes(ctx, reg, snapshot.ProofNote, records)
}
