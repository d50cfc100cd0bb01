package filetree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRootMustBeFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "x")
	if _, err := OpenSource(dir + "/f"); !errors.Is(err, ErrNotDir) {
		t.Errorf("a file: %v", err)
	}
	if _, err := OpenSource(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

func TestListIsSortedByBytesAndComplete(t *testing.T) {
	dir := t.TempDir()
	names := []string{"b", "a", "a b", "A", "\xff", "\x01", "line\nbreak", "\u00e9", "e\u0301", "a-", "a.", strings.Repeat("x", 255)}
	for _, n := range names {
		write(t, dir+"/"+n, n)
	}
	slices.Sort(names)
	f := openSource(t, dir).Root()
	buf := make([]Item, 3)
	buf[0] = Item{Name: "left over", Err: io.EOF}
	for range 2 { // a second List begins anew
		items, err := f.List(buf)
		check(t, err)
		var got []string
		for _, it := range items {
			check(t, it.Err)
			got = append(got, it.Name)
			want, err := os.Lstat(dir + "/" + it.Name)
			check(t, err)
			if it.Stat.Kind != File || it.Stat.Size != want.Size() || it.Stat.Mode != 0o644 ||
				!time.Unix(it.Stat.ModSec, int64(it.Stat.ModNsec)).Equal(want.ModTime()) {
				t.Errorf("%q: %+v, expected %v", it.Name, it.Stat, want)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("got %q\nexpected %q", got, names)
		}
		buf = items
	}
}

func TestVanishedEntryIsSaidToBe(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/gone", "")
	write(t, dir+"/here", "")
	f := openSource(t, dir).Root()
	s := scratch{buf: make([]byte, 4096)}
	check(t, s.readNames(f.h.fd))
	check(t, os.Remove(dir+"/gone"))
	items := f.examine(f.h.fd, &s, nil)
	if len(items) != 2 || !errors.Is(items[0].Err, ErrVanished) || items[0].Name != "gone" || items[1].Err != nil {
		t.Errorf("%v", items)
	}
}

func TestKindsAsLstatSeesThem(t *testing.T) {
	needRoot(t)
	dir := t.TempDir() + "/zoo"
	zoo(t, dir)
	l, err := net.Listen("unix", dir+"/socket")
	check(t, err)
	defer l.Close()
	f := openSource(t, dir).Root()
	for name, want := range map[string]Kind{
		"hello": File, "empty": Dir, "dangling": Symlink, "fifo": FIFO, "null": CharDevice, "loop": BlockDevice, "socket": Socket,
	} {
		it := find(t, f, name)
		if it.Stat.Kind != want {
			t.Errorf("%s: %v", name, it.Stat.Kind)
		}
		if (it.Stat.Device != 0) != (want == CharDevice || want == BlockDevice) {
			t.Errorf("%s: device %d", name, it.Stat.Device)
		}
	}
	if st := find(t, f, "setuid").Stat; st.Mode != 0o6755 {
		t.Errorf("mode %o", st.Mode)
	}
	if st := find(t, f, "hello").Stat; st.Links != 3 || st.ModSec != -1_000_000_000 || st.ModNsec != 123_456_789 {
		t.Errorf("stat %+v", st)
	}
}

// Between List and opening, anything may happen to a name.
func TestReplacedEntryIsNeverReadAsAnother(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"another file": func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"FIFO":         func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink":      func(p string) error { return os.Symlink("/etc/passwd", p) },
		"folder":       func(p string) error { return os.Mkdir(p, 0o755) },
		"link to dir":  func(p string) error { return os.Symlink("/etc", p) },
		"symlink to what it was": func(p string) error {
			return os.Symlink("old "+filepath.Base(p), p)
		},
		"socket": func(p string) error {
			l, err := net.Listen("unix", p)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
		"": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/file", "x")
			check(t, os.Mkdir(dir+"/folder", 0o755))
			f := openSource(t, dir).Root()
			file, folder := find(t, f, "file"), find(t, f, "folder")
			want := ErrVanished
			if name != "" {
				want = ErrChanged
			}
			check(t, os.Rename(dir+"/file", dir+"/old file"))
			check(t, os.Rename(dir+"/folder", dir+"/old folder"))
			check(t, replace(dir+"/file"))
			check(t, replace(dir+"/folder"))
			start := time.Now()
			if o, err := f.OpenFile("file", file.Stat); !errors.Is(err, want) {
				t.Errorf("file opened: %v, %v", o, err)
			}
			if o, err := f.OpenFolder("folder", folder.Stat); !errors.Is(err, want) {
				t.Errorf("folder opened: %v, %v", o, err)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("took %v", d)
			}
		})
	}
}

