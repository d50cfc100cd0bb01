package evidence

import (
	"bytes"
	"testing"
)

// BenchmarkJudge reads and judges a file of 100,000 objects.
func BenchmarkJudge(b *testing.B) {
	w := newWorld(b)
	w.snapshot(1, 10, nil)
	lu := w.logs["lu"]
	for i := range uint64(100_000) {
		lu.object(hash32(1 << 20 * i))
	}
	data := written(b, w.pack(lu.show(0, lu.cosigned())))
	b.SetBytes(int64(len(data)))
	b.ReportMetric(float64(len(data)), "file-bytes")
	for b.Loop() {
		p, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			b.Fatal(err)
		}
		v, err := Judge(p, nil, w.charter)
		if err != nil || v.Count(Held) < 3 {
			b.Fatal(err, v)
		}
	}
}
