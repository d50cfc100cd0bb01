package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

// How a witness lies.
const (
	cosignsAll = 1 + iota // whatever it is shown, and both sides of a fork
	refuses
	tellsFalse // of what it saw
	replays    // old cosignatures
	wrongClock
	watchLies
)

// watcher is a witness: the real state machine over a folder, and whatever it says beside that.
type watcher struct {
	w       *world
	who     int
	lie     int
	putBack bool // its folder was put back: it may contradict itself, and no vote of the policy covers that
	dir     string
	real    *witness.Witness
	past    map[string][]byte // files of an earlier moment
	last    map[int]tree      // what it cosigned last, by log
	lines   [][]byte          // cosignatures given out
	kept    []held            // signed notes of conflicts
}

// faulty tells whether it is one of those that may be blamed.
func (x *watcher) faulty() bool { return x.lie != honest || x.putBack }

// clock is its own.
func (x *watcher) clock() time.Time {
	if x.lie == wrongClock {
		return x.w.now.Add(time.Duration(x.w.hash(x.who, x.w.steps)%200-100) * time.Hour)
	}
	return x.w.now
}

// start opens the folder, as after a crash. Every log begins frozen.
func (x *watcher) start() error {
	real, err := witness.Open(x.dir, []*ledger.Cosigner{x.w.cosigners[x.who]}, x.clock)
	if err != nil {
		return err
	}
	var logs []ledger.Log
	for i, h := range x.w.hosts {
		if i != x.who {
			logs = append(logs, h.log)
		}
	}
	x.real = real
	if err := real.SetLogs(logs); err != nil {
		return err
	}
	if err := x.remembers(); err != nil {
		return err
	}
	if !x.w.off.noFreeze {
		return nil
	}
	for _, l := range logs {
		if err := real.Thaw(l.Origin); err != nil {
			return err
		}
	}
	return nil
}

// remembers: what it gave out before a crash is on its disk after.
func (x *watcher) remembers() error {
	for i, h := range x.w.hosts {
		last := x.w.trees[x.last[i]]
		if last == nil || x.faulty() {
			continue
		}
		note, _ := x.real.Seen(h.log.Origin)
		cp, err := says(note)
		if err != nil || int64(cp.Size) < last.size {
			return broken(ownWord, "%s: of log %d it has %d leaves, and cosigned %d", x.w.names[x.who], i, cp.Size, last.size)
		}
	}
	return nil
}

func (x *watcher) file(log int) string {
	return filepath.Join(x.dir, "logs", witness.ID(x.w.hosts[log].log.Origin))
}

// add has it cosign. Killed says that it dies right after the answer left.
func (x *watcher) add(log int, req *ledger.AddCheckpoint, killed bool) (lines []byte, err error) {
	var before []byte
	if x.w.off.persistAfterAnswer {
		if before, err = readFile(x.file(log)); err != nil {
			return nil, err
		}
	}
	cp, err := says(req.Checkpoint)
	if err != nil {
		return nil, err
	}
	switch {
	case x.lie == refuses:
		return nil, witness.ErrFrozen
	case x.lie == replays && len(x.lines) > 2:
		return x.lines[x.w.rng.IntN(len(x.lines))], nil
	case x.lie == cosignsAll, x.w.off.noConsistencyCheck && !x.real.Frozen(x.w.hosts[log].log.Origin):
		lines, err = x.w.cosigners[x.who].Cosign(cp, x.clock())
	default:
		lines, err = x.real.Add(req)
	}
	if errors.Is(err, witness.ErrForked) && x.lie == honest {
		x.kept = append(x.kept, held{x.w.names[x.who], cp.Raw, tree{log, int64(cp.Size), cp.Root}})
	}
	if err != nil {
		return nil, err
	}
	x.lines = append(x.lines, lines)
	if err := x.w.cosigned(x, log, cp, lines); err != nil {
		return nil, err
	}
	if !killed {
		return lines, nil
	}
	if x.w.off.persistAfterAnswer && !x.faulty() { // the answer is out, and the disk has what it had
		if err := restoreFile(x.file(log), before); err != nil {
			return nil, err
		}
	}
	return lines, x.start()
}

