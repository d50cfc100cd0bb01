package stream_test

import (
	"maps"
	"testing"

	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// TestTheLagOfAnEmbassyIsWhatItLacksOfTheStream: of one that was away, and of none that has all; who is away is not in it.
func TestTheLagOfAnEmbassyIsWhatItLacksOfTheStream(t *testing.T) {
	b := newBench(t, 2, 3)
	f := b.flow()
	f.write(1, 20)
	f.end()
	b.state.Embassies[2].Fail(sim.Down())
	f = b.flow()
	f.write(21, 27)
	f.end()
	lag := func() map[string]uint64 {
		newest, err := stream.FindNewest(t.Context(), b.reg(), b.state.Agent)
		check(t, err)
		return stream.Lag(t.Context(), b.reg(), newest.Records)
	}
	if got := lag(); !maps.Equal(got, map[string]uint64{"e0": 0, "e1": 0}) {
		t.Error(got)
	}
	b.state.Embassies[2].Fail(sim.Faults{})
	if got := lag(); !maps.Equal(got, map[string]uint64{"e0": 0, "e1": 0, "e2": 7}) {
		t.Error(got)
	}
}
