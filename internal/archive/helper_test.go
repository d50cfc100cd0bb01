package archive_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"testing"

	"chancery.dev/chancery/internal/archive"
	"chancery.dev/chancery/internal/filetree"
	"chancery.dev/chancery/internal/register"
	"chancery.dev/chancery/internal/sim"
	"chancery.dev/chancery/internal/snapshot"
)

// check ends a test at an error that the property is not about.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is a state, an agent's folder and a tree.
type bench struct {
	testing.TB
	state *sim.State
	dir   string // of the agent
	tree  string
}

func newBench(t testing.TB, k, n int) *bench {
	t.Helper()
	s, err := sim.NewState(1, k, n)
	check(t, err)
	dir := sim.FastDir(t)
	return &bench{t, s, filepath.Join(dir, "agent"), filepath.Join(dir, "tree")}
}

// grow writes a tree.
func (b *bench) grow(f func(g *sim.Grower)) {
	b.Helper()
	g := &sim.Grower{Root: b.tree}
	g.Folder(".")
	f(g)
	check(b, g.Err)
}

func (b *bench) reg() *register.Register { return b.state.Register(b.dir) }

// source is the tree, with every time taken for settled, so that a test need not wait for it.
func (b *bench) source() archive.Source { return archive.Settled(archive.Source{Path: b.tree}) }

func (b *bench) tryBackup(ctx context.Context) (*archive.BackupReport, error) {
	return archive.Backup(ctx, b.reg(), b.state.Agent, b.source(), nil)
}

func (b *bench) backup() *archive.BackupReport {
	b.Helper()
	rep, err := b.tryBackup(b.Context())
	check(b, err)
	return rep
}

// reader opens the register from an empty folder, as a machine does that has nothing.
func (b *bench) reader() (*archive.Reader, error) {
	b.Helper()
	return archive.OpenReader(b.Context(), b.state.Register(sim.FastDir(b)), b.state.Agent, b.state.Key)
}

func ed25519Key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

var everything = filetree.TargetOptions{Owners: true, SetID: true, Xattrs: true, Devices: true}

// restore writes a snapshot into a new folder.
func (b *bench) restore(name string, opts archive.RestoreOptions) (to string, rep *archive.RestoreReport, err error) {
	b.Helper()
	r, err := b.reader()
	if err != nil {
		return "", nil, err
	}
	defer r.Close()
	head, err := r.Find(name)
	if err != nil {
		return "", nil, err
	}
	to = filepath.Join(sim.FastDir(b), "to")
	opts.Target = everything
	rep, err = r.Restore(b.Context(), head, to, opts, nil)
	return to, rep, err
}

// comesBack restores a snapshot on an empty machine and compares it with the tree.
func (b *bench) comesBack(name, tree string) *archive.RestoreReport {
	b.Helper()
	to, rep, err := b.restore(name, archive.RestoreOptions{})
	check(b, err)
	b.same(tree, to)
	return rep
}

func (b *bench) same(want, got string) {
	b.Helper()
	diff, err := filetree.Compare(b.Context(), want, got, filetree.CompareOptions{Owners: true, SetID: true, Max: 20})
	check(b, err)
	for _, d := range diff {
		b.Errorf("%s: %s", d.Path, d.What)
	}
}

// listed is what a snapshot holds, path by path.
func (b *bench) listed(r *archive.Reader, name string) map[string]string {
	b.Helper()
	head, err := r.Find(name)
	check(b, err)
	out := map[string]string{}
	check(b, r.Walk(b.Context(), head, func(path string, e *snapshot.Entry) error {
		out[path] = fmt.Sprintf("%v %o %d", e.Kind, e.Mode, e.Size)
		return nil
	}))
	return out
}
