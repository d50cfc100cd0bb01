package auditor

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// BenchmarkMillion verifies a log of a million entries from files, as they lie at
// an embassy. It reports the most memory that the process had from the system.
func BenchmarkMillion(b *testing.B) {
	k := keeperOf("lu")
	dir := b.TempDir()
	m := logOf(b, k, acts(b, 1_000_000))
	for name, data := range m {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	clear(m)
	m = nil
	runtime.GC()
	before := heap()
	peak := uint64(0)
	src := Folder(os.DirFS(dir))
	for b.Loop() {
		began := time.Now()
		r, err := Verify(context.Background(), src, k.log(), Options{Progress: func(done, _ uint64) {
			if done%(64*tileWidth) == 0 {
				peak = max(peak, heap())
			}
		}})
		if err != nil || r.Verdict() != nil || r.Entries != 1_000_000 {
			b.Fatal(err, r.Verdict(), r.Why)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/million")
	}
	b.ReportMetric(float64(peak)/(1<<20), "MiB-heap-peak")
	b.ReportMetric(float64(before)/(1<<20), "MiB-heap-before")
}

// heap is what objects, live or not yet collected, take.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
