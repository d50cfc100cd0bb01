package embassy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

var errMalformed = errors.New("a malformed value")

// listObjects returns names above after, in order. Lists read the file only: the
// caller catches up first.
func (c *catalog) listObjects(after shard.Name, limit int) ([]shard.Name, error) {
	var names []shard.Name
	err := c.db.View(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(objectsBucket).Cursor()
		k, _ := cur.Seek(after[:])
		if bytes.Equal(k, after[:]) {
			k, _ = cur.Next()
		}
		for ; k != nil && len(names) < limit; k, _ = cur.Next() {
			if len(k) != len(after) {
				return errMalformed
			}
			names = append(names, shard.Name(k))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("embassy: catalogue: %w", err)
	}
	return names, nil
}

func (c *catalog) listRecords(kind ledger.RecordKind, register [16]byte, after uint64, limit int) ([]ledger.RecordInfo, error) {
	var infos []ledger.RecordInfo
	err := c.db.View(func(tx *bbolt.Tx) error {
		from := slotKey(ledger.Slot{Kind: kind, Register: register, Sequence: after})
		cur := tx.Bucket(recordsBucket).Cursor()
		k, v := cur.Seek(from)
		if bytes.Equal(k, from) {
			k, v = cur.Next()
		}
		for ; k != nil && bytes.HasPrefix(k, from[:17]) && len(infos) < limit; k, v = cur.Next() {
			p, ok := parsePlace(v)
			if !ok || len(k) != len(from) {
				return errMalformed
			}
			slot := ledger.Slot{Kind: kind, Register: register, Sequence: binary.BigEndian.Uint64(k[17:])}
			infos = append(infos, ledger.RecordInfo{Slot: slot, Hash: p.hash, Size: p.size})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("embassy: catalogue: %w", err)
	}
	return infos, nil
}

// listRegisters skips from register to register; after nil is the beginning.
func (c *catalog) listRegisters(kind ledger.RecordKind, after *[16]byte, limit int) ([][16]byte, error) {
	var ids [][16]byte
	err := c.db.View(func(tx *bbolt.Tx) error {
		cur := tx.Bucket(recordsBucket).Cursor()
		last := ledger.Slot{Kind: kind, Sequence: ^uint64(0)}
		k, _ := cur.Seek([]byte{byte(kind)})
		if after != nil {
			last.Register = *after
			k, _ = cur.Seek(slotKey(last))
			if bytes.Equal(k, slotKey(last)) {
				k, _ = cur.Next()
			}
		}
		for k != nil && k[0] == byte(kind) && len(ids) < limit {
			if len(k) != 25 {
				return errMalformed
			}
			last.Register = [16]byte(k[1:17])
			ids = append(ids, last.Register)
			k, _ = cur.Seek(slotKey(last))
			if bytes.Equal(k, slotKey(last)) {
				k, _ = cur.Next()
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("embassy: catalogue: %w", err)
	}
	return ids, nil
}
