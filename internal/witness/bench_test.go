package witness

import (
	"crypto/ed25519"
	"testing"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

// BenchmarkCosign is one checkpoint after the other, each on disk before its answer.
func BenchmarkCosign(b *testing.B) {
	l := &fakeLog{t: &testing.T{}, origin: "log.example/1", key: seedKey(1)}
	const size = 1000
	l.grow(size, "leaf")
	key := seedKey(9)
	c, err := ledger.NewCosigner(ledger.WitnessName(ed25519.PublicKey(key[32:])), key)
	if err != nil {
		b.Fatal(err)
	}
	var requests [size]*ledger.AddCheckpoint
	for i := range requests {
		requests[i] = l.request(i, i+1)
	}
	var w *Witness
	for i := 0; b.Loop(); i++ {
		if i%size == 0 {
			if w, err = Open(b.TempDir(), []*ledger.Cosigner{c}, time.Now); err != nil {
				b.Fatal(err)
			}
			if err := w.SetLogs([]ledger.Log{l.log()}); err != nil {
				b.Fatal(err)
			}
			if err := w.Thaw(l.origin); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Add(requests[i%size]); err != nil {
			b.Fatal(err)
		}
	}
}
