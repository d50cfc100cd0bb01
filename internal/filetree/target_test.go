package filetree

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEverythingComesBack(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	zoo(t, dir+"/a")
	var w warnings
	copyTree(t, dir+"/a", dir+"/b", everything(&w))
	w.expect(t)
	identical(t, dir+"/a", dir+"/b")
	check(t, os.Mkdir(dir+"/c", 0o777)) // the same into a folder that is there, with an ACL that would be inherited
	check(t, unix.Setxattr(dir+"/c", attrDefaultACL, anACL(), 0))
	check(t, unix.Setxattr(dir+"/c", attrAccessACL, anACL(), 0))
	copyTree(t, dir+"/a", dir+"/c", everything(&w))
	w.expect(t)
	identical(t, dir+"/a", dir+"/c")
	check(t, Sync(dir+"/b"))
}

func TestTargetMustBeNewOrEmpty(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x")
	for path, want := range map[string]error{
		dir: ErrNotEmpty, dir + "/file": ErrNotDir, dir + "/no/parent": fs.ErrNotExist,
	} {
		if _, err := CreateTarget(path, TargetOptions{Xattrs: true}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	createTarget(t, dir+"/new", TargetOptions{})
	createTarget(t, dir+"/new", TargetOptions{})
}

func TestPrivilegesOnlyOnRequest(t *testing.T) {
	needRoot(t)
	rights := []Xattr{{attrCapability, []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}}
	const notAsked, another = "setuid or setgid bit not set: not asked for", "setuid or setgid bit not set: the owner is another"
	for name, c := range map[string]struct {
		opts        TargetOptions
		uid         uint32
		file, dir   uint32
		rights      bool
		what, what2 string
	}{
		"asked":                    {TargetOptions{SetID: true, Owners: true, Xattrs: true}, 5, 0o6755, 0o7755, true, "", ""},
		"not asked":                {TargetOptions{Owners: true, Xattrs: true}, 5, 0o755, 0o1755, false, notAsked, "rights of the program (security.capability) not set"},
		"asked, owner not given":   {TargetOptions{SetID: true, Xattrs: true}, 5, 0o755, 0o1755, false, another, "rights of the program (security.capability) not set"},
		"asked, owner is the same": {TargetOptions{SetID: true, Xattrs: true}, 0, 0o6755, 0o7755, false, "", "rights of the program (security.capability) not set"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/t"
			var w warnings
			c.opts.Warn = w.add
			tg := createTarget(t, dir, c.opts)
			p := must(tg.Root().Mkdir("d"))(t)
			o := must(p.CreateFile("f", 0))(t)
			check(t, o.Finish(Meta{Mode: 0o6755, UID: c.uid, GID: c.uid, Xattrs: rights}))
			check(t, p.Finish(Meta{Mode: 0o7755, UID: c.uid, GID: c.uid}))
			var f, d unix.Stat_t
			check(t, unix.Stat(dir+"/d/f", &f))
			check(t, unix.Stat(dir+"/d", &d))
			if f.Mode&0o7777 != c.file || d.Mode&0o7777 != c.dir {
				t.Errorf("file %o, folder %o", f.Mode, d.Mode)
			}
			n, err := unix.Getxattr(dir+"/d/f", attrCapability, nil)
			if (err == nil && n > 0) != c.rights {
				t.Errorf("rights: %d bytes, %v", n, err)
			}
			var want []Warning
			if c.what2 != "" {
				want = append(want, Warning{"d/f", c.what2})
			}
			if c.what != "" {
				want = append(want, Warning{"d/f", c.what}, Warning{"d", c.what})
			}
			w.expect(t, want...)
		})
	}
}

func TestWhatIsNotRestoredIsTold(t *testing.T) {
	dir := t.TempDir() + "/t"
	var w warnings
	tg := createTarget(t, dir, TargetOptions{Warn: w.add})
	p := must(tg.Root().Mkdir("d"))(t)
	check(t, p.Socket("socket"))
	check(t, p.Device("device", CharDevice, 259, Meta{}))
	check(t, p.Symlink("link", "x", Meta{Xattrs: []Xattr{{"user.x", nil}}}))
	check(t, p.Close())
	w.expect(t,
		Warning{"d/socket", "socket not made: the program that listens on it makes its own"},
		Warning{"d/device", "character device not made: devices were not asked for"},
		Warning{"d/link", "extended attributes not set: not asked for"})
	if e := must(os.ReadDir(dir + "/d"))(t); len(e) != 1 {
		t.Errorf("%v", e)
	}
	w.all = nil
	tg = createTarget(t, dir+"2", TargetOptions{Xattrs: true, Warn: w.add})
	check(t, tg.Root().Symlink("link", "x", Meta{Xattrs: []Xattr{{"user.x", []byte("v")}}}))
	w.expect(t, Warning{"link", "extended attribute user.x not set: operation not permitted"})
}

func TestHostileNamesAreRefused(t *testing.T) {
	dir := t.TempDir()
	tg := createTarget(t, dir+"/t", TargetOptions{Devices: true})
	p := tg.Root()
	ref := LinkRef{h: p.h, name: "x"}
	for _, name := range []string{"", ".", "..", "/", "../x", "a/b", "/x", "x\x00", strings.Repeat("x", 256)} {
		_, e1 := p.Mkdir(name)
		_, e2 := p.CreateFile(name, 0)
		_, e3 := p.Ref(name)
		for i, err := range []error{
			e1, e2, e3, p.Symlink(name, "x", Meta{}), p.Fifo(name, Meta{}), p.Link(name, ref),
			p.Device(name, CharDevice, 0, Meta{}), p.Socket(name),
		} {
			if !errors.Is(err, ErrName) {
				t.Errorf("%d: %q: %v", i, name, err)
			}
		}
	}
	if e := must(os.ReadDir(dir))(t); len(e) != 1 {
		t.Errorf("outside: %v", e)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/outside", "precious")
	tg := createTarget(t, dir+"/t", TargetOptions{})
	p := tg.Root()
	check(t, p.Symlink("taken", "../outside", Meta{}))
	_, e1 := p.Mkdir("taken")
	_, e2 := p.CreateFile("taken", 0)
	check(t, p.Fifo("fifo", Meta{}))
	for _, err := range []error{
		e1, e2, p.Symlink("taken", "x", Meta{}), p.Fifo("taken", Meta{}),
		p.Link("taken", must(p.Ref("fifo"))(t)),
	} {
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v", err)
		}
	}
	if got := must(os.ReadFile(dir + "/outside"))(t); string(got) != "precious" {
		t.Errorf("outside is now %q", got)
	}
}

// While a tree is restored, somebody puts a symlink in place of a folder of it.
func TestSymlinkSwappedInDoesNotLeadOut(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(dir+"/outside", 0o755))
	tg := createTarget(t, dir+"/t", TargetOptions{})
	p := must(tg.Root().Mkdir("d"))(t)
	check(t, os.Rename(dir+"/t/d", dir+"/t/d2"))
	check(t, os.Symlink(dir+"/outside", dir+"/t/d"))
	o := must(p.CreateFile("file", 0))(t)
	check(t, o.Finish(Meta{Mode: 0o777}))
	sub := must(p.Mkdir("sub"))(t)
	check(t, sub.Finish(Meta{Mode: 0o700}))
	check(t, p.Symlink("link", "x", Meta{}))
	check(t, p.Finish(Meta{Mode: 0o700}))
	if e := must(os.ReadDir(dir + "/outside"))(t); len(e) != 0 {
		t.Errorf("outside: %v", e)
	}
	if e := must(os.ReadDir(dir + "/t/d2"))(t); len(e) != 3 {
		t.Errorf("inside: %v", e)
	}
	// control: a writer that goes by paths is led out
	write(t, dir+"/t/d/naive", "x")
	if e := must(os.ReadDir(dir + "/outside"))(t); len(e) != 1 {
		t.Errorf("the swap is no danger to anybody: %v", e)
	}
}

