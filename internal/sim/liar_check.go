package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery.dev/chancery/internal/audit"
	"chancery.dev/chancery/internal/auditor"
	"chancery.dev/chancery/internal/evidence"
	"chancery.dev/chancery/internal/ledger"
	"chancery.dev/chancery/internal/witness"
)

const (
	sampleSize = 4
	deadline   = time.Minute
)

// read has a machine that knows the charter alone ask everyone about a log, and decide.
func (w *world) read(h *host) error {
	var seen []witness.Sighting
	var honestly []tree // what honest witnesses told
	for _, x := range w.watchers {
		if x.who == h.who || w.rng.IntN(6) == 0 {
			continue
		}
		note, ok := x.seen(h.who)
		if !ok {
			continue
		}
		s := witness.Sighting{By: w.names[x.who], Note: note}
		if x.lie == tellsFalse && w.rng.IntN(3) == 0 {
			s = witness.Sighting{By: s.By, Size: uint64(w.rng.IntN(50))}
		}
		seen = append(seen, s)
		if x.lie == honest && note != nil {
			cp, err := says(note)
			if err != nil {
				return err
			}
			honestly = append(honestly, tree{h.who, int64(cp.Size), cp.Root})
		}
	}
	if w.rng.IntN(3) == 0 { // the log goes on meanwhile
		if err := w.deliver(3); err != nil {
			return err
		}
	}
	if w.off.noSightings {
		seen = nil
	}
	b := h.side(w.readerSide())
	raw, err := h.checkpoint(b, b.book.size())
	if err != nil {
		return err
	}
	cp, err := says(raw)
	if err != nil {
		return err
	}
	if err := w.meet("reader", h, raw); err != nil {
		return err
	}
	shown := witness.Newest{Checkpoint: cp, Cosigned: b.cosigned, Prove: func(_ context.Context, a, z ledger.Checkpoint) ([][32]byte, error) {
		return h.join(b, a, z)
	}}
	f := witness.Compare(context.Background(), h.log, w.policy, shown, seen, w.now, w.charter.FreshFor())
	now := w.trees[tree{h.who, int64(cp.Size), cp.Root}]
	if f.Outcome == witness.Fresh {
		cosigned, err := says(b.cosigned)
		if err != nil {
			return err
		}
		for _, g := range w.order[h.who] {
			if g.enough && w.lasts(g) && g.contradicts(w.trees[tree{h.who, int64(cosigned.Size), cosigned.Root}]) {
				return broken(freshness, "log %d: what is cosigned contradicts %d leaves that are enough", h.who, g.size)
			}
		}
	}
	return w.judgeReader(h, now, f, honestly)
}

// judgeReader holds what a reader thinks against the truth.
func (w *world) judgeReader(h *host, shown *grown, f witness.Freshness, honestly []tree) error {
	switch {
	case f.Outcome == witness.Fresh:
		w.tally.Fresh++
	case f.Outcome == witness.Stale || f.Outcome == witness.Uncosigned:
		w.tally.Stale++
	default:
		w.tally.Refused++
	}
	if !h.forks && (f.Outcome == witness.Shorter || f.Outcome == witness.Forked) {
		return broken(innocent, "log %d is called %s: %s", h.who, f.Outcome, f.Why)
	}
	if f.Outcome != witness.Fresh {
		return nil
	}
	for _, t := range honestly {
		if g := w.trees[t]; g.size > shown.size || g.contradicts(shown) {
			return broken(freshness, "log %d shows %d leaves, and an honest witness told of %d", h.who, shown.size, g.size)
		}
	}
	for _, g := range w.order[h.who] {
		// What was enough for longer than a checkpoint may be old is in every state that is fresh, whoever was asked.
		age := w.now.Sub(g.since)
		if g.enough && w.lasts(g) && age > w.charter.FreshFor() && (g.size > shown.size || g.contradicts(shown)) {
			return broken(freshness, "log %d: %d leaves, and %d others were enough %s ago", h.who, shown.size, g.size, age)
		}
	}
	return nil
}

// auditNow audits an embassy, all of it or a sample, over a network that may fail.
func (w *world) auditNow(h *host, full bool) error {
	_, err := w.audit(h, full, w.rng.IntN(5) == 0)
	return err
}