// readFile returns nil where there is none.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func restoreFile(path string, data []byte) error {
	if data == nil {
		return os.RemoveAll(path)
	}
	return os.WriteFile(path, data, 0o600)
}

// save copies the folder, for a disaster later.
func (x *watcher) save() error {
	x.past = map[string][]byte{}
	for i := range x.w.hosts {
		data, err := readFile(x.file(i))
		if err != nil {
			return err
		}
		x.past[x.file(i)] = data
	}
	return nil
}

// restore puts the folder back to what save copied, and starts it.
func (x *watcher) restore() error {
	for i := range x.w.hosts {
		path := x.file(i)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := restoreFile(path, x.past[path]); err != nil {
			return err
		}
	}
	x.putBack = true
	return x.start()
}

// seen is what it tells of a log to who asks for checkpoints; ok is false when it does not answer.
func (x *watcher) seen(log int) (note []byte, ok bool) {
	origin := x.w.hosts[log].log.Origin
	note, _ = x.real.Seen(origin)
	switch x.lie {
	case refuses:
		return nil, false
	case tellsFalse, cosignsAll:
		if x.w.rng.IntN(2) == 0 {
			return nil, true // never saw anything
		}
	case replays: // an old tree, which the log did sign
		if b := x.w.hosts[log].branches[0]; len(b.signed) > 0 {
			for size := int64(0); size <= b.book.size(); size++ {
				if raw := b.signed[size]; raw != nil {
					return raw, true
				}
			}
		}
	}
	return note, true
}

// rouse lets it ask the others about a log. It is not told more than the network lets through.
func (x *watcher) rouse(log int, reliable bool) error {
	h := x.w.hosts[log]
	if !x.real.Frozen(h.log.Origin) || log == x.who {
		return nil
	}
	var peers []witness.Peer
	for _, y := range x.w.watchers {
		if y == x {
			continue
		}
		var note []byte
		ok := reliable || x.w.rng.IntN(5) > 0
		if y.who == log { // its operator
			b := h.side(x.who)
			if note = b.note; h.forks && x.w.rng.IntN(2) == 0 {
				note = nil
			}
		} else if ok {
			note, ok = y.seen(log)
		}
		peers = append(peers, witness.Peer{Name: x.w.names[y.who], Seen: func(context.Context, string) ([]byte, error) {
			if !ok {
				return nil, ErrDown
			}
			return bytes.Clone(note), nil
		}})
	}
	err := witness.Rouse(context.Background(), x.real, h.log, peers, x.w.policy, x.w.names[x.who],
		func(_ context.Context, from, to ledger.Checkpoint) ([][32]byte, error) {
			return h.join(h.side(x.who), from, to)
		})
	if errors.Is(err, witness.ErrFrozen) || errors.Is(err, witness.ErrForked) && h.forked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rouse %s for %s: %w", x.w.names[x.who], h.log.Member, err)
	}
	// What it learned it has cosigned on thawing.
	note, _ := x.real.Seen(h.log.Origin)
	if note == nil {
		return nil
	}
	cp, err := says(note)
	if err != nil {
		return err
	}
	_, all, err := ledger.SplitSignatures(note)
	if err != nil || len(all) < 2 {
		return err
	}
	if g := x.w.trees[tree{log, int64(cp.Size), cp.Root}]; g != nil && g.members>>x.who&1 == 1 {
		return nil // it said so before
	}
	x.lines = append(x.lines, all[1])
	return x.w.cosigned(x, log, cp, all[1])
}

// join is the proof that a branch gives between two trees.
func (h *host) join(b *branch, from, to ledger.Checkpoint) ([][32]byte, error) {
	if int64(to.Size) > b.book.size() || from.Size > to.Size {
		return nil, errors.New("no such tree")
	}
	return b.book.join(int64(from.Size), int64(to.Size))
}
