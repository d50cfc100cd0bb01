package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery.dev/chancery/internal/cluster"
	"chancery.dev/chancery/internal/pgtest"
	"chancery.dev/chancery/internal/wal"
)

// tight lets a server keep as little log as it can.
var tight = pgtest.Options{SegmentSize: 1, Settings: map[string]string{
	"max_wal_size": "2MB", "min_wal_size": "2MB", "max_slot_wal_keep_size": "6MB", "wal_keep_size": "0",
}}

// spend makes a server write some log, in segments, and remove what it may.
func spend(s *pgtest.Server, segments int) {
	for range segments {
		s.Exec("SELECT pg_logical_emit_message(false, 'x', 'y'); SELECT pg_switch_wal()")
	}
	s.Exec("CHECKPOINT")
}

// A slot that nobody reads is seen to run out before it is lost; a lost one is told by name, at the slot and at the
// stream, and is not replaced; another slot can be made when it was dropped.
func TestLostSlotIsTold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, tight)
		c := open(t, s)
		id := identify(t, c)
		if _, _, err := c.EnsureSlot(deadline(t), "slow one"); err == nil {
			t.Fatal("a name that no slot can have")
		}
		fresh, created, err := c.EnsureSlot(deadline(t), "slow")
		if err != nil || !created || fresh.RestartLSN == 0 || fresh.WALStatus != "reserved" || fresh.SafeWALSize == nil {
			t.Fatalf("%+v, %v, %v", fresh, created, err)
		}
		spend(s, 3)
		used, created, err := c.EnsureSlot(deadline(t), "slow")
		if err != nil || created || used.RestartLSN != fresh.RestartLSN || *used.SafeWALSize >= *fresh.SafeWALSize {
			t.Fatalf("%+v, %v, %v", used, created, err)
		}
		spend(s, 12)
		lost, created, err := c.EnsureSlot(deadline(t), "slow")
		if !errors.Is(err, cluster.ErrSlotLost) || created || !lost.Lost() {
			t.Errorf("%+v, %v, %v", lost, created, err)
		}
		if _, err := c.StartStream(deadline(t), "slow", id.SegmentSize.Floor(fresh.RestartLSN), 1); !errors.Is(err, cluster.ErrSlotLost) {
			t.Errorf("stream: %v", err)
		}
		if err := c.DropSlot(deadline(t), "slow"); err != nil {
			t.Error(err)
		}
		if err := c.DropSlot(deadline(t), "slow"); err != nil {
			t.Errorf("dropped twice: %v", err)
		}
		if _, err := c.StartStream(deadline(t), "slow", id.WriteLSN, 1); !errors.Is(err, cluster.ErrSlotMissing) {
			t.Errorf("no slot: %v", err)
		}
		if again, created, err := c.EnsureSlot(deadline(t), "slow"); err != nil || !created || again.Lost() {
			t.Errorf("%+v, %v, %v", again, created, err)
		}
	})
}

// A stream whose slot is given up under it breaks, and learns why when it begins anew. That it reads but acknowledges
// nothing does not hold the server up; nor, for long, that it does not even read.
func TestSlotLostUnderAStream(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads=%v", reads), func(t *testing.T) {
			s := pgtest.Start(t, 18, tight)
			c := open(t, s)
			c.SetPace(100*time.Millisecond, time.Second)
			f := followOn(t, c, "slow")
			f.receive(t, written(t, s))
			broken := make(chan error, 1)
			read := func() {
				for {
					if _, err := f.s.Receive(deadline(t)); err != nil {
						broken <- err
						return
					}
				}
			}
			if reads {
				go read()
			}
			for n := 0; s.Exec("SELECT wal_status FROM pg_replication_slots") != "lost"; n++ {
				if n == 20 {
					t.Fatal("the slot is not given up")
				}
				spend(s, 20)
			}
			if !reads {
				go read()
			}
			if err := <-broken; !errors.Is(err, cluster.ErrConnection) || errors.Is(err, cluster.ErrStalled) == reads {
				t.Error(err)
			}
			if _, err := open(t, s).StartStream(deadline(t), "slow", f.log.End, 1); !errors.Is(err, cluster.ErrSlotLost) {
				t.Error(err)
			}
		})
	}
}

// Two users of one slot, and a slot of the other kind.
func TestSlotIsOneStreamsOnly(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, 17, pgtest.Options{Settings: map[string]string{"wal_level": "logical"}})
	f := follow(t, s, "one")
	if _, err := open(t, s).StartStream(deadline(t), "one", f.from, 1); !errors.Is(err, cluster.ErrSlotBusy) {
		t.Error(err)
	}
	s.Exec("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
	if _, _, err := open(t, s).EnsureSlot(deadline(t), "logical"); !errors.Is(err, cluster.ErrSlotKind) {
		t.Error(err)
	}
}

