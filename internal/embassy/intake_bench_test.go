package embassy

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

// intakeFolder makes an embassy in a new folder below the one that the
// environment variable names, or in the test's own. The former stays: an ext4
// without a journal looks at each inode that was freed in the last minute
// before it gives out another, so that removing one run's files makes the next
// run slow.
func intakeFolder(b *testing.B, variable string) string {
	b.Helper()
	base := os.Getenv(variable)
	if base == "" {
		return initFolder(b)
	}
	dir, err := os.MkdirTemp(base, "intake-")
	if err != nil {
		b.Fatal(err)
	}
	c := sampleCharter(b, "one")
	unboundFolder(b, dir, "lux", "LU", c.Bytes(), signed(b, c, "signer"))
	return dir
}

// benchIntake stores b.N objects of 32 KiB from several sides over TLS, each
// side some at a time, and takes and verifies a receipt of each; all of it is in
// the time.
func benchIntake(b *testing.B, dir string, lanes, together int) {
	const size = 32 << 10
	s := serve(b, dir, Options{})
	c := s.dial(b, "agent", func(c *ClientConfig) { c.Conns = lanes })
	names := make([]shard.Name, b.N)
	data := seeded(size, "intake")
	jobs, done := make(chan int), make(chan error, lanes)
	for range lanes {
		go func() {
			objects := make([]Object, together)
			for i := range objects {
				objects[i].Data = append([]byte(nil), data...)
			}
			for from := range jobs {
				batch := objects[:min(together, b.N-from)]
				for i := range batch {
					binary.LittleEndian.PutUint64(batch[i].Data, uint64(from+i))
					batch[i].Name = shard.Root(batch[i].Data)
					names[from+i] = batch[i].Name
				}
				if err := errors.Join(c.PutMany(b.Context(), batch)...); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	b.SetBytes(size)
	b.ResetTimer()
	before := cpu()
	for i := 0; i < b.N; i += together {
		jobs <- i
	}
	close(jobs)
	for range lanes {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	put := b.Elapsed()
	receipts, err := c.Receipts(b.Context(), names, nil)
	if err != nil || len(receipts) != b.N {
		b.Fatalf("receipts: %v", err)
	}
	b.StopTimer()
	b.ReportMetric((cpu()-before)*1000/float64(b.N), "cpu-µs/object")
	b.ReportMetric(float64(b.N)/put.Seconds(), "puts/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

// BenchmarkIntake stores on the disk of INTAKE_DIR, or of the temporary folder,
// one object in a request on each of 64 connections.
func BenchmarkIntake(b *testing.B) { benchIntake(b, intakeFolder(b, "INTAKE_DIR"), 64, 1) }

// BenchmarkIntakeMany stores there as many as a request takes, on 16 connections.
func BenchmarkIntakeMany(b *testing.B) { benchIntake(b, intakeFolder(b, "INTAKE_DIR"), 16, 31) }

// BenchmarkIntakeMemory and BenchmarkIntakeManyMemory store on INTAKE_TMPFS, say
// /dev/shm, where a disk costs nothing: what is left is processor and waiting.
func BenchmarkIntakeMemory(b *testing.B) { benchIntake(b, intakeFolder(b, "INTAKE_TMPFS"), 64, 1) }

func BenchmarkIntakeManyMemory(b *testing.B) { benchIntake(b, intakeFolder(b, "INTAKE_TMPFS"), 16, 31) }
