package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/snapshot"
)

// Source is what a backup reads.
type Source struct {
	Path           string
	Rules          *filetree.Rules // what is left out
	AllFileSystems bool            // also what lies on other file systems
	Tags           []string

	fresh time.Duration // how long after a change a time may still hide another; 0 is what file systems need
}

// Progress counts a run as it goes; all fields may be read at any time.
type Progress struct {
	Folders, Files, Bytes atomic.Int64 // done
	Stored                atomic.Int64 // bytes acknowledged by embassies, or read from them
}

// Problem is one thing in the source that could not be taken as it should.
type Problem struct {
	Path string `json:"path"` // relative to the source
	What string `json:"what"`
}

// BackupReport is what a backup did.
type BackupReport struct {
	Snapshot    string            `json:"snapshot"`
	Sequence    uint64            `json:"sequence"`
	Stats       snapshot.Stats    `json:"-"`
	Packs       uint64            `json:"packs"`
	Objects     uint64            `json:"objects"`
	StoredBytes uint64            `json:"stored_bytes"`
	Problems    []Problem         `json:"problems,omitempty"` // the first maxProblems
	ProblemSum  uint64            `json:"problem_count"`
	Excluded    snapshot.Excluded `json:"-"`
	OtherFS     []string          `json:"other_file_systems,omitempty"`
	Down        []register.Down   `json:"embassies_down,omitempty"`
	Gaps        int               `json:"shares_missing"` // of earlier packs, at embassies that are up
	Head        *snapshot.Head    `json:"-"`
	Faults      []register.Fault  `json:"faults,omitempty"`
	Local       string            `json:"local_problem,omitempty"` // with the local folder, after the snapshot was made
}

// Backup makes a snapshot of the source. It returns a report also when the snapshot is made in part; the error tells
// whether there is a snapshot at all. With fewer than k embassies nothing is read and ErrTooFew returned.
func Backup(ctx context.Context, reg *register.Register, agent *register.Agent, src Source, progress *Progress) (*BackupReport, error) {
	if progress == nil {
		progress = &Progress{}
	}
	started := agent.Now()
	m, err := begin(ctx, reg, agent)
	if err != nil {
		return nil, err
	}
	defer m.end()
	run, w := m.run, m.w
	b, err := newBackup(w.ctx, run, w, src, progress)
	if err != nil {
		w.abort(err)
		return nil, err
	}
	defer b.failure.stop(nil)
	root, err := b.tree()
	if err != nil {
		w.abort(err)
		b.seenNext.abort()
		return nil, err
	}
	problems, err := b.storeProblems()
	if err == nil {
		err = w.close()
	} else {
		w.abort(err)
	}
	if err != nil {
		b.seenNext.abort()
		return nil, err
	}
	payload := &snapshot.Payload{
		Root: root, Path: src.Path, Host: agent.Host, Stats: b.stats.total(w),
		Started: started.UnixNano(), Finished: agent.Now().UnixNano(),
		Problems: problems, ProblemCount: uint64(b.problems.count),
		Excluded: b.excluded, OtherFileSystems: b.otherFS, Tags: src.Tags,
	}
	head, err := commit(ctx, run, w, payload, nil)
	if err != nil {
		b.seenNext.abort()
		return nil, err
	}
	rep := b.report(head, payload, m)
	// From here on there is a snapshot, whatever goes wrong on the local disk; the next run makes that good.
	if err := errors.Join(run.settle(m.known, head), b.seenNext.commit(head.Hash())); err != nil {
		rep.Local = err.Error()
	}
	return rep, nil
}

func (b *backup) report(head *snapshot.Head, p *snapshot.Payload, m *making) *BackupReport {
	rep := m.report(head, p)
	rep.Problems, rep.ProblemSum = b.problems.list, uint64(b.problems.count)
	rep.Excluded, rep.OtherFS = b.excluded, b.otherFS
	return rep
}

// making is a snapshot that is being made: what is known already, and where the rest goes.
type making struct {
	run   *run
	known *known
	w     *writer
}

// begin brings a register's history up to date and opens its writer; end releases both. With fewer than k embassies it
// fails with ErrTooFew.
func begin(ctx context.Context, reg *register.Register, agent *register.Agent) (_ *making, err error) {
	m := &making{}
	sites := reg.Sites()
	if m.run, err = openRun(ctx, reg, agent, sites, newest); err != nil {
		return nil, err
	}
	if m.run.torn != nil && len(sites.Up()) < len(sites) { // what is not known now may be known when the others answer
		m.run.close()
		return nil, m.run.unknown("a part of the index, and not every embassy answers")
	}
	if m.known, err = openKnown(reg, m.run.index, m.run.orders.leaving); err != nil {
		m.run.close()
		return nil, err
	}
	if err = m.known.resume(ctx, sites); err == nil {
		m.w, err = newWriter(ctx, reg, sites, m.known)
	}
	if err != nil {
		m.known.close()
		m.run.close()
		return nil, err
	}
	return m, nil
}

