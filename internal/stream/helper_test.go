package stream_test

import (
	"os"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

func TestMain(m *testing.M) {
	stream.Hurry()
	os.Exit(m.Run())
}

// check ends a test at an error that the property is not about.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is a state and an agent's folder.
type bench struct {
	testing.TB
	state *sim.State
	dir   string // of the agent
}

func newBench(t testing.TB, k, n int) *bench {
	t.Helper()
	s, err := sim.NewState(1, k, n)
	check(t, err)
	return &bench{t, s, filepath.Join(sim.FastDir(t), "agent")}
}

func (b *bench) reg() *register.Register { return b.state.Register(b.dir) }
