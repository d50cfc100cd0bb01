package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bytes are n reproducible bytes that do not compress.
func Bytes(seed uint64, n int) []byte {
	var s [32]byte
	copy(s[:], fmt.Sprintf("bytes %d", seed))
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b) // never fails
	return b
}

// Text is n reproducible bytes that compress about as source code does.
func Text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	words := strings.Fields("the register of land names every parcel its owner area borders and rights as of today return if err nil")
	b := make([]byte, 0, n+32)
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		if b = append(b, ' '); r.IntN(9) == 0 {
			b = fmt.Appendf(b, "%x\n", r.Uint32())
		}
	}
	return b[:n]
}

// Grower writes a tree and remembers the first error.
type Grower struct {
	Root string
	Err  error
	time int64
}

// Do runs f unless something failed before.
func (g *Grower) Do(f func() error) {
	if g.Err == nil {
		g.Err = f()
	}
}

// Path is below the root.
func (g *Grower) Path(rel string) string { return filepath.Join(g.Root, rel) }

// Folder makes a folder and those above it.
func (g *Grower) Folder(rel string) { g.Do(func() error { return os.MkdirAll(g.Path(rel), 0o750) }) }

// File writes a file and makes the folders above it. Every file gets another time.
func (g *Grower) File(rel string, data []byte) {
	g.Folder(filepath.Dir(rel))
	g.Do(func() error { return os.WriteFile(g.Path(rel), data, 0o640) })
	g.time++
	g.Do(func() error {
		return os.Chtimes(g.Path(rel), time.Time{}, time.Unix(1e9+g.time, 123456789+g.time))
	})
}

// Sparse writes a file of a size in which data stands at some offsets and the rest are holes.
func (g *Grower) Sparse(rel string, size int64, data map[int64][]byte) {
	g.Do(func() error {
		f, err := os.Create(g.Path(rel))
		if err != nil {
			return err
		}
		err = f.Truncate(size)
		for off, b := range data {
			_, werr := f.WriteAt(b, off)
			err = errors.Join(err, werr)
		}
		return errors.Join(err, f.Close())
	})
}

// Rich writes a tree with one of everything that a file system of a test can hold. large adds files beyond 4 MiB and
// at the borders of 64 MiB spans.
func Rich(root string, seed uint64, large bool) error {
	g := &Grower{Root: root}
	g.Folder("empty")
	g.File("none", nil)
	g.File("one", []byte{'x'})
	g.File("bad \xff\xfe\n\x01 name", []byte("any bytes but slash and zero"))
	g.File(strings.Repeat("n", 255), []byte("longest name"))
	for i := range 600 {
		g.File(fmt.Sprintf("many/f%04d", i), Text(seed+uint64(i), 100+i%700))
	}
	for i := range 40 { // small folders: their listings are stored together
		g.File(fmt.Sprintf("folders/d%03d/a", i), Text(seed+uint64(i), 50))
		g.File(fmt.Sprintf("folders/d%03d/b/c", i), Text(seed+uint64(i)+1, 60))
	}
	for _, n := range []int{256 << 10, 1 << 20} {
		for d := -1; d <= 1; d++ {
			g.File(fmt.Sprintf("borders/%d%+d", n, d), Bytes(seed+uint64(n+d), n+d))
		}
	}
	g.File("text/large", Text(seed, 3<<20))
	g.File("same/a", Text(seed, 3<<20)) // as text/large: stored once
	g.File(strings.Repeat("deep/", 150)+"bottom", []byte("deep"))
	g.links()
	g.attributes()
	g.Do(func() error { return unix.Mkfifo(g.Path("fifo"), 0o622) })
	g.Sparse("sparse-end", 1<<30, map[int64][]byte{5 << 20: Bytes(seed, 70000)})
	g.Sparse("sparse-all", 3<<20, nil)
	if large {
		const span = 64 << 20
		g.File("borders/4M", Bytes(seed, 4<<20))
		g.File("borders/4M+1", Bytes(seed+9, 4<<20+1))
		for d := int64(-1); d <= 1; d++ {
			g.Sparse(fmt.Sprintf("span%+d", d), span+d, map[int64][]byte{span - 300000: Bytes(seed, 300000+int(d))})
		}
		g.Sparse("spans", 2*span+100, map[int64][]byte{span - 4096: Bytes(seed+3, 8192), 2 * span: Bytes(seed, 100)})
	}
	g.Do(func() error { return os.Chmod(g.Path("folders/d001"), 0o555) })
	g.Do(func() error { return os.Chtimes(g.Path("folders"), time.Time{}, time.Unix(5, 999999999)) })
	g.Do(func() error { return os.Chtimes(g.Root, time.Time{}, time.Unix(77, 7)) })
	return g.Err
}

func (g *Grower) links() {
	g.Do(func() error { return os.Symlink("nowhere/\xff at all", g.Path("symlink")) })
	g.Do(func() error { return os.Symlink("/", g.Path("folders/out")) })
	g.File("linked/first", []byte("three names"))
	g.File("linked/big", Bytes(5, 400000))
	g.Folder("z/other")
	for from, to := range map[string]string{"a-link": "linked/first", "linked/second": "linked/first", "z/other/big": "linked/big"} {
		g.Do(func() error { return os.Link(g.Path(to), g.Path(from)) })
	}
	g.Do(func() error { return os.Symlink("x", g.Path("linked/s1")) })
	g.Do(func() error { return os.Link(g.Path("linked/s1"), g.Path("linked/s2")) })
}

func (g *Grower) attributes() {
	g.File("attrs/file", []byte("with attributes"))
	g.File("attrs/none", nil)
	g.Folder("attrs/folder")
	for _, rel := range []string{"attrs/file", "attrs/none", "attrs/folder", "borders", "many/f0001"} {
		g.Do(func() error { return unix.Setxattr(g.Path(rel), "user.note", []byte(rel+"\x00\xff"), 0) })
		g.Do(func() error { return unix.Setxattr(g.Path(rel), "user.empty", nil, 0) })
	}
	g.Do(func() error { return os.Chmod(g.Path("attrs/none"), 0) })
	g.Do(func() error { return os.Chmod(g.Path("attrs/file"), 0o4711) })
}
