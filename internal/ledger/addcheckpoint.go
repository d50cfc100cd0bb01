package ledger

import (
	"bytes"
	"fmt"
)

// AddCheckpoint is the body of a C2SP tlog-witness "add-checkpoint" request:
//
//	"old N\n", at most 63 lines of base64 hashes, "\n", the signed checkpoint
type AddCheckpoint struct {
	Old        uint64     // leaves of the tree that the witness last cosigned, as the log believes
	Proof      [][32]byte // RFC 6962 consistency proof from Old; empty for 0
	Checkpoint []byte     // the signed note, as it is
}

// maxAddCheckpoint caps a request's body in bytes.
const maxAddCheckpoint = 32 + maxHashLines*45 + maxCheckpoint

// Bytes is the body. It is what ParseAddCheckpoint reads when Old, Proof and
// Checkpoint keep the caps.
func (a *AddCheckpoint) Bytes() []byte {
	b := appendHashes(fmt.Appendf(nil, "old %d\n", a.Old), a.Proof)
	return append(b, a.Checkpoint...)
}

// ParseAddCheckpoint reads the canonical form and nothing else (ErrFormat). The
// checkpoint has the form of a signed note; it is for ParseCheckpoint to verify.
// It refers to data.
func ParseAddCheckpoint(data []byte) (AddCheckpoint, error) {
	bad := func(what string) (AddCheckpoint, error) {
		return AddCheckpoint{}, fmt.Errorf("ledger: add-checkpoint: %s: %w", what, ErrFormat)
	}
	if len(data) > maxAddCheckpoint {
		return bad("too large")
	}
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	text, found := bytes.CutPrefix(first, []byte("old "))
	old, ok := decimal(string(text))
	if !found || !ok {
		return bad("line 1, old size")
	}
	proof, cp, ok := cutHashes(rest)
	if !ok {
		return bad("proof")
	}
	if _, _, err := splitNote(cp); err != nil {
		return AddCheckpoint{}, fmt.Errorf("ledger: add-checkpoint: %w", err)
	}
	return AddCheckpoint{Old: old, Proof: proof, Checkpoint: cp}, nil
}
