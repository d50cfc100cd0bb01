package embassy

import (
	"slices"
	"testing"
	"time"

	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/witness"
)

// BenchmarkCosigned is the time from the last append of 40 to a checkpoint that three witnesses have cosigned: two other
// embassies and one over plain HTTP, all with their own fsyncs on the one disk of this machine.
func BenchmarkCosigned(b *testing.B) {
	var berlin *witness.Witness
	w := newWorld(b, 3, func(c *charter.Charter) {
		var row charter.Witness
		row, berlin = plainWitness(b, "berlin", nil)
		c.Witnesses = []charter.Witness{row}
	})
	w.knows(berlin)
	w.cosigned(0, w.store(0, 1, "begin"))
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		size := w.store(0, 40, "round", i)
		began := time.Now()
		for len(w.cosigned(0, size).Groups) < 4 { // the ledger's own is one of them
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-most")
	for i := range w.sites {
		w.sites[i].stop()
	}
}
