package filetree

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// expectDiff compares dir/a and dir/b and expects exactly one difference.
func expectDiff(t *testing.T, dir string, opts CompareOptions, path, what string) {
	t.Helper()
	d, err := Compare(t.Context(), dir+"/a", dir+"/b", opts)
	check(t, err)
	if len(d) != 1 || d[0].Path != path || !strings.HasPrefix(d[0].What, what) {
		t.Errorf("got %q, expected %q: %q", d, path, what)
	}
}

func keepTime(t *testing.T, path string, do func()) {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	do()
	setTime(t, path, st.Mtim.Sec, st.Mtim.Nsec)
}

// A copy with one property changed differs in this property and in nothing else.
func TestCompareFindsEveryProperty(t *testing.T) {
	needRoot(t)
	var w warnings
	for name, c := range map[string]struct {
		change     func(b string) error
		inside     string // whose folder's time must be put back
		path, what string
	}{
		"content":       {func(b string) error { return os.WriteFile(b+"/owned", []byte("E"), 0) }, "owned", "owned", "content: byte 0 is 0x65 and 0x45"},
		"size":          {func(b string) error { return os.Truncate(b+"/owned", 2) }, "owned", "owned", "size: 1 and 2"},
		"mode":          {func(b string) error { return os.Chmod(b+"/hello", 0o600) }, "", "closed/hello again", "mode: 0644 and 0600"},
		"sticky":        {func(b string) error { return os.Chmod(b+"/sticky", 0o777) }, "", "sticky", "mode: 1777 and 0777"},
		"setuid":        {func(b string) error { return unix.Chmod(b+"/setuid", 0o2755) }, "", "setuid", "mode: 6755 and 2755"},
		"owner":         {func(b string) error { return os.Lchown(b+"/dangling", 9, -1) }, "", "dangling", "owner: 0 and 9"},
		"group":         {func(b string) error { return os.Lchown(b+"/empty", -1, 9) }, "", "empty", "group: 0 and 9"},
		"time":          {func(b string) error { setTime(t, b+"/owned", 5_000_000_000, 2); return nil }, "", "owned", "time: 5000000000.000000001 and 5000000000.000000002"},
		"time of dir":   {func(b string) error { setTime(t, b+"/empty", 0, 1); return nil }, "", "empty", "time: "},
		"time of link":  {func(b string) error { setTime(t, b+"/dangling", 2, 0); return nil }, "", "dangling", "time: "},
		"root":          {func(b string) error { setTime(t, b, 2, 0); return nil }, "", ".", "time: "},
		"target":        {func(b string) error { return relink(t, b+"/dangling", "elsewhere") }, ".", "dangling", `target: "../nowhere \xff" and "elsewhere"`},
		"missing":       {func(b string) error { return os.Remove(b + "/empty") }, ".", "empty", "only in the first"},
		"added":         {func(b string) error { return os.Mkdir(b+"/new", 0o755) }, ".", "new", "only in the second"},
		"name":          {func(b string) error { return os.WriteFile(b+"/line\nbreak2", nil, 0o644) }, ".", "line\nbreak2", "only in the second"},
		"xattr":         {func(b string) error { return unix.Setxattr(b+"/hello", "user.note", []byte("m"), 0) }, "", "closed/hello again", `extended attribute user.note: "n\x00\xff" and "m"`},
		"xattr gone":    {func(b string) error { return unix.Removexattr(b+"/hello", "user.empty") }, "", "closed/hello again", "extended attribute user.empty: only in the first"},
		"xattr more":    {func(b string) error { return unix.Setxattr(b+"/empty", "user.x", nil, 0) }, "", "empty", "extended attribute user.x: only in the second"},
		"xattr of link": {func(b string) error { return unix.Lsetxattr(b+"/dangling", "trusted.link", []byte("m"), 0) }, "", "dangling", "extended attribute trusted.link: "},
		"acl":           {func(b string) error { return unix.Removexattr(b+"/closed", attrDefaultACL) }, "", "closed", "extended attribute " + attrDefaultACL},
		"capability":    {func(b string) error { return unix.Removexattr(b+"/setuid", attrCapability) }, "", "setuid", "extended attribute " + attrCapability},
		"device": {func(b string) error {
			return errors.Join(os.Remove(b+"/null"), unix.Mknod(b+"/null", unix.S_IFCHR, int(unix.Mkdev(1, 5))),
				unix.Chmod(b+"/null", 0o644), timeOf(t, b+"/null", 78, 8))
		}, ".", "null", "device: 0x103 and 0x105"},
		"kind": {func(b string) error {
			return errors.Join(os.Remove(b+"/empty file"), os.Mkdir(b+"/empty file", 0o755))
		}, ".", "empty file", "kind: file and folder"},
		"link broken": {func(b string) error {
			return errors.Join(os.Remove(b+"/link 2"), os.Symlink("hello", b+"/link 2"), os.Lchown(b+"/link 2", 7, 8), copyTime(t, b+"/link", b+"/link 2"))
		}, ".", "link 2", `hard links: one file with "link" and with "link 2"`},
		"link made": {func(b string) error {
			return errors.Join(os.Remove(b+"/-rf *"), os.Link(b+"/not utf-8 \xff\xfe", b+"/-rf *"),
				os.WriteFile(b+"/-rf *", []byte("b"), 0))
		}, ".", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			zoo(t, dir+"/a")
			for _, n := range []string{"-rf *", "not utf-8 \xff\xfe"} {
				check(t, os.WriteFile(dir+"/a/"+n, []byte("b"), 0o644))
				setTime(t, dir+"/a/"+n, 1, 1)
			}
			setTime(t, dir+"/a", 1, 1)
			copyTree(t, dir+"/a", dir+"/b", everything(&w))
			identical(t, dir+"/a", dir+"/b")
			b := dir + "/b"
			if c.inside != "" {
				keepTime(t, b+"/"+c.inside, func() { check(t, c.change(b)) })
			} else {
				check(t, c.change(b))
			}
			if name == "link made" {
				setTime(t, b+"/-rf *", 1, 1)
				c.path, c.what = "not utf-8 \xff\xfe", `hard links: one file with "not utf-8 \xff\xfe" and with "-rf *"`
			}
			expectDiff(t, dir, CompareOptions{Owners: true, SetID: true}, c.path, c.what)
		})
	}
}

