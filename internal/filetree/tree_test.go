package filetree

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot: the suite makes device nodes and gives files away.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test must be run as root")
	}
}

const childVar = "FILETREE_TEST_AS_USER"

// asUser runs the rest of a test as an ordinary user, in a process of its own. It gives a folder
// that belongs to this user; prepare, run before as root, may put things in it.
func asUser(t *testing.T, prepare func(dir string), test func(dir string)) {
	t.Helper()
	if dir := os.Getenv(childVar); dir != "" {
		if os.Geteuid() == 0 {
			t.Fatal("still root")
		}
		test(dir)
		return
	}
	needRoot(t)
	const user = 65534
	dir, err := os.MkdirTemp("", "filetree")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chown(dir, user, user))
	if prepare != nil {
		prepare(dir)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), childVar+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as a user: %v\n%s", err, out)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// fastDir is a folder for a test that makes much, in memory where there is such a place.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "filetree")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o644))
}

func openSource(t testing.TB, path string) *Source {
	t.Helper()
	s, err := OpenSource(path)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func createTarget(t testing.TB, path string, opts TargetOptions) *Target {
	t.Helper()
	tg, err := CreateTarget(path, opts)
	check(t, err)
	t.Cleanup(func() { check(t, tg.Close()) })
	return tg
}

func find(t testing.TB, f *Folder, name string) Item {
	t.Helper()
	items, err := f.List(nil)
	check(t, err)
	for _, it := range items {
		if it.Name == name {
			check(t, it.Err)
			return it
		}
	}
	t.Fatalf("no %q in the folder", name)
	return Item{}
}

// warnings collects what a target tells.
type warnings struct {
	mu  sync.Mutex
	all []Warning
}

func (w *warnings) add(x Warning) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, x)
}

func (w *warnings) expect(t testing.TB, want ...Warning) {
	t.Helper()
	if !slices.Equal(w.all, want) {
		t.Errorf("warnings %q, expected %q", w.all, want)
	}
}

// everything restores all there is, for root.
func everything(w *warnings) TargetOptions {
	return TargetOptions{Owners: true, SetID: true, Xattrs: true, Devices: true, Warn: w.add}
}

// copier copies a tree through the package, as a backup and a restore would.
type copier struct {
	refs  map[inode]LinkRef
	t     testing.TB
	buf   [64 << 10]byte
	depth func(int) // called in each folder with its depth; may be nil
}

func copyTree(t testing.TB, from, to string, opts TargetOptions) {
	t.Helper()
	c := copier{t: t, refs: map[inode]LinkRef{}}
	c.run(from, to, opts)
}

func (c *copier) run(from, to string, opts TargetOptions) {
	c.t.Helper()
	s, err := OpenSource(from)
	check(c.t, err)
	defer s.Close()
	tg, err := CreateTarget(to, opts)
	check(c.t, err)
	st, err := s.Root().Stat()
	check(c.t, err)
	c.folder(s.Root(), tg.Root(), st, 0)
	check(c.t, tg.Close())
}

func metaOf(st Stat, x []Xattr) Meta {
	return Meta{Mode: st.Mode, UID: st.UID, GID: st.GID, ModSec: st.ModSec, ModNsec: st.ModNsec, Xattrs: x}
}

func (c *copier) folder(f *Folder, p *Place, st Stat, depth int) {
	if c.depth != nil {
		c.depth(depth)
	}
	t := c.t
	items, err := f.List(nil)
	check(t, err)
	for _, it := range items {
		check(t, it.Err)
		key := inode{it.Stat.Dev, it.Stat.Inode}
		if ref, ok := c.refs[key]; ok && it.Stat.Kind != Dir {
			check(t, p.Link(it.Name, ref))
			continue
		}
		if it.Stat.Kind == Dir {
			sub := must(f.OpenFolder(it.Name, it.Stat))(t)
			c.folder(sub, must(p.Mkdir(it.Name))(t), it.Stat, depth+1)
			check(t, sub.Close())
			continue
		}
		c.entry(f, p, it)
		if it.Stat.Links > 1 {
			c.refs[key] = must(p.Ref(it.Name))(t)
		}
	}
	x, err := f.Xattrs(".", Dir)
	check(t, err)
	check(t, p.Finish(metaOf(st, x)))
}