// audit asks one challenge and judges the answer, the embassy, and whoever is blamed.
func (w *world) audit(h *host, full, lost bool) (audit.Outcome, error) {
	b := h.side(w.auditorSide())
	run := &audit.Run{State: w.charter.State.ID, Embassy: h.id, Started: w.now}
	var res *audit.Result
	v, err := audit.Trusted(b.cosigned, h.log, w.policy, w.now, w.charter.FreshFor())
	if b.cosigned == nil {
		err = audit.ErrNotCosigned
	}
	if err == nil {
		run.Challenge = w.challenge(h, b.cosigned, v.Checkpoint.Size, full)
		if lost {
			err = audit.ErrOffline
		} else {
			res, run.Took, err = h.respond(b, run.Challenge)
		}
	}
	run.Result, run.Outcome = res, audit.Judge(res, err, run.Took, deadline)
	if err != nil {
		run.Why = err.Error()
	}
	w.count(run.Outcome)
	good := run.Outcome == audit.OK || w.off.trustUnknown && run.Outcome >= audit.Late
	if gone, _ := h.lacks(b, int64(min(v.Checkpoint.Size, uint64(b.book.size())))); good && (gone > 0 && full || run.Challenge == nil || lost) {
		return 0, broken(notUnknown, "embassy %d lacks %d objects; %s: %v", h.who, gone, run.Outcome, err)
	}
	return run.Outcome, w.report(h, run)
}

func (w *world) challenge(h *host, raw []byte, size uint64, full bool) *audit.Challenge {
	var nonce [32]byte
	if !w.off.noAuditNonce {
		nonce = sha256.Sum256(binary.BigEndian.AppendUint64(nil, w.rng.Uint64()))
	}
	if full {
		return audit.NewRange(w.charter.State.ID, h.id, raw, nonce, 0, size)
	}
	return audit.NewSample(w.charter.State.ID, h.id, raw, nonce, sampleSize)
}

// respond has the embassy answer, or do what it does instead.
func (h *host) respond(b *branch, ch *audit.Challenge) (*audit.Result, time.Duration, error) {
	var buf bytes.Buffer
	var answer io.Reader = &buf
	took := time.Second
	switch h.store {
	case silent:
		return nil, took, audit.ErrOffline
	case endless:
		res, err := audit.Verify(zeros{}, ch, h.log)
		return res, took, err
	case slow:
		took = 2 * deadline
	}
	if err := audit.Respond(&buf, ch, &answers{h: h, b: b}, h.key); err != nil {
		answer = io.MultiReader(&buf, cut{})
	}
	res, err := audit.Verify(answer, ch, h.log)
	return res, took, err
}

// zeros never end.
type zeros struct{}

// Read is io.Reader.
func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// cut is a connection that broke.
type cut struct{}

// Read is io.Reader.
func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// report signs what came of an audit and sees who is blamed by it.
func (w *world) report(h *host, run *audit.Run) error {
	r, err := audit.NewReport(run, sha256.Sum256(binary.BigEndian.AppendUint64(nil, w.rng.Uint64())))
	if err != nil {
		return err
	}
	bad := run.Outcome == audit.Wrong || run.Outcome == audit.Missing
	if run.Outcome != audit.OK && run.Outcome != audit.Unknown {
		if err := r.Sign(w.auditor); err != nil {
			return err
		}
		data, err := r.Bytes()
		if err != nil {
			return err
		}
		w.docs = append(w.docs, evidence.Record{Kind: ledger.Audit, Data: data})
	}
	_, err = r.Convicts(h.log.Key)
	blamed := err == nil || w.off.blameWithoutProof && run.Outcome != audit.OK && run.Outcome != audit.Unknown
	if blamed {
		w.tally.Convicted++
	}
	if blamed && h.store == honest {
		return broken(innocent, "embassy %d by an audit: %s", h.who, run.Outcome)
	}
	// A whole and signed answer that shows a loss convicts whoever signed it.
	if bad && run.Result != nil && run.Result.Signature != [64]byte{} && !blamed {
		return broken(caught, "embassy %d signed an answer with a loss and is not convicted: %v", h.who, err)
	}
	return nil
}

func (w *world) count(o audit.Outcome) {
	t := w.tally
	*map[audit.Outcome]*int{
		audit.OK: &t.OK, audit.Wrong: &t.Wrong, audit.Missing: &t.Missing, audit.Late: &t.Late, audit.Offline: &t.Offline, audit.Unknown: &t.Unknown,
	}[o]++
}

