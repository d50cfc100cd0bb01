package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// record makes a record with data of its own.
func record(manager, info byte, xid uint32, data []byte) []byte {
	b := make([]byte, recordHeader, recordHeader+5+len(data))
	b = append(b, 254)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint32(b[4:], xid)
	b[16], b[17] = info, manager
	sum := crc32.Update(crc32.Checksum(b[recordHeader:], castagnoli), castagnoli, b[:20])
	binary.LittleEndian.PutUint32(b[20:], sum)
	return b
}

// page is the first of a segment of 1 MiB, with records.
func page(magic uint16, at LSN, records ...[]byte) []byte {
	b := make([]byte, longHeader, PageSize)
	le := binary.LittleEndian
	le.PutUint16(b, magic)
	le.PutUint16(b[2:], pageLong)
	le.PutUint32(b[4:], 1)
	le.PutUint64(b[8:], uint64(at))
	le.PutUint64(b[24:], 7)
	le.PutUint32(b[32:], 1<<20)
	le.PutUint32(b[36:], PageSize)
	for _, r := range records {
		b = append(b, make([]byte, -len(b)&7)...)
		b = append(b, r...)
	}
	return append(b, make([]byte, PageSize-len(b))...)
}

// point is the data of a restore point.
func point(name string) []byte {
	b := make([]byte, 8+64)
	copy(b[8:], name)
	return b
}

// prepared is the data of the end of a transaction that was prepared, with one of all that may stand before its number.
func prepared(xid uint32, stats int) []byte {
	b := make([]byte, 8)
	list := func(n, size int) {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		b = append(b, bytes.Repeat([]byte{0xEE}, n*size)...)
	}
	b = binary.LittleEndian.AppendUint32(b, 1|1<<1|1<<2|1<<3|1<<4|1<<8)
	b = append(b, make([]byte, 8)...)
	list(3, 4)
	list(2, 12)
	list(1, stats)
	list(4, 16)
	return binary.LittleEndian.AppendUint32(b, xid)
}

// What a recovery may aim at is read from its record: the name of a restore point, and the number of a transaction that
// ended, which of one that was prepared stands behind lists whose form changed with version 18.
func TestWhatARecoveryMayAimAt(t *testing.T) {
	t.Parallel()
	const at = LSN(5 << 20)
	for magic, stats := range map[uint16]int{0xD110: 12, 0xD116: 12, 0xD118: 16} {
		var points []string
		var xids []uint32
		data := page(magic, at,
			record(xlogManager, xlogPoint, 0, point("sold")), record(xactManager, xactCommit, 800, make([]byte, 8)),
			record(xactManager, xactAbort, 801, make([]byte, 8)), record(xactManager, 0x10, 802, make([]byte, 40)), // prepared: not ended
			record(xactManager, xactCommitPrepared|xactMore, 0, prepared(802, stats)), record(10, 0, 803, []byte("a row")),
			record(xactManager, xactAbortPrepared|xactMore, 0, prepared(804, stats)), record(xactManager, xactAbortPrepared|xactMore, 0, prepared(805, stats)[:60]))
		Records(at, 1<<20, data, func(r Record) bool {
			if r.Point != "" {
				points = append(points, r.Point)
			}
			if r.XID != 0 {
				xids = append(xids, r.XID)
			}
			return true
		})
		if !slices.Equal(points, []string{"sold"}) || !slices.Equal(xids, []uint32{800, 801, 802, 804}) {
			t.Errorf("magic %04X: %q, %d", magic, points, xids)
		}
	}
}

// Whatever the bytes are, records follow each other within them.
func FuzzRecords(f *testing.F) {
	f.Add(page(0xD110, 0, record(xlogManager, xlogPoint, 0, point("sold")), record(xactManager, xactCommitPrepared|xactMore, 0, prepared(7, 12))))
	f.Add(page(0xD118, 0, record(xlogManager, xlogSwitch, 0, nil), record(xactManager, xactCommit, 9, make([]byte, 8))))
	f.Add(append(page(0xD118, 0), page(0xD118, PageSize)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var last LSN
		reached, cut := Records(0, 1<<20, data, func(r Record) bool {
			if r.Start < last || r.End <= r.Start || r.Next < r.End || r.End > LSN(len(data)) {
				t.Fatalf("%+v behind %s in %d bytes", r, last, len(data))
			}
			last = r.Next
			return true
		})
		if reached < last || cut && reached >= LSN(len(data)) {
			t.Fatalf("reached %s behind %s of %d bytes, cut %v", reached, last, len(data), cut)
		}
	})
}
