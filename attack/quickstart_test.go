package attack

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// quickstartMost is the most bytes of a tree that quickstart is run on, unless every case is asked for: more of the same
// takes minutes and shows nothing else.
func quickstartMost() int64 {
	if exhaustive() {
		return 2 << 30
	}
	return 192 << 20
}

// TestQuickstartOnRealTrees runs the whole story, with the loss of home and of one embassy, on trees that nobody made
// for it: the system's own files and Go's.
func TestQuickstartOnRealTrees(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{part(t, strings.TrimSpace(string(root))), part(t, "/usr/share")} {
		dir := filepath.Join(t.TempDir(), "sandbox")
		var a struct {
			Identical   bool
			SourceBytes uint64 `json:"source_bytes"`
			SourceFiles uint64 `json:"source_files"`
			Second      uint64 `json:"second_stored_bytes"`
			Differences []string
			Sees        struct {
				Found int `json:"names_found"`
			} `json:"embassy_sees"`
		}
		t.Cleanup(func() { _ = run(filepath.Join(dir, "stop")) })
		answer(t, &a, []int{0}, "--quiet", "quickstart", path, "--dir", dir)
		if !a.Identical || len(a.Differences) > 0 || a.SourceFiles == 0 || a.Sees.Found != 0 {
			t.Errorf("%s: %+v", path, a)
		}
		t.Logf("%s: %d bytes in %d files", path, a.SourceBytes, a.SourceFiles)
		if err := run(filepath.Join(dir, "stop")); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// part is a folder, or, where that is too large, the largest of its folders that is not.
func part(t *testing.T, dir string) string {
	t.Helper()
	if sizeOf(dir) <= quickstartMost() {
		return dir
	}
	best, most := "", int64(0)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		if n := sizeOf(sub); e.IsDir() && n > most && n <= quickstartMost() {
			best, most = sub, n
		}
	}
	if most < 1<<20 {
		t.Fatalf("%s holds no folder of a usable size", dir)
	}
	return best
}

func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