// files is a log's tiles in memory, of the tree that a branch has now.
type files struct {
	raw  []byte
	book *book
}

// Checkpoint is auditor.Source.
func (s files) Checkpoint() ([]byte, error) { return s.raw, nil }

// Tile is auditor.Source. The logs here have one tile at most.
func (s files) Tile(path string) ([]byte, error) {
	n := s.book.size()
	var out []byte
	switch path {
	case fmt.Sprintf("tile/entries/000.p/%d", n):
		for _, l := range s.book.leaves {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(l))), l...)
		}
	case fmt.Sprintf("tile/0/000.p/%d", n):
		for i := range n {
			out = append(out, s.book.hashes[tlog.StoredHashIndex(0, i)][:]...)
		}
	default:
		return nil, fs.ErrNotExist
	}
	return out, nil
}

// known is every checkpoint of a log that somebody honest keeps.
func (w *world) known(log int) []held {
	list := append([]held(nil), w.held[log]...)
	for _, x := range w.watchers {
		if x.lie != honest || x.who == log {
			continue
		}
		if note, ok := x.seen(log); ok && note != nil {
			if cp, err := says(note); err == nil {
				list = append(list, held{w.names[x.who], note, tree{log, int64(cp.Size), cp.Root}})
			}
		}
		for _, k := range x.kept {
			if k.tree.log == log {
				list = append(list, k)
			}
		}
	}
	return list
}

// distinct keeps one of each note.
func distinct(list []held) (out []held) {
	for _, k := range list {
		if !slices.ContainsFunc(out, func(o held) bool { return bytes.Equal(o.raw, k.raw) }) {
			out = append(out, k)
		}
	}
	return out
}

// verifyLog recomputes a log from its tiles and holds it against what others saw.
func (w *world) verifyLog(h *host) error {
	b := h.side(w.auditorSide())
	raw, err := h.checkpoint(b, b.book.size())
	if err != nil {
		return err
	}
	all := distinct(w.known(h.who))
	list := all
	if w.off.noMemory {
		list = nil
	}
	opts := auditor.Options{Policy: w.policy, Cosigned: b.cosigned, Direct: true, Now: w.now, Fresh: w.charter.FreshFor()}
	for _, k := range list {
		opts.Known = append(opts.Known, auditor.Known{From: k.from, Raw: k.raw})
	}
	r, err := auditor.Verify(context.Background(), files{raw, &b.book}, h.log, opts)
	if err != nil {
		return err
	}
	if !r.Complete {
		return broken(caught, "log %d could not be read: %s", h.who, r.Why)
	}
	verdict := r.Verdict()
	for _, f := range r.Findings {
		name, isWitness := cutPrefix(string(f.Blame), "witness ")
		switch {
		case isWitness && !w.guilty("witness", name), f.Blame == auditor.Operator && !h.forks:
			return broken(innocent, "%s by the auditor: %s: %s", f.Blame, f.Kind, f.Why)
		case f.Blame == auditor.Operator && f.Proven && !w.twoFaced(h.who):
			return broken(innocent, "log %d has one face: %s", h.who, f.Why)
		}
	}
	if err := w.meet("auditor", h, raw); err != nil {
		return err
	}
	return w.judgeAuditor(h, raw, all, verdict)
}

// judgeAuditor: what honest parties keep and the log no longer shows was found.
func (w *world) judgeAuditor(h *host, raw []byte, all []held, verdict error) error {
	cp, err := says(raw)
	if err != nil {
		return err
	}
	now := w.trees[tree{h.who, int64(cp.Size), cp.Root}]
	for _, k := range all {
		g := w.trees[k.tree]
		switch {
		case g.size > now.size && !errors.Is(verdict, ledger.ErrShorter) && !errors.Is(verdict, ledger.ErrForked):
			return broken(caught, "log %d shows %d leaves, %s saw %d, and the auditor says %v", h.who, now.size, k.from, g.size, verdict)
		case g.size <= now.size && g.contradicts(now) && !errors.Is(verdict, ledger.ErrForked):
			return broken(caught, "log %d forked at %d, %s has the proof, and the auditor says %v", h.who, g.size, k.from, verdict)
		}
	}
	return nil
}
