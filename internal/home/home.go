// Package home keeps the home folder: what a state needs at home to write to its embassies, and nothing that opens
// what it wrote.
//
//	H/version              the version of this folder's layout
//	H/charters/NNNN.yaml   every charter with its signatures (.sig); charter.yaml beside it is the newest
//	H/keys/agent.key       signs heads and speaks to embassies (Ed25519, PKCS 8 in PEM)
//	H/keys/signer          signs charters (Ed25519, OpenSSH); none where people sign them
//	H/proposals/NNNN.yaml  the charter that people have yet to sign, and the signatures that it has (.sig)
//	H/heard/NAME           the day on which a custodian was last heard from
//	H/orders/              orders that are being signed, or were sent
//	H/keys/witness.key     cosigns the checkpoints of embassies (Ed25519, PKCS 8 in PEM)
//	H/keys/mldsa.seed      does so with ML-DSA-44 beside it, where the charter names that key (64 hex digits)
//	H/kits/NAME/           what is handed to each custodian
//	H/registers/NAME/      one register: its record, keys that open nothing, and the archive's local files
//	H/ledgers/EMBASSY      the newest cosigned checkpoint that home saw of an embassy's ledger
//	H/witness/             how far home, as a witness, saw each ledger
//	H/custody/NNNN/        generation NNNN of the opening key while it is prepared, and what it left out (see refresh.go)
//	H/audits/EMBASSY       what of an embassy's ledger audits have covered; .pending beside it is a challenge not answered
//
// Folders made before there were witnesses lack the last two and the witness key; they are made when first used.
//
// A folder of a newer version is refused and left alone; a reader for every released version stays.
package home

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/peer"
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
	if errors.Is(err, fs.ErrNotExist) {
		if _, perr := ReadProposal(h.Dir, 0); perr == nil {
			return fmt.Errorf("%s: %w", h.Dir, ErrUnsigned)
		}
	}
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

// Signed is a charter's exact document and its signatures.
type Signed struct{ Doc, Sig []byte }

// Charters returns all charters of the state from 1 to the newest, in order. What a crash left of one that never came
// into force is not among them.
func (h *Home) Charters() ([]Signed, error) {
	var all []Signed
	for n := uint64(1); n <= h.Charter.Number; n++ {
		doc, sig, err := h.CharterAt(n)
		if err != nil {
			return nil, fmt.Errorf("charter %d: %w", n, err)
		}
		all = append(all, Signed{doc, sig})
	}
	return all, nil
}

func charterFile(number uint64) string { return fmt.Sprintf("%04d.yaml", number) }

func writeCharter(dir string, c *charter.Charter, sig []byte) error {
	if err := durable.MkdirAll(filepath.Join(dir, "charters"), 0o755); err != nil {
		return err
	}
	for _, f := range charterWrites(dir, c, sig) {
		if err := durable.WriteFile(f.path, f.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

type charterWrite struct {
	path string
	data []byte
}

// charterWrites are the four files of a charter in the order in which they are written: charter.yaml, by which it
// comes into force, goes last, and by then all that a reader needs beside it is there.
func charterWrites(dir string, c *charter.Charter, sig []byte) []charterWrite {
	numbered := filepath.Join(dir, "charters", charterFile(c.Number))
	return []charterWrite{
		{numbered + ".sig", sig},
		{numbered, c.Bytes()},
		{filepath.Join(dir, "charter.yaml.sig"), sig},
		{filepath.Join(dir, "charter.yaml"), c.Bytes()},
	}
}

func (h *Home) signer() (ed25519.PrivateKey, error) {
	file, err := os.ReadFile(filepath.Join(h.Dir, "keys", "signer"))
	if err != nil {
		return nil, err
	}
	return charter.ParseSSHKey(file)
}

func readKey(path string) (ed25519.PrivateKey, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, rest, err := peer.ParseKey(file)
	if err == nil && len(bytes.TrimSpace(rest)) > 0 {
		err = errors.New("something follows the key")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}
