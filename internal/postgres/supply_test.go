package postgres

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever owns the restored folder cannot lead what is written there, perhaps as root, to another place.
func TestNothingIsWrittenOutsideTheFolder(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file.part", socketName, enoughFile} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s := &Supply{root: root}
	if err := s.keep("file", []byte("log")); err == nil {
		t.Error("it was written through a link that leads out")
	}
	if l, err := s.listen(); err == nil {
		l.Close()
	}
	if err := s.keep("other", []byte("log")); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "as it was" {
		t.Errorf("%q, %v", got, err)
	}
	if st, err := os.Stat(outside); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
}