func (m *making) end() {
	m.w.stop(nil)
	m.known.close()
	m.run.close()
}

// report is what every snapshot has to tell.
func (m *making) report(head *snapshot.Head, p *snapshot.Payload) *BackupReport {
	return &BackupReport{
		Snapshot: SnapshotName(head.Sequence), Sequence: head.Sequence, Stats: p.Stats,
		Packs: head.Packs, Objects: head.Objects, StoredBytes: head.Stored,
		Down: m.run.sites.Down(), Gaps: m.known.gaps, Head: head, Faults: m.run.faults.All(),
	}
}

// SnapshotName is how people name a snapshot: its head's sequence.
func SnapshotName(seq uint64) string { return fmt.Sprintf("%d", seq) }

// backup walks a tree and stores what is new of it.
type backup struct {
	ctx      context.Context
	run      *run
	w        *writer
	src      Source
	progress *Progress
	root     *filetree.Source
	rootStat filetree.Stat
	started  time.Time

	seen     *seen
	seenNext *seenWriter
	key      seenKey

	jobs    chan job
	readers sync.WaitGroup
	presses chan *press
	links   linkTable
	outcome chan snapshot.Entry

	stats    counters
	problems problemList
	excluded snapshot.Excluded
	otherFS  []string
	failure  failure
}

// failure keeps the first error that ends a run. err is read when every goroutine of the run has ended.
type failure struct {
	once sync.Once
	err  error
	stop context.CancelCauseFunc
}

func (f *failure) set(err error) {
	f.once.Do(func() { f.err = err; f.stop(err) })
}

// counters are what Stats counts, from many goroutines.
type counters struct {
	files, folders, links, others, bytes, unchanged atomic.Uint64
}

func (c *counters) total(w *writer) snapshot.Stats {
	return snapshot.Stats{
		Files: c.files.Load(), Folders: c.folders.Load(), Links: c.links.Load(), Others: c.others.Load(),
		Bytes: c.bytes.Load(), Unchanged: c.unchanged.Load(), NewBytes: uint64(w.fresh.Load()),
	}
}

// maxProblems is how many problems a report lists; all are in the snapshot.
const maxProblems = 1000

// problemList keeps what could not be taken. All of it goes into the snapshot, the first into the report.
type problemList struct {
	mu    sync.Mutex
	count int
	list  []Problem
	text  []byte
}

func (p *problemList) add(path, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if len(p.list) < maxProblems {
		p.list = append(p.list, Problem{path, what})
	}
	p.text = append(append(append(append(p.text, path...), 0), what...), 0)
}

func newBackup(ctx context.Context, r *run, w *writer, src Source, progress *Progress) (*backup, error) {
	root, err := filetree.OpenSource(src.Path)
	if err != nil {
		return nil, err
	}
	st, err := root.Root().Stat()
	if err != nil {
		root.Close()
		return nil, err
	}
	if src.fresh == 0 {
		src.fresh = racyWindow
	}
	path := filepath.Join(r.reg.Dir, "seen")
	next, err := newSeenWriter(path)
	if err != nil {
		root.Close()
		return nil, err
	}
	before := &seen{} // with packs lost, everything is read again
	if len(w.known.lost) == 0 {
		before = openSeen(path, r.history.holds)
	}
	b := &backup{
		run: r, w: w, src: src, progress: progress, root: root, rootStat: st, started: time.Now(),
		seen: before, seenNext: next, key: newSeenKey(r.reg),
		jobs: make(chan job, 64), presses: make(chan *press, readers()+3), outcome: make(chan snapshot.Entry, 1),
	}
	b.ctx, b.failure.stop = context.WithCancelCause(ctx)
	for range cap(b.presses) {
		b.presses <- nil
	}
	return b, nil
}

// holds reports whether a head is one of this history, newest first.
func (h *history) holds(hash [32]byte) bool {
	for seq := h.last; seq > 0 && seq+16 > h.last; seq-- {
		head, err := h.head(seq)
		if err == nil && head.Hash() == hash {
			return true
		}
	}
	return false
}
