package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/peer"
)

const (
	versionFile = "witness"     // "version 1\n"; written last, so it makes the folder a witness's
	keyFile     = "witness.key" // Ed25519, PKCS 8, PEM
	seedFile    = "mldsa.seed"  // 64 hex digits and a newline; may be absent
	lockFile    = "lock"
	thawFolder  = "thaw"
	charters    = "charters"
	versionText = "version 1\n"
)

// Errors of a witness's own folder.
var (
	ErrNoWitness = errors.New("not a witness's folder")
	ErrExists    = errors.New("a witness already, or something else")
)

// Folder is the folder of a witness that is a process of its own:
//
//	witness       "version 1"                   witness.key   Ed25519, PKCS 8, PEM, mode 0600
//	mldsa.seed    ML-DSA-44 seed, hex, 0600     lock          held by the server
//	thaw/HEX      a person's word: thaw the log with this ID at the next start
//	charters/HEX  the newest charter that was followed to, by the id of its state, as the owner encodes it
//
// beside what [Open] keeps.
type Folder struct {
	Dir       string
	Key       ed25519.PrivateKey
	Cosigners []*ledger.Cosigner // Ed25519 first; all of the name Name
	Name      string
}

// Init makes a witness's folder with fresh keys; with mldsa one of ML-DSA-44 beside the Ed25519 key. A folder that holds
// anything but what a crashed Init left is ErrExists and left alone.
func Init(dir string, mldsa bool) (*Folder, error) {
	if err := durable.MkdirAll(dir, folderPerm); err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	unlock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	defer unlock()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	for _, e := range entries {
		if n := e.Name(); n != keyFile && n != seedFile && n != lockFile && !durable.IsTemp(n) {
			return nil, fmt.Errorf("witness: init: %s holds %s: %w", dir, n, ErrExists)
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("witness: init: key: %w", err)
	}
	text, err := peer.EncodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("witness: init: key: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, keyFile), text, peer.KeyPerm); err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	if err := initSeed(filepath.Join(dir, seedFile), mldsa); err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	// A crash before this leaves no witness yet, and Init begins again with other keys.
	if err := durable.WriteFile(filepath.Join(dir, versionFile), []byte(versionText), filePerm); err != nil {
		return nil, fmt.Errorf("witness: init: %w", err)
	}
	return Load(dir)
}

func initSeed(path string, wanted bool) error {
	if !wanted {
		return durable.Remove(path) // of an Init that crashed
	}
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	return durable.WriteFile(path, peer.EncodeSeed(&seed), peer.KeyPerm)
}

// Load reads a witness's folder: its keys, and nothing that it saw.
func Load(dir string) (*Folder, error) {
	text, err := readNote(filepath.Join(dir, versionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("witness: %s: %w", dir, ErrNoWitness)
	}
	if err != nil {
		return nil, err
	}
	if string(text) != versionText {
		return nil, fmt.Errorf("witness: %s: %q is unknown to this program: %w", dir, firstLine(text), ErrNoWitness)
	}
	f := &Folder{Dir: dir}
	if f.Key, err = loadKey(filepath.Join(dir, keyFile)); err != nil {
		return nil, err
	}
	f.Name = ledger.WitnessName(ed25519.PublicKey(f.Key[32:]))
	first, err := ledger.NewCosigner(f.Name, f.Key)
	if err != nil {
		return nil, fmt.Errorf("witness: key: %w", err)
	}
	f.Cosigners = []*ledger.Cosigner{first}
	seed, err := loadSeed(filepath.Join(dir, seedFile))
	if err != nil || seed == nil {
		return f, err
	}
	second, err := ledger.NewMLDSACosigner(f.Name, seed)
	if err != nil {
		return nil, fmt.Errorf("witness: key: %w", err)
	}
	f.Cosigners = append(f.Cosigners, second)
	return f, nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line[:min(len(line), 40)]
}

// secret reads a file that must be open to nobody else.
func secret(path string) ([]byte, error) {
	if err := peer.CheckSecret(path); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	return readNote(path)
}

func loadKey(path string) (ed25519.PrivateKey, error) {
	text, err := secret(path)
	if err != nil {
		return nil, err
	}
	key, err := peer.ParseOnlyKey(text)
	if err != nil {
		return nil, fmt.Errorf("witness: %s: %w", path, err)
	}
	return key, nil
}

// loadSeed returns nil where there is none.
func loadSeed(path string) (*[32]byte, error) {
	text, err := secret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seed, err := peer.ParseSeed(text)
	if err != nil {
		return nil, fmt.Errorf("witness: %s: %w", path, err)
	}
	return seed, nil
}

// Keys are the public keys, Ed25519 first.
func (f *Folder) Keys() []ledger.WitnessKey {
	var keys []ledger.WitnessKey
	for _, c := range f.Cosigners {
		keys = append(keys, c.Key())
	}
	return keys
}

// Lock takes the folder for this process; durable.ErrLocked when a server runs on it.
func (f *Folder) Lock() (unlock func(), err error) {
	return durable.Lock(filepath.Join(f.Dir, lockFile))
}

// AllowThaw writes a person's word down that the witness may cosign this log at its next start without asking anybody.
// The caller holds the lock.
func (f *Folder) AllowThaw(origin string) error {
	folder := filepath.Join(f.Dir, thawFolder)
	if err := durable.MkdirAll(folder, folderPerm); err != nil {
		return fmt.Errorf("witness: thaw: %w", err)
	}
	// A crash before this ends leaves the log frozen, and the person says it again.
	if err := durable.WriteFile(filepath.Join(folder, ID(origin)), []byte(origin+"\n"), filePerm); err != nil {
		return fmt.Errorf("witness: thaw: %w", err)
	}
	return nil
}

// TakeThaw tells whether a person allowed this log to be thawed, and takes that word back: it is for one start. The
// caller holds the lock.
func (f *Folder) TakeThaw(origin string) (bool, error) {
	path := filepath.Join(f.Dir, thawFolder, ID(origin))
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("witness: thaw: %w", err)
	}
	// A crash after this leaves the log frozen, and the person says it again: the word never serves two starts.
	if err := durable.Remove(path); err != nil {
		return false, fmt.Errorf("witness: thaw: %w", err)
	}
	return true, nil
}

// KeepCharter keeps the newest charter of a state, by the hex of its id. The caller holds the lock.
func (f *Folder) KeepCharter(state string, data []byte) error {
	folder := filepath.Join(f.Dir, charters)
	if err := durable.MkdirAll(folder, folderPerm); err != nil {
		return fmt.Errorf("witness: charter: %w", err)
	}
	// A crash leaves the one before or this one.
	if err := durable.WriteFile(filepath.Join(folder, state), data, filePerm); err != nil {
		return fmt.Errorf("witness: charter: %w", err)
	}
	return nil
}

// Charter is what KeepCharter kept; nil where there is nothing.
func (f *Folder) Charter(state string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(f.Dir, charters, state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("witness: charter: %w", err)
	}
	return data, nil
}