func relink(t *testing.T, path, target string) error {
	err := errors.Join(os.Remove(path), os.Symlink(target, path))
	return errors.Join(err, unix.Lsetxattr(path, "trusted.link", []byte("l"), 0), timeOf(t, path, 1, 999_999_999))
}

func timeOf(t *testing.T, path string, sec, nsec int64) error {
	setTime(t, path, sec, nsec)
	return nil
}

func copyTime(t *testing.T, from, to string) error {
	var st unix.Stat_t
	check(t, unix.Lstat(from, &st))
	return timeOf(t, to, st.Mtim.Sec, st.Mtim.Nsec)
}

func TestCompareOptions(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	var w warnings
	zoo(t, dir+"/a")
	copyTree(t, dir+"/a", dir+"/b", everything(&w))
	check(t, os.Chown(dir+"/b/owned", 1, 1))
	check(t, unix.Chmod(dir+"/b/setuid", 0o755))
	check(t, unix.Removexattr(dir+"/b/fifo", "trusted.fifo"))
	count := func(o CompareOptions) int {
		d, err := Compare(t.Context(), dir+"/a", dir+"/b", o)
		check(t, err)
		return len(d)
	}
	for want, o := range map[int]CompareOptions{
		0: {},
		2: {SetID: true, Max: 2, Owners: true},
		5: {SetID: true, Owners: true}, // owner, group, mode, capability lost by chmod or not, attribute
	} {
		got := count(o)
		if want == 5 && got == 4 {
			continue // the kernel keeps the capability on chmod
		}
		if got != want {
			t.Errorf("%+v: %d differences", o, got)
		}
	}
	if n := count(CompareOptions{SetID: true}); n != 1 {
		t.Errorf("mode only: %d", n)
	}
	if n := count(CompareOptions{SetID: true, ExcludeFn: func(rel string, dir bool) bool { return rel == "setuid" }}); n != 0 {
		t.Errorf("with the only difference excluded: %d", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, dir+"/a", dir+"/b", CompareOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCompareIsCompleteOnManyFiles(t *testing.T) {
	dir := t.TempDir()
	for _, x := range []string{"a", "b"} {
		for d := range 10 {
			sub := dir + "/" + x + "/" + strconv.Itoa(d)
			check(t, os.MkdirAll(sub, 0o755))
			for f := range 50 {
				p := sub + "/" + strconv.Itoa(f)
				write(t, p, x)
				setTime(t, p, 1, 1)
			}
			setTime(t, sub, 1, 1)
		}
		setTime(t, dir+"/"+x, 1, 1)
	}
	d, err := Compare(t.Context(), dir+"/a", dir+"/b", CompareOptions{})
	check(t, err)
	if len(d) != 500 || !slices.IsSortedFunc(d, func(x, y Difference) int { return strings.Compare(x.Path, y.Path) }) {
		t.Errorf("%d differences", len(d))
	}
}
