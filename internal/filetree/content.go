package filetree

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// compareBlock is how many bytes of each of two files are compared at a time.
const compareBlock = 256 << 10

// openPair opens a file in both trees and hands the pair to the goroutines that compare contents.
func (c *comparer) openPair(path string, fa, fb *Folder, a, b *Item) error {
	oa, err := fa.OpenFile(a.Name, a.Stat)
	if err != nil {
		c.add(path, "cannot be opened in the first: %v", err)
		return nil
	}
	ob, err := fb.OpenFile(b.Name, b.Stat)
	if err != nil {
		_ = oa.Close()
		c.add(path, "cannot be opened in the second: %v", err)
		return nil
	}
	c.pairs <- filePair{path, oa, ob} // always taken, also when all is over
	return nil
}

// compareFiles compares pairs until there are no more.
func (c *comparer) compareFiles() {
	bufA, bufB := make([]byte, compareBlock), make([]byte, compareBlock)
	for p := range c.pairs {
		if c.ctx.Err() == nil {
			c.xattrs(p.path, p.a.Xattrs, p.b.Xattrs)
			if p.a.opened.Size == p.b.opened.Size {
				if err := c.contents(p, bufA, bufB); err != nil {
					c.add(p.path, "cannot be compared: %v", err)
				}
			}
		}
		_ = p.a.Close()
		_ = p.b.Close()
	}
}

// contents compares two files of one size, leaving out what is a hole in both. It notes the first
// byte that differs.
func (c *comparer) contents(p filePair, bufA, bufB []byte) error {
	ranges, err := p.a.Extents(nil)
	if err != nil {
		return err
	}
	if ranges, err = p.b.Extents(ranges); err != nil {
		return err
	}
	slices.SortFunc(ranges, func(x, y Range) int {
		switch {
		case x.Off < y.Off:
			return -1
		case x.Off > y.Off:
			return 1
		}
		return 0
	})
	done := int64(0)
	for _, r := range ranges {
		end := r.Off + r.Len
		for off := max(done, r.Off); off < end; {
			if c.ctx.Err() != nil {
				return nil // the walk says why
			}
			n := min(end-off, compareBlock)
			a, b := bufA[:n], bufB[:n]
			if _, err := p.a.ReadAt(a, off); err != nil {
				return shorter(err)
			}
			if _, err := p.b.ReadAt(b, off); err != nil {
				return shorter(err)
			}
			if !bytes.Equal(a, b) {
				i := 0
				for a[i] == b[i] {
					i++
				}
				c.add(p.path, "content: byte %d is %#02x and %#02x", off+int64(i), a[i], b[i])
				return nil
			}
			off += n
		}
		done = max(done, end)
	}
	return nil
}

// shorter words the end of a file that was longer a moment ago.
func shorter(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrChanged
	}
	return err
}
