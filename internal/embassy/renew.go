package embassy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// A ledger that lost its end can never go on: witnesses know it longer, and refuse it for good. The state then names the
// embassy's next ledger in its charter, and when the embassy starts it begins that one, with the charter as its first
// leaf and then everything that it still holds and finds whole. So nothing that it kept is lost by it, whoever ordered
// it, and what it did lose is seen to be missing.

const (
	ledgerFolder = "ledger"
	enterFile    = "entering" // there while a new ledger lacks what the embassy holds
	entering     = 64         // objects read and entered at once
)

// ledgerOrigin is what the charter calls this embassy's ledger; the first there is where it does not name the embassy.
func ledgerOrigin(ch *charter.Charter, key ed25519.PublicKey) string {
	if e, ok := ch.EmbassyByID(charter.EmbassyIDOf(key)); ok && ledger.OriginBelongs(e.Origin, ch.State.ID, key) {
		return e.Origin
	}
	return ledger.Origin(ch.State.ID, key)
}

// turnPage moves a ledger out of the way that the charter has replaced, and tells whether what the embassy holds must be
// entered into the one that begins. A crash before the rename leaves the old ledger, whose catalogue is made again; one
// after it leaves the file that makes the next start go on.
func (st *state) turnPage(key ed25519.PrivateKey) (origin string, renewed bool, err error) {
	origin = ledgerOrigin(st.inForce().charter, publicOf(key))
	dir, mark := filepath.Join(st.dir, ledgerFolder), filepath.Join(st.dir, enterFile)
	old, err := originIn(dir)
	if err != nil {
		return "", false, err
	}
	if old != "" && old != origin {
		if !ledger.OriginBelongs(old, st.id, publicOf(key)) {
			return "", false, fmt.Errorf("embassy: ledger: %s holds the ledger %s, which is not this embassy's", dir, old)
		}
		for _, derived := range []string{"catalog.db", "cosigned", witnessedFile} {
			if err := durable.Remove(filepath.Join(st.dir, derived)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", false, fmt.Errorf("embassy: ledger: %w", err)
			}
		}
		if err := durable.WriteFile(mark, []byte(origin+"\n"), filePerm); err != nil {
			return "", false, fmt.Errorf("embassy: ledger: %w", err)
		}
		aside := dir + "-" + generation(old, st.id, publicOf(key))
		if err := os.Rename(dir, aside); err != nil {
			return "", false, fmt.Errorf("embassy: ledger: %w", err)
		}
		if err := durable.SyncDir(st.dir); err != nil {
			return "", false, fmt.Errorf("embassy: ledger: %w", err)
		}
		st.log.Warn("the charter names a new ledger: it begins, and the one before is kept", "origin", origin, "kept", aside)
	}
	_, err = os.Stat(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("embassy: ledger: %w", err)
	}
	return origin, err == nil, nil
}

// generation counts an embassy's ledgers: "1", "2", …
func generation(origin string, state charter.StateID, key ed25519.PublicKey) string {
	if n, later := strings.CutPrefix(origin, ledger.Origin(state, key)+"/"); later {
		return n
	}
	return "1"
}

// originIn is the first line of the checkpoint in a ledger's folder; empty where there is none yet.
func originIn(dir string) (string, error) {
	raw, err := readFile(filepath.Join(dir, "checkpoint"), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return string(line), nil
}

// enterAgain gives a leaf to everything that lies on the disk whole and has none. Interrupted, the next start goes on.
func (st *state) enterAgain(actor ed25519.PublicKey) error {
	st.log.Info("entering what this embassy holds into its new ledger")
	var entered, left int
	var mu sync.Mutex
	var failed error
	room := make(chan struct{}, entering)
	var all sync.WaitGroup
	enter := func(do func() (bool, error)) {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			ok, err := do()
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			if ok {
				entered++
			} else {
				left++
			}
		})
	}
	err := errors.Join(st.eachRecordFile(func(slot ledger.Slot, path string) {
		enter(func() (bool, error) { return st.enterRecord(slot, path, actor) })
	}), st.eachObjectFile(func(name shard.Name) {
		enter(func() (bool, error) { return st.enterObject(name, actor) })
	}))
	all.Wait()
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("embassy: entering what is held: %w", err)
	}
	st.log.Info("entered", "leaves", entered, "not whole or there already", left)
	if err := durable.Remove(filepath.Join(st.dir, enterFile)); err != nil {
		return fmt.Errorf("embassy: ledger: %w", err)
	}
	return nil
}

func (st *state) enterObject(name shard.Name, actor ed25519.PublicKey) (bool, error) {
	if _, there, err := st.catalog.objectEver(name); there || err != nil {
		return false, err
	}
	size, err := st.store.stat(name)
	if err != nil || size < 1 || size > maxObject {
		return false, err
	}
	what, err := st.store.check(context.Background(), name, size)
	if err != nil || what != "" {
		return false, err
	}
	l := ledger.NewLeaf(ledger.ObjectStored, st.id)
	l.Name, l.Size, l.Actor = name, uint64(size), [32]byte(actor)
	_, err = st.act(&l)
	return err == nil, err
}

func (st *state) enterRecord(slot ledger.Slot, path string, actor ed25519.PublicKey) (bool, error) {
	if _, there, err := st.catalog.recordEver(slot); there || err != nil {
		return false, err
	}
	data, err := readFile(path, maxRecord)
	if err != nil || len(data) == 0 {
		return false, err
	}
	l := ledger.NewLeaf(ledger.RecordStored, st.id)
	l.Name, l.Size, l.Actor, l.Slot = sha256.Sum256(data), uint64(len(data)), [32]byte(actor), slot
	_, err = st.act(&l)
	return err == nil, err
}

// eachObjectFile calls do for every file below objects/ that is named like an object.
func (st *state) eachObjectFile(do func(shard.Name)) error {
	return st.eachFile("objects", func(path string) {
		if name, err := shard.ParseName(filepath.Base(path)); err == nil && st.store.path(name) == path {
			do(name)
		}
	})
}

// eachRecordFile calls do for every file below records/ that lies where a record's slot says.
func (st *state) eachRecordFile(do func(slot ledger.Slot, path string)) error {
	return st.eachFile("records", func(path string) {
		rel, err := filepath.Rel(filepath.Join(st.dir, "records"), path)
		parts := strings.Split(rel, string(filepath.Separator))
		if err != nil || len(parts) != 3 {
			return
		}
		kind, err1 := ledger.ParseRecordKind(parts[0])
		register, err2 := parseRegister(parts[1])
		sequence, err3 := strconv.ParseUint(parts[2], 10, 64)
		slot := ledger.Slot{Kind: kind, Register: register, Sequence: sequence}
		if errors.Join(err1, err2, err3) == nil && sequence > 0 && st.recordPath(slot) == path {
			do(slot, path)
		}
	})
}

// eachFile walks a folder of the state without going through symbolic links.
func (st *state) eachFile(folder string, do func(path string)) error {
	return filepath.WalkDir(filepath.Join(st.dir, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("embassy: %s: %w", folder, err)
		}
		if d.Type().IsRegular() {
			do(path)
		}
		return nil
	})
}
