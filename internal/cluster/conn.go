package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	connectTimeout = 30 * time.Second
	answerTimeout  = 60 * time.Second // for what a server answers from memory
	readBuffer     = 256 << 10
	maxMessage     = 64 << 20 // bytes of one message; the server's own are far smaller
	maxRows        = 1 << 20
)

// A Conn is a physical replication connection. It is used by one goroutine at a time.
type Conn struct {
	config  *pgconn.Config
	net     net.Conn
	front   *pgproto3.Frontend
	sql     bool     // an ordinary connection
	notices []string // the server's warnings since the last command began
	busy    bool     // an answer has begun and not ended
	dead    error    // the connection stopped amid an answer

	beat    time.Duration // a stream tells the server at least so often how far it is
	silence time.Duration // and gives up after so long without a message, or without a receiver

	known Identity // what Identify said last
	live  *Stream  // the last that was begun
}

// Open connects to the server that conninfo names: key=value pairs or a postgres:// address as libpq reads them, with
// its environment, password and service files. It fails with [ErrConninfo], [ErrConnection], [ErrLogin] or
// [ErrNotReplication].
func Open(ctx context.Context, conninfo string) (*Conn, error) {
	config, err := parse(conninfo)
	if err != nil {
		return nil, err
	}
	return dial(ctx, config, true)
}

// parse reads a connection string. The library's own error holds the whole string, password included, and goes no
// further.
func parse(conninfo string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(conninfo)
	if err != nil {
		var file *fs.PathError
		if errors.As(err, &file) {
			return nil, fmt.Errorf("%w: %w", ErrConninfo, file)
		}
		return nil, fmt.Errorf("%w: want host=… user=… or postgres://…, as libpq reads them", ErrConninfo)
	}
	if config.Database == "" {
		config.Database = "postgres" // libpq would take the user's name, which no database has
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > connectTimeout {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "chancery"
	}
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
		f.SetMaxBodyLen(maxMessage)
		return f
	}
	return config, nil
}

func dial(ctx context.Context, config *pgconn.Config, replication bool) (*Conn, error) {
	config = config.Copy()
	if replication {
		config.RuntimeParams["replication"] = "true"
		// A stream says every few seconds that it is there; a shorter limit at the server would end it.
		config.RuntimeParams["wal_sender_timeout"] = "60s"
		config.ValidateConnect = replicationCheck(config.ValidateConnect)
	}
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(ctx, config, err, !replication)
	}
	h, err := pg.Hijack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnection, err)
	}
	c := &Conn{config: config, net: h.Conn, front: h.Frontend, sql: !replication, beat: beatEvery, silence: silenceLimit}
	c.known.host = fmt.Sprintf("%s:%d", config.Host, config.Port)
	return c, nil
}

func connectError(ctx context.Context, config *pgconn.Config, err error, sql bool) error {
	where := fmt.Sprintf("%s port %d, user %s", config.Host, config.Port, config.User)
	if stateOf(err) != "" {
		return fmt.Errorf("%s: %w", where, named(err, sql))
	}
	return fmt.Errorf("%s: %w", where, broken(ctx, err))
}

// replicationCheck does what target_session_attrs asks on a connection that runs no SQL: the library's own checks are
// queries. The server reports by itself what they ask for.
func replicationCheck(check pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	is := func(f pgconn.ValidateConnectFunc) bool {
		return check != nil && reflect.ValueOf(check).Pointer() == reflect.ValueOf(f).Pointer()
	}
	var wrong func(standby, readOnly bool) bool
	switch {
	case is(pgconn.ValidateConnectTargetSessionAttrsPrimary):
		wrong = func(standby, _ bool) bool { return standby }
	case is(pgconn.ValidateConnectTargetSessionAttrsStandby):
		wrong = func(standby, _ bool) bool { return !standby }
	case is(pgconn.ValidateConnectTargetSessionAttrsReadWrite):
		wrong = func(standby, readOnly bool) bool { return standby || readOnly }
	case is(pgconn.ValidateConnectTargetSessionAttrsReadOnly):
		wrong = func(standby, readOnly bool) bool { return !standby && !readOnly }
	default: // any, or prefer-standby, which takes any, too
		return nil
	}
	return func(_ context.Context, pg *pgconn.PgConn) error {
		if wrong(pg.ParameterStatus("in_hot_standby") == "on", pg.ParameterStatus("default_transaction_read_only") == "on") {
			return errors.New("not the kind of server that target_session_attrs asks for")
		}
		return nil
	}
}

// Close ends the connection.
func (c *Conn) Close() error {
	if c.dead == nil {
		c.dead = net.ErrClosed
		c.goodbye()
	}
	return c.net.Close()
}

// goodbye may be missed by the server. A stream that writes just now has the connection to itself until it is closed.
func (c *Conn) goodbye() {
	if s := c.live; s != nil {
		s.finish()
		if !s.mu.TryLock() {
			return
		}
		defer s.mu.Unlock()
	}
	_ = c.net.SetDeadline(time.Now().Add(time.Second))
	c.front.Send(&pgproto3.Terminate{})
	_ = c.front.Flush()
}

