package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// templates are the clusters that initdb made for this process, which tests get copies of: making one takes ten times as
// long as copying it.
var templates struct {
	mu   sync.Mutex
	dir  string               // nothing is kept while it is empty
	made map[string]*original // by version and arguments
	used map[string]bool      // by test and template
}

// An original is a cluster that was made once, and of which tests get copies.
type original struct {
	once sync.Once
	data string // empty: it could not be made
}

// Main runs a package's tests and returns their exit code. Until it returns, [Start] copies clusters instead of making each.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp(os.TempDir(), "pg-made-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // the servers' user has a folder in it
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	templates.mu.Lock()
	templates.dir, templates.made, templates.used = dir, map[string]*original{}, map[string]bool{}
	templates.mu.Unlock()
	return m.Run()
}

// template is the made cluster that a test may copy. A test's second one of a kind is made for it alone: copies have one
// system identifier, and two clusters have two.
func template(t testing.TB, major int, args []string) *original {
	templates.mu.Lock()
	defer templates.mu.Unlock()
	if templates.dir == "" {
		return nil
	}
	kind := fmt.Sprint(major, " ", strings.Join(args, " "))
	use := t.Name() + " " + fmt.Sprint(major)
	if templates.used[use] {
		return nil
	}
	templates.used[use] = true
	if templates.made[kind] == nil {
		templates.made[kind] = &original{}
	}
	return templates.made[kind]
}

// initialize makes the data directory of a new cluster.
func (s *Server) initialize(args []string) {
	s.t.Helper()
	made := template(s.t, s.Major, args)
	if made == nil {
		s.initdb(s.Data, args)
		return
	}
	made.once.Do(func() {
		dir, err := os.MkdirTemp(templates.dir, "")
		if err != nil {
			s.t.Fatal(err)
		}
		give(s.t, dir)
		data := filepath.Join(dir, "data")
		s.initdb(data, args)
		made.data = data
	})
	if made.data == "" {
		s.initdb(s.Data, args)
		return
	}
	Run(s.t, s.Dir, "cp", "-a", made.data, s.Data)
}

func (s *Server) initdb(data string, args []string) {
	s.t.Helper()
	Run(s.t, s.Dir, filepath.Join(s.Bin, "initdb"), append([]string{"-D", data}, args...)...)
}
