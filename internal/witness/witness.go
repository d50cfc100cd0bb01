// Package witness cosigns the checkpoints of others' ledgers, and never one that contradicts what it cosigned before.
//
// It speaks C2SP tlog-witness and keeps one file for each log: the newest checkpoint that it cosigned, durable before
// the answer leaves. After a start it cosigns nothing of a log until it knows how far the others saw it, because its own
// folder may be yesterday's. The folder (see [Open]) is of version 1; a reader for every released version stays.
package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery.dev/chancery/internal/durable"
	"chancery.dev/chancery/internal/ledger"
)

// Why a witness does not cosign. A Remote returns the same errors.
var (
	ErrUnknownLog = errors.New("this witness does not know the log")
	ErrSignature  = errors.New("the checkpoint is not signed by the log")
	ErrForked     = errors.New("the log signed two trees of one size")
	ErrProof      = errors.New("the proof does not join this tree to the one cosigned last")
	ErrInvalid    = errors.New("malformed request")
	ErrFrozen     = errors.New("the witness is frozen: it has not heard yet how far others saw the log")
	ErrDamaged    = errors.New("the witness's file of the log is damaged")
)

// OldSize says that the request does not begin at the tree cosigned last, which has Size leaves (0: none was).
type OldSize struct{ Size uint64 }

// Error says that size.
func (e *OldSize) Error() string {
	return fmt.Sprintf("the tree cosigned last has %d leaves", e.Size)
}

// again is how long one cosignature answers for one tree, so that repeated questions do not wear out the disk.
const again = 10 * time.Second

// Witness cosigns for one set of logs. All methods may be called by several goroutines.
type Witness struct {
	dir  string
	pens atomic.Pointer[pens]
	now  func() time.Time

	// Replaced by tests alone.
	write    func(path string, data []byte) error
	patience time.Duration // how long a body may take to come
	late     bool          // answer first and leave the writing to flush: the control of "persist before answer"
	bold     bool          // begin thawed: the control of "frozen until told"

	mu   sync.Mutex
	logs map[string]*log // by hex SHA-256 of the origin
}

// pens are what the witness cosigns with. They never change; SetCosigners puts others in their place.
type pens struct {
	cosigners []*ledger.Cosigner
	keys      []ledger.WitnessKey
}

// log is what the witness knows of one log.
type log struct {
	id       string
	origin   string
	verifier note.Verifier

	mu      sync.Mutex // held over check, write and answer: compare and swap
	frozen  bool
	since   time.Time // it began frozen before this second: whoever vouches for a tree from then on has answered
	damaged error     // what its file is unreadable for
	held    ledger.Checkpoint
	lines   []byte    // own cosignatures of held; nil when it was learned and not cosigned
	by      *pens     // that made lines
	at      time.Time // the latest time that the witness put its name to for this log
	owed    []byte    // only with late
}

// ID names the log of this origin in paths: SHA-256 of the origin, 64 lowercase hex digits.
func ID(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// Open opens the witness folder dir, and makes it where there is none:
//
//	logs/HEX             the newest checkpoint of the log with that ID, signed by the log, with the own cosignatures
//	conflicts/HEX-…      checkpoints that the log signed and that cannot be joined, by size and root
//
// The owner has locked the folder against other processes. The cosigners are of one witness, so of one name; now is the
// clock of cosignatures.
func Open(dir string, cosigners []*ledger.Cosigner, now func() time.Time) (*Witness, error) {
	if len(cosigners) == 0 {
		return nil, errors.New("witness: open: no key to cosign with")
	}
	w := &Witness{
		dir: dir, now: now, logs: map[string]*log{}, patience: bodyTime,
		write: func(path string, data []byte) error { return durable.WriteFile(path, data, filePerm) },
	}
	w.SetCosigners(cosigners)
	for _, folder := range []string{w.logFolder(), w.conflictFolder()} {
		if err := durable.MkdirAll(folder, folderPerm); err != nil {
			return nil, fmt.Errorf("witness: open: %w", err)
		}
		// What a crash left was given out to nobody.
		if _, err := durable.RemoveTemps(folder); err != nil {
			return nil, fmt.Errorf("witness: open: %w", err)
		}
	}
	return w, nil
}

// SetCosigners says what the witness cosigns with from now on: at least one key, all of the one name that it was opened
// with. What it cosigned before stays; of the same tree it is asked for again, the new keys' cosignatures are the answer.
func (w *Witness) SetCosigners(cosigners []*ledger.Cosigner) {
	p := &pens{cosigners: slices.Clone(cosigners)}
	for _, c := range cosigners {
		p.keys = append(p.keys, c.Key())
	}
	if old := w.pens.Load(); old == nil || !slices.Equal(old.keys, p.keys) {
		w.pens.Store(p)
	}
}

// Keys are the public keys of the witness's cosigners.
func (w *Witness) Keys() []ledger.WitnessKey { return slices.Clone(w.pens.Load().keys) }

// SetLogs says which logs the witness cosigns from now on. One that is new begins frozen; one that was there with the
// same key stays as it is. It fails with ErrDamaged when the file of some log cannot be read: nothing of that log is
// cosigned then, and all others are.
func (w *Witness) SetLogs(logs []ledger.Log) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := make(map[string]*log, len(logs))
	var failed error
	for i := range logs {
		v, err := ledger.NewVerifier(logs[i].Origin, logs[i].Key)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("witness: log %s: %w", logs[i].Origin, err))
			continue
		}
		id := ID(logs[i].Origin)
		if old := w.logs[id]; old != nil && old.verifier.KeyHash() == v.KeyHash() {
			next[id] = old
			continue
		}
		l := &log{id: id, origin: logs[i].Origin, verifier: v, frozen: !w.bold, since: nextSecond(w.now())}
		if err := w.load(l); err != nil {
			l.damaged = err
			failed = errors.Join(failed, err)
		}
		next[id] = l
	}
	w.logs = next
	return failed
}

