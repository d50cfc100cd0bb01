package attack

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// compatVersion is what -update writes. It rises with every release that changes a format; older folders stay.
const compatVersion = "v3"

const compatMost = 1500 << 10

// TestCompat takes the frozen state of every released version with today's program: it recovers it from two custodians'
// kits and the three embassies' folders, and from two of the three; then it goes on with the old home, restores with
// the old reader's key, backs up, and brings embassies from before agreements under one. With -update it first writes the state of this version, if there is none.
func TestCompat(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "testdata", "compat")
	if *update {
		freeze(t, filepath.Join(root, compatVersion))
	}
	versions, err := filepath.Glob(filepath.Join(root, "v*"))
	if err != nil || !slices.Contains(versions, filepath.Join(root, compatVersion)) {
		t.Fatalf("no state of %s: %v; go test ./attack -run Compat -update writes it", compatVersion, err)
	}
	for _, dir := range versions {
		t.Run(filepath.Base(dir), func(t *testing.T) { thaw(t, dir) })
	}
}

// freeze makes a state of two snapshots, for which two people sign and which holds its register by their order, and puts
// it into an archive, with receipts and evidence, and the sums of its source beside it.
func freeze(t *testing.T, dir string) {
	t.Helper()
	archive := filepath.Join(dir, "state.tar.gz")
	if _, err := os.Stat(archive); err == nil {
		t.Logf("%s is there, and is never written again", archive)
		return
	}
	s := foundBy(t, t.TempDir(), "reader", []string{"ana", "jo"}, nil, "lu", "is", "pt")
	tree := s.in("tree")
	smallTree(t, tree)
	write(t, filepath.Join(tree, "names", "ünïcode ✓"), []byte("a name of many bytes\n"))
	if err := os.Link(filepath.Join(tree, "deeds", "1"), filepath.Join(tree, "names", "hard link")); err != nil {
		t.Fatal(err)
	}
	s.add(t, "land", tree, 2)
	for _, file := range []string{"east", "south"} {
		write(t, filepath.Join(tree, "maps", file), noise(4, 9000))
		if r := finish(onHost("old-home", "backup", "land", "--home", s.home)); r.code != 0 {
			t.Fatal(r)
		}
	}
	s.order(t, "hold", "land", "--name", "court-3-19", "--proposer", "ana", "--reason", "Case 3-19")
	eventually(t, "all ledgers are cosigned and audited", func() bool { return chancery("agent", "run", "--once", "--home", s.home).code == 0 })
	must(t, "receipt", "export", "land", "--home", s.home, "--out", s.in("land.receipts"))
	must(t, "evidence", "export", "--home", s.home, "--out", s.in("case.evidence"))
	for _, h := range s.hosts {
		h.stop(syscall.SIGTERM)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.txt"), []byte(manifest(t, tree)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := packUp(archive, s.dir, "tree", "*.log"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(archive); err != nil || info.Size() > compatMost {
		t.Fatalf("%s: %d bytes, %v", archive, info.Size(), err)
	}
}

// thaw brings a frozen state back.
func thaw(t *testing.T, dir string) {
	want := string(readFile(t, filepath.Join(dir, "manifest.txt")))
	s := &state{dir: t.TempDir(), people: []string{"mari", "jaan", "anna"}}
	s.home = s.in("home")
	if err := unpack(filepath.Join(dir, "state.tar.gz"), s.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.in("ana.ssh")); err == nil { // since v3
		s.signers = []string{"ana", "jo"}
		must(t, "receipt", "verify", s.in("land.receipts"), "--charter", filepath.Join(s.home, "charter.yaml"))
		must(t, "evidence", "verify", s.in("case.evidence"), "--charter", filepath.Join(s.home, "charter.yaml"))
	}
	// The state is as old as its release, and its embassies, at other addresses, cannot reach each other.
	moved := append(s.recoverArgs(s.in("recovered")), "--accept-stale")
	for _, n := range []string{"lu", "is", "pt"} {
		h := &host{name: n, country: strings.ToUpper(n), dir: s.in("hosts", n), log: s.in("hosts", n+".log"), listen: ownAddress()}
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.stop(syscall.SIGKILL) })
		s.hosts = append(s.hosts, h)
		moved = append(moved, "--embassy", n+"="+h.url)
	}
	must(t, moved...)
	if got := manifest(t, s.in("recovered", "land")); got != want {
		t.Errorf("recovered:\n%s\nwant:\n%s", got, want)
	}
	s.hosts[0].stop(syscall.SIGKILL)
	moved[2] = s.in("of-two")
	must(t, moved...)
	if got := manifest(t, s.in("of-two", "land")); got != want {
		t.Errorf("recovered from two of three:\n%s\nwant:\n%s", got, want)
	}
	goOn(t, s, want)
}

