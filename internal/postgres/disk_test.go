package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/postgres"
	"chancery.dev/chancery/internal/sim"
)

// disk is a small disk of its own.
type disk struct {
	t   testing.TB
	dir string
}

// smallDisk puts a disk of so many MiB at a folder, which it covers.
func smallDisk(t testing.TB, dir string, mib int) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system: run it as root")
	}
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=700,size=%dM", mib)))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &disk{t, dir}
}

// grow makes room.
func (d *disk) grow(mib int) {
	d.t.Helper()
	check(d.t, unix.Mount("", d.dir, "", unix.MS_REMOUNT, fmt.Sprintf("mode=700,size=%dM", mib)))
}

// fill leaves no room, until what it wrote is removed.
func (d *disk) fill() (empty func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	check(d.t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
	check(d.t, f.Close())
	return func() { check(d.t, os.Remove(path)) }
}

// logDisk gives the log of the world's server a disk of its own.
func (w *world) logDisk(mib int) *disk {
	w.Helper()
	w.server.Stop()
	log, aside := filepath.Join(w.server.Data, "pg_wal"), filepath.Join(w.server.Dir, "aside")
	pgtest.Run(w, "/", "cp", "-a", log, aside)
	d := smallDisk(w, log, mib)
	w.Cleanup(w.server.Kill) // before the disk goes
	pgtest.Give(w, log)
	pgtest.Run(w, "/", "cp", "-a", aside+"/.", log)
	w.server.StartAgain()
	return d
}

// A disk is full: in turn home's, an embassy's, those of all embassies but one, and the server's own, because nobody takes
// its log. What was acknowledged stays, nothing is told to be durable that is not, and with room again everything goes on.
func TestADiskMayBeFull(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		w := newWorld(t, major, settings())
		log := w.logDisk(32)
		home := smallDisk(t, w.dir, 8)
		s := w.stream(asSynchronous)
		s.told(postgres.Connected)
		w.backup()
		w.synchronize()
		wr := w.write(time.Millisecond)
		wr.more(t, 30)

		empty := home.fill()
		if err := s.ends(); !errors.Is(err, syscall.ENOSPC) || s.count(postgres.Stopped) != 1 {
			t.Errorf("home is full: %v", err)
		}
		empty()
		s = w.stream(asSynchronous, func(o *postgres.StreamOptions) { o.Watch = 50 * time.Millisecond })
		wr.more(t, 30)

		w.state.Embassies[0].Fail(sim.Full())
		wr.more(t, 30)
		w.state.Embassies[1].Fail(sim.Full())
		s.told(postgres.Unanswered)
		await(t, "a commit that waits", wr.waiting)
		w.state.Fail(sim.Faults{})
		wr.more(t, 30)
		s.end()

		w.synchronizeWith("") // commits go on with nobody who takes the log
		for failed := error(nil); failed == nil; {
			_, failed = w.server.Try("postgres", "SELECT pg_logical_emit_message(false, 'x', repeat(md5(random()::text), 30000))")
		}
		w.server.Kill() // it may be about to try again by itself
		log.grow(200)
		w.server.StartAgain()
		wr.more(t, 30)
		wr.end()
		s = w.stream()
		s.until(w.written())
		if n := s.count(postgres.Gap) + s.count(postgres.Conflict); n > 0 {
			t.Errorf("%d events of lost log", n)
		}
		w.restore(postgres.Target{}).recovers().holds(t, wr.count(), wr.count())
	})
}
