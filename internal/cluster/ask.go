package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// booleanType is the number of the type boolean, the same in all versions.
const booleanType = 16

// Local is a server that is reached through a socket in a folder of this machine, and nowhere else.
type Local struct {
	Folder string
	Port   int
	User   string
	// Limit is how long a statement may take, after which the server is told to give it up and it fails with [ErrLimit]; 0
	// is none.
	Limit time.Duration
}

// limitGrace is how much longer than its limit a statement is waited for: the server is to say first that it gave it up.
const limitGrace = 10 * time.Second

// Conninfo is how to connect to a database of the server.
func (l Local) Conninfo(database string) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
	}
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", quote(l.Folder), l.Port, quote(l.User), quote(database))
}

// An Answer is what a query of one row and one column gave.
type Answer struct {
	Text    string // empty where it is null
	Boolean bool   // its type is boolean
}

// True tells whether the answer is the boolean true.
func (a Answer) True() bool { return a.Boolean && a.Text == "t" }

// Ask runs SQL in a database of a local server, for as long as it takes or as the limit says; it must give one result of one row and one
// column, or an error says what it gave. With readOnly the server refuses to change anything for it. Errors are the
// server's own words.
func (l Local) Ask(ctx context.Context, database, sql string, readOnly bool) (Answer, error) {
	results, err := l.exec(ctx, database, sql, readOnly)
	if err != nil {
		return Answer{}, err
	}
	if len(results) != 1 {
		return Answer{}, fmt.Errorf("gave %d results, not one", len(results))
	}
	r := results[0]
	if len(r.Rows) != 1 || len(r.FieldDescriptions) != 1 {
		return Answer{}, fmt.Errorf("gave %d rows of %d columns, not one of one", len(r.Rows), len(r.FieldDescriptions))
	}
	return Answer{Text: string(r.Rows[0][0]), Boolean: r.FieldDescriptions[0].DataTypeOID == booleanType}, nil
}

// Do runs SQL whose result is of no matter.
func (l Local) Do(ctx context.Context, database, sql string) error {
	_, err := l.exec(ctx, database, sql, false)
	return err
}

func (l Local) exec(ctx context.Context, database, sql string, readOnly bool) ([]*pgconn.Result, error) {
	config, err := pgconn.ParseConfig(l.Conninfo(database))
	if err != nil {
		return nil, ErrConninfo
	}
	config.RuntimeParams = map[string]string{"application_name": "chancery", "client_encoding": "UTF8"}
	var options []string
	if readOnly {
		options = append(options, "-c default_transaction_read_only=on")
	}
	whole := ctx
	if l.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.Limit+limitGrace, ErrLimit)
		defer cancel()
		options = append(options, fmt.Sprintf("-c statement_timeout=%d", max(1, l.Limit.Milliseconds())))
	}
	if len(options) > 0 {
		config.RuntimeParams["options"] = strings.Join(options, " ")
	}
	c, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(ctx, config, err, true)
	}
	defer c.Close(context.WithoutCancel(ctx))
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if l.Limit > 0 && whole.Err() == nil && (errors.Is(err, ErrLimit) || stateOf(err) == stateCanceled) {
		err = fmt.Errorf("%w %s", ErrLimit, l.Limit)
	}
	return results, err
}
