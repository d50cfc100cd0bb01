package archive_test

import (
	"fmt"
	"testing"

	"chancery.dev/chancery/internal/sim"
)

func TestARichTreeComesBackWhole(t *testing.T) {
	for _, kn := range [][2]int{{1, 1}, {1, 3}, {2, 3}, {3, 5}} {
		t.Run(fmt.Sprintf("%d of %d", kn[0], kn[1]), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, kn[0], kn[1])
			b.grow(func(g *sim.Grower) { g.Do(func() error { return sim.Rich(g.Root, 7, kn[1] == 3) }) })
			rep := b.backup()
			if rep.ProblemSum != 0 || len(rep.Down) != 0 {
				t.Errorf("problems %v, down %v", rep.Problems, rep.Down)
			}
			b.comesBack("latest", b.tree)
		})
	}
}
