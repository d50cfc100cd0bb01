package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// ErrNoCustodian means that the charter names no such custodian.
var ErrNoCustodian = errors.New("no such custodian")

// Heard notes that a custodian was heard from on a day: that the person is there, and still has kit and key.
func (h *Home) Heard(custodian string, on charter.Date) error {
	if _, ok := h.custodian(custodian); !ok {
		return fmt.Errorf("%w: %q", ErrNoCustodian, custodian)
	}
	dir := filepath.Join(h.Dir, "heard")
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A crash leaves the day before or this one.
	return durable.WriteFile(filepath.Join(dir, custodian), []byte(on+"\n"), 0o644)
}

func (h *Home) custodian(name string) (charter.Custodian, bool) {
	for _, k := range h.Charter.Custody.Custodians {
		if k.Name == name {
			return k, true
		}
	}
	return charter.Custodian{}, false
}

// LastHeard is the day on which a custodian was last heard from, as home noted, and otherwise the day on which home
// took the state's first charter in force: that day each was given a kit.
func (h *Home) LastHeard(custodian string) (charter.Date, error) {
	text, err := os.ReadFile(filepath.Join(h.Dir, "heard", custodian))
	if errors.Is(err, fs.ErrNotExist) {
		info, err := os.Stat(filepath.Join(h.Dir, "charters", charterFile(1)))
		if err != nil {
			return "", err
		}
		return charter.DateOf(info.ModTime()), nil
	}
	if err != nil {
		return "", err
	}
	day := charter.Date(strings.TrimSuffix(string(text), "\n"))
	if !day.Valid() {
		return "", fmt.Errorf("%s: not a day", filepath.Join(h.Dir, "heard", custodian))
	}
	return day, nil
}

// HeardFor is how long a custodian counts as there after being heard from: a year, after which nobody should rely on
// the share.
const HeardFor = 365 * 24 * time.Hour
