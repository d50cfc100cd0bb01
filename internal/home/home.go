// Package home keeps the home folder: what a state needs at home to write to its embassies, and nothing that opens
// what it wrote.
//
//	H/version              the version of this folder's layout
//	H/charters/NNNN.yaml   every charter with its signatures (.sig); charter.yaml beside it is the newest
//	H/keys/agent.key       signs heads and speaks to embassies (Ed25519, PKCS 8 in PEM)
//	H/keys/signer          signs charters (Ed25519, OpenSSH)
//	H/kits/NAME/           what is handed to each custodian
//	H/registers/NAME/      one register: its record, keys that open nothing, and the archive's local files
//
// A folder of a newer version is refused and left alone; a reader for every released version stays.
package home

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
)

// Version is the layout that this program writes.
const Version = 1

// Errors that callers tell apart.
var (
	// ErrNone means that the folder is not a home.
	ErrNone = errors.New("not a home folder")
	// ErrNewer means that a newer program made the folder.
	ErrNewer = errors.New("made by a newer version of this program")
	// ErrExists means that something is there already.
	ErrExists = errors.New("exists already")
	// ErrNoRegister means that the home has no such register.
	ErrNoRegister = errors.New("no such register")
)

// Home is an open home folder.
type Home struct {
	Dir     string
	Charter *charter.Charter // the newest
	unlock  func()
}

// Open reads a home folder. With exclusive it holds the folder's lock until Close, so that two writers cannot work
// at once (durable.ErrLocked).
func Open(dir string, exclusive bool) (*Home, error) {
	text, err := os.ReadFile(filepath.Join(dir, "version"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 1 {
		return nil, fmt.Errorf("%s: %w: its version file is damaged", dir, ErrNone)
	}
	if n > Version {
		return nil, fmt.Errorf("%s: %w (layout %d, this program knows %d)", dir, ErrNewer, n, Version)
	}
	h := &Home{Dir: dir}
	if exclusive {
		if h.unlock, err = durable.Lock(filepath.Join(dir, "lock")); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := h.readCharter(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Close releases the lock.
func (h *Home) Close() {
	if h.unlock != nil {
		h.unlock()
		h.unlock = nil
	}
}

func (h *Home) readCharter() error {
	doc, err := os.ReadFile(filepath.Join(h.Dir, "charter.yaml"))
	if err != nil {
		return err
	}
	sig, err := os.ReadFile(filepath.Join(h.Dir, "charter.yaml.sig"))
	if err != nil {
		return err
	}
	c, err := charter.Parse(doc)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(h.Dir, "charter.yaml"), err)
	}
	err = c.Verify(sig)
	if err != nil { // a crash of Adopt left the next charter's signature beside this one, whose own is kept by its number
		if _, own, oerr := h.CharterAt(c.Number); oerr == nil && c.Verify(own) == nil {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(h.Dir, "charter.yaml"), err)
	}
	h.Charter = c
	return nil
}

// CharterAt returns a charter of this state and its signatures, by number.
func (h *Home) CharterAt(number uint64) (doc, sig []byte, err error) {
	path := filepath.Join(h.Dir, "charters", charterFile(number))
	if doc, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	sig, err = os.ReadFile(path + ".sig")
	return doc, sig, err
}

func charterFile(number uint64) string { return fmt.Sprintf("%04d.yaml", number) }

// Adopt signs the next charter and makes it the newest, here and in the kits. Embassies are told by the caller.
//
// A crash after the numbered file leaves the old charter in force, and the next Adopt writes the number again; a
// crash between charter.yaml and its signature is mended by Adopt too, because the numbered pair is whole by then.
func (h *Home) Adopt(next charter.Charter) error {
	c, err := charter.New(next)
	if err != nil {
		return err
	}
	key, err := h.signer()
	if err != nil {
		return err
	}
	sig, err := charter.Sign(c.Bytes(), key)
	if err != nil {
		return err
	}
	if err := charter.CheckSuccession(h.Charter, c, sig); err != nil {
		return err
	}
	if err := writeCharter(h.Dir, c, sig); err != nil {
		return err
	}
	h.Charter = c
	return h.renewKits(sig)
}

func writeCharter(dir string, c *charter.Charter, sig []byte) error {
	if err := durable.MkdirAll(filepath.Join(dir, "charters"), 0o755); err != nil {
		return err
	}
	numbered := filepath.Join(dir, "charters", charterFile(c.Number))
	for _, f := range []struct {
		path string
		data []byte
	}{
		{numbered + ".sig", sig},
		{numbered, c.Bytes()},
		{filepath.Join(dir, "charter.yaml.sig"), sig},
		{filepath.Join(dir, "charter.yaml"), c.Bytes()},
	} {
		if err := durable.WriteFile(f.path, f.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (h *Home) signer() (ed25519.PrivateKey, error) {
	file, err := os.ReadFile(filepath.Join(h.Dir, "keys", "signer"))
	if err != nil {
		return nil, err
	}
	return charter.ParseSSHKey(file)
}

// AgentKey reads the key that signs heads and speaks to embassies.
func (h *Home) AgentKey() (ed25519.PrivateKey, error) {
	return readKey(filepath.Join(h.Dir, "keys", "agent.key"))
}

func readKey(path string) (ed25519.PrivateKey, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(file)
	if block == nil || block.Type != "PRIVATE KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("%s: not a private key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key", path)
	}
	return ed, nil
}

func encodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
