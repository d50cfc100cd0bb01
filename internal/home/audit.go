package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// maxAudit is the most bytes read of one file about audits; a coverage file has far fewer.
const maxAudit = 64 << 20

// Audit returns what of an embassy's ledger audits have covered, as KeepAudit got it, nil when there is nothing.
func (h *Home) Audit(embassy string) ([]byte, error) { return h.readAudit(embassy, "") }

// KeepAudit replaces what audits have covered. A crash leaves what was kept before: less coverage, which is audited
// again.
func (h *Home) KeepAudit(embassy string, coverage []byte) error {
	return h.keepAudit(embassy, "", coverage)
}

// PendingAudit returns the challenge that an embassy has not answered in time, nil when there is none. The next audit
// repeats it, so that silence does not get an embassy an easier question.
func (h *Home) PendingAudit(embassy string) ([]byte, error) { return h.readAudit(embassy, ".pending") }

// KeepPendingAudit keeps a challenge before it is sent. A crash leaves it, and it is asked again.
func (h *Home) KeepPendingAudit(embassy string, challenge []byte) error {
	return h.keepAudit(embassy, ".pending", challenge)
}

// DropPendingAudit forgets the challenge, which was answered. A crash leaves it, and it is asked once more.
func (h *Home) DropPendingAudit(embassy string) error {
	path, err := h.auditFile(embassy, ".pending")
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return durable.Remove(path)
}

func (h *Home) auditFile(embassy, kind string) (string, error) {
	if !charter.ValidName(embassy) { // names hold no dot and no slash, so the two kinds never meet and nothing lies outside
		return "", fmt.Errorf("audits: %q is not an embassy's name", embassy)
	}
	return filepath.Join(h.Dir, "audits", embassy+kind), nil
}

func (h *Home) readAudit(embassy, kind string) ([]byte, error) {
	path, err := h.auditFile(embassy, kind)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxAudit {
		return nil, fmt.Errorf("%s: %d bytes are more than the %d that such a file may have", path, info.Size(), maxAudit)
	}
	return os.ReadFile(path)
}

func (h *Home) keepAudit(embassy, kind string, data []byte) error {
	path, err := h.auditFile(embassy, kind)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o644)
}
