package snapshot

import (
	"bytes"
	"iter"
	"slices"
	"strings"
)

// ChangeKind says how a name differs between two listings.
type ChangeKind uint8

// The kinds of changes.
const (
	Added ChangeKind = 1 + iota
	Removed
	Content  // another kind, size, content, target or device; the metadata may differ as well
	Metadata // the same content under another mode, owner, time, attribute, link group or flag
)

// Change is one name that differs. Before is nil for Added and After is nil for Removed.
type Change struct {
	Kind          ChangeKind
	Before, After *Entry
}

// Name returns the name that differs.
func (c *Change) Name() string {
	if c.After != nil {
		return c.After.Name
	}
	return c.Before.Name
}

// DiffListings yields what differs between the listings a (before) and b (after) of one folder, by
// ascending name. Content is compared by extents, without reading it: two files that hold the same
// bytes in other chunks (neighbours of a coalesced small file changed, and it was read again) are
// reported as Content. A folder whose listing differs in any way is Content: the caller descends. The
// first error of either side is yielded and is the end.
func DiffListings(a, b iter.Seq2[Entry, error]) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		nextA, stopA := iter.Pull2(a)
		defer stopA()
		nextB, stopB := iter.Pull2(b)
		defer stopB()
		before, errA := pull(nextA)
		after, errB := pull(nextB)
		for before != nil || after != nil || errA != nil || errB != nil {
			for _, err := range []error{errA, errB} {
				if err != nil {
					yield(Change{}, err)
					return
				}
			}
			order := compareNames(before, after)
			change, differs := changeOf(before, after, order)
			if differs && !yield(change, nil) {
				return
			}
			if order <= 0 {
				before, errA = pull(nextA)
			}
			if order >= 0 {
				after, errB = pull(nextB)
			}
		}
	}
}

func pull(next func() (Entry, error, bool)) (*Entry, error) {
	e, err, ok := next()
	if !ok || err != nil {
		return nil, err
	}
	return &e, nil
}

// compareNames orders two entries by name; one that is absent comes last.
func compareNames(a, b *Entry) int {
	switch {
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return strings.Compare(a.Name, b.Name)
}

func changeOf(before, after *Entry, order int) (Change, bool) {
	switch {
	case order < 0:
		return Change{Kind: Removed, Before: before}, true
	case order > 0:
		return Change{Kind: Added, After: after}, true
	case !sameContent(before, after):
		return Change{Kind: Content, Before: before, After: after}, true
	case !sameMetadata(before, after):
		return Change{Kind: Metadata, Before: before, After: after}, true
	}
	return Change{}, false
}

// SameEntry reports whether two entries are equal but for their names.
func SameEntry(a, b *Entry) bool { return sameContent(a, b) && sameMetadata(a, b) }

func sameContent(a, b *Entry) bool {
	return a.Kind == b.Kind && a.Size == b.Size && a.Files == b.Files && a.Target == b.Target &&
		a.Device == b.Device && a.Flags&Indirect == b.Flags&Indirect && slices.Equal(a.Extents, b.Extents)
}

func sameMetadata(a, b *Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.ModSec == b.ModSec &&
		a.ModNsec == b.ModNsec && a.LinkGroup == b.LinkGroup && a.Flags == b.Flags &&
		slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y Xattr) bool {
			return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
		})
}
