package filetree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// CompareOptions says what counts as a difference.
type CompareOptions struct {
	// Owners compares what only root can restore: owners, groups, security. and trusted.
	// attributes.
	Owners bool
	// SetID compares setuid and setgid bits and the rights of programs.
	SetID bool
	// Max is the number of differences to stop at; 0 finds all.
	Max int
	// ExcludeFn tells which entries, in both trees, are not compared; nil compares all. The
	// method Excluded of Rules fits.
	ExcludeFn func(rel string, dir bool) bool
}

// Difference is one thing that is not the same in the two trees.
type Difference struct {
	Path string // below the two roots; "." is the roots themselves
	What string // what, and how it is in the first and in the second
}

// comparers is how many goroutines compare contents.
const comparers = 2

// errEnough ends a comparison that has found as much as was asked for.
var errEnough = errors.New("enough differences")

// Compare compares the trees at a and b: names, kinds, modes, owners, modification times to the
// nanosecond, sizes, every byte, targets of symlinks, extended attributes, device numbers, and
// which names are hard links of one file. What cannot be read counts as a difference. A socket that
// the other tree lacks does not, as no restore can make it; neither do access times, sizes of
// folders, and which zeros are holes. The differences are sorted by path.
func Compare(ctx context.Context, a, b string, opts CompareOptions) ([]Difference, error) {
	sa, err := OpenSource(a)
	if err != nil {
		return nil, err
	}
	defer sa.Close()
	sb, err := OpenSource(b)
	if err != nil {
		return nil, err
	}
	defer sb.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &comparer{ctx: ctx, cancel: cancel, opts: opts, pairs: make(chan filePair, 16)}
	c.links[0], c.links[1] = map[inode]string{}, map[inode]string{}
	var wg sync.WaitGroup
	for range comparers {
		wg.Go(c.compareFiles)
	}
	err = c.roots(sa.Root(), sb.Root())
	close(c.pairs)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	slices.SortFunc(c.found, func(x, y Difference) int {
		return strings.Compare(x.Path+"\x00"+x.What, y.Path+"\x00"+y.What)
	})
	return c.found, err
}

type inode struct{ dev, ino uint64 }

// comparer is one comparison. The walk over the folders is one goroutine.
type comparer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	opts   CompareOptions
	pairs  chan filePair

	// of the walk
	links [2]map[inode]string // inodes with several names: the first name met
	free  [][]Item            // buffers of folders that are done

	mu    sync.Mutex
	found []Difference
}

// filePair is a file to be compared, open in both trees.
type filePair struct {
	path string
	a, b *OpenedFile
}

