package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestWriteFileReplacesWholeAndLeavesNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "name")
	for _, want := range []string{"first", "", strings.Repeat("x", 1<<20), "last"} {
		if err := WriteFile(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

func TestNothingShowsBeforeCommit(t *testing.T) {
	dir, tmp := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "name")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"abort", "commit"} {
		f, err := CreateIn(tmp, path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Cold()
		if err := f.Reserve(1 << 20); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("xew")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("n"), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
			t.Errorf("before %s: %q, %v", end, got, err)
		}
		want := "old"
		if end == "commit" {
			want, err = "new", f.Commit()
		} else {
			err = f.Abort()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("after %s: %q, %v", end, got, err)
		}
		if names := list(t, tmp); len(names) != 0 {
			t.Errorf("after %s: left %v", end, names)
		}
	}
}

func TestAFailedCommitLeavesTheOldBytes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "name")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Fatal("a file replaced a folder")
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
	if err := WriteFile(filepath.Join(dir, "no such", "name"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}

func TestRemoveTempsTakesOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	left, err := Create(filepath.Join(dir, "a"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if !IsTemp(left.temp) {
		t.Errorf("%s is not known as temporary", left.temp)
	}
	keep := []string{".tmp-", ".tmp-xyz", "tmp-000000000000000000000000", ".tmp-00000000000000000000000g", "name"}
	for _, name := range keep {
		if IsTemp(name) {
			t.Errorf("%s passes for temporary", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := RemoveTemps(dir); err != nil || n != 1 {
		t.Errorf("removed %d, %v", n, err)
	}
	if names := list(t, dir); len(names) != len(keep) {
		t.Errorf("left: %v", names)
	}
}

func TestFoldersAndRemovalMayBeRepeated(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := MkdirAll(deep, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(deep, "name")
	if err := WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(path, 0o700); err == nil {
		t.Error("a folder where a file is")
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestFullKnowsBothKindsOfFull(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Err: syscall.ENOSPC}: true, &fs.PathError{Err: syscall.EDQUOT}: true,
		&fs.PathError{Err: syscall.EIO}: false, errors.New("no space left on device"): false,
	} {
		if Full(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}

// TestMain is also the other process of TestLockHoldsAcrossProcesses.
func TestMain(m *testing.M) {
	if path := os.Getenv("DURABLE_TEST_LOCK"); path != "" {
		if _, err := Lock(path); err != nil {
			os.Exit(3)
		}
		_, _ = os.Stdout.WriteString("locked\n") // the parent sees if it fails
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLockHoldsAcrossProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("twice in one process: %v", err)
	}
	child := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DURABLE_TEST_LOCK="+path)
		return cmd
	}
	if err := child().Run(); err == nil {
		t.Error("another process has the lock too")
	}
	unlock()
	unlock()
	other := child()
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 6)
	if _, err := out.Read(said); err != nil || !bytes.Equal(said, []byte("locked")) {
		t.Fatalf("control: the other process: %q, %v", said, err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("while another process holds it: %v", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // killed
	_ = in.Close()
	unlock, err = Lock(path)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	unlock()
}

// A process that is being started has a copy of every descriptor until it becomes another program.
func TestACopyOfTheDescriptorDoesNotKeepALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := -1
	for _, name := range list(t, "/proc/self/fd") {
		if to, err := os.Readlink("/proc/self/fd/" + name); err == nil && to == path {
			fd, err := strconv.Atoi(name)
			if err != nil {
				t.Fatal(err)
			}
			if copied, err = syscall.Dup(fd); err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(copied)
		}
	}
	if copied < 0 {
		t.Fatal("control: no descriptor of the lock")
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("control: while it is held: %v", err)
	}
	unlock()
	if unlock, err = Lock(path); err != nil {
		t.Fatalf("a copy keeps it: %v", err)
	}
	unlock()
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
