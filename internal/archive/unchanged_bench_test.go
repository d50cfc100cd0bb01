package archive_test

import (
	"fmt"
	"testing"

	"chancery.dev/chancery/internal/sim"
)

// BenchmarkUnchangedTree measures a backup of 100,000 files in 1,000 folders of which nothing has changed: what it costs
// to know which packs a snapshot needs without reading anything.
func BenchmarkUnchangedTree(b *testing.B) {
	x := newBench(b, 2, 3)
	x.grow(func(g *sim.Grower) {
		for d := range 1000 {
			for f := range 100 {
				g.File(fmt.Sprintf("d%04d/f%03d", d, f), sim.Bytes(uint64(d*100+f), 2000))
			}
		}
	})
	x.backup()
	for b.Loop() {
		if rep := x.backup(); rep.Stats.Unchanged != 100_000 || rep.Stats.NewBytes != 0 {
			b.Fatal(rep.Stats)
		}
	}
}
