// Package archive keeps snapshots of a register in several embassies: it backs a tree up, restores it, verifies what the
// embassies hold, repairs what one of them lacks, and lists what a release lets go.
//
// What it writes it can always read again: every format it puts together carries its version, and a reader of each
// released version stays. It knows an embassy only as package register does, and never holds a key that
// opens what it writes; a restore is handed the register's opened key for as long as it lasts.
package archive

import "errors"

// Errors a caller tells apart besides those of package register; the command line has an exit code for each.
var (
	// ErrNoSnapshot means that the register holds no such snapshot.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrNotYet means that all snapshots of a register are later than a moment.
	ErrNotYet = errors.New("no snapshot is that old")
	// ErrNotRegister means that the key opens another register, or nothing.
	ErrNotRegister = errors.New("the key does not open this register")
)

// MaxListed is how many objects one order can have an embassy remove: the list travels beside it (embassy-api.md, Orders).
const MaxListed = 500_000