// goOn works with an old home, whose embassies are now at other addresses.
func goOn(t *testing.T, s *state, want string) {
	t.Helper()
	if err := s.hosts[0].start(); err != nil {
		t.Fatal(err)
	}
	for _, h := range s.hosts {
		s.accredit(t, h.name, "https://"+h.listen, h.fingerprint)
	}
	s.adopt(t)
	must(t, "verify", "--home", s.home, "--data", "--identity", s.reader())
	must(t, "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("restored"))
	if got := manifest(t, s.in("restored")); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
	must(t, "restore", "land@1", "--home", s.home, "--identity", s.reader(), "--to", s.in("first"))
	if got := manifest(t, s.in("first")); got == want || !strings.Contains(want, "maps/south") || strings.Contains(got, "maps/south") {
		t.Errorf("the first snapshot:\n%s", got)
	}
	tree := s.in("tree")
	smallTree(t, tree)
	s.recipient = strings.TrimSpace(must(t, "custodian", "keygen", "--name", "new", "--out", s.in("new.key")))
	s.add(t, "court", tree, 2)
	must(t, "backup", "court", "--home", s.home)
	must(t, "restore", "court", "--home", s.home, "--identity", s.in("new.key"), "--to", s.in("court"))
	sameTrees(t, tree, s.in("court"))
	if len(s.signers) > 0 {
		s.order(t, "lift", "land", "--name", "court-3-19", "--proposer", "jo", "--reason", "Case closed")
		return
	}
	// Embassies from before there were agreements come under one, and go on with all that they hold.
	for _, h := range s.hosts {
		h.stop(syscall.SIGTERM)
		s.agree(t, h)
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(tree, "maps", "west"), noise(5, 9000))
	must(t, "backup", "court", "--home", s.home)
	must(t, "verify", "--home", s.home, "--data")
	must(t, "restore", "land", "--home", s.home, "--identity", s.reader(), "--to", s.in("agreed"))
	if got := manifest(t, s.in("agreed")); got != want {
		t.Errorf("under an agreement:\n%s\nwant:\n%s", got, want)
	}
}

// order has people order something that takes effect at once, and waits until all embassies have done it.
func (s *state) order(t *testing.T, args ...string) {
	t.Helper()
	var proposed struct{ Path string }
	answer(t, &proposed, []int{0}, append(append([]string{"order", "propose"}, args...), "--home", s.home)...)
	for _, n := range s.signers {
		must(t, "order", "sign", proposed.Path, "--home", s.home, "--key", s.in(n+".ssh"))
	}
	must(t, "order", "submit", proposed.Path, "--home", s.home)
	eventually(t, args[0]+" is done", func() bool {
		var list []struct {
			Order     string
			Embassies []struct{ Status string }
		}
		answer(t, &list, []int{0}, "order", "list", "--home", s.home)
		for _, o := range list {
			done := 0
			for _, e := range o.Embassies {
				if e.Status == "done" {
					done++
				}
			}
			if o.Order == args[0] && done == len(s.hosts) {
				return true
			}
		}
		return false
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

// manifest says of a tree, in lines, all that a restore on any machine brings back alike.
func manifest(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		case d.Type().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			content = fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
		}
		fmt.Fprintf(&b, "%q %v %d.%09d %s\n", rel, info.Mode(), info.ModTime().Unix(), info.ModTime().Nanosecond(), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// packUp puts a folder, without one of its folders and some files, into an archive that keeps modes and empty folders.
func packUp(archive, dir, without, files string) (err error) {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == without {
			return fs.SkipDir
		}
		if skip, _ := filepath.Match(files, d.Name()); skip {
			return nil
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a folder", path)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: rel, Mode: int64(info.Mode().Perm()), Typeflag: tar.TypeDir}
		if !d.IsDir() {
			h.Typeflag, h.Size = tar.TypeReg, info.Size()
		}
		if err := w.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
	return errors.Join(err, w.Close(), z.Close())
}

// unpack is the opposite.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(h.Name, fs.FileMode(h.Mode)); err != nil {
				return err
			}
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := root.WriteFile(h.Name, data, fs.FileMode(h.Mode)); err != nil {
			return err
		}
	}
}
