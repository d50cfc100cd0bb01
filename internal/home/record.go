package home

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
)

// recordsDir is where a register's records before its newest lie, each under its sequence. Embassies remove theirs when
// the register is erased, and a certificate of that shows all there were.
const recordsDir = "records"

// replaceRecord makes a record the register's newest. The one before is kept first: a crash between the two leaves it
// there twice, and the newest as it was.
func (r *Register) replaceRecord(next *charter.Register) error {
	old, err := r.Record.Marshal()
	if err != nil {
		return err
	}
	raw, err := next.Marshal()
	if err != nil {
		return err
	}
	dir := filepath.Join(r.Dir, recordsDir)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, strconv.FormatUint(r.Record.Sequence, 10)), old, 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(r.Dir, "record"), raw, 0o600); err != nil {
		return err
	}
	r.Record = next
	return nil
}

// Records are all records of the register that home has, by their sequence.
func (r *Register) Records() (all []*charter.Register, err error) {
	entries, err := os.ReadDir(filepath.Join(r.Dir, recordsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || n >= r.Record.Sequence { // a temporary file, or what a crash left twice
			continue
		}
		raw, err := os.ReadFile(filepath.Join(r.Dir, recordsDir, e.Name()))
		if err != nil {
			return nil, err
		}
		rec, err := charter.ParseRegister(raw)
		if err == nil {
			err = rec.Verify()
		}
		if err != nil || rec.ID != r.Record.ID || rec.Sequence != n {
			return nil, fmt.Errorf("%s: not record %d of the register: %w", e.Name(), n, errors.Join(charter.ErrRegister, err))
		}
		all = append(all, rec)
	}
	all = append(all, r.Record)
	slices.SortFunc(all, func(a, b *charter.Register) int { return int(int64(a.Sequence) - int64(b.Sequence)) })
	return all, nil
}

// ErrGranted means that a reader has the register's key already.
var ErrGranted = errors.New("is a reader of this register already")

// Grant makes the register's next record, which gives its key to one reader more and changes nothing else. secrets are
// what the newest record holds, with the seed: opened by another reader or by custodians, for nothing at home opens them.
// seen is the highest number of a record of it anywhere. It counts nowhere before an order allows it and embassies took it.
func (h *Home) Grant(r *Register, secrets *charter.RegisterSecrets, recipient string, seen uint64) (*charter.Register, error) {
	if err := fits(r.Record, secrets); err != nil {
		return nil, err
	}
	rec, reader := *r.Record, charter.RecipientHash(recipient)
	if slices.ContainsFunc(rec.Grants, func(g charter.Grant) bool { return g.Recipient == reader }) {
		return nil, fmt.Errorf("register %s: %s… %w", r.Definition.Name, recipient[:min(len(recipient), 16)], ErrGranted)
	}
	plain, err := secrets.Marshal()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	sealed, err := custody.SealTo(recipient, plain)
	if err != nil {
		return nil, err
	}
	rec.Grants = append(slices.Clone(rec.Grants), charter.Grant{Recipient: reader, Sealed: sealed})
	rec.Sequence, rec.Time = max(seen, rec.Sequence)+1, time.Now().UnixNano()
	agent, err := h.AgentKey()
	if err != nil {
		return nil, err
	}
	return &rec, rec.Sign(agent)
}

// ErrOtherRecord means that a record is not the register's next one.
var ErrOtherRecord = errors.New("not a next record of this register")

// CheckNext tells whether a record may follow the register's newest: it has the same keys, secrets and embassies, and all
// the readers.
func (r *Register) CheckNext(next *charter.Register) error {
	kept := func(g charter.Grant) bool {
		return slices.ContainsFunc(next.Grants, func(n charter.Grant) bool { return n.Recipient == g.Recipient })
	}
	now := r.Record
	for _, g := range now.Grants {
		if !kept(g) {
			return fmt.Errorf("register %s: %w: it lacks a reader", r.Definition.Name, ErrOtherRecord)
		}
	}
	same := *next
	same.Grants = now.Grants
	if !SameRegister(&same, now) || !bytes.Equal(next.Sealed, now.Sealed) || next.Sequence <= now.Sequence {
		return fmt.Errorf("register %s: %w: only its readers may differ, and its number must be above %d", r.Definition.Name, ErrOtherRecord, now.Sequence)
	}
	return nil
}

// Adopt makes a record that passes CheckNext the register's newest.
func (r *Register) Adopt(next *charter.Register) error {
	if err := r.CheckNext(next); err != nil {
		return err
	}
	return r.replaceRecord(next)
}
