package postgres_test

import (
	"context"
	"testing"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/stream"
)

// How fast a backlog of a real server's log goes to one embassy in memory: what home itself spends.
func BenchmarkStreamOfABacklog(b *testing.B) {
	s := pgtest.Start(b, 15, pgtest.Options{Settings: map[string]string{"max_wal_size": "8GB", "fsync": "off"}})
	ctx := b.Context()
	conn, err := cluster.Open(ctx, s.Conninfo())
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := conn.EnsureSlot(ctx, "bench"); err != nil {
		b.Fatal(err)
	}
	for range 6 {
		s.Exec("create table bulk as select i, md5(i::text) a, md5((i * 7)::text) b, now() c from generate_series(1, 400000) i")
		s.Exec("update bulk set c = now() where i % 10 = 0")
		s.Exec("drop table bulk")
	}
	id, err := conn.Identify(ctx)
	if err != nil {
		b.Fatal(err)
	}
	conn.Close()
	b.ResetTimer()
	for range b.N {
		state, err := sim.NewState(1, 1, 1)
		if err != nil {
			b.Fatal(err)
		}
		reg := state.Register(b.TempDir())
		to, err := stream.Open(ctx, reg, state.Agent, stream.Options{})
		if err != nil {
			b.Fatal(err)
		}
		until := postgres.Position{Kind: postgres.KindLog, System: id.System, Timeline: 1, End: id.WriteLSN}
		slot := "bench"
		if err := postgres.Stream(ctx, to, postgres.StreamOptions{Conninfo: s.Conninfo(), Slot: slot, Interval: 1e8, Until: &until}); err != nil {
			b.Fatal(err)
		}
		if err := to.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(id.WriteLSN))
	}
}
