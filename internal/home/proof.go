package home

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"chancery.dev/chancery/internal/durable"
)

// proofsDir is where a register's proofs lie, each under its number, and the log of the server of one that failed under
// its number with .log. They are copies: embassies hold the proofs, and without them home asks for them again.
const proofsDir = "proofs"

// maxProofFile caps what is read of a proof.
const maxProofFile = 64 << 10

// SaveProof keeps a proof. A crash leaves it out, or whole.
func (r *Register) SaveProof(number uint64, raw []byte) error {
	return r.saveProof(strconv.FormatUint(number, 10), raw)
}

// SaveProofLog keeps what the server of a failed proof said, and returns where.
func (r *Register) SaveProofLog(number uint64, text []byte) (string, error) {
	name := strconv.FormatUint(number, 10) + ".log"
	return filepath.Join(r.Dir, proofsDir, name), r.saveProof(name, text)
}

func (r *Register) saveProof(name string, data []byte) error {
	dir := filepath.Join(r.Dir, proofsDir)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, name), data, 0o600)
}

// LockProofs keeps other processes from giving a proof the same number meanwhile; it waits for them.
func (r *Register) LockProofs(ctx context.Context) (unlock func(), err error) {
	dir := filepath.Join(r.Dir, proofsDir)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for {
		unlock, err := durable.Lock(filepath.Join(dir, "lock"))
		if !errors.Is(err, durable.ErrLocked) {
			return unlock, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Proofs are the proofs that home has, by number; what they say is for the caller to check.
func (r *Register) Proofs() (map[uint64][]byte, error) {
	all := map[uint64][]byte{}
	dir := filepath.Join(r.Dir, proofsDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || strconv.FormatUint(n, 10) != e.Name() { // a log, or a temporary file
			continue
		}
		if info, err := e.Info(); err != nil || info.Size() > maxProofFile {
			continue
		}
		if all[n], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return all, nil
}
