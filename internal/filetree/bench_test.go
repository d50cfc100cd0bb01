package filetree

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
)

// grow makes files of 100 bytes in folders.
func grow(b testing.TB, dir string, folders, files int) {
	b.Helper()
	tg := createTarget(b, dir, TargetOptions{})
	data := make([]byte, 100)
	for d := range folders {
		p := must(tg.Root().Mkdir(fmt.Sprintf("folder %03d", d)))(b)
		for f := range files {
			o := must(p.CreateFile("file number "+strconv.Itoa(f), 100))(b)
			must(o.WriteAt(data, 0))(b)
			check(b, o.Finish(Meta{Mode: 0o644, ModSec: 1}))
		}
		check(b, p.Finish(Meta{Mode: 0o755, ModSec: 1}))
	}
}

func list(b testing.TB, dir string, want int) {
	b.Helper()
	s := openSource(b, dir)
	top := must(s.Root().List(nil))(b)
	n := len(top)
	var buf []Item
	for _, it := range top {
		f := must(s.Root().OpenFolder(it.Name, it.Stat))(b)
		buf = must(f.List(buf))(b)
		n += len(buf)
		check(b, f.Close())
	}
	if n != want {
		b.Fatalf("%d entries", n)
	}
}

// BenchmarkList examines 42,000 files in 300 folders.
func BenchmarkList(b *testing.B) {
	dir := b.TempDir() + "/t"
	grow(b, dir, 300, 140)
	b.ReportAllocs()
	for b.Loop() {
		list(b, dir, 42_300)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/42_300, "ns/entry")
}

// BenchmarkOpen opens, reads and closes files.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir() + "/t"
	grow(b, dir, 1, 1000)
	s := openSource(b, dir)
	f := must(s.Root().OpenFolder("folder 000", find(b, s.Root(), "folder 000").Stat))(b)
	defer f.Close()
	items := must(f.List(nil))(b)
	buf := make([]byte, 100)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		o := must(f.OpenFile(items[i%1000].Name, items[i%1000].Stat))(b)
		must(o.ReadAt(buf, 0))(b)
		check(b, o.Close())
		i++
	}
}

// BenchmarkWriteSmall writes 4,200 files of 100 bytes in 30 folders.
func BenchmarkWriteSmall(b *testing.B) {
	dir := b.TempDir()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		grow(b, filepath.Join(dir, strconv.Itoa(i)), 30, 140)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4200, "ns/file")
}

// BenchmarkWriteBig writes 64 MiB in blocks of 1 MiB.
func BenchmarkWriteBig(b *testing.B) {
	tg := createTarget(b, b.TempDir()+"/t", TargetOptions{})
	block := make([]byte, 1<<20)
	b.SetBytes(64 << 20)
	for b.Loop() {
		o := must(tg.Root().CreateFile("big", 64<<20))(b)
		for i := range 64 {
			must(o.WriteAt(block, int64(i)<<20))(b)
		}
		check(b, o.Discard())
	}
}

// BenchmarkRules asks ten rules about a path.
func BenchmarkRules(b *testing.B) {
	r := must(ParseRules([]string{
		"*.o", "*.tmp", "node_modules/", "/proc", ".cache", "build/**/x", "**/a*b*c", "*~", "core.?", "/var/log/*.gz",
	}))(b)
	b.ReportAllocs()
	for b.Loop() {
		if r.Excluded("srv/register/2026/folder number 12/file number 1234.xml", false) {
			b.Fatal("excluded")
		}
	}
}
