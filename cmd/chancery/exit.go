package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"chancery.dev/chancery/internal/agreement"
	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/charter"
	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/custody"
	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/embassy"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/home"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/order"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/retention"
	"chancery.dev/chancery/internal/stream"
	"chancery.dev/chancery/internal/witness"
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
	{postgres.ErrTablespace, exitUsage, "say where it goes: --tablespace WHERE-IT-WAS=FOLDER"}, // also where that is not empty
	{postgres.ErrProgram, exitUsage, "put the program where every user can run it, and run it from there: install -m 0755 PROGRAM /usr/local/bin/chancery"},
	{stream.ErrHolders, exitUsage, "holders: in HOME/registers/NAME/register.yaml, from as many as are needed to read it to all"},
	{filetree.ErrNotEmpty, exitUsage, "name a folder that does not exist yet: --to NEW-FOLDER"},
	{filetree.ErrNotDir, exitUsage, "name a folder"},
	{errStale, exitForked, "ask the embassies' people and the witnesses'; to take it all the same: --accept-stale"},
	{ledger.ErrForked, exitForked, "chancery ledger verify --home HOME; keep the home folder and the embassies' answers, they are evidence"},
	{ledger.ErrShorter, exitForked, "chancery ledger verify --home HOME; keep the home folder and the embassies' answers, they are evidence"},
	{register.ErrForked, exitForked, "chancery verify --home HOME; keep the home folder and the embassies' answers, they are evidence"},
	{custody.ErrForged, exitDamaged, "ask that custodian for the right kit, or take another custodian's"},
	{custody.ErrForeign, exitRefused, "take the kits of this state, all from the same generation of the opening key"},
	{custody.ErrTooFew, exitTooFew, "add the kits of more custodians: --kit KIT --identity KEY"},
	{register.ErrTooFew, exitTooFew, "chancery status --home HOME"},
	{register.ErrDamaged, exitDamaged, "chancery verify --home HOME --data; chancery repair --home HOME; to save what is whole, restore with --partial"},
	{archive.ErrNotRegister, exitRefused, "name the identity file of one of this register's readers: --identity READER.key"},
	{home.ErrNotReader, exitRefused, "name the identity file of one of this register's readers: --identity READER.key"},
	{custody.ErrIdentity, exitRefused, "name the private key file that belongs to this kit or register"},
	{custody.ErrNotForMe, exitRefused, "name the private key file that it was sealed to"},
	{custody.ErrOtherRequest, exitRefused, "name the request that the custodian answered: --request request.txt"},
	{custody.ErrExpired, exitRefused, "ask anew: chancery recover request --kit KIT --node NAME --purpose WHY --out request.txt --key node.key"},
	{custody.ErrAttestation, exitRefused, "take the charter of the generation that is attested, and the custodian's own attestation"},
	{home.ErrGranted, exitUsage, "name another reader; chancery register show says how many there are"},
	{home.ErrOtherRecord, exitRefused, "make the record anew from the register's newest: chancery register grant --help"},
	{home.ErrMoved, exitRefused, "the custodians must meet again: chancery custody refresh --home HOME --kit KIT --identity KEY"},
	{home.ErrByRefresh, exitRefused, "chancery custody refresh --home HOME --handed-over"},
	{home.ErrNoRefresh, exitNotFound, "begin one where enough custodians meet: chancery custody refresh --home HOME --kit KIT --identity KEY"},
	{custody.ErrAgeFile, exitDamaged, "take that file again from whoever gave it"},
	{custody.ErrMalformed, exitDamaged, "take that file again from whoever gave it"},
	{custody.ErrInconsistent, exitDamaged, "check each kit: chancery custodian kit --kit KIT --identity KEY"},
	{custody.ErrRecipient, exitUsage, "take the line that chancery custodian keygen printed"},
	{custody.ErrParameters, exitUsage, "chancery state init --help"},
	{home.ErrNoSeed, exitFailed, "put keys/mldsa.seed of the home folder back from its backup, mode 0600"},
	{home.ErrNewer, exitFailed, "use the newer program; this one left everything as it was"},
	{home.ErrProposed, exitPartial, "chancery charter sign --key KEY --home HOME, by each who must; then chancery charter adopt --home HOME"},
	{home.ErrUnsigned, exitRefused, "chancery charter sign --key KEY --home HOME, by each who must; then chancery charter adopt --home HOME"},
	{home.ErrNoProposal, exitNotFound, "chancery charter propose --home HOME …"},
	{home.ErrNone, exitNotFound, "name the home folder with --home or CHANCERY_HOME, or make one: chancery state init --home HOME …"},
	{home.ErrNoCustodian, exitNotFound, "chancery state show --home HOME names the custodians"},
	{home.ErrNoRegister, exitNotFound, "chancery register list --home HOME"},
	{home.ErrExists, exitUsage, "choose another name or folder"},
	{home.ErrStaysHome, exitRefused, "nothing works on it: its register.yaml at home says why"},
	{cluster.ErrConninfo, exitUsage, "write it as libpq reads it: 'host=db port=5432 user=chancery'"},
	{cluster.ErrLogin, exitRefused, "let the user in (pg_hba.conf, for replication and for database postgres), and put the password into ~/.pgpass"},
	{cluster.ErrNotReplication, exitRefused, "ALTER ROLE chancery REPLICATION; and a line for replication in pg_hba.conf"},
	{cluster.ErrVersion, exitRefused, "chancery knows PostgreSQL 15 to 18"},
	{cluster.ErrFullPageWrites, exitRefused, "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()"},
	{cluster.ErrChecksum, exitDamaged, "find the damaged pages with pg_amcheck and mend the cluster; earlier snapshots are as they were"},
	{postgres.ErrNotSent, exitRefused, "have data elsewhere in a tablespace, not behind links: CREATE TABLESPACE … LOCATION '…'; ALTER DATABASE … SET TABLESPACE …"},
	{postgres.ErrTwoServers, exitForked, "find out which server is the right one; what both wrote is evidence; take a new base backup of the right one"},
	{postgres.ErrBehind, exitForked, "find out why an older copy of the server runs; where it is meant to go on, take its log under a new register"},
	{cluster.ErrSystemChanged, exitForked, "look at which server answers there: SELECT system_identifier FROM pg_control_system()"},
	{postgres.ErrHole, exitDamaged, "chancery pg show REGISTER --home HOME --identity READER.key; then a new base backup: chancery backup REGISTER"},
	{postgres.ErrUnproven, exitTooFew, "chancery status --home HOME"},
	{postgres.ErrBeyond, exitNotFound, "chancery pg show REGISTER --home HOME --identity READER.key"},
	{postgres.ErrNotCluster, exitUsage, "name a register that is a cluster: chancery register list --home HOME"},
	{postgres.ErrPrograms, exitFailed, "install the server of that version, or name the folder of its programs: --bin DIR"},
	{postgres.ErrSandbox, exitFailed, "run it as root, or allow users namespaces of their own (user_namespaces(7))"},
	{postgres.ErrNotProven, exitDamaged, "chancery verify REGISTER --data --home HOME"},
	{postgres.ErrUncovered, exitTooFew, "chancery pg stream REGISTER --home HOME, and the backup again"},
	{cluster.ErrConnection, exitFailed, "look whether the server runs and may be reached: psql with the same words"},
	{archive.ErrReleased, exitNotFound, "chancery snapshot list REGISTER --home HOME"},
	{archive.ErrBreaks, exitRefused, "sign no order for these lists; compute them anew: chancery retention propose REGISTER --out NEW --home HOME"},
	{archive.ErrReferences, exitDamaged, "chancery repair --home HOME; until it can be read nothing is released"},
	{archive.ErrLeaving, exitFailed, "run the same command again: what the order removes is stored again"},
	{retention.ErrRules, exitUsage, "correct the rules in the register's register.yaml"},
	{archive.ErrNoSnapshot, exitNotFound, "chancery snapshot list REGISTER --home HOME"},
	{archive.ErrNotYet, exitNotFound, "chancery snapshot list REGISTER --home HOME"},
	{archive.ErrNoPath, exitNotFound, "chancery snapshot show REGISTER --files --identity READER.key --home HOME"},
	{witness.ErrForked, exitForked, "keep the witness's folder: what lies in its conflicts is evidence"},
	{witness.ErrDamaged, exitDamaged, "nothing of that log is cosigned; find out what befell the disk, and make a new witness: chancery witness init --dir NEW"},
	{witness.ErrNoWitness, exitNotFound, "name a witness's folder, or make one: chancery witness init --dir W"},
	{witness.ErrExists, exitUsage, "name a folder that does not exist yet"},
	{evidence.ErrForged, exitDamaged, "nothing is proven by that file; take it again from whoever made it, and keep this one"},
	{evidence.ErrFormat, exitDamaged, "that is no file of this kind, or it was changed; take it again from whoever made it"},
	{evidence.ErrTooLarge, exitUsage, "make it of less: --since TIME, --embassy NAME"},
	{evidence.ErrUnknown, exitFailed, "use the newer program that made the file"},
	{evidence.ErrTrust, exitRefused, "name a charter of the state that the file is about: --charter charter.yaml"},
	{evidence.ErrClaim, exitUsage, "chancery evidence verify --help"},
	{audit.ErrFormat, exitDamaged, "remove that file from the audits folder at home: everything is audited anew"},
	{audit.ErrUnknown, exitFailed, "use the newer program; this one left everything as it was"},
	{durable.ErrLocked, exitFailed, "another chancery works in this folder; wait until it ends"},
	{embassy.ErrWrongKey, exitRefused, "compare the fingerprint with the embassy's people; chancery embassy list --home HOME shows the one accredited"},
	{embassy.ErrRefused, exitRefused, "the embassy's copy of the charter may be older than yours: chancery repair --home HOME"},
	{auditor.ErrDamaged, exitDamaged, "chancery ledger verify --home HOME says which file; keep it, and ask the embassy's people"},
	{auditor.ErrIncomplete, exitPartial, ""},
	{ledger.ErrSignature, exitDamaged, "chancery ledger verify --home HOME; look at who answers there: chancery embassy list --home HOME"},
	{ledger.ErrUnknown, exitFailed, "use the newer program; this one does not guess"},
	{ledger.ErrPolicy, exitUsage, "chancery state show --home HOME"},
	{embassy.ErrForged, exitDamaged, "look at who answers there: chancery embassy list --home HOME"},
	{embassy.ErrConflict, exitForked, "chancery verify --home HOME; keep what the embassy answers, it is evidence"},
	{embassy.ErrFull, exitFailed, "ask the embassy's people for room: a larger disk, or a larger --quota"},
	{embassy.ErrFailed, exitFailed, "ask the embassy's people what its log says"},
	{embassy.ErrUnreachable, exitTooFew, "chancery status --home HOME"},
	{agreement.ErrUnsigned, exitRefused, "chancery agreement check FILE --charter charter.yaml says who has yet to sign"},
	{agreement.ErrAmendment, exitRefused, "begin with the agreement before: chancery agreement draft --amend FILE --out NEW"},
	{agreement.ErrParty, exitRefused, "take the charter of the state that it is with, and keys that stand on one side only"},
	{agreement.ErrInvalid, exitUsage, "change the value and leave the lines where they are; docs/spec/agreement.md has every field"},
	{order.ErrKind, exitFailed, "use the newer program that knows this kind of order"},
	{order.ErrInvalid, exitUsage, "name an order as it was proposed: not a byte of it may change"},
	{order.ErrAttachment, exitDamaged, "take that list again from whoever proposed the order"},
	{order.ErrCharter, exitRefused, "propose it anew under the charter in force: chancery order propose --help"},
	{order.ErrExpired, exitRefused, "propose it anew: chancery order propose --help"},
	{order.ErrValid, exitRefused, "propose it anew with a shorter --valid"},
	{order.ErrEarly, exitRefused, "look at this machine's clock, and at that of whoever proposed it"},
	{order.ErrProposer, exitRefused, "name with --proposer one of the role that may give such an order, who then signs it"},
	{order.ErrState, exitRefused, "name the charter of the state that the order is of: --charter charter.yaml"},
	{order.ErrEmbassy, exitRefused, "chancery embassy list --home HOME"},
	{order.ErrContent, exitRefused, "chancery charter show --home HOME"},
	{order.ErrUsed, exitRefused, "propose it anew: chancery order propose --help"},
	{order.ErrVeto, exitRefused, "chancery charter show --home HOME says who may stop which orders"},
	{charter.ErrNoAct, exitRefused, "give the act to a role in the next charter: chancery charter propose --home HOME"},
	{charter.ErrSignature, exitDamaged, "the charter is not what its signers signed; take it from another custodian's kit"},
	{charter.ErrNoAct, exitRefused, "chancery charter show --home HOME says who may do what"},
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
