package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// What can be wrong with a server or what it says. Each is wrapped together with the server's own message, which is in
// the server's language; callers go by these.
var (
	// ErrConnection: the connection broke, or the server is starting, stopping or silent. Trying again may help.
	ErrConnection = errors.New("no connection to the server")
	// ErrConninfo: no connection string as libpq reads it.
	ErrConninfo = errors.New("not a connection string")
	// ErrLogin: the server refused the user, the password or the place that the connection comes from.
	ErrLogin = errors.New("the server refused the login")
	// ErrNotReplication: the user may not replicate, or the server is not set up for it.
	ErrNotReplication = errors.New("the server does not let this user replicate")
	// ErrVersion: a server older than 15 or newer than 18.
	ErrVersion = errors.New("a version of PostgreSQL that is not known")
	// ErrSystemChanged: another database system answers than the one that is asked for.
	ErrSystemChanged = errors.New("another database system answers at this address")
	// ErrTimelineSwitched: the server went over to another timeline meanwhile.
	ErrTimelineSwitched = errors.New("the server switched to another timeline")
	// ErrDiverged: the position asked for is not in the server's history. The server lost log that was received from
	// it before, or is another line of the same system.
	ErrDiverged = errors.New("the position is not in the server's history")
	// ErrWALRemoved: the server no longer has the log from the position asked for.
	ErrWALRemoved = errors.New("the server has removed the log from there")
	// ErrSlotLost: the slot held more log than the server allows and was given up by it.
	ErrSlotLost = errors.New("the server gave the replication slot up")
	// ErrSlotMissing: there is no slot of that name.
	ErrSlotMissing = errors.New("no replication slot of that name")
	// ErrSlotBusy: another connection uses the slot.
	ErrSlotBusy = errors.New("the replication slot is in use")
	// ErrSlotKind: the slot of that name is not a physical one.
	ErrSlotKind = errors.New("not a physical replication slot")
	// ErrChecksum: the server found pages with wrong checksums while it read them for a base backup.
	ErrChecksum = errors.New("pages of the database are damaged")
	// ErrFullPageWrites: the server does not write full pages, so a copy of its files may be torn for good.
	ErrFullPageWrites = errors.New("full_page_writes is off")
	// ErrGap: the log does not go on where the message before ended.
	ErrGap = errors.New("a gap in the log as received")
	// ErrStalled: a stream was not received from for a minute and was closed. A server that must give the slot up cannot
	// while its words find no room on the way, and all of it waits. It comes with [ErrConnection].
	ErrStalled = errors.New("the stream was not read in time")
	// ErrProtocol: an answer that no server of a known version gives.
	ErrProtocol = errors.New("the server's answer makes no sense")
	// ErrLimit: a statement took longer than it may, and was given up.
	ErrLimit = errors.New("it was not done within")
	// ErrNotReceived: an acknowledgement of what was not received.
	ErrNotReceived = errors.New("acknowledges more than was received")
)

// SQLSTATEs (PostgreSQL's appendix A).
const (
	stateLogin        = "28"    // invalid authorization
	stateConnection   = "08"    // connection exception
	stateShutdown     = "57P"   // shutdown, crash, cannot connect now
	stateCanceled     = "57014" // a statement that was given up
	stateResources    = "53"    // too many connections, no room
	statePrivilege    = "42501" // insufficient privilege
	stateMissing      = "42704" // undefined object
	stateExists       = "42710" // duplicate object
	stateFile         = "58P01" // undefined file
	stateBusy         = "55006" // object in use
	statePrerequisite = "55000" // object not in prerequisite state
	stateCorrupted    = "XX001" // data corrupted
)

func stateOf(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// named wraps what went wrong at the server with the error that callers go by; sql says that it was asked in SQL, where
// the same states mean other things.
func named(err error, sql bool) error {
	state := stateOf(err)
	switch {
	case state == "":
		return err
	case strings.HasPrefix(state, stateConnection), strings.HasPrefix(state, stateShutdown), strings.HasPrefix(state, stateResources):
		return fmt.Errorf("%w: %w", ErrConnection, err)
	case strings.HasPrefix(state, stateLogin):
		return fmt.Errorf("%w: %w", ErrLogin, err)
	case sql:
		return err
	case state == statePrivilege:
		return fmt.Errorf("%w: %w", ErrNotReplication, err)
	case state == stateCorrupted:
		return fmt.Errorf("%w: %w", ErrChecksum, err)
	case state == stateFile:
		return fmt.Errorf("%w: %w", ErrWALRemoved, err)
	case state == stateBusy:
		return fmt.Errorf("%w: %w", ErrSlotBusy, err)
	case state == stateMissing:
		return fmt.Errorf("%w: %w", ErrSlotMissing, err)
	}
	return err
}

// broken names an error of the network. A deadline that the caller set stays the caller's.
func broken(ctx context.Context, err error) error {
	if err == nil || stateOf(err) != "" {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%w: %w", ErrConnection, cause)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: the server is silent: %w", ErrConnection, err)
	}
	return fmt.Errorf("%w: %w", ErrConnection, err)
}