// add notes a difference, and ends everything when there are enough.
func (c *comparer) add(path, format string, args ...any) {
	if path == "" {
		path = "."
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opts.Max > 0 && len(c.found) >= c.opts.Max {
		return
	}
	c.found = append(c.found, Difference{path, fmt.Sprintf(format, args...)})
	if len(c.found) == c.opts.Max {
		c.cancel(errEnough)
	}
}

func (c *comparer) roots(fa, fb *Folder) error {
	sa, err := fa.Stat()
	if err != nil {
		return err
	}
	sb, err := fb.Stat()
	if err != nil {
		return err
	}
	c.stats("", &sa, &sb)
	return c.folders("", fa, fb)
}

// folders compares the attributes and the entries of two open folders.
func (c *comparer) folders(rel string, fa, fb *Folder) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	c.xattrs(rel, func() ([]Xattr, error) { return fa.Xattrs(".", Dir) },
		func() ([]Xattr, error) { return fb.Xattrs(".", Dir) })
	as, err := fa.List(c.buffer())
	if err != nil {
		c.add(rel, "cannot be listed in the first: %v", err)
		return nil
	}
	defer c.giveBack(as)
	bs, err := fb.List(c.buffer())
	if err != nil {
		c.add(rel, "cannot be listed in the second: %v", err)
		return nil
	}
	defer c.giveBack(bs)
	for i, j := 0, 0; i < len(as) || j < len(bs); {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		order := 0
		switch {
		case i == len(as):
			order = 1
		case j == len(bs):
			order = -1
		default:
			order = strings.Compare(as[i].Name, bs[j].Name)
		}
		switch {
		case order < 0:
			c.single(rel, &as[i], "only in the first")
			i++
		case order > 0:
			c.single(rel, &bs[j], "only in the second")
			j++
		default:
			if err := c.pair(rel, fa, fb, &as[i], &bs[j]); err != nil {
				return err
			}
			i, j = i+1, j+1
		}
	}
	return nil
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

func (c *comparer) excluded(path string, dir bool) bool {
	return c.opts.ExcludeFn != nil && c.opts.ExcludeFn(path, dir)
}

// single notes an entry that only one tree has.
func (c *comparer) single(rel string, it *Item, what string) {
	path := join(rel, it.Name)
	if c.excluded(path, it.Stat.Kind == Dir) || it.Stat.Kind == Socket || errors.Is(it.Err, ErrVanished) {
		return
	}
	c.add(path, "%s", what)
}

// pair compares two entries of one name.
func (c *comparer) pair(rel string, fa, fb *Folder, a, b *Item) error {
	path := join(rel, a.Name)
	if c.excluded(path, a.Stat.Kind == Dir) {
		return nil
	}
	if a.Err != nil || b.Err != nil {
		c.add(path, "cannot be examined: %v", errors.Join(a.Err, b.Err))
		return nil
	}
	if a.Stat.Kind != b.Stat.Kind {
		c.add(path, "kind: %v and %v", a.Stat.Kind, b.Stat.Kind)
		return nil
	}
	if a.Stat.Kind == Dir {
		c.stats(path, &a.Stat, &b.Stat)
		return c.descend(path, fa, fb, a, b)
	}
	firstA, firstB := c.first(0, path, &a.Stat), c.first(1, path, &b.Stat)
	if firstA != firstB {
		c.add(path, "hard links: one file with %q and with %q", firstA, firstB)
	} else if firstA != path {
		return nil // compared under its first name
	}
	c.stats(path, &a.Stat, &b.Stat)
	if a.Stat.Kind == File {
		return c.openPair(path, fa, fb, a, b)
	}
	if a.Stat.Kind == Symlink {
		ta, err := fa.ReadLink(a.Name)
		tb, err2 := fb.ReadLink(b.Name)
		if err := errors.Join(err, err2); err != nil {
			c.add(path, "cannot be read: %v", err)
		} else if ta != tb {
			c.add(path, "target: %q and %q", ta, tb)
		}
	}
	c.xattrs(path, func() ([]Xattr, error) { return fa.Xattrs(a.Name, a.Stat.Kind) },
		func() ([]Xattr, error) { return fb.Xattrs(b.Name, b.Stat.Kind) })
	return nil
}

// first gives the first name met of the inode that path is a name of.
func (c *comparer) first(tree int, path string, st *Stat) string {
	if st.Links < 2 {
		return path
	}
	key := inode{st.Dev, st.Inode}
	if first, ok := c.links[tree][key]; ok {
		return first
	}
	c.links[tree][key] = path
	return path
}

func (c *comparer) descend(path string, fa, fb *Folder, a, b *Item) error {
	da, err := fa.OpenFolder(a.Name, a.Stat)
	if err != nil {
		c.add(path, "cannot be opened in the first: %v", err)
		return nil
	}
	defer da.Close()
	db, err := fb.OpenFolder(b.Name, b.Stat)
	if err != nil {
		c.add(path, "cannot be opened in the second: %v", err)
		return nil
	}
	defer db.Close()
	return c.folders(path, da, db)
}

// buffer gives a used or a new list of items.
func (c *comparer) buffer() []Item {
	if n := len(c.free); n > 0 {
		b := c.free[n-1]
		c.free = c.free[:n-1]
		return b
	}
	return nil
}

func (c *comparer) giveBack(b []Item) { c.free = append(c.free, b[:0]) }

// stats compares what lstat tells.
func (c *comparer) stats(path string, a, b *Stat) {
	mask := uint32(0o7777)
	if !c.opts.SetID {
		mask &^= setIDBits
	}
	if ma, mb := a.Mode&mask, b.Mode&mask; ma != mb && a.Kind != Symlink {
		c.add(path, "mode: %04o and %04o", ma, mb)
	}
	if c.opts.Owners && a.UID != b.UID {
		c.add(path, "owner: %d and %d", a.UID, b.UID)
	}
	if c.opts.Owners && a.GID != b.GID {
		c.add(path, "group: %d and %d", a.GID, b.GID)
	}
	if a.ModSec != b.ModSec || a.ModNsec != b.ModNsec {
		c.add(path, "time: %d.%09d and %d.%09d", a.ModSec, a.ModNsec, b.ModSec, b.ModNsec)
	}
	if a.Kind == File && a.Size != b.Size {
		c.add(path, "size: %d and %d", a.Size, b.Size)
	}
	if a.Device != b.Device {
		c.add(path, "device: %#x and %#x", a.Device, b.Device)
	}
}

// xattrs compares two lists of attributes.
func (c *comparer) xattrs(path string, readA, readB func() ([]Xattr, error)) {
	as, err := readA()
	bs, err2 := readB()
	if err := errors.Join(err, err2); err != nil {
		c.add(path, "extended attributes cannot be read: %v", err)
		return
	}
	as = slices.DeleteFunc(as, c.ignoredXattr)
	bs = slices.DeleteFunc(bs, c.ignoredXattr)
	for _, x := range as {
		i := slices.IndexFunc(bs, func(y Xattr) bool { return x.Name == y.Name })
		if i < 0 {
			c.add(path, "extended attribute %s: only in the first", x.Name)
		} else if !bytes.Equal(x.Value, bs[i].Value) {
			c.add(path, "extended attribute %s: %q and %q", x.Name, x.Value, bs[i].Value)
		}
	}
	for _, y := range bs {
		if !hasXattr(as, y.Name) {
			c.add(path, "extended attribute %s: only in the second", y.Name)
		}
	}
}

func (c *comparer) ignoredXattr(x Xattr) bool {
	if x.Name == attrCapability {
		return !c.opts.SetID || !c.opts.Owners
	}
	return !c.opts.Owners && (strings.HasPrefix(x.Name, "security.") || strings.HasPrefix(x.Name, "trusted."))
}