// guard ends what the connection waits for when ctx ends or the time is over; no limit is none but the context's.
func (c *Conn) guard(ctx context.Context, limit time.Duration) (release func()) {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	_ = c.net.SetDeadline(deadline) // a closed connection fails at its next use
	stop := context.AfterFunc(ctx, func() { _ = c.net.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// send begins a command.
func (c *Conn) send(ctx context.Context, command string) error {
	if c.dead != nil {
		return fmt.Errorf("%w: %w", ErrConnection, c.dead)
	}
	c.notices, c.busy = nil, true
	defer c.guard(ctx, answerTimeout)()
	c.front.SendQuery(&pgproto3.Query{String: command})
	if err := c.front.Flush(); err != nil {
		return c.fail(broken(ctx, err))
	}
	return nil
}

// next returns the next message but notices and parameters. An error of the server comes as an error, with the
// connection ready again.
func (c *Conn) next(ctx context.Context, limit time.Duration) (pgproto3.BackendMessage, error) {
	defer c.guard(ctx, limit)()
	m, err := c.receive()
	if err != nil {
		return nil, c.fail(broken(ctx, err))
	}
	if e, ok := m.(*pgproto3.ErrorResponse); ok {
		return nil, c.refused(ctx, e)
	}
	return m, nil
}

func (c *Conn) receive() (pgproto3.BackendMessage, error) {
	for {
		m, err := c.front.Receive()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.NoticeResponse:
			if len(c.notices) < 100 {
				c.notices = append(c.notices, m.Message)
			}
		case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return m, nil
		}
	}
}

// refused turns the server's error into ours, and reads on until the server is ready for the next command.
func (c *Conn) refused(ctx context.Context, e *pgproto3.ErrorResponse) error {
	refusal := named(pgconn.ErrorResponseToPgError(e), c.sql)
	if e.Severity == "FATAL" || e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC" {
		if !errors.Is(refusal, ErrConnection) {
			refusal = fmt.Errorf("%w: %w", ErrConnection, refusal)
		}
		return c.fail(refusal)
	}
	defer c.guard(ctx, answerTimeout)()
	for {
		m, err := c.receive()
		if err != nil {
			return errors.Join(refusal, c.fail(broken(ctx, err)))
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			c.busy = false
			return refusal
		}
	}
}

// fail marks the connection as stopped amid an answer.
func (c *Conn) fail(err error) error {
	if c.dead == nil {
		c.dead = err
		_ = c.net.Close() // it serves nothing more
	}
	return err
}

// nonsense is for a message that has no place in the answer.
func (c *Conn) nonsense(m pgproto3.BackendMessage, where string) error {
	return c.fail(fmt.Errorf("%w: %T in %s", ErrProtocol, m, where))
}

// A row maps the names of columns to their texts; what is null is not in it.
type row map[string]string

// result reads one result set, up to and with its end.
func (c *Conn) result(ctx context.Context, limit time.Duration) ([]row, error) {
	m, err := c.next(ctx, limit)
	if err != nil {
		return nil, err
	}
	if _, ok := m.(*pgproto3.RowDescription); !ok {
		return nil, c.nonsense(m, "the beginning of a result")
	}
	return c.rows(ctx, m.(*pgproto3.RowDescription))
}

// rows reads the rest of a result set whose description has been read.
func (c *Conn) rows(ctx context.Context, d *pgproto3.RowDescription) (rows []row, err error) {
	names := make([]string, len(d.Fields))
	for i, f := range d.Fields {
		names[i] = string(f.Name)
	}
	for {
		m, err := c.next(ctx, answerTimeout)
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) != len(names) || len(rows) == maxRows {
				return nil, c.nonsense(m, "a result")
			}
			r := row{}
			for i, v := range m.Values {
				if v != nil {
					r[names[i]] = string(v)
				}
			}
			rows = append(rows, r)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, c.nonsense(m, "a result")
		}
	}
}

// ready reads the end of an answer.
func (c *Conn) ready(ctx context.Context) error {
	for {
		m, err := c.next(ctx, answerTimeout)
		if err != nil {
			return err
		}
		switch m.(type) {
		case *pgproto3.CommandComplete: // of the replication command, after those of its results
		case *pgproto3.ReadyForQuery:
			c.busy = false
			return nil
		default:
			return c.nonsense(m, "the end of an answer")
		}
	}
}

// query runs a command with one result set.
func (c *Conn) query(ctx context.Context, command string) ([]row, error) {
	if err := c.send(ctx, command); err != nil {
		return nil, err
	}
	rows, err := c.result(ctx, answerTimeout)
	if err != nil {
		return nil, err
	}
	return rows, c.ready(ctx)
}

// queryOne runs a command whose result is one row that has the columns.
func (c *Conn) queryOne(ctx context.Context, command string, columns ...string) (row, error) {
	rows, err := c.query(ctx, command)
	if err != nil {
		return nil, err
	}
	verb, _, _ := strings.Cut(command, " ")
	if len(rows) != 1 {
		return nil, fmt.Errorf("%w: %s: %d rows", ErrProtocol, verb, len(rows))
	}
	for _, name := range columns {
		if _, ok := rows[0][name]; !ok {
			return nil, fmt.Errorf("%w: %s: no %s", ErrProtocol, verb, name)
		}
	}
	return rows[0], nil
}

// ordinary opens a connection that runs SQL, to the same place.
func (c *Conn) ordinary(ctx context.Context) (*Conn, error) {
	config := c.config.Copy()
	config.RuntimeParams = maps.Clone(config.RuntimeParams)
	delete(config.RuntimeParams, "replication")
	delete(config.RuntimeParams, "wal_sender_timeout")
	return dial(ctx, config, false)
}

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
