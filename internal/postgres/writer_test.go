package postgres_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"chancery.dev/chancery/internal/wal"
)

// row is one commit that the server acknowledged.
type row struct {
	n    int
	xid  string
	lsn  wal.LSN   // where the log was after it
	time time.Time // the server's clock after it
	at   time.Time // ours, when it was acknowledged
}

// writer commits numbered rows all the while, through crashes of the server.
type writer struct {
	conninfo string
	pause    time.Duration
	quit     chan struct{} // closed when nothing more is to be committed
	once     sync.Once
	stop     context.CancelFunc // of a commit that waits
	over     chan struct{}

	mu   sync.Mutex
	rows []row // rows[i] is number i+1; lsn 0 where only its effect was seen after a crash
	busy bool  // a commit waits for its acknowledgement
}

// write begins to commit at the world's server.
func (w *world) write(pause time.Duration) *writer {
	w.Helper()
	ctx, stop := context.WithCancel(context.Background())
	wr := &writer{conninfo: w.server.Conninfo(), pause: pause, stop: stop, quit: make(chan struct{}), over: make(chan struct{})}
	for n := range w.rows() { // written by another before
		wr.rows = append(wr.rows, row{n: n + 1})
	}
	go func() {
		defer close(wr.over)
		wr.run(ctx)
	}()
	w.Cleanup(wr.end)
	return wr
}

// rows is how many rows the server holds.
func (w *world) rows() int {
	w.Helper()
	n, err := strconv.Atoi(w.server.Exec("SELECT count(*) FROM numbered"))
	check(w, err)
	return n
}

// end stops after the commit that is on its way, unless that waits for good.
func (wr *writer) end() {
	wr.once.Do(func() { close(wr.quit) })
	select {
	case <-wr.over:
	case <-time.After(2 * time.Second):
	}
	wr.stop()
	<-wr.over
}

func (wr *writer) ended() bool {
	select {
	case <-wr.quit:
		return true
	default:
		return false
	}
}

func (wr *writer) acknowledged() []row {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	return append([]row(nil), wr.rows...)
}

func (wr *writer) count() int { return len(wr.acknowledged()) }

// more waits until so many more rows were acknowledged.
func (wr *writer) more(t testing.TB, n int) {
	t.Helper()
	want := wr.count() + n
	await(t, fmt.Sprintf("%d rows, of which there are %d", want, want-n), func() bool { return wr.count() >= want })
}

func (wr *writer) run(ctx context.Context) {
	for !wr.ended() {
		wr.connection(ctx)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-wr.quit:
		}
	}
}

// connection commits rows until the connection breaks.
func (wr *writer) connection(ctx context.Context) {
	c, err := pgconn.Connect(ctx, wr.conninfo+" dbname=postgres application_name=writer target_session_attrs=read-write")
	if err != nil {
		return
	}
	defer c.Close(context.Background())
	got, err := ask(ctx, c, "SELECT coalesce(max(n), 0) FROM numbered")
	if err != nil {
		return
	}
	if n := wr.count(); got[0] == fmt.Sprint(n+1) { // committed, though nobody was told before the crash
		wr.mu.Lock()
		wr.rows = append(wr.rows, row{n: n + 1})
		wr.mu.Unlock()
	}
	for !wr.ended() {
		n := wr.count() + 1
		wr.waits(true)
		xid, err := ask(ctx, c, fmt.Sprintf("INSERT INTO numbered VALUES (%d, repeat(md5('%d'), %d)) RETURNING pg_current_xact_id()", n, n, 1+n%50))
		if err != nil {
			return
		}
		at := time.Now()
		got, err := ask(ctx, c, "SELECT pg_current_wal_insert_lsn(), to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
		if err != nil {
			got = []string{"0/0", "2000-01-01 00:00:00"}
		}
		lsn, _ := wal.ParseLSN(got[0])
		clock, _ := time.Parse("2006-01-02 15:04:05.999999", got[1])
		wr.mu.Lock()
		wr.rows, wr.busy = append(wr.rows, row{n, xid[0], lsn, clock, at}), false
		wr.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(wr.pause)
	}
}

// waiting says whether a commit waits to be acknowledged.
func (wr *writer) waiting() bool {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	return wr.busy
}

func (wr *writer) waits(busy bool) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.busy = busy
}

// ask runs one statement and returns the columns of its first row.
func ask(ctx context.Context, c *pgconn.PgConn, sql string) ([]string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range results {
		for _, cells := range r.Rows {
			for _, v := range cells {
				out = append(out, string(v))
			}
		}
	}
	return out, nil
}
