package cluster

import (
	"context"
	"errors"
	"fmt"

	"chancery.dev/chancery/internal/wal"
)

// A Slot is a replication slot: the server's promise to keep the log that its user has not acknowledged.
type Slot struct {
	Name       string  `json:"name"`
	Kind       string  `json:"kind"` // physical or logical
	Database   string  `json:"database,omitempty"`
	Plugin     string  `json:"plugin,omitempty"`
	Temporary  bool    `json:"temporary"`
	Active     bool    `json:"active"`
	RestartLSN wal.LSN `json:"restart_lsn"` // the log is kept from here; zero when none is
	// WALStatus is reserved, extended (more than max_wal_size is kept), unreserved (about to be lost) or lost; empty for
	// a slot that keeps nothing yet.
	WALStatus string `json:"wal_status,omitempty"`
	// SafeWALSize is how many bytes of log can be written before the slot may be lost; absent where no limit is set.
	SafeWALSize *int64 `json:"safe_wal_size,omitempty"`
	// Invalidated is the server's reason for a lost slot, from version 17 on.
	Invalidated string `json:"invalidated,omitempty"`
}

// Lost says whether the server gave the slot up.
func (s Slot) Lost() bool { return s.WALStatus == "lost" }

// EnsureSlot makes a physical slot that keeps the log from now on, unless there is one of the name, and tells how it
// stands. With [ErrSlotLost] it returns the slot, too: a lost one is never replaced by itself, for there is a gap to
// tell of.
func (c *Conn) EnsureSlot(ctx context.Context, name string) (s Slot, created bool, err error) {
	_, err = c.query(ctx, "CREATE_REPLICATION_SLOT "+quoteName(name)+" PHYSICAL (RESERVE_WAL)")
	if created = err == nil; !created && stateOf(err) != stateExists {
		return s, false, fmt.Errorf("slot %s: %w", name, err)
	}
	s, err = c.Slot(ctx, name)
	if err == nil && s.Lost() {
		err = fmt.Errorf("slot %s: %w", name, ErrSlotLost)
	}
	return s, created, err
}

// Slot tells how a physical slot stands. It fails with [ErrSlotMissing] or [ErrSlotKind]; a lost slot is no error here.
func (c *Conn) Slot(ctx context.Context, name string) (Slot, error) {
	sql, err := c.ordinary(ctx)
	if err != nil {
		return Slot{}, fmt.Errorf("slot %s: %w", name, err)
	}
	defer sql.Close()
	slots, err := sql.slots(ctx)
	if err != nil {
		return Slot{}, fmt.Errorf("slot %s: %w", name, err)
	}
	for _, s := range slots {
		if s.Name != name {
			continue
		}
		if s.Kind != "physical" {
			return s, fmt.Errorf("slot %s: %w: %s", name, ErrSlotKind, s.Kind)
		}
		return s, nil
	}
	return Slot{}, fmt.Errorf("slot %s: %w", name, ErrSlotMissing)
}

// DropSlot removes a slot; the server may then remove what the slot kept. One that is not there is no error.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	err := c.send(ctx, "DROP_REPLICATION_SLOT "+quoteName(name))
	if err == nil {
		err = c.ready(ctx)
	}
	if err != nil && !errors.Is(err, ErrSlotMissing) {
		return fmt.Errorf("slot %s: %w", name, err)
	}
	return nil
}