// Control of the FIFO above: a reader who opens plainly hangs.
func TestPlainOpenOfFIFOHangs(t *testing.T) {
	path := t.TempDir() + "/fifo"
	check(t, unix.Mkfifo(path, 0o600))
	opened := make(chan struct{})
	go func() {
		f, err := os.Open(path)
		if err == nil {
			f.Close()
		}
		close(opened)
	}()
	select {
	case <-opened:
		t.Error("it did not hang: the test above proves nothing")
	case <-time.After(100 * time.Millisecond):
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	<-opened
}

func TestNamesCannotLeadOut(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(dir+"/in", 0o755))
	write(t, dir+"/secret", "x")
	f := openSource(t, dir+"/in").Root()
	for _, name := range []string{"..", ".", "", "../secret", "/etc/passwd", "a\x00b"} {
		_, e1 := f.OpenFile(name, Stat{Kind: File})
		_, e2 := f.OpenFolder(name, Stat{})
		_, e3 := f.ReadLink(name)
		_, e4 := f.Xattrs(name, File)
		if name == "." {
			e4 = ErrName // the folder itself
		}
		for _, err := range []error{e1, e2, e3, e4} {
			if !errors.Is(err, ErrName) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
}

func TestReadingLeavesAccessTimes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "x")
	old := time.Unix(1000, 0)
	check(t, os.Chtimes(dir+"/f", old, time.Unix(2000, 0)))
	check(t, os.Chtimes(dir, old, time.Unix(2000, 0)))
	s := openSource(t, dir)
	o := must(s.Root().OpenFile("f", find(t, s.Root(), "f").Stat))(t)
	must(io.ReadAll(o))(t)
	check(t, o.Close())
	var st unix.Stat_t
	check(t, unix.Stat(dir+"/f", &st))
	if st.Atim.Sec != 1000 {
		t.Errorf("access time of the file is now %d", st.Atim.Sec)
	}
}

func TestReadAndReadAtAgree(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("0123456789", 100_000)
	write(t, dir+"/f", text)
	s := openSource(t, dir)
	o := must(s.Root().OpenFile("f", find(t, s.Root(), "f").Stat))(t)
	defer o.Close()
	if r := must(o.Extents(nil))(t); !slices.Equal(r, []Range{{0, int64(len(text))}}) {
		t.Errorf("extents %v", r)
	}
	if got := must(io.ReadAll(o))(t); string(got) != text {
		t.Error("Read gave something else")
	}
	buf := make([]byte, 20)
	n, err := o.ReadAt(buf, int64(len(text)-5))
	if n != 5 || err != io.EOF || string(buf[:5]) != "56789" {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if !o.Opened().SameContent(must(o.Stat())(t)) {
		t.Error("unchanged file said to have changed")
	}
	write(t, dir+"/f", text+"x")
	if o.Opened().SameContent(must(o.Stat())(t)) {
		t.Error("changed file said to be unchanged")
	}
}

func TestReadLinkOfAnyLength(t *testing.T) {
	dir := t.TempDir()
	f := openSource(t, dir).Root()
	for _, n := range []int{1, 255, 256, 257, 2048, 4095} {
		name, target := fmt.Sprint(n), strings.Repeat("\xff", n)
		check(t, os.Symlink(target, filepath.Join(dir, name)))
		if got := must(f.ReadLink(name))(t); got != target {
			t.Errorf("%d bytes: got %d", n, len(got))
		}
	}
	write(t, dir+"/file", "")
	if _, err := f.ReadLink("file"); !errors.Is(err, ErrChanged) {
		t.Errorf("of a file: %v", err)
	}
	if _, err := f.ReadLink("none"); !errors.Is(err, ErrVanished) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestXattrsOfEveryKindOfEntry(t *testing.T) {
	needRoot(t)
	dir := t.TempDir() + "/zoo"
	zoo(t, dir)
	f := openSource(t, dir).Root()
	names := func(x []Xattr, err error) string {
		check(t, err)
		var s []string
		for _, a := range x {
			s = append(s, fmt.Sprintf("%s=%d", a.Name, len(a.Value)))
		}
		return strings.Join(s, " ")
	}
	for name, want := range map[string]string{
		"hello":    "trusted.note=1 user.empty=0 user.note=3",
		"dangling": "trusted.link=1",
		"fifo":     "trusted.fifo=1",
		"owned":    "system.posix_acl_access=44",
		"closed":   "system.posix_acl_default=44",
		"setuid":   "security.capability=20",
		"empty":    "", "null": "", "none": "",
	} {
		if got := names(f.Xattrs(name, find(t, f, name).Stat.Kind)); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	o := must(f.OpenFile("hello", find(t, f, "hello").Stat))(t)
	defer o.Close()
	if got := names(o.Xattrs()); got != "trusted.note=1 user.empty=0 user.note=3" {
		t.Errorf("of the open file: %q", got)
	}
	if _, err := f.Xattrs("no such", File); !errors.Is(err, ErrVanished) {
		t.Errorf("of nothing: %v", err)
	}
	check(t, unix.Setxattr(dir, "user.root", []byte("r"), 0))
	if got := names(f.Xattrs(".", Dir)); got != "user.root=1" {
		t.Errorf("of the folder itself: %q", got)
	}
}