// nextSecond is the first whole second not before a time. Cosignatures tell whole seconds: one of the second in which
// something happened may be from before it.
func nextSecond(at time.Time) time.Time { return at.Add(time.Second - 1).Truncate(time.Second) }

func (w *Witness) find(origin string) (*log, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l := w.logs[ID(origin)]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("witness: %.300q: %w", origin, ErrUnknownLog)
}

// Add is C2SP tlog-witness add-checkpoint: it checks that the log signed the checkpoint and that it continues the one
// cosigned last, puts it on disk, and returns the cosignature lines. It fails with one of the errors above or *OldSize;
// with any other error the disk failed, and nothing was cosigned.
func (w *Witness) Add(req *ledger.AddCheckpoint) (lines []byte, err error) {
	origin, _, _ := bytes.Cut(req.Checkpoint, []byte("\n"))
	l, err := w.find(string(origin))
	if err != nil {
		return nil, err
	}
	cp, err := signedBy(req.Checkpoint, l.verifier)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.damaged != nil:
		return nil, l.damaged
	case req.Old > cp.Size:
		return nil, fmt.Errorf("witness: %s: from %d to %d leaves: %w", l.origin, req.Old, cp.Size, ErrInvalid)
	case l.contradicts(cp):
		return nil, w.conflict(l, cp)
	case l.frozen:
		return nil, fmt.Errorf("witness: %s: %w", l.origin, ErrFrozen)
	case req.Old != l.held.Size:
		return nil, fmt.Errorf("witness: %s: %w", l.origin, &OldSize{l.held.Size})
	}
	if err := ledger.VerifyConsistency(l.base(), cp, req.Proof); err != nil {
		return nil, fmt.Errorf("witness: %s: %w: %w", l.origin, ErrProof, err)
	}
	if cp.Size == l.held.Size && l.lines != nil && l.by == w.pens.Load() {
		if age := w.now().Sub(l.at); age >= 0 && age < again {
			return bytes.Clone(l.lines), nil
		}
	}
	if err := w.cosign(l, cp); err != nil {
		return nil, err
	}
	return bytes.Clone(l.lines), nil
}

// base is the tree that the next must continue.
func (l *log) base() ledger.Checkpoint {
	if l.held.Raw == nil {
		return ledger.Checkpoint{Origin: l.origin, Root: sha256.Sum256(nil)}
	}
	return l.held
}

// contradicts tells whether both checkpoints cannot be of one history, by themselves.
func (l *log) contradicts(cp ledger.Checkpoint) bool {
	return l.held.Raw != nil && cp.Size == l.held.Size && cp.Root != l.held.Root
}

// signedBy parses a checkpoint and reduces its note to the text and the log's own signature.
func signedBy(raw []byte, v note.Verifier) (ledger.Checkpoint, error) {
	cp, err := ledger.ParseCheckpoint(raw, v)
	if errors.Is(err, ledger.ErrSignature) {
		return cp, fmt.Errorf("witness: %w: %w", ErrSignature, err)
	}
	if err != nil {
		return cp, fmt.Errorf("witness: %w: %w", ErrInvalid, err)
	}
	text, lines, err := ledger.SplitSignatures(raw)
	if err != nil {
		return cp, fmt.Errorf("witness: %w: %w", ErrInvalid, err)
	}
	for _, line := range lines {
		if ofKey(line, v) { // the first is the one that ParseCheckpoint verified
			cp.Raw = slices.Concat(text, []byte("\n"), line)
			return cp, nil
		}
	}
	return cp, fmt.Errorf("witness: %w: none of the log's key", ErrSignature)
}

