package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/home"
)

// Exit codes. Numbers are never reused.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartial     = 3
	exitNotFound    = 4
	exitRefused     = 5
	exitDamaged     = 6
	exitForked      = 7
	exitTooFew      = 8
	exitInterrupted = 130
)

var (
	errInterrupted = errors.New("interrupted; run the same command again to go on")
	errPartial     = errors.New("done in part")
	errUsage       = errors.New("usage")
)

// exitTable maps errors to exit codes; the first that matches counts. The hint is what helps when the command gave
// none of its own.
var exitTable = []struct {
	err  error
	code int
	hint string
}{
	{errInterrupted, exitInterrupted, ""},
	{errPartial, exitPartial, ""},
	{errUsage, exitUsage, ""},
	{filetree.ErrNotEmpty, exitUsage, "name a folder that does not exist yet: --to NEW-FOLDER"},
	{filetree.ErrNotDir, exitUsage, "name a folder"},
	{archive.ErrForked, exitForked, "chancery verify --home HOME; keep the home folder and the embassies' answers, they are evidence"},
	{custody.ErrForged, exitDamaged, "ask that custodian for the right kit, or take another custodian's"},
	{custody.ErrForeign, exitRefused, "take the kits of this state, all from the same generation of the opening key"},
	{custody.ErrTooFew, exitTooFew, "add the kits of more custodians: --kit KIT --identity KEY"},
	{archive.ErrTooFew, exitTooFew, "chancery status --home HOME"},
	{archive.ErrDamaged, exitDamaged, "chancery verify --home HOME --data; chancery repair --home HOME; to save what is whole, restore with --partial"},
	{archive.ErrNotRegister, exitRefused, "name the identity file of one of this register's readers: --identity READER.key"},
	{home.ErrNotReader, exitRefused, "name the identity file of one of this register's readers: --identity READER.key"},
	{custody.ErrIdentity, exitRefused, "name the private key file that belongs to this kit or register"},
	{custody.ErrNotForMe, exitRefused, "name the private key file that it was sealed to"},
	{custody.ErrOtherRequest, exitRefused, "name the request that the custodian answered: --request request.txt"},
	{custody.ErrExpired, exitRefused, "ask anew: chancery recover request --kit KIT --node NAME --purpose WHY --out request.txt --key node.key"},
	{custody.ErrAgeFile, exitDamaged, "take that file again from whoever gave it"},
	{custody.ErrMalformed, exitDamaged, "take that file again from whoever gave it"},
	{custody.ErrInconsistent, exitDamaged, "check each kit: chancery custodian kit --kit KIT --identity KEY"},
	{custody.ErrRecipient, exitUsage, "take the line that chancery custodian keygen printed"},
	{custody.ErrParameters, exitUsage, "chancery state init --help"},
	{home.ErrNewer, exitFailed, "use the newer program; this one left everything as it was"},
	{home.ErrNone, exitNotFound, "name the home folder with --home or CHANCERY_HOME, or make one: chancery state init --home HOME …"},
	{home.ErrNoRegister, exitNotFound, "chancery register list --home HOME"},
	{home.ErrExists, exitUsage, "choose another name or folder"},
	{archive.ErrNoSnapshot, exitNotFound, "chancery snapshot list REGISTER --home HOME"},
	{archive.ErrNoPath, exitNotFound, "chancery snapshot show REGISTER --files --identity READER.key --home HOME"},
	{durable.ErrLocked, exitFailed, "another chancery works in this folder; wait until it ends"},
	{embassy.ErrWrongKey, exitRefused, "compare the fingerprint with the embassy's people; chancery embassy list --home HOME shows the one accredited"},
	{embassy.ErrRefused, exitRefused, "the embassy's copy of the charter may be older than yours: chancery repair --home HOME"},
	{embassy.ErrForged, exitDamaged, "look at who answers there: chancery embassy list --home HOME"},
	{embassy.ErrConflict, exitForked, "chancery verify --home HOME; keep what the embassy answers, it is evidence"},
	{embassy.ErrFull, exitFailed, "ask the embassy's people for room: a larger disk, or a larger --quota"},
	{embassy.ErrFailed, exitFailed, "ask the embassy's people what its log says"},
	{embassy.ErrUnreachable, exitTooFew, "chancery status --home HOME"},
	{charter.ErrSignature, exitDamaged, "the charter is not what its signers signed; take it from another custodian's kit"},
	{charter.ErrQuorum, exitDamaged, "the charter is not signed by enough of its signers"},
	{charter.ErrSuccession, exitDamaged, "take the newest charter from a custodian's kit, and find out who changed this one"},
	{charter.ErrInvalid, exitUsage, "take the charter as it was made, and its signature beside it"},
	{custody.ErrKit, exitUsage, "name the kit's folder: --kit FOLDER"},
	{context.Canceled, exitInterrupted, ""},
	{syscall.ENOTDIR, exitUsage, "name a folder"},
	{syscall.ENOSPC, exitFailed, "make room on this disk, and run the same command again"},
	{fs.ErrPermission, exitFailed, "run it as a user who may do this"},
	{fs.ErrNotExist, exitNotFound, "check the path"},
	{fs.ErrExist, exitUsage, "nothing is overwritten: name a file that does not exist yet"},
}

// failure is an error that a command gives its own code or hint.
type failure struct {
	err  error
	code int
	hint string
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// hinted adds the command that helps.
func hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, hint: hint}
}

// classify finds an error's exit code and hint.
func classify(err error) (code int, hint string) {
	var f *failure
	if errors.As(err, &f) {
		code, hint = f.code, f.hint
	}
	for _, row := range exitTable {
		if errors.Is(err, row.err) {
			if code == 0 {
				code = row.code
			}
			if hint == "" {
				hint = row.hint
			}
			break
		}
	}
	if code == 0 {
		code = exitFailed
	}
	return code, hint
}