// Log that the server no longer has is a hole with a name.
func TestRemovedLogIsTold(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, tight)
		c := open(t, s)
		id := identify(t, c)
		spend(s, 12)
		stream, err := c.StartStream(deadline(t), "", id.SegmentSize.Floor(id.WriteLSN), 1)
		for err == nil {
			_, err = stream.Receive(deadline(t))
		}
		if !errors.Is(err, cluster.ErrWALRemoved) || errors.Is(err, cluster.ErrConnection) {
			t.Error(err)
		}
	})
}

// Another system at the same address is refused, whatever is asked of it.
func TestChangedSystemIsRefused(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Start(t, 15, pgtest.Options{}), pgtest.Start(t, 15, pgtest.Options{})
	id := identify(t, open(t, a))
	c := open(t, b)
	if _, err := c.Require(deadline(t), id.System); !errors.Is(err, cluster.ErrSystemChanged) {
		t.Fatal(err)
	}
	if _, err := c.StartStream(deadline(t), "", id.SegmentSize.Floor(id.WriteLSN), 1); !errors.Is(err, cluster.ErrSystemChanged) {
		t.Errorf("stream: %v", err)
	}
	if _, err := c.BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, pgtest.NewCopy(t)); !errors.Is(err, cluster.ErrSystemChanged) {
		t.Errorf("base backup: %v", err)
	}
	if _, err := open(t, a).Require(deadline(t), id.System); err != nil {
		t.Error(err)
	}
}

// Who may not connect or replicate learns which it is, and no error ever has the password in it.
func TestLoginRefusals(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, pgtest.Options{})
		s.Exec("CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'pass word'; CREATE ROLE nobody LOGIN PASSWORD 'pass word'")
		hba := "local all postgres trust\nlocal replication postgres trust\nlocal all all scram-sha-256\nlocal replication keeper,nobody scram-sha-256\n"
		if err := os.WriteFile(filepath.Join(s.Data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Reload()
		as := func(user, password string) string {
			return strings.Replace(s.Conninfo(), "user=postgres", "user="+user+" password='"+password+"'", 1)
		}
		c, err := cluster.Open(deadline(t), as("keeper", "pass word"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Identify(deadline(t)); err != nil {
			t.Error(err)
		}
		for what, v := range map[string]struct {
			conninfo string
			want     error
		}{
			"wrong password": {as("keeper", "pass wort"), cluster.ErrLogin},
			"no replication": {as("nobody", "pass word"), cluster.ErrNotReplication},
			"no server":      {"host=/nowhere user=x password='pass word'", cluster.ErrConnection},
			"broken string":  {"host=localhost password='pass word", cluster.ErrConninfo},
			"broken address": {"postgres://x:pass word@host:port/", cluster.ErrConninfo},
			"bad option":     {"host=localhost sslmode=pass word password='pass word'", cluster.ErrConninfo},
		} {
			_, err := cluster.Open(deadline(t), v.conninfo)
			if !errors.Is(err, v.want) || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "pass wor") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// Of several servers the one is taken that target_session_attrs asks for, on the replication connection, too.
func TestTheRightServerOfSeveral(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		r := standby(t, s, follow(t, s, "stream"))
		for attrs, isStandby := range map[string]bool{"primary": false, "read-write": false, "standby": true, "read-only": true, "any": true} {
			conninfo := fmt.Sprintf("host=%s,%s port=5432 user=postgres sslmode=disable target_session_attrs=%s", r.Dir, s.Dir, attrs)
			c, err := cluster.Open(deadline(t), conninfo)
			if err != nil {
				t.Errorf("%s: %v", attrs, err)
				continue
			}
			if id := identify(t, c); id.Standby != isStandby {
				t.Errorf("%s: %+v", attrs, id)
			}
			_ = c.Close()
		}
		s.Kill()
		conninfo := fmt.Sprintf("host=%s,%s port=5432 user=postgres sslmode=disable target_session_attrs=primary", r.Dir, s.Dir)
		if _, err := cluster.Open(deadline(t), conninfo); !errors.Is(err, cluster.ErrConnection) {
			t.Errorf("no primary: %v", err)
		}
	})
}

// A page that was damaged fails the backup, with the file's name.
func TestDamagedPageFailsTheBackup(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, pgtest.Options{})
		s.Exec("CREATE TABLE numbered AS SELECT generate_series(1, 10000) AS n")
		file := s.Exec("SELECT pg_relation_filepath('numbered')")
		s.Stop()
		f, err := os.OpenFile(filepath.Join(s.Data, file), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 3*8192+5000); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		s.StartAgain()
		c := open(t, s)
		_, err = c.BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, pgtest.NewCopy(t))
		if !errors.Is(err, cluster.ErrChecksum) || !strings.Contains(err.Error(), file) {
			t.Errorf("%v", err)
		}
		if _, err := c.Identify(deadline(t)); err != nil {
			t.Errorf("the connection afterwards: %v", err)
		}
	})
}