// A node is given owner and mode only if it is the one that was made.
func TestNodeSwappedForAHardLinkIsLeftAlone(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	check(t, unix.Mkfifo(dir+"/others", 0o600))
	tg := createTarget(t, dir+"/t", TargetOptions{Owners: true})
	err := tg.Root().makeNode("fifo", FIFO, Meta{Mode: 0o666, UID: 99}, func(dirfd int) error {
		return os.Link(dir+"/others", dir+"/t/fifo")
	})
	var st unix.Stat_t
	check(t, unix.Stat(dir+"/others", &st))
	if !errors.Is(err, ErrChanged) || st.Uid != 0 || st.Mode&0o777 != 0o600 {
		t.Errorf("%v: owner %d, mode %o", err, st.Uid, st.Mode)
	}
}

func TestHardLinks(t *testing.T) {
	dir := t.TempDir()
	tg := createTarget(t, dir+"/t", TargetOptions{})
	a := must(tg.Root().Mkdir("a"))(t)
	b := must(a.Mkdir("b"))(t)
	o := must(b.CreateFile("file", 1))(t)
	must(o.WriteAt([]byte("x"), 0))(t)
	check(t, o.Finish(Meta{Mode: 0o600}))
	ref := must(b.Ref("file"))(t)
	check(t, b.Link("same folder", ref))
	check(t, b.Finish(Meta{Mode: 0o700, ModSec: 5}))
	check(t, a.Finish(Meta{Mode: 0o700, ModSec: 5}))
	check(t, tg.Root().Link("top", ref)) // its folders are finished and closed
	var st unix.Stat_t
	check(t, unix.Stat(dir+"/t/top", &st))
	if st.Nlink != 3 {
		t.Errorf("%d links", st.Nlink)
	}
	check(t, unix.Stat(dir+"/t/a/b", &st))
	if st.Mtim.Sec != 5 {
		t.Error("linking changed the time of the first's folder")
	}
	if _, err := tg.Root().Ref("a"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("reference to a folder: %v", err)
	}
	for what, swap := range map[string]func(){
		"another file": func() { write(t, dir+"/t/a/b/file", "y") },
		"symlink":      func() { check(t, os.Symlink("/etc/passwd", dir+"/t/a/b/file")) },
		"nothing":      func() {},
		"folder of its": func() {
			check(t, os.Rename(dir+"/t/a", dir+"/t/a2"))
			check(t, os.Symlink("a2", dir+"/t/a"))
		},
	} {
		_ = os.Remove(dir + "/t/a/b/file")
		swap()
		if err := tg.Root().Link("next", ref); !errors.Is(err, ErrChanged) {
			t.Errorf("first replaced by %s: %v", what, err)
		}
		if _, err := os.Lstat(dir + "/t/next"); err == nil {
			t.Errorf("%s: a link was left behind", what)
		}
		if what == "folder of its" {
			check(t, os.Remove(dir+"/t/a"))
			check(t, os.Rename(dir+"/t/a2", dir+"/t/a"))
		}
	}
}