func (c *copier) entry(f *Folder, p *Place, it Item) {
	t := c.t
	x, err := f.Xattrs(it.Name, it.Stat.Kind)
	check(t, err)
	meta := metaOf(it.Stat, x)
	switch it.Stat.Kind {
	case File:
		in := must(f.OpenFile(it.Name, it.Stat))(t)
		defer in.Close()
		out := must(p.CreateFile(it.Name, it.Stat.Size))(t)
		buf := c.buf[:]
		for _, r := range must(in.Extents(nil))(t) {
			for off, end := r.Off, r.Off+r.Len; off < end; {
				n, err := in.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
				if err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				must(out.WriteAt(buf[:n], off))(t)
				off += int64(n)
			}
		}
		check(t, out.Finish(meta))
	case Symlink:
		check(t, p.Symlink(it.Name, must(f.ReadLink(it.Name))(t), meta))
	case FIFO:
		check(t, p.Fifo(it.Name, meta))
	case CharDevice, BlockDevice:
		check(t, p.Device(it.Name, it.Stat.Kind, it.Stat.Device, meta))
	case Socket:
		check(t, p.Socket(it.Name))
	}
}

// identical demands that Compare finds nothing.
func identical(t testing.TB, a, b string) {
	t.Helper()
	d, err := Compare(t.Context(), a, b, CompareOptions{Owners: true, SetID: true, Max: 20})
	check(t, err)
	for _, x := range d {
		t.Errorf("%q: %s", x.Path, x.What)
	}
}

func setTime(t testing.TB, path string, sec, nsec int64) {
	t.Helper()
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: nsec}}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// anACL gives a named user rights, in the kernel's encoding.
func anACL() []byte {
	entry := func(tag, perm uint16, id uint32) []byte {
		return []byte{
			byte(tag), byte(tag >> 8), byte(perm), byte(perm >> 8),
			byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24),
		}
	}
	const none = ^uint32(0)
	return slices.Concat([]byte{2, 0, 0, 0}, entry(1, 6, none), entry(2, 7, 1234), entry(4, 4, none),
		entry(16, 7, none), entry(32, 0, none))
}

// zoo makes one of everything.
func zoo(t testing.TB, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.Mkdir(in("empty"), 0o700))
	check(t, os.Mkdir(in("sticky"), 0o755))
	check(t, os.Chmod(in("sticky"), 0o1777|os.ModeSticky))
	check(t, os.Mkdir(in("closed"), 0o755))
	write(t, in("closed/inside"), "x")
	write(t, in("empty file"), "")
	write(t, in("hello"), "hello, world\n")
	write(t, in("line\nbreak"), "a")
	write(t, in("not utf-8 \xff\xfe"), "b")
	write(t, in(string(slices.Repeat([]byte("n"), 255))), "long")
	write(t, in("-rf *"), "c")
	write(t, in("setuid"), "d")
	check(t, syscall.Chmod(in("setuid"), 0o6755))
	write(t, in("owned"), "e")
	check(t, os.Chown(in("owned"), 1234, 5678))
	write(t, in("none"), "f")
	check(t, os.Chmod(in("none"), 0))
	check(t, os.Symlink("../nowhere \xff", in("dangling")))
	check(t, os.Symlink("hello", in("link")))
	check(t, os.Lchown(in("link"), 7, 8))
	check(t, unix.Mkfifo(in("fifo"), 0o640))
	check(t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(t, unix.Mknod(in("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
	check(t, os.Link(in("hello"), in("closed/hello again")))
	check(t, os.Link(in("hello"), in("zzz")))
	check(t, os.Link(in("fifo"), in("fifo 2")))
	check(t, os.Link(in("link"), in("link 2")))
	check(t, unix.Setxattr(in("hello"), "user.note", []byte("n\x00\xff"), 0))
	check(t, unix.Setxattr(in("hello"), "user.empty", nil, 0))
	check(t, unix.Setxattr(in("hello"), "trusted.note", []byte("t"), 0))
	check(t, unix.Lsetxattr(in("dangling"), "trusted.link", []byte("l"), 0))
	check(t, unix.Setxattr(in("fifo"), "trusted.fifo", []byte("f"), 0))
	check(t, unix.Setxattr(in("owned"), attrAccessACL, anACL(), 0))
	check(t, unix.Setxattr(in("closed"), attrDefaultACL, anACL(), 0))
	check(t, unix.Setxattr(in("setuid"), attrCapability, []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	setTime(t, in("hello"), -1_000_000_000, 123_456_789)
	setTime(t, in("owned"), 5_000_000_000, 1)
	setTime(t, in("dangling"), 1, 999_999_999)
	setTime(t, in("fifo"), 77, 7)
	setTime(t, in("null"), 78, 8)
	check(t, os.Chmod(in("closed"), 0))
	setTime(t, in("closed"), -1, 5)
	setTime(t, in("empty"), 0, 0)
	setTime(t, dir, 1234, 5)
}
