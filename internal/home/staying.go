package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// ErrStaysHome means that a register is too secret to leave home: it has no keys and no embassies, and nothing that would
// send it works on it.
var ErrStaysHome = errors.New("stays at home")

// SaveStaying keeps a register that is never to leave home. Nothing but its definition is made. A crash leaves an empty
// folder, which is no register.
func (h *Home) SaveStaying(def Definition) error {
	if !charter.ValidName(def.Name) || def.StaysHome == "" {
		return fmt.Errorf("register %q: a name and a reason are needed", def.Name)
	}
	dir := h.registerDir(def.Name)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("register %s: %w", def.Name, ErrExists)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	def.Version = definitionVersion
	text, err := yaml.Marshal(def)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, "register.yaml"), text, 0o644)
}

// staying reads the definition of a register that never leaves home.
func (h *Home) staying(name string) (Definition, error) {
	text, err := os.ReadFile(filepath.Join(h.registerDir(name), "register.yaml"))
	if err != nil {
		return Definition{}, err
	}
	d, err := parseDefinition(text)
	if err == nil && d.StaysHome == "" {
		err = fs.ErrNotExist
	}
	return d, err
}

// Staying returns the registers that never leave home, in the order of their names.
func (h *Home) Staying() ([]Definition, error) {
	entries, err := os.ReadDir(filepath.Join(h.Dir, "registers"))
	if err != nil {
		return nil, err
	}
	var out []Definition
	for _, e := range entries {
		if d, err := h.staying(e.Name()); err == nil {
			out = append(out, d)
		}
	}
	return out, nil
}
