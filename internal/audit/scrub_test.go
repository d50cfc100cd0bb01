package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/shard"
)

// scrubSeed is 32 bytes that are the same in every run.
func scrubSeed(word string) (b [32]byte) {
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(word))).Read(b[:]) // never fails
	return b
}

func scrubKey() ed25519.PrivateKey {
	seed := scrubSeed("keylux")
	return ed25519.NewKeyFromSeed(seed[:])
}

// sampleScrub is a record with one of everything.
func sampleScrub(t testing.TB) *ScrubRecord {
	t.Helper()
	r := &ScrubRecord{
		State: [16]byte{1}, Sequence: 7, To: shard.Name(bytes.Repeat([]byte{0xff}, 32)), Began: 5, Ended: 6, Checked: 3, Read: 300, Total: 4,
		Damaged: []Found{{Name: shard.Name{1}, What: Lost}, {Name: shard.Name{2}, What: Altered}},
		Mended:  []shard.Name{{3}}, Salt: scrubSeed("salt"),
	}
	if err := r.Sign(scrubKey()); err != nil {
		t.Fatal(err)
	}
	return r
}

type scrubVector struct {
	Name   string `json:"name"`
	Key    string `json:"key"`    // hex
	Record string `json:"record"` // hex
	Expect string `json:"expect"` // "ok", "format", "unknown" or "signature"
}

func TestScrubRecordVectors(t *testing.T) {
	vectors := readVectors(t, "scrub.json", makeScrubVectors)
	if !slices.Equal(vectors, makeScrubVectors(t)) {
		t.Error("records are written otherwise than they were")
	}
	verdicts := map[string]error{"ok": nil, "format": ledger.ErrFormat, "unknown": ledger.ErrUnknown, "signature": ledger.ErrSignature}
	for _, v := range vectors {
		key, raw := unhex(t, v.Key), unhex(t, v.Record)
		r, err := ParseScrubRecord(raw)
		if err == nil {
			err = r.Verify(key)
		}
		if !errors.Is(err, verdicts[v.Expect]) || (err == nil) != (v.Expect == "ok") {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Expect)
		}
	}
}

func makeScrubVectors(t *testing.T) []scrubVector {
	t.Helper()
	key := hex.EncodeToString(publicOf(scrubKey()))
	var out []scrubVector
	add := func(name, expect string, change func(*ScrubRecord), resign bool, bend func([]byte) []byte) {
		r := sampleScrub(t)
		if change != nil {
			change(r)
		}
		if resign {
			if err := r.Sign(scrubKey()); err != nil {
				t.Fatal(err)
			}
		}
		data, err := scrubForm.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if bend != nil {
			data = bend(data)
		}
		out = append(out, scrubVector{Name: name, Key: key, Record: hex.EncodeToString(data), Expect: expect})
	}
	add("a record", "ok", nil, false, nil)
	add("nothing found", "ok", func(r *ScrubRecord) { r.Damaged, r.Mended = nil, nil }, true, nil)
	add("a count changed", "signature", func(r *ScrubRecord) { r.Checked++ }, false, nil)
	add("a name less", "signature", func(r *ScrubRecord) { r.Damaged = r.Damaged[:1] }, false, nil)
	add("names out of order", "format", func(r *ScrubRecord) { slices.Reverse(r.Damaged) }, false, nil)
	add("beyond the range", "format", func(r *ScrubRecord) { r.To = shard.Name{2} }, false, nil)
	add("mended and damaged", "format", func(r *ScrubRecord) { r.Mended[0] = shard.Name{2} }, false, nil)
	add("another embassy's id", "format", func(r *ScrubRecord) { r.Embassy[0]++ }, false, nil)
	add("damage of kind 4", "format", func(r *ScrubRecord) { r.Damaged[0].What = 4 }, false, nil)
	add("ended before it began", "format", func(r *ScrubRecord) { r.Ended = 4 }, false, nil)
	add("sequence 0", "format", func(r *ScrubRecord) { r.Sequence = 0 }, false, nil)
	add("version 2", "unknown", func(r *ScrubRecord) { r.Version = 2 }, false, nil)
	add("a byte too many", "format", nil, false, func(b []byte) []byte { return append(b, 0) })
	add("a byte too few", "format", nil, false, func(b []byte) []byte { return b[:len(b)-1] })
	add("not the shortest integer", "format", nil, false, func(b []byte) []byte { return slices.Concat(b[:1], []byte{0x18, 1}, b[2:]) })
	return out
}

func FuzzParseScrubRecord(f *testing.F) {
	data, err := sampleScrub(f).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseScrubRecord(data)
		if err != nil {
			return
		}
		again, err := r.Bytes()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("reads %x as %x: %v", data, again, err)
		}
	})
}
