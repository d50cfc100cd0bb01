package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chancery.dev/chancery/internal/ledger"
)

const (
	folderPerm = 0o700
	filePerm   = 0o600

	maxNote      = 64 << 10 // bytes of a checkpoint with its signatures
	maxLogs      = 4096     // logs that Saw lists
	maxConflicts = 16       // files kept of each log's conflicts; the first tell all that matters
)

func (w *Witness) logFolder() string      { return filepath.Join(w.dir, "logs") }
func (w *Witness) conflictFolder() string { return filepath.Join(w.dir, "conflicts") }

// store puts a log's note on disk. The caller holds the log's lock, and answers only afterwards.
func (w *Witness) store(l *log, raw []byte) error {
	if w.late {
		l.owed = raw
		return nil
	}
	// A crash before this ends leaves the checkpoint before, and the new one was given to nobody. One that was put on
	// disk and not given out binds the witness all the same.
	if err := w.write(filepath.Join(w.logFolder(), l.id), raw); err != nil {
		return fmt.Errorf("witness: %s: %w", l.origin, err)
	}
	return nil
}

// load reads a log's file. The caller is alone with l.
func (w *Witness) load(l *log) error {
	raw, err := readNote(filepath.Join(w.logFolder(), l.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("witness: %s: %w: %w", l.origin, ErrDamaged, err)
	}
	cp, err := signedBy(raw, l.verifier)
	if err != nil {
		return fmt.Errorf("witness: %s: %w: %w", l.origin, ErrDamaged, err)
	}
	by := w.pens.Load()
	lines, at, err := by.own(cp, raw)
	if err != nil {
		return fmt.Errorf("witness: %s: %w: %w", l.origin, ErrDamaged, err)
	}
	l.held, l.lines, l.by, l.at = cp, lines, by, at
	return nil
}

// own finds the witness's cosignatures in a note of its folder, and when it made them.
func (p *pens) own(cp ledger.Checkpoint, raw []byte) (lines []byte, at time.Time, err error) {
	cp.Raw = raw
	found, err := ledger.Cosignatures(cp, p.keys)
	if err != nil {
		return nil, at, err
	}
	for _, c := range found {
		if c.Time.After(at) {
			at = c.Time
		}
	}
	if len(found) < len(p.keys) {
		return nil, at, nil // learned, or from before the witness had its second key
	}
	_, all, err := ledger.SplitSignatures(raw)
	if err != nil {
		return nil, at, err
	}
	for _, line := range all[1:] { // the first is the log's
		lines = append(lines, line...)
	}
	return lines, at, nil
}

// seen reads what is on disk of the log with this id; nil when there is nothing.
func (w *Witness) seen(id string) ([]byte, error) {
	raw, err := readNote(filepath.Join(w.logFolder(), id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// readNote reads a regular file of at most maxNote bytes.
func readNote(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxNote+1))
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if len(raw) > maxNote {
		return nil, fmt.Errorf("witness: %s has more than %d bytes", path, maxNote)
	}
	return raw, nil
}

// conflict keeps the evidence of a checkpoint that contradicts the one held. It always returns ErrForked. The caller
// holds the lock.
func (w *Witness) conflict(l *log, cp ledger.Checkpoint) error {
	failed := fmt.Errorf("witness: %s: two roots of %d leaves: %w", l.origin, cp.Size, ErrForked)
	return errors.Join(failed, w.keep(l, cp))
}

// keep puts a checkpoint that cannot be joined to the one held aside, with that one: the log signed both. The caller
// holds the lock.
func (w *Witness) keep(l *log, cp ledger.Checkpoint) error {
	kept, err := conflictsIn(w.conflictFolder(), l.id)
	if err != nil {
		return err
	}
	held := l.base()
	held.Raw = append(bytes.Clone(held.Raw), l.lines...)
	for _, one := range []ledger.Checkpoint{cp, held} {
		name := fmt.Sprintf("%s-%d-%s", l.id, one.Size, hex.EncodeToString(one.Root[:8]))
		if len(one.Raw) == 0 || slices.Contains(kept, name) || len(kept) >= maxConflicts {
			continue
		}
		// A crash between the two leaves the stranger; the one held is in logs/ still, and the log is asked again.
		if err := w.write(filepath.Join(w.conflictFolder(), name), one.Raw); err != nil {
			return err
		}
		kept = append(kept, name)
	}
	return nil
}

// conflictsIn lists the files that are kept of a log's conflicts.
func conflictsIn(folder, id string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("witness: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), id+"-") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Tree is how far a witness saw one log.
type Tree struct {
	Origin    string
	Size      uint64
	Root      [32]byte
	Time      time.Time // of its last cosignature; zero when it only heard of this tree
	Conflicts int       // files of evidence against the log
}

// Saw lists what the witness with this folder and these keys saw of each log, by origin. It may be asked while the
// witness runs. A file that is no checkpoint is ErrDamaged, with the others listed all the same.
func Saw(dir string, keys []ledger.WitnessKey) ([]Tree, error) {
	w := &Witness{dir: dir}
	w.pens.Store(&pens{keys: keys})
	entries, err := os.ReadDir(w.logFolder())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("witness: %w", err)
	}
	var out []Tree
	var failed error
	for _, e := range entries {
		if !isID(e.Name()) || len(out) == maxLogs {
			continue
		}
		t, err := w.saw(e.Name())
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("witness: %s: %w: %w", e.Name(), ErrDamaged, err))
			continue
		}
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Tree) int { return strings.Compare(a.Origin, b.Origin) })
	return out, failed
}

func (w *Witness) saw(id string) (Tree, error) {
	raw, err := readNote(filepath.Join(w.logFolder(), id))
	if err != nil {
		return Tree{}, err
	}
	cp, err := unverified(raw)
	if err != nil {
		return Tree{}, err
	}
	if ID(cp.Origin) != id {
		return Tree{}, errors.New("a checkpoint of another log")
	}
	_, at, err := w.pens.Load().own(cp, raw)
	if err != nil {
		return Tree{}, err
	}
	kept, err := conflictsIn(w.conflictFolder(), id)
	return Tree{Origin: cp.Origin, Size: cp.Size, Root: cp.Root, Time: at, Conflicts: len(kept)}, err
}

// unverified reads what a checkpoint says, whoever signed it.
func unverified(raw []byte) (ledger.Checkpoint, error) {
	text, _, err := ledger.SplitSignatures(raw)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 {
		return ledger.Checkpoint{}, errors.New("not a checkpoint")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	root, rerr := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || rerr != nil || len(root) != 32 || strconv.FormatUint(size, 10) != lines[1] {
		return ledger.Checkpoint{}, errors.New("not a checkpoint")
	}
	return ledger.Checkpoint{Origin: lines[0], Size: size, Root: [32]byte(root), Raw: raw}, nil
}

// isID tells whether s has the form of an ID.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
