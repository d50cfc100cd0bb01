package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chancery.dev/chancery/internal/durable"
)

// LedgerFile is where home keeps the newest cosigned checkpoint that it saw of an embassy's ledger.
func (h *Home) LedgerFile(embassy string) string { return filepath.Join(h.Dir, "ledgers", embassy) }

// Ledger returns the checkpoint kept of an embassy's ledger, nil when there is none.
func (h *Home) Ledger(embassy string) ([]byte, error) {
	raw, err := os.ReadFile(h.LedgerFile(embassy))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// KeepLedger replaces the checkpoint kept. A crash leaves the one before, which is weaker and still true.
func (h *Home) KeepLedger(embassy string, checkpoint []byte) error {
	if err := durable.MkdirAll(filepath.Join(h.Dir, "ledgers"), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(h.LedgerFile(embassy), checkpoint, 0o644)
}

// ForgetLedger moves the checkpoint kept out of the way and returns where it is now, empty when there was none.
func (h *Home) ForgetLedger(embassy string) (string, error) {
	kept := fmt.Sprintf("%s.until-%s", h.LedgerFile(embassy), time.Now().UTC().Format("20060102T150405"))
	err := os.Rename(h.LedgerFile(embassy), kept)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return kept, durable.SyncDir(filepath.Dir(kept))
}
