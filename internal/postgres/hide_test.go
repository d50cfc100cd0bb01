package postgres

import (
	"slices"
	"testing"
)

// TestNamesOfSocketsAreFoundInTheSystemsList: those in the file system, each once, whatever is in them; not abstract ones.
func TestNamesOfSocketsAreFoundInTheSystemsList(t *testing.T) {
	t.Parallel()
	list := "Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 1 /run/postgresql/.s.PGSQL.5432\n" +
		"0000000000000000: 00000003 00000000 00000000 0001 03 2\n" +
		"0000000000000000: 00000003 00000000 00000000 0001 03 3 /run/postgresql/.s.PGSQL.5432\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 4 @abstract\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 5 /tmp/a b/ s\n"
	if got := socketPaths([]byte(list)); !slices.Equal(got, []string{"/run/postgresql/.s.PGSQL.5432", "/tmp/a b/ s"}) {
		t.Errorf("%q", got)
	}
}
