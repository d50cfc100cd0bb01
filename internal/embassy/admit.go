package embassy

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
)

// Establish makes the folder of a new embassy that serves nobody yet: fresh keys, its
// name, the country that hosts it. States come with their agreements, by Admit. It
// returns the fingerprint of the embassy's key, which an agreement names.
func Establish(dir, name, country string) (fingerprint string, err error) {
	if !goodName(name) {
		return "", fmt.Errorf("embassy: init: name %q is not of the form a-z, 0-9 and -", name)
	}
	if !goodCountry(country) {
		return "", fmt.Errorf("embassy: init: country %q is not two capital letters", country)
	}
	if err := durable.MkdirAll(filepath.Join(dir, "states"), folderPerm); err != nil {
		return "", fmt.Errorf("embassy: init: %w", err)
	}
	unlock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return "", fmt.Errorf("embassy: init: %w", err)
	}
	defer unlock()
	if err := checkVirgin(dir); err != nil {
		return "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("embassy: init: key: %w", err)
	}
	if err := writeKey(filepath.Join(dir, keyFile), key); err != nil {
		return "", err
	}
	if _, err := makeSeed(dir); err != nil {
		return "", err
	}
	// embassy.yaml comes last: a crash before it leaves a folder that is no
	// embassy yet, and init begins again with other keys.
	if err := writeSettings(dir, settings{Version: bound, Name: name, Country: country}); err != nil {
		return "", fmt.Errorf("embassy: init: %w", err)
	}
	return charter.Fingerprint(publicOf(key)), nil
}

func writeSettings(dir string, s settings) error {
	doc, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, settingsFile), doc, filePerm)
}

// Admission is what lets a state, or a house of one, in.
type Admission struct {
	Charter, CharterSigs     []byte
	Agreement, AgreementSigs []byte
	Now                      time.Time // the operator's clock
}

// Admit adds a state to an embassy that does not serve at the moment. It checks
// that state and host signed the agreement, that it is about this embassy, and
// that the disk has the room which all agreements together grant. That this is the
// right host's signature is the operator's word: they are the host. The state of a
// folder of layout 1 comes under its first agreement so, and the folder to layout 2.
func Admit(dir string, a Admission) (charter.StateID, error) {
	unlock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
	}
	defer unlock()
	set, err := loadSettings(dir)
	if err != nil {
		return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
	}
	ch, data, err := a.check(dir, set)
	if err != nil {
		return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
	}
	folder := filepath.Join(dir, "states", ch.State.ID.String())
	file := filepath.Join(folder, agreementFile)
	if set.Version == unbound {
		// A crash between the two leaves an agreement that binds nobody yet, and the
		// folder as it was.
		if err := durable.WriteFile(file, data, filePerm); err != nil {
			return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
		}
		set.Version = bound
		if err := writeSettings(dir, set); err != nil {
			return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
		}
		return ch.State.ID, nil
	}
	if there, err := exists(file); there || err != nil {
		return charter.StateID{}, errors.Join(fmt.Errorf("embassy: admit: state %s is admitted: amendments come by the network", ch.State.ID), err)
	}
	// A crash before the end leaves a folder without an agreement, which is not
	// served; admitting again completes it.
	if err := initState(folder, ch, a.CharterSigs); err != nil {
		return charter.StateID{}, err
	}
	if err := durable.WriteFile(file, data, filePerm); err != nil {
		return charter.StateID{}, fmt.Errorf("embassy: admit: %w", err)
	}
	return ch.State.ID, nil
}

// check checks an admission and returns the charter, and the agreement as a record.
func (a *Admission) check(dir string, set settings) (*charter.Charter, []byte, error) {
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, nil, err
	}
	ch, err := readCharter(a.Charter, a.CharterSigs)
	if err != nil {
		return nil, nil, err
	}
	if set.Version == unbound {
		served, _, err := loadCharter(filepath.Join(dir, "states", ch.State.ID.String(), "charter"))
		if err != nil {
			return nil, nil, fmt.Errorf("%s serves another state without an agreement, which comes under one first: %w", dir, err)
		}
		if served.Hash() != ch.Hash() {
			return nil, nil, fmt.Errorf("%s has charter %d of this state: give that one", dir, served.Number)
		}
	}
	agreed, err := agreement.Parse(a.Agreement)
	if err != nil {
		return nil, nil, err
	}
	if err := agreed.Verify(a.AgreementSigs, ch, a.Now); err != nil {
		return nil, nil, err
	}
	if err := checkPlace(agreed, set, charter.Fingerprint(publicOf(key))); err != nil {
		return nil, nil, err
	}
	sum, err := othersRoom(dir, ch)
	if err != nil {
		return nil, nil, err
	}
	if err := quotasFit(dir, sum+agreed.Limits.QuotaBytes); err != nil {
		return nil, nil, err
	}
	data, err := order.NewRecord(a.Agreement, a.AgreementSigs).Bytes()
	return ch, data, err
}

// othersRoom is what the agreements of the other states grant, and for a house
// checks that its state is here and names it.
func othersRoom(dir string, ch *charter.Charter) (sum uint64, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, "states"))
	if err != nil {
		return 0, err
	}
	listed := ch.State.HouseOf == ""
	for _, e := range entries {
		if e.Name() == ch.State.ID.String() {
			continue
		}
		folder := filepath.Join(dir, "states", e.Name())
		if e.Name() == ch.State.HouseOf {
			state, _, err := loadCharter(filepath.Join(folder, "charter"))
			if err != nil {
				return 0, err
			}
			for _, h := range state.Houses {
				listed = listed || h.ID == ch.State.ID
			}
		}
		quota, err := newestQuota(folder)
		if err != nil {
			return 0, err
		}
		sum += quota
	}
	if !listed {
		return 0, fmt.Errorf("the charter is of a house of state %s, whose charter here does not list it", ch.State.HouseOf)
	}
	return sum, nil
}

// newestQuota is what the newest agreement of a state grants.
func newestQuota(folder string) (uint64, error) {
	newest, err := readFile(filepath.Join(folder, agreementFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // not admitted to the end
	}
	for err == nil {
		a, _, perr := readAgreement(newest)
		if perr != nil {
			return 0, perr
		}
		var next []byte
		next, err = readFile((&state{dir: folder}).recordPath(ledger.Slot{Kind: ledger.AgreementRecord, Sequence: a.Number + 1}), maxRecord)
		if errors.Is(err, fs.ErrNotExist) {
			return a.Limits.QuotaBytes, nil
		}
		newest = next
	}
	return 0, err
}

func diskSize(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("embassy: room: %w", err)
	}
	return st.Blocks * uint64(st.Bsize), nil
}
