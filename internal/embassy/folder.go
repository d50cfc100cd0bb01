package embassy

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/peer"
)

// maxCharter caps a charter document and its signatures, in bytes each.
const maxCharter = charter.MaxSize

const (
	settingsFile = "embassy.yaml"
	keyFile      = "embassy.key"
	lockFile     = "lock"
	folderPerm   = 0o700
	filePerm     = 0o600

	// Layouts of the folder.
	unbound = 1 // of an earlier release: one state, without an agreement; served for ever and made no more
	bound   = 2 // states are served under agreements only
)

// settings is embassy.yaml.
type settings struct {
	Version int    `yaml:"version"`
	Name    string `yaml:"name"`
	Country string `yaml:"country"`
}

var (
	namePattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	countryPattern = regexp.MustCompile(`^[A-Z]{2}$`)
)

func goodName(s string) bool    { return namePattern.MatchString(s) }
func goodCountry(s string) bool { return countryPattern.MatchString(s) }

// checkVirgin accepts an empty folder and what a crashed Establish left.
func checkVirgin(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("embassy: init: %w", err)
	}
	for _, e := range entries {
		switch n := e.Name(); {
		case n == settingsFile:
			return fmt.Errorf("embassy: init: %s is an embassy already", dir)
		case n == keyFile, n == seedFile, n == lockFile, n == "states", durable.IsTemp(n):
		default:
			return fmt.Errorf("embassy: init: %s holds something else: %s", dir, n)
		}
	}
	return nil
}

func initState(dir string, ch *charter.Charter, sig []byte) error {
	for _, sub := range []string{"charter", "objects", "records", "tmp"} {
		if err := durable.MkdirAll(filepath.Join(dir, sub), folderPerm); err != nil {
			return fmt.Errorf("embassy: init: %w", err)
		}
	}
	// All 256 folders of objects are made at once, under one fsync.
	objects := filepath.Join(dir, "objects")
	for i := range 256 {
		err := os.Mkdir(filepath.Join(objects, fmt.Sprintf("%02x", i)), folderPerm)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("embassy: init: %w", err)
		}
	}
	if err := durable.SyncDir(objects); err != nil {
		return fmt.Errorf("embassy: init: %w", err)
	}
	return writeCharter(filepath.Join(dir, "charter"), ch, sig)
}

// readCharter checks a charter and its signatures under its own rules.
func readCharter(doc, sig []byte) (*charter.Charter, error) {
	if len(doc) > maxCharter || len(sig) > maxCharter {
		return nil, errors.New("charter: too large")
	}
	ch, err := charter.Parse(doc)
	if err != nil {
		return nil, err
	}
	if err := ch.Verify(sig); err != nil {
		return nil, err
	}
	return ch, nil
}

func charterFile(number uint64) string { return fmt.Sprintf("%04d.yaml", number) }

func writeCharter(dir string, ch *charter.Charter, sig []byte) error {
	path := filepath.Join(dir, charterFile(ch.Number))
	// The signatures come first: a crash between the two leaves signatures
	// without a document, which are overwritten by the next try.
	if err := durable.WriteFile(path+".sig", sig, filePerm); err != nil {
		return fmt.Errorf("embassy: charter %d: %w", ch.Number, err)
	}
	// A crash before this leaves the charter before in force, after it this one.
	if err := durable.WriteFile(path, ch.Bytes(), filePerm); err != nil {
		return fmt.Errorf("embassy: charter %d: %w", ch.Number, err)
	}
	return nil
}

// loadCharter reads the newest charter of a state, and checks it again.
func loadCharter(dir string) (*charter.Charter, []byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("embassy: charter: %w", err)
	}
	var newest uint64
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), ".yaml")
		if n, err := strconv.ParseUint(text, 10, 64); ok && err == nil && charterFile(n) == e.Name() {
			newest = max(newest, n)
		}
	}
	if newest == 0 {
		return nil, nil, fmt.Errorf("embassy: charter: none in %s", dir)
	}
	path := filepath.Join(dir, charterFile(newest))
	doc, err := readFile(path, maxCharter)
	if err != nil {
		return nil, nil, err
	}
	sig, err := readFile(path+".sig", maxCharter)
	if err != nil {
		return nil, nil, err
	}
	ch, err := readCharter(doc, sig)
	if err != nil {
		return nil, nil, fmt.Errorf("embassy: %s: %w", path, err)
	}
	if ch.Number != newest {
		return nil, nil, fmt.Errorf("embassy: %s holds charter %d", path, ch.Number)
	}
	return ch, sig, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("embassy: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("embassy: %s is not a file of at most %d bytes", path, limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("embassy: %w", err)
	}
	return data, nil
}

func loadSettings(dir string) (settings, error) {
	doc, err := readFile(filepath.Join(dir, settingsFile), 64<<10)
	if err != nil {
		return settings{}, err
	}
	var s settings
	if err := yaml.UnmarshalWithOptions(doc, &s, yaml.Strict()); err != nil {
		return settings{}, fmt.Errorf("embassy: %s: %w", settingsFile, err)
	}
	if s.Version != unbound && s.Version != bound {
		return settings{}, fmt.Errorf("embassy: %s: version %d is unknown to this program", settingsFile, s.Version)
	}
	if !goodName(s.Name) || !goodCountry(s.Country) {
		return settings{}, fmt.Errorf("embassy: %s: malformed name or country", settingsFile)
	}
	return s, nil
}

func writeKey(path string, key ed25519.PrivateKey) error {
	text, err := peer.EncodeKey(key)
	if err != nil {
		return fmt.Errorf("embassy: key: %w", err)
	}
	if err := durable.WriteFile(path, text, peer.KeyPerm); err != nil {
		return fmt.Errorf("embassy: key: %w", err)
	}
	return nil
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	if err := peer.CheckSecret(path); err != nil {
		return nil, fmt.Errorf("embassy: key: %w", err)
	}
	text, err := readFile(path, 64<<10)
	if err != nil {
		return nil, err
	}
	key, err := peer.ParseOnlyKey(text)
	if err != nil {
		return nil, fmt.Errorf("embassy: key: %s: %w", path, err)
	}
	return key, nil
}

// publicOf is key's public half; key must be whole.
func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}
