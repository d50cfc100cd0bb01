package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	groupMost  = 256 << 10        // bytes of a file; larger ones gain nothing together
	groupLeast = 4                // fewer files are synced each by itself, which costs less
	groupTime  = time.Millisecond // how long a sync waits for those who come close behind the first
	// groupDirty is how many bytes that any program has written may wait for
	// their disk when a group is synced. With more, the group would wait for
	// work of others.
	groupDirty = 256 << 20
)

// Group makes small files of one file system durable together. Each file goes
// the way of every File (bytes on disk, then the name, then the name on disk),
// and Commit returns at the end of it as ever; only the two fsyncs are shared.
// One sync runs at a time; files that reach one meanwhile wait for it to end, and
// for the next, which is for all of them: one syncfs(2), then the fsync of one
// folder. A file that is alone waits for nobody and is synced by itself.
//
// What is durable when: a sync that begins after a file's bytes were written, or
// after its rename, and ends well, has put them on disk. That is all that Commit
// asks of an fsync. A crash therefore leaves of each file what it leaves without
// a group: a temporary file, or the whole file under its name; which of several
// files that waited together got how far is open, and none of them was
// acknowledged.
//
// A failed sync fails every file that was begun before it ended, because the
// system reports a failed write to one sync only and does not say whose it was.
//
// syncfs waits for what others wrote to the same file system, too. Therefore
// files are synced by themselves, at the same time, while more than 256 MiB wait
// for any disk, and always where syncfs is not known to report errors and to put
// everything on disk (Linux before 5.8; all but ext4, XFS, btrfs and tmpfs).
type Group struct {
	folder *os.File
	shared bool // syncfs will do

	mu      sync.Mutex
	open    int // files begun and not ended
	waiting []*waiter
	running bool
	failed  uint64 // failed syncs so far

	// Replaced by tests.
	least  int
	syncfs func() error
	dirty  func() int64
}

// waiter is one file that waits for a sync. err and apart are set when done is
// closed; apart says that it has to sync by itself.
type waiter struct {
	alone func() error
	done  chan struct{}
	err   error
	apart bool
}

// NewGroup makes a group for the file system that folder lies on.
func NewGroup(folder string) (*Group, error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("durable: group: %w", err)
	}
	g := &Group{folder: f, least: groupLeast, dirty: dirtyBytes}
	g.syncfs = g.syncAll
	if g.shared, err = syncfsWillDo(f); err != nil {
		return nil, errors.Join(fmt.Errorf("durable: group: %w", err), f.Close())
	}
	return g, nil
}

// Close frees what the group holds of the system. Its files must have ended.
func (g *Group) Close() error {
	if err := g.folder.Close(); err != nil {
		return fmt.Errorf("durable: group: %w", err)
	}
	return nil
}

// CreateIn is CreateIn for a file of the group.
func (g *Group) CreateIn(folder, path string, perm fs.FileMode) (*File, error) {
	failed := g.count(1)
	f, err := CreateIn(folder, path, perm)
	if err != nil {
		g.count(-1)
		return nil, err
	}
	f.group, f.failed = g, failed
	return f, nil
}

// count adds to the number of open files, and tells how many syncs have failed.
func (g *Group) count(n int) (failed uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open += n
	return g.failed
}

// sync returns when all that was done before it was called is on disk. alone
// does that for the caller's file only; failed is how many syncs had failed when
// the file was begun.
func (g *Group) sync(alone func() error, failed uint64) error {
	w := &waiter{alone: alone, done: make(chan struct{}), apart: !g.shared}
	if g.shared {
		g.mu.Lock()
		g.waiting = append(g.waiting, w)
		first := !g.running
		g.running = true
		g.mu.Unlock()
		if first {
			go g.run()
		}
		<-w.done
	}
	if w.apart {
		w.err = alone()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.err == nil && g.failed != failed {
		return errors.New("durable: syncfs: it failed while the file was written")
	}
	return w.err
}

// run syncs for those who wait, and then for those who came meanwhile, until
// nobody waits.
func (g *Group) run() {
	for {
		round := g.next()
		switch {
		case len(round) == 0:
			return
		case len(round) < g.least:
			for _, w := range round {
				w.err = w.alone()
				close(w.done)
			}
		case g.dirty() > groupDirty:
			for _, w := range round {
				w.apart = true
				close(w.done)
			}
		default:
			g.syncTogether(round)
		}
	}
}

// next takes those who wait. Only where others are writing does it give them
// time to come; a file that is alone waits for nobody.
func (g *Group) next() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.waiting); n > 0 && n < g.open && g.open >= g.least {
		g.mu.Unlock()
		time.Sleep(groupTime)
		g.mu.Lock()
	}
	round := g.waiting
	g.waiting = nil
	g.running = len(round) > 0
	return round
}

func (g *Group) syncTogether(round []*waiter) {
	err := g.syncfs()
	if err != nil {
		err = fmt.Errorf("durable: syncfs: %w", err)
		g.mu.Lock()
		g.failed++ // before anyone is told, so that nobody slips through
		g.mu.Unlock()
	}
	for _, w := range round {
		w.err = err
		close(w.done)
	}
}

// syncAll writes everything of the file system, and then has the disk write what
// it holds in its cache: an ext4 without a journal leaves that out of syncfs, and
// never out of an fsync.
func (g *Group) syncAll() error {
	for {
		err := unix.Syncfs(int(g.folder.Fd()))
		if err == nil {
			return g.folder.Sync()
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncfsWillDo tells whether syncfs reports errors here and reaches the disk.
func syncfsWillDo(f *os.File) (bool, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, err
	}
	return reportsErrors(unix.ByteSliceToString(name.Release[:])) && reachesDisk(st.Type), nil
}

// reportsErrors tells of a release of Linux whether its syncfs fails when a
// write has failed.
func reportsErrors(release string) bool {
	major, minor := 0, 0
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || (major == 5 && minor >= 8)
}

// reachesDisk knows file systems by the numbers that statfs gives them. Those
// left out may lie on another machine, or under another program.
func reachesDisk(kind int64) bool {
	switch kind {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// dirtyBytes is how much waits for any disk; what cannot be read is too much.
func dirtyBytes() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return groupDirty + 1
	}
	return parseDirty(text)
}

// parseDirty adds up the lines "Dirty:" and "Writeback:" of /proc/meminfo.
func parseDirty(text []byte) int64 {
	var sum int64
	seen := 0
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[2]) != "kB" {
			continue
		}
		if key := string(f[0]); key != "Dirty:" && key != "Writeback:" {
			continue
		}
		n, err := strconv.ParseInt(string(f[1]), 10, 40)
		if err != nil || n < 0 {
			return groupDirty + 1
		}
		sum += n << 10
		seen++
	}
	if seen != 2 {
		return groupDirty + 1
	}
	return sum
}
