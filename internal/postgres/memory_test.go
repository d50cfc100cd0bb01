//go:build !race

// Under the race detector what follows takes minutes of moving bytes, and does nothing at once that other tests do not.

package postgres_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
)

// A backlog of a gibibyte goes abroad in memory that does not grow with it, also while embassies are slow, and however
// well it can be compressed.
func TestABacklogIsTakenInBoundedMemory(t *testing.T) {
	for name, text := range map[string]string{
		"well":  "SELECT repeat(md5('x'), 1 << 17) AS x",
		"badly": "SELECT string_agg(md5(random()::text), '') AS x FROM generate_series(1, 1 << 17)",
	} {
		t.Run(name, func(t *testing.T) {
			if os.Getenv(aloneVariable) != "" {
				backlogOf(t, text)
				return
			}
			// In a process of its own: what other tests have in memory is not the stream's.
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestABacklogIsTakenInBoundedMemory$/^"+name+"$")
			c.Env = append(os.Environ(), aloneVariable+"=1")
			out, err := c.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("--- PASS: TestABacklogIsTakenInBoundedMemory/"+name)) {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// aloneVariable is set where the process has nothing to do but one backlog.
const aloneVariable = "CHANCERY_TEST_BACKLOG"

func backlogOf(t *testing.T, text string) {
	const backlog = 1 << 30
	w := newWorld(t, 15, settings("wal_keep_size", "4GB", "max_wal_size", "8GB", "full_page_writes", "off"))
	for _, e := range w.state.Embassies {
		e.Forget = true // names only: what is measured is the stream
	}
	s := w.stream()
	s.told(postgres.Connected)
	s.until(w.written())
	s.end()
	w.server.Exec("SELECT pg_logical_emit_message(false, 'x', x) FROM (" + text + ") y, generate_series(1, 256)")
	w.server.Exec("SELECT pg_switch_wal()")
	w.state.Fail(sim.Faults{Before: func(_ context.Context, c *sim.Call) error {
		if c.Op == sim.Put {
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	}})
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // as cmd/chancery does
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(232 << 20))
	debug.FreeOSMemory()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.Sys-m.HeapReleased))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	_, from := s.durable()
	s = w.stream()
	end := w.written()
	s.until(end)
	if end-from < backlog {
		t.Errorf("a backlog of only %d bytes", end-from)
	}
	if most := most.Load(); most > 300<<20 {
		t.Errorf("%d MiB of memory, %d before", most>>20, (before.Sys-before.HeapReleased)>>20)
	} else {
		t.Logf("%d MiB of memory, %d before", most>>20, (before.Sys-before.HeapReleased)>>20)
	}
}
