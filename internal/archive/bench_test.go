package archive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/sim"
)

// benchTree is the tree that benchmarks read: the one that CHANCERY_BENCH_TREE names, or one of 64 MiB.
func benchTree(b *testing.B) string {
	b.Helper()
	if dir := os.Getenv("CHANCERY_BENCH_TREE"); dir != "" {
		return dir
	}
	g := &sim.Grower{Root: filepath.Join(sim.FastDir(b), "tree")}
	for i := range 1500 {
		g.File(fmt.Sprintf("d%02d/f%04d", i%50, i), sim.Text(uint64(i), 1000+i*20))
	}
	for i := range 5 {
		g.File(fmt.Sprintf("large/%d", i), sim.Bytes(uint64(i), 8<<20))
	}
	check(b, g.Err)
	return g.Root
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured runs work with the timer on and reports bytes and CPU time.
func measured(b *testing.B, work func() (bytes uint64)) {
	b.Helper()
	used := time.Duration(0)
	for range b.N {
		before := cpu(b)
		b.StartTimer()
		b.SetBytes(int64(work()))
		b.StopTimer()
		used += cpu(b) - before
	}
	b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
}

func BenchmarkBackup(b *testing.B) {
	for _, kn := range [][2]int{{1, 1}, {2, 3}} {
		b.Run(fmt.Sprintf("%dof%d", kn[0], kn[1]), func(b *testing.B) {
			b.StopTimer()
			tree := benchTree(b)
			measured(b, func() uint64 {
				x := newBench(b, kn[0], kn[1])
				x.tree = tree
				for _, e := range x.state.Embassies {
					e.Forget = true
				}
				return x.backup().Stats.Bytes
			})
		})
	}
}

func BenchmarkUnchanged(b *testing.B) {
	b.StopTimer()
	x := newBench(b, 1, 1)
	x.tree = benchTree(b)
	x.state.Embassies[0].Forget = true
	x.backup()
	measured(b, func() uint64 { return x.backup().Stats.Bytes })
}

func BenchmarkRestore(b *testing.B) {
	for _, kn := range [][2]int{{1, 1}, {2, 3}} {
		b.Run(fmt.Sprintf("%dof%d", kn[0], kn[1]), func(b *testing.B) {
			b.StopTimer()
			x := newBench(b, kn[0], kn[1])
			x.tree = benchTree(b)
			size := x.backup().Stats.Bytes
			measured(b, func() uint64 {
				dir := sim.FastDir(b)
				r, err := x.reader()
				check(b, err)
				defer r.Close()
				head, err := r.Find("")
				check(b, err)
				_, err = r.Restore(b.Context(), head, filepath.Join(dir, "to"), archive.RestoreOptions{Target: everything}, nil)
				check(b, err)
				check(b, os.RemoveAll(dir))
				return size
			})
		})
	}
}
