package attack

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// canaries are things that must not be seen, by what they are.
type canaries map[string][]byte

// detector finds canaries as they are, in hex and in base64, wherever in a base64 text they begin.
type detector struct {
	forms   map[string][][]byte
	longest int
}

func (c canaries) detector() *detector {
	d := &detector{forms: map[string][][]byte{}}
	for what, b := range c {
		forms := [][]byte{b, []byte(hex.EncodeToString(b)), bytes.ToUpper([]byte(hex.EncodeToString(b)))}
		for shift := range 3 {
			// The letters at the ends also depend on the neighbours: only those in the middle are the canary's own.
			text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), b...))
			text = text[(shift*8+5)/6 : (shift+len(b))*8/6]
			forms = append(forms, []byte(text), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text)))
		}
		d.forms[what] = forms
		for _, f := range forms {
			d.longest = max(d.longest, len(f))
		}
	}
	return d
}

// only finds these canaries alone, and sooner.
func (d *detector) only(what ...string) *detector {
	o := &detector{forms: map[string][][]byte{}, longest: d.longest}
	for _, w := range what {
		o.forms[w] = d.forms[w]
	}
	return o
}

// sightings are the canaries seen somewhere, and where first.
type sightings map[string]string

func (f sightings) names() []string { return slices.Sorted(maps.Keys(f)) }

func (d *detector) search(f sightings, where string, data []byte) {
	for what, forms := range d.forms {
		for _, form := range forms {
			if _, seen := f[what]; !seen && bytes.Contains(data, form) {
				f[what] = where
			}
		}
	}
}

// folder searches names, links, attributes and contents of everything below a folder, and counts the bytes of files.
func (d *detector) folder(t *testing.T, f sightings, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		d.search(f, path, []byte(rel))
		d.search(f, path, xattrs(path))
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			d.search(f, path, []byte(target))
			return err
		case e.Type().IsRegular():
			data, err := os.ReadFile(path)
			size += int64(len(data))
			d.search(f, path, data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// xattrs are the names and values of a path's attributes, one after the other.
func xattrs(path string) []byte {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil
	}
	all := slices.Clone(list[:n])
	for name := range bytes.SplitSeq(list[:n], []byte{0}) {
		value := make([]byte, 64<<10)
		if n, err := unix.Lgetxattr(path, string(name), value); err == nil && len(name) > 0 {
			all = append(append(all, value[:n]...), 0)
		}
	}
	return all
}

// memory searches all that a process has in memory, and counts the bytes.
func (d *detector) memory(t *testing.T, f sightings, pid int) (size int64) {
	t.Helper()
	size, err := d.tryMemory(f, pid)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func (d *detector) tryMemory(f sightings, pid int) (size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	buf := make([]byte, 4<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || mode[0] != 'r' {
			continue
		}
		for at := from; at < to; at += int64(len(buf) - d.longest) {
			n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
			if err != nil && n == 0 {
				break // a page of the kernel's, or behind the end of a mapped file
			}
			d.search(f, fmt.Sprintf("memory of %d: %s", pid, line), buf[:n])
			size += int64(n)
		}
	}
	return size, nil
}

// tap is a TCP proxy that keeps all that passes, in both directions.
type tap struct {
	target string
	ln     net.Listener

	mu       sync.Mutex
	up, down bytes.Buffer
}

// newTap starts a proxy before target; it ends with the test.
func newTap(t *testing.T, target string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{target: target, ln: ln}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p
}

func (p *tap) address() string { return p.ln.Addr().String() }

func (p *tap) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer to.Close()
	ended := make(chan struct{}, 2)
	go func() { p.copy(to, from, &p.up); ended <- struct{}{} }()
	go func() { p.copy(from, to, &p.down); ended <- struct{}{} }()
	<-ended
}

func (p *tap) copy(dst io.Writer, src io.Reader, record *bytes.Buffer) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		record.Write(buf[:n])
		p.mu.Unlock()
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// recorded returns what has passed so far, to the target and from it.
func (p *tap) recorded() (up, down []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.up.Bytes()), bytes.Clone(p.down.Bytes())
}
