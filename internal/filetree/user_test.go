package filetree

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An ordinary user restores modes that shut the user out, read-only folders, and hard links to
// files in folders that are closed by then.
func TestUserRestoresClosedModes(t *testing.T) {
	asUser(t, nil, func(dir string) {
		var w warnings
		tg := createTarget(t, dir+"/t", TargetOptions{Xattrs: true, Warn: w.add})
		root := tg.Root()
		for _, mode := range []uint32{0, 0o200, 0o400, 0o500, 0o555} {
			name := fmt.Sprintf("d%03o", mode)
			p := must(root.Mkdir(name))(t)
			sub := must(p.Mkdir("sub"))(t)
			o := must(sub.CreateFile("f", 2))(t)
			must(o.WriteAt([]byte("hi"), 0))(t)
			check(t, o.Finish(Meta{Mode: mode, ModSec: 3, Xattrs: []Xattr{{"user.x", []byte("v")}}}))
			ref := must(sub.Ref("f"))(t)
			check(t, sub.Finish(Meta{Mode: mode, ModSec: 4, Xattrs: []Xattr{{"user.y", []byte("v")}}}))
			check(t, p.Finish(Meta{Mode: mode, ModSec: 5}))
			check(t, root.Link("link "+name, ref))
		}
		check(t, root.Finish(Meta{Mode: 0, ModSec: 6}))
		check(t, tg.Close())
		w.expect(t)
		var st unix.Stat_t
		check(t, unix.Stat(dir+"/t", &st))
		if st.Mode&0o7777 != 0 || st.Mtim.Sec != 6 {
			t.Errorf("root: mode %o, time %d", st.Mode, st.Mtim.Sec)
		}
		check(t, os.Chmod(dir+"/t", 0o700))
		for _, mode := range []uint32{0, 0o200, 0o400, 0o500, 0o555} {
			name := fmt.Sprintf("%s/t/d%03o", dir, mode)
			check(t, unix.Stat(name, &st))
			if st.Mode&0o7777 != mode || st.Mtim.Sec != 5 {
				t.Errorf("%s: mode %o, time %d", name, st.Mode, st.Mtim.Sec)
			}
			check(t, os.Chmod(name, 0o700))
			check(t, unix.Stat(name+"/sub", &st))
			if st.Mode&0o7777 != mode || st.Mtim.Sec != 4 {
				t.Errorf("%s/sub: mode %o, time %d", name, st.Mode, st.Mtim.Sec)
			}
			check(t, os.Chmod(name+"/sub", 0o700))
			check(t, unix.Stat(name+"/sub/f", &st))
			if st.Mode&0o7777 != mode || st.Mtim.Sec != 3 || st.Nlink != 2 || st.Size != 2 {
				t.Errorf("%s/sub/f: %+v", name, st)
			}
		}
	})
}

// What only root can set is told, and the rest is restored.
func TestUserIsToldWhatOnlyRootCanSet(t *testing.T) {
	asUser(t, nil, func(dir string) {
		var w warnings
		tg := createTarget(t, dir+"/t", TargetOptions{Owners: true, SetID: true, Xattrs: true, Devices: true, Warn: w.add})
		check(t, tg.Root().Device("null", CharDevice, unix.Mkdev(1, 3), Meta{}))
		o := must(tg.Root().CreateFile("f", 0))(t)
		check(t, o.Finish(Meta{Mode: 0o6755, Xattrs: []Xattr{{"trusted.x", []byte("v")}, {"user.x", []byte("v")}}}))
		w.expect(t,
			Warning{"null", "character device not made: operation not permitted"},
			Warning{"f", "owner not set: operation not permitted"},
			Warning{"f", "extended attribute trusted.x not set: operation not permitted"},
			Warning{"f", "setuid or setgid bit not set: the owner is another"})
		var st unix.Stat_t
		check(t, unix.Stat(dir+"/t/f", &st))
		if st.Mode&0o7777 != 0o755 {
			t.Errorf("mode %o", st.Mode)
		}
	})
}

// A user reads what others own, but not what is closed, and is told so entry by entry.
func TestUserReadsWhatIsOpen(t *testing.T) {
	asUser(t, func(dir string) {
		write(t, dir+"/open", "x")
		write(t, dir+"/closed", "x")
		check(t, os.Chmod(dir+"/closed", 0o600))
		check(t, os.Mkdir(dir+"/closed folder", 0o700))
		check(t, os.Mkdir(dir+"/names only", 0o744))
		write(t, dir+"/names only/x", "x")
	}, func(dir string) {
		f := openSource(t, dir).Root()
		o := must(f.OpenFile("open", find(t, f, "open").Stat))(t)
		check(t, o.Close())
		_, e1 := f.OpenFile("closed", find(t, f, "closed").Stat)
		_, e2 := f.OpenFolder("closed folder", find(t, f, "closed folder").Stat)
		sub := must(f.OpenFolder("names only", find(t, f, "names only").Stat))(t)
		defer sub.Close()
		items := must(sub.List(nil))(t)
		if len(items) != 1 || items[0].Name != "x" {
			t.Fatalf("%v", items)
		}
		for _, err := range []error{e1, e2, items[0].Err} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%v", err)
			}
		}
		must(f.Xattrs("closed", File))(t) // the list of names needs no right to read
	})
}

// A user's own zoo, without what needs root, comes back identical.
func TestUserCopiesOwnTree(t *testing.T) {
	asUser(t, nil, func(dir string) {
		a := dir + "/a"
		check(t, os.Mkdir(a, 0o700))
		check(t, os.Mkdir(a+"/ro", 0o700))
		write(t, a+"/ro/f", "text")
		check(t, unix.Setxattr(a+"/ro/f", "user.x", []byte("v"), 0))
		check(t, unix.Setxattr(a+"/ro/f", attrAccessACL, anACL(), 0))
		check(t, unix.Setxattr(a+"/ro", attrDefaultACL, anACL(), 0))
		check(t, os.Link(a+"/ro/f", a+"/second"))
		check(t, os.Symlink("x", a+"/link"))
		check(t, syscall.Mkfifo(a+"/fifo", 0o600))
		check(t, os.Chmod(a+"/ro", 0o500))
		l, err := net.Listen("unix", a+"/s")
		check(t, err)
		defer l.Close()
		var w warnings
		copyTree(t, a, dir+"/b", TargetOptions{Xattrs: true, Warn: w.add})
		w.expect(t, Warning{"s", "socket not made: the program that listens on it makes its own"})
		identical(t, a, dir+"/b")
	})
}
