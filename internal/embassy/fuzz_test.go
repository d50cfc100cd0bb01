package embassy

import (
	"bytes"
	"encoding/json"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-65535", "bytes=65536-999999999", "bytes=1-2", "bytes=-5", "bytes=5-", "bytes=0-0,1-1", "lines=0-1", "bytes=131072-131071"} {
		f.Add(s, int64(200_000))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		size = max(1, size%maxObject)
		off, n, err := parseRange(text, size)
		if err != nil {
			return
		}
		if off < 0 || n < 1 || off%shard.LeafSize != 0 || off+n > size {
			t.Errorf("%q of %d: %d bytes from %d", text, size, n, off)
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"objects":["00"],"records":[{"kind":"head","register":"00","sequence":1}]}`))
	f.Add([]byte(`{"names":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var q receiptsJSON
		if json.Unmarshal(data, &q) != nil {
			return
		}
		for _, r := range q.Records {
			slot, err := r.slot()
			if err != nil {
				continue
			}
			if slot.Sequence == 0 || slot.Kind.String() != r.Kind {
				t.Errorf("%+v from %+v", slot, r)
			}
		}
		names, err := parseNames(q.Objects)
		if err == nil && len(names) > 0 && names[0].String() != q.Objects[0] {
			t.Errorf("%q is read as %s", q.Objects[0], names[0])
		}
	})
}

func FuzzSettingsAndPlaces(f *testing.F) {
	f.Add(place{index: 3, size: 4, hash: [32]byte{5}}.bytes(true))
	f.Add(place{index: 3, size: 4}.bytes(false))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, ok := parsePlace(data)
		if ok && !bytes.Equal(p.bytes(len(data) == 48), data) {
			t.Errorf("%x is read as %+v", data, p)
		}
	})
}