func TestSizeIsWhatWasSaid(t *testing.T) {
	dir := t.TempDir()
	tg := createTarget(t, dir+"/t", TargetOptions{})
	p := tg.Root()
	o := must(p.CreateFile("tail", 1000))(t)
	must(o.WriteAt([]byte("abc"), 10))(t)
	if _, err := o.WriteAt([]byte("abc"), 998); err == nil {
		t.Error("written past the end")
	}
	check(t, o.Finish(Meta{Mode: 0o600}))
	want := make([]byte, 1000)
	copy(want[10:], "abc")
	if got := must(os.ReadFile(dir + "/t/tail"))(t); !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if err := o.Finish(Meta{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("finished twice: %v", err)
	}
	o = must(p.CreateFile("cut", 1000))(t)
	must(o.WriteAt([]byte("abcdef"), 0))(t)
	check(t, o.Truncate(4))
	check(t, o.Finish(Meta{Mode: 0o600}))
	if got := must(os.ReadFile(dir + "/t/cut"))(t); string(got) != "abcd" {
		t.Errorf("got %q", got)
	}
	o = must(p.CreateFile("discarded", 10))(t)
	check(t, o.Discard())
	check(t, o.Discard())
	o = must(p.CreateFile("replaced", 10))(t)
	check(t, os.Remove(dir+"/t/replaced"))
	write(t, dir+"/t/replaced", "somebody's")
	check(t, o.Discard())
	if e := must(os.ReadDir(dir + "/t"))(t); len(e) != 3 {
		t.Errorf("%v", e)
	}
}

func TestTimesOfAllAges(t *testing.T) {
	dir := t.TempDir()
	tg := createTarget(t, dir+"/t", TargetOptions{})
	for _, want := range []struct {
		sec  int64
		nsec uint32
	}{{-2_000_000_000, 1}, {-1, 999_999_999}, {0, 0}, {1 << 31, 1}, {1<<32 + 5, 123_456_789}, {9_999_999_999, 0}} {
		o := must(tg.Root().CreateFile("f", 0))(t)
		check(t, o.Finish(Meta{ModSec: want.sec, ModNsec: want.nsec}))
		fi := must(os.Lstat(dir + "/t/f"))(t)
		if !fi.ModTime().Equal(time.Unix(want.sec, int64(want.nsec))) {
			t.Errorf("%v: got %v", want, fi.ModTime())
		}
		check(t, os.Remove(dir+"/t/f"))
	}
	o := must(tg.Root().CreateFile("f", 0))(t)
	if err := o.Finish(Meta{ModNsec: 1e9}); err == nil {
		t.Error("a second of 1,000,000,000 nanoseconds was taken")
	}
}