// ofKey tells whether a signature line says that it is of this key.
func ofKey(line []byte, v note.Verifier) bool {
	text, ok := strings.CutPrefix(string(line), "\u2014 "+v.Name()+" ")
	if !ok {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, "\n"))
	return err == nil && len(blob) > 4 && binary.BigEndian.Uint32(blob) == v.KeyHash()
}

// cosign signs cp, which continues what is held, and makes it what is held. The caller holds the lock.
func (w *Witness) cosign(l *log, cp ledger.Checkpoint) error {
	// A clock that was set back must not make a larger tree look older than a smaller.
	at := w.now()
	if at.Before(l.at) {
		at = l.at
	}
	var lines []byte
	by := w.pens.Load()
	for _, c := range by.cosigners {
		line, err := c.Cosign(cp, at)
		if err != nil {
			return fmt.Errorf("witness: %s: %w", l.origin, err)
		}
		lines = append(lines, line...)
	}
	if err := w.store(l, append(bytes.Clone(cp.Raw), lines...)); err != nil {
		return err
	}
	l.held, l.lines, l.by, l.at = cp, lines, by, at
	return nil
}

// Seen returns the newest checkpoint of the log that this witness holds, signed by the log, with its own cosignatures
// unless it only heard of it. It answers while frozen, and for logs that it no longer cosigns; ok is false when it
// holds none.
func (w *Witness) Seen(origin string) (checkpoint []byte, ok bool) {
	raw, err := w.seen(ID(origin))
	return raw, err == nil && raw != nil
}

// Learn takes over a checkpoint that somebody else saw, when it is larger than what is held: the log must have signed
// it, one of the peer's keys cosigned it (where any are given: the log's own word has none), and proof join it to what
// is held. It never goes back. It fails with ErrUnknownLog, ErrSignature, ErrForked, ErrProof or the disk's error.
func (w *Witness) Learn(origin string, peerNote []byte, peer []ledger.WitnessKey, proof [][32]byte) error {
	l, err := w.find(origin)
	if err != nil {
		return err
	}
	cp, err := signedBy(peerNote, l.verifier)
	if err != nil {
		return err
	}
	if len(peer) > 0 {
		cosigned, err := ledger.Cosignatures(ledger.Checkpoint{Origin: cp.Origin, Size: cp.Size, Root: cp.Root, Raw: peerNote}, peer)
		if err != nil || len(cosigned) == 0 {
			return fmt.Errorf("witness: %s: no cosignature of whoever told it: %w", origin, errors.Join(ErrSignature, err))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.damaged != nil:
		return l.damaged
	case l.contradicts(cp):
		return w.conflict(l, cp)
	case cp.Size <= l.held.Size && l.held.Raw != nil:
		return nil
	}
	if err := ledger.VerifyConsistency(l.base(), cp, proof); err != nil {
		return fmt.Errorf("witness: %s: %w: %w", origin, ErrProof, err)
	}
	if !l.frozen {
		return w.cosign(l, cp)
	}
	if err := w.store(l, cp.Raw); err != nil {
		return err
	}
	l.held, l.lines = cp, nil
	return nil
}

// Thaw lets the witness cosign the log. Call it only when others, or a person, said how far the log was seen. What was
// learned meanwhile gets the witness's own cosignatures; if that fails the log stays frozen.
func (w *Witness) Thaw(origin string) error {
	l, err := w.find(origin)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.damaged != nil {
		return l.damaged
	}
	if l.held.Raw != nil && l.lines == nil {
		if err := w.cosign(l, l.held); err != nil {
			return err
		}
	}
	l.frozen = false
	return nil
}

// Frozen tells whether the witness does not cosign this log at present. A log that it does not know is frozen.
func (w *Witness) Frozen(origin string) bool {
	l, err := w.find(origin)
	if err != nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen || l.damaged != nil
}

// holds returns the checkpoint that is held of a log, with Raw nil where there is none.
func (w *Witness) holds(origin string) (ledger.Checkpoint, note.Verifier, error) {
	l, err := w.find(origin)
	if err != nil {
		return ledger.Checkpoint{}, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held, l.verifier, l.damaged
}
