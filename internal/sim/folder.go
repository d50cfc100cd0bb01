package sim

import (
	"os"
	"testing"
)

// FastDir is a folder of the test where an fsync costs nothing, if there is one. It goes with the test.
func FastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "chancery-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in memory and named as a test's
	return dir
}