func TestTornPagesAreNotBackedUp(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, 16, pgtest.Options{Settings: map[string]string{"full_page_writes": "off"}})
	if _, err := open(t, s).BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, pgtest.NewCopy(t)); !errors.Is(err, cluster.ErrFullPageWrites) {
		t.Error(err)
	}
}

// A receiver hooks into a copy.
type receiver struct {
	*pgtest.Copy
	entry func(cluster.Entry) error
}

func (r *receiver) Entry(s cluster.Space, e cluster.Entry, in io.Reader) error {
	if err := r.entry(e); err != nil {
		return err
	}
	return r.Copy.Entry(s, e, in)
}

// A backup from a standby is one; when the standby is promoted meanwhile, it fails by name.
func TestBackupFromAStandby(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, keep)
		f := follow(t, s, "stream")
		r := standby(t, s, f)
		whole := pgtest.NewCopy(t)
		result, err := open(t, r).BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, whole)
		if err != nil || !whole.Label.Standby || whole.Label.Start != result.Start {
			t.Fatalf("%+v, %+v, %v", result, whole.Label, err)
		}
		f.log.Write(t, filepath.Join(whole.Data, "pg_wal"))
		again := pgtest.Adopt(t, major, whole.Data)
		again.StartAgain()
		if got := again.Exec("SELECT count(*) FROM after_the_backup"); got != "1000" {
			t.Errorf("%s rows", got)
		}
		promoted := false
		torn := &receiver{Copy: pgtest.NewCopy(t), entry: func(e cluster.Entry) error {
			if e.Name == "base" {
				r.Promote()
				promoted = true
			}
			return nil
		}}
		_, err = open(t, r).BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, torn)
		if !promoted || !errors.Is(err, cluster.ErrTimelineSwitched) {
			t.Errorf("promoted %v: %v", promoted, err)
		}
	})
}

// What the receiver says ends the backup, and so does the end of the context, amid the bytes.
func TestBackupIsEndedByItsReceiver(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, 15, pgtest.Options{})
	full := errors.New("no room")
	r := &receiver{Copy: pgtest.NewCopy(t), entry: func(e cluster.Entry) error {
		if strings.HasPrefix(e.Name, "base/") {
			return full
		}
		return nil
	}}
	c := open(t, s)
	if _, err := c.BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, r); !errors.Is(err, full) {
		t.Error(err)
	}
	if _, err := c.Identify(deadline(t)); !errors.Is(err, cluster.ErrConnection) {
		t.Errorf("a connection amid an answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r = &receiver{Copy: pgtest.NewCopy(t), entry: func(e cluster.Entry) error {
		if strings.HasPrefix(e.Name, "base/") {
			cancel()
		}
		return nil
	}}
	if _, err := open(t, s).BaseBackup(ctx, cluster.BackupOptions{Fast: true}, r); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.Await("SELECT count(*) FROM pg_stat_progress_basebackup", "0")
	r = &receiver{Copy: pgtest.NewCopy(t), entry: func(e cluster.Entry) error {
		if e.Name == "base" {
			s.Kill()
		}
		return nil
	}}
	begun := time.Now()
	if _, err := open(t, s).BaseBackup(deadline(t), cluster.BackupOptions{Fast: true}, r); !errors.Is(err, cluster.ErrConnection) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("a killed server was noticed after %s", took)
	}
}

// What a server is, as its own SQL says.
func TestIdentity(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, major int) {
		s := pgtest.Start(t, major, pgtest.Options{SegmentSize: 64, Checksums: major < 18, Settings: map[string]string{"wal_level": "logical"}})
		id := identify(t, open(t, s))
		want := s.Exec("SELECT system_identifier FROM pg_control_system()")
		if fmt.Sprint(id.System) != want || id.Timeline != 1 || id.Standby || id.Major() != major || id.SegmentSize != 64<<20 ||
			id.BlockSize != 8192 || id.WALBlockSize != wal.PageSize || id.DataChecksums != (major == 18) || !id.FullPageWrites ||
			id.WALLevel != "logical" || id.ArchiveMode != "off" || id.WriteLSN == 0 {
			t.Errorf("%+v", id)
		}
	})
}
