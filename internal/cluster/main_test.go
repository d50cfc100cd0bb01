package cluster_test

import (
	"flag"
	"os"
	"testing"

	"chancery.dev/chancery/internal/pgtest"
)

// TestMain has more tests at a time than there are processors: they wait for their servers more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "6")
	os.Exit(pgtest.Main(m))
}
