package embassy

import (
	"syscall"
	"testing"

	"chancery.dev/chancery/internal/shard"
)

// cpu is this process's processor time in ms; both ends run in it.
func cpu() float64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e6
}

func benchPut(b *testing.B, size, lanes int) {
	s := serve(b, initFolder(b), Options{})
	c := s.client(b, "agent")
	data := seeded(size, "bench")
	b.SetBytes(int64(size))
	jobs := make(chan int)
	done := make(chan error, lanes)
	names := make([]shard.Name, b.N)
	bodies := make([][]byte, lanes)
	for i := range bodies {
		bodies[i] = append([]byte(nil), data...)
	}
	for l := range lanes {
		go func() {
			body := bodies[l]
			for i := range jobs {
				body[0], body[1], body[2], body[3] = byte(i), byte(i>>8), byte(i>>16), byte(l)
				names[i] = shard.Root(body)
				if err := c.Put(b.Context(), names[i], body); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	b.ResetTimer()
	before := cpu()
	for i := range b.N {
		jobs <- i
	}
	close(jobs)
	for range lanes {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-before)/float64(b.N), "cpu-ms/op")
}

func BenchmarkPut16M(b *testing.B)        { benchPut(b, 16<<20, 1) }
func BenchmarkPut16MLanes4(b *testing.B)  { benchPut(b, 16<<20, 4) }
func BenchmarkPut64KLanes16(b *testing.B) { benchPut(b, 64<<10, 16) }

func BenchmarkHash16M(b *testing.B) {
	_, data := object(16<<20, "x")
	b.SetBytes(16 << 20)
	for b.Loop() {
		shard.Root(data)
	}
}

func BenchmarkGet16M(b *testing.B) {
	s := serve(b, initFolder(b), Options{})
	c := s.client(b, "agent")
	name, data := object(16<<20, "bench")
	if err := c.Put(b.Context(), name, data); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 16<<20)
	b.SetBytes(16 << 20)
	before := cpu()
	for b.Loop() {
		if _, err := c.Get(b.Context(), name, dst); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-before)/float64(b.N), "cpu-ms/op")
}
